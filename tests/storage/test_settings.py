"""Unsafe combinations are refused at start, and no secret is ever shown."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from app.settings import Settings

SECRET = "s3cret-s3cret-s3cret-s3cret"


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DATABASE_URL", "SCALEWRIGHT_DATABASE_URL", "SCALEWRIGHT_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)


def test_the_environment_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SCALEWRIGHT_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("SCALEWRIGHT_PORT", "9000")
    monkeypatch.setenv("SCALEWRIGHT_CORPUS_DIR", "/elsewhere")
    monkeypatch.setenv("DATABASE_URL", "postgres://u:p@h/d")
    settings = Settings()
    assert settings.database_url == "postgresql+psycopg://u:p@h/d"
    assert settings.port == 9000
    assert settings.checkpoint_dir == tmp_path / "checkpoints"
    assert settings.corpus_dir == Path("/elsewhere")
    assert settings.postgres_dir == tmp_path / "postgres"
    # what the code says wins, and our own name wins over the common one
    assert Settings(database_url="postgresql://h/mine").database_url.endswith("/mine")  # type: ignore[union-attr]
    monkeypatch.setenv("SCALEWRIGHT_DATABASE_URL", "postgresql://h/ours")
    assert Settings().database_url == "postgresql+psycopg://h/ours"
    assert Settings(database_url=None).database_url is None


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org", ""])
def test_an_open_host_asks_for_keys(host: str) -> None:
    with pytest.raises(ValidationError, match="SCALEWRIGHT_AUTH=keys"):
        Settings(host=host)
    assert Settings(host=host, auth="keys").host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.8.0.1"])
def test_loopback_needs_no_keys(host: str) -> None:
    assert Settings(host=host).auth == "none"


def test_secrets_are_not_shown() -> None:
    settings = Settings(
        database_url=f"postgresql://me:{SECRET}@h/d",
        auth="keys",
        admin_key=SECRET,  # type: ignore[arg-type]
    )
    assert SECRET not in repr(settings) + str(settings)
    for wrong in (
        {"database_url": f"mysql://me:{SECRET}@h/d"},
        {"admin_key": SECRET},  # without auth=keys
        {"database_url": f"postgresql://me:{SECRET}@h/d", "host": "0.0.0.0"},
    ):
        with pytest.raises(ValidationError) as error:
            Settings(**wrong)  # type: ignore[arg-type]
        assert SECRET not in str(error.value)


def test_a_key_that_could_be_guessed_is_refused() -> None:
    with pytest.raises(ValidationError, match="token_urlsafe"):
        Settings(auth="keys", admin_key="hunter2")  # type: ignore[arg-type]


def test_a_timeout_of_one_heartbeat_is_refused() -> None:
    with pytest.raises(ValidationError, match="two"):
        Settings(worker_heartbeat_seconds=5, worker_timeout_seconds=6)


def test_settings_do_not_change_under_way() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Settings().port = 1


def test_every_setting_is_documented() -> None:
    page = Path(__file__).parents[2] / "docs" / "operations" / "settings.md"
    documented = page.read_text()
    for name in Settings.model_fields:
        assert f"`SCALEWRIGHT_{name.upper()}`" in documented
