"""The engine for any law: residuals and derivatives from its formula, by dual numbers.

For a Huber width that is small against the noise most points lie outside the quadratic zone, and
the Gauss-Newton matrix of the rest knows little. The curvature of the law itself, weighted by the
clipped residuals, is then added from second-order dual numbers: Newton's method again.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fitting.dual import Dual, Seconds
from fitting.law import Law
from fitting.links import Floats
from fitting.newton import Lanes, blocks, lane_weights, pointwise_sums


@dataclass(frozen=True)
class GenericProblem:
    """law on inputs {name: [n]} with loss [n]; raw: residual of the loss, else of its logarithm."""

    law: Law
    inputs: dict[str, Floats]
    loss: Floats
    delta: float
    raw: bool = False
    above: float = 1.0

    @property
    def size(self) -> int:
        return len(self.law.params)

    @property
    def points(self) -> int:
        return int(self.loss.size)

    def subset(self, rows: NDArray[np.int64]) -> "GenericProblem":
        """The same of some of the points."""
        inputs = {name: column[rows] for name, column in self.inputs.items()}
        return replace(self, inputs=inputs, loss=self.loss[rows])

    def model(self, theta: Floats, rows: slice = slice(None)) -> tuple[Floats, Floats]:
        """Prediction [B, n] (its logarithm unless raw) and derivatives [B, p, n] on the line."""
        y, jacobian, _ = self._model(theta, rows, curved=False)
        return y, jacobian

    def _model(
        self, theta: Floats, rows: slice, curved: bool
    ) -> tuple[Floats, Floats, Seconds | None]:
        """The same, with the second derivatives of the prediction itself where asked for."""
        lanes, p = theta.shape
        columns = [self.inputs[name][rows] for name in self.law.input_names]
        shape = (lanes, p, columns[0].size)
        jacobian = np.zeros(shape)
        second: Seconds | None = None
        if self.law.jacobian is not None:
            values = self.law.from_line(theta)
            named = {name: values[:, j, None] for j, name in enumerate(self.law.param_names)}
            y = np.broadcast_to(self.law.formula(*columns, **named), (lanes, shape[2]))
            slopes = self.law.jacobian(*columns, **named)
            for j, (name, param) in enumerate(
                zip(self.law.param_names, self.law.params, strict=True)
            ):
                scale = values[:, j, None] if param.link.log else 1.0
                jacobian[:, j] = slopes[name] * scale
        else:
            out = self.law.formula(*columns, **self._duals(theta, curved))
            y = np.broadcast_to(out.value, (lanes, shape[2]))
            for j, d in out.parts.items():
                jacobian[:, j] = d
            second = out.second
        if self.raw:
            return np.array(y), jacobian, second
        jacobian /= y[:, None, :]
        return np.log(y), jacobian, second

    def _duals(self, theta: Floats, curved: bool) -> dict[str, Dual]:
        """The parameters [B, 1] with their derivatives on the line; second ones where asked for."""
        values = self.law.from_line(theta)
        duals = {}
        for j, param in enumerate(self.law.params):
            value = values[:, j, None]
            slope = value if param.link.log else np.ones_like(value)
            bend: Seconds = {(j, j): value} if param.link.log else {}
            duals[param.name] = Dual(value, {j: slope}, bend if curved else None)
        return duals

    def evaluate(
        self, theta: Floats, weights: Floats | None, index: Lanes = None
    ) -> tuple[Floats, Floats, Floats]:
        return self._sums(theta, weights, index, exact=True)

    @property
    def scales(self) -> tuple[int, ...]:
        return ()

    def values(self, theta: Floats, rows: slice) -> Floats:
        """What the model says (its logarithm unless raw), without derivatives: [B, rows]."""
        inputs = {name: column[rows] for name, column in self.inputs.items()}
        with np.errstate(all="ignore"):
            y = np.asarray(self.law.evaluate(inputs, self.law.from_line(theta)), dtype=float)
            shape = (len(theta), self.loss[rows].size)
            return np.broadcast_to(y if self.raw else np.log(y), shape)

    @property
    def target(self) -> Floats:
        """What the model is held against: [n]."""
        return self.loss if self.raw else np.log(self.loss)

    def derivatives(self, theta: Floats) -> tuple[Floats, Floats, Floats]:
        """What the model says (its logarithm unless raw) at theta [B, p]: [B, n], its slopes
        [B, p, n] and its second derivatives [B, p, p, n]."""
        y, jac, second = self._model(theta, slice(None), True)
        lanes, p, n = jac.shape
        if second is None:
            return y, jac, self._bends(theta, jac)
        bend = np.zeros((lanes, p, p, n))
        for (j, k), d in second.items():
            bend[:, j, k] = bend[:, k, j] = d
        if not self.raw:
            bend *= np.exp(-y)[:, None, None]
            bend -= jac[:, :, None] * jac[:, None, :]
        return y, jac, bend

    def _bends(self, theta: Floats, jac: Floats) -> Floats:
        """Second derivatives [B, p, p, n] by forward differences; for a law that brings its own
        jacobian."""
        bend = np.empty((*jac.shape[:2], *jac.shape[1:]))
        for j in range(theta.shape[1]):
            step = 1e-6 * np.maximum(1.0, np.abs(theta[:, j]))
            moved = theta.copy()
            moved[:, j] += step
            bend[:, j] = (self.model(moved)[1] - jac) / step[:, None, None]
        return np.asarray(0.5 * (bend + bend.transpose(0, 2, 1, 3)))

    def pointwise(self, theta: Floats) -> tuple[Floats, Floats, Floats]:
        """What each point adds; the model's own curvature as in `evaluate`: not for squares."""
        bend = np.zeros((self.points, self.size, self.size))
        if np.isinf(self.delta):
            y, jac, _ = self._model(theta[None], slice(None), False)
            value, first = y[0], np.ascontiguousarray(jac[0].T)
        else:
            y, jac, second = self.derivatives(theta[None])
            value, first = y[0], np.ascontiguousarray(jac[0].T)
            bend = np.moveaxis(second[0], -1, 0)
        return pointwise_sums(self.target - value, first, bend, self.delta, self.above)

    def metric(self, theta: Floats, weights: Floats | None) -> Floats:
        return self._sums(theta, weights, None, exact=False)[2]

    def gradient(self, theta: Floats, weights: Floats | None) -> tuple[Floats, Floats]:
        """f [B] and its gradient [B, p] alone: half of what `evaluate` costs."""
        f = np.zeros(len(theta))
        g = np.zeros(theta.shape)
        target = self.target
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            for b, i in blocks(len(theta), self.points):
                y, jac, _ = self._model(theta[b], i, False)
                r = target[i] - y
                w = self._sides(r, lane_weights(weights, b, i))
                psi = np.clip(r, -self.delta, self.delta)
                wpsi = w * psi
                f[b] += np.einsum("bn,bn->b", wpsi, r - 0.5 * psi)
                g[b] -= np.matmul(jac, wpsi[:, :, None])[:, :, 0]
        return f, g

    def _sides(self, r: Floats, weights: Floats | None) -> Any:
        """The weights of one block, times what a residual above zero counts."""
        w = 1.0 if weights is None else weights
        return w if self.above == 1.0 else w * np.where(r > 0, self.above, 1.0)

    def _sums(
        self, theta: Floats, weights: Floats | None, index: Lanes, exact: bool
    ) -> tuple[Floats, Floats, Floats]:
        lanes, p = theta.shape
        f = np.zeros(lanes)
        g = np.zeros((lanes, p))
        h = np.zeros((lanes, p, p))
        target = self.target
        squares = np.isinf(self.delta)
        curved = exact and not squares
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            for b, i in blocks(lanes, self.points):
                y, jac, second = self._model(theta[b], i, curved)
                r = target[i] - y
                w = self._sides(r, lane_weights(weights, b, i, index))
                psi = r if squares else np.clip(r, -self.delta, self.delta)
                wpsi = w * psi
                f[b] += np.einsum("bn,bn->b", wpsi, r - 0.5 * psi)
                g[b] -= np.matmul(jac, wpsi[:, :, None])[:, :, 0]
                if squares:
                    c = np.broadcast_to(w, r.shape)
                elif exact:
                    c = w * (psi == r)
                    if second is not None and not self.raw:
                        c = c + wpsi  # d2 ln y = d2 y / y - (d ln y)(d ln y)'
                else:
                    c = w * (self.delta / np.maximum(np.abs(r), self.delta))
                h[b] += np.matmul(jac * c[:, None, :], jac.transpose(0, 2, 1))
                if curved and second is not None:
                    pull = wpsi if self.raw else wpsi * np.exp(-y)
                    whole = None
                    for (j, k), d in second.items():
                        if np.shape(d)[-1:] == pull.shape[-1:]:
                            bend = np.vecdot(pull, d)
                        elif np.ndim(d) == 0 and d == 0:
                            continue
                        else:  # the same at every point
                            whole = pull.sum(axis=1) if whole is None else whole
                            bend = whole * np.reshape(d, -1)
                        h[b, j, k] -= bend
                        if j != k:
                            h[b, k, j] -= bend
                elif curved:
                    h[b] -= self._curvature(theta[b], i, jac, wpsi)
        return f, g, h

    def _curvature(self, theta: Floats, rows: slice, jac: Floats, wpsi: Floats) -> Floats:
        """sum over points of wpsi * second derivatives of the model, by forward differences; for
        a law that brings its own jacobian."""
        p = theta.shape[1]
        out = np.empty((theta.shape[0], p, p))
        for j in range(p):
            step = 1e-6 * np.maximum(1.0, np.abs(theta[:, j]))
            moved = theta.copy()
            moved[:, j] += step
            ahead = self.model(moved, rows)[1]
            change = np.matmul(ahead - jac, wpsi[:, :, None])[:, :, 0]
            out[:, j] = change / step[:, None]
        return 0.5 * (out + out.transpose(0, 2, 1))
