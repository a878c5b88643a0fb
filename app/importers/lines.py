"""Bytes -> lines of bounded length, with their digest: of a 2 GB line one MiB is read."""

import hashlib
from collections.abc import Iterator
from typing import BinaryIO

from app.errors import ServiceError

MAX_LINE_BYTES = 1 << 20


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
