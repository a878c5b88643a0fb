"""Runs that start from another run's checkpoint: a branch, or continual pre-training. Pure.

A *branch* is its trunk until the cool-down begins: everything but the length is the trunk's. A
*continual* run takes the parent's weights to other text: the new corpora, optionally blended with
the parent's (replay), a schedule of its own with a new warm-up, and steps that count from 1.

The worker writes the checkpoint's path into `init` when it starts the run; until the parent has
stored that checkpoint the run is `planned`.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from app.services.errors import ServiceError
from app.services.run_config import (
    RESUME_EVERY_STEPS,
    cooldown_fraction,
    cooldown_steps,
    model_shape,
    run_schedule,
    steps_for,
)
from app.services.sweep_plan import PlannedRun, must_be_reached
from app.storage.runs import Run

KINDS = ("continual", "branch")
MOMENTA = ("reset", "carry")


def plan_branch(
    name: str, parent: Run, spec: Mapping[str, Any], stored: Iterable[int]
) -> PlannedRun:
    """A cool-down of the trunk `parent` to `steps` or `budget_flops` in all.

    stored  the steps at which the trunk has, or will have, a checkpoint. The branch starts from the
            last one before its cool-down (and trains what lies between); a trunk that has not been
            started stores one where the cool-down begins.
    """
    config = parent.config
    trunk = config.get("schedule") or {}
    if trunk.get("kind") != "constant":
        raise ServiceError(
            "invalid",
            f"Run {parent.id} is trained at a {trunk.get('kind')} rate.",
            "A branch leaves a trunk at constant rate; submit a continual run instead.",
            column="parent",
            value=parent.id,
        )
    steps = _steps(spec, config)
    if steps is None:
        if spec.get("parent_step") is None:
            raise _say(
                "steps",
                "How long the run is was not said.",
                "Give steps or budget_flops of the whole run.",
            )
        steps = round(spec["parent_step"] / (1 - cooldown_fraction(spec)))
    start = steps - cooldown_steps(spec, steps)
    schedule = {**trunk, "kind": "wsd", "steps": steps, "cooldown_steps": steps - start}
    if start > int(trunk["steps"]) or start <= int(trunk.get("warmup_steps", 0)):
        raise ServiceError(
            "invalid",
            f"The cool-down of {steps} steps begins at step {start}; the trunk's constant part is "
            f"from step {trunk.get('warmup_steps', 0)} to {trunk['steps']}.",
            "Choose fewer or more steps, or train a longer trunk.",
            column="steps",
            value=steps,
        )
    parent_step = spec.get("parent_step")
    if parent_step is None:
        earlier = [start] if not_started(parent) else [at for at in stored if at <= start]
        if not earlier:
            raise no_checkpoint(parent, start, stored)
        parent_step = max(earlier)
    elif parent_step > start:
        raise _say(
            "parent_step",
            f"parent_step is {parent_step}, and the cool-down begins at step {start}.",
            "Start from before it.",
        )
    changed = {"schedule": schedule, "init": None, "checkpoint": _resumable(config)}
    return _planned(name, "branch", {**config, **changed}, parent_step, spec)


def plan_continual(
    name: str, parent: Run, spec: Mapping[str, Any], paths: Mapping[str, str]
) -> PlannedRun:
    """The parent's model on the corpora of `spec`, from step 1 of a schedule of its own.

    paths  corpus name -> folder, for every corpus that the spec names
    """
    config = parent.config
    if not config.get("model"):
        raise ServiceError(
            "invalid",
            f"Run {parent.id} was not trained here, so there is no checkpoint of it.",
            "Name a run that a worker of this service has trained.",
            column="parent",
            value=parent.id,
        )
    steps = _steps(spec, config)
    if steps is None:
        raise _say("steps", "How long the run is was not said.", "Give steps or budget_flops.")
    momentum = spec.get("momentum", "reset")
    if momentum not in MOMENTA:
        raise _say(
            "momentum", f"There is no momentum {momentum!r}.", f"Use {' or '.join(MOMENTA)}."
        )
    optimizer = dict(spec.get("optimizer") or config["optimizer"])
    if spec.get("lr") is not None:
        optimizer["lr"] = float(spec["lr"])
    parent_step = spec.get("parent_step")
    made = {
        **config,
        "data": {
            "train": blended(spec, config["data"]["train"], paths),
            "validation": _validation(spec, config["data"]["validation"], paths),
        },
        "optimizer": optimizer,
        "schedule": run_schedule(spec, steps),
        "batch_tokens": int(spec.get("batch_tokens") or config["batch_tokens"]),
        # another order than the parent's: replayed text is not what it has just seen
        "seed": int(spec.get("seed", int(config.get("seed", 0)) + 1)),
        "checkpoint": _resumable(config),
        "init": {"kind": "continual", "momentum": momentum},
    }
    return _planned(name, "continual", made, parent_step or parent.steps, spec)


def blended(
    spec: Mapping[str, Any], before: Sequence[Mapping[str, Any]], paths: Mapping[str, str]
) -> list[dict[str, Any]]:
    """The training sources: new text, and the parent's with a share of `replay_ratio` in all.

    The blend is exact in every 1,024 sequences and depends on the seed alone (workers/proxy/data).
    """
    ratio = float(spec.get("replay_ratio") or 0.0)
    if not 0 <= ratio < 1:
        raise _say(
            "replay_ratio",
            f"replay_ratio is {ratio:g}.",
            "It is the share of the parent's text: from 0 to below 1.",
        )
    new = list((spec.get("corpora") or {}).get("train", ()))
    if not new:
        raise _say("corpora", "No new text is named.", "Name it: corpora.train.")
    folders = {each["name"]: paths[each["name"]] for each in new}
    weights = _shares({each["name"]: each.get("weight", 1.0) for each in new}, 1 - ratio)
    if ratio:
        old = _shares({each["name"]: each.get("weight", 1.0) for each in before}, ratio)
        folders = {**{each["name"]: each["path"] for each in before}, **folders}
        weights = {n: weights.get(n, 0.0) + old.get(n, 0.0) for n in [*weights, *old]}
    return [{"name": n, "path": folders[n], "weight": weight} for n, weight in weights.items()]


def replay_ratio(data: Sequence[Mapping[str, Any]], before: Sequence[Mapping[str, Any]]) -> float:
    """The share of the parent's corpora in a run's training data."""
    old = {source["name"] for source in before}
    total = sum(source.get("weight", 1.0) for source in data)
    kept = sum(source.get("weight", 1.0) for source in data if source["name"] in old)
    return float(kept / total) if total else 0.0


def not_started(run: Run) -> bool:
    return run.status in ("planned", "queued") and run.attempt == 0


def no_checkpoint(parent: Run, step: int, stored: Iterable[int]) -> ServiceError:
    there = ", ".join(map(str, sorted(set(stored)))) or "none"
    return ServiceError(
        "invalid",
        f"Run {parent.id} ({parent.status}) has no checkpoint at step {step}; it has: {there}.",
        "Start from one of these, or from a run that has not been started yet.",
        column="parent_step",
        value=step,
    )


def _shares(weights: Mapping[str, float], total: float) -> dict[str, float]:
    whole = sum(weights.values())
    return {name: total * weight / whole for name, weight in weights.items()}


def _validation(
    spec: Mapping[str, Any], before: Sequence[Mapping[str, Any]], paths: Mapping[str, str]
) -> list[dict[str, Any]]:
    """What the spec names; else the parent's sets and the new corpora, to see both losses."""
    corpora = spec.get("corpora") or {}
    named = corpora.get("validation")
    if named:
        return [{"name": name, "path": paths[name]} for name in named]
    sets = {each["name"]: each["path"] for each in before}
    sets |= {each["name"]: paths[each["name"]] for each in corpora.get("train", ())}
    return [{"name": name, "path": path} for name, path in sets.items()]


