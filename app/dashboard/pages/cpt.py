"""Continual pre-training: general and domain loss after a transfer, and the plan that weighs them.

An ordinary GET form: what is asked for is in the address, and nothing is stored.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import plotly.graph_objects as go
from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse
from sqlalchemy import Connection

from app.dashboard import figures, render, schedule_form, text
from app.dashboard.pages.database import asked_or_newest, reading
from app.services import continual, fitted, run_curves
from app.services.errors import ServiceError
from app.storage import overview as storage
from app.storage.fitted import Stored
from fitting import FittingError
from fitting.curves import (
    ContinualCurve,
    ContinualFit,
    Schedule,
    Transfer,
    forgetting,
    plan_continual,
)
from fitting.curves.continual_plan import Forgetting, pretrained

router = APIRouter(include_in_schema=False)

MOST_LISTED = 50
MOST_FRONT = 12
POINTS = 120
PLAN_SHARES = (0.5, 1.0)
"""A plan is looked for at these shares of the steps that are asked for."""
Fits = dict[str, ContinualFit]
Curves = dict[str, list[ContinualCurve]]


@router.get("/cpt")
def cpt(request: Request) -> HTMLResponse:
    query = request.query_params
    with reading(request) as connection:
        kept = fitted.page(connection, "cpt_fit", limit=MOST_LISTED).items
        named = {row["id"]: row["name"] for row in storage.projects(connection, 500)}
        stored = asked_or_newest(query.get("fit"), kept, partial(continual.get, connection))
        shown: dict[str, Any] = {}
        if stored is not None:
            fits = continual.load(connection, stored.id)
            shown = asked_of(fits, measured(connection, stored), query, units_of(stored))
    drawn: dict[str, go.Figure] = shown.pop("figures", {})
    return render.page(
        request,
        "cpt.html",
        page="Curves",
        fits=[listed(one, named) for one in kept],
        fit=None if stored is None else listed(stored, named),
        missing="fit" in query,
        kinds=schedule_form.KINDS,
        decays=schedule_form.DECAYS.items(),
        shown=shown,
        figures=drawn,
    )


def listed(stored: Stored, projects: Mapping[int, str]) -> dict[str, Any]:
    documents = stored.document
    return {
        "id": stored.id,
        "project": projects.get(stored.project_id or 0),
        "status": stored.status,
        "created_at": stored.created_at,
        "domains": {role: documents[role]["domain"] for role in continual.ROLES},
        "laws": {role: documents[role]["law"] for role in continual.ROLES},
        "runs": documents["general"]["data"]["runs"],
        "warnings": [
            {"domain": documents[role]["domain"], "message": one["message"]}
            for role in continual.ROLES
            for one in documents[role]["warnings"]
        ],
    }


def measured(connection: Connection, stored: Stored) -> Curves:
    """{role: curves} of the runs that the database still has."""
    if stored.project_id is None or not stored.run_ids:
        return {}
    try:
        return {
            role: run_curves.continual_curves(
                connection, stored.project_id, stored.run_ids, str(stored.request[role])
            )[0]
            for role in continual.ROLES
        }
    except (ServiceError, FittingError):
        return {}


def before_of(query: Mapping[str, str], curves: Curves, fits: Fits) -> dict[str, float]:
    """Steps, peak rate and loss potential of pre-training: typed, else of the runs, else guessed
    (as long as the longest continual run, at its highest peak)."""
    data = fits["general"].data
    found = {"steps": float(data["steps"]), "peak_lr": float(data["peak_lr"][1]), "potential": 1.0}
    past = [one.before for one in curves.get("general", []) if one.before is not None]
    if past:
        longest = max(past, key=lambda one: (one.loss_potential, one.steps))
        found = {
            "steps": float(longest.steps),
            "peak_lr": longest.peak_lr,
            "potential": longest.loss_potential,
        }
    for name in found:
        value = text.parse(query.get(f"before_{name}"))
        most = {"steps": schedule_form.MOST_STEPS, "peak_lr": 100.0, "potential": 1.0}[name]
        if value is not None and (0 < value <= most or (value == 0.0 and name == "potential")):
            found[name] = value
    return found


def units_of(stored: Stored) -> dict[str, str]:
    """{role: unit of its losses}; "" where it is not known."""
    kept = stored.request.get("loss_units") or {}
    return {role: kept.get(role) or "" for role in continual.ROLES}


def asked_of(
    fits: Fits, curves: Curves, query: Mapping[str, str], units: Mapping[str, str]
) -> dict[str, Any]:
    """The form, the answer and the figures, as the page shows them."""
    data = fits["general"].data
    low, high = (float(one) for one in data["peak_lr"])
    ratios = [1 - float(one) for one in data["new_share"]]
    ends = (max(0.0, min(ratios)), max(ratios))
    asked = schedule_form.read(
        query, steps=int(data["steps"]), peak_lr=high, kind="cosine", warm=False
    )
    past = before_of(query, curves, fits)
    ratio = _share(query.get("replay_ratio"), 0.5 * sum(ends))
    weight = _share(query.get("general_weight"), 0.5)
    shown: dict[str, Any] = {
        "asked": asked,
        "sliders": schedule_form.sliders(asked, (low, high), float(data["steps"])),
        "replay": share_slider("replay_ratio", "Replay ratio", ratio, ends, "old data"),
        "weight": share_slider("general_weight", "Weight of the general loss", weight, (0, 1), ""),
        "before": {
            "steps": f"{past['steps']:,.0f}",
            "peak_lr": f"{past['peak_lr']:.4g}",
            "potential": f"{past['potential']:.4g}",
        },
        "ratio": ratio,
        "refusal": "",
        "unplanned": "",
        "answers": [],
        "plan": None,
    }
    try:
        warm = min(round(0.025 * past["steps"]), int(past["steps"]))
        before = pretrained(int(past["steps"]), past["peak_lr"], warm, past["potential"])
        transfer = Transfer(before, asked.schedule(), min(ratio, 1 - 1e-9))
        shown |= answered(fits, curves, transfer, asked.kind, units)
    except FittingError as error:
        shown["refusal"] = f"{error.message} {error.hint}".strip()
        return shown
    try:
        steps = sorted({max(1, round(share * asked.steps)) for share in PLAN_SHARES})
        shown["plan"] = planned(fits, weight, before, steps, asked)
    except FittingError as error:
        shown["unplanned"] = f"{error.message} {error.hint}".strip()
    return shown


def _share(asked: str | None, default: float) -> float:
    value = text.parse(asked)
    return default if value is None or not 0 <= value <= 1 else value


def share_slider(
    name: str, label: str, value: float, ends: tuple[float, float], unit: str
) -> dict[str, Any]:
    return schedule_form.slider(name, label, value, ends[0], ends[1], unit)


def answered(
    fits: Fits, curves: Curves, transfer: Transfer, kind: str, units: Mapping[str, str]
) -> dict[str, Any]:
    """Both losses along the transfer, whether what is forgotten comes back, and the figures."""
    last = transfer.schedule.steps
    steps = np.unique(np.round(np.geomspace(max(1, last // 200), last, POINTS)).astype(np.int64))
    drawn, answers = {}, []
    assert transfer.before is not None
    back = forgetting(
        fits["general"], transfer.before, transfer.schedule.peak_lr, transfer.replay_ratio
    )
    point = None
    for role, fit in fits.items():
        found = fit.predict(transfer, steps)
        end = found.to_dict()["final"]
        start, turning = None, None
        if role == "general":
            start = back.start_loss
            turning = point = returned(found.step, found.value, start)
        answers.append(
            {
                **end,
                "role": role,
                "domain": fit.domain,
                "unit": units[role],
                "interval": text.interval(end["lower"], end["upper"]),
                "level": found.level,
                "change": None if start is None else end["loss"] - start,
                "reach": {
                    "steps": found.reach["steps"],
                    "summed learning rate": found.reach["area"],
                },
                "warnings": list(found.flags),
            }
        )
        drawn[role] = figures.transfer(
            [
                (f"{one.name}, replay {1 - one.new_share:.0%}", one.step, one.loss)
                for one in curves.get(role, [])
                if one.continual
            ],
            figures.Line(found.step, found.value, found.lower, found.upper, f"this {kind}"),
            start,
            turning,
            figures.Quantity(f"loss on {fit.domain}", units[role], log=False),
            found.level,
        )
    return {
        "answers": answers,
        "figures": drawn,
        "measured": any(one.continual for one in curves.get("general", [])),
        "forgetting": in_words(back, point),
    }


def returned(step: np.ndarray, loss: np.ndarray, start: float) -> tuple[float, float] | None:
    """(step, loss) at which a curve that has risen above `start` is below it again."""
    top = int(np.argmax(loss))
    below = np.flatnonzero((loss <= start) & (np.arange(loss.size) > top))
    if loss[top] <= start or not below.size:
        return None
    return float(step[below[0]]), float(loss[below[0]])


def in_words(back: Forgetting, point: tuple[float, float] | None) -> list[str]:
    """What happens to the general loss, in sentences."""
    said = [f"Before the transfer the general loss is {back.start_loss:.3f}."]
    if point is not None:
        said.append(f"Under this schedule it is back there at step {point[0]:,.0f}.")
    else:
        said.append("Under this schedule it is not back there by the end.")
    low, high = back.turning_interval
    ends = " to ".join(f"{end:,}" if end is not None else "never" for end in (low, high))
    if back.turning_length is None:
        said.append(
            f"At a constant rate it is not back within {back.horizon:,} steps (interval: {ends})."
        )
    elif back.turning_length:
        said.append(
            f"Turning length at a constant rate: {back.turning_length:,} steps (interval: {ends})."
        )
    if back.asymptote is not None:
        word = "below" if back.recoverable else "above"
        said.append(f"In the end it goes to {back.asymptote:.3f}, {word} where it started.")
    return said


def planned(
    fits: Fits, weight: float, before: Schedule, steps: list[int], asked: schedule_form.Asked
) -> dict[str, Any]:
    """The best plan with its intervals, and the front, as the page writes them."""
    found = plan_continual(
        fits["general"],
        fits["domain"],
        general_weight=weight,
        before=before,
        steps=steps,
        warmup_steps=min(asked.warmup_steps, min(steps)),
    )
    chosen = found.chosen_interval
    front = list(found.front)
    thin = np.unique(np.linspace(0, len(front) - 1, MOST_FRONT).astype(int))
    return {
        "best": found.best.to_dict(),
        "general_interval": text.interval(*found.general_interval),
        "domain_interval": text.interval(*found.domain_interval),
        "chosen": {
            name: " to ".join(f"{end:.4g}" for end in dict.fromkeys(ends))
            for name, ends in chosen.items()
        },
        "front": [front[k].to_dict() for k in thin],
        "on_front": len(front),
        "as_good": found.as_good,
        "tried": found.tried,
        "level": found.level,
        "warnings": list(found.warnings),
    }
