"""Commands on whole loss curves, on plain files: `curve fit|predict|rank|forecast`, `cpt fit|...`.

A schedule on the command line is JSON ('{"kind": "wsd", "steps": 50000, ...}') or a file with it.
"""

import json
import math
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli_inputs import READ
from app.cli_options import FitLevel, Json, Level
from app.cli_output import (
    Refused,
    four,
    interval,
    losses,
    new_table,
    note,
    print_json,
    print_table,
    read_json,
    short,
    tell,
    warn,
    without_draws,
    write_json,
)

if TYPE_CHECKING:
    from fitting.curves import ContinualFit, CurveFit, Schedule

AUTO = "auto"

curve = typer.Typer(
    name="curve", help="The loss at every step, under any schedule.", no_args_is_help=True
)
cpt = typer.Typer(name="cpt", help="Continual pre-training.", no_args_is_help=True)

CurveFiles = Annotated[
    list[Path],
    typer.Argument(
        metavar="CURVES.csv...",
        **READ,
        help="Columns run, step, lr, loss; or one file a run, named after it.",
    ),
]
Schedules = Annotated[
    Path | None,
    typer.Option(**READ, help="JSON {run: schedule}, where lr in the CSV is too coarse."),
]
Fitted = Annotated[Path, typer.Argument(metavar="FIT.json", **READ, help="From --out.")]
SpecText = Annotated[
    str, typer.Option(metavar="JSON|FILE", help='{"kind": "wsd", "steps": ..., "peak_lr": ...}')
]
Steps = Annotated[
    str | None, typer.Option(metavar="1000,2000", help="Steps to predict; else the last.")
]
Out = Annotated[Path | None, typer.Option(help="Write the fit here, with its draws.")]


class Convention(StrEnum):
    """What becomes of the momentum of S2 at the transfer; held in step with fitting by a test."""

    reset = "reset"
    carry = "carry"


def schedule_of(text: str, option: str = "--schedule") -> "Schedule":
    """JSON, or the file that holds it; anything else is wrong usage."""
    from fitting.curves import as_schedule

    if not text.lstrip().startswith(("{", "[")):
        path = Path(text)
        if not path.is_file():
            raise typer.BadParameter(f"{text!r} is neither JSON nor a file", param_hint=option)
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise typer.BadParameter(f"cannot be read: {error}", param_hint=option) from None
    try:
        given = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise typer.BadParameter(f"not JSON: {error}", param_hint=option) from None
    return as_schedule(given)


def numbers(text: str | None, option: str) -> list[float]:
    """ "1,2" -> [1.0, 2.0]; anything else is wrong usage."""
    try:
        found = [float(part) for part in text.split(",")] if text else []
    except ValueError:
        found = [math.nan]
    if not all(math.isfinite(value) for value in found):
        raise typer.BadParameter(f"{text!r} is not like 1000,2000", param_hint=option)
    return found


def _read(path: Path | None) -> Mapping[str, Any]:
    from app.importers.loss_curves import read_schedules

    return {} if path is None else read_schedules(path)


def read_curve_fit(path: Path) -> "CurveFit":
    from fitting.curves import CurveFit

    return CurveFit.from_dict(read_json(path, "a curve fit"))


