"""How long a step takes: measured steps -> GPU-seconds from a shape.

    GPU-seconds = c1 FLOPs + c2 copies + c3 layers x GPUs + c4 parameters x GPUs

(Inbar & Sernau 2024, arXiv 2406.18922, predict step time from memory copies better than from
FLOPs; Gemstones' 22 shapes want all four.) The coefficients are rates and so cannot be negative:
non-negative least squares on *relative* errors, so that a step of .1 s counts as much as one of
10 s. The interval comes from shapes that were left out one at a time, since a new shape is what
will be asked for; and far from the measured shapes there is no answer.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.optimize import nnls
from scipy.special import stdtrit

from fitting.costs.ops import StepCounts, count_step
from fitting.costs.shape import Setup, Shape
from fitting.errors import FittingError, wrong_with
from fitting.links import Floats
from fitting.predict import check_level

FEATURES = ("flops", "copies", "layers_gpus", "params_gpus")
# "weights" (3 N a micro-batch) can be added where gradient accumulation varies: without it, it is
# three times params_gpus.
KNOWN_FEATURES = (*FEATURES, "weights")
MEANING = {
    "flops": "arithmetic",
    "copies": "activations through memory",
    "layers_gpus": "fixed time of a layer",
    "params_gpus": "weights, optimizer, all-reduce",
    "weights": "weights through memory",
}
# Beyond this many times the measured range there is no prediction. Gemstones' own laws miss by
# 17-22% at the edge of the range; the four-fold is a convention, not a measurement.
LIMIT = 4.0


@dataclass(frozen=True)
class Measurement:
    """Seconds of wall clock that a step took, median, on `setup.gpus` GPUs (on a CPU: CPU seconds
    on one). group: shapes left out together; None: the shape's width x depth."""

    shape: Shape
    setup: Setup
    seconds: float
    group: str | None = None

    def to_dict(self) -> dict[str, Any]:
        return {
            "shape": self.shape.to_dict(),
            "setup": self.setup.to_dict(),
            "seconds": self.seconds,
            "group": self.group,
        }

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> "Measurement":
        try:
            return cls(
                Shape.from_dict(document["shape"]),
                Setup.from_dict(document["setup"]),
                float(document["seconds"]),
                document.get("group"),
            )
        except (KeyError, TypeError) as error:
            raise FittingError(
                "bad_document", f"This is not a measured step: {wrong_with(error)}."
            ) from None


@dataclass(frozen=True)
class StepPrediction:
    """seconds of wall clock with its interval; gpu_seconds = seconds x GPUs; parts: GPU-seconds by
    feature; bound_by: the largest of them, in words; reach: {axis: times beyond the measured}."""

    seconds: float
    lower: float
    upper: float
    level: float
    gpu_seconds: float
    parts: dict[str, float]
    bound_by: str
    flops_per_second_per_gpu: float
    reach: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        return {
            "seconds": self.seconds,
            "lower": self.lower,
            "upper": self.upper,
            "level": self.level,
            "gpu_seconds": self.gpu_seconds,
            "parts": dict(self.parts),
            "bound_by": self.bound_by,
            "flops_per_second_per_gpu": self.flops_per_second_per_gpu,
            "reach": dict(self.reach),
        }


