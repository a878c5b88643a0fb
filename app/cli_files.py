"""Commands on plain files: laws, fit, predict, compare, openapi.

No server, no database, and no import that is not needed: `laws` costs numpy, `fit` scipy as well.
"""

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli_inputs import READ
from app.cli_options import (
    Column,
    DColumn,
    FitFile,
    FitLevel,
    FlopsConvention,
    Json,
    Level,
    LossColumn,
    LossUnit,
    NColumn,
    NConvention,
    RunColumn,
    RunsFile,
    columns_of,
    law_or_usage,
    parse_points,
)
from app.cli_output import (
    Refused,
    interval,
    losses,
    new_table,
    note,
    print_json,
    print_table,
    short,
    tell,
    times,
)
from app.cli_points import column_in, inputs_in, read_fit, read_points, runs_of

if TYPE_CHECKING:
    from fitting import Fit, Law, Objective, Runs
    from fitting.compare import Comparison

AUTO = "auto"


class ObjectiveKind(StrEnum):
    """The kinds of `fitting.objective`; held in step with it by a test."""

    huber_log = "huber-log"
    squares_log = "squares-log"
    squares_raw = "squares-raw"
    huber_raw = "huber-raw"
    lad_log = "lad-log"
    one_sided_log = "one-sided-log"


def laws(as_json: Json = False) -> None:
    """List the scaling laws: formula, inputs, parameters, source."""
    from fitting import LAWS

    if as_json:
        print_json([describe(law) for law in LAWS.values()])
        return
    table = new_table(
        "Laws", "law", "inputs", "parameters", "source", text=("inputs", "parameters", "source")
    )
    for law in LAWS.values():
        table.add_row(
            f"{law.name}\n{law.title}",
            ", ".join(law.input_names),
            ", ".join(law.param_names),
            law.source,
        )
    print_table(table)


def describe(law: "Law") -> dict[str, Any]:
    """What is printed of a law: the facts, without the code."""
    return {
        "name": law.name,
        "title": law.title,
        "latex": law.latex,
        "source": law.source,
        "inputs": [
            {"name": i.name, "unit": i.unit, "about": i.about, "typical": list(i.typical)}
            for i in law.inputs
        ],
        "params": [{"name": p.name, "about": p.about} for p in law.params],
    }


def fit(
    law: Annotated[
        str,
        typer.Argument(metavar="LAW|auto", help="A law's name; see `laws`. auto: see `compare`."),
    ],
    file: RunsFile,
    draws: Annotated[int, typer.Option(help="Bootstrap resamples of the runs.", min=0)] = 1000,
    level: Level = 0.9,
    by_budget: Annotated[
        bool, typer.Option("--by-budget", help="Resample each budget's runs among themselves.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Seed of the resamples and starts.", min=0)] = 0,
    objective: Annotated[
        ObjectiveKind, typer.Option(help="What is minimised.")
    ] = ObjectiveKind.huber_log,
    delta: Annotated[float, typer.Option(help="Width of Huber's penalty.")] = 1e-3,
    asymmetry: Annotated[
        float,
        typer.Option(help="Of one-sided-log: how many times less a loss above the law counts."),
    ] = 10.0,
    drop_highest: Annotated[
        int, typer.Option(help="Leave out this many of the highest losses.", min=0)
    ] = 0,
    out: Annotated[Path | None, typer.Option(help="Write the fit here, with its draws.")] = None,
    n_column: NColumn = None,
    d_column: DColumn = None,
    loss_column: LossColumn = None,
    run_column: RunColumn = None,
    column: Column = None,
    n_convention: Annotated[NConvention | None, typer.Option(help="How N was counted.")] = None,
    flops_convention: Annotated[
        FlopsConvention | None, typer.Option(help="How FLOPs were counted.")
    ] = None,
    loss_unit: Annotated[LossUnit | None, typer.Option(help="What the loss is in.")] = None,
    as_json: Json = False,
) -> None:
    """Fit a law to the runs of a file, with intervals from a bootstrap over runs.

    A fit that does not converge, or whose data cannot pin it down, is an answer with a status.
    """
    import fitting

    chosen = columns_of(column, N=n_column, D=d_column, loss=loss_column, run=run_column)
    options = {
        "n_convention": n_convention and n_convention.value,
        "flops_convention": flops_convention and flops_convention.value,
        "loss_unit": loss_unit and loss_unit.value,
    }
    asked = fitting.Objective(objective.value, delta=delta, asymmetry=asymmetry)
    if law == AUTO:
        ranking = compared(file, chosen, options, drop_highest, asked, seed, to_choose=True)
        law = ranking.best(inputs_in(file, chosen))
        note(
            f"auto: {law}, of the laws that answer to these columns, forecasts the larger runs best"
        )
    names = list(law_or_usage(law).input_names)
    if "U" not in names and column_in(file, "U", chosen) is not None:
        names.append("U")  # the fit warns of tokens that were seen twice
    runs = runs_of(names, file, chosen, options, drop_highest)
    found = fitting.fit(
        law_or_usage(law),
        runs,
        objective=asked,
        draws=draws,
        level=level,
        seed=seed,
        by_budget=by_budget,
    )
    document = found.to_dict()
    tell(document, as_json, out)
    if not as_json:
        print_fit(found, document, runs)


