"""What every method is: an answer, and the same answer under other weights of the cells."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from fitting.diagnose import Warned
from fitting.errors import FittingError
from fitting.links import Floats
from fitting.loss_to_loss.floors import Floor, floor_of
from fitting.loss_to_loss.kinds import KappaPrior

if TYPE_CHECKING:
    from fitting.loss_to_loss.pairs import Pairs


@dataclass(frozen=True)
class Options:
    """E0, E1: floors that the user fixes. floor_law: the (N, D) law that gives the others.
    kappa_prior: for the joint method. noise_ratio: standard deviation of
    the target's noise over the source's, both relative to the loss (odr)."""

    E0: float | None = None
    E1: float | None = None
    floor_law: str | None = None
    kappa_prior: KappaPrior | None = None
    noise_ratio: float = 1.0

    def __post_init__(self) -> None:
        for name, given in (("E0", self.E0), ("E1", self.E1)):
            if given is not None and not (np.isfinite(given) and given >= 0):
                raise FittingError("bad_option", f"{name} is {given}.", "Give a loss, 0 or more.")


class Estimator(Protocol):
    """A method prepared on some pairs.

    best [4]: in the order of `formula.PARAMS`. floors: how each E was had, in words.
    dropped: paired cells whose loss lies at or below a floor, with the words for it.
    """

    best: Floats
    floors: dict[str, str]
    certificate: dict[str, float]
    warnings: list[Warned]

    def resampled(self, weights: Floats) -> Floats:
        """Parameters [lanes, 4] for weights [lanes, cells]; NaN where a lane has no answer."""
        ...


@dataclass
class Answer:
    """What the least-squares methods hold; each adds `resampled`."""

    best: Floats
    floors: dict[str, str]
    certificate: dict[str, float]
    warnings: list[Warned] = field(default_factory=list)


@dataclass(frozen=True)
class Shift:
    """One E: a number that stays, or a floor that is fitted again under new weights."""

    value: float
    floor: Floor | None
    how: str

    def resampled(self, weights: Floats) -> Floats:
        if self.floor is None:
            return np.full(len(weights), self.value)
        return self.floor.resampled(weights)


def shift_of(
    pairs: "Pairs", place: int, given: float | None, law: str
) -> tuple[Shift, list[Warned]]:
    """E of set `place`: as given, else from its own law; with a warning if that is at a bound."""
    if given is not None:
        return Shift(float(given), None, "given"), []
    floor = floor_of(pairs, place, law)
    warned = []
    if floor.at_bound:
        warned.append(at_bound(f"E{place}", floor.value, floor.at_bound))
    return Shift(floor.value, floor, f"fitted by {law}"), warned


def at_bound(name: str, value: float, bound: str) -> Warned:
    return Warned(
        "floor_at_bound",
        f"{name} = {value:.4g} ran to its bound ({bound}): these runs do not say where the loss "
        "ends, and every forecast rests on it. Add larger or more varied runs, or fix it.",
    )


def above_floors(pairs: "Pairs", E0: float, E1: float) -> tuple[NDArray[np.bool_], list[Warned]]:
    """The paired cells whose losses lie above both floors, and what was left out, aloud."""
    paired = pairs.paired
    with np.errstate(invalid="ignore"):
        above = paired & (pairs.x > E0) & (pairs.y > E1)
    lost = int(paired.sum() - above.sum())
    if int(above.sum()) < 3:
        raise FittingError(
            "too_few_points",
            f"{lost} of {int(paired.sum())} pairs lie at or below a floor (E0 = {E0:.4g}, "
            f"E1 = {E1:.4g}); {int(above.sum())} are left, and a link needs at least 3.",
            "Fix a lower E0 or E1, or use the joint method, whose floors stay below every loss.",
            pairs=int(above.sum()),
        )
    if not lost:
        return above, []
    return above, [
        Warned(
            "below_floor",
            f"{lost} of {int(paired.sum())} pairs lie at or below a floor (E0 = {E0:.4g}, "
            f"E1 = {E1:.4g}) and are left out, not clipped: the floor is too high for them.",
        )
    ]
