"""What is said about a stored fit agrees with the fit, and notices when its runs have changed."""

import json

import numpy as np
import pytest
from sqlalchemy import Connection, text

from app.errors import ServiceError
from app.services import diagnostics, fits
from app.services.fits import FitRequest
from tests.services.conftest import CHINCHILLA, chinchilla_rows, project_with_runs


def fitted(connection: Connection, name: str, **options: object) -> fits.StoredFit:
    request = {"law": "chinchilla", "project": name, "validation_set": "validation", "draws": 200}
    return fits.create(connection, FitRequest(**{**request, **options}))  # type: ignore[arg-type]


def test_three_methods_bracket_the_fit_and_residuals_are_the_noise(connection: Connection) -> None:
    project_with_runs(connection, "diagnosed", noise=0.003)
    made = fitted(connection, "diagnosed", objective="squares-log")
    found = diagnostics.diagnose(connection, made.id)
    json.dumps(found, allow_nan=False)
    assert 0.5 * 0.003 < found["noise"] < 2 * 0.003
    off = [one["residual"] for one in found["residuals"]]
    assert len(off) == 24 and found["residuals"][0]["run_id"] in made.run_ids
    # half the sum of squared residuals is what was minimised
    assert 0.5 * np.sum(np.square(off)) == pytest.approx(made.document["objective"]["value"])
    assert not any(one["suspect"] for one in found["residuals"])
    for one in found["parameters"]:
        for low, high in (
            one["draws"]["interval"],
            one["sandwich"]["interval"],
            (one["profile"]["lower"], one["profile"]["upper"]),
        ):
            assert low < one["value"] < high
            assert low - (high - low) < CHINCHILLA[one["name"]] < high + (high - low)
    matrix = np.array(found["correlations"]["matrix"])
    assert matrix.shape == (5, 5) and np.allclose(np.diag(matrix), 1.0)
    names = found["correlations"]["names"]
    assert matrix[names.index("A"), names.index("alpha")] > 0.9


def test_a_run_that_is_off_is_marked(connection: Connection) -> None:
    rows = chinchilla_rows(0.003)
    rows[7]["loss"] *= 1.08
    request = FitRequest(
        law="chinchilla",
        inputs={name: [row[name] for row in rows] for name in ("N", "D")},
        loss=[row["loss"] for row in rows],
        run=[row["run"] for row in rows],
        draws=0,
    )
    made = fits.create(connection, request)
    marked = diagnostics.diagnose(connection, made.id)["residuals"]
    assert [one["run"] for one in marked if one["suspect"]] == [rows[7]["run"]]


def test_exact_losses_have_no_profile_and_no_nan(connection: Connection) -> None:
    project_with_runs(connection, "noiseless")
    found = diagnostics.diagnose(connection, fitted(connection, "noiseless", draws=0).id)
    json.dumps(found, allow_nan=False)
    assert all(one["profile"] is None and one["profile_reason"] for one in found["parameters"])


def test_a_law_of_one_input_has_no_isoflop(connection: Connection) -> None:
    project_with_runs(connection, "sizes", noise=0.003)
    made = fitted(connection, "sizes", law="henighan_size")
    assert diagnostics.diagnose(connection, made.id)["isoflop"] == []


def test_approaches_stand_side_by_side(connection: Connection) -> None:
    """An isoFLOP grid: N* grows as C^(beta / (alpha + beta)) = C^.5126 (Hoffmann et al., eq. 4)."""
    c = CHINCHILLA
    C = np.repeat(np.geomspace(1e18, 1e21, 4), 7)
    N = 0.1 * np.sqrt(C) * np.tile(np.geomspace(0.3, 3.0, 7), 4)
    D = C / (6 * N)
    loss = c["E"] + c["A"] * N ** -c["alpha"] + c["B"] * D ** -c["beta"]
    loss *= np.exp(1e-4 * np.random.default_rng(0).standard_normal(N.size))
    request = FitRequest(
        law="chinchilla", inputs={"N": list(N), "D": list(D)}, loss=list(loss), draws=0
    )
    found = diagnostics.diagnose(connection, fits.create(connection, request).id)["isoflop"]
    by_method = {one["method"]: one for one in found}
    assert {"envelope", "interpolated", "parabola", "cubic", "parametric"} == set(by_method)
    assert by_method["parametric"]["N_exponent"] == pytest.approx(0.5126, abs=0.005)
    assert all("refused" in one or "N_exponent" in one for one in found)


def test_runs_that_have_changed_since_are_not_passed_off(connection: Connection) -> None:
    imported = project_with_runs(connection, "changed", noise=0.003)
    made = fitted(connection, "changed", draws=0)
    diagnostics.diagnose(connection, made.id)
    connection.execute(
        text("update evaluations set loss = loss * 1.01 where run_id = :id"),
        {"id": imported.run_ids[0]},
    )
    with pytest.raises(ServiceError) as refused:
        diagnostics.diagnose(connection, made.id)
    assert refused.value.kind == "conflict"
