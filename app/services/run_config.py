"""A specification -> the configuration of one run: its shape, its schedule, the trainer's JSON.

Pure: nothing is read or stored. Which runs a sweep has is in sweep_plan.py.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from app.services.errors import ServiceError
from fitting import costs

# DeepSeek LLM (arXiv 2401.02954): 31.6% of the peak after 8/10 of the steps, 10% after 9/10
DROPS = ((0.8, 10**-0.5), (0.9, 0.1))
PERIODS = (0.25, 0.5, 1.0)
RESUME_EVERY_STEPS = 500
MOST_STEPS = 10**9


def model_shape(model: Mapping[str, Any]) -> dict[str, Any]:
    """The trainer's `model` section with every default written out."""
    mlp = model.get("mlp", "swiglu")
    if mlp not in ("swiglu", "relu2"):
        raise ServiceError(
            "invalid",
            f"model.mlp is {mlp!r}.",
            "Use swiglu or relu2.",
            column="model.mlp",
            value=mlp,
        )
    shape = {
        "d_model": _whole("d_model", model.get("d_model")),
        "n_layers": _whole("n_layers", model.get("n_layers")),
        "head_dim": _whole("head_dim", model.get("head_dim", 16)),
        "vocab_size": _whole("vocab_size", model.get("vocab_size", 256)),
        "seq_len": _whole("seq_len", model.get("seq_len", 256)),
        "mlp": mlp,
        "tied": bool(model.get("tied", False)),
        "qk_norm": bool(model.get("qk_norm", True)),
    }
    d_ff = model.get("d_ff") or default_d_ff(shape["d_model"], mlp)
    shape["d_ff"] = _whole("d_ff", d_ff)
    if shape["d_model"] % shape["head_dim"] or shape["head_dim"] % 2:
        raise ServiceError(
            "invalid",
            f"d_model {shape['d_model']} is not a multiple of an even head_dim "
            f"({shape['head_dim']}).",
            "Choose an even head_dim that divides every d_model.",
            column="head_dim",
            value=shape["head_dim"],
        )
    return shape


def default_d_ff(d_model: int, mlp: str) -> int:
    """8/3 of the width rounded up to a multiple of 16 for SwiGLU, 4 times it for ReLU^2: the
    trainer's own default, written into the configuration."""
    return 16 * math.ceil(d_model * 8 / 3 / 16) if mlp == "swiglu" else 4 * d_model


def flops_per_token(shape: Mapping[str, Any]) -> dict[str, float]:
    """Training FLOPs of one token: exact, 6nd and palm."""
    return {
        convention: costs.flops_per_token(
            **_counted(shape), seq_len=shape["seq_len"], convention=convention
        )
        for convention in costs.FLOPS_CONVENTIONS
    }


def parameter_counts(shape: Mapping[str, Any]) -> dict[str, int]:
    """N in each of the four conventions."""
    counts = costs.parameter_counts(**_counted(shape))
    return {name: counts[name] for name in ("total", "non_embedding", "blocks", "blocks_and_head")}


def _counted(shape: Mapping[str, Any]) -> dict[str, Any]:
    names = ("d_model", "n_layers", "d_ff", "vocab_size", "head_dim", "mlp", "tied", "qk_norm")
    return {
        **{name: shape[name] for name in names},
        "n_heads": shape["d_model"] // shape["head_dim"],
    }


def steps_for(shape: Mapping[str, Any], budget_flops: float, batch_tokens: int) -> int:
    """The whole number of steps whose exact FLOPs come closest to the budget."""
    return round(budget_flops / (flops_per_token(shape)["exact"] * batch_tokens))


