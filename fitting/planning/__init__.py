"""How to spend time and money: the shape, tokens, GPUs and batch of least loss.

budget      what may be spent         problem     what is asked and what must hold
candidates  the plans compared        shapes      the answer
recipe      published settings        config      the run that it describes, for the trainer
serial      Kaplan's L(N, S): what a deadline allows at each batch size

`fitting.allocate` spends FLOPs on N and D where neither shape nor clock matters.
"""

from fitting.planning.budget import Budget
from fitting.planning.candidates import Candidates
from fitting.planning.config import run_config
from fitting.planning.problem import Inference, ShapeProblem
from fitting.planning.recipe import deepseek, published_settings, step_law
from fitting.planning.serial import SerialRow, serial_view
from fitting.planning.shapes import ShapeAllocation, allocate_shape, landscape

__all__ = [
    "Budget",
    "Candidates",
    "Inference",
    "SerialRow",
    "ShapeAllocation",
    "ShapeProblem",
    "allocate_shape",
    "deepseek",
    "landscape",
    "published_settings",
    "run_config",
    "serial_view",
    "step_law",
]