@curve.command("fit")
def fit_command(
    law: Annotated[
        str, typer.Argument(metavar="LAW|auto", help="annealing_ensemble, annealing, ...")
    ],
    files: CurveFiles,
    schedules: Schedules = None,
    domain: Annotated[
        str | None, typer.Option(help="Validation set, where the CSV has several.")
    ] = None,
    draws: Annotated[int, typer.Option(help="Resamples of blocks of the curves.", min=0)] = 200,
    level: Level = 0.9,
    seed: Annotated[int, typer.Option(help="Seed of the resamples.", min=0)] = 0,
    delta: Annotated[float, typer.Option(help="Width of Huber's penalty.")] = 1e-3,
    first_step: Annotated[
        int | None, typer.Option(help="Leave out earlier points; else the warm-up, twice.", min=1)
    ] = None,
    momentum: Annotated[
        float | None, typer.Option(help="The annealing law's lambda; else .999, or fitted.")
    ] = None,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Fit a law of the whole curve to completed runs.

    A fit that these curves do not pin down is an answer with the status degenerate.
    """
    from app.importers.loss_curves import read_curves
    from fitting.curves import choose_law, fit_curves

    curves, drawn = read_curves(files, _read(schedules), domain)
    for name in drawn:
        note(f"{name}: the schedule is drawn through its logged rates")
    options: dict[str, Any] = {
        "draws": draws, "level": level, "seed": seed, "delta": delta, "first_step": first_step,
        "momentum": momentum,
    }  # fmt: skip
    if law == AUTO:
        found, scores = choose_law(curves, **options)
        for name, score in sorted(scores.items(), key=lambda pair: pair[1]):
            note(f"{name}: off by {score:.2%} on curves that were left out")
    else:
        found = fit_curves(law, curves, **options)
    tell(found.to_dict(), as_json, out)
    if as_json:
        return
    table = new_table(f"{found.law}\n{found.status}: {found.message}", "parameter", "value",
                      f"{level:.0%} interval")  # fmt: skip
    for one in found.each():
        ends = one.intervals()
        for name, value in one.params.items():
            label = f"{one.law}.{name}" if found.members else name
            table.add_row(label, f"{value:.5g}", interval(*ends.get(name, (None, None))))
    print_table(table)
    cal = found.calibration
    typer.echo(
        f"  {found.data['n_points']} points of {len(found.data['runs'])} curves from step "
        f"{found.first_step}; noise {cal.noise:.2%}, an unseen schedule {cal.form:.2%}, a decade "
        f"of summed rate {cal.drift:.2%}"
    )


@curve.command("predict")
def predict_command(
    file: Fitted,
    schedule: SpecText,
    steps: Steps = None,
    size: Annotated[float | None, typer.Option(help="N, for the laws that read it.")] = None,
    level: FitLevel = None,
    as_json: Json = False,
) -> None:
    """Predict the loss of a run with a schedule, with its interval and reach."""
    found = read_curve_fit(file)
    at = [int(v) for v in numbers(steps, "--steps")] or None
    document = found.predict(schedule_of(schedule), at, size, level).to_dict()
    _print_curve(document, f"Loss by {found.law}", as_json)


def _reach(times: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.3g}x" for name, value in times.items())


def _print_curve(document: Mapping[str, Any], title: str, as_json: bool) -> None:
    tell(document, as_json)
    if as_json:
        return
    caption = "reach beyond the fitted curves: " + _reach(document["reach"])
    ends = f"{document['level']:.0%} interval"
    table = new_table(title, "step", "loss", ends, caption=caption)
    for row in document["curve"]:
        table.add_row(str(row["step"]), four(row["loss"]), losses(row["lower"], row["upper"]))
    print_table(table)


@curve.command("rank")
def rank_command(
    file: Fitted,
    schedule: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=JSON|FILE", help="A schedule to rank; repeat."),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="Search hold, power and floor at this length.", min=2)
    ] = None,
    peak_lr: Annotated[float | None, typer.Option(help="With --steps: it is not chosen.")] = None,
    warmup_steps: Annotated[int, typer.Option(help="With --steps.", min=0)] = 0,
    size: Annotated[float | None, typer.Option(help="N, for the laws that read it.")] = None,
    level: FitLevel = None,
    as_json: Json = False,
) -> None:
    """Rank schedules of one peak rate, or search a small family for the best."""
    from fitting.curves import optimise_schedule, rank_schedules

    found = read_curve_fit(file)
    if (steps is None) == (not schedule):
        raise typer.BadParameter("give --schedule NAME=... (repeat), or --steps with --peak-lr")
    if steps is not None:
        if peak_lr is None:
            raise typer.BadParameter("--steps needs --peak-lr: no law here may choose it")
        best = optimise_schedule(found, steps, peak_lr, warmup_steps, level, size)
        document = best.to_dict()
        ranking = document["ranking"]
        note(
            f"best of {best.grid}: hold {best.best['hold']:g}, power {best.best['power']:g}, "
            f"floor {best.best['floor']:g}; {len(best.ties)} are as good"
        )
    else:
        named = {}
        for text in schedule or ():
            name, equals, spec = text.partition("=")
            if not equals:
                raise typer.BadParameter(f"{text!r} is not NAME=JSON", param_hint="--schedule")
            named[name] = schedule_of(spec)
        ranking = document = rank_schedules(found, named, level, size).to_dict()
    tell(document, as_json)
    if as_json:
        return
    table = new_table(f"Schedules by {' and '.join(ranking['by'])}", "schedule", "loss",
                      f"{ranking['level']:.0%} interval", "behind", "tied")  # fmt: skip
    for row in ranking["ranked"]:
        table.add_row(
            row["name"], four(row["loss"]), losses(row["lower"], row["upper"]),
            f"{row['behind']:.4f}", "yes" if row["tied"] else "",
        )  # fmt: skip
    print_table(table)


@curve.command("forecast")
def forecast_command(
    file: Fitted,
    run: Annotated[
        Path,
        typer.Argument(metavar="RUN.csv", **READ, help="step, loss: the run so far."),
    ],
    schedule: SpecText,
    incumbent: Annotated[
        float | None, typer.Option(help="A final loss to beat: say whether to go on.")
    ] = None,
    margin: Annotated[float, typer.Option(help="With --incumbent: by how much.", min=0)] = 0.0,
    size: Annotated[float | None, typer.Option(help="N, for the laws that read it.")] = None,
    level: FitLevel = None,
    as_json: Json = False,
) -> None:
    """Forecast the end of a run under way from the law of completed runs."""
    from app.importers.loss_curves import read_curves
    from fitting.curves.inflight import advise, forecast

    plan = schedule_of(schedule)
    found = read_curve_fit(file)
    curves, _ = read_curves([run], {run.stem: plan.to_dict()})
    if len(curves) != 1:
        raise Refused(f"{run} holds {len(curves)} runs.", "Give the one that is under way.")
    so_far = curves[0]
    said = forecast(found, plan, so_far.step, so_far.loss, size=size, level=level)
    document = said.to_dict()
    if incumbent is not None:
        document["advice"] = advise(said, incumbent, margin=margin).to_dict()
    tell(document, as_json)
    if as_json:
        return
    typer.echo(
        f"at step {said.step} of {said.last_step}: final loss {said.final:.4f} "
        f"{losses(said.lower, said.upper)} at {said.level:.0%}; beyond the fitted curves: "
        + _reach(said.reach)
    )
    if incumbent is not None:
        typer.echo(f"{document['advice']['verdict']}: {document['advice']['message']}")


# --- continual pre-training ----------------------------------------------------------------------


def read_cpt(path: Path) -> "tuple[ContinualFit, ContinualFit]":
    """The general and the domain fit that `cpt fit --out` wrote."""
    from fitting.curves import ContinualFit

    document = read_json(path, "a continual fit")
    try:
        return (
            ContinualFit.from_dict(document["general"]),
            ContinualFit.from_dict(document["domain"]),
        )
    except (KeyError, TypeError):
        raise Refused(f"{path} is not a continual fit.", "Give what `cpt fit --out` wrote.") from (
            None
        )


@cpt.command("fit")
def cpt_fit(
    file: Annotated[
        Path,
        typer.Argument(metavar="CURVES.csv", **READ, help="One long table."),
    ],
    general: Annotated[str, typer.Option(help="The validation set of the old data.")],
    domain: Annotated[str, typer.Option(help="The validation set of the new data.")],
    schedules: Schedules = None,
    momentum: Annotated[float | None, typer.Option(help="lambda; else fitted.")] = None,
    convention: Annotated[
        Convention | None, typer.Option(help="The momentum at the transfer; else by the data.")
    ] = None,
    law: Annotated[str | None, typer.Option(help="A form; else by left-out runs.")] = None,
    skip: Annotated[int, typer.Option(help="Steps after a transfer to leave out.", min=0)] = 100,
    draws: Annotated[int, typer.Option(help="Resamples.", min=0)] = 200,
    level: Level = 0.9,
    seed: Annotated[int, typer.Option(help="Seed of the resamples.", min=0)] = 0,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Fit the loss on the old and the new domain along continual runs.

    Columns: run, kind (pretrain or continual), parent, parent_step, step (from the transfer), lr,
    replay_ratio, domain, loss. Runs whose role is not "fit" are predicted and not fitted.
    """
    import numpy as np

    from app.importers.loss_curves import read_continual
    from fitting.curves import Transfer, fit_continual

    if general == domain:
        raise typer.BadParameter("--general and --domain name one validation set")
    data = read_continual(file, _read(schedules))
    document: dict[str, Any] = {"kind": "cpt"}
    held: list[dict[str, Any]] = []
    for role, name in (("general", general), ("domain", domain)):
        found = fit_continual(
            data.of(name), domain=name, role=role, momentum=momentum, law=law, skip=skip,
            convention=None if convention is None else convention.value, draws=draws, level=level,
            seed=seed,
        )  # fmt: skip
        document[role] = found.to_dict()
        for one in data.of(name, "held_out"):
            after = one.where(one.step > skip)
            if not len(after):
                continue
            p = found.predict(Transfer(one.before, one.schedule, 1 - one.new_share), after.step)
            miss = p.value - after.loss
            held.append(
                {"run": one.name, "domain": name, "mean_absolute_error":
                 float(np.abs(miss).mean()), "final_error": float(miss[-1])}
            )  # fmt: skip
    document["held_out"] = held
    if out is not None:
        write_json(out, document)
        note(f"wrote {out}")
    for role in ("general", "domain"):
        for one in document[role]["warnings"]:
            warn(one["code"], f"{document[role]['domain']}: {one['message']}")
    if as_json:
        shown = {k: without_draws(document[k]) for k in ("general", "domain")}
        print_json({**document, **shown})
        return
    for role in ("general", "domain"):
        fitted = document[role]
        ends = fitted["intervals"]
        table = new_table(
            f"{fitted['domain']} ({role}), {fitted['law']}: {fitted['status']}; lambda "
            f"{fitted['momentum']:g}, momentum {fitted['convention']}",
            "parameter", "value", f"{level:.0%} interval",
        )  # fmt: skip
        for key, value in fitted["params"].items():
            table.add_row(key, f"{value:.5g}", interval(*ends.get(key, (None, None))))
        print_table(table)
    if held:
        table = new_table("Held-out runs", "run", "domain", "mean abs. error", "final error",
                          text=("domain",))  # fmt: skip
        for row in held:
            table.add_row(row["run"], row["domain"], f"{row['mean_absolute_error']:.4f}",
                          f"{row['final_error']:+.4f}")  # fmt: skip
        print_table(table)


Before = Annotated[
    str,
    typer.Option(metavar="JSON|FILE", help="The pre-training schedule, until the transfer."),
]


@cpt.command("predict")
def cpt_predict(
    file: Fitted,
    before: Before,
    schedule: SpecText,
    replay_ratio: Annotated[float, typer.Option(help="Share of old data.", min=0, max=0.999)] = 0.0,
    steps: Steps = None,
    level: FitLevel = None,
    as_json: Json = False,
) -> None:
    """Predict both losses of a continual run, and whether the general one comes back."""
    from fitting.curves import Transfer, forgetting

    general, domain = read_cpt(file)
    past, plan = schedule_of(before, "--before"), schedule_of(schedule)
    at = [int(v) for v in numbers(steps, "--steps")] or None
    transfer = Transfer(past, plan, replay_ratio)
    document: dict[str, Any] = {
        "general": general.predict(transfer, at, level).to_dict(),
        "domain": domain.predict(transfer, at, level).to_dict(),
        "forgetting": forgetting(general, past, plan.peak_lr, replay_ratio).to_dict(),
    }
    if as_json:
        for role in ("general", "domain"):
            for one in document[role]["warnings"]:
                warn(one["code"], one["message"])
        print_json(document)
        return
    for fitted, role in ((general, "general"), (domain, "domain")):
        _print_curve(document[role], f"Loss on {fitted.domain} ({role})", False)
    back = document["forgetting"]
    never = f"over {back['horizon']}"
    low, high = (never if end is None else str(end) for end in back["turning_interval"])
    typer.echo(
        f"  at a constant {plan.peak_lr:g} the general loss "
        + (
            f"is back where it was after {back['turning_length']} steps"
            if back["turning_length"] is not None
            else f"does not come back within {back['horizon']} steps"
        )
        + f" ({general.level:.0%} interval: {low} to {high})"
    )


@cpt.command("plan")
def cpt_plan(
    file: Fitted,
    before: Annotated[
        list[str], typer.Option(metavar="JSON|FILE", help="Pre-training; repeat to choose from.")
    ],
    general_weight: Annotated[
        float, typer.Option(help="Weight of the general loss, 0 to 1.", min=0, max=1)
    ],
    steps: Annotated[str, typer.Option(metavar="1000,2000", help="Lengths to choose from.")],
    peak_lr: Annotated[
        str | None, typer.Option(metavar="1e-4,2e-4", help="Peak rates; else the fitted range.")
    ] = None,
    replay_ratio: Annotated[
        str | None, typer.Option(metavar="0,0.25", help="Replay; else the fitted range.")
    ] = None,
    warmup_steps: Annotated[int, typer.Option(help="Of the continual run.", min=0)] = 0,
    decay: Annotated[str, typer.Option(help="How its rate falls.")] = "cosine",
    most_general_rise: Annotated[
        float | None, typer.Option(help="The general loss may rise by this much.", min=0)
    ] = None,
    level: Level = 0.9,
    as_json: Json = False,
) -> None:
    """The best peak rate, loss potential, replay ratio and length for two weights."""
    from fitting.curves import plan_continual

    general, domain = read_cpt(file)
    pasts = [schedule_of(text, "--before") for text in before]
    found = plan_continual(
        general, domain, general_weight=general_weight,
        before={one.loss_potential: one for one in pasts},
        steps=[int(v) for v in numbers(steps, "--steps")],
        peak_lrs=numbers(peak_lr, "--peak-lr") or None,
        replay_ratios=numbers(replay_ratio, "--replay-ratio") or None,
        warmup_steps=warmup_steps, decay=decay, most_general_rise=most_general_rise, level=level,
    )  # fmt: skip
    document = found.to_dict()
    tell(document, as_json)
    if as_json:
        return
    best, ends = document["best"], document["chosen_interval"]
    table = new_table(
        f"Best of {found.tried} plans; {found.as_good} are as good within the law's own error",
        "", "best", f"{level:.0%} interval",
    )  # fmt: skip
    for name in ("loss_potential", "peak_lr", "replay_ratio", "steps"):
        table.add_row(
            name.replace("_", " "), short(best[name]), interval(*ends.get(name, (None, None)))
        )
    for name in ("general", "domain"):
        table.add_row(f"{name} loss", four(best[name + "_loss"]),
                      losses(*document[name + "_interval"]))  # fmt: skip
    print_table(table)
    typer.echo(f"  reach beyond the fitted curves: {_reach(document['reach']['general'])}")
