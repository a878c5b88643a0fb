"""The engine for laws that are a floor and one exponential, L = floor + exp(v).

Bent power laws are all of this form, and v has few second derivatives, or simple ones. With u the
slopes of v, those of L are exp(v) u, and its second derivatives exp(v) (v'' + u u'): outer products
are one matrix product over points, and what is left of v'' is summed as it is. Dual numbers carry v
alone: half the time of the whole formula, with the same answer.
"""

from dataclasses import dataclass

import numpy as np

from fitting.dual import Seconds
from fitting.generic import GenericProblem
from fitting.law import Exponential
from fitting.links import Floats
from fitting.newton import Lanes, blocks, lane_weights


@dataclass(frozen=True)
class _Block:
    """At some points, of some lanes: the model's value y [B, n] (ln L unless raw); its slopes,
    scale [B, n] * u [B, p, n], whose row of the floor is empty, and there `rest` [B, n] or [B, 1];
    the second derivatives of v."""

    y: Floats
    u: Floats
    scale: Floats
    rest: Floats
    second: Seconds


class ExponentialProblem(GenericProblem):
    """A generic problem whose law says that it is a floor and an exponential."""

    @property
    def _form(self) -> Exponential:
        assert self.law.exponential is not None
        return self.law.exponential

    @property
    def _floor(self) -> int | None:
        name = self._form.floor
        return None if name is None else self.law.param_names.index(name)

    def _block(self, theta: Floats, rows: slice, curved: bool) -> _Block:
        columns = [self.inputs[name][rows] for name in self.law.input_names]
        at, named = self._floor, self._duals(theta, curved)
        floor = None if self._form.floor is None else named.pop(self._form.floor)
        out = self._form.exponent(*columns, **named)
        shape = (len(theta), columns[0].size)
        u = np.empty((shape[0], theta.shape[1], shape[1]))
        if at is not None:
            u[:, at] = 0.0
        for j, d in out.parts.items():
            u[:, j] = d
        raised = np.exp(np.broadcast_to(out.value, shape))
        value = raised if floor is None else raised + floor.value
        rest = np.zeros((1, 1)) if floor is None or at is None else floor.parts[at]
        if self.raw:
            return _Block(value, u, raised, rest, out.second or {})
        return _Block(np.log(value), u, raised / value, rest / value, out.second or {})

    def gradient(self, theta: Floats, weights: Floats | None) -> tuple[Floats, Floats]:
        f, g = np.zeros(len(theta)), np.zeros(theta.shape)
        target, at = self.target, self._floor
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            for b, i in blocks(len(theta), self.points):
                here = self._block(theta[b], i, False)
                r = target[i] - here.y
                psi = np.clip(r, -self.delta, self.delta)
                wpsi = self._sides(r, lane_weights(weights, b, i)) * psi
                psi *= -0.5
                psi += r
                f[b] += np.vecdot(wpsi, psi)
                self._add_slopes(g[b], here, wpsi, at)
        return f, g

    @staticmethod
    def _add_slopes(g: Floats, here: _Block, wpsi: Floats, at: int | None) -> None:
        g -= np.matmul(here.u, (wpsi * here.scale)[:, :, None])[:, :, 0]
        if at is not None:
            g[:, at] -= (wpsi * here.rest).sum(axis=1)

    def _sums(
        self, theta: Floats, weights: Floats | None, index: Lanes, exact: bool
    ) -> tuple[Floats, Floats, Floats]:
        lanes, p = theta.shape
        f, g, h = np.zeros(lanes), np.zeros((lanes, p)), np.zeros((lanes, p, p))
        target, at = self.target, self._floor
        squares = np.isinf(self.delta)
        curved = exact and not squares
        log_floor = at is not None and self.law.params[at].link.log
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            for b, i in blocks(lanes, self.points):
                here = self._block(theta[b], i, curved)
                r = target[i] - here.y
                w = self._sides(r, lane_weights(weights, b, i, index))
                psi = r if squares else np.clip(r, -self.delta, self.delta)
                wpsi = w * psi
                f[b] += np.vecdot(wpsi, r - 0.5 * psi)
                self._add_slopes(g[b], here, wpsi, at)
                if squares:
                    c = np.broadcast_to(w, r.shape)
                elif exact:
                    c = w * (psi == r)
                    if not self.raw:
                        c = c + wpsi  # d2 ln L = d2 L / L - (d ln L)(d ln L)'
                else:
                    c = w * (self.delta / np.maximum(np.abs(r), self.delta))
                slope = c * here.scale
                outer = slope * here.scale
                pull = wpsi * here.scale if curved else None
                if pull is not None:
                    outer -= pull
                h[b] += np.matmul(here.u * outer[:, None, :], here.u.transpose(0, 2, 1))
                if at is not None:
                    beside = np.matmul(here.u, (slope * here.rest)[:, :, None])[:, :, 0]
                    h[b, :, at] += beside
                    h[b, at, :] += beside
                    own = c * here.rest * here.rest
                    h[b, at, at] += (own - wpsi * here.rest if curved and log_floor else own).sum(
                        axis=1
                    )
                if pull is not None:
                    self._add_bends(h[b], here.second, pull)
        return f, g, h

    @staticmethod
    def _add_bends(h: Floats, second: Seconds, pull: Floats) -> None:
        """Take sum over points of pull * v'' from the Hessians."""
        whole = None
        for (j, k), d in second.items():
            if np.ndim(d) == 0 and d == 0:
                continue
            if np.shape(d)[-1:] == pull.shape[-1:]:
                bend = np.vecdot(pull, d)
            else:  # the same at every point
                whole = pull.sum(axis=1) if whole is None else whole
                bend = whole * np.reshape(d, -1)
            h[:, j, k] -= bend
            if j != k:
                h[:, k, j] -= bend
