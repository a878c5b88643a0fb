"""`python -m workers`: train what is queued."""

import argparse
import asyncio
import os
import queue
import shlex
import signal
import sys
import threading

from sqlalchemy import Engine, inspect
from sqlalchemy.exc import OperationalError

from app.settings import Settings
from app.storage.engine import make_engine
from workers import logs, machine
from workers.attempt import TRAINER, Station
from workers.lifecycle import Policy
from workers.service import Slots, reap_only, serve, worker_name
from workers.store import FsspecStore, NoDriver
from workers.tasks import JOBS_QUEUE, QUEUES


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m workers", description=__doc__)
    parser.add_argument(
        "--concurrency",
        type=int,
        metavar="N",
        help="runs at once (default: one per GPU, or per core where there is no GPU)",
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
    if given.concurrency is not None and given.concurrency < 1:
        parser.error(f"--concurrency is {given.concurrency}; it must be at least 1")
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
        gpus = machine.gpus()
        concurrency = given.concurrency or len(gpus) or machine.cores()
        station = Station(
            engine=engine,
            settings=settings,
            name=worker_name(),
            policy=Policy(max_failures=settings.worker_max_failures),
            stopping=stopping,
            gpus=slots_of(gpus, concurrency),
            trainer=shlex.split(given.trainer) if given.trainer else TRAINER,
            store=store or None,
        )
        url = engine.url.render_as_string(hide_password=False)
        slots = Slots(train=concurrency, jobs=1 if JOBS_QUEUE in given.queues else 0)
        asyncio.run(serve(station, url, slots, queues=given.queues, drain=given.drain))
        return 0
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


def slots_of(gpus: list[str], concurrency: int) -> "queue.SimpleQueue[str] | None":
    """One GPU for every slot, in turn: with more slots than GPUs some are shared."""
    if not gpus:
        return None
    slots: queue.SimpleQueue[str] = queue.SimpleQueue()
    for slot in range(concurrency):
        slots.put(gpus[slot % len(gpus)])
    return slots


if __name__ == "__main__":
    # The database's address is ours alone: nothing that we start may read it.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
