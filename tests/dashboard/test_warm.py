import subprocess
import sys

CHILD = """
import sys
import numpy as np
import app.main
from app.dashboard import figures, render, warm_up

warm_up()
before = set(sys.modules)
at = np.linspace(1.0, 2.0)
curve = figures.Curve("", at, at, at)
more = {
    "ahead": figures.Ahead(figures.Line(at, at, at, at), (2.0, 1.0, 0.5, 1.5)),
    "spikes": (at, at),
}
figure = figures.run(curve, [figures.Evaluations("", at, at)], (at, at), **more)
render.shown(figure, sketched=True)
print(*sorted(name for name in set(sys.modules) - before))
"""


def test_the_first_visitor_waits_for_no_import() -> None:
    done = subprocess.run([sys.executable, "-c", CHILD], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
