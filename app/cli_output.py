"""How a command speaks: one document or a table on stdout, everything else on stderr.

Exit codes: 0 done, 1 the answer is a refusal (what was wrong and the remedy on stderr; with --json
also as a document on stdout), 2 wrong usage (typer's own).
"""

import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

REFUSED = 1


class Refused(Exception):
    """A command's own refusal: the sentence and the remedy."""

    def __init__(self, message: str, hint: str = "", **details: Any) -> None:
        super().__init__(f"{message} {hint}".strip())
        self.message = message
        self.hint = hint
        self.details = details


def plain(value: Any) -> Any:
    """The value as strict JSON has it: arrays as lists, NaN and infinity as null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, Sequence | set | frozenset):
        return [plain(one) for one in value]
    if hasattr(value, "tolist"):  # a numpy array or scalar, without importing numpy
        return plain(value.tolist())
    return str(value)


def print_json(document: Any) -> None:
    """One JSON document on stdout, numbers in full precision."""
    sys.stdout.write(json.dumps(plain(document), indent=2, ensure_ascii=False, allow_nan=False))
    sys.stdout.write("\n")
    sys.stdout.flush()


def write_json(path: Path, document: Any) -> None:
    """The document in a file that is either whole or not there: a temporary name, then renamed."""
    if str(path) == "-":
        raise Refused("- is standard output, and a document is written to a file.", "Name one.")
    text = json.dumps(plain(document), ensure_ascii=False, allow_nan=False)
    temporary = path.with_name(f".{path.name}.part")
    try:
        temporary.write_text(text + "\n", encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        raise Refused(
            f"{path} cannot be written: {error.strerror}.", "Choose another --out."
        ) from None


def read_json(path: Path, what: str) -> dict[str, Any]:
    """The JSON object in a file; `what` says in words what it should be ("a fit")."""
    from app.importers.jsonl import named_once

    remedy = f"Give a file with {what} as one JSON object."
    try:
        text = path.read_text(encoding="utf-8")
        document = json.loads(text, object_pairs_hook=named_once)
    except (OSError, ValueError, RecursionError) as error:
        raise Refused(f"{path} is not {what}: {error}.", remedy) from None
    if not isinstance(document, dict):
        raise Refused(
            f"{path} is not {what}: it holds a {type(document).__name__}.",
            remedy,
        )
    return document


def note(message: str) -> None:
    """Progress, for the person: stderr."""
    print(message, file=sys.stderr, flush=True)


def warn(code: str, message: str) -> None:
    print(f"warning ({code}): {message}", file=sys.stderr, flush=True)


def tell(document: Mapping[str, Any], as_json: bool, out: Path | None = None) -> None:
    """A command's answer: in the file `out` whole, its warnings on stderr, and with --json on
    stdout without its draws."""
    if out is not None:
        write_json(out, document)
        note(f"wrote {out}")
    for one in document.get("warnings", ()):
        warn(one["code"], one["message"])
    if as_json:
        print_json(without_draws(document))


def without_draws(document: Mapping[str, Any]) -> dict[str, Any]:
    """The document less its draws, and less those of what it is made of."""
    out = {k: v for k, v in document.items() if k != "draws"}
    if "members" in out:
        out["members"] = [without_draws(one) for one in out["members"]]
    return out


def print_table(table: "Table") -> None:
    from rich.console import Console

    # Piped into a file there is no width to fit: cut nothing.
    console = Console() if sys.stdout.isatty() else Console(width=160)
    console.print(table)


def new_table(
    title: str, *columns: str, text: Sequence[str] = (), caption: str | None = None
) -> "Table":
    """A table; its first column and those in `text` hold words, the others numbers."""
    from rich import box
    from rich.table import Table

    table = Table(
        title=title, title_justify="left", caption=caption, caption_justify="left", box=box.SIMPLE
    )
    for place, column in enumerate(columns):
        words = place == 0 or column in text
        table.add_column(column, justify="left" if words else "right", overflow="fold")
    return table


def short(value: float | None) -> str:
    """A number for a table: four significant digits."""
    return "unbounded" if value is None or not math.isfinite(value) else f"{value:.4g}"


def interval(low: float | None, high: float | None) -> str:
    """None: open on that side."""
    ends = ("open" if end is None else short(end) for end in (low, high))
    return f"[{', '.join(ends)}]"


def four(value: float | None) -> str:
    """A loss for a table: four decimals."""
    return "unbounded" if value is None else f"{value:.4f}"


def losses(low: float | None, high: float | None) -> str:
    """An interval of losses."""
    return f"[{four(low)}, {four(high)}]"


def times(value: float | None) -> str:
    """A reach for a table: so many times beyond the data."""
    return "-" if value is None else f"{value:.3g}x"


def refusal(error: Exception) -> dict[str, Any] | None:
    """What a refusal says, or None where the exception is not a refusal but a fault of ours."""
    if isinstance(error, Refused):
        return {"status": "refused", "message": error.message, "hint": error.hint, **error.details}
    from app.errors import ServiceError
    from fitting import FittingError

    if isinstance(error, ServiceError):
        details = error.details()
        hint = error.hint
        if "columns {" in hint and error.column:  # how REST says it
            hint += f" On the command line: --column {error.column}=NAME."
    elif isinstance(error, FittingError):
        details = dict(error.details)
        hint = error.hint
        if isinstance(details.get("row"), int):
            details["row"] += 1  # fitting counts from 0, people from 1
    else:
        return None
    return {
        "status": "refused",
        "kind": error.kind,
        "message": error.message,
        **details,
        "hint": hint,
    }


def print_refusal(said: Mapping[str, Any], *, as_json: bool) -> None:
    note(f"refused: {said['message']}")
    if said.get("hint"):
        note(f"remedy: {said['hint']}")
    if as_json:
        print_json(said)
