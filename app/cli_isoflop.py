"""`isoflop`: the approaches to the compute optimum side by side, on a plain file."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli_options import (
    Column,
    DColumn,
    Json,
    LossColumn,
    NColumn,
    RunColumn,
    RunsFile,
    columns_of,
    law_or_usage,
)
from app.cli_output import new_table, note, print_table, short, tell
from app.cli_points import runs_of

if TYPE_CHECKING:
    from fitting import Fit, Law, Runs

# Where each method stands in Hoffmann et al. 2022.
APPROACH = {"envelope": 1, "interpolated": 2, "parabola": 2, "cubic": 2, "parametric": 3}


def isoflop(
    file: RunsFile,
    law: Annotated[
        str, typer.Option(metavar="LAW", help="The law of N and D of approach 3.")
    ] = "chinchilla",
    at: Annotated[
        float | None,
        typer.Option(
            metavar="FLOPS", help="Give N* and D* here; else at 100 times the largest.", min=1.0
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the fit's starts.", min=0)] = 0,
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
    """The compute optimum by Hoffmann et al.'s approaches 1, 2 and 3, side by side.

    An approach that the runs do not allow says why. The parabola of approach 2 is biased wherever
    alpha and beta differ: by how much, on these very runs, stands beside it, with the cubic's and
    the law's own answer. At its least, a file has N, D and loss, several sizes at each budget.
    """
    chosen = columns_of(column, N=n_column, D=d_column, loss=loss_column, run=run_column)
    asked = law_or_usage(law)
    if set(asked.input_names) != {"N", "D"}:
        raise typer.BadParameter(
            f"{law} is a law of {', '.join(asked.input_names)}, and approach 3 needs one of N, D",
            param_hint="--law",
        )
    document = approaches(asked, runs_of(("N", "D"), file, chosen, {}, drop_highest), at, seed)
    tell(document, as_json)
    if not as_json:
        print_approaches(document)


def approaches(law: "Law", runs: "Runs", at: float | None, seed: int) -> dict[str, Any]:
    """Every method with its exponents, its optima and its N*, D* at `at` FLOPs, or its refusal.

    at: default 100 times the largest compute of the runs. fit: of approach 3; None where the law
    cannot be fitted, and then the parabola's bias is told in words only.
    """
    from fitting import FittingError
    from fitting.isoflop import budgets, side_by_side

    groups = budgets(runs)
    compute = 100.0 * max(one.C for one in groups) if at is None else at
    found, refused = _fitted(law, runs, seed)
    methods: list[dict[str, Any]] = []
    for name, frontier in {**side_by_side(runs, found), **refused}.items():
        head = {"method": name, "approach": APPROACH[name]}
        if isinstance(frontier, FittingError):
            methods.append({**head, "reason": frontier.message, "hint": frontier.hint})
        else:
            methods.append({**head, **frontier.to_dict(), "at": frontier.at(compute)})
    return {
        "law": law.name,
        "at_flops": compute,
        "reach": compute / max(one.C for one in groups),
        "methods": methods,
        "budgets": [{"C": one.C, "sizes": one.N.size} for one in groups],
        "fit": found and {"status": found.status, "params": found.params},
        "warnings": [one.to_dict() for one in found.warnings] if found else [],
        "n_points": runs.n_used,
        "n_convention": runs.n_convention,
        "flops_convention": runs.flops_convention,
        "loss_unit": runs.loss_unit,
    }


def _fitted(law: "Law", runs: "Runs", seed: int) -> "tuple[Fit | None, dict[str, Any]]":
    """The fit for approach 3, or none and the refusal in its place."""
    from fitting import FittingError, fit

    try:
        return fit(law, runs, draws=0, seed=seed), {}
    except FittingError as error:
        return None, {"parametric": error}


def print_approaches(document: Mapping[str, Any]) -> None:
    """One row a method; its notes, and the reasons of those that were refused, below."""
    compute = document["at_flops"]
    table = new_table(
        "The compute optimum, side by side",
        "method",
        "approach",
        "optima",
        "N* ~ C^",
        "D* ~ C^",
        f"N* at {compute:.3g}",
        f"D* at {compute:.3g}",
        caption=f"{document['n_points']} points at {len(document['budgets'])} budgets; "
        f"parametric: {document['law']}",
    )
    for one in document["methods"]:
        if "reason" not in one:
            table.add_row(
                one["method"],
                str(one["approach"]),
                str(len(one["optima"])),
                f"{one['N_exponent']:.3f}",
                f"{one['D_exponent']:.3f}",
                short(one["at"]["N"]),
                short(one["at"]["D"]),
            )
    print_table(table)
    if document["reach"] > 1:
        typer.echo(
            f"  {compute:.3g} FLOPs are {document['reach']:.3g} times the largest budget of these "
            "runs, and no method here has an interval: `fit` and `allocate` give them."
        )
    for one in document["methods"]:
        for said in one.get("notes", ()):
            typer.echo(f"  {one['method']}: {said['message']}")
        if "reason" in one:
            note(f"not used: {one['reason']}")
