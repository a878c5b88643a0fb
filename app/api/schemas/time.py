"""Shapes, how a step of them is run, calibrations, and what a run takes."""

from datetime import datetime
from typing import Any, Literal

from pydantic import Field, model_validator

from app.api.schemas.common import (
    Answer,
    Level,
    Name,
    PositiveFloat,
    ProjectRef,
    Request,
    RunId,
    Timed,
)
from app.services.calibrations import MAX_MEASUREMENTS, Machine
from fitting.costs import Measurement, Setup, Shape

Mlp = Literal["swiglu", "geglu", "relu2", "gelu", "relu"]
Feature = Literal["flops", "copies", "layers_gpus", "params_gpus", "weights"]


class ShapeIn(Request):
    """A decoder-only transformer."""

    d_model: int = Field(ge=1, le=2**20, description="Width.")
    n_layers: int = Field(ge=1, le=2**14, description="Depth.")
    d_ff: int = Field(ge=1, le=2**22, description="Width of the MLP.")
    vocab_size: int = Field(ge=1, le=2**24)
    n_heads: int = Field(ge=1, le=2**14)
    seq_len: int = Field(ge=1, le=2**24, description="Context, tokens.")
    n_kv_heads: int | None = Field(default=None, ge=1, description="Default: as many as heads.")
    head_dim: int | None = Field(default=None, ge=1, description="Default: d_model / n_heads.")
    mlp: Mlp = "swiglu"
    tied: bool = Field(default=False, description="The head shares the embedding.")
    qk_norm: bool = False
    norm_gains: bool = True

    def to_shape(self) -> Shape:
        return Shape(**self.model_dump())


class SetupIn(Request):
    """How a step is run."""

    batch_tokens: PositiveFloat = Field(description="Of one optimizer step, over all GPUs.")
    gpus: int = Field(default=1, ge=1, le=2**20)
    micro_batch_tokens: PositiveFloat | None = Field(
        default=None, description="What a GPU takes at a time; default: all of its share."
    )
    attention: Literal["flash", "unfused"] = "flash"
    causal: bool = Field(default=True, description="The kernel skips the future.")
    checkpointing: bool = Field(default=False, description="Activations are made again.")
    optimizer: Literal["adamw", "muon", "sgd"] = "adamw"
    compute_bytes: int = Field(default=2, ge=1, le=8, description="Of an activation; 2: bf16.")

    def to_setup(self) -> Setup:
        return Setup(**self.model_dump())


class MachineIn(Request):
    """Where steps run: a calibration, or a GPU by its data sheet."""

    calibration: RunId | None = None
    gpu: str | None = Field(default=None, max_length=100, description="As in GET /v1/gpus.")
    dtype: str = Field(default="bf16", max_length=20)

    @model_validator(mode="after")
    def _one_machine(self) -> "MachineIn":
        if (self.calibration is None) == (self.gpu is None):
            raise ValueError("give one machine: a calibration, or a gpu")
        return self

    def to_machine(self) -> Machine:
        return Machine(self.calibration, self.gpu, self.dtype)


class MeasurementIn(Request):
    """seconds: median wall clock of a step on all of `setup.gpus` (on a CPU: CPU seconds)."""

    shape: ShapeIn
    setup: SetupIn
    seconds: PositiveFloat
    group: str | None = Field(
        default=None, max_length=200, description="Left out together; default: width x depth."
    )

    def to_measurement(self) -> Measurement:
        return Measurement(self.shape.to_shape(), self.setup.to_setup(), self.seconds, self.group)


class CalibrationIn(Request):
    """Measured steps of one machine, of some eight shapes or more; or the `document` that
    `scalewright calibrate --out` wrote."""

    hardware: Name | None = None
    measurements: list[MeasurementIn] | None = Field(
        default=None, min_length=1, max_length=MAX_MEASUREMENTS
    )
    features: list[Feature] = Field(
        default=["flops", "copies", "layers_gpus", "params_gpus"], min_length=1, max_length=5
    )
    unit: Name = "GPU-seconds"
    document: dict[str, Any] | None = None
    project: ProjectRef | None = None

    @model_validator(mode="after")
    def _one_source(self) -> "CalibrationIn":
        if (self.measurements is None) == (self.document is None):
            raise ValueError("give measurements, or the document of a calibration")
        if self.measurements is not None and self.hardware is None:
            raise ValueError("name the hardware that was measured")
        return self


class CalibrationOut(Timed):
    """document: coefficients (seconds a unit), the range measured, the error on shapes that were
    left out one at a time, by sets of features."""

    id: int
    project_id: int | None
    kind: str
    status: str
    digest: str
    document: dict[str, Any]
    created_at: datetime


class GpuOut(Answer):
    """Peaks printed in a data sheet: FLOP/s by dtype (dense), bytes/s, bytes."""

    name: str
    flops: dict[str, float]
    memory_bandwidth: float
    memory_bytes: float
    link_bandwidth: float
    source: str


class GpusOut(Answer):
    items: list[GpuOut]


class TimeIn(MachineIn):
    """What a step of a shape takes there and, with `tokens`, the run."""

    shape: ShapeIn
    setup: SetupIn
    tokens: PositiveFloat | None = None
    level: Level = 0.9


class TimeOut(Answer):
    """step: seconds with their interval, GPU-seconds by what they are spent on, reach (times
    outside the measured range); roofline: op by op, for a GPU by its sheet; run: hours and
    GPU-hours of all tokens."""

    hardware: str
    source: str
    unit: str
    mean_error: float | None
    parameters: float
    step: dict[str, Any]
    roofline: dict[str, Any] | None
    run: dict[str, Any] | None
