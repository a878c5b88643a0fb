"""Commands about time: calibrate this machine, fit measured steps, predict a step and a loss."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli_inputs import READ
from app.cli_options import Column, Json, Server, columns_of
from app.cli_output import (
    Refused,
    losses,
    new_table,
    note,
    print_json,
    print_table,
    short,
    tell,
    warn,
)
from app.cli_points import read_fit
from app.cli_shape import Family, family_of, step_time_of

if TYPE_CHECKING:
    from fitting.costs import Measurement, StepTime

time = typer.Typer(no_args_is_help=True, help="How long steps take: fit, predict, serial.")

Out = Annotated[Path | None, typer.Option(help="Write the step-time model here.")]


def calibrate(
    corpus: Annotated[
        Path | None,
        typer.Option(exists=True, file_okay=False, help="A corpus folder; else text of its own."),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...")] = "cpu",
    size: Annotated[
        list[str] | None,
        typer.Option(metavar="WxDxB", help="Width x depth x batch tokens; repeat. Else ten sizes."),
    ] = None,
    seconds: Annotated[float, typer.Option(help="Of steps that a run should take.", min=0.1)] = 3.0,
    seq_len: Annotated[int, typer.Option(help="Context of the models.", min=2)] = 256,
    head_dim: Annotated[int, typer.Option(help="Channels of a head.", min=2)] = 16,
    optimizer: Annotated[str, typer.Option(help="muon or adamw.")] = "muon",
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "float32",
    threads: Annotated[int, typer.Option(help="Threads of a run on a CPU.", min=1)] = 1,
    compile_: Annotated[bool, typer.Option("--compile", help="Compile the model.")] = False,
    seed: Annotated[int, typer.Option(help="Of the order of the runs.", min=0)] = 0,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Measure step times on this machine with short runs of the trainer, and fit them.

    About two minutes of one CPU core. On a CPU it counts CPU seconds, which neighbours on the
    machine disturb little; on a GPU wall time, so let it run alone.
    """
    from app.cli_operate import need

    need("torch", "train")
    from app.services import calibrating, corpora

    plan = calibrating.Plan(
        device=device, sizes=tuple(size_of(text) for text in size or ()), seconds=seconds,
        seq_len=seq_len, head_dim=head_dim, optimizer=optimizer, dtype=dtype, threads=threads,
        compile=compile_, seed=seed,
    )  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="scalewright-corpus-") as folder:
        if corpus is None:
            text = Path(__file__).parent  # our own source: every installation has it
            corpora.build("calibration", [text], folder)
            corpus = Path(folder) / "calibration"
        done = calibrating.calibrate(plan, corpus, progress=note)
    tell(done.to_dict(), as_json, out)
    if not as_json:
        print_step_time(done.step_time)


def size_of(text: str) -> tuple[int, int, int]:
    """ "64x4x2048" -> (64, 4, 2048); else wrong usage."""
    try:
        width, depth, batch = (int(part) for part in text.lower().split("x"))
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is not WIDTHxDEPTHxBATCH", param_hint="--size"
        ) from None
    return width, depth, batch


@time.command("keep")
def keep(
    file: Annotated[Path, typer.Argument(metavar="STEP_TIME.json", **READ)],
    project: Annotated[str | None, typer.Option(help="Keep it with this project.")] = None,
    server: Server = None,
    as_json: Json = False,
) -> None:
    """Store a calibration in the service, for its plans and the dashboard's page Time."""
    import json

    from app.cli_client import Client

    try:
        document = json.loads(file.read_text())
    except ValueError as error:
        raise Refused(f"{file} is not JSON: {error}.", "Give what --out wrote.") from None
    kept = Client(server).post("/v1/calibrations", json={"document": document, "project": project})
    if as_json:
        print_json(kept)
    else:
        note(f"calibration {kept['id']}: {kept['document']['hardware']}")


