"""A table being read: its header and its rows, one at a time, numbered as people see them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Table:
    """What every format is read into.

    header      the columns, in order
    header_row  1 for a CSV, None where rows carry their own names
    rows        (row number, {column: cell}); a cell is text or a JSON value; may be read once
    digest      call it after the rows are read: SHA-256 of the source
    """

    format: str
    header: Sequence[str]
    header_row: int | None
    rows: Iterator[tuple[int, Mapping[str, Any]]]
    digest: Callable[[], str]
