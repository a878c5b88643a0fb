"""`scalewright allocate`: every budget that people have, for a law of N and D or of shape too."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli_inputs import READ
from app.cli_options import FitFile, FitLevel, Json
from app.cli_output import (
    four,
    interval,
    losses,
    new_table,
    note,
    print_table,
    short,
    tell,
    times,
    warn,
    write_json,
)
from app.cli_points import read_fit
from app.cli_shape import Family, family_of, numbers_of, step_time_of

if TYPE_CHECKING:
    from fitting import AllocationProblem, Fit
    from fitting.planning import Budget, ShapeAllocation

H100_PEAK = 989e12  # FLOP/s, dense bf16: fitting/costs/hardware.py has the sheet


def allocate(
    fit_file: FitFile,
    flops: Annotated[float | None, typer.Option(help="A budget in training FLOPs.")] = None,
    gpu_hours: Annotated[float | None, typer.Option(help="A budget in GPU-hours.")] = None,
    dollars: Annotated[float | None, typer.Option(help="A budget in dollars.")] = None,
    hours: Annotated[
        float | None, typer.Option(help="A deadline: hours of wall clock, with --gpus.")
    ] = None,
    gpus: Annotated[
        list[int] | None, typer.Option(help="How many GPUs; repeat to let it choose.")
    ] = None,
    dollars_per_gpu_hour: Annotated[float | None, typer.Option(help="With --dollars.")] = None,
    step_time: Annotated[
        Path | None,
        typer.Option(
            metavar="STEP_TIME.json",
            **READ,
            help="From `calibrate` or `time fit`: choose the shape by its measured step time.",
        ),
    ] = None,
    gpu: Annotated[
        str | None,
        typer.Option(help="Choose the shape by this GPU's data sheet (h100-sxm, a100-80gb, ...)."),
    ] = None,
    peak_flops: Annotated[
        float, typer.Option(help="FLOPs a second of one GPU; H100, dense bf16, if not said.")
    ] = H100_PEAK,
    mfu: Annotated[
        float, typer.Option(help="Share of the peak that is reached; a guess if not said.")
    ] = 0.4,
    max_tokens: Annotated[float | None, typer.Option(help="Never train on more tokens.")] = None,
    unique_tokens: Annotated[
        float | None, typer.Option(help="Distinct tokens that there are; more are repeats.")
    ] = None,
    size: Annotated[
        list[float] | None, typer.Option(help="A model size that can be built; repeat.")
    ] = None,
    tokens_per_parameter: Annotated[
        str | None, typer.Option(metavar="LEAST:MOST", help="Over-training, e.g. 100: or :40.")
    ] = None,
    inference_tokens: Annotated[
        float, typer.Option(help="Tokens to serve afterwards from the same budget.")
    ] = 0.0,
    inference_mfu: Annotated[
        float | None, typer.Option(help="Share of the peak reached while serving; else as --mfu.")
    ] = None,
    decode_speed: Annotated[
        float | None, typer.Option(help="Tokens a second that one sequence must reach.")
    ] = None,
    memory_bandwidth: Annotated[
        float | None, typer.Option(help="Bytes a second of the GPU that serves; else of --gpu.")
    ] = None,
    width: Annotated[
        list[str] | None, typer.Option(help="Widths to choose from: 1024 or 512:4096:128; repeat.")
    ] = None,
    depth: Annotated[
        list[str] | None, typer.Option(help="Depths to choose from: 24 or 4:48; repeat.")
    ] = None,
    batch_tokens: Annotated[
        list[float] | None, typer.Option(help="Tokens a step; repeat to let it choose.")
    ] = None,
    family: Family = None,
    beside: Annotated[
        Path | None,
        typer.Option(metavar="FIT.json", **READ, help="Show what this fit would choose."),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(metavar="CONFIG.json", help="Write the run for the trainer here.")
    ] = None,
    corpus: Annotated[
        list[Path] | None, typer.Option(help="Folder of a training corpus, for --config; repeat.")
    ] = None,
    fix: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="An input that is given.")
    ] = None,
    level: FitLevel = None,
    as_json: Json = False,
) -> None:
    """Spend a budget (or two: each holds): the model and tokens of least loss, with intervals.

    With --step-time or --gpu it chooses width, depth, GPUs and batch by the clock; else N and D by
    FLOPs, GPU-hours and dollars being turned into FLOPs by --peak-flops and --mfu.
    """
    from fitting.planning import Budget, Inference

    found = read_fit(fit_file)
    given = dict(flops=flops, gpu_hours=gpu_hours, hours=hours, dollars=dollars)
    if not any(value is not None for value in given.values()):
        raise typer.BadParameter("give a budget: --flops, --gpu-hours, --dollars, --hours")
    if dollars is not None and dollars_per_gpu_hour is None:
        raise typer.BadParameter("--dollars needs --dollars-per-gpu-hour")
    budget = Budget(**given, dollars_per_gpu_hour=dollars_per_gpu_hour)
    ratio = ratio_of(tokens_per_parameter)
    for option, share in (("--mfu", mfu), ("--inference-mfu", inference_mfu)):
        if share is not None and not 0 < share <= 1:
            raise typer.BadParameter(f"{share} is no share of the peak, above 0 and at most 1",
                                     param_hint=option)  # fmt: skip
    for option, value in (("--peak-flops", peak_flops), ("--unique-tokens", unique_tokens)):
        if value is not None and not value > 0:
            raise typer.BadParameter(f"{value} is not positive", param_hint=option)
    bandwidth = memory_bandwidth
    if gpu is not None:
        from fitting.costs import get_gpu

        sheet = get_gpu(gpu)
        bandwidth = bandwidth or sheet.memory_bandwidth
        peak_flops = sheet.peak() if peak_flops == H100_PEAK else peak_flops
    if decode_speed is not None and bandwidth is None:
        raise typer.BadParameter("--decode-speed needs --memory-bandwidth or --gpu")
    served = Inference(
        tokens=inference_tokens,
        flops_per_second=peak_flops * (inference_mfu or mfu),
        decode_tokens_per_second=decode_speed,
        memory_bandwidth=bandwidth,
    )
    if step_time is None and gpu is None:
        if hours is not None and not gpus:
            raise typer.BadParameter("--hours needs --gpus")
        import fitting

        limits = flops_of(budget, (gpus or [1])[0], peak_flops * mfu)
        inputs = fixed_of(fix)
        if unique_tokens is not None and "U" in found.law.input_names:
            inputs.setdefault("U", unique_tokens)
        elif unique_tokens is not None:
            max_tokens = min(unique_tokens, max_tokens or unique_tokens)
            warn("no_repeats", f"{found.law.name} knows nothing of repeats: unique tokens are a "
                 "cap. Fit data_constrained to go beyond one epoch.")  # fmt: skip
        problem = fitting.AllocationProblem(
            fit=found,
            budget_flops=min(limits.values()),
            fixed=inputs,
            max_tokens=max_tokens,
            sizes=size or None,
            inference_tokens=inference_tokens,
            inference_cost=mfu / (inference_mfu or mfu),
            tokens_per_parameter=ratio,
            max_parameters=served.largest_model() if decode_speed is not None else None,
            level=level,
        )
        answer_of_flops(problem, limits, peak_flops * mfu, budget, as_json)
        return
    answer_of_time(
        found,
        dict(
            step_time=step_time_of(step_time, gpu),
            budget=budget,
            family=family_of(family, step_time is None),
            gpus=gpus,
            batches=batch_tokens,
            widths=numbers_of(width, "--width"),
            depths=numbers_of(depth, "--depth"),
            sizes=size or None,
            max_tokens=max_tokens,
            unique_tokens=unique_tokens,
            tokens_per_parameter=ratio,
            inference=served,
            beside=None if beside is None else read_fit(beside),
            level=level,
        ),
        config,
        corpus or [],
        as_json,
    )


# On N and D


def flops_of(budget: "Budget", gpus: int, flops_per_second: float) -> dict[str, float]:
    """{kind: FLOPs that it buys} at what one GPU reaches."""
    bought = {kind: s * flops_per_second for kind, s in budget.gpu_seconds(gpus).items()}
    if bought:
        note(f"at {flops_per_second:.4g} FLOPs a second and GPU, all told")
    if budget.flops is not None:
        bought["flops"] = budget.flops
    return bought


def ratio_of(text: str | None) -> tuple[float, float]:
    """ "100:" -> (100, inf), ":40" -> (0, 40), "20" -> (20, 20); else wrong usage."""
    if text is None:
        return 0.0, float("inf")
    low, colon, high = text.partition(":")
    try:
        least = float(low) if low else 0.0
        most = float(high) if high else float("inf")
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not LEAST:MOST") from None
    return (least, most) if colon else (least * 0.999, least * 1.001)


def fixed_of(pairs: Sequence[str] | None) -> dict[str, float]:
    """["D=1e12"] -> {"D": 1e12}; anything else is wrong usage."""
    fixed = {}
    for pair in pairs or ():
        name, _, value = pair.partition("=")
        try:
            fixed[name] = float(value)
        except ValueError:
            raise typer.BadParameter(f"{pair!r} is not NAME=VALUE", param_hint="--fix") from None
    return fixed


def answer_of_flops(
    problem: "AllocationProblem",
    limits: Mapping[str, float],
    flops_per_second: float,
    budget: "Budget",
    as_json: bool,
) -> None:
    import fitting
    from fitting.allocate_around import sensitivity, what_more_buys

    found = fitting.allocate(problem)
    more = what_more_buys(
        problem,
        {
            "one GPU-day": 24 * 3600 * flops_per_second,
            "one GPU-week": 168 * 3600 * flops_per_second,
            "10% more": 0.1 * problem.budget_flops,
            "as much again": problem.budget_flops,
        },
    )
    document = found.to_dict() | {
        "budget": budget.to_dict(),
        "limits_flops": dict(limits),
        "limited_by": min(limits, key=lambda kind: limits[kind]),
        "sensitivity": sensitivity(problem),
        "more": more,
    }
    tell(document, as_json)
    if as_json:
        return
    best, around, valley = document["optimal"], document["intervals"], document["valley"]
    table = new_table(
        f"{problem.budget_flops:.4g} FLOPs",
        "",
        "optimum",
        f"{document['level']:.0%} interval",
        "as good within",
        "reach",
        caption=f"as good: the loss is within {valley['tolerance']:.1%} of the best",
    )
    for name, label in (("N", "N, parameters"), ("D", "D, tokens")):
        table.add_row(
            label,
            short(best[name]),
            interval(*around[name]) if name in around else "-",
            interval(*valley[name]),
            times(best.get(f"reach_{name}")),
        )
    ratio = around.get("tokens_per_parameter")
    table.add_row(
        "D / N", short(best["tokens_per_parameter"]), interval(*ratio) if ratio else "-", "", ""
    )
    table.add_row(
        "loss of a run there", four(best["loss"]), losses(best["lower"], best["upper"]), "", ""
    )
    print_table(table)
    print_more(document["more"])
    print_sensitivity(document["sensitivity"])


# On shapes and time


def answer_of_time(
    fit: "Fit",
    asked: dict[str, Any],
    config: Path | None,
    corpora: Sequence[Path],
    as_json: bool,
) -> None:
    from fitting.planning import ShapeProblem, allocate_shape, run_config

    machine = asked["step_time"]
    batches, gpus = asked["batches"], asked["gpus"]
    if machine.setup is None:
        from fitting.costs import Setup

        if not batches or not gpus:
            raise typer.BadParameter("--gpu needs --gpus and --batch-tokens")
        asked["setup"] = Setup(batch_tokens=batches[0], gpus=gpus[0])
    found = allocate_shape(ShapeProblem(fit=fit, **asked))
    document = found.to_dict()
    if config is not None:
        train = [{"name": path.name, "path": str(path.resolve())} for path in corpora]
        made = run_config(
            found.shape, found.setup, found.optimal["D"], train=train, validation=train
        )
        write_json(config, made)
        document["config"] = made
        note(f"wrote {config}" + ("" if train else "; name its corpora in data.train"))
    tell(document, as_json)
    if as_json:
        return
    print_plan(found)
    print_more(document["more"])
    print_sensitivity(document["sensitivity"])
    for row in document["settings"]:
        typer.echo(
            f"  {row['law']}: learning rate {row['lr']:.3g}, batch {short(row['batch_tokens'])} "
            f"tokens ({row['source']}; {row['note']})"
        )
    if document["beside"] is not None:
        other = document["beside"]
        typer.echo(
            f"  {other['law']} would choose {other['width']} x {other['depth']}: the fit expects "
            f"{other['loss_by_the_fit']:.4f} there"
        )


def print_plan(found: "ShapeAllocation") -> None:
    best, around, valley = found.optimal, found.intervals, found.valley
    table = new_table(
        f"{best['width']} x {best['depth']}, {best['gpus']} GPUs, limited by {best['limited_by']}",
        "",
        "optimum",
        f"{found.level:.0%} interval",
        "as good within",
        caption=f"as good: the loss is within {valley['tolerance']:.1%} of the best; hours, "
        "GPU-hours and dollars: what this plan may take",
    )
    for name, label in (
        ("N", "N, parameters"), ("D", "D, tokens"), ("width", "width"), ("depth", "depth"),
        ("gpu_hours", "GPU-hours"), ("hours", "hours"), ("dollars", "dollars"),
    ):  # fmt: skip
        if best[name] is not None:
            table.add_row(
                label,
                short(best[name]),
                interval(*around[name]) if name in around else "-",
                interval(*valley[name]) if name in valley else "",
            )
    table.add_row("D / N", short(best["tokens_per_parameter"]), "", "")
    table.add_row(
        "loss of a run there", four(best["loss"]), losses(best["lower"], best["upper"]), ""
    )
    print_table(table)
    small = valley["smallest"]
    typer.echo(
        f"  {best['steps']:.0f} steps of {short(best['batch_tokens'])} tokens, "
        f"{best['step_seconds']:.4g} s each, mostly {best['bound_by']}"
    )
    typer.echo(
        f"  the smallest model as good: {small['width']} x {small['depth']}, "
        f"{short(small['N'])} parameters on {short(small['D'])} tokens"
    )


def fine(gain: float) -> str:
    """Four decimals, and what those would call nothing in two digits: 0.0169, 2.6e-07."""
    return f"{gain:.4f}" if gain == 0 or abs(gain) >= 5e-5 else f"{gain:.1e}"


def print_more(rows: Sequence[Mapping[str, Any]]) -> None:
    table = new_table("What more buys", "more", "loss falls by", "interval", "loss", "N", "D")
    for row in rows:
        low, high = row["gain_interval"]
        table.add_row(row["more"], fine(row["gain"]), f"[{fine(low)}, {fine(high)}]",
                      f"{row['loss']:.4f}", short(row["N"]), short(row["D"]))  # fmt: skip
    print_table(table)


def print_sensitivity(rows: Sequence[Mapping[str, Any]]) -> None:
    table = new_table("If it were otherwise", "assumption", "change", "loss", "N", "D",
                      text=("change",))  # fmt: skip
    for row in rows:
        table.add_row(row["assumption"], row["change"], f"{row['loss_change']:+.2%}",
                      short(row["N"]), short(row["D"]))  # fmt: skip
    print_table(table)
