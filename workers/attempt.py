"""One attempt at one run: claim it, find what it goes on from, train, close."""

import contextlib
import json
import os
import queue
import shlex
import shutil
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy import Connection, Engine

from app.settings import Settings
from app.storage import checkpoints, recording, runs
from app.storage import queue as queue_storage
from app.storage.checkpoints import Checkpoint
from app.storage.engine import end_if_silent
from app.storage.runs import Run
from workers.lifecycle import Close, Event, Phase, Policy, started, unstarted
from workers.recorder import Recorder, Spool, store_close
from workers.shelf import KEEP, Shelf
from workers.store import Store, is_url, localized
from workers.supervise import Ledger, Trainer, child_environment, watch
from workers.tidy import Tidier, run_folder
from workers.upload import Uploader, discard

log = structlog.get_logger()

TRAINER = (sys.executable, "-m", "workers.proxy.train")
LAUNCHER = (sys.executable, "-m", "workers.proxy.launch")  # of a run in several processes
ALL = 10**9  # more checkpoints than a run writes, and a number that the trainer takes
JOIN_SECONDS = 5.0
LARGER_SECONDS = 10.0  # until a run that is too large for one worker is offered again
HOME = Path(__file__).resolve().parent.parent  # where `-m workers.proxy.train` is found


class Unstartable(Exception):
    """The run cannot be started, now or later; the message says why and what to do."""


@dataclass(frozen=True)
class Station:
    """What every run of a worker process shares."""

    engine: Engine
    settings: Settings
    name: str
    policy: Policy
    stopping: threading.Event
    gpus: "queue.SimpleQueue[str] | None" = None  # the GPUs of a slot, as CUDA_VISIBLE_DEVICES
    gpus_per_run: int = 1
    trainer: Sequence[str] = TRAINER
    store: Store | None = None  # where checkpoints are shared, if not in the checkpoint folder
    busy: set[int] = field(default_factory=set)  # ids of the runs that are being trained here
    too_large: set[int] = field(default_factory=set)  # and of those left to larger workers

    @property
    def flush_seconds(self) -> float:
        """Between two writes: also the heartbeat, and how soon a cancel is heard of."""
        return min(1.0, self.settings.worker_heartbeat_seconds / 2)


@dataclass(frozen=True)
class Claim:
    """A run that is ours, and what was recorded of it so far."""

    run: Run
    attempt: int
    left: list[Checkpoint]
    start: Checkpoint | None


def claim(connection: Connection, run_id: int, worker: str, lease_seconds: float) -> Claim | None:
    """Take the run, or None: somebody else has it, it has ended, or it is gone."""
    attempt = recording.claim_run(connection, run_id, worker, lease_seconds=lease_seconds)
    if attempt is None:
        return None
    run = runs.get(connection, run_id)
    start = None
    if run.parent_run_id is not None and run.parent_step is not None:
        start = checkpoints.start_at(connection, run.parent_run_id, run.parent_step)
    return Claim(run, attempt, checkpoints.of_run(connection, run_id), start)


def train(station: Station, run_id: int) -> str:
    """Claim the run and see it through; what came of it, for the log.

    Raises only if the database cannot be reached before the claim: the delivery is then repeated.
    """
    lease_seconds = station.settings.worker_timeout_seconds
    with station.engine.begin() as connection:
        end_if_silent(connection, lease_seconds)  # or whoever claims it next waits for us
        with connection.begin_nested() as attempted:
            taken = claim(connection, run_id, station.name, lease_seconds)
            wanted = 0 if taken is None else gpus_wanted(taken.run.config)
            if wanted > station.gpus_per_run:
                attempted.rollback()
        if wanted > station.gpus_per_run:
            station.too_large.add(run_id)
            why = f"waits for a worker with {wanted} GPUs a run (--gpus-per-run {wanted})"
            recording.explain_wait(connection, run_id, why)
            queue_storage.defer_train(connection, run_id, schedule_in=LARGER_SECONDS)
            return "left to a larger worker"
    if taken is None:
        return "not to be had"
    gpu = station.gpus.get() if station.gpus is not None else None
    station.busy.add(run_id)
    try:
        with structlog.contextvars.bound_contextvars(run_id=run_id, attempt=taken.attempt):
            return _train(station, taken, gpu)
    finally:
        station.busy.discard(run_id)
        if station.gpus is not None and gpu is not None:
            station.gpus.put(gpu)


