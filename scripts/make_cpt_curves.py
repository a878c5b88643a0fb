"""Real curves of continual pre-training, made with our own trainer: docs/examples/continual/.

    OMP_NUM_THREADS=1 python -m scripts.make_cpt_curves --work FOLDER [--out FOLDER]

A byte-level model of about 0.13 million parameters learns English documentation ("english", the
general domain) and goes on with Python source ("code"), both from the files of this machine. One
process, one thread, about half an hour. A run that FOLDER holds already is not trained again.

The design follows what a law of continual pre-training needs (three points of transfer, peak rates
of half, three quarters and all of the first, constant, cosine, linear and WSD schedules with and
without a new warm-up, replay of 0 to 75%); what is held out differs from all fitted runs in its
start, its schedule, its peak rate or its replay ratio. Repeats differ in the order of text alone.
"""

import argparse
import contextlib
import csv
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from app.services import corpora
from workers.proxy.config import ScheduleConfig, parse_config
from workers.proxy.process import StopFlag
from workers.proxy.schedule import lr_factor
from workers.proxy.train import train

GENERAL, DOMAIN = "english", "code"
PEAK_LR = 3e-3
PRETRAIN_STEPS, BRANCH_AT = 4000, (2000, 3000, 4000)
STEPS, LONGER = 1000, 1500
BATCH_TOKENS = 1024
EVALUATION_TOKENS = 32_768
COLUMNS = (
    *("run", "role", "kind", "parent", "parent_step"),
    *("step", "tokens", "lr", "replay_ratio", "domain", "loss"),
)


@dataclass(frozen=True)
class Plan:
    """One run. `schedule` is the trainer's; `start` is (the parent's name, its step)."""

    name: str
    role: str
    schedule: dict[str, Any]
    start: tuple[str, int] | None = None
    replay: float = 0.0
    peak: float = 1.0
    momentum: str = "carry"
    seed: int = 1
    branch_at: tuple[int, ...] = field(default=())

    @property
    def kind(self) -> str:
        return "continual" if self.start and self.start[0] != self.trunk else "pretrain"

    @property
    def trunk(self) -> str | None:
        """The run whose step numbers this one continues."""
        return self.start[0] if self.start and self.name.startswith("pretrain") else None


def constant(steps: int = STEPS) -> dict[str, Any]:
    return {"kind": "constant", "steps": steps}


def falling(kind: str, steps: int = STEPS, warmup: int = 0) -> dict[str, Any]:
    return {"kind": kind, "steps": steps, "warmup_steps": warmup}


def rewarmed_wsd() -> dict[str, Any]:
    return {"kind": "wsd", "steps": STEPS, "warmup_steps": 100, "cooldown_steps": 300}


TRUNK, ANNEALED = "pretrain", "pretrain-annealed"
WARM = {"warmup_steps": 100}
AT_2K, AT_3K, AT_4K = ((TRUNK, step) for step in BRANCH_AT)
COLD = (ANNEALED, PRETRAIN_STEPS)

