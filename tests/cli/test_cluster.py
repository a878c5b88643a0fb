"""The batch script of `cluster slurm`: what it says, what it never says, what is refused.

That a Slurm runs it is held by tests/acceptance/test_slurm.py.
"""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner

from app.cli import app
from app.cli_output import refusal
from app.settings import Settings
from app.storage import embedded
from tests.ports import free_port

PASSWORD = "s3cret-of-the-database"
URL = f"postgresql://me:{PASSWORD}@db.example:5432/scalewright"


@pytest.fixture(autouse=True)
def environment(monkeypatch, tmp_path) -> None:
    for name in list(os.environ):
        if name.startswith(("SCALEWRIGHT_", "DATABASE_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("SCALEWRIGHT_DATA_DIR", str(tmp_path))


def slurm(*arguments: str):
    return CliRunner().invoke(app, ["cluster", "slurm", *arguments])


def dry_run(*arguments: str) -> str:
    done = slurm("--dry-run", *arguments)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_the_script_says_what_was_asked_for_and_no_secret(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("DATABASE_URL", URL)
    text = dry_run(
        *("--array", "8", "--gpus", "1", "--at-once", "4", "--time", "1-12:00:00"),
        *("--partition", "gpu,spot", "--mem", "16G", "--python", "/opt/venv/bin/python"),
    )
    assert PASSWORD not in text and "db.example" not in text
    directives = re.findall(r"(?m)^#SBATCH (.*)$", text)
    assert {
        "--array=1-8%4",
        "--gpus=1",
        "--time=1-12:00:00",
        "--partition=gpu,spot",
        "--mem=16G",
        "--signal=B:TERM@60",
        "--requeue",
        "--open-mode=append",
    } <= set(directives)
    # sbatch stops reading directives at the first command
    assert text.index("#SBATCH --export=ALL") < text.index("export OMP_NUM_THREADS")
    assert "/opt/venv/bin/python -m workers --drain &" in text
    assert f"export SCALEWRIGHT_CHECKPOINT_DIR={tmp_path}/checkpoints" in text


def test_gpus_are_shared_out_as_the_worker_does_it(monkeypatch) -> None:
    monkeypatch.setenv("DATABASE_URL", URL)
    text = dry_run("--gpus", "4", "--gpus-per-run", "4")
    assert "#SBATCH --gpus=4" in text and "-m workers --gpus-per-run 4 --drain &" in text
    assert "-m workers --runs-per-gpu 3 --drain &" in dry_run("--gpus", "1", "--runs-per-gpu", "3")
    for wrong in (
        ("--gpus", "2", "--gpus-per-run", "4"),
        ("--runs-per-gpu", "2"),
        ("--gpus", "2", "--gpus-per-run", "2", "--runs-per-gpu", "2"),
    ):
        said = refusal(slurm("--dry-run", *wrong).exception)
        assert said is not None and wrong[-2] in said["message"], wrong


def test_without_a_database_that_nodes_can_reach_it_is_refused(monkeypatch) -> None:
    said = refusal(slurm("--dry-run").exception)
    assert said is not None and "DATABASE_URL" in said["hint"]
    monkeypatch.setenv("DATABASE_URL", "postgresql://me@localhost/db")
    assert "other nodes will not reach it" in slurm("--dry-run").stderr


def test_the_address_may_lie_in_a_file_that_only_its_owner_reads(tmp_path, monkeypatch) -> None:
    file = tmp_path / "url"
    file.write_text(URL + "\n")
    file.chmod(0o640)
    said = refusal(slurm("--dry-run", "--database-url-file", str(file)).exception)
    assert said is not None and said["hint"] == f"Run: chmod 600 {file}"
    file.chmod(0o600)
    text = dry_run("--database-url-file", str(file))
    assert f"export SCALEWRIGHT_DATABASE_URL_FILE={file}" in text and PASSWORD not in text
    monkeypatch.setenv("SCALEWRIGHT_DATABASE_URL_FILE", str(file))
    settings = Settings()
    assert settings.database_url == URL.replace("postgresql:", "postgresql+psycopg:")
    assert PASSWORD not in repr(settings)
    file.write_text("mysql://root@db/x")
    with pytest.raises(ValueError, match="only Postgres"):
        Settings()


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--partition", "gpu; rm -rf /"),
        ("--partition", "gpu\n#SBATCH --wrap=x"),
        ("--account", "$(id)"),
        ("--qos", "-x"),
        ("--constraint", "a&b"),
        ("--time", "soon"),
        ("--mem", "16 G"),
        ("--job-name", "a b"),
        ("--log-dir", "/tmp/a b"),
        ("--log-dir", "/tmp/%x"),
        ("--python", "/bin/sh -c 'id' #"),
        ("--array", "0"),
        ("--gpus", "-1"),
        ("--grace", "5"),
    ],
)
def test_what_sbatch_or_a_shell_could_misread_is_refused(monkeypatch, option, value) -> None:
    monkeypatch.setenv("DATABASE_URL", URL)
    said = refusal(slurm("--dry-run", option, value).exception)
    assert said is not None and option in said["message"]
    assert "\\d" not in str(said) and "[A-Z" not in str(said), "words, no pattern"


def test_a_folder_with_odd_characters_is_quoted(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("DATABASE_URL", URL)
    odd = tmp_path / "it's $(touch here)"
    monkeypatch.setenv("SCALEWRIGHT_CHECKPOINT_DIR", str(odd))
    line = next(x for x in dry_run().splitlines() if x.startswith("export SCALEWRIGHT_CHECK"))
    assert shlex.split(line) == ["export", f"SCALEWRIGHT_CHECKPOINT_DIR={odd}"]
    said = subprocess.run(
        ["bash", "-c", f'{line}\nprintf %s "$SCALEWRIGHT_CHECKPOINT_DIR"'],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=True,
    )
    assert said.stdout == str(odd) and not (tmp_path / "here").exists()


SBATCH = """#!/bin/sh
env > "$0.environment"
cat "$2" > "$0.script"
echo "4711;somewhere"
"""


def test_sbatch_gets_the_address_and_no_other_secret(monkeypatch, tmp_path) -> None:
    """A stand-in for sbatch writes down what it was given."""
    program = tmp_path / "bin" / "sbatch"
    program.parent.mkdir()
    program.write_text(SBATCH)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("DATABASE_URL", URL)
    monkeypatch.setenv("SCALEWRIGHT_API_KEY", "a-key-of-the-client")
    done = slurm()
    assert done.exit_code == 0 and done.stdout == "4711\n"
    assert PASSWORD not in done.output
    environment = Path(f"{program}.environment").read_text()
    assert URL in environment and "a-key-of-the-client" not in environment
    file = tmp_path / "url"
    file.write_text(URL)
    file.chmod(0o600)
    assert slurm("--database-url-file", str(file)).exit_code == 0
    assert PASSWORD not in Path(f"{program}.environment").read_text()
    assert PASSWORD not in Path(f"{program}.script").read_text()


WORKER = """
import signal, sys, time
asked = []
signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
print("up", flush=True)
while not asked:
    time.sleep(0.02)
time.sleep(0.3)
print("stopped in good order", len(asked), flush=True)
"""


@pytest.mark.parametrize("state", ["RUNNING", "COMPLETING"])
def test_the_script_hands_sigterm_on_and_asks_for_a_requeue(monkeypatch, tmp_path, state) -> None:
    """In bash itself, with stand-ins for the worker and Slurm's two commands."""
    monkeypatch.setenv("DATABASE_URL", URL)
    commands = tmp_path / "bin"
    (tmp_path / "worker.py").write_text(WORKER)
    commands.mkdir()
    for name, body in (
        ("python", f'exec "{sys.executable}" "{tmp_path}/worker.py"'),
        ("squeue", f'[ "$3" = 7_2 ] && echo {state}'),
        ("scontrol", 'echo "scontrol $*"'),
    ):
        (commands / name).write_text(f"#!/bin/sh\n{body}\n")
        (commands / name).chmod(0o755)
    path = tmp_path / "job.sh"
    path.write_text(dry_run("--python", str(commands / "python")))
    slurm_gives = {"SLURM_JOB_ID": "9", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "2"}
    job = subprocess.Popen(
        ["bash", str(path)],
        env={"PATH": f"{commands}:{os.environ['PATH']}", **slurm_gives},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert job.stdout is not None and job.stdout.readline() == "up\n"
    while psutil.Process(job.pid).status() != psutil.STATUS_SLEEPING:
        time.sleep(0.01)  # until it waits for its worker
    job.send_signal(signal.SIGTERM)
    said, _ = job.communicate(timeout=300)
    assert "stopped in good order 1" in said
    assert ("scontrol requeue 7_2" in said) == (state == "RUNNING")
    assert job.returncode == 0


@pytest.fixture
def over_tcp() -> Iterator[str]:
    """The URL of a Postgres that listens on 127.0.0.1, as that of a cluster does on its network."""
    folder = Path(tempfile.mkdtemp(prefix="scalewright-test-"))
    folder.chmod(0o755)  # root's Postgres runs as a system user
    try:
        for more in (2, 1, 0):
            port = free_port()
            asked = {"listen_addresses": "127.0.0.1", "port": str(port), "fsync": "off"}
            try:
                embedded.start_server(folder / "postgres", asked)
                break
            except embedded.EmbeddedServerError as error:  # somebody was faster
                if not more or "could not bind" not in str(error):
                    raise
        yield f"postgresql://postgres@127.0.0.1:{port}/postgres"
    finally:
        embedded.stop_server(folder / "postgres", immediately=True)
        shutil.rmtree(folder)


def test_a_worker_finds_its_database_over_the_network_by_the_file(over_tcp, tmp_path) -> None:
    file = tmp_path / "url"
    file.write_text(over_tcp)
    file.chmod(0o600)
    environment = {**os.environ, "SCALEWRIGHT_DATABASE_URL_FILE": str(file)}
    for command in (["app.cli", "db", "upgrade"], ["workers", "--drain", "--concurrency", "1"]):
        done = subprocess.run(
            [sys.executable, "-m", *command],
            cwd=Path(__file__).resolve().parents[2],
            env=environment,
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, done.stderr
    assert '"worker stopped"' in done.stderr and over_tcp not in done.stderr
    assert not (tmp_path / "postgres").exists()  # it started none of its own
