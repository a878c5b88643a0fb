"""What people have is read: usual names, their own names, three separators, two formats."""

import gzip
import io
import os
from pathlib import Path

import numpy as np
import pytest

from app.importers import format_of, read, read_rows, read_runs, to_runs
from app.importers.cells import number

DATA = Path(os.environ.get("SCALING_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))


def csv(text: str) -> io.BytesIO:
    return io.BytesIO(text.encode())


@pytest.mark.parametrize(
    "header",
    [
        "N,D,loss",
        "params,tokens,val_loss",
        "Parameters,Train Tokens,Validation-Loss",
        "n_params\ttokens_seen\teval/loss",
        "model_size;n_tokens;final_loss",
    ],
)
def test_columns_are_found_by_their_usual_names(header: str) -> None:
    mark = next(mark for mark in ",\t;" if mark in header)
    measured = read(csv(f"{header}\n" + mark.join(("1e8", "2e9", "3.25")) + "\n"))
    (point,) = measured.points
    assert dict(point.inputs) == {"N": 1e8, "D": 2e9}
    assert point.loss == 3.25
    assert point.row == 2


def test_columns_may_be_said() -> None:
    measured = read(
        csv("weights,data,c4\n1e8,2e9,3.25\n"), columns={"N": "weights", "D": "data", "loss": "c4"}
    )
    assert measured.points[0].loss == 3.25
    assert measured.columns == {"N": "weights", "D": "data", "loss": "c4"}


def test_a_byte_order_mark_windows_line_ends_and_blank_rows_are_passed_over() -> None:
    text = "\ufeffN,D,loss\r\n\r\n1e8,2e9,3.25\r\n,,\r\n2e8,2e9,3.0\r\n"
    measured = read(csv(text))
    assert [point.row for point in measured.points] == [3, 5]


def test_json_lines_and_rows_of_a_body_read_like_a_csv() -> None:
    first = b'{"N": 100000000, "D": 2e9, "loss": 3.25, "run": "a"}'
    second = b'{"N": "2e8", "D": 2e9, "loss": 3, "run": 7}'
    lines = first + b"\n\n" + second + b"\n"
    from_lines = read(io.BytesIO(lines), format="jsonl")
    assert [(p.row, p.run, p.loss) for p in from_lines.points] == [(1, "a", 3.25), (3, "7", 3.0)]
    from_body = read_rows([{"N": 1e8, "D": 2e9, "loss": 3.25}])
    assert from_body.points[0].inputs["N"] == 1e8


def test_integers_become_floats_before_any_product() -> None:
    """6 N D of a 7B model on 2T tokens is 8.4e22: past int64, whose largest value is 9.2e18."""
    runs = read_runs(csv("N,D,loss,run\n7000000000,2000000000000,2.1,a\n"), format="csv")
    assert runs.inputs["N"].dtype == np.float64
    assert 6 * runs.inputs["N"][0] * runs.inputs["D"][0] == pytest.approx(8.4e22, rel=1e-12)
    body = read_rows([{"N": 7_000_000_000, "D": 2_000_000_000_000, "loss": 2.1}])
    assert isinstance(body.points[0].inputs["N"], float)
    assert isinstance(number(7, 1, "N"), float)


def test_curves_are_sorted_by_step_and_exact_repeats_are_kept_once() -> None:
    rows = ["run,step,loss,lr,tokens", "a,2,3.5,0.01,200", "a,1,4,0.02,100", "b,1,5,0.02,100"]
    measured = read(csv("\n".join([*rows, rows[1], ""])))
    assert measured.kind == "curves"
    a, b = measured.curves
    assert a.step.tolist() == [1, 2] and a.loss.tolist() == [4.0, 3.5]
    assert a.lr is not None and a.lr.tolist() == [0.02, 0.01]
    assert b.row == 4
    assert measured.repeated_rows == 1 and measured.n_points == 3


def test_a_table_without_a_run_column_is_one_run() -> None:
    (curve,) = read(csv("_step,train_loss\n1,4\n2,3\n")
                    , columns={"step": "_step"}).curves  # fmt: skip
    assert curve.run == "run" and curve.lr is None


def test_conventions_are_carried() -> None:
    measured = read(csv("n_non_embedding,D,bpb\n1e8,2e9,1.25\n"))
    assert measured.conventions.n_convention == "non_embedding"
    assert measured.conventions.loss_unit == "bits/byte"
    said = read(csv("N,D,loss,loss_unit\n1e8,2e9,1.25,nats/byte\n"))
    assert said.conventions.loss_unit == "nats/byte"
    runs = to_runs(said)
    assert runs.loss_unit == "nats/byte" and runs.n_convention == "total"


def test_flops_that_are_six_n_d_are_said_to_be() -> None:
    six = read(csv("N,D,loss,C\n1e8,2e9,3,1.2e18\n"))
    assert six.conventions.flops_convention == "6ND" and six.points[0].flops == 1.2e18
    other = read(csv("N,D,loss,C\n1e8,2e9,3,1.5e18\n"))
    assert other.conventions.flops_convention == "exact"


def test_a_gzipped_file_is_read_as_what_is_in_it(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv.gz"
    path.write_bytes(gzip.compress(b"N,D,loss\n1e8,2e9,3\n"))
    assert read(path).n_points == 1
    assert format_of("a.jsonl.gz") == "jsonl" and format_of("runs") == "csv"


def test_a_column_of_flops_that_overflowed_is_left_out_and_said() -> None:
    """412M parameters on 65.9B tokens: 6 N D is 1.6e20, and numpy's int64 makes it negative."""
    with np.errstate(over="ignore"):
        wrapped = np.int64(6) * np.int64(411616256) * np.int64(65858600960)
    measured = read(csv(f"N,D,loss,C\n411616256,65858600960,2.9,{wrapped}\n"))
    assert wrapped < 0
    assert measured.points[0].flops is None and "overflowed" in measured.warnings[0]
    assert measured.conventions.flops_convention == "6ND"


@pytest.mark.skipif(not DATA.is_dir(), reason=f"other people's runs are not here ({DATA})")
@pytest.mark.parametrize(
    ("file", "rows", "columns"),
    [
        ("epoch_chinchilla.csv", 245, {}),
        ("gadre_overtraining.csv", 104, {"loss": "loss_c4_val", "N": "N"}),
        ("gemstones_cool_end.csv", 28, {}),
        ("gemstones_slim_chinchilla.csv", 199, {}),
        ("datablations_fit182.csv", 182, {}),
    ],
)
def test_the_files_of_published_papers_are_read(
    file: str, rows: int, columns: dict[str, str]
) -> None:
    with (DATA / "parametric" / file).open("rb") as stream:
        expected = sum(1 for _ in stream) - 1
    runs = read_runs(DATA / "parametric" / file, columns=columns)
    assert len(runs.loss) == expected
    assert (6 * runs.inputs["N"] * runs.inputs["D"] > 0).all()


@pytest.mark.parametrize(
    ("N", "D", "says"),
    [
        ("70", "1.4e12", "The largest N is 70 parameters: is column 'params' in millions"),
        ("7e7", "1400", "The largest D is 1400 tokens: is column 'tokens' in billions?"),
        ("26160", "696320", None),  # the demo's
    ],
)
def test_sizes_in_millions_are_asked_about(N: str, D: str, says: str | None) -> None:
    warnings = read(csv(f"params,tokens,loss\n{N},{D},3\n")).warnings
    assert [one[: len(says or "")] for one in warnings] == ([says] if says else [])
