"""`python -m workers`: train what is queued."""

import argparse
import asyncio
import os
import queue
import shlex
import signal
import sys
import threading
from collections.abc import Sequence

import structlog
from sqlalchemy import Engine, inspect
from sqlalchemy.exc import OperationalError

from app.settings import Settings
from app.storage.engine import make_engine
from workers import logs, machine
from workers.attempt import TRAINER, Station
from workers.lifecycle import Policy
from workers.service import Slots, WorkerFailed, reap_only, serve, worker_name
from workers.store import FsspecStore, NoDriver
from workers.tasks import JOBS_QUEUE, QUEUES

log = structlog.get_logger()


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m workers", description=__doc__)
    parser.add_argument(
        "--concurrency",
        type=int,
        metavar="N",
        help="runs at once (default: one per GPU, or per core where there is no GPU)",
    )
    parser.add_argument(
        "--gpus-per-run",
        type=int,
        default=1,
        metavar="G",
        help="GPUs of each run at once, for runs of up to G processes (default: %(default)s)",
    )
    parser.add_argument(
        "--runs-per-gpu",
        type=int,
        metavar="K",
        help="small runs that share each GPU, a process each",
    )
    parser.add_argument(
        "--queues", default=",".join(QUEUES), help="which queues to serve (default: %(default)s)"
    )
    parser.add_argument(
        "--drain",
        "--once",
        action="store_true",
        help="leave when nothing is queued and no run is being trained",
    )
    parser.add_argument(
        "--reaper", action="store_true", help="train nothing; only take back what dead workers held"
    )
    parser.add_argument(
        "--trainer",
        metavar="COMMAND",
        help="another program that takes the trainer's arguments and prints its lines",
    )
    given = parser.parse_args(arguments)
    for name in ("concurrency", "gpus_per_run", "runs_per_gpu"):
        number = getattr(given, name)
        if number is not None and number < 1:
            parser.error(f"--{name.replace('_', '-')} is {number}; it must be at least 1")
    if given.gpus_per_run > 1 and given.runs_per_gpu is not None:
        parser.error("--gpus-per-run is for large runs and --runs-per-gpu for small ones: not both")
    given.queues = tuple(name.strip() for name in given.queues.split(",") if name.strip())
    unknown = sorted(set(given.queues) - set(QUEUES))
    if unknown or not given.queues:
        parser.error(f"--queues names {unknown or 'nothing'}; known: {', '.join(QUEUES)}")
    return given


def main(arguments: list[str] | None = None) -> int:
    given = parse(arguments)
    settings = Settings()
    logs.configure(settings.log_level)
    engine = make_engine(settings, application_name=worker_name())
    stopping = threading.Event()
    try:
        if not has_schema(engine):
            print(
                "error: the database has no tables yet; run: scalewright db upgrade",
                file=sys.stderr,
            )
            return 1
        if given.reaper:
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, lambda *_: stopping.set())
            reap_only(engine, settings, stopping)
            return 0
        store = settings.checkpoint_store and FsspecStore(settings.checkpoint_store)
        slots = slots_of(machine.gpus(), given.concurrency, given.gpus_per_run, given.runs_per_gpu)
        concurrency = len(slots) or given.concurrency or machine.cores()
        station = Station(
            engine=engine,
            settings=settings,
            name=worker_name(),
            policy=Policy(max_failures=settings.worker_max_failures),
            stopping=stopping,
            gpus=waiting(slots),
            gpus_per_run=given.gpus_per_run,
            trainer=shlex.split(given.trainer) if given.trainer else TRAINER,
            store=store or None,
        )
        url = engine.url.render_as_string(hide_password=False)
        at_once = Slots(train=concurrency, jobs=1 if JOBS_QUEUE in given.queues else 0)
        asyncio.run(serve(station, url, at_once, queues=given.queues, drain=given.drain))
        return 0
    except WorkerFailed as error:
        log.error("worker failed", why=str(error))
        return 1
    except TooFewGPUs as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except NoDriver as error:
        print(f"error: SCALEWRIGHT_CHECKPOINT_STORE: {error}", file=sys.stderr)
        return 1
    finally:
        engine.dispose()


def has_schema(engine: Engine) -> bool:
    """Whether the tables are there; a database that cannot be reached may well have them."""
    try:
        return inspect(engine).has_table("runs")
    except OperationalError:
        return True


class TooFewGPUs(Exception):
    """This machine cannot do what was asked of it."""


def slots_of(
    gpus: Sequence[str],
    concurrency: int | None = None,
    gpus_per_run: int = 1,
    runs_per_gpu: int | None = None,
) -> list[str]:
    """For each run at once its GPUs, as CUDA_VISIBLE_DEVICES has them; empty without GPUs.

    >>> slots_of(["0", "1", "2", "3"], gpus_per_run=2)
    ['0,1', '2,3']
    >>> slots_of(["0", "1"], runs_per_gpu=2)
    ['0', '1', '0', '1']
    """
    here = f"this worker has {len(gpus)} (CUDA_VISIBLE_DEVICES, else nvidia-smi)"
    if gpus_per_run > max(1, len(gpus)):
        raise TooFewGPUs(f"--gpus-per-run is {gpus_per_run} and {here}")
    if not gpus:
        if runs_per_gpu is not None:
            raise TooFewGPUs(f"--runs-per-gpu is {runs_per_gpu} and {here}")
        return []
    whole = len(gpus) - len(gpus) % gpus_per_run
    groups = [",".join(gpus[i : i + gpus_per_run]) for i in range(0, whole, gpus_per_run)]
    count = concurrency or len(groups) * (runs_per_gpu or 1)
    most = len(groups) * runs_per_gpu if runs_per_gpu else len(groups)
    if (gpus_per_run > 1 or runs_per_gpu) and count > most:
        raise TooFewGPUs(f"--concurrency is {count}, which wants GPUs for more than {most}; {here}")
    return [groups[slot % len(groups)] for slot in range(count)]


def waiting(slots: Sequence[str]) -> "queue.SimpleQueue[str] | None":
    """The GPUs of each slot, to be taken by a run and put back; None without GPUs."""
    if not slots:
        return None
    free: queue.SimpleQueue[str] = queue.SimpleQueue()
    for slot in slots:
        free.put(slot)
    return free


if __name__ == "__main__":
    # The database's address is ours alone: nothing that we start may read it.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
