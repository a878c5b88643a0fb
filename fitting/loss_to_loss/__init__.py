"""Loss-to-loss: one loss from another, a law from one data set to the next.

from fitting.loss_to_loss import fit_link, pair
link = fit_link(pair(source, target))          # Runs of N, D and loss, at shared N and D
link.predict(2.31)                             # the target's loss where the source's was 2.31
"""

from fitting.loss_to_loss.fit_link import fit_link
from fitting.loss_to_loss.formula import linked_loss
from fitting.loss_to_loss.kinds import KINDS, METHODS
from fitting.loss_to_loss.link import Link, LinkPrediction
from fitting.loss_to_loss.many import Joint, JointPrediction, fit_joint, transitivity
from fitting.loss_to_loss.pairs import Pairs, pair
from fitting.loss_to_loss.plan import RunPlan, plan_runs
from fitting.loss_to_loss.translate import Translated, translate
from fitting.loss_to_loss.variance import VarianceSplit

__all__ = [
    "KINDS",
    "METHODS",
    "Joint",
    "JointPrediction",
    "Link",
    "LinkPrediction",
    "Pairs",
    "RunPlan",
    "Translated",
    "VarianceSplit",
    "fit_joint",
    "fit_link",
    "linked_loss",
    "pair",
    "plan_runs",
    "transitivity",
    "translate",
]
