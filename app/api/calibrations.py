"""/v1/calibrations, /v1/gpus, /v1/predictions/time"""

from dataclasses import asdict

from fastapi import APIRouter, Response

from app.api.auth import READ, SUBMIT
from app.api.dependencies import Cursor, DatabaseDep, Id, Limit
from app.api.idempotency import IdempotentRoute
from app.api.schemas.common import PageOf
from app.api.schemas.time import (
    CalibrationIn,
    CalibrationOut,
    GpuOut,
    GpusOut,
    TimeIn,
    TimeOut,
)
from app.services import calibrations, fitted, paging
from fitting.costs import GPUS

router = APIRouter(prefix="/v1", tags=["time"], route_class=IdempotentRoute, dependencies=[READ])


@router.post("/calibrations", status_code=201, dependencies=[SUBMIT])
def create_calibration(
    body: CalibrationIn, database: DatabaseDep, response: Response
) -> CalibrationOut:
    """Learn a machine's step times from measured steps, or keep a calibration made elsewhere."""
    with database.begin() as connection:
        if body.document is not None:
            made = calibrations.keep(connection, body.document, project=body.project)
        else:
            made = calibrations.create(
                connection,
                body.hardware or "",
                [one.to_measurement() for one in body.measurements or ()],
                features=body.features,
                unit=body.unit,
                project=body.project,
            )
    response.headers["Location"] = f"/v1/calibrations/{made.id}"
    return CalibrationOut.model_validate(made)


@router.get("/calibrations")
def list_calibrations(
    database: DatabaseDep,
    project: str | None = None,
    cursor: Cursor = None,
    limit: Limit = paging.DEFAULT_LIMIT,
) -> PageOf[CalibrationOut]:
    """Calibrated machines, newest first."""
    with database.begin() as connection:
        page = fitted.page(connection, "calibration", project=project, cursor=cursor, limit=limit)
    return PageOf[CalibrationOut].model_validate(page)


@router.get("/calibrations/{calibration_id}")
def get_calibration(calibration_id: Id, database: DatabaseDep) -> CalibrationOut:
    """One calibrated machine."""
    with database.begin() as connection:
        return CalibrationOut.model_validate(calibrations.get(connection, calibration_id))


@router.get("/gpus")
def list_gpus() -> GpusOut:
    """GPUs whose data sheet is known: what stands in until a machine is calibrated."""
    return GpusOut(items=[GpuOut(**asdict(gpu)) for gpu in GPUS.values()])


@router.post("/predictions/time")
def predict_time(body: TimeIn, database: DatabaseDep) -> TimeOut:
    """Seconds of a step of any shape, what they are spent on, and the hours of a run.

    422 more than four times outside of what was measured.
    """
    with database.begin() as connection:
        found = calibrations.predict_time(
            connection,
            body.to_machine(),
            body.shape.to_shape(),
            body.setup.to_setup(),
            tokens=body.tokens,
            level=body.level,
        )
    return TimeOut.model_validate(found)
