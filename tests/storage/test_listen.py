"""Changes are heard when they are committed, and after the connection was lost."""

import asyncio
from collections.abc import AsyncIterator
from urllib.parse import quote

import pytest
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import Engine, text

from app.settings import Settings
from app.storage import recording
from app.storage.listen import Event, Listener, dsn
from tests.storage.conftest import make_run

PATIENCE_SECONDS = 120  # no promise: what does not come is to fail, not to hang


async def asked_for(events: AsyncIterator[Event]) -> Event:
    return await anext(events)


async def following(events: AsyncIterator[Event]) -> Event:
    return await asyncio.wait_for(anext(events), PATIENCE_SECONDS)


@pytest.mark.parametrize("password", ["a blank", "p@ss:w/rd%1", "+'\\\\", "é#?&="])
def test_libpq_reads_an_address_as_it_was_meant(password: str) -> None:
    server = "db.example:5433/of%20ours?sslmode=require"
    url = f"postgresql+psycopg://me:{quote(password, safe='')}@{server}"
    assert conninfo_to_dict(dsn(url)) == {
        "user": "me",
        "password": password,
        "host": "db.example",
        "port": "5433",
        "dbname": "of ours",
        "sslmode": "require",
    }


def test_silence_is_told_of(settings: Settings) -> None:
    async def listen() -> None:
        assert settings.database_url is not None
        async with Listener(settings.database_url) as listener:
            events = listener.events(idle_seconds=0.01)
            assert await following(events) == {"event": "idle"}

    asyncio.run(listen())


def test_a_listener_hears_what_was_committed_and_survives(
    settings: Settings, engine: Engine
) -> None:
    assert settings.database_url is not None
    url = settings.database_url
    with engine.begin() as connection:
        run, other = make_run(connection, steps=10), make_run(connection)

    def train() -> int:
        with engine.begin() as connection:
            recording.claim_run(connection, other.id, "one")
            attempt = recording.claim_run(connection, run.id, "one")
            assert attempt is not None
        at_step(1, attempt)
        return attempt

    def at_step(step: int, attempt: int) -> None:
        with engine.begin() as connection:
            recording.record(
                connection, run.id, attempt, recording.Batch(points=[(step, 1.0, 2.0, None)])
            )

    def cut_off() -> None:
        with engine.begin() as connection:
            connection.execute(
                text(
                    "select pg_terminate_backend(pid) from pg_stat_activity"
                    " where query ilike 'listen%' and datname = current_database()"
                )
            )

    async def listen() -> None:
        async with Listener(url) as listener:
            events = listener.events(
                lambda event: event.get("run_id") == run.id, idle_seconds=2 * PATIENCE_SECONDS
            )
            first = asyncio.create_task(asked_for(events))
            await asyncio.sleep(0)  # and so it listens
            attempt = await asyncio.to_thread(train)
            expected = {
                "event": "run",
                "run_id": run.id,
                "project_id": run.project_id,
                "sweep_id": None,
                "status": "running",
                "steps": 10,
            }
            assert await asyncio.wait_for(first, PATIENCE_SECONDS) == {**expected, "step": 0}
            assert await following(events) == {**expected, "step": 1}
            await asyncio.to_thread(cut_off)
            assert await following(events) == {"event": "reconnected"}
            await asyncio.to_thread(at_step, 2, attempt)
            assert await following(events) == {**expected, "step": 2}

    asyncio.run(listen())
