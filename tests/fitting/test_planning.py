"""Plans of shape and time: against the closed form, by hand, and by what must hold."""

import json
from dataclasses import replace

import numpy as np
import pytest

from fitting import AllocationProblem, Fit, FittingError, Objective, allocate, get_law
from fitting import fit as fit_law
from fitting.allocate_around import sensitivity, what_more_buys
from fitting.costs import Setup, Shape, StepTime, get_gpu, prior_step_time
from fitting.fit import Data
from fitting.intervals import Calibration
from fitting.laws.kaplan_steps import critical_batch
from fitting.planning import (
    Budget,
    Inference,
    ShapeProblem,
    allocate_shape,
    deepseek,
    run_config,
    serial_view,
    step_law,
)
from fitting.simulate import simulate_runs
from tests.fitting import timings

FAMILY = Shape(512, 8, 1408, 32000, 8, 1024, head_dim=64)
SETUP = Setup(2**19, 8)


def exact_fit(name: str, params: dict[str, float], flops: str = "6ND") -> Fit:
    """A fit with these parameters and no doubt about them."""
    law = get_law(name)
    spans = {i.name: i.typical for i in law.inputs}
    return Fit(
        law=law, status="converged", message="given", values=law.values(params),
        draws=np.zeros((0, len(law.params))), objective=Objective(), objective_value=0.0,
        level=0.9, warnings=(), certificate={}, calibration=Calibration(*[0.0] * 7, 0, 0.0),
        data=Data(10, 10, spans, (1.0, 5.0), (1e18, 1e22), "", {}), n_convention="total",
        flops_convention=flops, loss_unit="nats/token", seed=0, interval_method="none", versions={},
    )  # fmt: skip


def machine(**rates: float) -> StepTime:
    """A machine with known rates that may be asked for anything."""
    zero = dict.fromkeys(("flops", "copies", "layers_gpus", "params_gpus"), 0.0)
    return StepTime(
        "made up", tuple(zero), zero | rates, np.zeros(0), 0.0, None, 0, source="made up",
        family=FAMILY, setup=SETUP,
    )  # fmt: skip


CHINCHILLA = exact_fit("chinchilla", dict(get_law("chinchilla").published.params))
SHAPES = {"widths": range(256, 2561, 64), "depths": range(2, 49)}


def test_flops_agree_with_the_closed_form() -> None:
    """A budget in FLOPs: N*, D* and loss of Chinchilla's closed form, as near as shapes allow."""
    found = allocate_shape(
        ShapeProblem(CHINCHILLA, machine(flops=1e-14), Budget(flops=1e20), **SHAPES)
    )
    exact = allocate(AllocationProblem(CHINCHILLA, 1e20))
    assert found.optimal["N"] == pytest.approx(exact.optimal["N"], rel=0.02)
    assert found.optimal["D"] == pytest.approx(exact.optimal["D"], rel=0.02)
    assert found.optimal["loss"] == pytest.approx(exact.optimal["loss"], rel=1e-5)
    low, high = found.valley["N"]
    assert low == pytest.approx(exact.valley["N"][0], rel=0.05)
    assert high == pytest.approx(exact.valley["N"][1], rel=0.05)
    assert found.optimal["limited_by"] == "flops"


def test_time_is_what_is_paid_for() -> None:
    """8 GPUs for 10 hours at .5 s a step of 2^19 tokens: 72,000 steps of whatever shape."""
    flat = machine(params_gpus=0.5 / FAMILY.parameters())
    one = {"widths": [512], "depths": [8]}
    found = allocate_shape(ShapeProblem(CHINCHILLA, flat, Budget(hours=10), **one)).optimal
    assert found["steps"] == pytest.approx(72_000)
    assert found["D"] == pytest.approx(72_000 * 2**19)
    assert found["gpu_hours"] == pytest.approx(80)
    assert found["step_seconds"] == pytest.approx(0.5)
    money = Budget(dollars=160, dollars_per_gpu_hour=2)
    same = allocate_shape(ShapeProblem(CHINCHILLA, flat, money, **one)).optimal
    assert same["D"] == pytest.approx(found["D"]) and same["dollars"] == pytest.approx(160)
    hours = allocate_shape(ShapeProblem(CHINCHILLA, flat, Budget(gpu_hours=80), **one)).optimal
    assert hours["loss"] == found["loss"]


