"""The ways to fit a link: each module has `prepare(pairs, options) -> Estimator`."""

from collections.abc import Callable

from fitting.loss_to_loss.methods import free_floor, joint, odr, paper_ols
from fitting.loss_to_loss.methods.estimator import Estimator, Options
from fitting.loss_to_loss.pairs import Pairs

PREPARE: dict[str, Callable[[Pairs, Options], Estimator]] = {
    "joint": joint.prepare,
    "paper_ols": paper_ols.prepare,
    "free_E1": free_floor.prepare,
    "odr": odr.prepare,
}

__all__ = ["PREPARE", "Estimator", "Options"]
