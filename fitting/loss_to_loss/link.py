"""A fitted link: the four numbers, how sure they are, and forecasts through them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtri

from fitting.diagnose import Warned
from fitting.errors import FittingError, wrong_with
from fitting.intervals import Calibration
from fitting.links import Floats
from fitting.loss_to_loss.calibrate import Origin
from fitting.loss_to_loss.formula import PARAMS, at, slope
from fitting.loss_to_loss.variance import VarianceSplit, split
from fitting.predict import Prediction, check_level

FORMAT = 1

# A forecast this many times further (in compute) than any backtest is flagged.
BEYOND_BACKTEST = 3.0


def _positive(given: ArrayLike) -> bool:
    values = np.asarray(given, dtype=float)
    return bool((np.isfinite(values) & (values > 0)).all())


@dataclass(frozen=True)
class LinkData:
    """What a link remembers of its pairs. x, y, compute: (smallest, largest) over the pairs;
    budgets: how many; decades_per_log_gap: decades of compute for each unit that log(x - E0)
    falls along the compute-optimal frontier, by which a source loss alone tells how far it is."""

    n_pairs: int
    n_source: int
    n_target: int
    budgets: int
    x: tuple[float, float]
    y: tuple[float, float]
    compute: tuple[float, float]
    best_x: float
    decades_per_log_gap: float


@dataclass(frozen=True)
class LinkPrediction:
    """Target losses with their intervals; there is no way to get the value alone.

    value, lower, upper, source_loss [points]. source: "measured" or "predicted": whether the
    source loss was known or is itself a forecast, whose error is then inside the interval.
    reach: {"compute", "gap"}, each [points]: how many times beyond the largest paired run, in
    compute and in (x - E0). variance: what the interval is made of.
    """

    value: Floats
    lower: Floats
    upper: Floats
    source_loss: Floats
    source: str
    reach: dict[str, Floats]
    variance: VarianceSplit
    level: float
    unit: str
    names: tuple[str, str]
    warnings: tuple[Warned, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """{"source", "target", "source_is", "level", "loss_unit", "predictions": [...],
        "warnings"}; plain floats."""
        return {
            "source": self.names[0],
            "target": self.names[1],
            "source_is": self.source,
            "level": self.level,
            "loss_unit": self.unit,
            "predictions": [
                {
                    "source_loss": float(self.source_loss[i]),
                    "loss": float(self.value[i]),
                    "lower": float(self.lower[i]),
                    "upper": float(self.upper[i]),
                    "reach": {k: float(v[i]) for k, v in self.reach.items()},
                    "variance": self.variance.at(i),
                }
                for i in range(self.value.size)
            ],
            "warnings": [w.to_dict() for w in self.warnings],
        }


@dataclass(frozen=True)
class Link:
    """L_1 = K (L_0 - E0)^kappa + E1, fitted; frozen. Make one with `fit_link` or `from_dict`.

    status: "converged", "degenerate" (a floor at its bound, or pairs that pin nothing down) or
    "not_converged"; message says it in a sentence. values [4], draws [draws, 4] in the order of
    `formula.PARAMS`. floors: how each E was had. r2: of the losses; r2_log: of log(y - E1) on
    log(x - E0). backtest: rolling origins. source_law: the calibration of the source's own (N, D)
    law, for source losses that are themselves predicted; None where its runs are too few.
    """

    kind: str
    method: str
    names: tuple[str, str]
    status: str
    message: str
    values: Floats
    draws: Floats
    level: float
    floors: dict[str, str]
    r2: float
    r2_log: float
    warnings: tuple[Warned, ...]
    certificate: dict[str, float]
    calibration: Calibration
    backtest: tuple[Origin, ...]
    source_law: Calibration | None
    data: LinkData
    unit: str
    n_convention: str
    flops_convention: str
    seed: int
    resample: str
    versions: dict[str, str] = field(default_factory=dict)
    mixture: str | None = None

    @property
    def params(self) -> dict[str, float]:
        return dict(zip(PARAMS, self.values.tolist(), strict=True))

    def intervals(self, level: float | None = None) -> dict[str, tuple[float, float]]:
        """{param: (lower, upper)} from the draws; empty without draws."""
        chosen = self.level if level is None else check_level(level)
        if not len(self.draws):
            return {}
        tail = 0.5 * (1 - chosen)
        low, high = np.quantile(self.draws, [tail, 1 - tail], axis=0)
        return {n: (float(a), float(b)) for n, a, b in zip(PARAMS, low, high, strict=True)}

    def decades_beyond(self, x: Floats, flops: ArrayLike | None = None) -> Floats:
        """Decades of compute beyond the largest paired run, [points]; 0 within.

        From `flops` where they are known, else from the source loss: how far log(x - E0) lies
        below the best paired one, at the pace of the compute-optimal frontier.
        """
        if flops is not None:
            far = np.log10(np.broadcast_to(np.asarray(flops, dtype=float), x.shape))
            return np.asarray(np.maximum(far - np.log10(self.data.compute[1]), 0.0))
        E0 = self.values[2]
        with np.errstate(invalid="ignore", divide="ignore"):
            fall = np.log(self.data.best_x - E0) - np.log(x - E0)
        return np.asarray(np.maximum(fall * self.data.decades_per_log_gap, 0.0))

    def predict(
        self,
        source_loss: "ArrayLike | Prediction",
        *,
        measured: bool = True,
        source_interval: tuple[ArrayLike, ArrayLike] | None = None,
        source_draws: ArrayLike | None = None,
        flops: ArrayLike | None = None,
        mixture: str | None = None,
        level: float | None = None,
    ) -> LinkPrediction:
        """The target loss that goes with source losses [points].

        measured: the source loss was measured. False: it is itself a forecast, and its error
        joins the interval, from `source_interval` (lower, upper at the same level), else from
        `source_draws` [draws, points], else from what the source's own law earns at that
        distance. A `Prediction` is taken with its interval. flops: training compute of the run,
        for how far it is. mixture: what the run was trained on, if that is known.
        Raises FittingError where a loss is at or below E0: the link has no value there.
        """
        chosen = self.level if level is None else check_level(level)
        if isinstance(source_loss, Prediction):
            forecast, measured = source_loss, False
            source_loss = forecast.value
            widen = float(ndtri(0.5 + 0.5 * chosen) / ndtri(0.5 + 0.5 * forecast.level))
            source_interval = (
                forecast.value * (forecast.lower / forecast.value) ** widen,
                forecast.value * (forecast.upper / forecast.value) ** widen,
            )
        x = np.atleast_1d(np.asarray(source_loss, dtype=float))
        self._refuse(x)
        if flops is not None and not _positive(flops):
            raise FittingError("bad_value", f"flops is {flops}.", "Give training FLOPs above 0.")
        value = at(self.values[None], x)[0]
        decades = self.decades_beyond(x, flops)
        low, high, lost = self._draw_quantiles(x, value, chosen)
        extra = self.calibration.spread(decades, chosen)
        down, up = np.zeros_like(x), np.zeros_like(x)
        if not measured:
            down, up = self._source_error(x, decades, chosen, source_interval, source_draws)
        lower = value * np.exp(-np.sqrt(low**2 + extra**2 + down**2))
        upper = value * np.exp(np.sqrt(high**2 + extra**2 + up**2))
        variance = split(
            self.draws, x, value, self.calibration, decades,
            0.5 * (down + up) / float(ndtri(0.5 + 0.5 * chosen)),
        )  # fmt: skip
        reach = {
            "compute": 10**decades,
            "gap": (self.data.best_x - self.values[2]) / (x - self.values[2]),
        }
        return LinkPrediction(
            value, lower, upper, x, "measured" if measured else "predicted", reach, variance,
            chosen, self.unit, self.names, tuple(self._about(decades, mixture, lost)),
        )  # fmt: skip

    def _refuse(self, x: Floats) -> None:
        bad = ~(np.isfinite(x) & (x > 0))
        if bad.any():
            row = int(np.flatnonzero(bad)[0])
            raise FittingError(
                "bad_value", f"Source loss {x[row]} in row {row + 1}.", "Give a positive loss.",
                row=row,
            )  # fmt: skip
        E0 = float(self.values[2])
        low = np.flatnonzero(x <= E0)
        if low.size:
            row = int(low[0])
            raise FittingError(
                "infeasible",
                f"Source loss {x[row]:.6g} is at or below the floor E0 = {E0:.6g} of "
                f"{self.names[0]}: the link has no value there.",
                "The floor is wrong, or the loss is on other text: refit with this run, or fix a "
                "lower E0.",
                row=row,
                E0=E0,
            )

    def _draw_quantiles(self, x: Floats, value: Floats, level: float) -> tuple[Floats, Floats, int]:
        """Half-widths down and up in log loss [points], and how many draws have x <= E0 there."""
        if not len(self.draws):
            return np.zeros_like(x), np.zeros_like(x), 0
        with np.errstate(all="ignore"):
            spread = np.log(at(self.draws, x)) - np.log(value)
        lost = int((~np.isfinite(spread)).any(axis=1).sum())
        # a draw whose floor lies above x sends the loss to its own E1: as low as that draw goes
        floor = np.log(np.maximum(self.draws[:, 3:4], 1e-12)) - np.log(value)
        spread = np.where(np.isfinite(spread), spread, np.minimum(floor, 0.0))
        tail = 0.5 * (1 - level)
        low, high = np.quantile(spread, [tail, 1 - tail], axis=0)
        return np.maximum(-low, 0.0), np.maximum(high, 0.0), lost

    def _source_error(
        self,
        x: Floats,
        decades: Floats,
        level: float,
        interval: tuple[ArrayLike, ArrayLike] | None,
        draws: ArrayLike | None,
    ) -> tuple[Floats, Floats]:
        """What an uncertain source loss adds, down and up, in log target loss [points]."""
        value = at(self.values[None], x)[0]
        if interval is None and draws is not None:
            tail = 0.5 * (1 - level)
            many = np.asarray(draws, dtype=float).reshape(-1, x.size)
            bounds = np.quantile(many, [tail, 1 - tail], axis=0)
            interval = (bounds[0], bounds[1])
        if interval is None:
            if self.source_law is None:
                raise FittingError(
                    "missing_input",
                    "The source loss is predicted, but nothing says how well: "
                    f"{self.names[0]} has too few runs for a law of its own.",
                    "Give the interval of the source's forecast.",
                )
            half = self.source_law.spread(decades, level)
            steep = slope(self.values[None], x)[0] * x / value  # d log y / d log x
            return half * steep, half * steep
        lower, upper = (np.broadcast_to(np.asarray(b, dtype=float), x.shape) for b in interval)
        if not (_positive(lower) and _positive(upper)):
            raise FittingError(
                "bad_value",
                f"The source loss's interval is {lower.min():g} to {upper.max():g}.",
                "Give both ends, each a positive loss.",
            )
        if ((lower > x) | (upper < x)).any():
            raise FittingError(
                "bad_value", "The source loss lies outside its own interval.", "Check the order."
            )
        ends = [at(self.values[None], end)[0] for end in (lower, upper)]
        low = np.where(np.isfinite(ends[0]), ends[0], self.values[3])  # below E0: down to E1
        down = np.log(value) - np.log(np.maximum(low, 1e-12))
        return np.maximum(down, 0.0), np.maximum(np.log(ends[1]) - np.log(value), 0.0)

    def _about(self, decades: Floats, mixture: str | None, lost: int) -> list[Warned]:
        out = []
        ratio = float(10 ** decades.max()) if decades.size else 1.0
        tested = max((o.ratio for o in self.backtest), default=1.0)
        if ratio > BEYOND_BACKTEST * tested:
            out.append(
                Warned(
                    "beyond_backtest",
                    f"This reaches {ratio:.3g} times beyond the largest pair, and the link was "
                    f"backtested to {tested:.3g} times: its interval is not calibrated there. Add "
                    "pairs over a wider range of budgets.",
                )
            )
        if lost > 0.01 * max(len(self.draws), 1):
            out.append(
                Warned(
                    "floor_near",
                    f"In {lost} of {len(self.draws)} resamples the source loss is below E0: the "
                    "forecast hangs on a floor that these runs do not know.",
                )
            )
        if mixture is not None and self.mixture is not None and mixture != self.mixture:
            out.append(
                Warned(
                    "mixture_changed",
                    f"The run was trained on {mixture}, the link on {self.mixture}: a link holds "
                    "for one training mixture.",
                )
            )
        return out

    def to_dict(self) -> dict[str, Any]:
        """LINK.json: plain floats, nothing rounded. The first keys are what the command prints."""
        return {
            "format": FORMAT,
            "kind": self.kind,
            "method": self.method,
            "source": self.names[0],
            "target": self.names[1],
            "status": self.status,
            "message": self.message,
            **self.params,
            "floors": self.floors,
            "intervals": {
                "level": self.level,
                "resample": self.resample,
                **{k: list(v) for k, v in self.intervals().items()},
            },
            "r2": self.r2,
            "r2_log": self.r2_log,
            "n_pairs": self.data.n_pairs,
            "warnings": [w.to_dict() for w in self.warnings],
            "certificate": self.certificate,
            "calibration": self.calibration.to_dict(),
            "backtest": [o.to_dict() for o in self.backtest],
            "source_law": None if self.source_law is None else self.source_law.to_dict(),
            "data": {k: list(v) if isinstance(v, tuple) else v for k, v in vars(self.data).items()},
            "loss_unit": self.unit,
            "n_convention": self.n_convention,
            "flops_convention": self.flops_convention,
            "mixture": self.mixture,
            "seed": self.seed,
            "versions": self.versions,
            "draws": self.draws.tolist(),
        }

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> "Link":
        """Read LINK.json back; a FittingError if it is not one."""
        try:
            d = document["data"]
            law = document["source_law"]
            data: dict[str, Any] = dict(d)
            for span in ("x", "y", "compute"):
                data[span] = (float(d[span][0]), float(d[span][1]))
            return cls(
                kind=document["kind"],
                method=document["method"],
                names=(document["source"], document["target"]),
                status=document["status"],
                message=document["message"],
                values=np.array([float(document[p]) for p in PARAMS]),
                draws=np.array(document["draws"], dtype=float).reshape(-1, len(PARAMS)),
                level=float(document["intervals"]["level"]),
                floors=dict(document["floors"]),
                r2=float(document["r2"]),
                r2_log=float(document["r2_log"]),
                warnings=tuple(Warned(w["code"], w["message"]) for w in document["warnings"]),
                certificate=dict(document["certificate"]),
                calibration=Calibration(**document["calibration"]),
                backtest=tuple(Origin(**o) for o in document["backtest"]),
                source_law=None if law is None else Calibration(**law),
                data=LinkData(**data),
                unit=document["loss_unit"],
                n_convention=document["n_convention"],
                flops_convention=document["flops_convention"],
                seed=int(document["seed"]),
                resample=document["intervals"]["resample"],
                versions=dict(document["versions"]),
                mixture=document["mixture"],
            )
        except (KeyError, TypeError, IndexError, ValueError) as error:
            raise FittingError(
                "bad_document",
                f"This is not a link: {wrong_with(error)}.",
                "Give the document that `link fit --out` wrote, unchanged.",
            ) from None
