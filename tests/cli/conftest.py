"""Running the command line, in this process and as the installed program."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from app import cli

ROOT = Path(__file__).resolve().parents[2]
# Nothing listens on port 1: a command on plain files that touches a database fails at once.
DEAD_DATABASE = "postgresql://nobody@127.0.0.1:1/none"


@dataclass(frozen=True)
class Done:
    """What a command said, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """The one JSON document on stdout: refuses NaN, Infinity and anything around it."""

        def refuse(word: str) -> None:
            raise AssertionError(f"{word} is not JSON")

        return json.loads(self.out, parse_constant=refuse)


Run = Callable[..., Done]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """The console entry, called in this process, with a database that does not answer."""
    monkeypatch.setenv("DATABASE_URL", DEAD_DATABASE)
    monkeypatch.setenv("SCALEWRIGHT_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("COLUMNS", "160")

    def call(*arguments: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["scalewright", *map(str, arguments)])
        capsys.readouterr()
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        said = capsys.readouterr()
        assert not (tmp_path / "data").exists(), "a command on plain files made a data folder"
        return Done(code, said.out, said.err)

    return call


@pytest.fixture(scope="session")
def run_program() -> Run:
    """The same in a process of its own, as people start it."""

    def call(*arguments: object, **variables: str) -> Done:
        done = subprocess.run(
            [sys.executable, "-m", "app.cli", *map(str, arguments)],
            cwd=ROOT,
            env={**os.environ, "DATABASE_URL": DEAD_DATABASE, "COLUMNS": "160", **variables},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=600,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    return call


@pytest.fixture(scope="session")
def data() -> Path:
    """Real runs of other people; skips where the folder is missing."""
    folder = Path(os.environ.get("SCALING_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"{folder} is missing: set SCALING_DATA to the folder with the runs")
    return folder
