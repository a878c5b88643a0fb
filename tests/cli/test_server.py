"""Commands and the README's curl lines against a real server on a real database."""

import gzip
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from .conftest import ROOT, Run

pytest.importorskip("app.main", exc_type=ImportError)

RUNS = ROOT / "docs" / "examples" / "runs.csv"


@pytest.fixture(scope="module")
def server(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`scalewright serve --port 0`, as a process of its own; its URL."""
    folder = tmp_path_factory.mktemp("data")
    log = folder / "log"
    variables = {**os.environ, "DATABASE_URL": database_url, "SCALEWRIGHT_DATA_DIR": str(folder)}
    for name in ("SCALEWRIGHT_HOST", "SCALEWRIGHT_LOG_LEVEL"):
        variables.pop(name, None)
    with log.open("w") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "app.cli", "serve", "--port", "0"],
            cwd=ROOT,
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
        )
    try:
        deadline = time.monotonic() + 300
        while not (running := re.search(r"running on (http://127\.0\.0\.1:\d+)", log.read_text())):
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        assert httpx2.get(f"{running[1]}/v1/health", timeout=60).status_code == 200
        yield running[1]
    finally:
        process.terminate()
        try:
            code = process.wait(120)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    assert code in (0, -15), log.read_text()


@pytest.fixture
def here(run: Run, server: str, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("SCALEWRIGHT_SERVER", server)
    return run


def test_runs_are_imported_listed_and_shown(here: Run, tmp_path: Path) -> None:
    done = here("import", RUNS, "--project", "cli", "--validation-set", "c4", "--json")
    assert done.code == 0, done.err
    assert done.document["n_runs"] == 42
    listed = here("runs", "list", "--project", "cli", "--limit", 500, "--json")
    assert len(listed.document) == 42
    assert len(here("runs", "list", "--project", "cli", "--limit", 7, "--json").document) == 7
    shown = here("runs", "show", listed.document[0]["id"])
    assert shown.code == 0 and "loss on c4" in shown.out

    packed = tmp_path / "runs.csv.gz"
    packed.write_bytes(gzip.compress(Path(RUNS).read_bytes()))
    unpacked = here("import", packed, "--project", "cli packed", "--json")
    assert unpacked.document["n_runs"] == 42, unpacked.err

    again = here("import", RUNS, "--project", "cli", "--json")
    assert again.code == 1 and again.document["hint"]
    bad = tmp_path / "bad.csv"
    bad.write_text("N,D,loss\n1e8,1e9,3\n1e8,-2e9,3\n")
    refused = here("import", bad, "--project", "cli", "--json")
    assert refused.code == 1 and refused.document["row"] == 3
    assert len(here("runs", "list", "--project", "cli", "--limit", 500, "--json").document) == 42


def test_a_cancelled_run_that_is_not_there_is_refused(here: Run) -> None:
    done = here("runs", "cancel", 999999, "--json")
    assert done.code == 1 and "999999" in done.err


def test_a_run_that_ended_well_is_not_tried_again(here: Run) -> None:
    assert here("import", RUNS, "--project", "again", "--json").code == 0
    (run,) = here("runs", "list", "--project", "again", "--limit", 1, "--json").document
    done = here("runs", "retry", run["id"], "--json")
    assert done.code == 1 and "only a run that ended short" in done.document["message"]
    assert here("runs", "retry", 999999).code == 1


def test_a_sweep_that_names_no_corpus_is_refused_with_the_remedy(here: Run, tmp_path: Path) -> None:
    page = (ROOT / "docs" / "how-to" / "run-a-sweep.md").read_text("utf-8")
    (spec,) = re.findall(r"(?ms)^```json\n(.*?)^```", page)
    file = tmp_path / "sweep.json"
    file.write_text(spec)
    done = here("sweep", "submit", file, "--project", "planned")
    assert done.code == 1 and "corpus" in done.err


def test_nan_in_a_sweep_is_refused(here: Run, tmp_path: Path) -> None:
    file = tmp_path / "sweep.json"
    file.write_text('{"budgets_flops": [NaN]}')
    done = here("sweep", "submit", file, "--project", "cli", "--json")
    assert done.code == 1 and "finite" in done.document["hint"]


def test_an_import_makes_no_project_without_a_name(server: str) -> None:
    for name in ("", "x" * 301, " edge"):
        sent = httpx2.post(
            f"{server}/v1/imports",
            data={"project": name},
            files={"file": ("runs.csv", b"N,D,loss\n1e8,1e9,3\n")},
        )
        assert sent.status_code == 422, name


def test_the_curl_lines_of_the_readme_work(server: str, tmp_path: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not here")
    text = (ROOT / "README.md").read_text("utf-8")
    (script,) = (b for b in re.findall(r"(?ms)^```sh\n(.*?)^```", text) if "curl" in b)
    assert len(script.strip().splitlines()) == 5
    script = script.replace("http://127.0.0.1:8421", server).replace(
        "curl -s", "curl -sS -f -w '\\n'"
    )
    done = subprocess.run(
        ["bash", "-ec", script], cwd=ROOT, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr
    fitted = httpx2.get(f"{server}/v1/fits/1", timeout=60).json()
    assert fitted["law"] == "chinchilla" and fitted["status"] == "converged"
    assert '"predictions"' in done.stdout and '"optimal"' in done.stdout


def test_a_calibration_is_kept_in_the_service(here: Run, server: str, tmp_path: Path) -> None:
    rows = [
        f"{width},{depth},{3e-9 * depth * width * width + 1e-5 * depth}"
        for width, depth in ((256, 4), (256, 12), (512, 8), (512, 16), (768, 4), (1024, 12))
    ]
    steps, model = tmp_path / "steps.csv", tmp_path / "step_time.json"
    steps.write_text("\n".join(["width,depth,seconds", *rows]))
    fitted = here("time", "fit", steps, "--batch-tokens", 65536, "--out", model)
    assert fitted.code == 0, fitted.err
    kept = here("time", "keep", model, "--json")
    assert kept.code == 0, kept.err
    stored = httpx2.get(f"{server}/v1/calibrations/{kept.document['id']}", timeout=60).json()
    written = json.loads(model.read_text())
    assert stored["document"]["coefficients"] == written["coefficients"]
    steps.write_text("not a calibration")
    refused = here("time", "keep", steps)
    assert refused.code != 0 and "not JSON" in refused.err
