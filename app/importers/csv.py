"""Comma-, semicolon- or tab-separated text with a header in its first row."""

import csv
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

from app.errors import ServiceError
from app.importers.columns import listed
from app.importers.lines import MAX_LINE_BYTES, Lines
from app.importers.table import Table

csv.field_size_limit(MAX_LINE_BYTES)


def read(stream: BinaryIO, max_line_bytes: int = MAX_LINE_BYTES) -> Table:
    """Reads the header now and the rows as they are asked for.

    Rows are numbered as a spreadsheet does: the header is row 1. A quoted cell may span lines, but
    no cell is longer than a line may be. Blank rows are passed over.
    """
    lines = Lines(stream, max_line_bytes)
    text = iter(lines)
    first = next(text, "")
    if not first.strip():
        raise ServiceError(
            "invalid",
            "The file is empty." if not first else "The first row is blank.",
            "The first row names the columns: N,D,loss or run,step,loss.",
            row=1,
        )
    delimiter = _delimiter(first)
    records = _records(first, text, delimiter)
    _, header = next(records)
    header = [name.strip() for name in header]
    repeated = sorted({name for name in header if header.count(name) > 1 and name})
    if repeated:
        raise ServiceError(
            "invalid",
            f"The header names {listed(repeated)} more than once.",
            "Give every column a name of its own.",
            row=1,
            column=repeated[0],
        )
    return Table("csv", header, 1, _rows(header, records), lambda: lines.digest)


def _delimiter(header: str) -> str:
    for mark in (",", "\t", ";"):
        if mark in header:
            return mark
    return ","


def _records(first: str, rest: Iterator[str], delimiter: str) -> Iterator[tuple[int, list[str]]]:
    def lines() -> Iterator[str]:
        yield first
        yield from rest

    reader = csv.reader(lines(), delimiter=delimiter, strict=True)
    row = 0
    while True:
        row += 1
        try:
            record = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise ServiceError(
                "invalid",
                f"Row {row} cannot be read as CSV: {error}.",
                'Close every quote; a quote inside a quoted cell is doubled ("").',
                row=row,
            ) from None
        yield row, record


def _rows(
    header: list[str], records: Iterator[tuple[int, list[str]]]
) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for row, record in records:
        if not record or not any(cell.strip() for cell in record):
            continue
        if len(record) != len(header):
            raise ServiceError(
                "invalid",
                f"Row {row} has {len(record)} cells where the header has {len(header)}.",
                "Give every row one cell a column; quote a cell that holds the separator.",
                row=row,
                value=",".join(record)[:100],
            )
        yield row, dict(zip(header, record, strict=True))
