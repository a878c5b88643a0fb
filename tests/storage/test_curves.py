"""Curves go in as they are and come out reduced, without being bent."""

import re
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import Connection, text

from app.storage import binary, curves, metrics, projects, recording, runs
from app.storage.curves import Points
from app.storage.errors import Conflict
from app.storage.recording import Batch
from tests.storage.conftest import make_run


def power_law(steps: np.ndarray) -> np.ndarray:
    return 2.0 + 5.0 * steps**-0.3


def test_what_is_copied_is_read_back_bit_for_bit(connection: Connection, run: runs.Run) -> None:
    generator = np.random.default_rng(0)
    step = np.arange(1, 801)
    loss, tokens = generator.normal(size=800), generator.uniform(size=800) * 1e12
    lr = np.where(step % 3 == 0, np.nan, 1e-3 / step)
    given = Points(np.full(800, run.id), step, loss, tokens, lr)
    assert curves.copy_points(connection, given) == 800
    curve = curves.read_points(connection, run.id)
    np.testing.assert_array_equal(curve.step, step)
    np.testing.assert_array_equal(curve.loss, loss)
    np.testing.assert_array_equal(curve.tokens, tokens)
    np.testing.assert_array_equal(curve.lr, lr)
    assert not curve.reduced
    np.testing.assert_array_equal(curves.read(connection, run.id).loss, loss)


def test_several_blocks_and_columns_that_are_not_known(connection: Connection) -> None:
    one, two = make_run(connection), make_run(connection)
    n = binary.BLOCK_ROWS + 7
    step = np.arange(n)
    ids = np.where(step % 2 == 0, one.id, two.id)
    assert curves.copy_points(connection, Points(ids, step, np.ones(n), lr=np.full(n, np.nan))) == n
    tail = curves.read_points(connection, one.id, after_step=n - 3)
    assert tail.step.tolist() == [n - 1] and np.isnan(tail.lr).all() and np.isnan(tail.tokens).all()


def test_a_point_that_is_there_already_refuses_the_lot_or_keeps_the_first(
    connection: Connection, run: runs.Run
) -> None:
    curves.copy_points(connection, Points([run.id] * 2, [1, 2], [3.0, 2.0]))
    more = Points([run.id] * 3, [2, 3, 3], [9.0, 1.5, 1.4])
    with pytest.raises(Conflict, match=rf"\({run.id}, 2\)"):
        curves.copy_points(connection, more)
    assert curves.read(connection, run.id).loss.tolist() == [3.0, 2.0]
    assert curves.copy_points(connection, more, keep_first=True) == 1
    assert curves.read(connection, run.id).loss.tolist() == [3.0, 2.0, 1.5]


def test_columns_that_cannot_be_right_are_refused(connection: Connection, run: runs.Run) -> None:
    with pytest.raises(ValueError, match="row 1: the loss is not finite"):
        curves.copy_points(connection, Points([run.id] * 2, [1, 2], [1.0, np.nan]))
    with pytest.raises(ValueError, match="differ in length"):
        curves.copy_points(connection, Points([run.id] * 2, [1, 2, 3], [1.0, 2.0]))
    assert curves.copy_points(connection, Points([], [], [])) == 0


def test_a_long_curve_is_reduced_without_being_bent(connection: Connection, run: runs.Run) -> None:
    step = np.arange(1, 200_001)
    loss = power_law(step)
    curves.copy_points(connection, Points(np.full(len(step), run.id), step, loss, 1024.0 * step))
    sampled = curves.read(connection, run.id)  # it trains: some points of each bucket
    rows = curves.roll_up(connection, run.id)
    connection.execute(text("delete from curve_points where run_id = :id"), {"id": run.id})
    rolled = curves.read(connection, run.id)  # from the roll-up alone
    assert rows == len(rolled.step) == len(sampled.step)
    for curve, off in ((sampled, 1e-5), (rolled, 1e-3)):
        assert curve.reduced and 500 <= len(curve.step) <= 1000
        assert np.all(np.diff(curve.step) > 0)
        # a bucket is 1.2% wide: the mean loss is the law's at the mean step, to second order in
        # that (the roll-up's steps are rounded)
        np.testing.assert_allclose(curve.loss, power_law(curve.step), rtol=off)
    np.testing.assert_allclose(sampled.tokens, 1024.0 * sampled.step, rtol=1e-12)
    assert 2 < sampled.n_points.sum() / len(sampled.step) <= sampled.n_points.max() == curves.SAMPLE
    # a roll-up keeps the mean over everything, also when it is read more coarsely
    for coarse in (rolled, curves.read(connection, run.id, max_rows=100)):
        assert coarse.n_points.sum() == len(step)
        assert np.average(coarse.loss, weights=coarse.n_points) == pytest.approx(
            loss.mean(), rel=1e-12
        )
    assert 50 <= len(coarse.step) <= 100 and np.all(np.diff(coarse.step) > 0)


