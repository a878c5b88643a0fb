"""One JSON object a line, as trackers write them; or the same objects from a request's body."""

import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, BinaryIO

from app.errors import ServiceError
from app.importers.lines import MAX_LINE_BYTES, Lines
from app.importers.table import Table


def read(stream: BinaryIO, max_line_bytes: int = MAX_LINE_BYTES) -> Table:
    """The first object names the columns. Blank lines are passed over."""
    lines = Lines(stream, max_line_bytes)
    return _table("jsonl", _objects(lines), lambda: lines.digest)


def read_rows(rows: Iterable[Mapping[str, Any]]) -> Table:
    """Objects that are already parsed, numbered from 1."""
    listed = list(rows)
    text = json.dumps(listed, sort_keys=True, allow_nan=True, default=str)
    digest = hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()
    return _table("json", iter(enumerate(listed, 1)), lambda: digest)


def _table(format: str, objects: Iterator[tuple[int, Mapping[str, Any]]], digest: Any) -> Table:
    first = next(objects, None)
    if first is None:
        raise ServiceError(
            "invalid",
            "There are no rows.",
            'Give one object a row: {"N": 1e8, "D": 2e9, "loss": 3.1}.',
            row=1,
        )
    rows = itertools.chain([first], objects)
    return Table(format, list(first[1]), None, rows, digest)


def named_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """For `object_pairs_hook`: the object, or a ValueError where a name stands in it twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice!r} is named more than once")
    return found


def _objects(lines: Lines) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for line in lines:
        if not line.strip():
            continue
        row = lines.number
        try:
            value = json.loads(line, object_pairs_hook=named_once)
        except (ValueError, RecursionError) as error:
            raise ServiceError(
                "invalid",
                f"Line {row} is not JSON: {error}.",
                "Write one JSON object a line, each on a line of its own.",
                row=row,
                value=line.strip(),
            ) from None
        if not isinstance(value, dict):
            raise ServiceError(
                "invalid",
                f"Line {row} is not a JSON object.",
                'Write {"N": 1e8, "D": 2e9, "loss": 3.1} on each line.',
                row=row,
                value=line.strip(),
            )
        yield row, value