def test_the_tighter_of_two_budgets_holds() -> None:
    flat = machine(params_gpus=0.5 / FAMILY.parameters())
    one = {"widths": [512], "depths": [8]}
    for hours, dollars, binding in ((10, 400, "hours"), (40, 160, "dollars")):
        budget = Budget(hours=hours, dollars=dollars, dollars_per_gpu_hour=2)
        found = allocate_shape(ShapeProblem(CHINCHILLA, flat, budget, **one)).optimal
        assert found["limited_by"] == binding
        assert found["gpu_hours"] == pytest.approx(80)


def test_serving_is_paid_from_the_same_budget() -> None:
    """In FLOPs: the closed form with inference (Sardana et al.), by the other allocator."""
    served = Inference(tokens=1e11)
    found = allocate_shape(
        ShapeProblem(CHINCHILLA, machine(flops=1e-14), Budget(flops=1e20), inference=served,
                     **SHAPES)
    ).optimal  # fmt: skip
    other = allocate(AllocationProblem(CHINCHILLA, 1e20, inference_tokens=1e11)).optimal
    assert found["N"] == pytest.approx(other["N"], rel=0.03)
    assert found["loss"] == pytest.approx(other["loss"], rel=1e-4)
    without = allocate(AllocationProblem(CHINCHILLA, 1e20)).optimal
    assert found["N"] < 0.6 * without["N"]


def test_every_constraint_holds() -> None:
    base = ShapeProblem(CHINCHILLA, machine(flops=1e-14), Budget(flops=1e20), **SHAPES)
    capped = allocate_shape(replace(base, max_tokens=1e10))
    assert capped.optimal["D"] <= 1e10 and "tokens_cap" in {w["code"] for w in capped.warnings}
    over = allocate_shape(replace(base, tokens_per_parameter=(100.0, np.inf))).optimal
    assert over["tokens_per_parameter"] >= 100
    listed = allocate_shape(replace(base, sizes=[2e8])).optimal
    assert listed["N"] == pytest.approx(2e8, rel=0.03)
    quick = Inference(decode_tokens_per_second=5000, memory_bandwidth=3.35e12)
    assert allocate_shape(replace(base, inference=quick)).optimal["N"] <= 3.35e12 / 2 / 5000
    with pytest.raises(FittingError, match="None of"):
        allocate_shape(replace(base, tokens_per_parameter=(1e9, np.inf)))


def test_repeats_are_worth_less() -> None:
    """Distinct tokens run out: the data-constrained law is asked itself; any other law counts the
    repeats as Muennighoff et al. do; with their own law the two agree."""
    law = get_law("data_constrained")
    p = dict(law.published.params)
    constrained = exact_fit("data_constrained", p)
    plain = exact_fit("chinchilla", {k: p[k] for k in ("E", "A", "B", "alpha", "beta")})
    problem = ShapeProblem(
        constrained, machine(flops=1e-14), Budget(flops=1e20), unique_tokens=1e9, **SHAPES
    )
    asked = allocate_shape(problem)
    assert "repeats" in {w["code"] for w in asked.warnings}
    borrowed = allocate_shape(replace(problem, fit=plain))
    assert "repeats_by_another_law" in {w["code"] for w in borrowed.warnings}
    free = allocate_shape(replace(problem, fit=plain, unique_tokens=None))
    assert free.optimal["loss"] < borrowed.optimal["loss"] <= asked.optimal["loss"]
    direct = allocate(AllocationProblem(constrained, 1e20, fixed={"U": 1e9})).optimal
    assert asked.optimal["loss"] == pytest.approx(direct["loss"], rel=1e-4)


def test_a_larger_batch_costs_tokens() -> None:
    """Kaplan's eq. 5.5 by hand, for one shape and two batches."""
    problem = ShapeProblem(
        CHINCHILLA, machine(flops=1e-14, params_gpus=1e-9), Budget(gpu_hours=100),
        batches=[2**18, 2**23], widths=[512], depths=[8],
    )  # fmt: skip
    both = allocate_shape(problem)
    assert both.optimal["batch_tokens"] == 2**18
    large = allocate_shape(replace(problem, batches=[2**23]))
    offered = allocate_shape(replace(problem, batches=[2**18]))
    assert both.optimal["loss"] == pytest.approx(offered.optimal["loss"])
    tokens, n = large.optimal["D"], large.optimal["N"]
    plain = float(CHINCHILLA.law.loss({"N": [n], "D": [tokens]}, CHINCHILLA.params)[0])
    critical = critical_batch(plain)
    worth = (1 + 2**18 / critical) / (1 + 2**23 / critical)
    by_hand = CHINCHILLA.law.loss({"N": [n], "D": [tokens * worth]}, CHINCHILLA.params)[0]
    assert by_hand > both.optimal["loss"]
    assert worth < 0.5


