"""Every setting of the application, read once from the environment and checked at start.

Each field is set by SCALEWRIGHT_<NAME>; the database also by the usual DATABASE_URL. Combinations
that would expose the service, or lose runs, are refused here, at start, with what to do instead.
"""

import ipaddress
import os
from pathlib import Path
from typing import Literal, Self

from pydantic import AliasChoices, Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

MIN_ADMIN_KEY_CHARACTERS = 24


def default_data_dir() -> Path:
    """Where this user's data lives when nothing is said.

    Root gets a folder outside its home: the embedded server runs as a system user of its own, and
    root's home is closed to it.
    """
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        return Path("/var/lib/scalewright")
    home = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(home) / "scalewright"


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Settings(BaseSettings):
    """One value for the whole application; `Settings()` reads the environment.

    Raises pydantic's ValidationError, whose message names the setting and the remedy and never the
    value (it may be a secret).
    """

    model_config = SettingsConfigDict(
        env_prefix="SCALEWRIGHT_",
        populate_by_name=True,
        frozen=True,
        extra="ignore",
        hide_input_in_errors=True,
    )

    data_dir: Path = Field(
        default_factory=default_data_dir,
        description="Where everything is kept: the embedded Postgres, corpora, checkpoints. "
        "Default: ~/.local/share/scalewright; /var/lib/scalewright for root.",
    )
    database_url: str | None = Field(
        default=None,
        repr=False,
        validation_alias=AliasChoices("SCALEWRIGHT_DATABASE_URL", "DATABASE_URL"),
        description="A Postgres of yours (DATABASE_URL does the same); without it the application "
        "starts its own in the data folder.",
    )
    database_url_file: Path | None = Field(
        default=None,
        repr=False,
        description="A file that holds that URL, as Docker, Kubernetes and Slurm hand out secrets; "
        "the URL itself, where both are given, comes first.",
    )
    database_pool_size: int = Field(
        default=10, ge=1, le=1000, description="Connections that one process keeps open."
    )

    host: str = Field(
        default="127.0.0.1",
        description="Address to listen on; other machines can reach it only with keys.",
    )
    port: int = Field(
        default=8421, ge=0, le=65535, description="Port to listen on; 0 takes a free one."
    )
    auth: Literal["none", "keys"] = Field(
        default="none", description="'keys': every request carries a bearer API key."
    )
    admin_key: SecretStr | None = Field(
        default=None, description="A first key with every scope, to make the others with."
    )

    checkpoint_dir: Path = Field(
        default=Path("checkpoints"),
        validate_default=True,
        description="Checkpoints of runs; relative paths lie in the data folder.",
    )
    checkpoint_store: str | None = Field(
        default=None,
        description="URL of a store that every worker reaches (s3://bucket/folder, "
        "file:///shared/folder); checkpoints go there from the checkpoint folder, which is then "
        "each machine's own. Credentials are the driver's business, not the URL's.",
    )
    corpus_dir: Path = Field(
        default=Path("corpora"),
        validate_default=True,
        description="Text to train on; relative paths lie in the data folder.",
    )

    worker_heartbeat_seconds: float = Field(
        default=2.0, gt=0, description="How often a worker says that it lives."
    )
    worker_timeout_seconds: float = Field(
        default=6.0, gt=0, description="Silence after which its run goes to another worker."
    )
    reaper_seconds: float = Field(
        default=5.0, gt=0, description="How often silent workers are looked for."
    )
    worker_max_failures: int = Field(
        default=3, ge=0, description="Failures after which a run is not tried again."
    )

    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="debug, info, warning or error."
    )
    log_format: Literal["text", "json"] = Field(default="text", description="text or json.")

    @field_validator("data_dir")
    @classmethod
    def _absolute(cls, path: Path) -> Path:
        return path.expanduser().absolute()

    @field_validator("database_url")
    @classmethod
    def _psycopg(cls, url: str | None) -> str | None:
        return None if not url else with_driver(url)

    @model_validator(mode="after")
    def _url_from_file(self) -> Self:
        if self.database_url is None and self.database_url_file is not None:
            try:
                url = self.database_url_file.expanduser().read_text().strip()
            except OSError as error:
                raise ValueError(
                    f"the file with the database's URL, {self.database_url_file}, cannot be read: "
                    f"{error.strerror}"
                ) from None
            if not url:
                raise ValueError(f"{self.database_url_file} holds no database URL")
            # the model is frozen for its users; reading what it names is part of making it
            self.__dict__["database_url"] = with_driver(url)
        return self

    @field_validator("checkpoint_store")
    @classmethod
    def _store_url(cls, url: str | None) -> str | None:
        if not url:
            return None
        scheme, separator, rest = url.partition("://")
        if not separator or not scheme.isalnum() or not rest:
            raise ValueError("not a URL such as s3://bucket/folder or file:///shared/folder")
        user, at, _ = rest.partition("/")[0].rpartition("@")
        if at and ":" in user:
            raise ValueError(
                "has a password in it, which would be stored with every checkpoint; give the "
                "credentials to the driver (for s3: AWS_ACCESS_KEY_ID, or a profile)"
            )
        return url

    @field_validator("admin_key")
    @classmethod
    def _long_enough(cls, key: SecretStr | None) -> SecretStr | None:
        if key is not None and len(key.get_secret_value()) < MIN_ADMIN_KEY_CHARACTERS:
            raise ValueError(
                f"shorter than {MIN_ADMIN_KEY_CHARACTERS} characters; make one with "
                "`python -c 'import secrets; print(secrets.token_urlsafe(32))'`"
            )
        return key

    @model_validator(mode="after")
    def _safe(self) -> Self:
        for name in ("checkpoint_dir", "corpus_dir"):
            path = getattr(self, name).expanduser()
            # the model is frozen for its users; joining under data_dir is part of making it
            self.__dict__[name] = path if path.is_absolute() else self.data_dir / path
        if not is_loopback(self.host) and self.auth != "keys":
            raise ValueError(
                f"host {self.host} can be reached from other machines and no API keys are asked "
                "for: set SCALEWRIGHT_AUTH=keys, or keep SCALEWRIGHT_HOST=127.0.0.1"
            )
        if self.admin_key is not None and self.auth != "keys":
            raise ValueError(
                "SCALEWRIGHT_ADMIN_KEY is set but keys are not asked for: "
                "set SCALEWRIGHT_AUTH=keys, or remove the key"
            )
        if self.worker_timeout_seconds < 2 * self.worker_heartbeat_seconds:
            raise ValueError(
                f"worker_timeout_seconds={self.worker_timeout_seconds:g} is less than two "
                f"heartbeats ({self.worker_heartbeat_seconds:g} s each): one late beat would take "
                "a healthy run away from its worker"
            )
        return self

    @property
    def postgres_dir(self) -> Path:
        """The embedded server's data folder."""
        return self.data_dir / "postgres"


def with_driver(url: str) -> str:
    """The URL as SQLAlchemy wants it, for psycopg 3; other databases are refused."""
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in ("postgres", "postgresql", "postgresql+psycopg"):
        raise ValueError(
            "only Postgres is supported: postgresql://user:password@host:5432/database "
            "(or unset DATABASE_URL to use the embedded server)"
        )
    return f"postgresql+psycopg://{rest}"
