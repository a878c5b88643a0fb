"""Comparisons from the database and from points, and fits that leave the law open."""

import numpy as np
import pytest
from sqlalchemy import Connection, text

from app.errors import ServiceError
from app.importers import read_rows
from app.services import comparisons, fits, imports
from app.services.fits import FitRequest, Select
from fitting import LAWS, Objective, Runs
from fitting.compare import compare
from tests.services.conftest import chinchilla_rows, project_with_runs

SOME = ["chinchilla", "tied", "kaplan_size", "kaplan_data"]
NOISE = 0.003


def of_project(name: str, **options: object) -> FitRequest:
    return FitRequest(
        law="auto",
        project=name,
        validation_set="validation",
        draws=20,
        **options,  # type: ignore[arg-type]
    )


def of_points(rows: list[dict[str, float]], **more: list[float]) -> FitRequest:
    inputs = {name: [row[name] for row in rows] for name in ("N", "D")}
    return FitRequest(
        law="auto", inputs={**inputs, **more}, loss=[row["loss"] for row in rows], draws=20
    )


def test_the_ranking_is_that_of_the_library(connection: Connection) -> None:
    project_with_runs(connection, "ranked", noise=NOISE)
    rows = chinchilla_rows(NOISE)
    runs = Runs({n: [row[n] for row in rows] for n in ("N", "D")}, [row["loss"] for row in rows])
    expected = compare(runs, [LAWS[name] for name in SOME], objective=Objective())
    for request in (of_project("ranked"), of_points(rows)):
        found = comparisons.compare(connection, request, SOME)
        assert [one.law for one in found.comparison.ranked] == [one.law for one in expected.ranked]
        assert [one.error for one in found.comparison.ranked] == pytest.approx(
            [one.error for one in expected.ranked], rel=1e-9
        )
    # the runs follow the sum of two powers: a law of one input cannot forecast them
    assert found.best in ("chinchilla", "tied")


def test_auto_fits_the_first_of_the_ranking_and_says_how(connection: Connection) -> None:
    project_with_runs(connection, "open", noise=NOISE)
    made = comparisons.create_fit(connection, of_project("open"))
    compared = made.document["compared"]
    assert made.law == compared["ranked"][0]["law"] == made.document["law"]
    assert made.request["law"] == "auto" and len(made.run_ids) == 24
    assert {one["law"] for one in compared["ranked"]} > {"chinchilla", "tied"}
    assert all(one["trained"] + one["predicted"] == 24 for one in compared["held_out"])
    # and it is a fit like any other
    assert fits.load(connection, made.id).law.name == made.law
    assert fits.points_of(connection, made.id).loss.size == 24
    assert fits.request_from(made.request).law == "auto"


def test_only_inputs_that_all_runs_have_are_compared(connection: Connection) -> None:
    imported = project_with_runs(connection, "partly", noise=NOISE)
    connection.execute(
        text("update runs set unique_tokens = tokens where id = any(:ids)"),
        {"ids": imported.run_ids[:20]},
    )
    found = comparisons.compare(connection, of_project("partly"), ["tied", "data_constrained"])
    assert found.best == "tied"
    assert "U" in found.comparison.skipped["data_constrained"]
    assert len(found.run_ids) == 24


def test_points_with_more_inputs_reach_the_laws_that_take_them(connection: Connection) -> None:
    rows = chinchilla_rows(NOISE)
    request = of_points(rows, U=[row["D"] for row in rows])
    assert set(fits.runs_of_points(None, request).inputs) == {"N", "D", "U"}


def test_a_selection_narrows_what_is_compared(connection: Connection) -> None:
    imported = project_with_runs(connection, "narrow", noise=NOISE)
    select = Select(run_ids=tuple(imported.run_ids[:16]))
    found = comparisons.compare(connection, of_project("narrow", select=select), ["tied"])
    assert found.run_ids == sorted(imported.run_ids[:16])
    assert found.to_dict()["n_points"] == 16


def test_recipes_are_not_mixed(connection: Connection) -> None:
    project_with_runs(connection, "two", recipe="adamw-0123456789")
    more = [{**row, "run": f"muon {row['run']}"} for row in chinchilla_rows()]
    imports.store(connection, "two", read_rows(more), recipe="muon-0123456789")
    with pytest.raises(ServiceError, match="recipe"):
        comparisons.compare(connection, of_project("two"))


def test_too_many_points_and_no_law_are_refused(connection: Connection) -> None:
    many = np.linspace(1e7, 1e9, fits.MAX_POINTS + 1).tolist()
    with pytest.raises(ServiceError, match="more than"):
        comparisons.compare(
            connection, FitRequest(law="auto", inputs={"N": many, "D": many}, loss=many)
        )
    with pytest.raises(ServiceError, match="No law"):
        comparisons.compare(connection, FitRequest(law="auto", inputs={"x": [1.0]}, loss=[2.0]))


def test_many_points_are_judged_by_some_of_them(connection: Connection) -> None:
    rng = np.random.default_rng(0)
    N, D = 10 ** rng.uniform(7, 9.5, 6000), 10 ** rng.uniform(8.5, 10.5, 6000)
    loss = (1.69 + 406.4 * N**-0.34 + 410.7 * D**-0.28) * np.exp(0.003 * rng.standard_normal(6000))
    asked = FitRequest(law="auto", inputs={"N": N.tolist(), "D": D.tolist()}, loss=loss.tolist())
    found = comparisons.compare(connection, asked, ["chinchilla", "kaplan_size", "henighan_data"])
    assert found.best == "chinchilla" and found.comparison.ranked[0].error < 0.0035
    document = found.to_dict()
    assert document["n_points"] == document["drawn_from"] == 6000
    assert {one["trained"] + one["predicted"] for one in document["held_out"]} == {300}
