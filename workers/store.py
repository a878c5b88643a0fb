"""Where checkpoints are shared: a folder or an object store, by URL; fsspec knows the differences.

The trainer writes to a local folder and knows of none of this. `file://` URLs and plain folders are
written under a temporary name, synced and renamed; an object store shows an object once it is
whole. Whatever the store, what is read is held against the recorded size and SHA-256, and
checkpoints are safetensors: nothing in them is executed.
"""

import hashlib
import os
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from app.storage.checkpoints import Checkpoint

_CHUNK = 8 * 1024 * 1024

# What is read is held against its SHA-256 in any case, and of several servers that speak S3 the
# checksum of a whole object comes with a part of it, which the driver refuses.
_OPTIONS = {"s3": {"config_kwargs": {"response_checksum_validation": "when_required"}}}
_HAVE_FOLDERS = ("file", "local", "sftp", "smb", "hdfs", "webhdfs")  # object stores have none


class StoreError(OSError):
    """The store does not answer, or refuses; it may do better later."""


class NoDriver(Exception):
    """The URL's kind of store needs a package that is not installed; the message names it."""


class Store(Protocol):
    """What a worker needs of a store. Errors that may pass are StoreErrors."""

    def put(self, local: Path, name: str) -> str:
        """Store the file; the URL that it is fetched by. Raises FileNotFoundError without it."""

    def get(self, url: str, to: Path) -> None:
        """Raises FileNotFoundError when the store has no such object."""

    def remove(self, url: str) -> None:
        """Remove it; not an error when it is not there."""

    def under(self, folder: str) -> list[str]:
        """The URLs of all that lies below it, half-written files too; none without the folder."""

    def holds(self, url: str) -> bool:
        """Whether it is a URL of this very store, whatever lies there."""


class FsspecStore:
    """A Store in any file system that fsspec has a driver for."""

    def __init__(self, url: str) -> None:
        import fsspec

        try:
            options = _OPTIONS.get(url.partition("://")[0], {})
            self._fs, self._root = fsspec.core.url_to_fs(url, **options)
        except ImportError as error:
            raise NoDriver(
                f"{url.partition('://')[0]}:// needs a package of its own: {error}"
            ) from None
        except ValueError as error:
            raise NoDriver(f"no such kind of store: {error}") from None
        self._renames = type(self._fs).__name__ == "LocalFileSystem"
        protocols = self._fs.protocol
        names = (protocols,) if isinstance(protocols, str) else protocols
        self._has_folders = not {*names}.isdisjoint(_HAVE_FOLDERS)

    def put(self, local: Path, name: str) -> str:
        path = f"{self._root.rstrip('/')}/{name}"
        if not local.is_file():
            raise FileNotFoundError(local)
        try:
            with _may_pass():
                if self._has_folders:  # elsewhere it would make a bucket of a misspelt name
                    self._fs.makedirs(path.rpartition("/")[0], exist_ok=True)
                if self._renames:
                    _copy_whole(local, Path(path))
                else:
                    self._fs.put_file(str(local), path)
        except FileNotFoundError:
            if local.is_file():  # so it is the store that has no such place
                raise StoreError("the checkpoint store: there is no such bucket") from None
            raise
        return str(self._fs.unstrip_protocol(path))

    def get(self, url: str, to: Path) -> None:
        with _may_pass():
            self._fs.get_file(self._fs._strip_protocol(url), str(to))

    def remove(self, url: str) -> None:
        with _may_pass():
            path = self._fs._strip_protocol(url)
            if self._fs.exists(path):
                self._fs.rm_file(path)

    def under(self, folder: str) -> list[str]:
        with _may_pass():
            self._fs.invalidate_cache()  # other workers write here too
            found = self._fs.find(f"{self._root.rstrip('/')}/{folder}")
            return [str(self._fs.unstrip_protocol(path)) for path in found]

    def holds(self, url: str) -> bool:
        return url.startswith(f"{self._fs.unstrip_protocol(self._root).rstrip('/')}/")


class _may_pass:
    """Drivers raise what their libraries raise; here it becomes one kind of error."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, Exception) and not isinstance(error, FileNotFoundError | StoreError):
            # the message may carry an address with a signature in it; the kind says enough
            raise StoreError(f"the checkpoint store: {type(error).__name__}") from error


def _copy_whole(source: Path, target: Path) -> None:
    temporary = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        with source.open("rb") as read, temporary.open("wb") as write:
            while chunk := read.read(_CHUNK):
                write.write(chunk)
            write.flush()
            os.fsync(write.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def is_url(path: str) -> bool:
    return "://" in path


def whole(path: Path, checkpoint: Checkpoint) -> bool:
    """Whether the file is what was recorded."""
    try:
        if path.stat().st_size != checkpoint.bytes:
            return False
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == checkpoint.sha256
    except OSError:
        return False


def localized(checkpoint: Checkpoint, store: Store | None, cache: Path) -> Checkpoint | None:
    """The checkpoint with the path of a file on this machine; None if it is gone or damaged.

    Raises StoreError when the store cannot be asked: that says nothing about the checkpoint.
    """
    if not is_url(checkpoint.path):
        return checkpoint if whole(Path(checkpoint.path), checkpoint) else None
    local = cache / f"{checkpoint.sha256}.safetensors"
    if not whole(local, checkpoint):
        if store is None:
            raise StoreError(
                f"the checkpoint lies in {checkpoint.path.partition('://')[0]}:// and this worker "
                "has no SCALEWRIGHT_CHECKPOINT_STORE"
            )
        cache.mkdir(parents=True, exist_ok=True)
        temporary = local.with_name(f".{local.name}.{os.getpid()}.part")
        try:
            store.get(checkpoint.path, temporary)
            if not whole(temporary, checkpoint):
                return None
            temporary.replace(local)
        except FileNotFoundError:
            return None
        finally:
            temporary.unlink(missing_ok=True)
    return replace(checkpoint, path=str(local))
