"""The one exception that services and importers raise, and the kinds it comes in.

A kind says what is wrong with the request, never which HTTP status it becomes: that table is in
`app/api/errors.py`, and the command line has exit codes of its own.
"""

from typing import Any, Literal, get_args

Kind = Literal[
    "not_found",  # there is no such thing
    "invalid",  # the input cannot be used as it stands
    "conflict",  # the input is fine, the state of the world is not
    "too_large",  # more than this service takes in one request
    "not_enough_data",  # nothing, or too little, to compute from
    "unauthenticated",  # no key, or not one of ours
    "forbidden",  # a key without the scope
    "unavailable",  # something this service stands on does not answer
]
KINDS: tuple[str, ...] = get_args(Kind)


class ServiceError(Exception):
    """A refusal: what was wrong, with the value, and what to do.

    message  a sentence with the offending value in it
    hint     the remedy, a sentence
    row      1-based row of a table as people see it (a CSV header is row 1), where there is one
    column   the column or field, where there is one
    value    the offending value as it was given (shortened)
    """

    def __init__(
        self,
        kind: Kind,
        message: str,
        hint: str = "",
        *,
        row: int | None = None,
        column: str | None = None,
        value: Any = None,
    ) -> None:
        super().__init__(message)
        self.kind: Kind = kind
        self.message = message
        self.hint = hint
        self.row = row
        self.column = column
        self.value = shortened(value)

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()

    def details(self) -> dict[str, Any]:
        """What travels with the message: only the parts that are known."""
        parts = {"hint": self.hint, "row": self.row, "column": self.column, "value": self.value}
        return {name: part for name, part in parts.items() if part not in (None, "")}


def not_found(what: str, key: object) -> ServiceError:
    """`what` is singular ("run"); `key` is how it was asked for."""
    return ServiceError(
        "not_found",
        f"There is no {what} {key}.",
        f"List the {what}s to see which there are.",
        value=str(key),
    )


def shortened(value: Any, limit: int = 200) -> Any:
    """A value fit to be shown: JSON-ready, and never a 2 GB line."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float) and value == value and abs(value) != float("inf"):
        return value
    text = value if isinstance(value, str) else str(value)
    text = text.encode("utf-8", "replace").decode("utf-8").replace("\x00", "\\x00")
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text)} characters)"