def _whole(name: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 2**31:
        raise ServiceError(
            "invalid",
            f"model.{name} is {value!r}.",
            "Give a whole number above zero.",
            column=name,
            value=value,
        )
    return value


def schedule_kind(spec: Mapping[str, Any]) -> str:
    return str((spec.get("schedule") or {}).get("kind", "wsd"))


def schedule_of(spec: Mapping[str, Any], steps: int) -> dict[str, Any]:
    """The trainer's `schedule` section for a run of `steps`: shares of the run become steps."""
    schedule = spec.get("schedule") or {}
    kind = schedule_kind(spec)
    made: dict[str, Any] = {
        "kind": kind,
        "steps": steps,
        "warmup_steps": int(schedule.get("warmup_steps", 50)),
        "cooldown_steps": cooldown_steps(spec, steps) if kind in ("wsd", "wsd-s") else 0,
        "final_fraction": float(schedule.get("final_fraction", 0.0)),
    }
    if schedule.get("initial_fraction"):
        made["initial_fraction"] = float(schedule["initial_fraction"])
    if kind == "step":
        drops = schedule.get("drops") or DROPS
        made["drops"] = [[round(at * steps), float(to)] for at, to in drops]
    if kind == "wsd-s":
        made["periods"] = [round(at * steps) for at in schedule.get("periods") or PERIODS]
    return made


def is_cooled(schedule: Mapping[str, Any]) -> bool:
    """Whether the rate falls in the end, so that the run is one that a law is fitted to."""
    return bool(schedule["kind"] != "constant")


def cooldown_fraction(spec: Mapping[str, Any]) -> float:
    return float((spec.get("schedule") or {}).get("cooldown_fraction", 0.2))


def cooldown_steps(spec: Mapping[str, Any], steps: int) -> int:
    return max(1, round(cooldown_fraction(spec) * steps))


def why_no_run(spec: Mapping[str, Any], steps: int) -> str:
    """Why no run of the spec can have so many steps; empty if one can."""
    if steps < 1:
        return "fewer than 1 steps"
    if steps > MOST_STEPS:
        return f"more than {MOST_STEPS:g} steps"
    made = schedule_of(spec, steps)
    warmup, cooldown = made["warmup_steps"], made["cooldown_steps"]
    if steps - cooldown <= warmup:
        return f"the warm-up of {warmup} steps is not over when the cool-down starts"
    if made["kind"] == "wsd-s":
        ends = made["periods"]
        for begin, end in itertools.pairwise((0, *ends)):
            if begin + warmup >= end - max(1, round(cooldown * end / steps)):
                return f"the period that ends at step {end} has no room for its cool-down"
        if ends[-1] != steps:
            return "schedule.periods does not end with 1"
    if made["kind"] == "step":
        at = [step for step, _ in made["drops"]]
        if at != sorted({*at}) or at[0] <= warmup or at[-1] >= steps:
            return f"schedule.drops at steps {at} do not rise from the warm-up to the end"
    return ""


def run_schedule(spec: Mapping[str, Any], steps: int) -> dict[str, Any]:
    """`schedule_of` for a run by itself, or a ServiceError if it cannot be."""
    reason = why_no_run(spec, steps)
    if reason:
        shorter = "warm-up" in reason  # what most often is in the way
        raise ServiceError(
            "invalid",
            f"{steps} steps: {reason}.",
            "Train longer, or warm up for less: schedule.warmup_steps (--warmup)."
            if shorter
            else "Choose another number of steps, or another schedule.",
            value=steps,
        )
    return schedule_of(spec, steps)


def trainer_config(
    spec: Mapping[str, Any],
    shape: Mapping[str, Any],
    schedule: dict[str, Any],
    paths: Mapping[str, str],
    *,
    branch_at: Sequence[int] = (),
) -> dict[str, Any]:
    """The JSON that the training process reads: nothing is left to its defaults that we decide.

    shape, schedule  of `model_shape` and `schedule_of`
    paths            corpus name -> folder, for each corpus that the spec names
    branch_at        steps at which a checkpoint is kept for runs that start there
    """
    corpora = spec["corpora"]
    evaluate = spec.get("evaluate", {})
    last = int(schedule["steps"])
    at_steps = sorted({step for step in evaluate.get("at_steps", ()) if step < last})
    return {
        "model": dict(shape),
        "data": {
            "train": [
                {"name": c["name"], "path": paths[c["name"]], "weight": c.get("weight", 1.0)}
                for c in corpora["train"]
            ],
            "validation": [{"name": n, "path": paths[n]} for n in corpora["validation"]],
        },
        "optimizer": dict(spec.get("optimizer") or {"name": "muon"}),
        "schedule": schedule,
        "batch_tokens": int(spec["batch_tokens"]),
        "seed": int(spec.get("seed", 0)),
        "device": spec.get("device", "cpu"),
        "threads": int(spec.get("threads", 1)),
        "dtype": spec.get("dtype", "float32"),
        "compile": bool(spec.get("compile", False)),
        **({"deterministic": True} if spec.get("deterministic") else {}),
        "processes": int(spec.get("processes", 1)),
        "parallel": spec.get("parallel", "ddp"),
        "evaluate": {
            "at_steps": sorted({*at_steps, *schedule.get("periods", ()), last})
            if is_cooled(schedule)
            else at_steps,
            "tokens": int(evaluate.get("tokens", 65536)),
        },
        "checkpoint": {
            "every_steps": int(spec.get("checkpoint_every_steps", RESUME_EVERY_STEPS)),
            "branch_at_steps": list(branch_at),
            "keep": 2,
        },
        "init": None,
    }
