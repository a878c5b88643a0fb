"""Bytes -> lines of bounded length, with their digest: of a 2 GB line one MiB is read."""

import gzip
import hashlib
from collections.abc import Iterator
from typing import BinaryIO, cast

from app.errors import ServiceError

MAX_LINE_BYTES = 1 << 20
MAX_UNPACKED_BYTES = 2 << 30
NO_TABLES = {b"PAR1": "a Parquet file", b"PK\x03\x04": "a zip archive or a spreadsheet"}


def unpacked(stream: BinaryIO) -> BinaryIO:
    """The stream, or what is packed in it. What can never be a table is refused by its name."""
    if not stream.seekable():
        return stream
    begin = stream.tell()
    first = stream.read(4)
    stream.seek(begin)
    if first.startswith(b"\x1f\x8b"):
        return cast(BinaryIO, _Gzip(fileobj=stream, mode="rb"))
    for mark, name in NO_TABLES.items():
        if first.startswith(mark):
            raise ServiceError(
                "invalid",
                f"This is {name}, and a table is read from CSV or JSON lines.",
                "Write it as CSV (pandas: DataFrame.to_csv), and gzip that if it is large.",
            )
    return stream


class _Gzip(gzip.GzipFile):
    """A gzip file that is read up to a limit: a few kilobytes may hold terabytes."""

    def readline(self, size: int | None = -1) -> bytes:
        line = super().readline(-1 if size is None else size)
        if self.tell() > MAX_UNPACKED_BYTES:
            raise ServiceError(
                "too_large",
                f"Unpacked, the file is larger than {MAX_UNPACKED_BYTES >> 20} MiB.",
                "Import it in parts.",
            )
        return line


class Lines:
    """The decoded lines of a binary stream, one at a time, with line endings kept.

    `number` is the line read last (from 1), `digest` the SHA-256 of everything read so far.
    """

    def __init__(self, stream: BinaryIO, max_line_bytes: int = MAX_LINE_BYTES) -> None:
        self._stream = stream
        self._max = max_line_bytes
        self._hash = hashlib.sha256()
        self.number = 0

    def __iter__(self) -> Iterator[str]:
        while raw := self._stream.readline(self._max + 1):
            self.number += 1
            if len(raw) > self._max:
                raise ServiceError(
                    "too_large",
                    f"Line {self.number} is longer than {self._max} bytes.",
                    "Put one run, or one step of a run, on each line. Is this a text file?",
                    row=self.number,
                    value=raw[:40].decode("utf-8", "replace"),
                )
            self._hash.update(raw)
            yield self._decoded(raw)

    def _decoded(self, raw: bytes) -> str:
        try:
            text = raw.decode("utf-8-sig" if self.number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise ServiceError(
                "invalid",
                f"Line {self.number} is not UTF-8 text.",
                "Save the file as UTF-8 (a spreadsheet calls it 'CSV UTF-8').",
                row=self.number,
                value=raw[error.start : error.start + 8].hex(" "),
            ) from None
        if "\x00" in text:
            raise ServiceError(
                "invalid",
                f"Line {self.number} has a NUL byte.",
                "This looks like a binary file or UTF-16: save it as UTF-8 text.",
                row=self.number,
            )
        return text

    @property
    def digest(self) -> str:
        return self._hash.hexdigest()
