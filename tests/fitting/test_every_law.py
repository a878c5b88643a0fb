"""What every law promises. A new law in fitting/laws/ is tested here by being there."""

import inspect
import json
from collections.abc import Callable

import numpy as np
import pytest

from fitting import LAWS, Fit, Law, Objective, fit
from fitting.exponential import ExponentialProblem
from fitting.generic import GenericProblem
from fitting.simulate import simulate_runs


def laws_that(has: Callable[[Law], bool]) -> pytest.MarkDecorator:
    some = {name: law for name, law in LAWS.items() if has(law)}
    return pytest.mark.parametrize("law", some.values(), ids=some.keys())


laws = laws_that(lambda law: True)


def truth(law: Law) -> dict[str, float]:
    """The published constants, or the middle of the starts."""
    if law.published is not None:
        return dict(law.published.params)
    middle = {}
    for p in law.params:
        low, high = min(p.starts), max(p.starts)
        middle[p.name] = float(np.sqrt(low * high)) if p.link.log else 0.5 * (low + high)
        for i in law.inputs:
            if i.name == p.of:
                middle[p.name] *= float(np.sqrt(i.typical[0] * i.typical[1]))
    return middle


def some_points(law: Law, n: int = 40) -> dict[str, np.ndarray]:
    return dict(simulate_runs(law, truth(law), points=n).inputs)


@laws
def test_is_described(law: Law) -> None:
    kinds = inspect.signature(law.formula).parameters.values()
    assert [k.name for k in kinds if k.kind is k.KEYWORD_ONLY] == [p.name for p in law.params]
    assert [k.name for k in kinds if k.kind is not k.KEYWORD_ONLY] == [i.name for i in law.inputs]
    for text in (
        law.name,
        law.title,
        law.latex,
        law.source,
        inspect.getmodule(law.formula).__doc__,
    ):
        assert text and text.strip()
    for i in law.inputs:
        assert i.unit and i.about and i.typical[0] < i.typical[1]
    for p in law.params:
        assert p.about and p.starts
        assert all(p.link.lower <= s <= p.link.upper for s in p.starts)


@laws_that(lambda law: law.published is not None)
def test_reproduces_its_published_number(law: Law) -> None:
    assert law.published is not None
    at = {k: np.array([v]) for k, v in law.published.at.items()}
    got = law.loss(at, law.published.params)[0]
    assert got == pytest.approx(law.published.loss, rel=law.published.rtol)


@laws
def test_broadcasts(law: Law) -> None:
    points = some_points(law, 7)
    values = law.values(truth(law)) * np.linspace(0.98, 1.02, 5)[:, None]
    batch = np.broadcast_to(law.evaluate(points, values), (5, 7))
    for row, one in zip(batch, values, strict=True):
        np.testing.assert_allclose(row, np.broadcast_to(law.evaluate(points, one), 7), rtol=1e-13)
    assert (batch > 0).all()


@laws_that(lambda law: law.jacobian is None)
def test_derivatives_agree_with_the_complex_step(law: Law) -> None:
    points = some_points(law)
    values = law.values(truth(law))
    problem = GenericProblem(law, points, np.ones(40), np.inf, raw=True)
    _, jacobian = problem.model(law.to_line(values)[None])
    for j, p in enumerate(law.params):
        h = 1e-30
        moved = values.astype(complex)
        moved[j] += 1j * h * (values[j] if p.link.log else 1.0)
        exact = np.broadcast_to(np.imag(law.evaluate(points, moved)) / h, 40)
        np.testing.assert_allclose(jacobian[0, j], exact, rtol=1e-10, atol=1e-280, err_msg=p.name)


@laws
def test_the_hessian_is_the_slope_of_the_gradient(law: Law) -> None:
    """With a Huber width below the noise, second derivatives of the law are most of it."""
    runs = simulate_runs(law, truth(law), points=40, noise=1e-2, seed=9)
    inputs = {k: runs.inputs[k] for k in law.input_names}
    problem = GenericProblem(law, inputs, np.array(runs.loss), 1e-4)
    theta = law.to_line(law.values(truth(law)))
    hessian = problem.evaluate(theta[None], None)[2][0]
    slopes = np.empty_like(hessian)
    for j in range(len(theta)):
        step = 1e-6 * max(1.0, abs(theta[j])) * np.eye(len(theta))[j]
        up, down = (problem.evaluate((theta + s)[None], None)[1][0] for s in (step, -step))
        slopes[j] = (up - down) / (2 * step[j])
    size = np.sqrt(np.diag(problem.metric(theta[None], None)[0]))
    scale = np.outer(size, size)
    # a point that crosses the edge of the zone within the step makes a difference of its own
    assert np.median(np.abs(slopes - hessian) / scale) < 1e-3


