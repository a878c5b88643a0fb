"""Simulated truths: the ways in which real runs are known to depart from the law that is fitted.

The constants of the interval's calibration (fitting/intervals.py) are chosen here and nowhere else
(`calibrate.py`), and `coverage.py` shows how the intervals do on other seeds. A family is a form of
the truth, with clean runs or with faults in the recipe: real sweeps have several faults at once, so
each is there with probability 1/2. Every task draws its own truth, design, noise and distance.
Sizes of departures come from the sources named beside them, or are guesses and say so.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from fitting import Runs, get_law
from fitting.plrf import student
from tests.benchmarks.fit_tasks import Task

Rng = np.random.Generator
Loss = Callable[[np.ndarray, np.ndarray], np.ndarray]
Fault = Callable[[Rng, Loss], Loss]

# E, a, b, alpha, beta of `Base`. Besiroglu et al. have 1.82, .36, .33, .35, .37; published
# exponents lie in .25 to .45, and code has a floor below 1 (Brandfonbrener et al. 2024).
RANGES = ((0.8, 2.1), (0.2, 0.5), (0.2, 0.5), (0.25, 0.45), (0.25, 0.45))


@dataclass(frozen=True)
class Base:
    """L = E + a (N / 1e9)^-alpha + b (D / 2e10)^-beta, about published language models."""

    E: float
    a: float
    b: float
    alpha: float
    beta: float

    @classmethod
    def drawn(cls, rng: Rng) -> "Base":
        return cls(*(float(rng.uniform(*r)) for r in RANGES))

    def size(self, N: np.ndarray) -> np.ndarray:
        return self.a * (N / 1e9) ** -self.alpha

    def data(self, D: np.ndarray) -> np.ndarray:
        return self.b * (D / 2e10) ** -self.beta

    def __call__(self, N: np.ndarray, D: np.ndarray) -> np.ndarray:
        return self.E + self.size(N) + self.data(D)


def exact(rng: Rng, most_tokens: float) -> Loss:
    """The law that is fitted."""
    return Base.drawn(rng)


def coupled(rng: Rng, most_tokens: float) -> Loss:
    """The shortages overlap: an outer exponent k in .3 to 1 (Skaling publishes .31 to .90)."""
    t, k = Base.drawn(rng), rng.uniform(0.3, 1.0)
    return lambda N, D: t.E + (t.size(N) ** (1 / k) + t.data(D) ** (1 / k)) ** k


def broken(rng: Rng, most_tokens: float) -> Loss:
    """Each term bends once, smoothly, at a scale in or beyond the data (Caballero et al. 2023): its
    exponent changes by up to 30% (a guess)."""
    t = Base.drawn(rng)
    at_n, at_d = 10 ** rng.uniform(7.5, 10.0), 10 ** rng.uniform(9.0, 11.5)
    dn, dd = rng.uniform(-0.3, 0.3, 2) * np.array([t.alpha, t.beta])
    return lambda N, D: (
        t.E
        + t.size(N) * (1 + (N / at_n) ** 2.0) ** (-dn / 2)
        + t.data(D) * (1 + (D / at_d) ** 2.0) ** (-dd / 2)
    )


def repeated(rng: Rng, most_tokens: float) -> Loss:
    """The largest run sees its corpus 1 to 8 times, and the fit does not know: repeats count for
    less (Muennighoff et al. 2023, R_D 15.4, R_N 5.3)."""
    t, unique = Base.drawn(rng), most_tokens / 2 ** rng.uniform(0.0, 3.0)
    law = get_law("data_constrained")
    known = {"R_D": 15.387756, "R_N": 5.309743, "E": t.E, "alpha": t.alpha, "beta": t.beta}
    known |= {"A": t.a * 1e9**t.alpha, "B": t.b * 2e10**t.beta}
    return lambda N, D: law.loss({"N": N, "D": D, "U": np.full(N.size, unique)}, known)


def short_runs(rng: Rng, loss: Loss) -> Loss:
    """A warm-up of fixed length wastes its tokens, which a short run feels. Porian et al. 2024
    found one of 1.6e9 tokens in Kaplan et al.'s recipe; here .03 to 1 times that (a guess)."""
    lost = 10 ** rng.uniform(-1.5, 0.0) * 1.6e9
    return lambda N, D: loss(N, D * D / (lost + D))


