"""Two sweeps on code and on English, really trained: their losses are linked both ways.

Tiny runs of real text (the standard library's source, and its docstrings), trained in this process
(a new one costs seconds of imports) by what the service planned, recorded as a worker records.
"""

import contextlib
import io
import json
import sysconfig
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from app.services import corpora, links, projects, sweeps
from app.services.documents import split_module
from app.services.fits import FitRequest, Select
from app.services.link_sets import LinkSet
from app.services.links import LinkRequest
from app.settings import Settings
from app.storage import recording
from app.storage.runs import Run
from workers.proxy.config import parse_config
from workers.proxy.train import train
from workers.recorder import parse

SPEC: dict[str, Any] = {
    "model": {"seq_len": 64, "vocab_size": 256, "head_dim": 8},
    "sizes": [{"d_model": d, "n_layers": 1} for d in (16, 32, 48)],
    "budgets_flops": [2e9, 8e9],
    "schedule": {"kind": "cosine", "warmup_steps": 5},
    "optimizer": {"name": "muon", "lr": 6e-3},
    "batch_tokens": 256,
    "seed": 0,
    "min_steps": 20,
    "evaluate": {"tokens": 8192},
}


class Never:
    requested = False


@pytest.fixture(scope="module")
def with_texts(settings: Settings) -> Settings:
    library = Path(sysconfig.get_paths()["stdlib"])
    files = sorted(
        file
        for name in ("asyncio", "email", "http", "json")
        for file in (library / name).glob("*.py")
    )
    split = [both for file in files if (both := split_module(file)) is not None]
    for place, name in enumerate(("code", "english")):
        corpora.write_corpus(
            name,
            [both[place] for both in split],
            settings.corpus_dir,
            sources=[str(library)],
            validation_fraction=0.2,
        )
    return settings


def trained(engine: Engine, run: Run, folder: Path) -> None:
    """What a worker does with a queued run."""
    with engine.begin() as connection:
        attempt = recording.claim_run(connection, run.id, "this test")
    assert attempt is not None
    with contextlib.redirect_stdout(io.StringIO()) as said:
        train(parse_config(dict(run.config)), folder / str(run.id), None, Never())
    lines = [json.loads(line) for line in said.getvalue().splitlines()]
    assert lines[-1]["status"] == "finished"
    found = parse(lines, run.config)
    with engine.begin() as connection:
        recording.describe_run(connection, run.id, attempt, found.facts)
        recording.record(connection, run.id, attempt, found.batch)
        recording.finish_run(connection, run.id, attempt)


def side(text: str, sweep: int) -> LinkSet:
    return LinkSet(FitRequest("", "texts", text, Select(sweep=sweep)))


def test_two_sweeps_are_linked_train_to_train_and_train_to_test(
    engine: Engine, with_texts: Settings, tmp_path: Path
) -> None:
    made = {}
    with engine.begin() as connection:
        projects.create(connection, "texts")
        for name, validation in (("code", ["code", "english"]), ("english", ["english"])):
            spec = {**SPEC, "corpora": {"train": [{"name": name}], "validation": validation}}
            made[name] = sweeps.create(connection, with_texts, "texts", f"on {name}", spec).id
        planned = {name: sweeps.runs_of(connection, one) for name, one in made.items()}
    for run in [run for runs in planned.values() for run in runs]:
        # every run is evaluated on all validation sets of its project, its own sweep's or not
        assert {one["name"] for one in run.config["data"]["validation"]} == {"code", "english"}
        trained(engine, run, tmp_path)
    with engine.begin() as connection:
        train_to_train = links.create(
            connection,
            LinkRequest(side("code", made["code"]), side("english", made["english"]), draws=40),
        )
        train_to_test = links.create(
            connection,
            LinkRequest(
                side("code", made["code"]), side("english", made["code"]), unit="bits/byte",
                draws=40,
            ),
        )  # fmt: skip
    assert train_to_train.kind == "train_to_train" and len(train_to_train.run_ids) == 12
    assert train_to_test.kind == "train_to_test" and len(train_to_test.run_ids) == 6
    for link in (train_to_train, train_to_test):
        found = link.document
        assert found["n_pairs"] == 6 and found["mixture"] == "code"
        # both fall together: a smooth increasing link through real losses
        assert found["r2"] > 0.9 and 0.05 < found["kappa"] < 8
        assert all(row["source"] > found["E0"] for row in found["pairs"])
    # a token is a byte here (and some end a document): bits/byte are nearly nats over ln 2
    (bits, nats) = (one.document["pairs"][0]["source"] for one in (train_to_test, train_to_train))
    assert bits == pytest.approx(nats / 0.6931471805599453, rel=1e-3)
