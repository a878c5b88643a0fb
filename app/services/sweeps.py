"""Sweeps: planned, stored as runs, followed to their end."""

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from operator import attrgetter
from typing import Any

from sqlalchemy import Connection

from app.services import corpora_at, paging, projects, runs
from app.services.errors import ServiceError, not_found
from app.services.estimates import Estimate, estimate, measured
from app.services.sweep_plan import SweepPlan, corpus_names, plan_sweep
from app.settings import Settings
from app.storage import queue, recording
from app.storage import runs as stored_runs
from app.storage import stats as counts
from app.storage import sweeps as storage
from app.storage.errors import Conflict, NotFound
from app.storage.runs import Run


@dataclass(frozen=True)
class Planned:
    """A plan that has not been stored: what would be trained, and how long it would take."""

    plan: SweepPlan
    estimate: Estimate


@dataclass(frozen=True)
class Progress:
    """How far a sweep has come.

    statuses            runs by status
    flops, total_flops  of the compute that is planned for it, trunks counted once
    seconds_left        at the pace of the runs that this database has seen; None before the first
    """

    statuses: dict[str, int]
    runs: int
    finals: int
    finished_finals: int
    flops: float
    total_flops: float
    fraction: float
    ended: bool
    seconds_left: float | None


@dataclass(frozen=True)
class SweepSummary:
    id: int
    project_id: int
    name: str
    spec: dict[str, Any]
    created_at: datetime
    progress: Progress


def plan(
    connection: Connection,
    settings: Settings,
    name: str,
    spec: Mapping[str, Any],
    *,
    processes: int = 1,
) -> Planned:
    """Every run and the time it takes with `processes` at once; stores nothing."""
    spec = corpora_at.with_vocabulary(settings, spec)
    names = corpus_names(spec)
    planned = plan_sweep(
        name,
        spec,
        paths=corpora_at.paths(settings, names),
        unique_tokens=corpora_at.unique_tokens(settings, names),
    )
    throughput = measured(counts.training_rates(connection))
    return Planned(planned, estimate(planned, throughput, processes))


def create(
    connection: Connection,
    settings: Settings,
    project: str | int,
    name: str,
    spec: Mapping[str, Any],
) -> SweepSummary:
    """Plan, store and queue: trunks and runs alone at once, branches when their trunk is there.

    The runs are evaluated on the spec's validation sets and on those of the project's sweeps before
    it, so that one sweep's losses can be linked to another's.
    """
    into = projects.resolve(connection, project)
    spec = corpora_at.with_vocabulary(settings, spec)
    if (spec.get("corpora") or {}).get("validation"):
        others = storage.validation_corpora(connection, into.id)
        spec = corpora_at.with_validation(settings, spec, others)
    names = corpus_names(spec)
    planned = plan_sweep(name, spec, paths=corpora_at.paths(settings, names))
    try:
        sweep = storage.create(connection, into.id, name, dict(spec))
        first = [run for run in planned.runs if run.parent is None]
        rows = [runs.row_of(run, into.id, sweep_id=sweep.id) for run in first]
        ids = dict(
            zip(
                (run.name for run in first),
                stored_runs.create_many(connection, rows),
                strict=True,
            )
        )
        stored_runs.create_many(
            connection,
            [
                runs.row_of(run, into.id, sweep_id=sweep.id, parent_run_id=ids[run.parent])
                for run in planned.runs
                if run.parent is not None
            ],
        )
    except Conflict as error:
        raise ServiceError(
            "conflict",
            f"The project has a sweep or a run of that name already ({error}).",
            "Choose another name: a sweep's runs are named after it.",
            column="name",
            value=name,
        ) from None
    queued = set(stored_runs.queue_planned(connection, ids.values()))
    # the longest first: what is left at the end is then short
    for run in sorted(first, key=lambda run: -run.new_flops):
        if ids[run.name] in queued:
            queue.defer_train(
                connection, ids[run.name], runs.TRUNK_PRIORITY if run.kind == "trunk" else 0
            )
    return get(connection, sweep.id)


def get(connection: Connection, sweep_id: int) -> SweepSummary:
    try:
        sweep = storage.get(connection, sweep_id)
    except NotFound:
        raise not_found("sweep", sweep_id) from None
    return _summary(connection, sweep)


def page(
    connection: Connection,
    *,
    project: str | int | None = None,
    cursor: str | None = None,
    limit: int = paging.DEFAULT_LIMIT,
) -> paging.Page[SweepSummary]:
    """Newest first."""
    stored = storage.page(
        connection,
        project_id=None if project is None else projects.resolve(connection, project).id,
        after=paging.after_of(cursor),
        limit=limit,
    )
    return paging.page_of(stored, lambda sweep: _summary(connection, sweep))


