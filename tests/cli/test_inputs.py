"""Files as people have them: packed, piped, from standard input, or not what was asked for."""

import gzip
import io
import json
import os
import re
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import ROOT, Run

RUNS = ROOT / "docs" / "examples" / "runs.csv"
FIT = ("fit", "chinchilla")
FEW = ("--draws", 0, "--json")


@pytest.fixture
def piped(monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], None]:
    """Call it with bytes: they are what standard input holds."""

    def give(data: bytes) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))

    return give


@pytest.mark.parametrize(
    "command",
    [("task", "fit"), ("link", "fit"), ("link", "plan"), ("import",), ("sweep", "submit")],
    ids=" ".join,
)
def test_a_file_that_is_missing_is_asked_for_as_a_file(run: Run, command: tuple[str, ...]) -> None:
    done = run(*command)
    missing = re.search(r"Missing argument '(.*)'", done.err)
    assert done.code == 2 and missing and missing[1].endswith((".csv", ".json")), done.err


def test_standard_input_is_a_file(run: Run, piped: Callable[[bytes], None], tmp_path: Path) -> None:
    plain = run(*FIT, RUNS, *FEW).document
    piped(RUNS.read_bytes())
    assert run(*FIT, "-", *FEW).document["params"] == plain["params"]
    piped(gzip.compress(RUNS.read_bytes()))
    assert run(*FIT, "-", *FEW).document["params"] == plain["params"]
    header, *rows = (line.split(",") for line in RUNS.read_text().splitlines())
    lines = [json.dumps(dict(zip(header, row, strict=True))) for row in rows]
    piped("\n".join(lines).encode())
    assert run(*FIT, "-", *FEW).document["params"] == plain["params"]
    piped(b"")
    empty = run(*FIT, "-", *FEW)
    assert empty.code == 1 and "empty" in empty.err

    out = tmp_path / "fit.json"
    assert run(*FIT, RUNS, "--draws", 20, "--out", out).code == 0
    piped(out.read_bytes())
    said = run("predict", "-", "--point", "N=7e10,D=1.4e12", "--json").document
    assert said == run("predict", out, "--point", "N=7e10,D=1.4e12", "--json").document


def test_a_pipe_is_read_whole_though_a_table_is_read_twice(run: Run, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(RUNS.read_bytes(),))
    writer.start()
    done = run(*FIT, pipe, *FEW)
    writer.join()
    assert done.code == 0, done.err
    assert done.document["n_points"] == 42


def test_a_missing_file_is_wrong_usage_with_its_name(run: Run, tmp_path: Path) -> None:
    done = run(*FIT, tmp_path / "no.csv")
    assert done.code == 2 and "no.csv" in done.err and "RUNS.csv" in done.err
    assert run(*FIT, tmp_path).code == 2


def test_every_table_may_be_packed(run: Run, tmp_path: Path) -> None:
    """`docs/how-to/fit-from-csv.md`: CSV, JSON lines, or either one gzipped."""
    out = tmp_path / "fit.json"
    assert run(*FIT, RUNS, "--draws", 20, "--out", out).code == 0
    packed = tmp_path / "runs.csv.gz"
    packed.write_bytes(gzip.compress(RUNS.read_bytes()))
    assert len(run("predict", out, "--at", packed, "--json").document["predictions"]) == 42

    task = tmp_path / "task.csv.gz"
    rows = [f"{3 - i / 10},{0.25 + 0.07 * i}" for i in range(9)]
    task.write_bytes(gzip.compress("\n".join(["loss,acc", *rows]).encode()))
    found = run("task", "fit", task, "--column", "accuracy=acc", "--chance", 0.2, *FEW)
    assert found.code == 0 and found.document["n_points"] == 9, found.err

    steps = tmp_path / "steps.csv.gz"
    steps.write_bytes(gzip.compress(b"width,depth,seconds\n64,2,0.1\n"))
    family = [f"--family={one}" for one in ("vocab_size=256", "seq_len=64", "head_dim=16")]
    no_batch = run("time", "fit", steps, *family)
    assert no_batch.code == 1 and "--batch-tokens" in no_batch.err

    curve = tmp_path / "curve.csv.gz"
    curve.write_bytes(gzip.compress(b"run,step,loss\na,1,3\n"))
    no_rate = run("curve", "fit", "annealing", curve)
    assert no_rate.code == 1 and "neither a column lr" in no_rate.err


