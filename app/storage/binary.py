"""Rows in the binary format of COPY, made by numpy a block at a time.

https://www.postgresql.org/docs/current/sql-copy.html, "Binary Format": a header; per row a field
count, and per field its length and bytes. All fields but a text that is the same in every row have
one width, so that a block of rows is one array of records. A NULL has length -1 and no bytes, so
rows with one are cut out of their record.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

BLOCK_ROWS = 50_000
HEADER, TRAILER = b"PGCOPY\n\xff\r\n\0" + bytes(8), b"\xff\xff"


@dataclass(frozen=True)
class Field:
    """A column: `kind` is bigint, integer, float8 or text.

    values  an array; or one value, which every row then has
    nulls   NaN of a float8 stands for NULL
    """

    name: str
    kind: str
    values: NDArray[Any] | int | str
    nulls: bool = False


_LAYOUT = {"bigint": ">i8", "integer": ">i4", "float8": ">f8"}


def copied(fields: Sequence[Field], n_rows: int) -> Iterator[bytes]:
    """What COPY reads for `n_rows` rows of `fields`."""
    yield HEADER
    yield from records(fields, n_rows)
    yield TRAILER


def records(fields: Sequence[Field], n_rows: int) -> Iterator[bytes]:
    """The rows alone: several tables' worth may follow one header."""
    layout: list[tuple[str, str]] = [("fields", ">i2")]
    texts = {f.name: f.values.encode() for f in fields if isinstance(f.values, str)}
    for field in fields:
        kind = f"V{len(texts[field.name])}" if field.kind == "text" else _LAYOUT[field.kind]
        layout += [(f"length {field.name}", ">i4"), (field.name, kind)]
    for start in range(0, n_rows, BLOCK_ROWS):
        part = slice(start, min(start + BLOCK_ROWS, n_rows))
        made = np.empty(part.stop - part.start, dtype=layout)
        made["fields"] = len(fields)
        absent: NDArray[np.bool_] | None = None
        for field in fields:
            given = field.values
            values = given[part] if isinstance(given, np.ndarray) else given
            if field.kind == "text":
                made[field.name] = np.void(texts[field.name])
            else:
                made[field.name] = values
            where, offset = made.dtype.fields[field.name][:2]  # type: ignore[index]
            made[f"length {field.name}"] = where.itemsize
            if field.nulls and (unknown := np.isnan(values)).any():
                if absent is None:
                    absent = np.zeros((len(made), made.dtype.itemsize), dtype=bool)
                made[f"length {field.name}"][unknown] = -1
                absent[unknown, offset : offset + where.itemsize] = True
        if absent is None:
            yield made.tobytes()
        else:
            yield made.view(np.uint8).reshape(len(made), -1)[~absent].tobytes()
