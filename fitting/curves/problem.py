"""A curve law on several curves as a problem for the batched Newton solver of `fitting.newton`.

Residuals are of the logarithm of the loss, under Huber's penalty, summed over points; priors add
(weight x standardised deviation)^2 / 2. The law gives its Jacobian; the Hessian is Gauss and
Newton's of the quadratic points, and the metric the reweighted one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from fitting.curves.curve import Curve
from fitting.curves.law import CurveLaw, Features
from fitting.errors import FittingError
from fitting.links import Floats
from fitting.newton import Lanes, Solution, minimise, ridged
from fitting.objective import penalty

# Weight of one prior standard deviation, in units of log loss: a guess, checked on public curves.
PRIOR_WEIGHT = 1e-2


def check_options(delta: float, momentum: float | None) -> None:
    if not (np.isfinite(delta) and delta > 0):
        raise FittingError("bad_option", f"delta is {delta}.", "Give a positive width.")
    if momentum is not None and not 0 <= momentum < 1:
        raise FittingError("bad_option", f"momentum is {momentum}.", "Give 0 or more, below 1.")


@dataclass(frozen=True)
class CurveProblem:
    """law on features (one entry a curve) with log losses [n], all curves on end.

    weights: [n], how many measured points each stands for, over their mean.
    """

    law: CurveLaw
    features: tuple[Features, ...]
    log_loss: Floats
    weights: Floats
    curve: NDArray[np.int64]
    delta: float

    @classmethod
    def of(
        cls,
        law: CurveLaw,
        curves: Sequence[Curve],
        delta: float,
        counts: Sequence[Floats] | None = None,
        **options: Any,
    ) -> "CurveProblem":
        merged: Mapping[str, Any] = {**law.options, **options}
        features = tuple(law.features(c.schedule, c.step, c.size, merged) for c in curves)
        log_loss = np.log(np.concatenate([c.loss for c in curves]))
        member = np.concatenate([np.full(len(c), j) for j, c in enumerate(curves)])
        weights = np.ones(log_loss.size) if counts is None else np.concatenate(counts)
        return cls(law, features, log_loss, weights / weights.mean(), member, delta)

    @property
    def size(self) -> int:
        return len(self.law.params)

    @property
    def points(self) -> int:
        return int(self.log_loss.size)

    @cached_property
    def walls(self) -> tuple[Floats, Floats]:
        walls = np.array([p.link.walls for p in self.law.params])
        log = np.array([p.link.log for p in self.law.params])
        return np.where(log, np.maximum(walls[:, 0], -40.0), walls[:, 0]), np.where(
            log, np.minimum(walls[:, 1], 40.0), walls[:, 1]
        )

    @cached_property
    def together(self) -> tuple[Features, ...]:
        """The features, in one piece where the law allows: a call a curve costs more than its
        numbers do."""
        if not self.law.pointwise or any(
            one.keys() != self.features[0].keys() for one in self.features
        ):
            return self.features
        joined = {k: np.concatenate([one[k] for one in self.features]) for k in self.features[0]}
        return (joined,)

    def line(self, values: Floats) -> Floats:
        """The law's parameters [..., p] -> solver coordinates, inside the walls."""
        found = np.stack(
            [p.link.to_line(values[..., j]) for j, p in enumerate(self.law.params)], axis=-1
        )
        return np.clip(found, *self.walls)

    def values(self, theta: Floats) -> Floats:
        """Solver coordinates [..., p] -> the law's parameters."""
        return np.stack(
            [p.link.from_line(theta[..., j]) for j, p in enumerate(self.law.params)], axis=-1
        )

    def model(self, theta: Floats) -> tuple[Floats, Floats]:
        """Loss [B, n] and its slopes on the line [B, p, n]."""
        values = self.values(theta)
        parts = [self.law.formula(values, one) for one in self.together]
        loss = np.concatenate([y for y, _ in parts], axis=1)
        slopes = np.concatenate([j for _, j in parts], axis=2)
        for j, param in enumerate(self.law.params):
            if param.link.log:
                slopes[:, j] *= values[:, j, None]
        return loss, slopes

    def evaluate(
        self, theta: Floats, weights: Floats | None, index: Lanes = None
    ) -> tuple[Floats, Floats, Floats]:
        return self._sums(theta, weights, index, reweighted=False)

    def metric(self, theta: Floats, weights: Floats | None) -> Floats:
        return self._sums(theta, weights, None, reweighted=True)[2]

    def _sums(
        self, theta: Floats, weights: Floats | None, index: Lanes, reweighted: bool
    ) -> tuple[Floats, Floats, Floats]:
        with np.errstate(all="ignore"):
            loss, slopes = self.model(theta)
            r = self.log_loss - np.log(loss)
            slopes /= loss[:, None, :]
        w = self.weights if weights is None else weights
        if w.ndim == 2 and index is not None:
            w = w[index]
        psi = np.clip(r, -self.delta, self.delta)
        f = np.asarray((w * psi * (r - 0.5 * psi)).sum(axis=1))
        g = -np.matmul(slopes, (w * psi)[:, :, None])[:, :, 0]
        share = self.delta / np.maximum(np.abs(r), self.delta) if reweighted else (psi == r)
        h = np.matmul(slopes * (w * share)[:, None, :], slopes.transpose(0, 2, 1))
        for j, param in enumerate(self.law.params):
            if param.prior is not None:
                z = (theta[:, j] - param.prior.mean) / param.prior.sd
                f = f + 0.5 * (PRIOR_WEIGHT * z) ** 2
                g[:, j] += PRIOR_WEIGHT**2 * z / param.prior.sd
                h[:, j, j] += (PRIOR_WEIGHT / param.prior.sd) ** 2
        return np.where(np.isfinite(f), f, np.inf), g, h

    def starts(self, keep: int) -> Floats:
        """The best `keep` starts [keep, p]: the law's grid of non-linear parameters, the linear
        ones solved for on a thinned set of points, none of them negative."""
        thin = max(1, self.points // 120)
        found, scores = [], []
        linear = [self.law.param_names.index(name) for name in self.law.linear]
        free = [self.law.linear.index(name) for name in self.law.signed]
        some = [
            {k: v[::thin] if len(v) == len(one["log_s1"]) else v for k, v in one.items()}
            for one in self.features
        ]
        log_loss = np.concatenate(
            [self.log_loss[self.curve == j][::thin] for j in range(len(self.features))]
        )
        target = np.exp(log_loss)
        rows = np.array(
            [[row.get(name, 1.0) for name in self.law.param_names] for row in self.law.starts]
        )
        with np.errstate(all="ignore"):
            slopes = np.concatenate([self.law.formula(rows, one)[1] for one in some], axis=2)
        for row, slope in zip(rows, slopes, strict=True):
            design = slope[linear].T / target[:, None]
            if not np.isfinite(design).all():
                continue
            scale = np.linalg.norm(design, axis=0)
            scale = np.where(scale > 0, scale, 1.0)
            scaled = np.concatenate([design / scale, -(design / scale)[:, free]], axis=1)
            solved, _ = nnls(scaled, np.ones(target.size))
            both = solved[: len(linear)]
            both[free] -= solved[len(linear) :]
            both = both / scale
            least = 1e-6 * np.abs(both).max()
            values = row.copy()
            values[linear] = np.where(
                np.isin(np.arange(len(linear)), free), both, np.maximum(both, least)
            )
            fitted = design @ values[linear]
            with np.errstate(all="ignore"):
                scores.append(float(penalty(-np.log(fitted), self.delta).sum()))
            found.append(values)
        order = np.argsort(np.nan_to_num(scores, nan=np.inf), kind="stable")[:keep]
        return self.line(np.array(found)[order])

    def solve(
        self,
        theta: Floats,
        weights: Floats | None = None,
        *,
        tol: float = 1e-8,
        most: int = 60,
        refresh: int = 3,
    ) -> Solution:
        """Every lane from theta [B, p] at its own optimum."""
        lower, upper = self.walls
        return minimise(
            self,
            theta,
            weights,
            lower=lower,
            upper=upper,
            metric=ridged(self.metric(theta, weights)),
            tol=tol,
            max_iterations=most,
            refresh=refresh,
        )

    def best(self, keep: int = 4, most: int = 100) -> tuple[Solution, int]:
        """The optimum from no start values: a wide Huber width finds the basin, the narrow one the
        optimum. Also its lane."""
        wide = CurveProblem(
            self.law, self.features, self.log_loss, self.weights, self.curve, 10 * self.delta
        )
        theta = wide.solve(self.starts(keep), tol=1e-4, most=25).theta
        found = self.solve(theta, most=most)
        return found, int(np.argmin(found.f))