def test_gpus_may_be_chosen() -> None:
    """A deadline wants GPUs, dollars do not care, a fixed cost a GPU wants few."""
    base = ShapeProblem(
        CHINCHILLA, machine(flops=1e-14), Budget(hours=24), gpus=[8, 16, 32],
        widths=range(512, 2561, 256), depths=range(4, 49, 4),
    )  # fmt: skip
    assert allocate_shape(base).optimal["gpus"] == 32
    slow = replace(
        base, step_time=machine(flops=1e-14, params_gpus=1e-8), budget=Budget(gpu_hours=500)
    )
    assert allocate_shape(slow).optimal["gpus"] == 8


def test_what_lies_around() -> None:
    """Intervals hold the optimum, more money buys less loss, and the document is plain JSON."""
    truth = dict(get_law("chinchilla").published.params)
    runs = simulate_runs(get_law("chinchilla"), truth, points=60, noise=3e-3, seed=2)
    found = fit_law(get_law("chinchilla"), runs, draws=120)
    time = prior_step_time(get_gpu("h100-sxm"))
    answer = allocate_shape(
        ShapeProblem(
            found, time, Budget(dollars=20_000, dollars_per_gpu_hour=2.5), family=FAMILY,
            setup=SETUP, widths=range(512, 4097, 256), depths=range(4, 41, 2), beside=found,
        )
    )  # fmt: skip
    for name in ("N", "D", "width", "depth", "loss", "gpu_hours", "dollars", "hours"):
        low, high = answer.intervals[name]
        assert low <= answer.optimal[name] <= high, name
    assert answer.optimal["lower"] < answer.optimal["loss"] < answer.optimal["upper"]
    gains = [row["gain"] for row in answer.more[:3]]
    assert 0 < gains[0] < gains[1] < gains[2]
    assert all(row["gain_interval"][0] <= row["gain"] * 1.5 for row in answer.more)
    said = {row["assumption"] for row in answer.sensitivity}
    assert {"step time", "price", "alpha", "beta"} <= said
    slower = [r for r in answer.sensitivity if r["assumption"] == "step time"]
    assert slower[0]["loss_change"] < 0 < slower[1]["loss_change"]
    assert {"shape_blind", "not_calibrated"} <= {w["code"] for w in answer.warnings}
    assert answer.beside is not None and answer.beside["N"] == answer.optimal["N"]
    document = json.loads(json.dumps(answer.to_dict()))
    assert document["valley"]["smallest"]["loss"] <= 1.001 * document["optimal"]["loss"]
    assert Budget.from_dict(document["budget"]) == answer.budget


def test_published_settings() -> None:
    """Step Law and DeepSeek at the sizes that their papers speak of."""
    assert step_law(1e9, 1e11)["lr"] == pytest.approx(1.79 * 1e9**-0.713 * 1e11**0.307)
    assert step_law(1e9, 1e11)["batch_tokens"] == pytest.approx(1.11e6, rel=0.01)
    seven = deepseek(2 * 4.3e10 * 2e12)  # DeepSeek 7B: lr 4.2e-4, batch 2304 sequences of 4096
    assert seven["lr"] == pytest.approx(4.2e-4, rel=0.15)
    assert seven["batch_tokens"] == pytest.approx(2304 * 4096, rel=0.25)


def test_the_configuration_runs(tmp_path) -> None:
    """The trainer's own reader takes it."""
    pytest.importorskip("torch")
    from workers.proxy.config import parse_config

    shape = Shape(64, 2, 176, 256, 4, 128, head_dim=16)
    made = run_config(shape, Setup(1000.0), 1e6, train=[{"name": "a", "path": "/a"}])
    config = parse_config(json.loads(json.dumps(made)))
    assert config.batch_tokens == 1024 and config.schedule.steps == 976
    assert config.optimizer.lr == pytest.approx(step_law(shape.parameters("blocks"), 1e6)["lr"])
    with pytest.raises(FittingError, match="builds no geglu"):
        run_config(timings.GEMSTONE, Setup(1000.0), 1e6)


