"""One problem made ready for the solver: coordinates, walls, starts, and the way back.

The law decides the path (a sum of powers on log loss, or the generic one); callers see the same
four functions either way: `cold`, `warm`, `values`, `theta`.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fitting.exponential import ExponentialProblem
from fitting.generic import GenericProblem
from fitting.law import Law
from fitting.links import Floats
from fitting.narrow import narrowed, to_least_deviations
from fitting.newton import Solution, joined, minimise, ridged, shared_start
from fitting.objective import Objective
from fitting.power_sums import Coordinates, PowerSumProblem, coordinates
from fitting.prior import WithPrior, quadratic
from fitting.runs import Runs
from fitting.starts import SCREEN_POINTS, screen_generic, screen_power_sum
from fitting.surface import places, resampled

# Huber widths are approached from above: the wide one finds the basin, the narrow one the optimum.
WIDTHS = (3e-2, 5e-3, 1e-3, 1e-4, 1e-5, 1e-6)

# A floor E this far (in ln) below the smallest loss is zero for every purpose.
FLOOR_DEPTH = 30.0


# Resamples of at least so many points are found on a surface first (other laws than sums
# of powers): with fewer they end too far from the fit of all points.
SURFACE_POINTS = 1_000

# A law that is no sum of powers is searched for on so many points where there are twice as many.
SAMPLE = 1_000


class Pace(NamedTuple):
    """How long a law that is no sum of powers is searched for: iterations of each stage, the lanes
    that go on after squares, and how many of the wide Huber widths are skipped."""

    squares: int
    kept: int
    skipped: int
    widths: int
    narrow: int
    again: int


# For a fit that is kept; and for those that only judge a law by what they forecast. What has an
# optimum arrives either way: a law of many parameters that creeps along a valley stops earlier.
PATIENT = Pace(30, 6, 0, 20, 60, 400)
BRISK = Pace(12, 4, 1, 12, 40, 30)
BRISK_TO_THE_END = BRISK._replace(again=PATIENT.again)
MANY_PARAMS = 5

# So many iterations along a valley of a sample: what is not there then creeps, and goes on among
# all points.
CREEPING = 150

# Iterations for the best start of fewer than 100 points when the usual ones do not do: .1 ms each.
LONG_VALLEY = 3_000

# A start beside the best point costs at most this share of the objective more; its step is halved
# so many times for that.
FAR_ASIDE, HALVINGS = 0.05, 6

# Of [lanes, points] numbers at most so many at a time in one batch of cold fits.
LANES = 1_000_000


@dataclass(frozen=True)
class Optimum:
    """One global fit. values [p] in the law's own terms; agree of starts reached it."""

    values: Floats
    theta: Floats
    objective: float
    converged: bool
    decrement: float
    gradient: Floats
    hessian: Floats
    starts: int
    agree: int
    iterations: int


