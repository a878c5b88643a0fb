"""create_app(settings): the application, put together."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import metadata

import structlog
from fastapi import Depends, FastAPI
from fastapi_offline import FastAPIOffline
from starlette.concurrency import run_in_threadpool
from starlette.middleware.body_limit import RequestBodyLimitMiddleware

from app import dashboard
from app.api import (
    allocations,
    calibrations,
    curves,
    errors,
    events,
    fits,
    idempotency,
    imports,
    jobs,
    links,
    openapi,
    operations,
    projects,
    runs,
    sweeps,
    tasks,
)
from app.api.auth import READ, SUBMIT, ThisMachineOnly, refuse_other_origins
from app.api.telemetry import CountRequests, Telemetry
from app.services import idempotency as stored_answers
from app.settings import Settings
from app.storage import migrate
from app.storage.engine import make_engine
from app.storage.listen import Listener

log = structlog.get_logger(__name__)

MAX_BODY_BYTES = 256 << 20
DESCRIPTION = """What loss will this run reach, and how should the budget be spent?

Plan a sweep, train proxies or import runs, fit a law, predict and allocate, and keep forecasts that
are scored when the run lands. Every prediction comes with its interval and its reach.
"""


def create_app(settings: Settings | None = None) -> FastAPI:
    """The REST API and the dashboard. Entering its lifespan opens the database (and starts the
    embedded one); a database of yours is never migrated in silence."""
    settings = settings or Settings()
    app = FastAPIOffline(
        title="scalewright",
        version=_version(),
        description=DESCRIPTION,
        lifespan=_lifespan,
        openapi_url="/openapi.json",
    )
    app.state.settings = settings
    app.state.callers = {}
    errors.install(app)
    openapi.install(app)
    if settings.auth == "none":
        app.add_middleware(ThisMachineOnly)
    app.add_middleware(RequestBodyLimitMiddleware, max_body_size=MAX_BODY_BYTES)
    app.add_middleware(errors.TooLargeIsAProblem)
    app.add_middleware(CountRequests)
    for router in (
        projects.router,
        imports.router,
        events.router,
        runs.router,
        sweeps.router,
        jobs.router,
        allocations.router,
        calibrations.router,
        curves.router,
        fits.router,
        links.router,
        tasks.router,
        operations.router,
        operations.open_router,
    ):
        app.include_router(router)
    own_pages = Depends(refuse_other_origins)
    app.include_router(dashboard.public_router, dependencies=[own_pages])
    app.include_router(dashboard.router, dependencies=[READ])
    app.include_router(dashboard.acting_router, dependencies=[own_pages, SUBMIT])
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    settings: Settings = app.state.settings
    if settings.database_url is None:
        await run_in_threadpool(migrate.upgrade, settings)
    engine = await run_in_threadpool(make_engine, settings)
    try:
        status = await run_in_threadpool(migrate.status, engine.url.render_as_string(False))
        if not status.up_to_date:
            raise RuntimeError(
                f"The database is at revision {status.current}, this version wants {status.head}: "
                "run `scalewright db upgrade` (after a backup)."
            )
        with engine.begin() as connection:
            stored_answers.sweep(connection)
        app.state.engine = engine
        app.state.idempotent_limiter = idempotency.limiter()
        app.state.telemetry = Telemetry(engine)
        async with Listener(engine.url.render_as_string(False)) as listener:
            app.state.listener = listener
            await run_in_threadpool(dashboard.warm_up)
            log.info("serving", database=status.address, revision=status.current)
            yield
    finally:
        await run_in_threadpool(engine.dispose)


def _version() -> str:
    try:
        return metadata.version("scalewright")
    except metadata.PackageNotFoundError:
        return "0+unknown"