def test_the_serial_view() -> None:
    """A fixed time a step: larger batches always help; S_min and B_crit by hand."""
    flat = machine(layers_gpus=1.0 / 64)  # a second a step on 8 GPUs, for 8 layers
    rows = serial_view(flat, FAMILY, SETUP, 24.0, [2**k for k in (16, 18, 20, 22, 24)])
    losses = [row.loss for row in rows]
    assert losses == sorted(losses, reverse=True)
    assert rows[0].steps == pytest.approx(24 * 3600 * 8)
    law = get_law("kaplan_steps")
    for row in rows:
        smin = row.steps / (1 + row.critical_batch / row.batch_tokens)
        assert smin / row.steps == pytest.approx(row.efficiency)
        again = law.formula(FAMILY.parameters("blocks"), smin, **law.published.params)
        assert row.loss == pytest.approx(again, rel=1e-9)
    with pytest.raises(FittingError, match="needs a fit of kaplan_steps"):
        serial_view(flat, FAMILY, SETUP, 24.0, [1e6], fit=CHINCHILLA)


@pytest.mark.parametrize(
    "wrong",
    [{}, {"flops": -1.0}, {"dollars": 5.0}, {"hours": float("nan")}],
)
def test_an_impossible_budget_is_refused(wrong: dict) -> None:
    with pytest.raises(FittingError):
        Budget(**wrong)


def test_an_impossible_problem_is_refused() -> None:
    good = ShapeProblem(CHINCHILLA, machine(flops=1e-14), Budget(gpu_hours=10))
    with pytest.raises(FittingError, match="multiple"):
        allocate_shape(replace(good, widths=[100], depths=[2]))
    with pytest.raises(FittingError, match="reaches while serving"):
        replace(good, inference=Inference(tokens=1e9))
    with pytest.raises(FittingError, match="distinct tokens"):
        law = get_law("data_constrained")
        replace(good, fit=exact_fit("data_constrained", dict(law.published.params)))
    with pytest.raises(FittingError, match="no plan"):
        moe = next(x for x in ("moe_granularity", "precision") if get_law(x).published)
        replace(good, fit=exact_fit(moe, dict(get_law(moe).published.params)))


def test_over_training_and_speed_by_hand() -> None:
    """N and D alone: 6 N D = 1e20 at D / N = 100 is N = sqrt(1e20 / 600); a model for 10,000 tokens
    a second on 3.35 TB/s in two bytes has 1.675e8 parameters at most."""
    over = allocate(AllocationProblem(CHINCHILLA, 1e20, tokens_per_parameter=(100, np.inf)))
    assert over.optimal["N"] == pytest.approx((1e20 / 600) ** 0.5, rel=1e-4)
    assert "limit_holds" in {w["code"] for w in over.warnings}
    under = allocate(AllocationProblem(CHINCHILLA, 1e20, tokens_per_parameter=(0.0, 5.0)))
    assert under.optimal["tokens_per_parameter"] == pytest.approx(5, rel=1e-4)
    most = Inference(decode_tokens_per_second=10_000, memory_bandwidth=3.35e12).largest_model()
    assert most == pytest.approx(1.675e8)
    small = allocate(AllocationProblem(CHINCHILLA, 1e20, max_parameters=most)).optimal
    assert small["N"] == pytest.approx(most, rel=1e-4)
    dear = AllocationProblem(CHINCHILLA, 1e20, inference_tokens=1e10, inference_cost=10)
    same = AllocationProblem(CHINCHILLA, 1e20, inference_tokens=1e11)
    assert allocate(dear).optimal["N"] == pytest.approx(allocate(same).optimal["N"])


def test_around_an_allocation_of_flops() -> None:
    """More FLOPs buy what the law says: for the closed form, loss - E falls as C^-ab/(a+b)."""
    problem = AllocationProblem(CHINCHILLA, 1e21)
    (row,) = what_more_buys(problem, {"double": 1e21})
    p = CHINCHILLA.params
    power = p["alpha"] * p["beta"] / (p["alpha"] + p["beta"])
    now = allocate(problem).optimal["loss"]
    assert row["gain"] == pytest.approx((now - p["E"]) * (1 - 2**-power), rel=1e-6)
    rows = sensitivity(replace(problem, max_tokens=5e9))
    changes = {(r["assumption"], r["change"]): r["loss_change"] for r in rows}
    assert changes["FLOPs that the budget buys", "x0.8"] > 0
    assert changes["tokens that there are", "x0.5"] > 0 > changes["tokens that there are", "x2"]
