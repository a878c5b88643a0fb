"""Runs of the database as curves that a law of the whole curve can read: points and schedule."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from sqlalchemy import Connection

from app.services import continuations, projects, runs
from app.services.errors import ServiceError
from app.storage import curves as stored_curves
from app.storage import evaluations
from app.storage import runs as stored_runs
from app.storage.runs import Run
from fitting.curves import ContinualCurve, Curve, Schedule

MAX_RUNS = 500


def schedule_of(run: Run, lr: Any = None, step: Any = None) -> Schedule:
    """The learning rate of every step: by the run's configuration, else by what was logged (lr at
    step, each [points]).

    ServiceError where neither is known.
    """
    config = run.config or {}
    spec = config.get("schedule")
    peak = (config.get("optimizer") or {}).get("lr")
    if isinstance(spec, Mapping) and peak is not None and spec.get("kind"):
        return Schedule.from_dict(as_stages(spec, float(peak)))
    if lr is not None and step is not None and len(lr) and bool(np.isfinite(lr).all()):
        return Schedule.from_points(step, lr, run.steps)
    raise ServiceError(
        "not_enough_data",
        f"The learning rate of run {run.id} ({run.name!r}) is not known at every point.",
        "Import it with its column lr, or give the curve and its schedule in the request.",
        value=run.id,
    )


def as_stages(spec: Mapping[str, Any], peak: float) -> dict[str, Any]:
    """The trainer's schedule as the laws read it; the two agree to rounding (a test holds it)."""
    kind, steps = str(spec["kind"]), int(spec["steps"])
    warm, floor = int(spec.get("warmup_steps") or 0), float(spec.get("final_fraction") or 0.0)
    initial = float(spec.get("initial_fraction") or 0.0)
    cool = int(spec.get("cooldown_steps") or 0)
    if kind == "step":
        drops = spec["drops"]
        return {
            "kind": "step",
            "steps": steps,
            "peak_lr": peak,
            "warmup_steps": warm,
            "boundaries": [int(at) for at, _ in drops],
            "factors": [float(factor) for _, factor in drops],
        }
    if kind != "wsd-s" and not initial:
        plain = {"kind": kind, "steps": steps, "peak_lr": peak, "warmup_steps": warm}
        more = {"cooldown_steps": cool} if kind == "wsd" else {}
        return plain | more | ({} if kind == "constant" else {"final_fraction": floor})
    ends = [int(end) for end in spec["periods"]] if kind == "wsd-s" else [steps]
    form = {"wsd": "sqrt", "wsd-s": "sqrt", "cosine": "cosine", "linear": "linear"}.get(kind, "")
    stages: list[dict[str, Any]] = []
    begin = 0
    for end in ends:
        if warm:
            stages.append({"steps": warm, "to": peak, "form": "linear"})
        fall = 0
        if kind == "wsd":
            fall = min(cool, steps - warm)
        elif kind == "wsd-s":
            fall = max(1, round(cool / steps * end))
        elif form:
            fall = end - begin - warm
        flat = end - begin - warm - fall
        if flat:
            stages.append({"steps": flat, "to": peak, "form": "constant"})
        if fall:
            stages.append({"steps": fall, "to": floor * peak, "form": form})
        begin = end
    return {"kind": "stages", "from": initial * peak, "stages": stages}


def training_curve(connection: Connection, run: Run, validation_set: str | None) -> Curve:
    """The loss of one run along its steps: the training loss, or that on a validation set."""
    logged = stored_curves.read(connection, run.id)
    if validation_set is None:
        step, loss = logged.step, logged.loss
    else:
        rows = evaluations.of_run(connection, run.id, validation_set=validation_set)
        step = np.array([row.step for row in rows], dtype=float)
        loss = np.array([row.loss for row in rows], dtype=float)
    if not len(step):
        what = "training loss" if validation_set is None else f"loss on {validation_set!r}"
        raise ServiceError(
            "not_enough_data",
            f"Run {run.id} ({run.name!r}) has no {what}.",
            "Leave the run out, or name another validation set.",
            value=run.id,
        )
    return Curve.of(run.name, step, loss, _known(run, logged), run.n_total)


