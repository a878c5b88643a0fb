"""Laws of the whole loss curve: what a run's loss will be at any step, under any schedule.

from fitting.curves import Curve, Schedule, fit_curves
found = fit_curves("annealing_ensemble", [Curve.of("a", step, loss, schedule), ...])
found.predict(Schedule.wsd(50_000, 1e-3, warmup_steps=300, cooldown_steps=10_000))
"""

from fitting.curves.continual import ContinualCurve, Transfer
from fitting.curves.continual_fit import ContinualFit, fit_continual
from fitting.curves.continual_plan import forgetting, plan_continual
from fitting.curves.curve import Curve
from fitting.curves.fit import CurveFit, choose_law, fit_curves
from fitting.curves.law import CurveLaw
from fitting.curves.predict import CurvePrediction
from fitting.curves.rank import optimise_schedule, rank_schedules
from fitting.curves.registry import CURVE_LAWS, ENSEMBLE, get_curve_law
from fitting.curves.schedule import Schedule, as_schedule

__all__ = [
    "CURVE_LAWS",
    "ENSEMBLE",
    "ContinualCurve",
    "ContinualFit",
    "Curve",
    "CurveFit",
    "CurveLaw",
    "CurvePrediction",
    "Schedule",
    "Transfer",
    "as_schedule",
    "choose_law",
    "fit_continual",
    "fit_curves",
    "forgetting",
    "get_curve_law",
    "optimise_schedule",
    "plan_continual",
    "rank_schedules",
]
