"""Options that commands share, and what is typed into them."""

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli_inputs import READ

if TYPE_CHECKING:
    from fitting import Law


class NConvention(StrEnum):
    total = "total"
    non_embedding = "non_embedding"
    blocks = "blocks"
    blocks_and_head = "blocks_and_head"


class FlopsConvention(StrEnum):
    exact = "exact"
    six_nd = "6ND"
    palm = "palm"


class LossUnit(StrEnum):
    nats_per_token = "nats/token"
    nats_per_byte = "nats/byte"
    bits_per_byte = "bits/byte"


Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
Level = Annotated[
    float,
    typer.Option(help="Probability of the intervals.", min=0.01, max=0.999),
]
FitLevel = Annotated[float | None, typer.Option(help="Else the fit's.", min=0.01, max=0.999)]
FitFile = Annotated[Path, typer.Argument(metavar="FIT.json", **READ, help="From fit --out.")]
RunsFile = Annotated[
    Path,
    typer.Argument(metavar="RUNS.csv", **READ, help="CSV or JSONL, one row a run."),
]
Column = Annotated[
    list[str] | None,
    typer.Option(metavar="FIELD=NAME", help="Which column holds a field, e.g. U=unique_tokens."),
]
NColumn = Annotated[str | None, typer.Option(help="Column of N; else N, params, ...")]
DColumn = Annotated[str | None, typer.Option(help="Column of D; else D, tokens, ...")]
LossColumn = Annotated[
    str | None, typer.Option(help="Column of the loss; else loss, val_loss, ...")
]
RunColumn = Annotated[
    str | None, typer.Option(help="Column of the run's name; else run, name, ...")
]
Server = Annotated[
    str | None,
    typer.Option(help="The server's URL; SCALEWRIGHT_SERVER, else the settings' host and port."),
]


def columns_of(pairs: Sequence[str] | None, **named: str | None) -> dict[str, str]:
    """["U=unique"], N="params" -> {"U": "unique", "N": "params"}; wrong usage if there is no =."""
    found = {field: column for field, column in named.items() if column is not None}
    for pair in pairs or ():
        field, equals, column = pair.partition("=")
        if not (field and equals and column):
            raise typer.BadParameter(f"{pair!r} is not FIELD=NAME", param_hint="--column")
        found[field] = column
    return found


def law_or_usage(name: str) -> "Law":
    """The law of that name; wrong usage, with the names that there are, if there is none."""
    from fitting import LAWS

    if name not in LAWS:
        raise typer.BadParameter(
            f"there is no law {name!r}; there are {', '.join(LAWS)}", param_hint="LAW"
        )
    return LAWS[name]


def parse_points(texts: Sequence[str], law: "Law") -> dict[str, list[float]]:
    """["N=7e10,D=1.4e12"] -> {"N": [7e10], "D": [1.4e12]}; anything else is wrong usage."""
    points: dict[str, list[float]] = {name: [] for name in law.input_names}
    for text in texts:
        try:
            pairs = [part.partition("=") for part in text.split(",")]
            given = {name.strip(): float(value) for name, _, value in pairs}
        except ValueError:
            pairs, given = [], {}
        if set(given) != set(points) or len(pairs) != len(given):
            example = ",".join(f"{one.name}={one.typical[1]:g}" for one in law.inputs)
            raise typer.BadParameter(f"{text!r} is not like {example}", param_hint="--point")
        for name, value in given.items():
            points[name].append(value)
    return points
