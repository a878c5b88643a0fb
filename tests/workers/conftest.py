"""A corpus of real text, what an undisturbed run makes of it, and a lab to disturb runs in."""

import sysconfig
from pathlib import Path

import pytest
from sqlalchemy import Engine

from app.services import corpora
from app.settings import Settings
from tests.workers.lab import Lab, config, points_of, train_alone


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Half a megabyte of the standard library's source."""
    folder = tmp_path_factory.mktemp("corpora")
    library = Path(sysconfig.get_paths()["stdlib"])
    corpora.build("code", [library / "asyncio", library / "json"], folder, validation_fraction=0.1)
    return folder / "code"


@pytest.fixture(scope="session")
def undisturbed(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> list:
    """The points of `lab.config(corpus)`, trained by nobody but the trainer."""
    return points_of(train_alone(tmp_path_factory.mktemp("alone"), config(corpus)))


@pytest.fixture
def lab(engine: Engine, settings: Settings, corpus: Path, tmp_path: Path) -> Lab:
    return Lab(engine, settings, corpus, tmp_path)