def counted(rng: Rng, loss: Loss) -> Loss:
    """N is counted without embeddings, the truth is in all parameters: N + 47491 N^(1/3)
    (Pearce & Song 2024, arXiv 2406.12907), for a vocabulary from half to twice theirs."""
    omega = 47491.0 * 2 ** rng.uniform(-1, 1)
    return lambda N, D: loss(N + omega * N ** (1 / 3), D)


def untuned(rng: Rng, loss: Loss) -> Loss:
    """One learning rate for all sizes, best at one of them: the loss rises with the square of the
    distance, by .1 to .5% for a factor of 3 in the best rate, which goes as N^-.3 (guesses)."""
    at, cost = 10 ** rng.uniform(7.5, 9.5), rng.uniform(0.001, 0.005)
    return lambda N, D: loss(N, D) * (1 + cost * (0.3 * np.log(N / at) / np.log(3.0)) ** 2)


def uncooled(rng: Rng, loss: Loss) -> Loss:
    """Read before the cool-down, .5 to 3% too high (OLMo 7B: 1.3%), by a share that falls slowly
    with the tokens (a guess)."""
    extra, slope = rng.uniform(0.005, 0.03), rng.uniform(0.0, 0.15)
    return lambda N, D: loss(N, D) * (1 + extra * (D / 2e10) ** -slope)


FORMS = {"exact": exact, "coupled": coupled, "broken": broken, "repeated": repeated}
FAULTS: tuple[Fault, ...] = (short_runs, counted, untuned, uncooled)
# Besides, the large runs may come from another recipe than the small ones (other batch size, code,
# hardware): all shifted together, by this standard deviation of log loss (a guess).
SHIFT = 0.01
# How many times worse than all that the faulty runs are: as bad as makes the rolling origins of
# simulated training sets see the drift that those of the real training sets see (decision 0044).
SEVERITY = 2.5
# A model that knows nothing loses ln V a token, here of GPT-2's 50,257: no run does worse for long,
# however few of its steps were worth anything. Bends within the last two nats (a guess).
UNTRAINED, BEND = float(np.log(50257)), 8.0


# About as many points as real sets have (Gadre et al. 31, Kempner 90, Besiroglu et al. 177,
# Gemstones 560): by turns, so that every size is there as often.
SIZES = (30, 90, 180, 500)


def simulated(
    repeats: int,
    first: int = 0,
    severity: float = SEVERITY,
    sizes: Sequence[int] = (),
    only: str = "",
) -> Iterator[Task]:
    """`repeats` tasks of each family, by seeds from `first` on; the same seed, the same task.

    sizes: about how many points, in turn by the seed; else 16 to 80, as it comes. only: families
    with this in their name.
    """
    for number, form in enumerate(FORMS):
        for faulty in (False, True):
            if only not in family(form, faulty):
                continue
            for seed in range(first, first + repeats):
                rng = np.random.default_rng([seed, number, faulty, 29])
                points = sizes[seed % len(sizes)] if sizes else None
                yield _one(form, severity if faulty else 0.0, rng, seed, points)
    for seed in range(first, first + repeats) if only in FEATURES else ():
        yield _solvable(np.random.default_rng([seed, 31]), seed)


def family(form: str, faulty: bool) -> str:
    return f"{form}, {'faulty' if faulty else 'clean'} runs"


FEATURES = "random features"


