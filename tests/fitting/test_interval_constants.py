"""The constants of the interval are chosen by a benchmark that judges many settings at once: it
must judge the intervals that predictions really carry."""

import numpy as np

from fitting import fit, get_law
from tests.benchmarks.calibrate import USED, Table, look
from tests.benchmarks.truths import SIZES, simulated


def test_the_benchmark_judges_the_intervals_that_predictions_carry() -> None:
    tasks = list(simulated(1, 7, sizes=SIZES[:1], only="faulty"))[:3]
    found = Table([look(task) for task in tasks]).judged(USED)
    for place, task in enumerate(tasks):
        p = fit(get_law("chinchilla"), task.train, draws=200).predict(task.inputs)
        y = task.loss
        miss = np.maximum(np.log(p.lower / y), 0) + np.maximum(np.log(y / p.upper), 0)
        width = np.log(p.upper / p.lower)
        covered, half, score = (of[place] for of in found[0.9])
        np.testing.assert_allclose(half, width.mean() / 2, rtol=1e-9)
        np.testing.assert_allclose(score, (width + 20 * miss).mean(), rtol=1e-9)
        assert covered == (miss == 0).mean()
