"""Calibrated machines: measured steps -> a step-time model that is kept, asked and planned with."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from app.services import fitted, projects
from app.services.errors import ServiceError
from app.storage import fitted as storage
from app.storage.fitted import Stored
from fitting.costs import (
    FEATURES,
    Gpu,
    Measurement,
    Setup,
    Shape,
    StepTime,
    fit_step_time,
    get_gpu,
    prior_step_time,
    roofline,
)

MAX_MEASUREMENTS = 10_000


@dataclass(frozen=True)
class Machine:
    """Where steps run: a calibration that is kept, or a GPU by its data sheet."""

    calibration: int | None = None
    gpu: str | None = None
    dtype: str = "bf16"

    def __post_init__(self) -> None:
        if (self.calibration is None) == (self.gpu is None):
            raise ServiceError(
                "invalid",
                "A step time needs a machine: one calibration, or one GPU.",
                'Give "calibration" (an id of /v1/calibrations) or "gpu" (a name of its sheet).',
                column="calibration",
            )


def create(
    connection: Connection,
    hardware: str,
    measurements: Sequence[Measurement],
    *,
    features: Sequence[str] = FEATURES,
    unit: str = "GPU-seconds",
    project: str | int | None = None,
) -> Stored:
    """Fit a machine's step times and keep them with the measurements that they stand on.

    ServiceError or fitting.FittingError where the measurements cannot be used.
    """
    if len(measurements) > MAX_MEASUREMENTS:
        raise ServiceError(
            "too_large",
            f"{len(measurements)} measurements are more than {MAX_MEASUREMENTS}.",
            "Give the median of each shape.",
            column="measurements",
        )
    model = fit_step_time(measurements, features=features, hardware=hardware, unit=unit)
    rows = [one.to_dict() for one in measurements]
    return storage.create(
        connection,
        "calibration",
        kind="+".join(model.features),
        status="converged",
        digest=_digest(rows),
        request={"hardware": hardware, "measurements": rows, "features": list(features)},
        document=model.to_dict(),
        project_id=None if project is None else projects.resolve(connection, project).id,
    )


def keep(
    connection: Connection, document: Mapping[str, Any], *, project: str | int | None = None
) -> Stored:
    """Keep a step-time model that was fitted elsewhere: what `scalewright calibrate` wrote.

    FittingError where it is not one.
    """
    model = StepTime.from_dict(document)
    plain = model.to_dict() | {k: document[k] for k in ("stack",) if k in document}
    return storage.create(
        connection,
        "calibration",
        kind="+".join(model.features),
        status="converged",
        digest=_digest(plain),
        request={"hardware": model.hardware, "document": dict(document)},
        document=plain,
        project_id=None if project is None else projects.resolve(connection, project).id,
    )


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def get(connection: Connection, calibration_id: int) -> Stored:
    return fitted.get(connection, "calibration", calibration_id)


def step_time(connection: Connection, machine: Machine) -> StepTime:
    """What a step takes there: measured, or read off a data sheet."""
    if machine.calibration is not None:
        return StepTime.from_dict(get(connection, machine.calibration).document)
    return prior_step_time(sheet_of(machine), dtype=machine.dtype)


def sheet_of(machine: Machine) -> Gpu:
    assert machine.gpu is not None
    return get_gpu(machine.gpu)


def predict_time(
    connection: Connection,
    machine: Machine,
    shape: Shape,
    setup: Setup,
    *,
    tokens: float | None = None,
    level: float = 0.9,
) -> dict[str, Any]:
    """Seconds of a step with their interval, where they go and, with `tokens`, the whole run's
    hours. FittingError more than four times outside of what was measured."""
    model = step_time(connection, machine)
    step = model.predict(shape, setup, level)
    answer: dict[str, Any] = {
        "hardware": model.hardware,
        "source": model.source,
        "unit": model.unit,
        "mean_error": None if model.spans is None else model.mean_error,
        "parameters": shape.parameters(),
        "step": step.to_dict(),
        "roofline": None,
        "run": None,
    }
    if machine.gpu is not None:
        answer["roofline"] = roofline(
            shape, setup, sheet_of(machine), dtype=machine.dtype
        ).to_dict()
    if tokens is not None:
        answer["run"] = _run(tokens, setup, step.to_dict())
    return answer


def _run(tokens: float, setup: Setup, step: Mapping[str, Any]) -> dict[str, Any]:
    steps = tokens / setup.batch_tokens
    hours = {name: steps * step[name] / 3600.0 for name in ("seconds", "lower", "upper")}
    return {
        "tokens": tokens,
        "steps": steps,
        "hours": hours["seconds"],
        "hours_interval": [hours["lower"], hours["upper"]],
        "gpu_hours": hours["seconds"] * setup.gpus,
        "gpu_hours_interval": [hours["lower"] * setup.gpus, hours["upper"] * setup.gpus],
    }
