"""How many predictions with 90% intervals a second, against what memory could carry.

    PYTHONPATH=. python -m tests.benchmarks.predict [--points 1000000]

One prediction reads two inputs and writes value, lower and upper: 40 bytes, so that memory alone
would allow bandwidth / 40 of them. Bandwidth is that of a copy between arrays of 256 MB (STREAM's
"copy": bytes read plus bytes written), in the same run. CPU seconds, one thread, best of three.
"""

import argparse
import time

import numpy as np

from fitting import LAWS, fit
from fitting.predict import draw_quantiles
from fitting.simulate import simulate_runs

BYTES = 40


def seconds(do, repeats: int = 3) -> float:
    best = np.inf
    for _ in range(repeats):
        started = time.process_time()
        do()
        best = min(best, time.process_time() - started)
    return best


def main() -> None:
    p = argparse.ArgumentParser()
    p.add_argument("--points", type=int, default=1_000_000)
    a = p.parse_args()
    source = np.ones(32_000_000)
    target = np.zeros_like(source)
    copy = 2 * source.nbytes / seconds(lambda: np.copyto(target, source))
    limit = copy / BYTES
    print(
        f"memory: copy {copy / 1e9:.1f} GB/s: at most {limit / 1e6:.0f}M predictions a CPU second"
    )
    rng = np.random.default_rng(3)
    at = {"N": 10 ** rng.uniform(7, 12, a.points), "D": 10 ** rng.uniform(9, 13, a.points)}
    some = {name: v[:2_000] for name, v in at.items()}
    for name in ("chinchilla", "kaplan_floor"):
        law = LAWS[name]
        runs = simulate_runs(law, law.published.params, points=120, noise=4e-3, seed=1)
        f = fit(law, runs, draws=1000)
        whole = f.predict(at)
        spent = seconds(lambda f=f: f.predict(at))
        value = np.asarray(law.evaluate(some, f.values))
        slow = seconds(lambda f=f, v=value: draw_quantiles(f, some, v, 0.9), 1) / 2_000
        exact = f.predict(some)  # few points are computed exactly
        width = np.log(exact.upper / exact.lower)
        off = max(
            float((np.abs(np.log(getattr(exact, end) / getattr(whole, end)[:2_000])) / width).max())
            for end in ("lower", "upper")
        )
        rate = a.points / spent
        print(
            f"{name}: {a.points:,} points with 90% intervals of 1,000 draws, {spent:.2f} CPU s: "
            f"{rate / 1e6:.2f}M/s = {rate / limit:.1%} of memory's limit, {rate * slow:.0f} times "
            f"the draws one by one; ends off by at most {off:.2%} of the width"
        )


if __name__ == "__main__":
    main()