@dataclass(frozen=True)
class StepTime:
    """A calibrated machine: what a step takes there.

    coefficients: seconds per unit of each feature. residuals: ln(measured / predicted) of each
    measurement by the fit that had not seen its shape. spans: {axis: (smallest, largest)} measured;
    None for a prior from a data sheet, which has no range of its own. sigma: of one ln residual.
    errors: leave-one-shape-out mean relative error of each set of features, for comparison.
    family, setup: the last measured shape and how its steps were run, from which others of the
    family are made (`family.resized`); None for a prior.
    """

    hardware: str
    features: tuple[str, ...]
    coefficients: dict[str, float]
    residuals: Floats
    sigma: float
    spans: dict[str, tuple[float, float]] | None
    n_groups: int
    errors: dict[str, float] = field(default_factory=dict)
    source: str = "measured"
    unit: str = "GPU-seconds"
    family: Shape | None = None
    setup: Setup | None = None

    @property
    def mean_error(self) -> float:
        """Mean relative error on shapes that were left out."""
        return float(self._relative().mean()) if len(self.residuals) else math.nan

    @property
    def max_error(self) -> float:
        """The largest of them."""
        return float(self._relative().max()) if len(self.residuals) else math.nan

    def _relative(self) -> Floats:
        return np.abs(np.expm1(-self.residuals))

    def gpu_seconds(self, counts: StepCounts) -> float:
        """GPU-seconds of a step with those counts; no check of the range."""
        return sum(c * counts.feature(name) for name, c in self.coefficients.items())

    def spread(self, level: float) -> float:
        """Half-width of the interval of ln seconds for a new shape: Student's t on the shapes
        that were left out."""
        freedom = 1e6
        if self.spans is not None:
            used = sum(value > 0 for value in self.coefficients.values())
            freedom = max(1.0, self.n_groups - used)
        return float(stdtrit(freedom, 0.5 + 0.5 * check_level(level)) * self.sigma)

    def reach(self, shape: Shape, setup: Setup) -> dict[str, float]:
        """{axis: times beyond the measured range}; 1 or less is within."""
        if self.spans is None:
            return {}
        out = {}
        for axis, value in _axes(shape, setup).items():
            low, high = self.spans[axis]
            out[axis] = max(value / high, low / value)
        return out

    def check_reach(self, shape: Shape, setup: Setup, limit: float = LIMIT) -> dict[str, float]:
        """The reach, or a FittingError where an axis is more than `limit` times away."""
        reach = self.reach(shape, setup)
        for axis, times in reach.items():
            if times > limit:
                assert self.spans is not None
                low, high = self.spans[axis]
                raise FittingError(
                    "infeasible",
                    f"{axis} {_axes(shape, setup)[axis]:g} is {times:.3g} times outside what was "
                    f"measured on {self.hardware or 'this machine'} ({low:g} to {high:g}).",
                    f"Measure nearer to it; beyond {limit:g} times no step time is predicted.",
                    axis=axis, times=times, low=low, high=high,
                )  # fmt: skip
        return reach

    def predict(
        self, shape: Shape, setup: Setup, level: float = 0.9, limit: float = LIMIT
    ) -> StepPrediction:
        """Seconds of a step. Raises FittingError more than `limit` times outside the measured."""
        reach = self.check_reach(shape, setup, limit)
        counts = count_step(shape, setup)
        parts = {name: c * counts.feature(name) for name, c in self.coefficients.items()}
        total = sum(parts.values())
        wide = self.spread(level)
        seconds = total / setup.gpus
        worst = max(parts, key=lambda name: parts[name])
        return StepPrediction(
            seconds=seconds,
            lower=seconds * math.exp(-wide),
            upper=seconds * math.exp(wide),
            level=level,
            gpu_seconds=total,
            parts=parts,
            bound_by=MEANING[worst],
            flops_per_second_per_gpu=counts.flops / total,
            reach=reach,
        )

    def to_dict(self) -> dict[str, Any]:
        """STEP_TIME.json: plain numbers, nothing rounded."""
        return {
            "format": 1,
            "kind": "step_time",
            "hardware": self.hardware,
            "source": self.source,
            "unit": self.unit,
            "features": list(self.features),
            "coefficients": dict(self.coefficients),
            "left_out": {
                "mean_error": None if not len(self.residuals) else self.mean_error,
                "max_error": None if not len(self.residuals) else self.max_error,
                "by_features": dict(self.errors),
            },
            "residuals": self.residuals.tolist(),
            "sigma": self.sigma,
            "spans": None if self.spans is None else {k: list(v) for k, v in self.spans.items()},
            "n_shapes": self.n_groups,
            "family": None if self.family is None else self.family.to_dict(),
            "setup": None if self.setup is None else self.setup.to_dict(),
        }

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> "StepTime":
        """Read STEP_TIME.json back; a FittingError if it is not one."""
        try:
            spans, family, setup = document["spans"], document["family"], document["setup"]
            return cls(
                hardware=str(document["hardware"]),
                features=tuple(document["features"]),
                coefficients={str(k): float(v) for k, v in document["coefficients"].items()},
                residuals=np.array(document["residuals"], dtype=float),
                sigma=float(document["sigma"]),
                spans=None
                if spans is None
                else {k: (float(v[0]), float(v[1])) for k, v in spans.items()},
                n_groups=int(document["n_shapes"]),
                errors=dict(document["left_out"]["by_features"]),
                source=str(document["source"]),
                unit=str(document["unit"]),
                family=None if family is None else Shape.from_dict(family),
                setup=None if setup is None else Setup.from_dict(setup),
            )
        except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
            raise FittingError(
                "bad_document",
                f"This is not a step-time model: {wrong_with(error)}.",
                "Give the document that `calibrate --out` or `time fit --out` wrote.",
            ) from None


