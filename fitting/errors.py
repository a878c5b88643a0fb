"""What this package raises: one error type, with a kind that callers can turn into a status."""

from typing import Any, Literal, get_args

Kind = Literal[
    "bad_value",
    "missing_input",
    "shape",
    "too_few_points",
    "constant_loss",
    "mixed_conventions",
    "unknown_law",
    "bad_option",
    "bad_document",
    "infeasible",
]
KINDS: tuple[str, ...] = get_args(Kind)


class FittingError(ValueError):
    """Unusable input: what was wrong, with the value, and what to do about it.

    A fit that does not converge is *not* an error; it is a `Fit` with a status.

    kind: a word from `KINDS`, stable across releases.
    message: one sentence with the offending value in it.
    hint: what to do next.
    details: the numbers behind the sentence, e.g. `{"row": 3, "loss": -1.0}` (rows count from 0).
    """

    def __init__(self, kind: Kind, message: str, hint: str = "", **details: Any) -> None:
        super().__init__(f"{message} {hint}".strip())
        self.kind: Kind = kind
        self.message = message
        self.hint = hint
        self.details = details


def wrong_with(error: Exception) -> str:
    """What a document lacks or has wrong, in words, from what reading it raised."""
    if isinstance(error, KeyError):
        return f"it has no {error}"
    return f"{type(error).__name__} {error}"