def loss_unit(
    connection: Connection, run_ids: Sequence[int], validation_set: str | None
) -> str | None:
    """The unit of the losses of these runs on a validation set; None for training losses, whose
    unit is not stored. ServiceError where they have several."""
    if validation_set is None:
        return None
    units = {
        one.loss_unit
        for one in evaluations.last_of_runs(connection, run_ids)
        if one.validation_set == validation_set
    }
    if len(units) > 1:
        raise ServiceError(
            "invalid",
            f"The losses on {validation_set!r} are in {' and '.join(sorted(units))}.",
            "Name runs whose losses have one unit (run_ids), or convert them to one.",
            column="run_ids",
        )
    return units.pop() if units else None


def known_schedule(connection: Connection, run: Run) -> Schedule:
    """As `schedule_of`, by what the database has of the run."""
    return _known(run, stored_curves.read(connection, run.id))


def _known(run: Run, logged: stored_curves.Curve) -> Schedule:
    known = np.isfinite(logged.lr)
    return schedule_of(run, logged.lr[known], logged.step[known])


def chosen(
    connection: Connection,
    project: str | int,
    run_ids: Sequence[int] | None,
    kinds: Sequence[str] | None = None,
) -> list[Run]:
    """The finished runs of a project, or those named; of these kinds only."""
    into = projects.resolve(connection, project)
    if run_ids is not None:
        found = [runs.get(connection, run_id) for run_id in run_ids]
        for run in found:
            if run.project_id != into.id:
                raise ServiceError(
                    "invalid",
                    f"Run {run.id} is not of project {into.name!r}.",
                    "Name runs of one project.",
                    column="run_ids",
                    value=run.id,
                )
    else:
        page = stored_runs.page(
            connection, project_id=into.id, status="finished", limit=MAX_RUNS + 1
        )
        found = list(reversed(page.items))
    if kinds is not None:
        found = [run for run in found if run.kind in kinds]
    if not found:
        raise ServiceError(
            "not_enough_data",
            f"Project {into.name!r} has no finished run of that kind.",
            "Wait for the runs, or give curves in the request.",
        )
    if len(found) > MAX_RUNS:
        raise ServiceError(
            "too_large", f"{len(found)} runs are more than {MAX_RUNS}.", "Name fewer."
        )
    return found


def continual_curves(
    connection: Connection, project: str | int, run_ids: Sequence[int] | None, domain: str
) -> tuple[list[ContinualCurve], list[int]]:
    """Continual runs and the runs that they started from, with their loss on one domain.

    Steps of a continual run count from its transfer; its replay ratio is the share of its parent's
    corpora in its own.
    """
    later = chosen(connection, project, run_ids, ("continual",))
    curves: list[ContinualCurve] = []
    parents: dict[int, Run] = {}
    for run in later:
        if run.parent_run_id is None:
            raise ServiceError(
                "not_enough_data",
                f"The run that {run.name!r} started from is gone.",
                "Leave it out of run_ids.",
                value=run.id,
            )
        parent = parents.setdefault(run.parent_run_id, runs.get(connection, run.parent_run_id))
        before = schedule_of(parent)
        if run.parent_step is not None:
            before = before.until(run.parent_step)
        ratio = continuations.replay_ratio(
            run.config["data"]["train"], parent.config["data"]["train"]
        )
        curves.append(
            ContinualCurve.of(
                run.name,
                *_evaluated(connection, run, domain),
                schedule_of(run),
                before=before,
                replay_ratio=min(ratio, 1 - 1e-9),
                size=run.n_total,
            )
        )
    past = [
        ContinualCurve.of(
            parent.name, *_evaluated(connection, parent, domain), schedule_of(parent),
            size=parent.n_total,
        )
        for parent in parents.values()
    ]  # fmt: skip
    return [*past, *curves], [*parents, *(run.id for run in later)]


def _evaluated(connection: Connection, run: Run, domain: str) -> tuple[list[int], list[float]]:
    rows = evaluations.of_run(connection, run.id, validation_set=domain)
    if not rows:
        raise ServiceError(
            "not_enough_data",
            f"Run {run.id} ({run.name!r}) was not evaluated on {domain!r}.",
            "Evaluate every run on both domains, or name runs that were.",
            value=run.id,
        )
    return [row.step for row in rows], [row.loss for row in rows]
