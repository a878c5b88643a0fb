"""Commands on plain files for links between losses, and from loss to task accuracy.

`link fit|predict|translate|plan` and `task fit|predict`; no server, no database.
"""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli_inputs import READ
from app.cli_options import (
    FitFile,
    Json,
    Level,
    LossUnit,
    NConvention,
    columns_of,
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
    read_json,
    short,
    tell,
    times,
    warn,
    without_draws,
    write_json,
)
from app.cli_points import read_columns, read_fit, runs_of

if TYPE_CHECKING:
    from fitting import Prediction, Runs
    from fitting.loss_to_loss import Link
    from fitting.tasks import TaskFit

link = typer.Typer(no_args_is_help=True, help="One loss from another; a law from data to data.")
task = typer.Typer(no_args_is_help=True, help="From loss to accuracy on a task.")


class Method(StrEnum):
    """The methods of `fitting.loss_to_loss`; held in step with it by a test."""

    joint = "joint"
    paper_ols = "paper_ols"
    free_E1 = "free_E1"
    odr = "odr"


class How(StrEnum):
    exact = "exact"
    frontier = "frontier"


class Resample(StrEnum):
    cell = "cell"
    budget = "budget"


class Form(StrEnum):
    """The curves of `fitting.tasks`; held in step with it by a test."""

    auto = "auto"
    sigmoid = "sigmoid"
    decay = "decay"
    softmin = "softmin"
    threshold = "threshold"


RUNS = "Runs with N, D and loss: CSV or JSONL."
SourceFile = Annotated[Path, typer.Argument(metavar="SOURCE.csv", **READ, help=RUNS)]
TargetFile = Annotated[Path, typer.Argument(metavar="TARGET.csv", **READ, help=RUNS)]
LinkFile = Annotated[
    Path,
    typer.Argument(metavar="LINK.json", **READ, help="From link fit --out."),
]
TaskFile = Annotated[
    Path,
    typer.Argument(metavar="TASK.json", **READ, help="From task fit --out."),
]
Kind = Annotated[
    str,
    typer.Option(help="train_train, train_test (one model, two losses), test_test or general."),
]
Draws = Annotated[int, typer.Option(help="Resamples of (N, D) cells.", min=0)]
Seed = Annotated[int, typer.Option(help="Seed of the resamples.", min=0)]
Out = Annotated[Path | None, typer.Option(help="Write the answer here, with its draws.")]
Column = Annotated[
    list[str] | None,
    typer.Option(metavar="FIELD=NAME", help="Which column holds a field, in every file."),
]
MaybeLevel = Annotated[float | None, typer.Option(help="Else the file's.", min=0.01, max=0.999)]
SourceLosses = Annotated[
    list[float] | None, typer.Option(help="The source's loss; repeat for more runs.")
]
Lower = Annotated[float | None, typer.Option(help="Of a predicted source loss, at the same level.")]
Flops = Annotated[float | None, typer.Option(help="Training FLOPs of the run, where known.")]
LawFit = Annotated[
    Path | None,
    typer.Option(**READ, help="The source's FIT.json; with --point."),
]
Point = Annotated[str | None, typer.Option(metavar="N=..,D=..", help="With --fit.")]