def _train(station: Station, taken: Claim, gpu: str | None) -> str:
    run = taken.run
    folder = run_folder(station.settings, run.id) / f"attempt-{taken.attempt}"
    cache = folder / "fetched"
    mailbox: queue.SimpleQueue[Event] = queue.SimpleQueue()
    recorder = Recorder(
        station.engine,
        run.id,
        taken.attempt,
        run.config,
        mailbox.put,
        flush_seconds=station.flush_seconds,
        spool=Spool(folder=folder),
        shelf=Shelf(remover(station.store), kept(run.config)),
    )
    recorder.start()  # it is the heartbeat too, and a large checkpoint takes long to fetch
    try:
        resume = newest_whole(taken.left, station.store, cache)
        config = complete_config(run, taken.start, station.store, cache)
        folder.mkdir(parents=True, exist_ok=True)
        if station.store is None:
            config = left_to_the_shelf(config)
        (folder / "config.json").write_text(json.dumps(config, indent=1))
        processes = count(config, "processes")
        several = processes > 1 and tuple(station.trainer) == TRAINER
        trainer_command = (*LAUNCHER, str(processes)) if several else station.trainer
        command = [*trainer_command, str(folder / "config.json"), "--out", str(folder)]
        if resume is not None:
            command += ["--resume", resume.path]
        env = child_environment(
            os.environ,
            threads=count(config, "threads"),
            device=str(config.get("device", "cpu")),
            gpu=gpu and ",".join(gpu.split(",")[:processes]),
        )
        trainer = Trainer(command, env=env, cwd=HOME)
    except (Unstartable, OSError) as error:
        recorder.abandon()
        recorder.join(JOIN_SECONDS)
        forever = isinstance(error, Unstartable)
        why = str(error) if forever else f"could not be started: {error}"
        return _close_unstarted(station, taken, why, forever=forever)
    log.info(
        "run started",
        pid=trainer.pid,
        name=run.name,
        resume_step=None if resume is None else resume.step,
        command=shlex.join(command),
    )
    ledger: Ledger = recorder
    uploader: Uploader | None = None
    if station.store is not None:
        uploader = Uploader(recorder, station.store, f"run-{run.id}/attempt-{taken.attempt}")
        uploader.start()
        ledger = uploader
    try:
        state = started(time.monotonic(), failures=run.failures, resumed=resume is not None)
        state = watch(trainer, ledger, mailbox, state, station.policy, station.stopping)
    finally:
        trainer.close()
        ledger.abandon()
        recorder.join(JOIN_SECONDS)  # it may hang in a dead connection; it has no say any more
    assert state.phase is Phase.DONE
    tidier = Tidier(station.engine, station.settings, station.store)
    if state.close is None:
        if uploader is not None:
            uploader.join(JOIN_SECONDS)  # what it just brought may have come after the run's end
            tidier.tidy(run.id)
        return "left to others"
    if state.close.status == "finished":
        tidier.tidy(run.id)
    shutil.rmtree(cache, ignore_errors=True)
    return state.close.status


def _close_unstarted(station: Station, taken: Claim, why: str, *, forever: bool) -> str:
    close: Close = unstarted(why, taken.run.failures, station.policy, forever=forever)
    log.error("run not started", why=why, status=close.status)
    with station.engine.begin() as connection:
        return store_close(connection, taken.run.id, taken.attempt, close) or "left to others"


def complete_config(
    run: Run, start: Checkpoint | None, store: Store | None, cache: Path
) -> dict[str, Any]:
    """runs.config with what only the worker knows: where the run's parent left its checkpoint."""
    config: dict[str, Any] = dict(run.config)
    init: Mapping[str, Any] = config.get("init") or {}
    if run.kind not in runs.CHILDREN or init.get("checkpoint"):
        return config
    parent = "trunk" if run.kind == "branch" else "parent"
    if start is None:
        raise Unstartable(
            f"its {parent}, run {run.parent_run_id}, has no checkpoint at step {run.parent_step}; "
            f"train the {parent} again"
        )
    here = localized(start, store, cache)
    if here is None:
        raise Unstartable(
            f"the checkpoint of its {parent} is gone or damaged: {start.path}; every worker needs "
            "the same checkpoint folder (SCALEWRIGHT_CHECKPOINT_DIR) or store "
            "(SCALEWRIGHT_CHECKPOINT_STORE)"
        )
    return {**config, "init": {"kind": run.kind, **init, "checkpoint": here.path}}


def count(config: Mapping[str, Any], key: str) -> int:
    """A number of the configuration that is at least 1, and 1 if it is left out."""
    value = config.get(key, 1)
    if not isinstance(value, int) or value < 1:
        raise Unstartable(f"{key} is {value!r}; it must be a number of at least 1")
    return value


def kept(config: Mapping[str, Any]) -> int:
    """How many resume checkpoints the configuration wants kept."""
    wanted = config.get("checkpoint")
    keep = wanted.get("keep", KEEP) if isinstance(wanted, Mapping) else KEEP
    return keep if isinstance(keep, int) else KEEP


def left_to_the_shelf(config: Mapping[str, Any]) -> dict[str, Any]:
    """As `config`, but that the trainer removes none of its checkpoints; a wrong one as it is."""
    wanted = config.get("checkpoint", {})
    keep = wanted.get("keep", KEEP) if isinstance(wanted, Mapping) else None
    if not isinstance(keep, int) or keep < 1:
        return dict(config)
    return {**config, "checkpoint": {**wanted, "keep": ALL}}


def remover(store: Store | None) -> Callable[[str], None]:
    """Removes a resume checkpoint from wherever it lies; the store's local copies are the
    trainer's."""

    def remove(path: str) -> None:
        if store is not None and is_url(path):
            discard(store, path)
        elif store is None:
            with contextlib.suppress(OSError):  # it only takes space
                Path(path).unlink(missing_ok=True)

    return remove


def gpus_wanted(config: Mapping[str, Any]) -> int:
    """GPUs that a run needs at once: one for each process; none on a CPU."""
    processes = config.get("processes", 1)
    on_gpu = str(config.get("device", "cpu")).startswith("cuda")
    return processes if on_gpu and isinstance(processes, int) else 0


def newest_whole(left: Sequence[Checkpoint], store: Store | None, cache: Path) -> Checkpoint | None:
    """The furthest recorded checkpoint whose file is there and is what was recorded.

    Recorded, not found in the folder: the points before a recorded checkpoint are stored, those
    before an unrecorded one may have died with their worker. None: start from the beginning, which
    costs time and changes nothing. Raises StoreError when the store cannot be asked.
    """
    for checkpoint in sorted(left, key=lambda each: each.step, reverse=True):
        here = localized(checkpoint, store, cache)
        if here is not None:
            return here
        log.warning("checkpoint passed over", path=checkpoint.path, step=checkpoint.step)
    return None
