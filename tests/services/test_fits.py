"""Fits from the database: the same numbers as from points, and nothing mixed."""

import hashlib

import numpy as np
import pytest
from sqlalchemy import Connection, text, update

from app.errors import ServiceError
from app.importers import read_rows
from app.services import fits, imports, laws, predictions, projects
from app.services.fits import FitRequest, Select
from app.storage.tables import runs
from fitting import get_law
from tests.services.conftest import CHINCHILLA, chinchilla_rows, project_with_runs


def from_database(name: str, **options: object) -> FitRequest:
    return FitRequest(
        law="chinchilla",
        project=name,
        validation_set="validation",
        draws=20,
        **options,  # type: ignore[arg-type]
    )


def test_runs_of_the_database_and_points_of_the_body_give_the_same_numbers(
    connection: Connection,
) -> None:
    project_with_runs(connection, "same", noise=0.003)
    rows = chinchilla_rows(0.003)
    by_points = fits.create(
        connection,
        FitRequest(
            law="chinchilla",
            inputs={name: [row[name] for row in rows] for name in ("N", "D")},
            loss=[row["loss"] for row in rows],
            run=[row["run"] for row in rows],
            draws=20,
        ),
    )
    by_runs = fits.create(connection, from_database("same"))
    assert by_runs.document["params"] == pytest.approx(by_points.document["params"], rel=1e-12)
    assert by_runs.document["objective"]["value"] == pytest.approx(
        by_points.document["objective"]["value"], rel=1e-12
    )
    assert len(by_runs.run_ids) == 24 and by_points.run_ids == []


def test_exact_losses_give_back_the_published_constants(connection: Connection) -> None:
    project_with_runs(connection, "exact")
    fit = fits.create(connection, from_database("exact"))
    assert fit.status == "converged"
    assert fit.document["params"] == pytest.approx(CHINCHILLA, rel=1e-5)


def test_the_run_ids_are_stored_with_the_fit(connection: Connection) -> None:
    imported = project_with_runs(connection, "ids")
    chosen = tuple(imported.run_ids[:12])
    fit = fits.create(connection, from_database("ids", select=Select(run_ids=chosen)))
    assert fits.get(connection, fit.id).run_ids == sorted(chosen)
    points = fits.points_of(connection, fit.id).rows()
    assert [point["run_id"] for point in points] == sorted(chosen)
    assert points[0]["inputs"] == {"N": pytest.approx(1e7), "D": pytest.approx(1e9)}


def test_recipes_are_never_mixed(connection: Connection) -> None:
    digest = hashlib.sha256(b"adamw").hexdigest()
    project_with_runs(connection, "mixed", recipe=digest)
    more = [{**row, "run": f"muon {row['run']}"} for row in chinchilla_rows()]
    imports.store(connection, "mixed", read_rows(more), recipe="muon-0123456789")
    with pytest.raises(ServiceError) as refused:
        fits.create(connection, from_database("mixed"))
    # a digest is known by its beginning, a word that somebody chose is not cut
    assert f"{digest[:12]}, muon-0123456789." in refused.value.message
    one = fits.create(connection, from_database("mixed", select=Select(recipe="muon")))
    assert len(one.run_ids) == 24


def test_a_law_of_further_inputs_is_fitted_to_imported_columns(connection: Connection) -> None:
    law = get_law("data_constrained")
    assert law.published is not None
    N, D, U = (grid.ravel() for grid in np.meshgrid([1e8, 4e8, 2e9], [1e9, 1e10, 1e11], [1e9, 8e9]))
    loss = law.loss({"N": N, "D": D, "U": np.minimum(U, D)}, law.published.params)
    columns = zip(N, D, np.minimum(U, D), loss, strict=True)
    rows = [
        {"run": f"r{i}", "N": n, "D": d, "U": u, "loss": value, "width": "wide" if i else 64}
        for i, (n, d, u, value) in enumerate(columns)
    ]
    imports.store(connection, "repeats", read_rows(rows, also=laws.further_inputs()))
    asked = FitRequest(law=law.name, project="repeats", validation_set="validation", draws=0)
    found = fits.load(connection, fits.create(connection, asked).id)
    np.testing.assert_allclose(found.predict({"N": N, "D": D, "U": U}).value, law.loss(
        {"N": N, "D": D, "U": U}, law.published.params), rtol=1e-4)  # fmt: skip
    with pytest.raises(ServiceError, match="its width and depth are not known"):
        fits.create(connection, FitRequest(
            law="width_depth", project="repeats", validation_set="validation"))  # fmt: skip