def find(connection: Connection, project: str | int, name: str) -> SweepSummary | None:
    """The project's sweep of that name, if there is one."""
    into = projects.resolve(connection, project)
    found = storage.find_by_name(connection, into.id, name)
    return None if found is None else _summary(connection, found)


def runs_of(connection: Connection, sweep_id: int) -> list[Run]:
    """Every run of the sweep, in the order in which it was planned."""
    get(connection, sweep_id)
    return stored_runs.of_sweep(connection, sweep_id)


@dataclass(frozen=True)
class SeedNoise:
    """What luck is worth: the standard deviation of the last loss over seeds, and its interval."""

    validation_set: str
    sd: float
    lower: float
    upper: float
    level: float
    degrees_of_freedom: int
    runs: int
    groups: int


def seed_noise(connection: Connection, sweep_id: int, *, level: float = 0.9) -> list[SeedNoise]:
    """From the sweep's repeats (`repeat_seeds`), by validation set; empty before two have finished.

    The interval is that of a variance of normal errors, chi squared: wide for a few repeats.
    """
    from scipy.stats import chi2

    get(connection, sweep_id)
    found = []
    for spread in counts.seed_spread(connection, sweep_id):
        n = spread.degrees_of_freedom
        low, high = chi2.ppf([(1 + level) / 2, (1 - level) / 2], n)
        bounds = {"lower": spread.sd * (n / low) ** 0.5, "upper": spread.sd * (n / high) ** 0.5}
        found.append(SeedNoise(**vars(spread), **bounds, level=level))
    return found


@dataclass(frozen=True)
class RateSensitivity:
    """What a wrong peak rate costs runs of one size and length; fitting/curves/sensitivity.py."""

    validation_set: str
    n_total: float
    steps: int
    seed: int
    value: float
    best_lr: float
    best_loss: float
    edge: bool
    span: float
    n_rates: int
    diverged: int


def rate_sensitivity(connection: Connection, sweep_id: int) -> list[RateSensitivity]:
    """From the sweep's rates (`lrs`), by validation set, size and length: where at least three have
    come to an end and one of them did not diverge. A diverged run counts with its first loss."""
    from fitting.curves.sensitivity import lr_sensitivity

    get(connection, sweep_id)
    found = []
    key = attrgetter("validation_set", "n_total", "steps", "seed")
    for which, group in itertools.groupby(counts.at_rates(connection, sweep_id), key):
        runs_at = list({each.lr: each for each in group}.values())
        losses = [math.nan if each.loss is None else each.loss for each in runs_at]
        firsts = [each.first_loss for each in runs_at if each.first_loss is not None]
        diverged = sum(map(math.isnan, losses))
        if len(losses) < 3 or diverged == len(losses) or (diverged and not firsts):
            continue
        rates = [each.lr for each in runs_at]
        found.append(
            RateSensitivity(
                *which,
                **lr_sensitivity(rates, losses, max(firsts, default=None)).to_dict(),
                diverged=diverged,
            )
        )
    return found


def cancel(connection: Connection, sweep_id: int) -> SweepSummary:
    """Cancel every run that has not ended; what is stored stays."""
    recording.request_stop_of_sweep(connection, sweep_id)
    return get(connection, sweep_id)


def progress_of(connection: Connection, sweep_id: int) -> Progress:
    """Counted by the database, so that it costs the same for ten runs and for ten thousand."""
    stored = storage.progress(connection, sweep_id)
    finals = counts.finals_of_sweep(connection, sweep_id)
    ended = all(status in stored_runs.ENDED for status in stored.runs)
    left = 0.0 if ended else None
    rates = measured(counts.training_rates(connection, sweep_id=sweep_id))
    if not ended and rates.source == "measured":
        typical = sorted(rate for _, rate in rates.points)[len(rates.points) // 2]
        at_once = max(1, stored.runs.get("running", 0))
        left = max(0.0, stored.flops_planned - stored.flops_done) / (typical * at_once)
    return Progress(
        statuses=stored.runs,
        runs=sum(stored.runs.values()),
        finals=sum(finals.values()),
        finished_finals=finals.get("finished", 0),
        flops=stored.flops_done,
        total_flops=stored.flops_planned,
        fraction=1.0 if ended else min(1.0, stored.flops_done / (stored.flops_planned or 1.0)),
        ended=ended,
        seconds_left=left,
    )


def _summary(connection: Connection, sweep: storage.Sweep) -> SweepSummary:
    return SweepSummary(
        id=sweep.id,
        project_id=sweep.project_id,
        name=sweep.name,
        spec=sweep.spec,
        created_at=sweep.created_at,
        progress=progress_of(connection, sweep.id),
    )
