"""The files that commands read: a path, a pipe (`<(...)`), or `-` for standard input.

A command reads a table more than once (which columns has it? then the rows) and a pipe gives its
bytes once, so what is no file on disk is kept in one for as long as the command runs.
"""

import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any, BinaryIO

import typer

STDIN = "-"


def on_disk(context: typer.Context, value: Any) -> Any:
    """A parameter's path, or list of them, with pipes kept on disk. None stays None."""
    if isinstance(value, list | tuple):
        return [on_disk(context, one) for one in value]
    if value is None:
        return None
    if str(value) != STDIN and not value.exists():
        raise typer.BadParameter(f"file {str(value)!r} does not exist.")
    if str(value) != STDIN and not value.is_fifo():
        return value
    folder = tempfile.TemporaryDirectory(prefix="scalewright-")
    context.call_on_close(folder.cleanup)
    if str(value) == STDIN:
        return _kept(sys.stdin.buffer, Path(folder.name))
    with value.open("rb") as stream:
        return _kept(stream, Path(folder.name))


def _kept(stream: BinaryIO, folder: Path) -> Path:
    """What the stream holds, in a file named stdin, with the ending that says what it is."""
    kept = folder / "stdin"
    with kept.open("wb") as file:
        shutil.copyfileobj(stream, file)
    return kept.rename(folder / f"stdin.{'jsonl' if _begins_an_object(kept) else 'csv'}")


def _begins_an_object(path: Path) -> bool:
    from app.errors import ServiceError
    from app.importers import opened

    try:
        with opened(path) as stream:
            return stream.read(4096).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{")
    except ServiceError:  # a Parquet file, half a gzip: the reader says so
        return False


# A parameter that is a file to read, for typer.Argument and typer.Option. (Not typer's own
# `exists` and `allow_dash`: together they refuse a `-` that is declared as a Path.)
READ: dict[str, Any] = {"dir_okay": False, "callback": on_disk}