@dataclass(frozen=True)
class Engine:
    """law and objective on the used points of one set of runs. weights: [n] or None."""

    law: Law
    objective: Objective
    inputs: dict[str, Floats]
    loss: Floats
    weights: Floats | None
    group: NDArray[np.int64]
    where: Coordinates | None
    lower: Floats
    upper: Floats
    rows: NDArray[np.int64]  # where each point stood in the runs that were given

    @classmethod
    def of(cls, law: Law, runs: Runs, objective: Objective) -> "Engine":
        rows = np.flatnonzero(runs.used)
        runs = runs.unmasked()
        inputs = {k: np.array(v) for k, v in law.columns(runs.inputs).items()}
        walls = np.array([p.link.walls for p in law.params])
        where = None
        if law.powers is not None and not objective.raw:
            where = coordinates(law, inputs)
            low, high = np.full(len(walls), -40.0), np.full(len(walls), 40.0)
            terms = len(law.powers.terms)
            low[:terms], high[:terms] = -25.0, 25.0
            offset = terms
            if law.powers.floor:
                low[terms], high[terms] = floor_walls(runs.loss)
                offset += 1
            names = list(dict.fromkeys(e for _, _, e in law.powers.terms))
            for j, name in enumerate(names):
                low[offset + j], high[offset + j] = walls[law.param_names.index(name)]
        else:
            low, high = walls[:, 0].copy(), walls[:, 1].copy()
            for j, p in enumerate(law.params):
                if p.link.log:
                    low[j], high[j] = max(low[j], -200.0), min(high[j], 200.0)
        return cls(
            law,
            objective,
            inputs,
            np.array(runs.loss),
            _array(runs.weights),
            runs.group,
            where,
            low,
            high,
            rows,
        )

    def subset(self, rows: NDArray[Any]) -> "Engine":
        """The same problem on some of the points, in the same coordinates."""
        where = self.where
        return replace(
            self,
            inputs={k: v[rows] for k, v in self.inputs.items()},
            loss=self.loss[rows],
            weights=None if self.weights is None else self.weights[rows],
            group=self.group[rows],
            rows=self.rows[rows],
            where=None if where is None else replace(where, logs=where.logs[:, rows]),
        )

    def problem(self, delta: float | None = None, rows: Any = None, *, alone: bool = False) -> Any:
        """The solver's problem with Huber width delta (default: the objective's own); alone:
        without the priors."""
        d = self.objective.solver_delta if delta is None else delta
        pick = slice(None) if rows is None else rows
        loss = self.loss[pick]
        if self.where is not None:
            floor = self.law.powers is not None and self.law.powers.floor is not None
            logs = np.ascontiguousarray(self.where.logs[:, pick])
            problem: Any = PowerSumProblem(
                logs, np.log(loss), floor, self.where.tie, d, self.objective.above
            )
        else:
            inputs = {k: v[pick] for k, v in self.inputs.items()}
            kind = GenericProblem if self.law.exponential is None else ExponentialProblem
            problem = kind(self.law, inputs, loss, d, self.objective.raw, self.objective.above)
        added = None if alone else self._prior()
        return problem if added is None else WithPrior(problem, *added)

    def _prior(self) -> tuple[Floats, Floats, float] | None:
        slope = np.eye(len(self.lower)) if self.where is None else self.where.back
        scale = float(np.median(self.loss)) if self.objective.raw else 1.0
        return quadratic(self.law, slope, scale)

    def values(self, theta: Floats) -> Floats:
        """Solver coordinates [..., p] -> the law's parameters [..., p]."""
        line = theta if self.where is None else theta @ self.where.back.T
        with np.errstate(over="ignore"):
            return self.law.from_line(line)

    def theta(self, values: Floats) -> Floats:
        """The law's parameters [..., p] -> solver coordinates, clipped into the box."""
        line = self.law.to_line(values)
        out = line if self.where is None else line @ self.where.there.T
        return np.clip(out, self.lower, self.upper)

    def slope(self, theta: Floats) -> Floats:
        """d(law's line)/d(theta): identity, or the centring map."""
        return np.eye(len(theta)) if self.where is None else self.where.back

    def screen(self, count: int, seed: int, weights: Floats | None) -> Floats:
        """Starts [cases, some, p], for each row of weights [cases, n]; None: one case."""
        n = self.loss.size
        rows = np.arange(n)
        if n > SCREEN_POINTS:
            rows = np.sort(np.random.default_rng([seed, 3]).choice(n, SCREEN_POINTS, replace=False))
        w = None if weights is None else weights[:, rows]
        if self.where is not None:
            where = replace(self.where, logs=self.where.logs[:, rows])
            loss = self.loss[None, rows]
            if w is not None:
                loss = np.broadcast_to(loss, w.shape)
            found = screen_power_sum(self.law, where, loss, w, count)
        else:
            found = screen_generic(
                self.law,
                {k: v[rows] for k, v in self.inputs.items()},
                self.loss[rows],
                w,
                max(count, 3 * len(self.law.params)),
                seed,
            )
        return np.asarray(np.clip(found, self.lower, self.upper))

    def cold(self, *, count: int = 4, seed: int = 0, weights: Floats | None = None) -> Optimum:
        """The global optimum from no start values at all. weights override the runs' own."""
        w = self.weights if weights is None else weights
        if self.where is None:
            return self._search(None if w is None else w[None], count, seed, PATIENT)[0]
        theta = self.screen(count, seed, None if w is None else w[None])[0]
        n = self.loss.size
        rows: Any = None
        if n > 10 * SCREEN_POINTS:
            rows = np.sort(np.random.default_rng([seed, 5]).choice(n, SCREEN_POINTS, replace=False))
        small = None if w is None else w if rows is None else w[rows]
        delta = self.objective.solver_delta
        widths = self._widths()
        straight = np.isinf(delta) and rows is None
        if not straight and not widths:
            theta = self._best(self._descend(np.inf, theta, small, rows, 1e-6, 30), max(count, 6))
        for d in widths:
            theta = self._descend(d, theta, small, rows, 1e-4, 20).theta
        if rows is not None:
            theta = self._best(self._descend(delta, theta, small, rows, 1e-9, 60), 1)
        # squares have just been minimised, if not straight away
        damping = 1e-4 if np.isinf(delta) and not straight else 1e-1
        found = self._descend(delta, theta, w, None, self._tightest(), 60, damping)
        best = self._chosen(found, slice(None))
        least = self.objective.kind == "lad-log"  # which ends by a way of its own
        if not (best.converged or least) and n <= 10 * SCREEN_POINTS:
            # few poor points: a long curved valley, towards a floor or an exponent that they lack
            most = max(PATIENT.again, LONG_VALLEY // max(1, n // 50))
            again = self._descend(delta, best.theta[None], w, None, 1e-14, most)
            found = joined(found, again)
        return self._chosen(self._finished(found, w), slice(None))

    def _widths(self) -> list[float]:
        """The Huber widths on the way to the objective's own."""
        delta = self.objective.solver_delta
        scale = float(np.median(self.loss)) if self.objective.raw else 1.0
        return [] if np.isinf(delta) else [d * scale for d in WIDTHS if d * scale > 1.5 * delta]

    def _tightest(self) -> float:
        """The tolerance of a cold fit: sums over very many points are not known any better."""
        return 1e-14 if self.loss.size <= 10 * SCREEN_POINTS else 1e-11

    def _search(self, weights: Floats | None, count: int, seed: int, pace: Pace) -> list[Optimum]:
        """Cold fits of a law that is no sum of powers, one for each row of weights [cases, n], all
        lanes in one batch. None: one, of the points as they are.

        Many points are searched by a sample of them, and the starts that agree are counted there.
        """
        n, delta = self.loss.size, self.objective.solver_delta
        cases = 1 if weights is None else len(weights)
        starts = self.screen(count, seed, weights)
        theta, case = np.concatenate(starts), np.repeat(np.arange(cases), starts.shape[1])
        rows: Any = None
        if n > 2 * SAMPLE:
            rows = np.sort(np.random.default_rng([seed, 5]).choice(n, SAMPLE, replace=False))

        def mine(case: NDArray[np.intp], rows: Any) -> Floats | None:
            if weights is None:
                return None
            w = weights if rows is None else weights[:, rows]
            return w[0] if cases == 1 else w[case]

        def lowest(found: Solution, case: NDArray[np.intp], keep: int) -> NDArray[np.intp]:
            f = np.where(np.isfinite(found.f), found.f, np.inf)
            order = np.lexsort((f, case))
            place = np.arange(order.size) - np.searchsorted(case[order], case[order])
            return order[place < keep]

        found = self._descend(np.inf, theta, mine(case, rows), rows, 1e-6, pace.squares)
        pick = lowest(found, case, max(count, pace.kept))
        theta, case = found.theta[pick], case[pick]
        for d in self._widths()[pace.skipped :]:
            theta = self._descend(d, theta, mine(case, rows), rows, 1e-4, pace.widths).theta
        damping = 1e-4 if np.isinf(delta) else 1e-1  # squares have just been minimised
        tol = 1e-9 if rows is not None else self._tightest()
        found = self._descend(delta, theta, mine(case, rows), rows, tol, pace.narrow, damping)
        beside, of = self._again(found, case, lambda at, of: self._at(at, mine(of, rows), rows))
        if len(of):
            most = pace.again if rows is None else min(pace.again, CREEPING)
            again = self._descend(delta, beside, mine(of, rows), rows, min(tol, 1e-11), most)
            found, case = joined(found, again), np.concatenate([case, of])
        if rows is None:
            found = self._finished(found, mine(case, rows))
            return [self._chosen(found, np.flatnonzero(case == c)) for c in range(cases)]
        sampled = [self._chosen(found, np.flatnonzero(case == c)) for c in range(cases)]
        theta, case = np.stack([one.theta for one in sampled]), np.arange(cases)
        tol, most = self._tightest(), pace.narrow
        found = self._descend(delta, theta, mine(case, None), None, tol, most, damping)
        found = self._finished(found, mine(case, None))
        return [
            replace(self._chosen(found, case[c : c + 1]), starts=one.starts, agree=one.agree)
            for c, one in enumerate(sampled)
        ]

    def cold_many(
        self,
        weights: Floats | None = None,
        *,
        losses: Floats | None = None,
        count: int = 4,
        seed: int = 0,
    ) -> list[Optimum]:
        """As many global fits as weights or losses [B, n] have rows, all of them in one batch.

        weights override the runs' own (0: not among the runs of this fit), losses those of the
        runs; either may be left out. What `cold` finds one by one, at a fraction of its time; laws
        that are no sums of powers are less patient with valleys, and fitted to losses one by one.
        """
        n = self.loss.size
        cases = len(weights) if weights is not None else 1 if losses is None else len(losses)
        own = np.ones(n) if self.weights is None else self.weights
        w = np.broadcast_to(own, (cases, n)) if weights is None else weights
        loss = np.broadcast_to(self.loss, (cases, n)) if losses is None else losses
        delta = self.objective.solver_delta
        if self.where is None and losses is None:
            pace = BRISK if len(self.lower) > MANY_PARAMS else BRISK_TO_THE_END
            return self._search(np.asarray(w, dtype=float), count, seed, pace)
        if self.where is None or n > SCREEN_POINTS or self._prior() is not None:
            return [
                replace(self, loss=np.array(loss[b])).cold(count=count, seed=seed, weights=w[b])
                for b in range(cases)
            ]
        lower, upper = self.lower.copy(), self.upper.copy()
        if self.law.powers is not None and self.law.powers.floor is not None:
            e = len(self.law.powers.terms)
            lower[e], upper[e] = floor_walls(loss)
        out: list[Optimum] = []
        for start in range(0, cases, max(1, LANES // (count * n))):
            some = slice(start, start + max(1, LANES // (count * n)))
            theta = screen_power_sum(self.law, self.where, loss[some], w[some], count)
            theta = np.clip(theta.reshape(-1, theta.shape[-1]), lower, upper)
            every = np.repeat(w[some], count, axis=0)
            target = np.log(np.repeat(loss[some], count, axis=0))

            def problem_of(width: float, target: Floats = target) -> PowerSumProblem:
                problem: PowerSumProblem = self.problem(width)
                return replace(problem, target=target)

            for width in (*(d for d in WIDTHS if d > 1.5 * delta), delta):
                last = width == delta
                problem = problem_of(width)
                found = minimise(
                    problem, theta, every, lower=lower, upper=upper,
                    metric=ridged(problem.metric(theta, every)),
                    tol=1e-14 if last else 1e-4, max_iterations=60 if last else 20,
                )  # fmt: skip
                theta = found.theta
            if self.objective.kind == "lad-log":
                found = to_least_deviations(problem_of, delta, found, every, lower, upper)
            out += [self._chosen(found, slice(i, i + count)) for i in range(0, len(theta), count)]
        return out

    def _chosen(self, found: Solution, lanes: slice | NDArray[np.intp]) -> Optimum:
        """The best of some lanes, and how many of them agree with it."""
        f = np.where(np.isfinite(found.f[lanes]), found.f[lanes], np.inf)
        best = int(np.argmin(f))
        agree = int((f <= f[best] * (1 + 1e-6) + 1e-26 * self.loss.size).sum())
        theta = found.theta[lanes][best]
        return Optimum(
            self.values(theta),
            theta,
            float(f[best]),
            bool(found.converged[lanes][best]),
            float(found.decrement[lanes][best]),
            found.gradient[lanes][best],
            found.hessian[lanes][best],
            len(f),
            agree,
            found.iterations,
        )

    def _at(self, theta: Floats, weights: Floats | None, rows: Any) -> Floats:
        """The objective [B] at theta [B, p]."""
        return np.asarray(self.problem(None, rows).evaluate(theta, weights)[0])

    def _again(
        self,
        found: Solution,
        case: NDArray[np.intp],
        cost: Callable[[Floats, NDArray[np.intp]], Floats],
    ) -> tuple[Floats, NDArray[np.intp]]:
        """From where to descend once more [m, p], and of which case: from the best point of each,
        with its own metric, and from beside it.

        A generic law may creep along a valley under the metric of a far start; and a Huber
        objective has neighbouring minima along its softest directions (182 runs of Muennighoff et
        al.: R_D = 47 and 95), which all starts may miss alike. The steps aside are those that the
        local quadratic thinks would cost 1% of the objective, halved where they really `cost` far
        more: from there the way back would be a hundred iterations.
        """
        delta = self.objective.solver_delta
        starts, steps, cases, most = [], [], [], []
        for c in np.unique(case):
            lanes = np.flatnonzero(case == c)
            f = np.where(np.isfinite(found.f[lanes]), found.f[lanes], np.inf)
            best = lanes[int(np.argmin(f))]
            theta, least, h = found.theta[best], float(found.f[best]), found.hessian[best]
            if not np.isfinite(least) or (np.isinf(delta) and found.converged[best]):
                continue
            mine = [np.zeros_like(theta)]
            scale = np.sqrt(np.abs(np.diag(h)))
            if not np.isinf(delta) and np.isfinite(h).all() and (scale > 0).all():
                value, vector = np.linalg.eigh(h / np.outer(scale, scale))
                for j in range(min(2, theta.size)):
                    if value[j] > 0:
                        aside = vector[:, j] / scale * np.sqrt(0.02 * least / value[j])
                        aside /= max(1.0, float(np.abs(aside).max()) / 2.0)
                        mine += [aside, -aside]
            steps += mine
            starts += [theta] * len(mine)
            cases += [c] * len(mine)
            most += [(1.0 + FAR_ASIDE) * least] * len(mine)
        begin = np.array(starts).reshape(-1, len(self.lower))
        step, of = np.array(steps).reshape(begin.shape), np.array(cases, dtype=np.intp)
        far = np.flatnonzero(step.any(axis=1))
        for _ in range(HALVINGS):
            there = np.clip(begin[far] + step[far], self.lower, self.upper)
            far = far[~(cost(there, of[far]) <= np.array(most)[far])]
            if not far.size:
                break
            step[far] *= 0.5
        return np.clip(begin + step, self.lower, self.upper), of

    @staticmethod
    def _best(found: Solution, count: int) -> Floats:
        """The `count` lanes of lowest objective: more than that go on only to arrive together."""
        f = np.where(np.isfinite(found.f), found.f, np.inf)
        return np.asarray(found.theta[np.argsort(f, kind="stable")[:count]])

    def _descend(
        self,
        delta: float,
        theta: Floats,
        weights: Floats | None,
        rows: Any,
        tol: float,
        most: int,
        damping: float = 1e-1,
    ) -> Solution:
        problem = self.problem(delta, rows)
        # fresh metrics help lanes that start far off; one that was fitted to a sample starts near
        far = self.where is None and problem.points <= 10 * SCREEN_POINTS
        return minimise(
            problem, theta, weights, lower=self.lower, upper=self.upper, tol=tol,
            metric=ridged(problem.metric(theta, weights)), max_iterations=most, damping=damping,
            refresh=3 if far else 0,
        )  # fmt: skip

    def warm(
        self,
        theta: Floats,
        weights: Floats,
        *,
        tol: float = 1e-10,
        most: int = 100,
        persist: bool = False,
    ) -> Solution:
        """Every row of weights [B, n] (which multiply the runs' own) at its own optimum, from
        theta [p] or [B, p]. persist: try again, narrowing Huber's width, where a row did not
        converge, unless there are many points; least absolute deviations go that way from the
        first."""
        w = weights if self.weights is None else weights * self.weights
        problem = self.problem()
        start = np.tile(theta, (len(w), 1)) if theta.ndim == 1 else theta
        least = self.objective.kind == "lad-log"
        # what each point adds is p^2 numbers a point, and a prior is not a point's
        small = self.loss.size <= 10 * SCREEN_POINTS and self._prior() is None
        large = many(self) and small
        if least:
            found = self._narrowed(start, w, tol, most, 0.25)
        elif large and len(w) >= places(problem.size):
            found = resampled(
                problem, start, w, lower=self.lower, upper=self.upper, tol=tol, most=most
            )
        else:
            if theta.ndim == 1 or self.where is not None:
                metric = ridged(problem.metric(start[:1], self.weights)[0])
            else:
                metric = ridged(problem.metric(start, w))
            first = shared_start(problem, theta, w) if theta.ndim == 1 and small else None
            found = minimise(
                problem, start, w, lower=self.lower, upper=self.upper, metric=metric, tol=tol,
                max_iterations=most, scales=self._scales(start), first=first,
            )  # fmt: skip
        lost = np.flatnonzero(~found.converged)
        # kinks are a matter of few points; of many, what is lost creeps along a valley
        if (
            ((persist and not large) or least)
            and lost.size
            and np.isfinite(self.objective.solver_delta)
        ):
            again = self._narrowed(start[lost], w[lost], tol, 2 * most, 0.5)
            better = again.f < found.f[lost]
            for name in ("theta", "f", "gradient", "hessian", "converged", "decrement"):
                getattr(found, name)[lost[better]] = getattr(again, name)[better]
        return self._finished(found, w)

    def _scales(self, start: Floats) -> tuple[int, ...]:
        """Coordinates in whose exponential resamples may step: none where the floor has all but
        vanished, for there the step would be to a floor below zero."""
        powers = self.law.powers
        scales: tuple[int, ...] = self.problem().scales
        if powers is not None and powers.floor is not None and scales:
            least = float(np.log(self.loss.min())) - 4.0
            if start[:, len(powers.terms)].min() < least:
                return ()
        return scales

    def _narrowed(
        self, theta: Floats, weights: Floats, tol: float, most: int, factor: float
    ) -> Solution:
        return narrowed(
            self.problem, self.objective.solver_delta, theta, weights, lower=self.lower,
            upper=self.upper, factor=factor, tol=tol, most=most,
        )  # fmt: skip

    def _finished(self, found: Solution, weights: Floats | None) -> Solution:
        """The same, at the optimum of least absolute deviations where these are asked for."""
        if self.objective.kind != "lad-log":
            return found
        delta = self.objective.solver_delta
        return to_least_deviations(self.problem, delta, found, weights, self.lower, self.upper)


def many(engine: Engine) -> bool:
    """Whether points are so many that resamples without an optimum would take minutes."""
    return engine.where is None and engine.loss.size >= SURFACE_POINTS


def hopeless(engine: Engine, best: Optimum) -> bool:
    """Whether so many points have no optimum together that resamples of them are not worth it."""
    return many(engine) and not best.converged


def floor_walls(loss: Floats) -> tuple[float, float]:
    """Between which ln E is looked for."""
    return float(np.log(loss.min())) - FLOOR_DEPTH, float(np.log(loss.max())) + 1.0


def _array(values: Floats | None) -> Floats | None:
    return None if values is None else np.array(values)