@link.command("fit")
def link_fit(
    source: SourceFile,
    target: TargetFile,
    kind: Kind = "train_train",
    method: Annotated[
        Method | None, typer.Option(help="joint if they share N and D, else free_E1.")
    ] = None,
    e0: Annotated[float | None, typer.Option("--E0", help="The source's floor, if known.")] = None,
    e1: Annotated[float | None, typer.Option("--E1", help="The target's floor, if known.")] = None,
    how: Annotated[
        How, typer.Option(help="Pair equal N and D, or best runs of equal compute.")
    ] = How.exact,
    also: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=FILE", help="Another set that shares cells (joint); repeat."),
    ] = None,
    source_loss: Annotated[str | None, typer.Option(help="Loss column of SOURCE.")] = None,
    target_loss: Annotated[str | None, typer.Option(help="Loss column of TARGET.")] = None,
    column: Column = None,
    n_convention: Annotated[NConvention | None, typer.Option(help="How N was counted.")] = None,
    loss_unit: Annotated[LossUnit | None, typer.Option(help="What the losses are in.")] = None,
    unit: Annotated[LossUnit | None, typer.Option(help="Convert both losses to this.")] = None,
    tokens_per_byte: Annotated[
        str | None, typer.Option(metavar="SOURCE,TARGET", help="To convert from nats/token.")
    ] = None,
    tokenizers: Annotated[
        str | None, typer.Option(metavar="SOURCE,TARGET", help="Their names: flags a mismatch.")
    ] = None,
    mixture_column: Annotated[
        str | None, typer.Option(help="Column with what each run was trained on.")
    ] = None,
    kappa_sd: Annotated[
        float | None, typer.Option(help="Prior kappa ~ N(1, sd) of joint; 0 for none.", min=0)
    ] = None,
    resample: Annotated[Resample, typer.Option(help="What is resampled.")] = Resample.cell,
    draws: Draws = 400,
    level: Level = 0.9,
    seed: Seed = 0,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Fit L1 = K (L0 - E0)^kappa + E1 to two sets of runs.

    The floors come from each set's own law, from the joint fit, or from --E0 and --E1.
    """
    from fitting.loss_to_loss import fit_link, kinds, pair

    word = kinds.kind_of(kind)
    names = (source.stem, target.stem if target.stem != source.stem else f"{target.stem} (target)")
    options = {
        "n_convention": n_convention and n_convention.value,
        "loss_unit": loss_unit and loss_unit.value,
    }
    pairs = pair(
        _runs(source, column, source_loss, options),
        _runs(target, column, target_loss, options),
        how.value,
        unit=unit and unit.value,
        names=names,
        others={n: _runs(Path(f), column, None, options) for n, f in _named(also, "--also")},
        tokens_per_byte=_two_numbers(tokens_per_byte, "--tokens-per-byte"),
        tokenizers=_two(tokenizers, "--tokenizers"),
        mixtures=None
        if mixture_column is None
        else (_labels(source, mixture_column), _labels(target, mixture_column)),
    )
    prior: Any = "default" if kappa_sd is None else ((1.0, kappa_sd) if kappa_sd else None)
    found = fit_link(
        pairs,
        word,
        method=method and method.value,
        E0=e0,
        E1=e1,
        kappa_prior=prior,
        draws=draws,
        resample=resample.value,
        level=level,
        seed=seed,
    )
    tell(found.to_dict(), as_json, out)
    if not as_json:
        _print_link(found)


@link.command("predict")
def link_predict(
    link_file: LinkFile,
    source_loss: SourceLosses = None,
    predicted: Annotated[
        bool, typer.Option("--predicted", help="The source loss is itself a forecast.")
    ] = False,
    source_lower: Lower = None,
    source_upper: Lower = None,
    fit: LawFit = None,
    point: Point = None,
    flops: Flops = None,
    level: MaybeLevel = None,
    as_json: Json = False,
) -> None:
    """The target's loss that goes with a source loss, measured or predicted.

    A predicted source loss brings its own error: from --source-lower and --source-upper, from a
    law (--fit and --point), or else from what the source's law earned at that distance.
    """
    from fitting.loss_to_loss import Link

    found = Link.from_dict(read_json(link_file, "a link"))
    answer = _through(
        found, source_loss, predicted, (source_lower, source_upper), fit, point, flops, level
    )
    document = answer.to_dict()
    tell(document, as_json)
    if as_json:
        return
    table = new_table(
        f"{answer.names[1]} from {answer.names[0]} ({answer.source} source loss)",
        "source loss",
        "loss",
        f"{answer.level:.0%} interval",
        "reach",
        *answer.variance.shares(),
        caption="reach: times beyond the largest pair in compute; then the shares of the variance",
    )
    shares = answer.variance.shares()
    for i, one in enumerate(document["predictions"]):
        table.add_row(
            f"{one['source_loss']:.4f}",
            f"{one['loss']:.4f}",
            losses(one["lower"], one["upper"]),
            times(one["reach"]["compute"]),
            *(f"{part[i]:.0%}" for part in shares.values()),
        )
    print_table(table)


@link.command("translate")
def link_translate(
    fit_file: FitFile, link_file: LinkFile, out: Out = None, as_json: Json = False
) -> None:
    """Carry the source's law over to the target's data. Its optimal N and D stay the same.

    --out writes a FIT.json for `predict` and `allocate`, where the translation is a law of the
    catalogue: fit the link with --E0 set to the law's own E.
    """
    from fitting.loss_to_loss import Link, translate

    source = read_fit(fit_file)
    made = translate(source, Link.from_dict(read_json(link_file, "a link")))
    document = made.to_dict()
    for one in document["warnings"]:
        warn(one["code"], one["message"])
    if out is not None:
        if document["fit"] is None:
            raise Refused(
                f"The link's E0 is not the law's E = {source.params['E']:.9g}, so the translation "
                "is no law of the catalogue.",
                f"Fit the link with --E0 {source.params['E']!r}, or leave --out.",
            )
        write_json(out, document["fit"])
        note(f"wrote {out}")
    if as_json:
        if document["fit"] is not None:
            document["fit"] = without_draws(document["fit"])
        print_json(document)
        return
    _print_params(
        f"{document['title']}\n{document['source']} -> {document['target']} ({document['form']})",
        document["params"],
        document["intervals"],
        made.fit.level,
    )


@link.command("plan")
def link_plan(
    source: SourceFile,
    runs: Annotated[int, typer.Option(help="How many target runs.", min=1)] = 4,
    cap_flops: Annotated[
        float | None, typer.Option(help="Their training FLOPs together, at most.")
    ] = None,
    target_loss: Annotated[
        float | None, typer.Option(help="The source loss to forecast at.")
    ] = None,
    kind: Kind = "train_train",
    loss_column: Annotated[str | None, typer.Option(help="Column of the loss.")] = None,
    column: Column = None,
    level: Level = 0.9,
    as_json: Json = False,
) -> None:
    """Which N and D to train on the new data: the runs that narrow the link's forecast most."""
    from fitting.loss_to_loss import plan_runs

    plan = plan_runs(
        _runs(source, column, loss_column, {}),
        runs,
        cap_flops=float("inf") if cap_flops is None else cap_flops,
        target_loss=target_loss,
        kind=kind,
        level=level,
    )
    document = plan.to_dict()
    if len(plan.rows) < runs:
        warn("fewer_runs", f"The cap pays for {len(plan.rows)} of {runs} runs.")
    if as_json:
        print_json(document)
        return
    table = new_table(
        f"Target runs: {document['total_flops']:.4g} FLOPs",
        "N",
        "D",
        "FLOPs",
        caption=f"half-width of the forecast: {plan.before:.1%} without, {plan.half_width:.1%} with"
        " these runs; drift beyond them comes on top",
    )
    for one in document["runs"]:
        table.add_row(short(one["N"]), short(one["D"]), short(one["flops"]))
    print_table(table)