def compare(
    file: RunsFile,
    seed: Annotated[int, typer.Option(help="Seed of the starts.", min=0)] = 0,
    drop_highest: Annotated[
        int, typer.Option(help="Leave out this many of the highest losses.", min=0)
    ] = 0,
    n_column: NColumn = None,
    d_column: DColumn = None,
    loss_column: LossColumn = None,
    run_column: RunColumn = None,
    column: Column = None,
    as_json: Json = False,
) -> None:
    """Rank the laws by how well they forecast the larger runs of a file from the smaller ones."""
    from fitting import Objective

    chosen = columns_of(column, N=n_column, D=d_column, loss=loss_column, run=run_column)
    found = compared(file, chosen, {}, drop_highest, Objective(), seed)
    if as_json:
        print_json(found.to_dict())
        return
    cuts = ", ".join(f"{small} -> {large}" for small, large in found.held_out)
    if found.drawn_from is not None:
        cuts += f", drawn at random from {found.drawn_from}"
    table = new_table(
        "Laws by their forecasts",
        "law",
        "score",
        "held-out error",
        "bias",
        "worst",
        "parameters",
        caption=f"fitted -> predicted points: {cuts}; score: the error times a penalty on few runs",
    )
    for one in found.ranked:
        table.add_row(
            one.law,
            f"{one.score:.3%}",
            f"{one.error:.3%}",
            f"{one.bias:+.3%}",
            f"{one.worst:+.3%}",
            str(one.n_params),
        )
    print_table(table)
    for name, why in found.skipped.items():
        note(f"not judged: {name}. {why}")


def compared(
    file: Path,
    columns: Mapping[str, str],
    options: Mapping[str, str | None],
    drop_highest: int,
    objective: "Objective",
    seed: int,
    *,
    to_choose: bool = False,
) -> "Comparison":
    """The laws whose inputs the file has, judged on its runs; C also from FLOPs or 6 N D.
    to_choose: those of them that `auto` may take."""
    from fitting.compare import candidates, choose
    from fitting.compare import compare as judge

    names = inputs_in(file, columns)
    if "C" not in names and ({"N", "D"} <= set(names) or column_in(file, "flops", columns)):
        names.append("C")
    laws = candidates(names)
    if not laws:
        raise Refused(
            "The file has the inputs of no law.", "Give it columns N and D, or see `laws`."
        )
    # what is then fitted is read again, and says what is to be said
    runs = runs_of(names, file, columns, options, drop_highest, quiet=to_choose)
    return (choose if to_choose else judge)(runs, laws, objective=objective, seed=seed)


def print_fit(found: "Fit", document: Mapping[str, Any], runs: "Runs") -> None:
    """The parameters with their intervals, how the fit went, and what the data cover."""
    from fitting import get_law

    law = get_law(document["law"])
    intervals = document.get("intervals") or {}
    level = intervals.get("level", found.level)
    table = new_table(
        f"{law.title}\n{document['status']}: {document['message']}",
        "parameter",
        "value",
        f"{level:.0%} interval",
        "meaning",
        text=("meaning",),
    )
    for param in law.params:
        low, high = intervals.get(param.name) or (None, None)
        table.add_row(
            param.name, f"{document['params'][param.name]:.6g}", interval(low, high), param.about
        )
    print_table(table)
    objective = document["objective"]
    covered = new_table("Data", "", "from", "to", "unit", text=("unit",))
    for one in law.inputs:
        column = runs.inputs[one.name][runs.used]
        covered.add_row(one.name, short(column.min()), short(column.max()), one.unit)
    losses = runs.loss[runs.used]
    covered.add_row("loss", short(losses.min()), short(losses.max()), runs.loss_unit)
    print_table(covered)
    typer.echo(
        f"  {document['n_points']} points, {len(objective['dropped'])} dropped; "
        f"{objective['kind']} (delta {objective['delta']:g}), sum {objective['value']:.9g}; "
        f"N {runs.n_convention}, FLOPs {runs.flops_convention}"
    )


def predict(
    fit_file: FitFile,
    at: Annotated[
        Path | None,
        typer.Option(metavar="POINTS.csv", **READ, help="One row a prediction."),
    ] = None,
    point: Annotated[
        list[str] | None, typer.Option(metavar="N=..,D=..", help="A point on the command line.")
    ] = None,
    level: FitLevel = None,
    column: Column = None,
    as_json: Json = False,
) -> None:
    """Predict the loss, with its interval and how far it reaches beyond the fitted runs."""
    found = read_fit(fit_file)
    law = found.law
    if (at is None) == (not point):
        raise typer.BadParameter("give --at POINTS.csv or --point N=..,D=.. (one of them)")
    inputs = read_points(at, law, columns_of(column)) if at else parse_points(point or [], law)
    prediction = found.predict(inputs, **({} if level is None else {"level": level}))
    document = prediction.to_dict()
    tell(document, as_json)
    if as_json:
        return
    used = document["level"]
    names = law.input_names
    table = new_table(
        f"Predictions of {law.title}",
        *names,
        "loss",
        f"{used:.0%} interval",
        *(f"reach of {name}" for name in names),
        caption="reach: times beyond the largest fitted run; the further, the less it is worth",
    )
    for one in document["predictions"]:
        table.add_row(
            *(short(one["inputs"][name]) for name in names),
            f"{one['loss']:.4f}",
            losses(one["lower"], one["upper"]),
            *(times(one["reach"].get(name)) for name in names),
        )
    print_table(table)


def openapi() -> None:
    """Print the OpenAPI document of the REST API. Needs no server."""
    from app.cli_operate import need, settings_or_refuse

    need("fastapi", "api")
    from app.main import create_app

    print_json(create_app(settings_or_refuse()).openapi())