def test_loss_units_are_never_mixed(connection: Connection) -> None:
    project_with_runs(connection, "units")
    more = [{**row, "run": f"bits {row['run']}"} for row in chinchilla_rows()]
    imports.store(connection, "units", read_rows(more, loss_unit="bits/byte"))
    with pytest.raises(ServiceError, match="nats/token"):
        fits.create(connection, from_database("units"))


def test_runs_that_are_not_cooled_are_fitted_only_when_asked_for(connection: Connection) -> None:
    imported = project_with_runs(connection, "trunks")
    connection.execute(
        text("update runs set cooled = false where id = any(:ids)"),
        {"ids": imported.run_ids[:4]},
    )
    assert len(fits.create(connection, from_database("trunks")).run_ids) == 20
    both = fits.create(connection, from_database("trunks", select=Select(cooled=None)))
    assert len(both.run_ids) == 24


def test_too_few_steps_are_left_out(connection: Connection) -> None:
    rows = [{**row, "step": 100 if i < 6 else 2000} for i, row in enumerate(chinchilla_rows())]
    imports.store(connection, "short", read_rows(rows))
    fit = fits.create(connection, from_database("short", select=Select(min_steps=1000)))
    assert len(fit.run_ids) == 18


def test_n_is_counted_as_asked(connection: Connection) -> None:
    projects.create(connection, "counted")
    imports.store(connection, "counted", read_rows(chinchilla_rows(), n_convention="non_embedding"))
    with pytest.raises(ServiceError) as refused:
        fits.create(connection, from_database("counted"))
    assert refused.value.kind == "not_enough_data"
    fit = fits.create(
        connection, from_database("counted", select=Select(n_convention="non_embedding"))
    )
    assert fit.document["n_convention"] == "non_embedding"


def test_an_empty_selection_says_what_there_is(connection: Connection) -> None:
    project_with_runs(connection, "elsewhere", validation_set="c4")
    with pytest.raises(ServiceError, match="'c4'"):
        fits.create(connection, from_database("elsewhere"))


def test_a_stored_fit_predicts_what_the_law_says(connection: Connection) -> None:
    project_with_runs(connection, "predicts")
    fit = fits.create(connection, from_database("predicts"))
    found = predictions.predict(connection, fit.id, {"N": [70e9], "D": [1.4e12]})
    # Besiroglu et al. 2024: 1.8172 + 482.01 * 7e10**-.3478 + 2085.43 * 1.4e12**-.3658
    assert found.value[0] == pytest.approx(1.9739, abs=2e-4)
    assert found.lower[0] <= found.value[0] <= found.upper[0]
    assert found.reach["N"][0] == pytest.approx(70.0)


def test_a_request_comes_back_as_it_was(connection: Connection) -> None:
    request = from_database("x", select=Select(recipe="ab", run_ids=(1, 2), cooled=None))
    assert fits.request_from(fits.describe_request(request)) == request
    points = FitRequest(law="chinchilla", inputs={"N": [1.0], "D": [2.0]}, loss=[3.0])
    assert fits.request_from(fits.describe_request(points)) == points


def test_integer_columns_do_not_overflow(connection: Connection) -> None:
    """6 N D of these rows is 1.7e20 to 4e23: past int64."""
    rows = [
        {"N": n, "D": d, "loss": 1.8 + 400 * float(n) ** -0.34 + 2000 * float(d) ** -0.36}
        for n in (412_000_000, 1_000_000_000, 7_000_000_000)
        for d in (70_000_000_000, 500_000_000_000, 10_000_000_000_000)
    ]
    imported = imports.store(connection, "large", read_rows(rows))
    stored = connection.execute(
        text("select flops_6nd from runs where id = any(:ids)"), {"ids": imported.run_ids}
    ).scalars()
    assert np.allclose(sorted(stored), sorted(6.0 * r["N"] * r["D"] for r in rows))
    fit = fits.create(connection, from_database("large"))
    assert fit.document["data"]["compute"][1] == pytest.approx(4.2e23)


def test_branches_of_one_trunk_are_resampled_together(connection: Connection) -> None:
    """They share weights up to where they part: four trunks are four draws of luck, not 24."""
    imported = project_with_runs(connection, "trunks", noise=0.002)
    trunks = imported.run_ids[::6]
    for place, run_id in enumerate(imported.run_ids):
        connection.execute(
            update(runs)
            .where(runs.c.id == run_id)
            .values(kind="branch", parent_run_id=trunks[place // 6])
        )
    fit = fits.create(
        connection,
        FitRequest(law="chinchilla", project="trunks", validation_set="validation", draws=20),
    )
    assert (fit.document["n_points"], fit.document["n_runs"]) == (24, 4)
