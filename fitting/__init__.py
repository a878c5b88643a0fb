"""Scaling laws fitted to runs: pure numpy, arrays in, arrays out.

from fitting import Runs, fit, get_law
runs = Runs({"N": N, "D": D}, loss)
f = fit(get_law("chinchilla"), runs)
f.predict({"N": 70e9, "D": 1.4e12})
"""

from fitting.allocate import Allocation, AllocationProblem, allocate
from fitting.errors import FittingError
from fitting.fit import Fit, fit
from fitting.law import Input, Law, Param, PowerSum, Prior, Published
from fitting.laws import LAWS, get_law
from fitting.links import IDENTITY, LOG, bounded
from fitting.objective import Objective
from fitting.predict import Prediction
from fitting.runs import Runs

__all__ = [
    "IDENTITY",
    "LAWS",
    "LOG",
    "Allocation",
    "AllocationProblem",
    "Fit",
    "FittingError",
    "Input",
    "Law",
    "Objective",
    "Param",
    "PowerSum",
    "Prediction",
    "Prior",
    "Published",
    "Runs",
    "allocate",
    "bounded",
    "fit",
    "get_law",
]