PLANS = (
    Plan(
        TRUNK, "fit", {"kind": "constant", "steps": PRETRAIN_STEPS, **WARM}, seed=0,
        branch_at=BRANCH_AT,
    ),
    Plan(
        ANNEALED, "fit", {"kind": "wsd", "steps": PRETRAIN_STEPS, "cooldown_steps": 1000, **WARM},
        start=AT_3K, seed=0,
    ),
    Plan("constant-4k", "fit", constant(LONGER), AT_4K),
    Plan("linear-3k", "held_out", falling("linear", LONGER), AT_3K),
    Plan("cosine-4k", "fit", falling("cosine", LONGER), AT_4K),
    Plan("replay25-4k", "fit", falling("cosine", LONGER), AT_4K, replay=0.25),
    Plan("replay75-4k", "fit", falling("cosine"), AT_4K, replay=0.75),
    Plan("rewarmed-wsd", "fit", rewarmed_wsd(), COLD, momentum="reset"),
    Plan("replay40-4k", "held_out", falling("cosine"), AT_4K, replay=0.40),
    Plan("rewarmed-wsd-half", "fit", rewarmed_wsd(), COLD, peak=0.5, momentum="reset"),
    Plan("constant-2k", "fit", constant(), AT_2K),
    Plan("rewarmed-cosine-75", "held_out", falling("cosine", warmup=100), COLD, peak=0.75,
         momentum="reset"),
    Plan("replay50-4k", "fit", falling("cosine"), AT_4K, replay=0.50),
    Plan("replay50-4k-seed2", "repeat", falling("cosine"), AT_4K, replay=0.50, seed=2),
    Plan("rewarmed-wsd-seed2", "repeat", rewarmed_wsd(), COLD, momentum="reset", seed=2),
    Plan("constant-2k-seed2", "repeat", constant(), AT_2K, seed=2),
    Plan("constant-3k", "held_out", constant(), AT_3K),
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="corpora, checkpoints, events")
    parser.add_argument("--out", type=Path, default=Path("docs/examples/continual"))
    parser.add_argument("--only", nargs="*", help="names of runs; else all")
    given = parser.parse_args()
    manifests = corpora.build_default(given.work / "corpora")
    stop = StopFlag()
    for plan in PLANS:
        if given.only is None or plan.name in given.only:
            make(plan, given.work, stop)
        if stop.requested:
            return
    write(given.work, given.out, manifests)


def make(plan: Plan, work: Path, stop: StopFlag) -> None:
    if finished(plan, work):
        return
    torch.compiler.reset()  # compiled code belongs to one model
    began = time.process_time()
    events = work / f"{plan.name}.jsonl"
    with events.open("w") as file, contextlib.redirect_stdout(file):
        train(parse_config(config_of(plan, work)), work / plan.name, None, stop)
        file.write(json.dumps({"event": "cpu", "seconds": time.process_time() - began}) + "\n")
    last = {e["validation_set"]: e["loss"] for e in events_of(plan, work, "evaluation")}
    shown = ", ".join(f"{name} {loss:.4f}" for name, loss in last.items())
    print(f"{plan.name}: {time.process_time() - began:.0f} s CPU; {shown}", flush=True)


def config_of(plan: Plan, work: Path) -> dict[str, Any]:
    paths = {name: str(work / "corpora" / name) for name in (GENERAL, DOMAIN)}
    shares = {GENERAL: 1.0} if plan.kind == "pretrain" else {DOMAIN: 1 - plan.replay}
    if plan.replay:
        shares[GENERAL] = plan.replay
    init = None
    if plan.start:
        kind = "continual" if plan.kind == "continual" else "branch"
        init = {"kind": kind, "checkpoint": checkpoint_of(plan.start, work)}
        if kind == "continual":
            init["momentum"] = plan.momentum
    return {
        "model": {"d_model": 64, "n_layers": 2, "head_dim": 16, "seq_len": 128},
        "data": {
            "train": [{"name": n, "path": paths[n], "weight": w} for n, w in shares.items()],
            "validation": [{"name": n, "path": paths[n]} for n in (GENERAL, DOMAIN)],
        },
        "optimizer": {"name": "adamw", "lr": PEAK_LR * plan.peak},
        "schedule": plan.schedule,
        "batch_tokens": BATCH_TOKENS,
        "seed": plan.seed,
        "compile": True,
        "evaluate": {"tokens": EVALUATION_TOKENS, "at_steps": list(evaluated(plan))},
        "checkpoint": {"branch_at_steps": list(plan.branch_at)},
        "init": init,
    }


