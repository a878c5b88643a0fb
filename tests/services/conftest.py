"""Worlds that service tests start from: corpora that exist, runs that have landed."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import Connection

from app.importers import read_rows
from app.services import imports, projects
from app.settings import Settings

CHINCHILLA = {"E": 1.8172, "A": 482.01, "B": 2085.43, "alpha": 0.3478, "beta": 0.3658}
SPEC: dict[str, Any] = {
    "corpora": {"train": [{"name": "code", "weight": 1.0}], "validation": ["code", "english"]},
    "model": {"seq_len": 256, "vocab_size": 256, "head_dim": 16, "mlp": "swiglu", "tied": False},
    "sizes": [{"d_model": 32, "n_layers": 2}, {"d_model": 48, "n_layers": 2}],
    "budgets_flops": [3e11, 1e12, 3e12],
    "schedule": {"kind": "wsd", "warmup_steps": 50, "cooldown_fraction": 0.2},
    "optimizer": {"name": "muon", "lr": 6e-3},
    "batch_tokens": 1024,
    "seed": 0,
    "min_steps": 500,
    "evaluate": {"tokens": 65536},
}


def write_corpora(settings: Settings, tokens: float = 2e7) -> None:
    """Manifests of two corpora, as `scalewright corpus build` writes them, without the shards."""
    for name in ("code", "english"):
        folder = settings.corpus_dir / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "manifest.json").write_text(
            json.dumps(
                {
                    "name": name,
                    "digest": f"digest of {name}",
                    "tokens": {"train": tokens, "validation": 1e6},
                    "tokenizer": {"kind": "bytes", "vocab_size": 256, "token_bytes": [1] * 256},
                }
            )
        )


@pytest.fixture(scope="module")
def with_corpora(settings: Settings) -> Path:
    write_corpora(settings)
    return settings.corpus_dir


def chinchilla_rows(noise: float = 0.0, seed: int = 0) -> list[dict[str, Any]]:
    """24 runs whose losses follow the published law, with relative noise."""
    rng = np.random.default_rng(seed)
    c, rows = CHINCHILLA, []
    for n in np.geomspace(1e7, 1e9, 4):
        for d in np.geomspace(1e9, 1e11, 6):
            loss = c["E"] + c["A"] * n ** -c["alpha"] + c["B"] * d ** -c["beta"]
            loss *= float(np.exp(noise * rng.standard_normal()))
            rows.append({"run": f"n{n:.3g}-d{d:.3g}", "N": float(n), "D": float(d), "loss": loss})
    return rows


def project_with_runs(
    connection: Connection, name: str, noise: float = 0.0, **options: Any
) -> imports.Imported:
    """A project whose imported runs follow the published Chinchilla law."""
    projects.create(connection, name)
    return imports.store(connection, name, read_rows(chinchilla_rows(noise)), **options)