def test_a_parquet_file_is_named(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "runs.parquet"
    file.write_bytes(b"PAR1" + bytes(100) + b"PAR1")
    for command in (FIT, ("task", "fit"), ("curve", "fit", "auto"), ("link", "plan")):
        done = run(*command, file)
        assert done.code == 1 and "Parquet" in done.err, (command, done.err)


def test_what_json_printed_is_no_fit_and_says_what_it_lacks(run: Run, tmp_path: Path) -> None:
    printed = tmp_path / "printed.json"
    printed.write_text(run(*FIT, RUNS, *FEW).out)
    done = run("predict", printed, "--point", "N=1e9,D=1e10")
    assert done.code == 1 and "no 'draws'" in done.err and "--out" in done.err
    assert "KeyError" not in done.err


def test_no_file_is_called_dash(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = run(*FIT, RUNS, "--draws", 0, "--out", "-")
    assert done.code == 1 and not (tmp_path / "-").exists()


def test_an_option_of_the_source_without_a_link_is_not_passed_over(
    run: Run, tmp_path: Path
) -> None:
    points, out = tmp_path / "task.csv", tmp_path / "task.json"
    rows = [f"{3 - i / 10},{0.25 + 0.07 * i}" for i in range(9)]
    points.write_text("\n".join(["loss,accuracy", *rows]))
    assert run("task", "fit", points, "--chance", 0.2, "--draws", 0, "--out", out).code == 0
    assert run("task", "predict", out, "--loss", 2.5).code == 0
    for extra in (("--source-loss", 3), ("--flops", 1e20), ("--predicted",)):
        done = run("task", "predict", out, "--loss", 2.5, *extra)
        assert done.code == 2 and "--link" in done.err, extra


def test_flops_in_another_unit_are_said(run: Run, tmp_path: Path) -> None:
    """Petaflop-days and the like: 6 N D is off by twelve decades and more."""
    header, *rows = RUNS.read_text().splitlines()
    file = tmp_path / "days.csv"
    given = [row.split(",") for row in rows]
    days = [6 * float(n) * float(d) / 8.64e19 for _, n, d, _ in given]
    lines = [f"{row},{day}" for row, day in zip(rows, days, strict=True)]
    file.write_text("\n".join([f"{header},flops", *lines]))
    assert "1.2e-20 times 6 N D" in run(*FIT, file, *FEW).err
    exact = [f"{row},{day * 8.64e19 * 1.4}" for row, day in zip(rows, days, strict=True)]
    file.write_text("\n".join([f"{header},flops", *exact]))
    assert "times 6 N D" not in run(*FIT, file, *FEW).err


def test_a_document_that_names_a_member_twice_is_refused(run: Run, tmp_path: Path) -> None:
    sweep = tmp_path / "sweep.json"
    sweep.write_text('{"project": "p", "seed": 0, "seed": 1}')
    done = run("sweep", "submit", sweep)
    assert done.code == 1 and "'seed' is named more than once" in done.err


def test_a_small_gain_is_not_nothing(run: Run, tmp_path: Path) -> None:
    """A GPU-day (H100, 40% MFU: 3.4e19 FLOPs) is 3e-5 of 1e24 FLOPs: it buys below 5e-5 nats."""
    out = tmp_path / "fit.json"
    assert run(*FIT, RUNS, "--draws", 20, "--out", out).code == 0
    said = run("allocate", out, "--flops", 1e24).out
    (row,) = (line for line in said.splitlines() if "one GPU-day" in line)
    gain = float(row.split()[2])
    exact = run("allocate", out, "--flops", 1e24, "--json").document["more"]
    (day,) = (one["gain"] for one in exact if one["more"] == "one GPU-day")
    assert 0 < gain < 5e-5 and gain == pytest.approx(day, rel=0.06)
