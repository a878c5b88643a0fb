"""Wang et al. 2025, "Learning Dynamics in Continual Pre-Training", equations 4, 7 and 8.

L(t) = L0 + A (S1_pt + S1_cpt)^-alpha - C1 S2_pt - C2 S2_cpt + shift(S1_cpt)
shift = B (1 - (1 + E S1_cpt)^-beta),  written here as  K (1 - (1 + E S1_cpt)^-beta) / beta

A model pre-trained on one mixture is trained on; the loss on each domain is the curve it would have
gone on with, plus a shift: up for the old (general) domain, down for the new one. One fit a domain.

B and beta are not told apart when beta is small (the paper prints B = 29 with beta = .001): what
the data know is K = B beta, so K is the parameter and is what is reported.

lambda, the momentum of S2, is fitted (.95 to .98 for runs of a few thousand small batches; the
paper's .999 for 40,000 large ones). At the transfer the momentum is reset or carried on
(`convention`); the paper does not say which, and the data choose.

Replay (r = share of new data in the mixture): the shift is scaled by g(r). As printed (equation 8)
g is 1 - e^(-a r) for the general loss and e^(a r) - 1 for the domain loss; our runs have the
opposite curvature, which (e^(a r) - 1) / (e^a - 1) with a of either sign allows ("convex").
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fitting.curves.annealing import ALPHA, L0, A
from fitting.curves.curve import check_size, check_steps
from fitting.curves.features import OVER, momentum
from fitting.curves.law import CurveLaw, Features
from fitting.curves.schedule import Schedule
from fitting.errors import FittingError
from fitting.law import Param, Prior
from fitting.links import Floats, bounded

CONVENTIONS = ("reset", "carry")
MOMENTA = (0.9, 0.95, 0.98, 0.99, 0.995, 0.999)
# The first steps after a transfer overshoot; no form here describes them.
SKIP = 100


@dataclass(frozen=True)
class ContinualCurve:
    """One domain's loss along one run.

    step [n], loss [n]: updates of this stage. schedule: of this stage. before: the pre-training
    schedule up to the transfer; None: this is a pre-training run. new_share: share of the new
    domain in the training mixture, 1 without replay. size: N. unknown: pre-training is not known.
    """

    name: str
    step: NDArray[np.int64]
    loss: Floats
    schedule: Schedule
    before: Schedule | None = None
    new_share: float = 1.0
    size: float | None = None
    unknown: bool = False

    @classmethod
    def of(
        cls,
        name: str,
        step: ArrayLike,
        loss: ArrayLike,
        schedule: Schedule,
        before: Schedule | None = None,
        replay_ratio: float = 0.0,
        size: float | None = None,
        unknown: bool = False,
    ) -> "ContinualCurve":
        """replay_ratio: share of the old data in the mixture, 0 <= r < 1."""
        at = np.asarray(step, dtype=float)
        y = np.asarray(loss, dtype=float)
        if at.ndim != 1 or at.shape != y.shape:
            raise FittingError("shape", f"Curve {name}: {at.shape} steps, {y.shape} losses.")
        check_size(name, size)
        if not 0.0 <= replay_ratio < 1.0:
            raise FittingError(
                "bad_value",
                f"Curve {name}: replay ratio {replay_ratio}.",
                "The share of old data is at least 0 and below 1.",
                run=name,
            )
        keep = at >= 1
        at, y = at[keep], y[keep]
        bad = ~np.isfinite(y) | (y <= 0)
        if bad.any():
            row = int(np.flatnonzero(bad)[0])
            raise FittingError(
                "bad_value",
                f"Curve {name}: loss {y[row]} at step {at[row]:.0f}.",
                "Losses are finite and positive.",
                run=name,
            )
        if at.size and at.max() > schedule.steps:
            raise FittingError(
                "bad_value",
                f"Curve {name} reaches step {at.max():.0f}, its schedule {schedule.steps}.",
                "Steps of a continual run count from its transfer.",
                run=name,
            )
        order = np.argsort(at, kind="stable")
        check_steps(name, at[order])
        return cls(
            name, at[order].astype(np.int64), y[order], schedule, before,
            1.0 - replay_ratio, size, unknown,
        )  # fmt: skip

    @property
    def continual(self) -> bool:
        return self.before is not None or self.unknown

    def __len__(self) -> int:
        return int(self.step.size)

    def where(self, keep: NDArray[np.bool_]) -> "ContinualCurve":
        return ContinualCurve(
            self.name, self.step[keep], self.loss[keep], self.schedule, self.before,
            self.new_share, self.size, self.unknown,
        )  # fmt: skip


def features_of(
    schedule: Schedule,
    before: Schedule | None,
    steps: NDArray[np.int64],
    lam: float,
    convention: str,
    new_share: float = 1.0,
    size: float | None = None,
    unknown: bool = False,
) -> Features:
    """What the formulas read after each of `steps`: [n] each.

    s1_before, s1: the two sums; s2_before, s2: the two annealing sums; shared: the new share.
    A pre-training run has its sums in s1_before and s2_before, and nothing in the others.
    """
    rates = schedule.rates()
    at = steps - 1
    ones = np.ones(steps.size)
    zero = np.zeros(steps.size)
    if before is None and not unknown:
        m = momentum(rates, lam)
        s2 = np.cumsum(np.where(rates > OVER * rates.max(), m, 0.0))
        first, second = (np.cumsum(rates)[at], s2[at]), (zero, zero)
    else:
        past = np.zeros(1) if before is None else before.rates()
        m_past = momentum(past, lam)
        end = float(m_past[-1])
        s2_past = float(np.where(past > OVER * max(float(past.max()), 1e-300), m_past, 0.0).sum())
        m = momentum(rates, lam, before=float(past[-1]), start=end if convention == "carry" else 0)
        peak = max(float(rates.max()), float(past.max()))
        s2 = np.cumsum(np.where(rates > OVER * peak, m, 0.0))
        first = (float(past.sum()) * ones, s2_past * ones)
        second = (np.cumsum(rates)[at], s2[at])
    found = {
        "log_s1": np.log(np.maximum(first[0] + second[0], 1e-300)),
        "s1": second[0],
        "s2_before": first[1],
        "s2": second[1],
        "new_share": np.full(steps.size, new_share) if second[0].any() else ones,
    }
    if size is not None:
        found["log_n"] = np.full(steps.size, np.log(size))
    return found


# --- the replay factor g(r; a) and its derivative -------------------------------------------------

Replay = Callable[[Floats, Floats], tuple[Floats, Floats]]


def no_replay(r: Floats, a: Floats) -> tuple[Floats, Floats]:
    shape = np.broadcast_shapes(r.shape, a.shape)
    return np.ones(shape), np.zeros(shape)


def printed_general(r: Floats, a: Floats) -> tuple[Floats, Floats]:
    """1 - e^(-a r), equation 8 for the general loss."""
    e = np.exp(-a * r)
    return 1.0 - e, r * e


def printed_domain(r: Floats, a: Floats) -> tuple[Floats, Floats]:
    """e^(a r) - 1, equation 8 for the domain loss."""
    e = np.exp(a * r)
    return e - 1.0, r * e


def convex(r: Floats, a: Floats) -> tuple[Floats, Floats]:
    """(e^(a r) - 1) / (e^a - 1): 0 at r = 0, 1 at r = 1; convex for a > 0, concave for a < 0."""
    small = np.abs(a) < 1e-4
    safe = np.where(small, 1.0, a)
    top, bottom = np.expm1(safe * r), np.expm1(safe)
    g = np.where(small, r + 0.5 * a * r * (r - 1), top / bottom)
    slope = (r * np.exp(safe * r) - top / bottom * np.exp(safe)) / bottom
    return g, np.where(small, 0.5 * r * (r - 1), slope)


def _shift(found: Features, e: Floats, beta: Floats) -> tuple[Floats, Floats, Floats]:
    """f = (1 - (1 + E S)^-beta) / beta, and its derivatives by ln E and beta."""
    z = e * found["s1"]
    u = np.log1p(z)
    fallen = -np.expm1(-beta * u)
    f = fallen / beta
    q = 1.0 - fallen
    return f, z / (1.0 + z) * q, (u * q - f) / beta


def _formula(replay: Replay, with_replay: bool, sized: bool) -> Any:
    def formula(values: Floats, found: Features) -> tuple[Floats, Floats]:
        l0, a, alpha, c1, c2, k, e, beta = (values[:, j, None] for j in range(8))
        power = np.exp(-alpha * found["log_s1"])
        f, by_log_e, by_beta = _shift(found, e, beta)
        s2_before = np.broadcast_to(found["s2_before"], power.shape)
        s2 = np.broadcast_to(found["s2"], power.shape)
        more: list[Floats] = []
        g = np.ones_like(power)
        scale_before = scale = g
        extra: Floats = np.zeros_like(power)
        if with_replay:
            a1, a2 = values[:, 8, None], values[:, 9, None]
            r = found["new_share"]
            g, slope = replay(r, a2)
            scale = np.exp(a1 * (1.0 - r))
            more = [-c2 * s2 * scale * (1.0 - r), k * f * slope]
        if sized:
            g1, g2, size, g3 = (values[:, 8 + j, None] for j in range(4))
            log_n = found["log_n"]
            scale_before, scale = np.exp(g1 * log_n), np.exp(g2 * log_n)
            small = np.exp(-g3 * log_n)
            extra = size * small
            more = [
                -c1 * s2_before * scale_before * log_n,
                -c2 * s2 * scale * log_n,
                small,
                -extra * log_n,
            ]
        loss = l0 + a * power - c1 * s2_before * scale_before - c2 * s2 * scale + k * f * g + extra
        slopes = np.stack(
            [
                np.ones_like(power),
                power,
                -a * power * found["log_s1"],
                -s2_before * scale_before,
                -s2 * scale,
                f * g,
                k * g * by_log_e / e,
                k * g * by_beta,
                *more,
            ],
            axis=1,
        )
        return loss, slopes

    return formula


def _open_formula(values: Floats, found: Features) -> tuple[Floats, Floats]:
    """L0 + A (X + S1_cpt)^-alpha - C2 S2_cpt + shift, X the unknown sum of pre-training."""
    l0, a, alpha, c2, k, e, beta, x = (values[:, j, None] for j in range(8))
    total = x + found["s1"]
    power = total**-alpha
    f, by_log_e, by_beta = _shift(found, e, beta)
    s2 = np.broadcast_to(found["s2"], power.shape)
    slopes = np.stack(
        [
            np.ones_like(power), power, -a * power * np.log(total), -s2, f,
            k * by_log_e / e, k * by_beta, -a * alpha * power / total,
        ],
        axis=1,
    )  # fmt: skip
    return l0 + a * power - c2 * s2 + k * f, slopes


def _unused(*_: Any) -> Features:
    raise FittingError("bad_option", "A continual law reads two schedules: use fit_continual.")


C1 = Param("C1", "loss removed per unit of annealing in pre-training", (0.01, 1.0), bounded(0, 1e6))
C2 = Param("C2", "loss removed per unit of annealing since", (0.01, 1.0), bounded(0, 1e6))
K = Param("B_beta", "B beta, the speed of the shift", (-1.0, 1.0), bounded(-1e6, 1e6))
E = Param("E", "how early the shift comes", (1.0, 1e4), bounded(1e-2, 1e7, log=True))
BETA = Param("beta", "how soon the shift levels off", (0.05, 1.0), bounded(1e-3, 3.0))
BASE = (L0, A, ALPHA, C1, C2, K, E, BETA)
LATEX = (
    r"L = L_0 + A (S_1^{pt} + S_1^{cpt})^{-\alpha} - C_1 S_2^{pt} - C_2 S_2^{cpt}"
    r" + B\,(1 - (1 + E\, S_1^{cpt})^{-\beta})"
)
LINEAR = ("L0", "A", "C1", "C2", "B_beta")
STARTS = tuple(
    {"alpha": alpha, "E": e, "beta": beta}
    for alpha in (0.3, 0.6)
    for e in (5.0, 100.0, 3000.0)
    for beta in (0.05, 0.4)
)


def _law(name: str, title: str, equation: str, about: str, **more: Any) -> CurveLaw:
    source = f"Wang et al. 2025, arXiv 2505.07796, {equation}"
    return CurveLaw(
        name=name, title=title, latex=LATEX, source=source, about=about, features=_unused,
        **{"params": BASE, "linear": LINEAR, "starts": STARTS, "signed": ("B_beta",), **more},
    )  # fmt: skip


def _replay_law(name: str, replay: Replay, a2: Param, about: str) -> CurveLaw:
    return _law(
        name, "Continual pre-training with replay", "eq. 8", about,
        params=(
            *BASE,
            Param("a1", "how replay changes annealing", (-0.1, 0.1), bounded(-3, 3), Prior(0, 0.3)),
            a2,
        ),
        formula=_formula(replay, True, False),
        starts=tuple(
            {**row, "a1": 0.0, "a2": a} for row in STARTS[::2] for a in a2.starts
        ),
    )  # fmt: skip


LAW = _law(
    "continual", "Continual pre-training", "eq. 4",
    "The loss on one domain after the training data changed, under any schedules before and after.",
    formula=_formula(no_replay, False, False),
)  # fmt: skip
LAW_N = _law(
    "continual_n", "Continual pre-training, with model size", "eq. 7",
    "The same over several model sizes; needs at least three.",
    params=(
        *BASE,
        Param("g1", "growth of C1 with size", (0.0, 0.2), bounded(-1, 1), Prior(0, 0.3)),
        Param("g2", "growth of C2 with size", (0.0, 0.2), bounded(-1, 1), Prior(0, 0.3)),
        Param("F", "size of what parameters remove", (1.0, 100.0), bounded(0, 1e6)),
        Param("g3", "exponent of model size", (0.1, 0.4), bounded(0.01, 2.0)),
    ),
    formula=_formula(no_replay, False, True),
    linear=(*LINEAR, "F"),
    starts=tuple({**row, "g1": 0.05, "g2": 0.05, "g3": g} for row in STARTS for g in (0.15, 0.35)),
)  # fmt: skip
LAW_OPEN = _law(
    "continual_open", "Continual pre-training of open weights", "sec. 5",
    "Pre-training unknown: its summed rate is a free parameter, and it is taken to have ended at "
    "rate 0. Not identified; use it for predictions only.",
    params=(
        L0, A, ALPHA, C2, K, E, BETA,
        Param("X", "summed rate before, unknown", (0.1, 10.0), bounded(1e-6, 1e6, log=True)),
    ),
    formula=_open_formula,
    linear=("L0", "A", "C2", "B_beta"),
    starts=tuple({**row, "X": x} for row in STARTS for x in (0.3, 3.0)),
)  # fmt: skip
REPLAY: Mapping[str, CurveLaw] = {
    law.name: law
    for law in (
        _replay_law(
            "continual_replay_convex", convex,
            Param("a2", "curvature in the share of new data", (-5.0, 0.5, 5.0), bounded(-15, 15)),
            "With the shift scaled by (e^(a r) - 1) / (e^a - 1): ours; fits forgetting that falls "
            "faster than the share of new data.",
        ),
        _replay_law(
            "continual_replay_general", printed_general,
            Param("a2", "curvature in the share of new data", (0.5, 3.0), bounded(0.01, 20)),
            "As printed for the general loss: 1 - e^(-a r).",
        ),
        _replay_law(
            "continual_replay_domain", printed_domain,
            Param("a2", "curvature in the share of new data", (0.5, 3.0), bounded(0.01, 8)),
            "As printed for the domain loss: e^(a r) - 1.",
        ),
    )
}  # fmt: skip
CONTINUAL_LAWS: Mapping[str, CurveLaw] = {
    **{law.name: law for law in (LAW, LAW_N, LAW_OPEN)},
    **REPLAY,
}


@dataclass(frozen=True)
class Transfer:
    """A planned or finished continual run: what a prediction needs to know of it."""

    before: Schedule | None
    schedule: Schedule
    replay_ratio: float = 0.0
    size: float | None = None