@pytest.mark.parametrize("last", [1001, 2700, 2701, 6000])
def test_the_newest_point_of_a_run_in_training_is_shown(
    connection: Connection, run: runs.Run, last: int
) -> None:
    step = np.arange(1, last + 1)
    curves.copy_points(connection, Points(np.full(last, run.id), step, power_law(step)))
    curve = curves.read(connection, run.id)
    assert (curve.step[-1], curve.loss[-1]) == (last, power_law(step)[-1])
    assert curve.n_points.sum() == last  # no bucket is longer than a sample, so none leaves any out


def test_step_zero_and_a_run_without_points(connection: Connection, run: runs.Run) -> None:
    assert len(curves.read(connection, run.id).step) == 0
    assert curves.roll_up(connection, run.id) == 0
    step = np.arange(0, 3000)
    curves.copy_points(connection, Points(np.full(3000, run.id), step, np.ones(3000)))
    curve = curves.read(connection, run.id)
    assert curve.step[0] == 0 and len(curve.step) <= 1000 and curve.n_points.sum() == 3000


def test_metrics_are_read_by_name(connection: Connection, run: runs.Run) -> None:
    attempt = recording.claim_run(connection, run.id, "one")
    assert attempt is not None
    values = {"grad_norm": [(s, 1.0 / s) for s in range(1, 2001)], "step_seconds": [(1, 0.25)]}
    recording.record(connection, run.id, attempt, Batch(metrics=values))
    assert metrics.names(connection, run.id) == ["grad_norm", "step_seconds"]
    assert metrics.read(connection, run.id, "step_seconds").value.tolist() == [0.25]
    series = metrics.read(connection, run.id, "grad_norm", max_rows=200)
    assert 100 < len(series.step) <= 200
    np.testing.assert_allclose(series.value, 1 / series.step, rtol=1e-2)
    assert len(metrics.read(connection, run.id, "nothing").step) == 0


def test_a_project_takes_its_curves_with_it(connection: Connection, run: runs.Run) -> None:
    curves.copy_points(connection, Points([run.id], [1], [2.0]))
    attempt = recording.claim_run(connection, run.id, "one")
    assert attempt is not None
    recording.record(connection, run.id, attempt, Batch(metrics={"m": [(1, 1.0)]}))
    projects.remove(connection, run.project_id)
    for table in ("curve_points", "metrics", "runs"):
        column = "id" if table == "runs" else "run_id"
        left = connection.scalar(
            text(f"select count(*) from {table} where {column} = :id"), {"id": run.id}
        )
        assert left == 0


def test_points_that_operations_lets_go_of_leave_the_curve(connection: Connection) -> None:
    """The statement that docs/operations.md gives: of long finished runs only the roll-up stays."""
    page = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
    (statement,) = re.findall(r"```sql\n(.*?)```", page, re.DOTALL)
    finished, fresh, training = (make_run(connection) for _ in range(3))
    step = np.arange(1, 5001)
    for run in (finished, fresh, training):
        curves.copy_points(connection, Points(np.full(5000, run.id), step, power_law(step)))
    for run, age in ((finished, "100 days"), (fresh, "1 day")):
        curves.roll_up(connection, run.id)
        connection.execute(
            text(
                "update runs set status = 'finished',"
                " finished_at = now() - cast(:age as interval) where id = :id"
            ),
            {"id": run.id, "age": age},
        )
    before = curves.read(connection, finished.id)
    connection.execute(text(statement))
    stored = [
        len(curves.read_points(connection, run.id).step) for run in (finished, fresh, training)
    ]
    assert stored == [0, 5000, 5000]
    after = curves.read(connection, finished.id)
    np.testing.assert_array_equal(after.loss, before.loss)
    np.testing.assert_array_equal(after.step, before.step)
    np.testing.assert_array_equal(after.n_points, before.n_points)
    assert after.n_points.sum() == 5000