@laws_that(lambda law: law.exponential is not None)
@pytest.mark.parametrize(
    "objective", [Objective(), Objective("squares-raw"), Objective("huber-raw")]
)
def test_a_floor_and_an_exponential_are_the_formula(law: Law, objective: Objective) -> None:
    """Value, slopes and curvature, against dual numbers of the formula."""
    runs = simulate_runs(law, truth(law), points=60, noise=1e-2, seed=9)
    inputs = {k: runs.inputs[k] for k in law.input_names}
    plain = GenericProblem(law, inputs, np.array(runs.loss), objective.solver_delta, objective.raw)
    short = ExponentialProblem(law, inputs, plain.loss, plain.delta, plain.raw)
    rng = np.random.default_rng(3)
    theta = law.to_line(law.values(truth(law))) + 0.01 * rng.standard_normal((5, len(law.params)))
    weights = rng.integers(0, 4, (5, 60)).astype(float)
    for theirs, ours in (
        (plain.evaluate(theta, weights), short.evaluate(theta, weights)),
        ((plain.metric(theta, weights),), (short.metric(theta, weights),)),
        (plain.gradient(theta, weights), short.gradient(theta, weights)),
    ):
        for a, b in zip(theirs, ours, strict=True):
            np.testing.assert_allclose(b, a, rtol=1e-9, atol=1e-11 * np.abs(a).max())


@laws_that(lambda law: law.jacobian is not None)
def test_given_jacobian_agrees_with_differences(law: Law) -> None:
    points = some_points(law)
    values = law.values(truth(law))
    problem = GenericProblem(law, points, np.ones(40), np.inf, raw=True)
    theta = law.to_line(values)[None]
    _, jacobian = problem.model(theta)
    for j in range(len(values)):
        step = np.zeros_like(theta)
        step[0, j] = 1e-6 * max(1.0, abs(theta[0, j]))
        up, down = problem.model(theta + step)[0], problem.model(theta - step)[0]
        slope = (up - down)[0] / (2 * step[0, j])
        np.testing.assert_allclose(jacobian[0, j], slope, rtol=1e-5, atol=1e-8)


@laws
def test_recovers_a_known_truth(law: Law) -> None:
    """Predictions, not parameters: some laws have combinations that no data tell apart."""
    known = truth(law)
    runs = simulate_runs(law, known, points=80, noise=1e-3, seed=3)
    found = fit(law, runs, draws=0)
    assert found.status != "not_converged", found.message
    new = simulate_runs(law, known, points=50, seed=4)
    got = found.predict(new.inputs)
    np.testing.assert_allclose(got.value, new.loss, rtol=5e-3)
    assert np.mean((got.lower <= new.loss) & (new.loss <= got.upper)) > 0.85


@laws
def test_beats_the_truth_on_its_own_objective(law: Law) -> None:
    known = truth(law)
    runs = simulate_runs(law, known, points=60, noise=5e-3, seed=5)
    found = fit(law, runs, draws=0)
    at_truth = found.objective.value(runs.loss, law.loss(runs.inputs, known))
    assert found.objective_value <= at_truth * (1 + 1e-12)


@laws
def test_survives_json_and_repeats_bit_for_bit(law: Law) -> None:
    runs = simulate_runs(law, truth(law), points=40, noise=1e-3, seed=6)
    found = fit(law, runs, draws=8, seed=5)
    document = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    again = Fit.from_dict(document)
    assert again.to_dict() == document
    at = {k: v[:3] for k, v in runs.inputs.items()}
    assert again.predict(at).to_dict() == found.predict(at).to_dict()
    assert fit(law, runs, draws=8, seed=5).to_dict() == document
