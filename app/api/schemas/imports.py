"""Imports: a file (multipart), or rows in the body."""

from typing import Any, Literal

from pydantic import ConfigDict, Field

from app.api.schemas.common import Name, Request, Timed
from app.importers.measured import FLOPS_CONVENTIONS, LOSS_UNITS, N_CONVENTIONS
from app.services.predictions import MAX_POINTS

NConvention = Literal["total", "non_embedding", "blocks", "blocks_and_head"]
FlopsConvention = Literal["exact", "6ND", "palm"]
LossUnit = Literal["nats/token", "nats/byte", "bits/byte"]
assert NConvention.__args__ == N_CONVENTIONS  # type: ignore[attr-defined]
assert FlopsConvention.__args__ == FLOPS_CONVENTIONS  # type: ignore[attr-defined]
assert LossUnit.__args__ == LOSS_UNITS  # type: ignore[attr-defined]


class ImportOptions(Request):
    """What a file does not say itself."""

    project: Name | int = Field(description="By name (made if it is new) or by id.")
    name: str = Field(default="", max_length=300, description="For your own record.")
    prefix: str = Field(default="", max_length=100, description="Put before each run's name.")
    kind: Literal["auto", "points", "curves"] = Field(
        default="auto", description="points: one row a run; curves: one row a step."
    )
    columns: dict[str, str] = Field(
        default_factory=dict,
        description='{"loss": "c4_loss"}: the column of a field with an unusual name.',
    )
    validation_set: Name | None = Field(
        default=None, description="What the losses were measured on; points: `validation`."
    )
    recipe: str = Field(
        default="", max_length=200, description="Runs of two recipes are never fitted together."
    )
    n_convention: NConvention | None = None
    flops_convention: FlopsConvention | None = None
    loss_unit: LossUnit | None = None


class ImportRows(ImportOptions):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "project": "papers",
                    "rows": [
                        {"run": "small", "N": 1e8, "D": 2e9, "loss": 3.21},
                        {"run": "large", "N": 4e8, "D": 8e9, "loss": 2.84},
                    ],
                }
            ]
        }
    )

    rows: list[dict[str, Any]] = Field(min_length=1, max_length=MAX_POINTS)


class ImportOut(Timed):
    id: int
    project_id: int
    format: str
    filename: str
    digest: str
    n_runs: int
    n_points: int


class ImportedOut(ImportOut):
    kind: str
    repeated_rows: int = Field(description="Rows that said the same thing twice; kept once.")
    columns: dict[str, str] = Field(description="Which column was read as what.")
    n_convention: str
    flops_convention: str
    loss_unit: str
    validation_set: str | None
    run_ids: list[int]
    warnings: list[str]
