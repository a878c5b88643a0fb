"""Runs of two corpora that share one latent scale, so that every link between them is known.

L_i = E_i + K_i z^kappa_i with z = A / N^alpha + B / D^beta (Besiroglu et al.'s refit of Chinchilla,
less its floor), on an IsoFLOP grid; what is common to the sets of a cell is noise of .3%, what is a
set's own .1%. A run on one corpus is evaluated on both, as the trainer does.
"""

from dataclasses import dataclass

import numpy as np
from sqlalchemy import Connection

from app.services import projects
from app.storage import evaluations, runs
from app.storage.recording import EvaluationLine
from app.storage.runs import NewRun

BUDGETS = (1e18, 4e18, 1.6e19, 6.4e19)
Z = {"A": 482.01, "B": 2085.43, "alpha": 0.3478, "beta": 0.3658}
# (trained on, evaluated on): (E, K, kappa)
SETS = {
    ("code", "code"): (1.2, 0.8, 1.05),
    ("code", "english"): (2.6, 1.5, 0.9),
    ("english", "english"): (1.8, 1.0, 1.0),
    ("english", "code"): (1.9, 1.1, 0.95),
}
TOKENS_PER_BYTE = {"code": 0.35, "english": 0.22}


@dataclass(frozen=True)
class Linked:
    """What was stored: the runs of each corpus, in the order of the cells."""

    project: str
    N: np.ndarray
    D: np.ndarray
    run_ids: dict[str, list[int]]


def cells() -> tuple[np.ndarray, np.ndarray]:
    N = np.concatenate([np.geomspace(1e8, 6e8, 4) * s for s in (1.0, 1.8, 3.2, 5.7)])
    return N, np.repeat(BUDGETS, 4) / 6.0 / N


def latent(N: np.ndarray | float, D: np.ndarray | float) -> np.ndarray:
    return np.asarray(Z["A"] * N ** -Z["alpha"] + Z["B"] * D ** -Z["beta"])


def true_link(source: tuple[str, str], target: tuple[str, str]) -> dict[str, float]:
    """kappa, K, E0, E1 of the link between two sets: y = E1 + K1 ((x - E0) / K0)^(k1 / k0)."""
    (E0, K0, k0), (E1, K1, k1) = SETS[source], SETS[target]
    return {"kappa": k1 / k0, "K": K1 * K0 ** (-k1 / k0), "E0": E0, "E1": E1}


def loss_of(which: tuple[str, str], z: np.ndarray) -> np.ndarray:
    E, K, kappa = SETS[which]
    return np.asarray(E + K * z**kappa)


def project_of_two_corpora(connection: Connection, name: str, seed: int = 0) -> Linked:
    rng = np.random.default_rng(seed)
    N, D = cells()
    common = 0.003 * rng.standard_normal(N.size)
    into = projects.create(connection, name)
    made: dict[str, list[int]] = {}
    for corpus in ("code", "english"):
        ids = runs.create_many(
            connection,
            [
                NewRun(
                    project_id=into.id,
                    name=f"{corpus} {place}",
                    status="finished",
                    config={
                        "data": {"train": [{"name": corpus, "weight": 1.0}]},
                        "model": {"vocab_size": 32000},
                    },
                    recipe=f"on {corpus}",
                    steps=1000,
                    step=1000,
                    n_total=float(n),
                    tokens=float(d),
                    flops_6nd=float(6 * n * d),
                )
                for place, (n, d) in enumerate(zip(N, D, strict=True))
            ],
        )
        made[corpus] = ids
        for text in ("code", "english"):
            loss = loss_of((corpus, text), latent(N, D))
            loss = loss * np.exp(common + 0.001 * rng.standard_normal(N.size))
            tokens = 1e6
            evaluations.add(
                connection,
                [
                    (
                        run_id,
                        EvaluationLine(
                            validation_set=text,
                            step=1000,
                            train_tokens=float(d),
                            loss=float(one),
                            loss_unit="nats/token",
                            tokens=tokens,
                            bytes=tokens / TOKENS_PER_BYTE[text],
                        ),
                    )
                    for run_id, d, one in zip(ids, D, loss, strict=True)
                ],
            )
    return Linked(name, N, D, made)
