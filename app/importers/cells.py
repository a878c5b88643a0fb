"""One cell -> one number, or a refusal that names its row, its value and the remedy.

Every number becomes a float before anything is multiplied: 6 N D of integers overflows int64.
"""

import math
import re
from typing import Any

from app.errors import ServiceError, shortened

_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")
_NOT_FINITE = {"nan", "inf", "infinity", "+inf", "-inf", "+infinity", "-infinity"}
_WITH_SUFFIX = re.compile(r"([+-]?\d+(?:\.\d+)?)\s*([kmbgtKMBGT])")
_SUFFIXES = {"k": "e3", "m": "e6", "b": "e9", "g": "e9", "t": "e12"}
LARGEST_EXACT_INTEGER = 2**53
MAX_NAME = 300


def number(cell: Any, row: int, column: str) -> float:
    """A finite float. Text that is a plain number counts; booleans, NaN and 7B do not."""
    if isinstance(cell, bool) or not isinstance(cell, str | int | float):
        if cell is None:
            raise _empty(row, column)
        raise _refused(cell, row, column, "is not a number", "Write a plain number: 7e9.")
    if isinstance(cell, str):
        text = cell.strip()
        if not text:
            raise _empty(row, column)
        if text.lower() in _NOT_FINITE:
            raise _not_finite(cell, row, column)
        if not _NUMBER.fullmatch(text):
            raise _refused(cell, row, column, "is not a number", _remedy(text))
        value = float(text)
    else:
        try:
            value = float(cell)
        except OverflowError:
            value = math.inf
    if not math.isfinite(value):
        raise _not_finite(cell, row, column)
    return value


def positive(cell: Any, row: int, column: str) -> float:
    """A finite float above zero: a loss, a count of parameters, tokens or FLOPs."""
    value = number(cell, row, column)
    if value <= 0:
        raise _refused(
            cell,
            row,
            column,
            "is not above zero",
            "Leave the row out, or correct the value: it must be a positive number.",
        )
    return value


def not_negative(cell: Any, row: int, column: str) -> float:
    value = number(cell, row, column)
    if value < 0:
        raise _refused(cell, row, column, "is negative", "Correct the value, or leave the row out.")
    return value


def step(cell: Any, row: int, column: str) -> int:
    """A whole number from 0 to 2^53; 1e3 and 1000.0 count as 1000."""
    value = number(cell, row, column)
    if value < 0 or value != math.floor(value) or value > LARGEST_EXACT_INTEGER:
        raise _refused(
            cell, row, column, "is not a whole number of steps", "Steps are 0, 1, 2, ..."
        )
    return int(value)


def label(cell: Any, row: int, column: str) -> str:
    """A run's name: any text that can be stored, or a number written out."""
    if isinstance(cell, bool) or not isinstance(cell, str | int | float):
        if cell is None:
            raise _empty(row, column)
        raise _refused(cell, row, column, "is not a name", "Give each run a short text.")
    text = str(cell).strip()
    if not text:
        raise _empty(row, column)
    if len(text) > MAX_NAME or not storable(text):
        raise _refused(
            cell,
            row,
            column,
            "cannot be a name",
            f"Use at most {MAX_NAME} characters, none of them a control character.",
        )
    return text


def storable(text: str) -> bool:
    """True for what Postgres can hold as text and a page can show on one line."""
    return not any(mark < " " or mark == "\x7f" or "\ud800" <= mark <= "\udfff" for mark in text)


def _remedy(text: str) -> str:
    suffixed = _WITH_SUFFIX.fullmatch(text)
    if suffixed:
        return f"Write it out: {suffixed[1]}{_SUFFIXES[suffixed[2].lower()]}."
    if _NUMBER.fullmatch(text.replace(",", "")):
        return "Write it without commas, with a point before the decimals."
    return "Write a plain number (7e9), or leave the row out."


def _empty(row: int, column: str) -> ServiceError:
    return ServiceError(
        "invalid",
        f"Row {row} has no value in column {column!r}.",
        "Fill it in, or leave the row out.",
        row=row,
        column=column,
    )


def _not_finite(cell: Any, row: int, column: str) -> ServiceError:
    return _refused(
        cell,
        row,
        column,
        "is not finite",
        "Leave the row out: a run that diverged says nothing about the law.",
    )


def _refused(cell: Any, row: int, column: str, what: str, hint: str) -> ServiceError:
    shown = shortened(cell, 60)
    return ServiceError(
        "invalid",
        f"Row {row}, column {column!r}: {shown!r} {what}.",
        hint,
        row=row,
        column=column,
        value=cell,
    )
