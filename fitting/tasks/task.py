"""A fitted task law, and forecasts of accuracy through it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from fitting.diagnose import Warned
from fitting.errors import FittingError, wrong_with
from fitting.links import Floats
from fitting.predict import Prediction, check_level
from fitting.tasks.curves import TaskCurve, get_curve

if TYPE_CHECKING:
    from fitting.loss_to_loss.link import LinkPrediction

FORMAT = 1


@dataclass(frozen=True)
class TaskCalibration:
    """In accuracy. noise: of one run about the curve; drift: scale of the error when the loss
    goes one span of the data below them, `seen` by the backtests and shrunk to a prior."""

    noise: float
    noise_freedom: float
    drift: float
    drift_freedom: float
    seen: float
    origins: int

    def spread(self, spans: Floats, level: float) -> Floats:
        """Half-width in accuracy of all that is not parameter noise, [points]."""
        from scipy.special import stdtrit

        upper = 0.5 + 0.5 * level
        one = float(stdtrit(self.noise_freedom, upper)) * self.noise
        far = float(stdtrit(self.drift_freedom, upper)) * self.drift
        return np.asarray(np.hypot(one, far * spans))


@dataclass(frozen=True)
class TaskPrediction:
    """accuracy, lower, upper, loss [points]; reach: spans of the data's loss below them.
    source: "measured" or "predicted", of the loss. grade: of the task. below_threshold: where the
    curve is at chance, so that the value says nothing but that."""

    accuracy: Floats
    lower: Floats
    upper: Floats
    loss: Floats
    reach: Floats
    below_threshold: "np.ndarray[Any, np.dtype[np.bool_]]"
    source: str
    grade: str
    level: float
    warnings: tuple[Warned, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return {
            "level": self.level,
            "grade": self.grade,
            "loss_is": self.source,
            "predictions": [
                {
                    "loss": float(self.loss[i]),
                    "accuracy": float(self.accuracy[i]),
                    "lower": float(self.lower[i]),
                    "upper": float(self.upper[i]),
                    "reach": float(self.reach[i]),
                    "below_threshold": bool(self.below_threshold[i]),
                }
                for i in range(self.loss.size)
            ],
            "warnings": [w.to_dict() for w in self.warnings],
        }


def _check_ends(L: Floats, lower: Floats, upper: Floats) -> None:
    good = np.isfinite(lower) & np.isfinite(upper) & (lower > 0) & (lower <= L) & (L <= upper)
    if not good.all():
        row = int(np.flatnonzero(~good)[0])
        raise FittingError(
            "bad_value",
            f"Loss {L[row]:g} with the interval {lower[row]:g} to {upper[row]:g}.",
            "Give positive ends, the lower one first, with the loss between them.",
            row=row,
        )


@dataclass(frozen=True)
class TaskFit:
    """Accuracy as a curve of loss; frozen. Make one with `fit_task` or `from_dict`.

    values [p], draws [draws, p] in the order of curve.params. grade: A to D, how predictable.
    """

    curve: TaskCurve
    values: Floats
    draws: Floats
    chance: float | None
    level: float
    r2: float
    grade: str
    calibration: TaskCalibration
    loss_range: tuple[float, float]
    accuracy_range: tuple[float, float]
    n_points: int
    warnings: tuple[Warned, ...]
    seed: int

    @property
    def params(self) -> dict[str, float]:
        return dict(zip(self.curve.params, self.values.tolist(), strict=True))

    def intervals(self, level: float | None = None) -> dict[str, tuple[float, float]]:
        """{param: (lower, upper)}; empty without draws."""
        if not len(self.draws):
            return {}
        tail = 0.5 * (1 - (self.level if level is None else check_level(level)))
        low, high = np.quantile(self.draws, [tail, 1 - tail], axis=0)
        return {
            n: (float(a), float(b)) for n, a, b in zip(self.curve.params, low, high, strict=True)
        }

    def accuracy(self, loss: ArrayLike) -> Floats:
        """The curve itself."""
        return np.asarray(self.curve.formula(np.asarray(loss, dtype=float), **self.params))

    def predict(
        self,
        loss: "ArrayLike | LinkPrediction | Prediction",
        *,
        interval: tuple[ArrayLike, ArrayLike] | None = None,
        level: float | None = None,
    ) -> TaskPrediction:
        """Accuracy at losses [points], which may be forecasts: of a law, of a link, or numbers
        with their `interval` (lower, upper at the same level). Clipped to [0, 1]."""
        chosen = self.level if level is None else check_level(level)
        if hasattr(loss, "value") and hasattr(loss, "lower"):
            forecast: Any = loss
            if forecast.level != chosen:
                raise FittingError(
                    "bad_option",
                    f"The loss has a {forecast.level:.0%} interval, {chosen:.0%} is asked for.",
                    "Predict both at one level.",
                )
            loss, interval = forecast.value, (forecast.lower, forecast.upper)
        L = np.atleast_1d(np.asarray(loss, dtype=float))
        bad = ~(np.isfinite(L) & (L > 0))
        if bad.any():
            row = int(np.flatnonzero(bad)[0])
            raise FittingError(
                "bad_value", f"Loss {L[row]} in row {row + 1}.", "Give a positive loss.", row=row
            )
        self._refuse_below_floor(L)
        with np.errstate(over="ignore"):  # far above the data a curve is at its end
            drawn = self.accuracy(L)
            # An accuracy is a share: the interval is about where a curve that runs past it stops.
            value = np.clip(drawn, 0, 1)
        low, high = np.zeros_like(L), np.zeros_like(L)
        if len(self.draws):
            named = {n: self.draws[:, j, None] for j, n in enumerate(self.curve.params)}
            with np.errstate(over="ignore"):
                spread = np.clip(self.curve.formula(L, **named), 0, 1) - value
            tail = 0.5 * (1 - chosen)
            q = np.quantile(spread, [tail, 1 - tail], axis=0)
            low, high = np.maximum(-q[0], 0.0), np.maximum(q[1], 0.0)
        span = self.loss_range[1] - self.loss_range[0]
        spans = np.maximum(self.loss_range[0] - L, 0.0) / span
        extra = self.calibration.spread(spans, chosen)
        down, up = np.zeros_like(L), np.zeros_like(L)
        if interval is not None:
            ends = [np.broadcast_to(np.asarray(e, dtype=float), L.shape) for e in interval]
            _check_ends(L, *ends)
            with np.errstate(over="ignore"):
                best, worst = (np.clip(self.accuracy(end), 0, 1) for end in ends)
            down, up = np.maximum(value - worst, 0.0), np.maximum(best - value, 0.0)
        lower = value - np.sqrt(low**2 + extra**2 + down**2)
        upper = value + np.sqrt(high**2 + extra**2 + up**2)
        below = np.zeros(L.shape, dtype=bool)
        if self.chance is not None:
            below = value - self.chance <= 2 * max(self.calibration.noise, 1e-9)
        warned = []
        if spans.max(initial=0.0) > 1.0:
            warned.append(
                Warned(
                    "far_below",
                    f"The loss lies {spans.max():.2g} spans of the data below them; the curve was "
                    "backtested over less than half of one.",
                )
            )
        if (drawn > 1).any():
            warned.append(
                Warned(
                    "past_perfect",
                    f"The {self.curve.name} curve runs past an accuracy of 1 there: it does not "
                    "know where the task ends. Use the sigmoid, or runs nearer to that loss.",
                )
            )
        return TaskPrediction(
            value, np.clip(lower, 0, 1), np.clip(upper, 0, 1), L, spans, below,
            "measured" if interval is None else "predicted", self.grade, chosen, tuple(warned),
        )  # fmt: skip

    def _refuse_below_floor(self, L: Floats) -> None:
        if self.curve.floor is None:
            return
        floor = self.params[self.curve.floor]
        low = np.flatnonzero(L <= floor)
        if low.size:
            row = int(low[0])
            raise FittingError(
                "infeasible",
                f"Loss {L[row]:.6g} is at or below the floor {self.curve.floor} = {floor:.6g} of "
                f"the {self.curve.name} curve: it has no value there.",
                "Give the loss's own floor when fitting (loss_floor), or use the sigmoid.",
                row=row,
            )

    def to_dict(self) -> dict[str, Any]:
        """TASK.json: plain floats, nothing rounded."""
        return {
            "format": FORMAT,
            "form": self.curve.name,
            "title": self.curve.title,
            "source": self.curve.source,
            "params": self.params,
            "intervals": {
                "level": self.level,
                **{k: list(v) for k, v in self.intervals().items()},
            },
            "chance": self.chance,
            "r2": self.r2,
            "grade": self.grade,
            "n_points": self.n_points,
            "calibration": asdict(self.calibration),
            "loss_range": list(self.loss_range),
            "accuracy_range": list(self.accuracy_range),
            "warnings": [w.to_dict() for w in self.warnings],
            "seed": self.seed,
            "draws": self.draws.tolist(),
        }

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> "TaskFit":
        """Read TASK.json back; a FittingError if it is not one."""
        try:
            curve = get_curve(document["form"])
            ranges = [
                (float(document[k][0]), float(document[k][1]))
                for k in ("loss_range", "accuracy_range")
            ]
            return cls(
                curve=curve,
                values=np.array([float(document["params"][p]) for p in curve.params]),
                draws=np.array(document["draws"], dtype=float).reshape(-1, len(curve.params)),
                chance=document["chance"],
                level=float(document["intervals"]["level"]),
                r2=float(document["r2"]),
                grade=document["grade"],
                calibration=TaskCalibration(**document["calibration"]),
                loss_range=ranges[0],
                accuracy_range=ranges[1],
                n_points=int(document["n_points"]),
                warnings=tuple(Warned(w["code"], w["message"]) for w in document["warnings"]),
                seed=int(document["seed"]),
            )
        except (KeyError, TypeError, IndexError, ValueError) as error:
            raise FittingError(
                "bad_document",
                f"This is not a task law: {wrong_with(error)}.",
                "Give the document that `task fit --out` wrote, unchanged.",
            ) from None
