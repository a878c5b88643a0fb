"""What a run's page says beyond what was measured: the continuation, the final loss, its health."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from sqlalchemy import Connection

from app.dashboard import text
from app.dashboard.figures import Line
from app.services import fitted, loss_curves, run_curves, runs
from app.services.errors import ServiceError
from fitting import FittingError
from fitting.curves.spikes import Health

POINTS = 80
MOST_NAMED = 5


@dataclass(frozen=True)
class Foreseen:
    """ahead: step (as x), law and band, from the run's step to its last. answer: of
    `loss_curves.in_flight`."""

    ahead: Line
    answer: Mapping[str, Any]

    @property
    def loss(self) -> str:
        name = self.answer["validation_set"]
        return f"loss on {name}" if name else "training loss"


@dataclass(frozen=True)
class Told:
    """foreseen: None where there is no law, no schedule (`why`) or nothing left to foresee."""

    health: Health | None
    points: int
    foreseen: Foreseen | None
    why: str

    def outputs(self) -> dict[str, tuple[str, ...]]:
        """{place on the page: (shown, exact)}, and for a notice the class of its colour: what a
        live page writes anew."""
        said = in_words(self.health, self.points)
        verdict = "" if self.health is None else self.health.verdict
        tone = {"healthy": "good", "diverged": "bad"}.get(verdict, "")
        out: dict[str, tuple[str, ...]] = {"health": (said, said, tone)}
        if self.foreseen is not None:
            answer = self.foreseen.answer
            final = answer["final"]
            ends = text.interval(final["lower"], final["upper"])
            alarm = [one["message"] for one in answer["warnings"]]
            tone = "bad" if answer["alarm"] else "" if alarm else "good"
            words = " ".join(alarm) or "The recent losses are within what the law allows."
            out |= {
                "final": (text.loss(final["loss"]), str(final["loss"])),
                "final-interval": (ends, f"[{final['lower']}, {final['upper']}]"),
                "seen": (f"{answer['share_seen']:.0%}", str(answer["share_seen"])),
                "offset": (text.percent(float(np.expm1(answer["offset"]))), str(answer["offset"])),
                "law-only": (text.loss(answer["law_only"]), str(answer["law_only"])),
                "alarm": (words, words, tone),
                "reach": (text.reach(answer["reach"]), str(dict(answer["reach"]))),
            }
        return out


def of(connection: Connection, run_id: int, live: bool) -> Told:
    """A run that has ended has nothing to foresee."""
    health, points = loss_curves.health_of(connection, run_id)
    foreseen, why = None, ""
    if live:
        try:
            foreseen = _foreseen(connection, run_id)
        except (ServiceError, FittingError) as error:
            why = f"{error.message} {error.hint}".strip()
    return Told(health, points, foreseen, why)


def _foreseen(connection: Connection, run_id: int) -> Foreseen | None:
    run = runs.get(connection, run_id)
    kept = fitted.page(connection, "curve_fit", project=run.project_id, limit=1).items
    if not kept:
        return None
    answer = loss_curves.in_flight(connection, run_id, kept[0].id)
    fit = loss_curves.load(connection, kept[0].id)
    schedule = run_curves.known_schedule(connection, run)
    first = max(answer["step"], min(fit.first_step, schedule.steps), 1)
    steps = np.unique(np.round(np.geomspace(first, schedule.steps, POINTS)).astype(np.int64))
    law = fit.predict(schedule, steps, run.n_total)
    return Foreseen(Line(steps.astype(float), law.value, law.lower, law.upper), answer)


def in_words(health: Health | None, points: int) -> str:
    """The verdict, and the spikes behind it."""
    if health is None:
        return "No points yet."
    if health.verdict == "diverged":
        return f"Diverged. {health.message}"
    if not health.spikes:
        return f"Healthy: no spike in the last {points:,} points."
    named = [
        f"step {one.peak_step:,} (+{one.height:.2f}, "
        + ("not back yet" if one.recovery is None else f"back after {one.recovery:,} steps")
        + ")"
        for one in health.spikes[-MOST_NAMED:]
    ]
    count = len(health.spikes)
    more = "" if count <= MOST_NAMED else f"the last {MOST_NAMED}: "
    return f"{count} {'spike' if count == 1 else 'spikes'}: {more}{', '.join(named)}."
