"""What is exported holds every stored number, and is what an import takes."""

from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from sqlalchemy import Connection

from app import importers
from app.services import exports, fits, imports, laws
from app.services.errors import ServiceError
from app.services.fits import FitRequest
from app.storage import curves, evaluations, projects, runs
from app.storage.recording import EvaluationLine
from tests.services.conftest import chinchilla_rows

pq = pytest.importorskip("pyarrow.parquet")


def test_what_was_exported_reads_back_bit_for_bit(
    connection: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exports, "CHUNK_POINTS", 1000)
    project = projects.create(connection, "exported")
    ids = runs.create_many(
        connection,
        [runs.NewRun(project.id, name, n_total=1e6) for name in ("a/b ü", "second", "empty")],
    )
    rng = np.random.default_rng(0)
    given = {}
    for run_id, n in zip(ids, (2500, 1000), strict=False):
        step = np.arange(1, n + 1) * 3
        lr = np.where(step % 2, np.nan, 1e-3)
        given[run_id] = (step, rng.uniform(size=n), 1e3 * step, lr)
        curves.copy_points(connection, curves.Points(np.full(n, run_id), *given[run_id]))
    heard: list[tuple[int, int]] = []
    done = exports.write_curves(
        connection, "exported", tmp_path / "out", report=lambda *seen: heard.append(seen)
    )
    assert done == heard[-1] == (2, 3500)
    files = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert files == [f"{ids[0]}-a_b_.parquet", f"{ids[1]}-second.parquet"]
    for run_id, file in zip(ids, files, strict=False):
        read = pq.ParquetFile(tmp_path / "out" / file)
        assert read.num_row_groups == -(-len(given[run_id][0]) // 1000)
        table = read.read()
        step, loss, tokens, lr = given[run_id]
        assert set(table["run_id"].to_pylist()) == {run_id}
        np.testing.assert_array_equal(table["step"].to_numpy(), step)
        np.testing.assert_array_equal(table["loss"].to_numpy(), loss)
        np.testing.assert_array_equal(table["tokens"].to_numpy(), tokens)
        np.testing.assert_array_equal(table["lr"].to_numpy(), lr)
        assert table["lr"].null_count == np.isnan(lr).sum()
        assert read.schema_arrow.metadata[b"N"] == b"1000000.0"


def moved(
    connection: Connection,
    file: Path,
    into: str,
    kind: Literal["auto", "points", "curves"] = "auto",
    **options: str,
) -> imports.Imported:
    read = importers.read(file, kind=kind, also=laws.further_inputs())
    return imports.store(connection, into, read, filename=file.name, **options)


def branches(connection: Connection, project_id: int) -> None:
    """Six trunks with three branches each, whose FLOPs are counted and U is known."""
    trunks = [runs.NewRun(project_id, f"trunk é {i}", kind="trunk") for i in range(6)]
    parents = runs.create_many(connection, trunks)
    N, D = np.repeat(np.geomspace(1e7, 3e8, 6), 3), np.tile([1e9, 3e9, 1e10], 6)
    loss = 1.69 + 406.4 / N**0.34 + 410.7 / D**0.28 + np.linspace(-0.01, 0.01, 18)
    new = [
        runs.NewRun(
            project_id, f"branch {i}", kind="branch", status="finished", cooled=True,
            recipe="0123abcd", parent_run_id=parents[i // 3], parent_step=1, steps=100 + i,
            n_total=2 * N[i], n_non_embedding=N[i], tokens=D[i], unique_tokens=D[i] / 2,
            flops_exact=5.5 * N[i] * D[i], flops_6nd=6 * N[i] * D[i],
        )
        for i in range(18)
    ]  # fmt: skip
    ids = runs.create_many(connection, new)
    evaluations.add(connection, [
        (run_id, EvaluationLine(step=100 + i, validation_set="code", loss=float(loss[i])))
        for i, run_id in enumerate(ids)
    ])  # fmt: skip


def test_runs_are_moved_to_another_server_with_the_same_fit(
    connection: Connection, tmp_path: Path
) -> None:
    branches(connection, projects.create(connection, "home").id)
    file = tmp_path / "new" / "runs.csv.gz"
    done = exports.write_runs(connection, "home", "code", file, n_convention="non_embedding")
    assert done == exports.RunsFile(18, {"validation_set": "code", "recipe": "0123abcd"})
    brought = moved(connection, file, "away", **done.options)
    assert (brought.n_convention, brought.flops_convention) == ("non_embedding", "exact")
    select = fits.Select(n_convention="non_embedding")
    here, there = (
        fits.select_runs(connection, None, FitRequest("", project, "code", select)).runs
        for project in ("home", "away")
    )
    assert set(here.inputs) == set(there.inputs) >= {"N", "D", "U", "C"}
    for name in here.inputs:
        np.testing.assert_array_equal(here.inputs[name], there.inputs[name])
    np.testing.assert_array_equal(here.loss, there.loss)
    np.testing.assert_array_equal(here.flops, there.flops)
    # the branches of a trunk are still resampled together
    same = here.group[:, None] == here.group[None, :]
    np.testing.assert_array_equal(there.group[:, None] == there.group[None, :], same)
    assert same.sum() == 18 * 3
    first = runs.get(connection, brought.run_ids[0])
    assert first.name == "trunk é 0 #1" and first.config["columns"]["name"] == "branch 0"
    assert first.recipe == "0123abcd"


def test_an_import_that_is_exported_imports_as_it_was(
    connection: Connection, tmp_path: Path
) -> None:
    read = importers.read_rows(chinchilla_rows(0.002), loss_unit="bits/byte")
    imports.store(connection, "first", read)
    exports.write_runs(connection, "first", "validation", tmp_path / "runs.csv")
    moved(connection, tmp_path / "runs.csv", "second")
    made = [
        fits.create(connection, FitRequest("chinchilla", project, "validation", draws=20)).document
        for project in ("first", "second")
    ]
    assert made[0]["params"] == made[1]["params"]
    assert made[1]["loss_unit"] == "bits/byte"


def test_runs_of_two_recipes_are_not_moved_as_one(connection: Connection, tmp_path: Path) -> None:
    rows = chinchilla_rows(0.002)
    for recipe, part in (("one", rows[::2]), ("two", rows[1::2])):
        imports.store(connection, "mixed", importers.read_rows(part), recipe=recipe, prefix=recipe)
    with pytest.raises(ServiceError, match="recipe"):
        exports.write_runs(connection, "mixed", "validation", tmp_path / "runs.csv")
    assert not list(tmp_path.iterdir())
    one = exports.write_runs(connection, "mixed", "validation", tmp_path / "runs.csv", recipe="one")
    assert one.n_runs == len(rows[::2]) and one.options["recipe"] == "one"


@pytest.mark.parametrize("lr", [1e-3, np.nan])
def test_curves_are_moved_to_another_server(
    connection: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lr: float
) -> None:
    monkeypatch.setattr(exports, "CHUNK_POINTS", 100)
    project = projects.create(connection, "curves at home")
    new = [runs.NewRun(project.id, name, n_total=1e6) for name in ("a, b", "empty", "c")]
    ids = runs.create_many(connection, new)
    step, loss = np.arange(1, 251), np.random.default_rng(0).uniform(2, 3, 250)
    for run_id in (ids[0], ids[2]):
        rates = np.where(step == 249, lr, 1e-3)  # one that is not known is enough
        points = curves.Points(np.full(250, run_id), step, loss, 1e3 * step, rates)
        curves.copy_points(connection, points)
    file = tmp_path / "curves.csv"
    assert exports.write_curves_csv(connection, project.id, file) == (2, 500)
    as_points = importers.read(file)  # N and tokens have columns: it says how it was read
    assert as_points.kind == "points" and "kind curves" in as_points.warnings[0]
    brought = moved(connection, file, "curves away", "curves", prefix="curves/")
    assert brought.n_runs == 2 and ("lr" in brought.columns) == np.isfinite(lr)
    for run_id, name in zip(brought.run_ids, ("curves/a, b", "curves/c"), strict=True):
        read = curves.read_points(connection, run_id, after_step=None, limit=1000)
        np.testing.assert_array_equal(read.loss, loss)
        np.testing.assert_array_equal(read.tokens, 1e3 * step)
        run = runs.get(connection, run_id)
        assert (run.name, run.n_total, run.tokens) == (name, 1e6, 250e3)
