"""Prometheus metrics: requests as they pass, and what is in the database when asked."""

import time
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy import Engine
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.services import stats

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Telemetry:
    """One application's metrics: a registry of its own, so that two applications do not clash."""

    def __init__(self, engine: Engine) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "scalewright_http_requests",
            "Requests answered.",
            ["method", "route", "status"],
            registry=self.registry,
        )
        self.seconds = Histogram(
            "scalewright_http_request_seconds",
            "Seconds until the answer began.",
            ["method", "route"],
            registry=self.registry,
        )
        self.registry.register(_InTheDatabase(engine))

    def exposition(self) -> bytes:
        return generate_latest(self.registry)


class _InTheDatabase(Collector):
    """Gauges that are counted when they are scraped."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def describe(self) -> Iterable[Metric]:
        # nothing is counted before somebody asks
        return []

    def collect(self) -> Iterable[Metric]:
        with self._engine.begin() as connection:
            counted = stats.gauges(connection)
        for gauge in counted:
            family = GaugeMetricFamily(gauge.name, gauge.about, labels=list(gauge.labels))
            for labels, value in gauge.values:
                family.add_metric(list(labels), value)
            yield family


class CountRequests:
    """Counts each request under its route's template, so that ids do not multiply the series."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        telemetry: Telemetry | None = None
        if scope["type"] == "http":
            telemetry = getattr(scope["app"].state, "telemetry", None)
        if telemetry is None:
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        answered: list[int] = []

        async def watching(message: Message) -> None:
            if message["type"] == "http.response.start" and not answered:
                answered.append(message["status"])
                telemetry.seconds.labels(scope["method"], _route(scope)).observe(
                    time.perf_counter() - started
                )
            await send(message)

        try:
            await self.app(scope, receive, watching)
        finally:
            status = str(answered[0]) if answered else "500"
            telemetry.requests.labels(scope["method"], _route(scope), status).inc()


def _route(scope: Scope) -> str:
    return getattr(scope.get("route"), "path", None) or "(none)"
