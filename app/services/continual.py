"""Continual pre-training: the laws of the general and of the domain loss, kept as one fit."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from app.services import fits, fitted, projects, run_curves
from app.services.errors import ServiceError
from app.services.loss_curves import with_nan
from app.storage import fitted as storage
from app.storage.fitted import Stored
from fitting.curves import (
    ContinualCurve,
    ContinualFit,
    Schedule,
    Transfer,
    fit_continual,
    forgetting,
    plan_continual,
)
from fitting.curves.continual import LAW_OPEN
from fitting.curves.continual_plan import pretrained

ROLES = ("general", "domain")


@dataclass(frozen=True)
class ContinualRequest:
    """Names of the two domains, and either their curves {role: curves} or a project's continual
    runs with the runs that they started from."""

    general: str
    domain: str
    curves: Mapping[str, tuple[ContinualCurve, ...]] | None = None
    project: str | int | None = None
    run_ids: tuple[int, ...] | None = None
    convention: str | None = None
    draws: int = 200
    level: float = 0.9
    seed: int = 0


def create(connection: Connection, request: ContinualRequest) -> Stored:
    """Fit both losses and keep them as one."""
    names = {"general": request.general, "domain": request.domain}
    project_id = None
    run_ids: list[int] = []
    if request.project is not None:
        project_id = projects.resolve(connection, request.project).id
    documents: dict[str, Any] = {}
    units: dict[str, str | None] = {}
    for role, name in names.items():
        if request.curves is not None:
            curves: Sequence[ContinualCurve] = request.curves[role]
        elif request.project is not None:
            curves, run_ids = run_curves.continual_curves(
                connection, request.project, request.run_ids, name
            )
            units[role] = run_curves.loss_unit(connection, run_ids, name)
        else:
            raise ServiceError(
                "invalid",
                "There is nothing to fit.",
                'Give "curves", or a "project" with continual runs.',
                column="curves",
            )
        found = fit_continual(
            curves,
            domain=name,
            role=role,
            convention=request.convention,
            draws=request.draws,
            level=request.level,
            seed=request.seed,
        )
        documents[role] = fits.finite(found.to_dict())
    statuses = {documents[role]["status"] for role in ROLES}
    both = "".join(str(documents[role]["digest"]) for role in ROLES)
    return storage.create(
        connection,
        "cpt_fit",
        kind="+".join(str(documents[role]["law"]) for role in ROLES),
        status="converged" if statuses == {"converged"} else sorted(statuses - {"converged"})[0],
        digest=hashlib.sha256(both.encode()).hexdigest(),
        request={
            **names,
            "loss_units": units,
            "seed": request.seed,
            "convention": request.convention,
        },
        document=documents,
        project_id=project_id,
        run_ids=run_ids,
    )


def get(connection: Connection, fit_id: int) -> Stored:
    return fitted.get(connection, "cpt_fit", fit_id)


def load(connection: Connection, fit_id: int) -> dict[str, ContinualFit]:
    """{role: fit}."""
    document = get(connection, fit_id).document
    return {role: ContinualFit.from_dict(with_nan(document[role])) for role in ROLES}


def predict(
    connection: Connection,
    fit_id: int,
    transfer: Transfer,
    *,
    steps: Sequence[int] | None = None,
    level: float | None = None,
) -> dict[str, Any]:
    """Both losses after a transfer, and whether what is forgotten comes back."""
    found = load(connection, fit_id)
    if transfer.before is None and any(one.law != LAW_OPEN.name for one in found.values()):
        raise ServiceError(
            "invalid",
            "What the run continues is not said: its losses depend on the pre-training.",
            'Give "before": the schedule of the pre-training until the transfer.',
            column="before",
        )
    answer: dict[str, Any] = {
        role: one.predict(transfer, steps, level).to_dict() for role, one in found.items()
    }
    answer["forgetting"] = None
    if transfer.before is not None:
        answer["forgetting"] = forgetting(
            found["general"],
            transfer.before,
            transfer.schedule.peak_lr,
            transfer.replay_ratio,
        ).to_dict()
    return dict(fits.finite(answer))


def plan(
    connection: Connection,
    fit_id: int,
    *,
    general_weight: float,
    before: Schedule,
    potentials: Sequence[float] | None,
    steps: Sequence[int],
    options: Mapping[str, Any],
) -> dict[str, Any]:
    """The continual run that makes the weighed sum of both losses least.

    potentials: end rates of pre-training over its peak that may be chosen from; None: `before` as
    it is. options: the other arguments of `fitting.curves.plan_continual`.
    """
    found = load(connection, fit_id)
    befores: Schedule | dict[float, Schedule] = before
    if potentials is not None:
        befores = {
            one: pretrained(before.steps, before.peak_lr, before.warmup_steps, one)
            for one in potentials
        }
    made = plan_continual(
        found["general"],
        found["domain"],
        general_weight=general_weight,
        before=befores,
        steps=steps,
        **options,
    )
    return dict(fits.finite(made.to_dict()))
