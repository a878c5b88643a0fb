"""A corpus of real text, what an undisturbed run makes of it, and a lab to disturb runs in."""

import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from app.services import corpora
from app.settings import Settings
from tests.workers.lab import Lab, config, points_of, train_alone
from tests.workers.s3_server import S3Server, serving


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


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with serving(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def s3(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    """An S3 server; this process, and what it starts, has its address and a key to it."""
    import s3fs

    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()  # they are kept by URL, whatever the key is by now
    yield s3_server
    s3fs.S3FileSystem.clear_instance_cache()