@time.command("fit")
def fit(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="STEPS.csv",
            **READ,
            help="One row a shape: width, depth, seconds; gpus, batch_tokens, micro_batch_tokens, "
            "attention, checkpointing, group where they vary.",
        ),
    ],
    batch_tokens: Annotated[
        float | None, typer.Option(help="Tokens a step of every row, if not a column.")
    ] = None,
    gpus: Annotated[int, typer.Option(help="GPUs of every row, if not a column.", min=1)] = 1,
    feature: Annotated[
        list[str] | None,
        typer.Option(help="flops, copies, layers_gpus, params_gpus, weights; repeat. Else four."),
    ] = None,
    attention: Annotated[str, typer.Option(help="flash or unfused, if not a column.")] = "flash",
    causal: Annotated[
        bool, typer.Option(help="Whether the attention kernel skips the future.")
    ] = True,
    family: Family = None,
    hardware: Annotated[str, typer.Option(help="What it was measured on.")] = "",
    column: Column = None,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Fit step times that were measured elsewhere: a CSV or JSONL, one row a shape."""
    from fitting.costs import FEATURES, fit_step_time

    rows = read_steps(file, columns_of(column), family, batch_tokens, gpus, attention, causal)
    found = fit_step_time(rows, features=feature or FEATURES, hardware=hardware)
    tell(found.to_dict() | {"measurements": [row.to_dict() for row in rows]}, as_json, out)
    if not as_json:
        print_step_time(found)


def read_steps(
    path: Path,
    columns: dict[str, str],
    family: list[str] | None,
    batch_tokens: float | None,
    gpus: int,
    attention: str,
    causal: bool,
) -> "list[Measurement]":
    """The measured steps of a file; what it does not say of a shape is the family's."""
    from app.importers import cells, opened_table
    from app.importers.columns import need_column
    from fitting.costs import Measurement, Setup

    base = family_of(family, needed=True)
    assert base is not None
    usual = {
        "width": ("width", "d_model", "w"), "depth": ("depth", "n_layers", "L"),
        "seconds": ("seconds", "seconds_per_step", "step_seconds", "sps"), "gpus": ("gpus",),
        "batch_tokens": ("batch_tokens",), "micro_batch_tokens": ("micro_batch_tokens",),
        "attention": ("attention",), "checkpointing": ("checkpointing",), "group": ("group",),
    }  # fmt: skip
    out: list[Measurement] = []
    with opened_table(path) as table:
        where = {
            name: need_column(name, table.header, columns, header_row=table.header_row)
            if name in columns  # which must be there
            else next((c for c in names if c in table.header), None)
            for name, names in usual.items()
        }
        for name in ("width", "depth", "seconds"):
            if where[name] is None:
                raise Refused(
                    f"{path} has no column for {name}; it has {', '.join(table.header)}.",
                    f"Say which it is: --column {name}=NAME.",
                )
        for row, record in table.rows:

            def at(name: str, other: float | None, row: int = row, record: Any = record) -> float:
                key = where[name]
                if key is None or record.get(key) in (None, ""):
                    if other is None:
                        option = (
                            f", or --{name.replace('_', '-')}" if name == "batch_tokens" else ""
                        )
                        raise Refused(
                            f"Row {row} has no {name}.",
                            f"Give it a column (--column {name}=NAME){option}.",
                        )
                    return other
                return cells.positive(record.get(key), row, key)

            def word(name: str, other: str, record: Any = record) -> str:
                key = where[name]
                return other if key is None else str(record.get(key) or other)

            micro = at("micro_batch_tokens", 0.0)
            out.append(
                Measurement(
                    base.resized(int(at("width", None)), int(at("depth", None))),
                    Setup(
                        batch_tokens=at("batch_tokens", batch_tokens),
                        gpus=int(at("gpus", gpus)),
                        micro_batch_tokens=micro or None,
                        attention=word("attention", attention),
                        causal=causal,
                        checkpointing=word("checkpointing", "no").lower() in ("true", "yes", "1"),
                    ),
                    at("seconds", None),
                    group=word("group", "") or None,
                )
            )
    return out


def print_step_time(found: "StepTime") -> None:
    from fitting.costs.steptime import MEANING

    table = new_table(
        f"Step time on {found.hardware or 'an unnamed machine'}",
        "feature", "each", "what it stands for", text=("what it stands for",),
        caption=f"{found.unit} of a step; {found.n_groups} shapes, each left out once: "
        f"{found.mean_error:.1%} off on average, {found.max_error:.1%} at most",
    )  # fmt: skip
    for name in found.features:
        table.add_row(name, f"{found.coefficients[name]:.4g} s", MEANING[name])
    print_table(table)
    said = [f"{names.replace('+', ' + ')} {error:.1%}" for names, error in found.errors.items()]
    typer.echo("  left-out error by features: " + "; ".join(said))


