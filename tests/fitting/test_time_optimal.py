"""Loss from a shape and GPU-hours on the Gemstones' real runs, shapes left out; the best shape."""

import numpy as np
import pytest

from fitting import Objective, get_law
from fitting.costs import Setup, fit_step_time
from fitting.costs.ops import count_step
from fitting.costs.steptime import FEATURES, solve_rates
from fitting.engine import Engine
from fitting.planning import Budget, ShapeProblem, allocate_shape
from tests.fitting import data, timings
from tests.fitting.laws.test_width_depth import gemstones
from tests.fitting.test_planning import exact_fit

T, V, S, GPUS = timings.STEP_TOKENS, 50304, 2048, 64


@pytest.fixture(scope="module")
def laws() -> dict[str, dict[str, float]]:
    """Both laws on all shapes from 10B tokens on."""
    runs = gemstones()
    return {
        name: dict(
            zip(law.param_names, Engine.of(law, runs, Objective()).cold().values, strict=True)
        )
        for name, law in ((n, get_law(n)) for n in ("width_depth", "chinchilla"))
    }


def test_loss_from_shape_and_gpu_hours() -> None:
    """A shape is left out of the law *and* of the step times; its loss is then predicted from
    width, depth and the GPU-hours it took: .97% by Chinchilla's form, .45% by width and depth."""
    runs = gemstones()
    measured = {m.shape.label: m for m in timings.gemstones()}
    names = [f"{w:.0f}x{d:.0f}" for w, d in zip(runs.inputs["width"], runs.inputs["depth"],
                                                 strict=True)]  # fmt: skip
    ratio = np.ones(len(names))  # predicted tokens / true tokens in the time that was taken
    for label in dict.fromkeys(names):
        rest = fit_step_time([m for m in measured.values() if m.shape.label != label])
        one = measured[label]
        predicted = rest.gpu_seconds(count_step(one.shape, one.setup))
        ratio[[n == label for n in names]] = one.seconds * one.setup.gpus / predicted
    assert 0.8 < ratio.min() < 0.95 and 1.05 < ratio.max() < 1.3  # the clock is not given away
    inputs = {**runs.inputs, "D": runs.inputs["D"] * ratio}
    out = np.arange(runs.group.max() + 1)[:, None] == runs.group[None, :]
    for name, line in (("chinchilla", 0.0100), ("width_depth", 0.0050)):
        law = get_law(name)
        engine = Engine.of(law, runs, Objective())
        each = engine.values(engine.warm(engine.cold().theta, (~out).astype(float)).theta)
        miss = np.abs(np.asarray(law.evaluate(inputs, each)) / runs.loss - 1)
        left_out = (miss * out).sum(axis=1) / out.sum(axis=1)
        assert left_out.mean() <= line, name


def published_counts(width: np.ndarray, depth: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """N and the four features as the published table of the Gemstones counts them."""
    N = 15 * depth * width**2 + 2 * V * width
    flops = T * (6 * N + 6 * depth * width * S)
    copies = T * (57 * depth * width + 3 * width + 3 * 50432)
    return N, [flops, copies, depth * GPUS, N * GPUS]


def test_time_optimal_shape_by_the_published_counts(laws: dict[str, dict[str, float]]) -> None:
    """64 GPUs, widths that were measured (up to 3072): width/depth falls from 173 at 100 GPU-hours
    to 81 at 3000 (here 167 and 84). Between them the valley is flat: at 1000 hours the published
    97 is as good as our 144 within .1%."""
    table = data.rows("time/gemstones_step_time.csv")
    w, L = data.column(table, "w"), data.column(table, "L")
    N, features = published_counts(w, L)
    np.testing.assert_allclose(N, data.column(table, "N"), rtol=0.015)  # odd heads
    np.testing.assert_allclose(features[0], data.column(table, "flops"), rtol=0.015)
    np.testing.assert_allclose(features[1], data.column(table, "mem_elems"), rtol=2e-3)
    gpus = 8 * data.column(table, "nodes")
    tables = dict(zip(FEATURES, [*features[:2], L * gpus, N * gpus], strict=True))
    rates = solve_rates(tables, FEATURES, data.column(table, "gpu_s"))
    assert rates == pytest.approx([4.05e-15, 2.34e-11, 3.65e-3, 5.98e-10], rel=0.02)

    width, depth = np.geomspace(256, 3072, 300)[:, None], np.geomspace(2, 120, 400)[None, :]
    N, features = published_counts(width, depth)
    seconds = sum(rate * f for rate, f in zip(rates, features, strict=True))
    ratio = np.broadcast_to(width / depth, N.shape)
    law = get_law("width_depth")
    best, near, by_flops = {}, {}, {}
    for hours in (100, 300, 1000, 3000):
        D = hours * 3600 / seconds * T
        loss = law.formula(width, depth, N, D, **laws["width_depth"])
        at = np.unravel_index(loss.argmin(), loss.shape)
        best[hours] = ratio[at]
        near[hours] = ratio[loss <= loss.min() * 1.001]
        spent = features[0][at] * D[at]
        equal = law.formula(width, depth, N, spent / features[0], **laws["width_depth"])
        by_flops[hours] = ratio[np.unravel_index(equal.argmin(), equal.shape)]
    assert best[100] == pytest.approx(173, rel=0.15)
    assert best[300] == pytest.approx(141, rel=0.15)
    assert best[3000] == pytest.approx(81, rel=0.15)
    for hours, published in ((100, 173), (300, 141), (1000, 97), (3000, 81)):
        assert near[hours].min() <= published <= near[hours].max(), hours
    # Wider than what equal FLOPs would want, by 1.5 to 6 times.
    assert all(1.5 < best[h] / by_flops[h] < 6 for h in best)


def test_the_product_s_own_answer(laws: dict[str, dict[str, float]]) -> None:
    """By our counts and real shapes: between 90 and 200, wider than by FLOPs, and Chinchilla's form
    walks to the fewest layers that it is offered."""
    time = fit_step_time(timings.gemstones())
    grid = {"widths": range(256, 4097, 256), "depths": range(3, 61)}
    setup = Setup(T, GPUS)
    fit = exact_fit("width_depth", laws["width_depth"], "exact")
    blind = exact_fit("chinchilla", laws["chinchilla"], "exact")
    for hours in (100, 1000):
        problem = ShapeProblem(
            fit, time, Budget(gpu_hours=hours), timings.GEMSTONE, setup, beside=blind, **grid
        )
        found = allocate_shape(problem)
        assert 90 < found.optimal["width_over_depth"] < 200
        assert found.beside is not None
        assert found.beside["depth"] == 3 or found.beside["width"] == 4096  # a corner
        assert found.beside["loss_by_the_fit"] > 1.015 * found.optimal["loss"]
        spent = Budget(flops=found.optimal["flops"])
        by_flops = allocate_shape(
            ShapeProblem(fit, time, spent, timings.GEMSTONE, setup, **grid)
        ).optimal
        assert 1.5 < found.optimal["width_over_depth"] / by_flops["width_over_depth"] < 5
    walked = allocate_shape(
        ShapeProblem(blind, time, Budget(gpu_hours=1000), timings.GEMSTONE, setup, **grid)
    )
    said = {w["code"]: w["message"] for w in walked.warnings}
    assert "edge of the grid" in said["shape_blind"]