@task.command("fit")
def task_fit(
    points: Annotated[
        Path, typer.Argument(metavar="POINTS.csv", **READ, help="Rows of loss and accuracy.")
    ],
    form: Annotated[Form, typer.Option(help="The curve.")] = Form.auto,
    chance: Annotated[
        float | None, typer.Option(help="Accuracy of guessing, e.g. 0.25.", min=0, max=1)
    ] = None,
    loss_column: Annotated[str | None, typer.Option(help="Column of the loss.")] = None,
    accuracy_column: Annotated[str | None, typer.Option(help="Column of the accuracy.")] = None,
    error_column: Annotated[
        str | None, typer.Option(help="Column of the error, 1 - accuracy, instead.")
    ] = None,
    run_column: Annotated[
        str | None, typer.Option(help="Column of the run: its checkpoints go together.")
    ] = None,
    column: Annotated[
        list[str] | None, typer.Option(metavar="FIELD=NAME", help="The same: accuracy=acc_norm.")
    ] = None,
    questions: Annotated[
        int | None, typer.Option(help="How many the task has: its binomial noise.", min=1)
    ] = None,
    loss_floor: Annotated[
        float | None, typer.Option(help="The loss's floor, for the soft-min.")
    ] = None,
    draws: Draws = 200,
    level: Level = 0.9,
    seed: Seed = 0,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Fit accuracy as a curve of loss, with a grade of how predictable it is.

    Refused where every accuracy is within noise of chance.
    """
    from fitting.tasks import fit_task

    if accuracy_column and error_column:
        raise typer.BadParameter("give --accuracy-column or --error-column, not both")
    chosen = columns_of(
        column, loss=loss_column, accuracy=error_column or accuracy_column, run=run_column
    )
    table = read_columns(points, ("loss", "accuracy"), chosen, label="run" if run_column else None)
    accuracy = table["accuracy"]
    found = fit_task(
        table["loss"],
        [1.0 - value for value in accuracy] if error_column else accuracy,
        form.value,
        chance=chance,
        run=table.get("run"),
        questions=questions,
        loss_floor=loss_floor,
        draws=draws,
        level=level,
        seed=seed,
    )
    document = found.to_dict()
    tell(document, as_json, out)
    if not as_json:
        _print_params(
            f"{found.curve.title}: grade {found.grade}, R2 {found.r2:.4f}, {found.n_points} points",
            found.params,
            document["intervals"],
            found.level,
        )


@task.command("predict")
def task_predict(
    task_file: TaskFile,
    loss: Annotated[
        list[float] | None, typer.Option(help="The task's loss; repeat for more runs.")
    ] = None,
    lower: Annotated[float | None, typer.Option(help="Of a predicted loss.")] = None,
    upper: Annotated[float | None, typer.Option(help="Of a predicted loss.")] = None,
    link_file: Annotated[
        Path | None,
        typer.Option("--link", **READ, help="LINK.json from the source's to this loss."),
    ] = None,
    source_loss: SourceLosses = None,
    predicted: Annotated[
        bool, typer.Option("--predicted", help="The source loss is itself a forecast.")
    ] = False,
    fit: LawFit = None,
    point: Point = None,
    flops: Flops = None,
    level: MaybeLevel = None,
    as_json: Json = False,
) -> None:
    """The accuracy at a loss; with --link, from the source's loss in two steps."""
    from fitting.loss_to_loss import Link
    from fitting.tasks import TaskFit

    found = TaskFit.from_dict(read_json(task_file, "a task law"))
    chosen = found.level if level is None else level
    if (link_file is None) == (not loss):
        raise typer.BadParameter("give --loss, or --link with --source-loss (one of them)")
    if link_file is None and (source_loss or predicted or fit or point or flops is not None):
        raise typer.BadParameter(
            "--source-loss, --predicted, --fit, --point and --flops are of the source: give --link"
        )
    if link_file is not None and (lower is not None or upper is not None):
        raise typer.BadParameter("--lower and --upper are of --loss; the link makes its own")
    if link_file is not None:
        through = Link.from_dict(read_json(link_file, "a link"))
        first = _through(through, source_loss, predicted, (None, None), fit, point, flops, chosen)
        for one in first.warnings:
            warn(one.code, one.message)
        answer = found.predict(first, level=chosen)
    else:
        if (lower is None) != (upper is None):
            raise typer.BadParameter("give --lower and --upper together")
        ends = None if lower is None or upper is None else (lower, upper)
        answer = found.predict(loss or [], interval=ends, level=chosen)
    document = answer.to_dict()
    tell(document, as_json)
    if not as_json:
        _print_task(found, document)


def _through(
    found: "Link",
    losses: Sequence[float] | None,
    predicted: bool,
    ends: tuple[float | None, float | None],
    fit: Path | None,
    point: str | None,
    flops: float | None,
    level: float | None,
) -> Any:
    """The link's answer, from losses on the command line or from a law at a point."""
    if (fit is None) != (point is None):
        raise typer.BadParameter("--fit and --point go together")
    if (fit is None) == (not losses):
        raise typer.BadParameter("give --source-loss, or --fit with --point (one of them)")
    if fit is not None and point is not None:
        law = read_fit(fit)
        forecast: Prediction = law.predict(parse_points([point], law.law), level=level)
        return found.predict(forecast, flops=flops, level=level)
    if (ends[0] is None) != (ends[1] is None):
        raise typer.BadParameter("give --source-lower and --source-upper together")
    bounds = None if ends[0] is None or ends[1] is None else (ends[0], ends[1])
    return found.predict(
        losses or [],
        measured=not (predicted or bounds),
        source_interval=bounds,
        flops=flops,
        level=level,
    )


def _runs(
    file: Path, column: list[str] | None, loss: str | None, options: Mapping[str, str | None]
) -> "Runs":
    return runs_of(("N", "D"), file, columns_of(column, loss=loss), options)


def _labels(file: Path, column: str) -> list[str]:
    return [
        str(one) for one in read_columns(file, (), {"mixture": column}, label="mixture")["mixture"]
    ]


def _named(pairs: Sequence[str] | None, option: str) -> list[tuple[str, str]]:
    found = []
    for one in pairs or ():
        name, _, file = one.partition("=")
        if not (name and file):
            raise typer.BadParameter(f"{one!r} is not NAME=FILE", param_hint=option)
        if not Path(file).is_file():
            raise typer.BadParameter(f"{file!r} is no file", param_hint=option)
        found.append((name, file))
    return found


def _two(text: str | None, option: str) -> tuple[str, str] | None:
    if text is None:
        return None
    first, _, second = text.partition(",")
    if not (first and second) or "," in second:
        raise typer.BadParameter(f"{text!r} is not SOURCE,TARGET", param_hint=option)
    return first.strip(), second.strip()


def _two_numbers(text: str | None, option: str) -> tuple[float, float] | None:
    words = _two(text, option)
    try:
        return None if words is None else (float(words[0]), float(words[1]))
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not two numbers", param_hint=option) from None


def _print_params(
    title: str, params: Mapping[str, float], intervals: Mapping[str, Any], level: float
) -> None:
    table = new_table(title, "parameter", "value", f"{level:.0%} interval")
    for name, value in params.items():
        table.add_row(name, f"{value:.6g}", interval(*intervals.get(name, (None, None))))
    print_table(table)


def _print_link(found: "Link") -> None:
    _print_params(
        f"{found.names[0]} -> {found.names[1]}: {found.kind}, {found.method}\n"
        f"{found.status}: {found.message}",
        found.params,
        found.intervals(),
        found.level,
    )
    if found.backtest:
        origins = new_table(
            "Backtests: fitted to the smaller pairs, judged on the larger ones",
            "up to FLOPs",
            "reach",
            "pairs",
            "judged",
            "mean error",
            "worst",
        )
        for one in found.backtest:
            origins.add_row(
                short(one.up_to),
                f"{one.ratio:.3g}x",
                str(one.fitted),
                str(one.predicted),
                f"{one.mean:.2%}",
                f"{one.worst:+.2%}",
            )
        print_table(origins)


def _print_task(found: "TaskFit", document: Mapping[str, Any]) -> None:
    table = new_table(
        f"{found.curve.title}, grade {found.grade} ({document['loss_is']} loss)",
        "loss",
        "accuracy",
        f"{document['level']:.0%} interval",
        "reach",
        caption="reach: how far below the data's losses, in spans of the data",
    )
    for one in document["predictions"]:
        table.add_row(
            f"{one['loss']:.4f}",
            f"{one['accuracy']:.4f}" + (" (at chance)" if one["below_threshold"] else ""),
            losses(one["lower"], one["upper"]),
            f"{one['reach']:.2f}",
        )
    print_table(table)