def _design(rng: Rng, points: int | None) -> tuple[np.ndarray, np.ndarray]:
    """N, D: isoFLOP budgets, or sizes that go through several token counts. 16 to 80 points, or
    about as many as asked, over 1.5 to 3.5 decades of compute, from 1e16 to 1e19 FLOPs on."""
    sizes, budgets = int(rng.integers(4, 11)), int(rng.integers(4, 9))
    if points is not None:
        budgets = max(3, round(points**0.5 * rng.uniform(0.6, 1.2)))
        sizes = round(points / budgets)
    start, decades = 10 ** rng.uniform(16, 19), rng.uniform(1.5, 3.5)
    if rng.random() < 0.5:
        ratio = np.exp(np.linspace(-1, 1, sizes) * np.log(rng.uniform(2.0, 6.0)))
        C = np.repeat(start * 10 ** np.linspace(0, decades, budgets), sizes)
        N = np.sqrt(C / 120) * np.tile(ratio, budgets)
        N = N * np.exp(0.05 * rng.standard_normal(N.size))
        return N, C / 6 / N
    N = np.repeat(np.sqrt(start / 120) * 10 ** (0.5 * np.linspace(0, decades, sizes)), budgets)
    return N, N * np.tile(20 * np.geomspace(0.5, rng.uniform(4.0, 16.0), budgets), sizes)


def _one(form: str, severity: float, rng: Rng, seed: int, points: int | None) -> Task:
    """Noise of single runs .1 to .5% (seeds of one recipe differ by .001 to .012 of a loss of
    about 2.7: Gadre et al.); the new runs lie 2 to 100 times beyond in compute, at .5, 1 and 2
    times the usual size for it."""
    N, D = _design(rng, points)
    noise = 10 ** rng.uniform(-3.0, -2.3)
    C = 6 * float((N * D).max()) * 10 ** rng.uniform(0.3, 2.0)
    n = np.sqrt(C / 120) * np.array([0.5, 1.0, 2.0])
    d = C / 6 / n
    clean = loss = FORMS[form](rng, float(d.max()))
    shift = 0.0
    if severity:
        for fault in FAULTS:
            if rng.random() < 0.5:
                loss = fault(rng, loss)
        if rng.random() < 0.5:
            shift = severity * SHIFT * float(rng.standard_normal())
        noise *= severity
        loss = _worse(clean, loss, severity)
    y = loss(N, D) * np.exp(noise * rng.standard_normal(N.size))
    z = loss(n, d) * np.exp(shift + noise * rng.standard_normal(n.size))
    name = family(form, severity > 0)
    return Task(f"{name} {seed}", name, Runs({"N": N, "D": D}, y), {"N": n, "D": d}, z)


def _worse(clean: Loss, faulty: Loss, severity: float) -> Loss:
    """The faults' log loss, `severity` times, and no worse than a model that knows nothing."""

    def loss(N: np.ndarray, D: np.ndarray) -> np.ndarray:
        worse = clean(N, D) * (faulty(N, D) / clean(N, D)) ** severity
        return (worse**-BEND + UNTRAINED**-BEND) ** (-1 / BEND)

    return loss


def _solvable(rng: Rng, seed: int) -> Task:
    """Power-law random features (Paquette et al. 2024): exact losses of a model that learns, which
    at these sizes are not yet power laws. A noise of the target's own, of .5 to 2 times the median
    loss, is the floor that its losses would otherwise lack."""
    a, b = rng.uniform(0.6, 1.3), rng.uniform(0.2, 1.0)
    noise = 10 ** rng.uniform(-3.0, -2.3)
    rows = []
    for d in (8, 12, 18, 27, 40, 60, 120):
        samples = d * (np.geomspace(8.0, 160.0, 6) if d < 120 else np.array([40.0, 80.0, 160.0]))
        losses = student(a, b, d, v=1024, seed=seed).loss(samples)
        rows += [(float(d), s, x) for s, x in zip(samples, losses, strict=True)]
    N, D, y = np.array(rows).T
    y = (y + rng.uniform(0.5, 2.0) * np.median(y)) * np.exp(noise * rng.standard_normal(y.size))
    small = N < 120
    train = Runs({"N": N[small], "D": D[small]}, y[small])
    inputs = {"N": N[~small], "D": D[~small]}
    return Task(f"{FEATURES} {seed}", FEATURES, train, inputs, y[~small])