def fit_step_time(
    measurements: Sequence[Measurement],
    *,
    features: Sequence[str] = FEATURES,
    hardware: str = "",
    unit: str = "GPU-seconds",
) -> StepTime:
    """Non-negative least squares on relative errors, with every shape left out once.

    Raises FittingError with fewer shapes than features + 1, or with a step that took no time.
    """
    for name in features:
        if name not in KNOWN_FEATURES:
            raise FittingError(
                "bad_option", f"{name!r} is not a feature.",
                f"Use some of {', '.join(KNOWN_FEATURES)}.",
            )  # fmt: skip
    if not features:
        raise FittingError("bad_option", "There are no features.", "Name at least one.")
    for row, one in enumerate(measurements):
        if not (math.isfinite(one.seconds) and one.seconds > 0):
            raise FittingError(
                "bad_value", f"seconds is {one.seconds} in row {row + 1}.",
                "A step takes a positive time.", row=row,
            )  # fmt: skip
    counts = [count_step(m.shape, m.setup) for m in measurements]
    y = np.array([m.seconds * m.setup.gpus for m in measurements])
    group = np.array([m.group or m.shape.label for m in measurements], dtype=object)
    found = len(set(group.tolist()))
    if found < len(features) + 1:
        raise FittingError(
            "too_few_points",
            f"{found} shapes were measured for {len(features)} features.",
            f"Measure at least {len(features) + 1}, of different width and depth.",
        )
    tables = {name: np.array([c.feature(name) for c in counts]) for name in KNOWN_FEATURES}
    chosen = tuple(features)
    residuals = left_out(tables, chosen, y, group)
    errors = {
        "+".join(names): float(np.mean(np.abs(np.expm1(-left_out(tables, names, y, group)))))
        for names in dict.fromkeys([("flops",), ("copies",), ("flops", "copies"), chosen])
        if set(names) <= set(chosen)
    }
    axes = [_axes(m.shape, m.setup) for m in measurements]
    return StepTime(
        hardware=hardware,
        features=chosen,
        coefficients=dict(zip(chosen, solve_rates(tables, chosen, y), strict=True)),
        residuals=residuals,
        sigma=float(np.sqrt(np.mean(residuals**2))),
        spans={k: (min(a[k] for a in axes), max(a[k] for a in axes)) for k in axes[0]},
        n_groups=found,
        errors=errors,
        unit=unit,
        family=measurements[-1].shape,
        setup=measurements[-1].setup,
    )


def _axes(shape: Shape, setup: Setup) -> dict[str, float]:
    """What a prediction must not go far beyond."""
    return {
        "width": float(shape.d_model),
        "depth": float(shape.n_layers),
        "gpus": float(setup.gpus),
        "tokens_per_gpu": setup.batch_tokens / setup.gpus,
    }


def solve_rates(tables: Mapping[str, Floats], names: Sequence[str], y: Floats) -> list[float]:
    """Coefficients that minimise the squared relative errors, none negative."""
    x = np.stack([tables[name] for name in names], axis=1)
    scale = x.max(axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    found, _ = nnls(x / scale / y[:, None], np.ones_like(y))
    return [float(v) for v in found / scale]


def left_out(tables: Mapping[str, Floats], names: Sequence[str], y: Floats, group: Any) -> Floats:
    """ln(measured / predicted) of every row, by the fit without its group; [rows].

    tables: {feature: [rows]}; names: the features of the fit; y: GPU-seconds; group: labels.
    """
    x = np.stack([tables[name] for name in names], axis=1)
    out = np.empty_like(y)
    for one in dict.fromkeys(group.tolist()):
        rest = group != one
        kept = {name: tables[name][rest] for name in names}
        predicted = x[~rest] @ np.array(solve_rates(kept, names, y[rest]))
        out[~rest] = np.log(y[~rest]) - np.log(np.maximum(predicted, 1e-300))
    return out