def evaluated(plan: Plan) -> Iterator[int]:
    """Densest where a curve bends: after the transfer, and while it cools down."""
    steps = plan.schedule["steps"]
    yield 0
    yield from (5, 10, 15, 20, 25, 30, 40, 50, 60, 70, 80, 90)
    yield from range(100, 400, 25)
    yield from range(400, steps, 50 if steps == LONGER else 100)
    if plan.name == ANNEALED:
        yield from range(3000, 4000, 50)


def checkpoint_of(start: tuple[str, int], work: Path) -> str:
    name, step = start
    parent = next(plan for plan in PLANS if plan.name == name)
    for event in events_of(parent, work, "checkpoint"):
        if event["step"] == step and event["kind"] in ("branch", "final"):
            return str(event["path"])
    raise SystemExit(f"{name} has no checkpoint at step {step}: train it first")


def events_of(plan: Plan, work: Path, event: str) -> list[dict[str, Any]]:
    path = work / f"{plan.name}.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [line for line in map(json.loads, lines) if line["event"] == event]


def finished(plan: Plan, work: Path) -> bool:
    return any(line["status"] == "finished" for line in events_of(plan, work, "end"))


def schedule_of(plan: Plan) -> dict[str, Any]:
    """What regenerates every rate: peak_lr * lr_factor(schedule, step)."""
    full = vars(ScheduleConfig(**plan.schedule))
    shown = {key: value for key, value in full.items() if key not in ("drops", "periods")}
    return {**shown, "peak_lr": PEAK_LR * plan.peak, "decay": "sqrt"}


def write(work: Path, out: Path, manifests: dict[str, dict[str, Any]]) -> None:
    done = [plan for plan in PLANS if finished(plan, work)]
    out.mkdir(parents=True, exist_ok=True)
    with (out / "curves.csv").open("w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(COLUMNS)
        for plan in done:
            schedule = ScheduleConfig(**plan.schedule)
            parent, parent_step = plan.start or ("", "")
            for line in events_of(plan, work, "evaluation"):
                step = int(line["step"])
                lr = PEAK_LR * plan.peak * lr_factor(schedule, step) if step else 0.0
                rows.writerow(
                    [plan.name, plan.role, plan.kind, parent, parent_step, step,
                     step * BATCH_TOKENS, f"{lr:.6g}", f"{plan.replay:.4g}",
                     line["validation_set"], f"{line['loss']:.5f}"]
                )  # fmt: skip
    document = {
        "notes": notes(done, work, manifests),
        "roles": {plan.name: plan.role for plan in done},
        "momentum": {plan.name: plan.momentum for plan in done if plan.kind == "continual"},
        **{plan.name: schedule_of(plan) for plan in done},
    }
    (out / "schedules.json").write_text(json.dumps(document, indent=1) + "\n")


def notes(done: list[Plan], work: Path, manifests: dict[str, dict[str, Any]]) -> dict[str, Any]:
    start = events_of(done[0], work, "start")[0]
    seconds = sum(e["seconds"] for plan in done for e in events_of(plan, work, "cpu"))
    return {
        "loss": "nats per byte (byte-level tokens, document separators counted as one)",
        "step": "of the run itself: a continual run counts from its transfer, and step 0 is the "
        "parent's checkpoint; a pre-training branch keeps its trunk's numbers",
        "momentum": "carry: AdamW's state is the parent's; reset: it starts afresh",
        "model": {"d_model": 64, "n_layers": 2, "seq_len": 128, **start["params"]},
        "optimizer": "adamw, betas 0.9 and 0.95, weight decay 0.1, clip 1",
        "batch_tokens": BATCH_TOKENS,
        "evaluation_tokens": EVALUATION_TOKENS,
        "made_with": {
            key: start["fingerprint"][key] for key in ("torch", "device", "threads", "compile")
        },
        "corpora": {
            name: {key: manifest[key] for key in ("digest", "tokens", "documents")}
            for name, manifest in manifests.items()
        },
        "cpu_seconds": round(seconds),
    }


if __name__ == "__main__":
    main()
