"""What the first visitor would wait for otherwise."""

import numpy as np

from app.dashboard import figures, render


def warm_up() -> None:
    """Compiles the templates and draws a curve: plotly imports a class when it is first used, which
    takes longer than to draw a curve of a million points."""
    for name in render.ENVIRONMENT.list_templates():
        render.ENVIRONMENT.get_template(name)
    at = np.array([1.0, 2.0])
    curve = figures.Curve("", at, at, at)
    evaluations = [figures.Evaluations("", at, at)]
    ahead = figures.Ahead(figures.Line(at, at, at, at), (2.0, 1.0, 1.0, 1.0))
    render.shown(figures.run(curve, evaluations, (at, at), ahead=ahead), sketched=True)
