"""Imports are stored whole or not at all."""

import io

import numpy as np
import pytest
from sqlalchemy import Connection, text

from app.errors import ServiceError
from app.importers import read, read_rows
from app.services import curves, imports, projects, runs


def count(connection: Connection, table: str) -> int:
    return int(connection.execute(text(f"select count(*) from {table}")).scalar_one())


def test_points_become_finished_runs_with_their_loss(connection: Connection) -> None:
    rows = [
        {"run": "a", "N": 1e8, "D": 2e9, "loss": 3.2, "optimizer": "adamw"},
        {"run": "a", "N": 1e8, "D": 4e9, "loss": 3.1},
        {"run": "b", "N": 2e8, "D": 4e9, "loss": 3.0},
    ]
    done = imports.store(connection, "points", read_rows(rows), validation_set="c4")
    stored = [runs.get(connection, run_id) for run_id in done.run_ids]
    assert [run.name for run in stored] == ["a #1", "a #2", "b"]
    assert stored[0].config["run"] == "a" and stored[0].config["columns"] == {"optimizer": "adamw"}
    assert [run.status for run in stored] == ["finished"] * 3
    assert stored[2].flops_6nd == 6 * 2e8 * 4e9 and stored[2].n_total == 2e8
    (loss,) = runs.evaluations(connection, done.run_ids[2])
    assert (loss.validation_set, loss.loss) == ("c4", 3.0)


def test_curves_become_runs_with_every_step(connection: Connection) -> None:
    text_ = "run,step,loss,lr\n" + "".join(
        f"{run},{step},{5 - step / 100},{0.01}\n" for run in "ab" for step in range(1, 101)
    )
    done = imports.store(
        connection, "curves", read(io.BytesIO(text_.encode())), validation_set="held out"
    )
    assert (done.n_runs, done.n_points, done.kind) == (2, 200, "curves")
    curve = curves.read(connection, done.run_ids[1])
    assert curve.step.tolist() == list(range(1, 101))
    assert np.allclose(curve.loss, 5 - curve.step / 100)
    (last,) = runs.evaluations(connection, done.run_ids[0])
    assert (last.step, last.loss) == (100, 4.0)


def test_the_same_bytes_twice_are_refused(connection: Connection) -> None:
    measured = read_rows([{"run": "a", "N": 1e8, "D": 2e9, "loss": 3.2}])
    first = imports.store(connection, "twice", measured)
    with pytest.raises(ServiceError) as refused:
        imports.store(connection, "twice", measured)
    assert refused.value.kind == "conflict" and refused.value.value == first.id
    imports.delete(connection, first.id)
    imports.store(connection, "twice", measured)


def test_a_taken_name_refuses_the_whole_import(connection: Connection) -> None:
    imports.store(connection, "taken", read_rows([{"run": "b", "N": 1e8, "D": 2e9, "loss": 3.2}]))
    before = count(connection, "runs")
    rows = [{"run": name, "N": 1e8, "D": 2e9, "loss": 3.1} for name in ("a", "b")]
    with pytest.raises(ServiceError, match="'b'") as refused, connection.begin_nested():
        imports.store(connection, "taken", read_rows(rows))
    assert refused.value.kind == "conflict"
    assert count(connection, "runs") == before
    done = imports.store(connection, "taken", read_rows(rows), prefix="second/")
    assert runs.get(connection, done.run_ids[1]).name == "second/b"


def test_a_new_name_makes_the_project_and_a_number_does_not(connection: Connection) -> None:
    rows = read_rows([{"N": 1e8, "D": 2e9, "loss": 3.2}])
    done = imports.store(connection, "brand new", rows)
    assert projects.get(connection, "brand new").id == done.project_id
    with pytest.raises(ServiceError, match="no project 424242"):
        imports.store(connection, 424242, rows)
