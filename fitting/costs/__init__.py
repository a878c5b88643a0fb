"""What a run costs: shape -> parameters, FLOPs, elements moved, seconds; hours and money -> FLOPs.

shape       Shape (what is built) and Setup (how a step is run)
parameters  N in every convention          flops     FLOPs a token in every convention
ops         FLOPs and copies, op by op     hardware  peaks printed in data sheets
steptime    measured steps -> StepTime     roofline  what bounds a step, by the data sheet
money       hours and dollars -> FLOPs
"""

from fitting.costs.flops import FLOPS_CONVENTIONS, flops_per_token
from fitting.costs.hardware import GPUS, Gpu, get_gpu
from fitting.costs.money import budget_flops
from fitting.costs.ops import StepCounts, count_step, forward_ops
from fitting.costs.parameters import parameter_counts
from fitting.costs.roofline import Roofline, prior_step_time, roofline
from fitting.costs.shape import MLP_MATRICES, Setup, Shape
from fitting.costs.steptime import FEATURES, Measurement, StepPrediction, StepTime, fit_step_time

__all__ = [
    "FEATURES",
    "FLOPS_CONVENTIONS",
    "GPUS",
    "MLP_MATRICES",
    "Gpu",
    "Measurement",
    "Roofline",
    "Setup",
    "Shape",
    "StepCounts",
    "StepPrediction",
    "StepTime",
    "budget_flops",
    "count_step",
    "fit_step_time",
    "flops_per_token",
    "forward_ops",
    "get_gpu",
    "parameter_counts",
    "prior_step_time",
    "roofline",
]