def _steps(spec: Mapping[str, Any], config: Mapping[str, Any]) -> int | None:
    steps, budget = spec.get("steps"), spec.get("budget_flops")
    if steps is not None and budget is not None:
        raise _say("budget_flops", "Both budget_flops and steps are given.", "Give one of them.")
    if steps is None and budget is not None:
        batch = int(spec.get("batch_tokens") or config["batch_tokens"])
        return max(1, steps_for(model_shape(config["model"]), budget, batch))
    return None if steps is None else int(steps)


def _resumable(config: Mapping[str, Any]) -> dict[str, Any]:
    every = (config.get("checkpoint") or {}).get("every_steps", RESUME_EVERY_STEPS)
    return {"every_steps": every, "branch_at_steps": [], "keep": 2}


def _planned(
    name: str,
    kind: str,
    config: dict[str, Any],
    parent_step: int | None,
    spec: Mapping[str, Any],
) -> PlannedRun:
    steps = int(config["schedule"]["steps"])
    asked = (spec.get("evaluate") or {}).get("at_steps") or ()
    must_be_reached("evaluate.at_steps", asked, steps)
    evaluate = {**(config.get("evaluate") or {}), **(spec.get("evaluate") or {})}
    at_steps = {step for step in evaluate.get("at_steps", ()) if step < steps}
    config["evaluate"] = {**evaluate, "at_steps": [*sorted(at_steps), steps]}
    return PlannedRun.of(
        name, kind, config, parent_step=parent_step, budget_flops=spec.get("budget_flops")
    )


def _say(column: str, message: str, hint: str) -> ServiceError:
    return ServiceError("invalid", message, hint, column=column)
