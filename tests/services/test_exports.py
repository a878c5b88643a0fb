"""Exported curves hold every stored number, also where a file is written in several pieces."""

from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import Connection

from app.services import exports
from app.storage import curves, projects, runs

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
