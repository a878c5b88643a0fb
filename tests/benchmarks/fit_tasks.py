"""Held-out tasks: smaller real runs to fit, larger ones to predict.

Read by `coverage.py` and `fit_vs_peers.py`. Nothing in the library is tuned to these.
"""

import csv
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fitting import Runs

ROOT = Path(os.environ.get("SCALING_DATA", Path(__file__).parents[2].parent / "shared" / "data"))


@dataclass(frozen=True)
class Task:
    """family: tasks of one family share a recipe (and so its shifts) and weigh one together."""

    name: str
    family: str
    train: Runs
    inputs: dict[str, np.ndarray]
    loss: np.ndarray

    @property
    def compute_ratio(self) -> float:
        """Geometric mean compute of the held-out runs over the largest that was fitted."""
        c = 6 * self.inputs["N"] * self.inputs["D"]
        return float(np.exp(np.log(c).mean()) / self.train.compute().max())


def table(name: str) -> list[dict[str, str]]:
    with (ROOT / name).open(newline="") as file:
        return list(csv.DictReader(file))


def column(rows: list[dict[str, str]], name: str) -> np.ndarray:
    return np.array([float(row[name]) for row in rows])


def _task(name, family, rows, train, test, loss, run=None, n="N", d="D") -> Task:
    N, D = column(rows, n), column(rows, d)
    labels = None if run is None else np.array([row[run] for row in rows])[train]
    runs = Runs({"N": N[train], "D": D[train]}, loss[train], labels)
    return Task(name, family, runs, {"N": N[test], "D": D[test]}, loss[test])


def epoch() -> Iterator[Task]:
    rows = [r for r in table("parametric/epoch_chinchilla.csv") if r["epoch_used"] == "True"]
    C = 6 * column(rows, "N") * column(rows, "D")
    loss = column(rows, "loss")
    yield _task("epoch C<1e20 -> >=3e20", "epoch 1e20", rows, C < 1e20, C >= 3e20, loss)
    yield _task("epoch C<3e20 -> >=1e21", "epoch 3e20", rows, C < 3e20, C >= 1e21, loss)


OWN_LOSS = {
    "fineweb-100b": "eval/fineweb_100b_val/CrossEntropyLoss",
    "fineweb-edu-100b": "eval/fineweb_edu_100b_val/CrossEntropyLoss",
    "proof-pile-2": "eval/proof_pile_2_val/CrossEntropyLoss",
    "slimpajama-chunk1": "eval/slimpajama_val/CrossEntropyLoss",
    "smollm-corpus": "eval/smollm_val/CrossEntropyLoss",
    "starcoder": "eval/starcoder_val/CrossEntropyLoss",
}


def kempner() -> Iterator[Task]:
    small, large = table("loss_to_loss/l2l_sweep.csv"), table("loss_to_loss/l2l_extrapolation.csv")
    for data, name in OWN_LOSS.items():
        rows = [r for r in small if r["data"] == data and r[name]]
        rows += [r for r in large if r["data"] == data]
        N = column(rows, "params")
        yield _task(
            f"kempner {data}", "kempner", rows, N < 3e9, N >= 3e9, column(rows, name),
            n="params", d="tokens",
        )  # fmt: skip


def gadre() -> Iterator[Task]:
    for data in ("c4_original", "rpj", "rw_original"):
        rows = [r for r in table("parametric/gadre_overtraining.csv") if r["train_set"] == data]
        N = column(rows, "N")
        yield _task(f"gadre {data}", f"gadre {data}", rows, N < 1e9, N >= 1e9, column(rows, "loss"))


def gemstones() -> Iterator[Task]:
    rows = table("parametric/gemstones_hot_100bplus.csv")
    N = column(rows, "N")
    loss = column(rows, "loss")
    yield _task("gemstones N<.8B -> >1.5B", "gemstones", rows, N < 8e8, N > 1.5e9, loss, "run_name")


def porian() -> Iterator[Task]:
    rows = table("parametric/porian_isoflop_points.csv")
    keys = ("file", "dataset", "hparams", "warmup", "decay", "param_count", "val")
    for key in sorted({tuple(r[k] for k in keys) for r in rows}):
        own = [r for r in rows if tuple(r[k] for k in keys) == key]
        compute = column(own, "C")
        small, large = compute < compute.max() / 7, compute > compute.max() / 3
        name = f"porian {key[1]} {key[2]} {key[3]} {key[4]} {key[5]}"
        yield _task(name, f"porian {key[1]}", own, small, large, column(own, "loss"))


def real() -> list[Task]:
    return [*epoch(), *kempner(), *gadre(), *gemstones(), *porian()]
