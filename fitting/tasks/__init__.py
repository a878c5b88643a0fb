"""Task accuracy from loss. The steps are loss -> task loss -> accuracy: a train-to-test link, then
a curve; each forecast goes into the next with its interval.

task_loss = fit_link(pair(loss_runs, task_loss_runs), "train_to_test")
accuracy = fit_task(losses, accuracies, "sigmoid", chance=0.25)
accuracy.predict(task_loss.predict(2.31))
"""

from fitting.tasks.curves import CURVES, TaskCurve, get_curve
from fitting.tasks.fit_task import fit_task
from fitting.tasks.task import TaskFit, TaskPrediction

__all__ = ["CURVES", "TaskCurve", "TaskFit", "TaskPrediction", "fit_task", "get_curve"]
