"""What is deferred in a transaction is there if, and only if, the transaction is."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import procrastinate
import pytest
from sqlalchemy import Connection, Engine, text

from app.settings import Settings
from app.storage import queue
from app.storage.listen import dsn


def test_procrastinate_itself_runs_what_was_deferred(settings: Settings, engine: Engine) -> None:
    assert settings.database_url is not None
    seen: list[tuple[str, int]] = []
    connector = procrastinate.PsycopgConnector(conninfo=dsn(settings.database_url))
    app = procrastinate.App(connector=connector)

    @app.task(name="train_run")
    def train_run(run_id: int) -> None:
        seen.append(("train", run_id))

    @app.task(name="run_job")
    def run_job(job_id: int) -> None:
        seen.append(("job", job_id))

    with engine.begin() as connection:
        queue.defer_train(connection, 1)
        queue.defer_train(connection, 2, priority=5)
        queue.defer_train(connection, 3, schedule_in=3600)
        queue.defer_job(connection, 4)

    async def work() -> None:
        async with app.open_async():
            await app.run_worker_async(wait=False, install_signal_handlers=False)

    # Playwright's and pytest's own loops are left alone
    with ThreadPoolExecutor(1) as pool:
        pool.submit(lambda: asyncio.run(work())).result()
    assert seen == [("train", 2), ("train", 1), ("job", 4)]
    with engine.begin() as connection:
        assert queue.depth(connection)["train", "todo"] == 1
        connection.execute(text("delete from procrastinate_jobs"))


def test_nothing_is_queued_by_a_transaction_that_rolls_back(engine: Engine) -> None:
    with pytest.raises(RuntimeError), engine.begin() as connection:
        queue.defer_train(connection, 1)
        raise RuntimeError
    with engine.connect() as connection:
        assert queue.depth(connection) == {}


def test_deferring_twice_gives_two_ids(connection: Connection) -> None:
    assert queue.defer_train(connection, 7) != queue.defer_train(connection, 7)
    assert queue.depth(connection) == {("train", "todo"): 2}
