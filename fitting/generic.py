"""The engine for any law: residuals and derivatives from its formula, by dual numbers.

For a Huber width that is small against the noise most points lie outside the quadratic zone, and
the Gauss-Newton matrix of the rest knows little. The curvature of the law itself, weighted by the
clipped residuals, is then added from differences of the (exact) gradient: Newton's method again.
"""

from dataclasses import dataclass

import numpy as np

from fitting.dual import Dual
from fitting.law import Law
from fitting.links import Floats
from fitting.newton import Lanes, blocks, lane_weights


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

    def model(self, theta: Floats, rows: slice = slice(None)) -> tuple[Floats, Floats]:
        """Prediction [B, n] (its logarithm unless raw) and derivatives [B, p, n] on the line."""
        lanes, p = theta.shape
        columns = [self.inputs[name][rows] for name in self.law.input_names]
        shape = (lanes, p, columns[0].size)
        jacobian = np.zeros(shape)
        values = self.law.from_line(theta)
        scale = [values[:, j, None] if q.link.log else None for j, q in enumerate(self.law.params)]
        if self.law.jacobian is not None:
            named = {name: values[:, j, None] for j, name in enumerate(self.law.param_names)}
            y = np.broadcast_to(self.law.formula(*columns, **named), (lanes, shape[2]))
            slopes = self.law.jacobian(*columns, **named)
            for j, name in enumerate(self.law.param_names):
                s = scale[j]
                jacobian[:, j] = slopes[name] if s is None else slopes[name] * s
        else:
            duals = {}
            for j, name in enumerate(self.law.param_names):
                s = scale[j]
                one = np.ones((lanes, 1)) if s is None else s
                duals[name] = Dual(values[:, j, None], {j: one})
            out = self.law.formula(*columns, **duals)
            y = np.broadcast_to(out.value, (lanes, shape[2]))
            for j, d in out.parts.items():
                jacobian[:, j] = d
        if self.raw:
            return np.array(y), jacobian
        jacobian /= y[:, None, :]
        return np.log(y), jacobian

    def evaluate(
        self, theta: Floats, weights: Floats | None, index: Lanes = None
    ) -> tuple[Floats, Floats, Floats]:
        return self._sums(theta, weights, index, exact=True)

    def metric(self, theta: Floats, weights: Floats | None) -> Floats:
        return self._sums(theta, weights, None, exact=False)[2]

    def _sums(
        self, theta: Floats, weights: Floats | None, index: Lanes, exact: bool
    ) -> tuple[Floats, Floats, Floats]:
        lanes, p = theta.shape
        f = np.zeros(lanes)
        g = np.zeros((lanes, p))
        h = np.zeros((lanes, p, p))
        target = self.loss if self.raw else np.log(self.loss)
        curved = exact and not np.isinf(self.delta)
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            for b, i in blocks(lanes, self.points):
                y, jac = self.model(theta[b], i)
                r = target[i] - y
                own = lane_weights(weights, b, i, index)
                w = 1.0 if own is None else own
                if self.above != 1.0:
                    w = w * np.where(r > 0, self.above, 1.0)
                psi = r if np.isinf(self.delta) else np.clip(r, -self.delta, self.delta)
                wpsi = w * psi
                f[b] += (wpsi * (r - 0.5 * psi)).sum(axis=1)
                g[b] -= np.matmul(jac, wpsi[:, :, None])[:, :, 0]
                if np.isinf(self.delta):
                    c = np.broadcast_to(w, r.shape)
                elif exact:
                    c = w * (psi == r)
                else:
                    c = w * (self.delta / np.maximum(np.abs(r), self.delta))
                h[b] += np.matmul(jac * c[:, None, :], jac.transpose(0, 2, 1))
                if curved:
                    h[b] -= self._curvature(theta[b], i, jac, wpsi)
        return f, g, h

    def _curvature(self, theta: Floats, rows: slice, jac: Floats, wpsi: Floats) -> Floats:
        """sum over points of wpsi * second derivatives of the model, by forward differences."""
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
