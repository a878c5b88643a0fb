"""The curve laws by name, and the ensemble of three of them."""

from fitting.curves import annealing, functional, multi_power
from fitting.curves.law import CurveLaw
from fitting.errors import FittingError

CURVE_LAWS: dict[str, CurveLaw] = {
    law.name: law for law in (annealing.LAW, multi_power.LAW, functional.LAW, annealing.LAW_N)
}
# The mean of these three predicts levels better than any of them; for ranking take the last two.
ENSEMBLE = "annealing_ensemble"
MEMBERS = ("annealing", "multi_power", "functional")
RANKERS = ("multi_power", "functional")
NAMES = (ENSEMBLE, *CURVE_LAWS)


def get_curve_law(name: str) -> CurveLaw:
    """The law of that name; FittingError("unknown_law") with the names that there are."""
    if name not in CURVE_LAWS:
        raise FittingError(
            "unknown_law", f"There is no curve law {name!r}.", f"There are {', '.join(NAMES)}."
        )
    return CURVE_LAWS[name]
