"""Public figures on step times, loss by the clock and shapes, as this code gets them.

python -m tests.benchmarks.time_and_shape            about 10 CPU seconds
python -m tests.benchmarks.time_and_shape --machine  calibrates this machine as well, 2 CPU minutes
"""

import sys
import tempfile
from pathlib import Path

import numpy as np

from fitting import Objective, get_law
from fitting.costs import FEATURES, count_step, fit_step_time
from fitting.costs.steptime import left_out
from fitting.engine import Engine
from tests.fitting import data, timings
from tests.fitting.laws.test_width_depth import gemstones

SETS = (("flops",), ("copies",), ("flops", "copies"), FEATURES)


def published_counts() -> None:
    table = data.rows("time/gemstones_step_time.csv")
    y, gpus = data.column(table, "gpu_s"), 8 * data.column(table, "nodes")
    tables = {
        "flops": data.column(table, "flops"),
        "copies": data.column(table, "mem_elems"),
        "layers_gpus": data.column(table, "L") * gpus,
        "params_gpus": data.column(table, "N") * gpus,
    }
    for names in SETS:
        miss = np.abs(np.expm1(-left_out(tables, names, y, np.arange(len(y)))))
        say("Gemstones, published counts", names, miss)


def our_counts() -> None:
    for attention in ("flash", "unfused"):
        for names in SETS:
            found = fit_step_time(timings.gemstones(attention), features=names)
            say(f"Gemstones, our counts, {attention}", names, np.abs(np.expm1(-found.residuals)))
    for section in ("H100 80GB BF16 (Large", "A100 40GB", "A100 80GB"):
        rows = timings.llm_foundry(section)
        for names in (("flops",), ("flops", "copies"), ("flops", "copies", "weights"), FEATURES):
            found = fit_step_time(rows, features=names)
            miss = np.abs(np.expm1(-found.residuals))
            say(f"llm-foundry {section}, {len(rows)} rows", names, miss)


def loss_by_the_clock() -> None:
    runs = gemstones()
    measured = {m.shape.label: m for m in timings.gemstones()}
    width, depth = runs.inputs["width"], runs.inputs["depth"]
    names = [f"{w:.0f}x{d:.0f}" for w, d in zip(width, depth, strict=True)]
    ratio = np.ones(len(names))
    for label, one in measured.items():
        rest = fit_step_time([m for m in measured.values() if m.shape.label != label])
        predicted = rest.gpu_seconds(count_step(one.shape, one.setup))
        ratio[[n == label for n in names]] = one.seconds * one.setup.gpus / predicted
    out = np.arange(runs.group.max() + 1)[:, None] == runs.group[None, :]
    for name in ("chinchilla", "width_depth"):
        law = get_law(name)
        engine = Engine.of(law, runs, Objective())
        each = engine.values(engine.warm(engine.cold().theta, (~out).astype(float)).theta)
        for how, tokens in (("time", runs.inputs["D"] * ratio), ("true tokens", runs.inputs["D"])):
            loss = np.asarray(law.evaluate({**runs.inputs, "D": tokens}, each))
            miss = (np.abs(loss / runs.loss - 1) * out).sum(axis=1) / out.sum(axis=1)
            say(f"loss of a shape left out, by {how}", (name,), miss)


def this_machine() -> None:
    from app.services import calibrating, corpora

    with tempfile.TemporaryDirectory() as folder:
        corpora.build("text", [Path(__file__).parents[2] / "fitting"], folder)
        done = calibrating.calibrate(calibrating.Plan(seconds=2.0), Path(folder) / "text")
    say(done.step_time.hardware, FEATURES, np.abs(np.expm1(-done.step_time.residuals)))
    print(done.step_time.errors)


def say(what: str, names: tuple[str, ...], miss: np.ndarray) -> None:
    print(f"{what:48s} {'+'.join(names):42s} {miss.mean():7.2%} max {miss.max():7.2%}", flush=True)


if __name__ == "__main__":
    published_counts()
    our_counts()
    loss_by_the_clock()
    if "--machine" in sys.argv:
        this_machine()
