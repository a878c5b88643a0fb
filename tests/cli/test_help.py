"""Every command explains itself."""

import os

import pytest
import typer.main

from app import cli
from app.cli import app
from app.cli_docs_reference import commands

from .conftest import Run

NAMES = [name.split()[1:] for name, _ in commands(typer.main.get_command(app), "scalewright")]
# `worker` becomes `python -m workers`, which explains itself
EXPLAINED = [name for name in NAMES if name != ["worker"]]


@pytest.mark.parametrize("name", EXPLAINED, ids=" ".join)
def test_help_of_every_command(run: Run, name: list[str]) -> None:
    done = run(*name, "--help")
    assert done.code == 0 and "Usage" in done.out


def test_the_commands_that_are_laid_down_are_there() -> None:
    there = {" ".join(name) for name in NAMES}
    assert there >= {
        *("laws", "fit", "predict", "allocate", "openapi"),
        *("serve", "worker", "demo", "import"),
        *("db upgrade", "db status", "db stop", "sweep submit", "sweep watch"),
        *("runs list", "runs show", "runs cancel", "corpus build", "corpus list"),
        *("keys create", "keys list", "keys revoke"),
    }


def test_no_argument_prints_the_help(run: Run) -> None:
    done = run()
    assert done.code == 2 and "Usage" in done.out + done.err


def test_the_version_is_the_distributions(run: Run) -> None:
    from importlib.metadata import version

    assert run("--version").out.strip() == version("scalewright")


@pytest.mark.parametrize(("said", "kept"), [(None, "1"), ("3", "3")])
def test_one_thread_unless_told(
    run: Run, monkeypatch: pytest.MonkeyPatch, said: str | None, kept: str
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", said or "")
    if said is None:
        monkeypatch.delenv("OMP_NUM_THREADS")
    seen = []
    monkeypatch.setattr(cli, "app", lambda: seen.append(os.environ["OMP_NUM_THREADS"]))
    assert run().code == 0 and seen == [kept]
