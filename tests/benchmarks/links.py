"""Do links between losses forecast, and do their intervals hold? At 20.7 times the compute.

    PYTHONPATH=. python tests/benchmarks/links.py [--draws 200] [--level 0.9] [--only joint]

Data: six training sets, 84 to 91 runs each to 4.84e19 FLOPs, and one real 3.3B run of each at 1e21
(Brandfonbrener et al. 2024). The source's true loss there is given. The large runs are used to
judge, never to fit or to calibrate.

Prints, side by side over the 30 ordered pairs: mean and largest error, coverage and median
half-width of (1) the pairs bootstrap with floors held fixed, (2) cells resampled and floors
refitted, (3) whole budgets resampled and floors refitted (the best so far), (4) each method as
shipped. Then sets of 7 or 8 runs forecast through five others, and simulated truths.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np

from fitting.loss_to_loss import METHODS, Link, fit_joint, fit_link, pair
from tests.fitting.loss_to_loss import sweep
from tests.fitting.loss_to_loss.truth import TRUE, loss, simulated

LARGE = (3309980160.0, 50352769083.264435)


def draws_only(link: Link, x: float, level: float) -> tuple[float, float, float]:
    """Value and the quantiles of the draws alone: no noise, no drift."""
    from fitting.loss_to_loss.formula import at

    values = at(link.draws, np.array([x]))[:, 0]
    tail = 0.5 * (1 - level)
    low, high = np.nanquantile(values, [tail, 1 - tail])
    return float(link.predict(x).value[0]), float(low), float(high)


def shipped(link: Link, x: float, level: float) -> tuple[float, float, float]:
    p = link.predict(x, flops=sweep.BIG_FLOPS, level=level)
    return float(p.value[0]), float(p.lower[0]), float(p.upper[0])


def judge(
    title: str,
    fit: Callable[[str, str], Link],
    read: Callable[[Link, float, float], tuple[float, float, float]],
    level: float,
) -> dict[str, float]:
    """Over the 30 ordered pairs: error and coverage in percent of the true loss."""
    started = time.process_time()
    big = sweep.big()
    error, inside, half = [], [], []
    for a in sweep.SETS:
        for b in sweep.SETS:
            if a != b:
                value, low, high = read(fit(a, b), big[a], level)
                error.append(100 * (value / big[b] - 1))
                inside.append(low <= big[b] <= high)
                half.append(100 * 0.5 * (high - low) / value)
    row = {
        "mean": float(np.abs(error).mean()),
        "max": float(np.abs(error).max()),
        "covered": int(np.sum(inside)),
        "coverage": float(np.mean(inside)),
        "half": float(np.median(half)),
        "widest": float(np.max(half)),
    }
    print(
        f"{title:52s} {level:4.0%} {row['mean']:6.2f} {row['max']:6.2f} "
        f"{row['covered']:3d}/30 {row['coverage']:6.2f} {row['half']:6.2f} {row['widest']:6.2f} "
        f"{time.process_time() - started:6.1f}",
        flush=True,
    )
    return row


def pairs_table(level: float, draws: int, only: str | None) -> None:
    runs = {name: sweep.losses(name) for name in sweep.SETS}
    golden = {(g["a"], g["b"]): g for g in sweep.golden()["train_to_train"]}

    def maker(method: str, **options: object) -> Callable[[str, str], Link]:
        def make(a: str, b: str) -> Link:
            pairs = pair(runs[a], runs[b], names=(a, b))
            return fit_link(pairs, method=method, draws=draws, **options)  # type: ignore[arg-type]

        return make

    def fixed(a: str, b: str) -> Link:
        g = golden[a, b]
        return maker("paper_ols", E0=g["E0"], E1=g["E1"])(a, b)

    print(
        f"{'30 pairs, source loss known':52s} {'nom.':>4s} {'err%':>6s} {'max%':>6s} {'in':>6s} "
        f"{'cover':>6s} {'half%':>6s} {'most':>6s} {'CPU s':>6s}"
    )
    if only is None:
        judge("plain pairs bootstrap, published floors fixed", fixed, draws_only, level)
        judge("plain pairs bootstrap, published floors fixed", fixed, draws_only, 0.95)
        cells = maker("paper_ols", floor_law="chinchilla")
        whole = maker("paper_ols", floor_law="chinchilla", resample="budget")
        judge("paper_ols, floors refitted, cells", cells, draws_only, 0.95)
        judge("paper_ols, floors refitted, budgets (best so far)", whole, draws_only, 0.95)
    for method in METHODS:
        if only in (None, method):
            judge(f"{method}, as shipped", maker(method), shipped, level)


def few_runs_table(level: float, draws: int) -> None:
    """Each set in turn with its 7 or 8 near-optimal runs, the other five whole and known."""
    full = {name: sweep.losses(name) for name in sweep.SETS}
    big = sweep.big()
    print(f"\n{'7 or 8 target runs, five other sets known':52s}  err%  max%  cover  half%  R2")
    for sd in (None, 0.05, 0.15):
        prior = {} if sd is None else {"kappa_prior": (1.0, sd)}
        error, inside, half, r2 = [], [], [], []
        for name in sweep.SETS:
            others = {n: r for n, r in full.items() if n != name}
            few = full[name].select(sweep.one_a_budget(name))
            joint = fit_joint({**others, name: few}, draws=draws, **prior)
            known = {n: big[n] for n in others}
            p = joint.predict(name, known, flops=sweep.BIG_FLOPS, level=level)
            error.append(100 * (p.value / big[name] - 1))
            inside.append(p.lower <= big[name] <= p.upper)
            half.append(50 * (p.upper - p.lower) / p.value)
            runs = full[name]
            z = joint.latent.z(runs.inputs["N"], runs.inputs["D"])
            off = runs.loss - joint.latent.losses(z)[:, -1]
            r2.append(1 - (off**2).sum() / ((runs.loss - runs.loss.mean()) ** 2).sum())
        label = "as shipped (sd .066)" if sd is None else f"sd {sd}"
        print(
            f"joint, kappa prior {label:33s} {np.abs(error).mean():5.2f} "
            f"{np.abs(error).max():5.2f} {np.mean(inside):6.2f} {np.median(half):6.2f} "
            f"{np.mean(r2):.4f}",
            flush=True,
        )


def simulated_table(level: float, draws: int, worlds: int = 30) -> None:
    """Links of known worlds at 20 times the compute: 49 pairs, then 7 target runs."""
    N, D = (np.array([v]) for v in LARGE)
    print(f"\n{'simulated truths, source loss known':52s}  err%  cover  half%")
    for shared in (0.0, 0.02):
        for few in (False, True):
            error, inside, half = [], [], []
            for seed in range(worlds):
                sets = simulated(noise=3e-3, shared=shared, seed=seed)
                target = sets["code"].select(np.arange(3, 49, 7)) if few else sets["code"]
                link = fit_link(pair(sets["web"], target), draws=draws, seed=seed)
                x, truth = loss("web", N, D), loss("code", N, D)[0]
                p = link.predict(x, flops=6 * LARGE[0] * LARGE[1], level=level)
                error.append(100 * abs(p.value[0] / truth - 1))
                inside.append(p.lower[0] <= truth <= p.upper[0])
                half.append(50 * (p.upper[0] - p.lower[0]) / p.value[0])
            label = f"{'7' if few else '49'} target runs, shared luck {shared:.0%}, noise .3 %"
            print(
                f"{label} (kappa {TRUE['code']['kappa']})".ljust(52)
                + f" {np.mean(error):5.2f} {np.mean(inside):6.2f} {np.median(half):6.2f}",
                flush=True,
            )


def main() -> None:
    p = argparse.ArgumentParser()
    p.add_argument("--level", type=float, default=0.9)
    p.add_argument("--draws", type=int, default=200)
    p.add_argument("--only", choices=METHODS)
    a = p.parse_args()
    started = time.process_time()
    pairs_table(a.level, a.draws, a.only)
    if a.only in (None, "joint"):
        few_runs_table(a.level, min(a.draws, 100))
        simulated_table(a.level, min(a.draws, 60))
    print(f"\n{time.process_time() - started:.1f} CPU s")


if __name__ == "__main__":
    main()