@time.command("predict")
def predict(
    step_time: Annotated[
        Path | None,
        typer.Argument(
            metavar="STEP_TIME.json",
            **READ,
            help="From `calibrate` or `time fit`; or give --gpu.",
        ),
    ] = None,
    width: Annotated[int, typer.Option(help="Model width.", min=1)] = 1024,
    depth: Annotated[int, typer.Option(help="Model depth.", min=1)] = 24,
    gpus: Annotated[int | None, typer.Option(help="GPUs; else as measured.", min=1)] = None,
    batch_tokens: Annotated[
        float | None, typer.Option(help="Tokens a step; else as measured.")
    ] = None,
    checkpointing: Annotated[bool, typer.Option(help="Activations are made twice.")] = False,
    gpu: Annotated[str | None, typer.Option(help="Read it off this GPU's data sheet.")] = None,
    family: Family = None,
    fit_file: Annotated[
        Path | None,
        typer.Option("--fit", metavar="FIT.json", **READ, help="Predict the loss as well."),
    ] = None,
    gpu_hours: Annotated[
        float | None, typer.Option(help="Time that the run gets, with --fit.")
    ] = None,
    level: Annotated[float, typer.Option(help="Of the interval.", min=0.01, max=0.999)] = 0.9,
    as_json: Json = False,
) -> None:
    """Predict a step's time and what bounds it; with --fit and --gpu-hours, the loss it buys."""
    from dataclasses import replace

    from fitting.costs import Setup, get_gpu, roofline

    machine = step_time_of(step_time, gpu)
    base = family_of(family, machine.family is None) or machine.family
    assert base is not None
    setup = machine.setup
    if setup is None:
        if batch_tokens is None or gpus is None:
            raise typer.BadParameter("--gpu needs --gpus and --batch-tokens")
        setup = Setup(batch_tokens, gpus)
    setup = replace(
        setup,
        batch_tokens=setup.batch_tokens if batch_tokens is None else batch_tokens,
        gpus=gpus or setup.gpus,
        checkpointing=checkpointing or setup.checkpointing,
    )
    shape = base.resized(width, depth)
    said = machine.predict(shape, setup, level)
    document: dict[str, Any] = {
        "hardware": machine.hardware,
        "shape": shape.to_dict(),
        "setup": setup.to_dict(),
        "parameters": shape.parameters(),
        **said.to_dict(),
        "tokens_per_second": setup.batch_tokens / said.seconds,
    }
    if gpu is not None:
        document["roofline"] = roofline(shape, setup, get_gpu(gpu)).to_dict()
        warn("not_calibrated", "Read off a data sheet; `calibrate` measures.")
    if (fit_file is None) != (gpu_hours is None):
        raise typer.BadParameter("--fit and --gpu-hours go together")
    if fit_file is not None and gpu_hours is not None:
        from fitting.planning import Budget, ShapeProblem, allocate_shape

        plan = allocate_shape(
            ShapeProblem(
                read_fit(fit_file), machine, Budget(gpu_hours=gpu_hours), base, setup,
                widths=[width], depths=[depth], level=level,
            )
        )  # fmt: skip
        for one in plan.warnings:
            if one["code"] != "not_calibrated":
                warn(one["code"], one["message"])
        document["run"] = plan.optimal
    if as_json:
        print_json(document)
        return
    total = said.gpu_seconds
    table = new_table(
        f"{shape.label}, {shape.parameters():.4g} parameters, {setup.gpus} GPU(s) of "
        f"{machine.hardware or 'an unnamed machine'}",
        "part", "share",
        caption=f"a step of {setup.batch_tokens:.4g} tokens: {said.seconds:.4g} s "
        f"[{said.lower:.4g}, {said.upper:.4g}], mostly {said.bound_by}",
    )  # fmt: skip
    from fitting.costs.steptime import MEANING

    for name, part in said.parts.items():
        table.add_row(MEANING[name], f"{part / total:.1%}")
    print_table(table)
    if "roofline" in document:
        shares = document["roofline"]["shares"]
        typer.echo("  roofline: " + ", ".join(f"{k} {v:.0%}" for k, v in shares.items()))
    if "run" in document:
        run = document["run"]
        typer.echo(
            f"  {gpu_hours:g} GPU-hours: {run['D']:.4g} tokens, loss {run['loss']:.4f} "
            f"{losses(run['lower'], run['upper'])}"
        )


@time.command("serial")
def serial(
    step_time: Annotated[
        Path,
        typer.Argument(
            metavar="STEP_TIME.json",
            **READ,
            help="From `calibrate` or `time fit`.",
        ),
    ],
    width: Annotated[int, typer.Option(help="Model width.", min=1)],
    depth: Annotated[int, typer.Option(help="Model depth.", min=1)],
    hours: Annotated[float, typer.Option(help="Until the deadline.", min=1e-9)],
    batch_tokens: Annotated[list[float], typer.Option(help="Tokens a step; repeat to compare.")],
    gpus: Annotated[int | None, typer.Option(help="GPUs; else as measured.", min=1)] = None,
    family: Family = None,
    fit_file: Annotated[
        Path | None,
        typer.Option(
            "--fit",
            metavar="FIT.json",
            **READ,
            help="A fit of kaplan_steps; else the paper's own constants.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """What a deadline allows at each batch size, by Kaplan's L(N, S) and critical batch size."""
    from dataclasses import replace

    from fitting.planning import serial_view

    machine = step_time_of(step_time, None)
    base, setup = family_of(family) or machine.family, machine.setup
    if base is None or setup is None:
        raise Refused(f"{step_time} does not say what was measured.", "Calibrate, or `time fit`.")
    shape = base.resized(width, depth)
    setup = replace(setup, gpus=gpus or setup.gpus)
    rows = serial_view(
        machine, shape, setup, hours, batch_tokens, None if fit_file is None else read_fit(fit_file)
    )
    if fit_file is None:
        warn("constants_of_the_paper", "Kaplan et al.'s constants, on their data: compare the "
             "batches, not the losses with yours.")  # fmt: skip
    if as_json:
        print_json({"hours": hours, "shape": shape.to_dict(), "rows": [r.to_dict() for r in rows]})
        return
    table = new_table(
        f"{shape.label} for {hours:g} hours on {setup.gpus} GPU(s)",
        "batch, tokens", "s a step", "steps", "tokens", "loss", "critical batch", "worth of a step",
    )  # fmt: skip
    for row in rows:
        table.add_row(
            short(row.batch_tokens), short(row.step_seconds), short(row.steps), short(row.tokens),
            f"{row.loss:.4f}", short(row.critical_batch), f"{row.efficiency:.0%}",
        )  # fmt: skip
    print_table(table)
