"""A sweep's specification -> the exact runs to train. Pure: nothing is read or stored.

For each size one trunk at constant learning rate, and from it one branch for each budget that
cools down to a finished run: with budgets x3.16 apart and a 20% cool-down this trains 25% fewer
tokens than separate runs, and every further budget costs only its own part (docs/sweeps.md).
A cosine or linear schedule depends on its length, so there each size and budget is a run alone.

A branch's budget counts all of its compute, the trunk's part too: FLOPs are those of the model
that comes out. Steps are whole, so each run stores the FLOPs it achieves, not those asked for.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.services.errors import ServiceError
from app.services.ladder import ladder
from fitting import costs

SCHEDULES = ("wsd", "cosine", "linear", "step", "wsd-s")
# DeepSeek LLM (arXiv 2401.02954): 31.6% of the peak after 8/10 of the steps, 10% after 9/10
DROPS = ((0.8, 10**-0.5), (0.9, 0.1))
PERIODS = (0.25, 0.5, 1.0)
OPTIMIZERS = ("muon", "adamw")
MAX_RUNS = 2000
RESUME_EVERY_STEPS = 500
# Below this many steps an initial transient is measured, not a power law (docs/sweeps.md).
MIN_STEPS = 1000
MOST_STEPS = 10**9


@dataclass(frozen=True)
class PlannedRun:
    """One row to be of `runs`.

    parent, parent_step  the trunk's name and the step whose checkpoint the run starts from
    new_steps            what is trained for this run alone (a branch: its cool-down)
    flops                exact, 6ND and palm, of the whole run from step 1
    """

    name: str
    kind: str
    cooled: bool
    config: dict[str, Any]
    steps: int
    new_steps: int
    tokens: float
    n: dict[str, float]
    flops: dict[str, float]
    parent: str | None = None
    parent_step: int | None = None
    budget_flops: float | None = None

    @property
    def new_flops(self) -> float:
        return self.flops["exact"] * self.new_steps / self.steps


@dataclass(frozen=True)
class SweepPlan:
    """runs: trunks before their branches. skipped: the cells of sizes x budgets that are not run,
    each with its reason. total_flops: what will be computed, trunks counted once."""

    runs: tuple[PlannedRun, ...]
    skipped: tuple[dict[str, Any], ...] = ()
    warnings: tuple[dict[str, str], ...] = ()

    @property
    def total_flops(self) -> float:
        return sum(run.new_flops for run in self.runs)

    @property
    def total_tokens(self) -> float:
        return sum(run.tokens * run.new_steps / run.steps for run in self.runs)

    @property
    def finals(self) -> tuple[PlannedRun, ...]:
        """The runs that a law is fitted to."""
        return tuple(run for run in self.runs if run.cooled)


def plan_sweep(
    name: str,
    spec: Mapping[str, Any],
    *,
    paths: Mapping[str, str],
    unique_tokens: Mapping[str, float] | None = None,
) -> SweepPlan:
    """Every run of the sweep, or a ServiceError that names the field to correct.

    spec           the body of POST /v1/sweeps without project and name
    paths          corpus name -> folder, for each corpus that the spec names
                   lrs: every size and budget at each of these peak rates, each a recipe of its own
                   repeat_seeds: the shortest run of each size again with these seeds
    unique_tokens  corpus name -> training tokens in it; a run that reads more than one epoch of
                   what it draws from is planned with a warning
    """
    sizes, budgets = _sizes(spec), _budgets(spec)
    rates = _rates(spec)
    if (
        len(sizes) * (len(budgets) + 1 + len(spec.get("repeat_seeds") or ())) * len(rates)
        > MAX_RUNS
    ):
        raise ServiceError(
            "too_large",
            f"{len(sizes)} sizes x {len(budgets)} budgets x {len(rates)} rates, and their repeats, "
            f"are more than {MAX_RUNS} runs.",
            "Split the sweep.",
        )
    kind = _schedule_kind(spec)
    min_steps = int(spec.get("min_steps", MIN_STEPS))
    max_steps = None if spec.get("max_steps") is None else int(spec["max_steps"])
    runs: list[PlannedRun] = []
    skipped: list[dict[str, Any]] = []
    for size in sizes:
        shape = model_shape({**spec.get("model", {}), **size})
        cells: dict[int, float] = {}
        for budget in budgets:
            steps = steps_for(shape, budget, int(spec["batch_tokens"]))
            reason = _why_not(steps, min_steps, spec, kind, cells)
            if not reason and max_steps is not None and steps > max_steps:
                reason = f"more than {max_steps} steps"
            if reason:
                skipped.append(
                    {"size": dict(size), "budget_flops": budget, "steps": steps, "reason": reason}
                )
            else:
                cells[steps] = budget
        for suffix, recipe in rates.items() if cells else ():
            runs += _runs_of_size(name + suffix, recipe, shape, cells, kind, paths)
            runs += _repeats(name + suffix, recipe, shape, cells, kind, paths)
    if not runs:
        raise ServiceError(
            "invalid",
            f"No size can be run at any budget: {skipped[0]['reason']}"
            + (" and others." if len({one["reason"] for one in skipped}) > 1 else "."),
            "Change the budgets, sizes, batch_tokens or min_steps.",
            column="budgets_flops",
        )
    asked = (spec.get("evaluate") or {}).get("at_steps") or ()
    must_be_reached("evaluate.at_steps", asked, max(run.steps for run in runs))
    return SweepPlan(tuple(runs), tuple(skipped), _warnings(spec, runs, unique_tokens or {}))


def plan_run(
    name: str,
    spec: Mapping[str, Any],
    size: Mapping[str, Any],
    *,
    paths: Mapping[str, str],
    budget_flops: float | None = None,
    steps: int | None = None,
) -> PlannedRun:
    """One run by itself, trained from step 1 to its end with the spec's recipe."""
    shape = model_shape({**spec.get("model", {}), **size})
    kind = _schedule_kind(spec, more=("constant",))
    if (budget_flops is None) == (steps is None):
        raise ServiceError(
            "invalid", "Give budget_flops or steps, and not both.", "", column="budget_flops"
        )
    if steps is None:
        assert budget_flops is not None
        steps = steps_for(shape, _positive("budget_flops", budget_flops), int(spec["batch_tokens"]))
        if steps > MOST_STEPS:
            raise ServiceError(
                "invalid",
                f"budget_flops makes more than {MOST_STEPS:g} steps.",
                "Lower the budget, or use a larger batch.",
                column="budget_flops",
            )
    schedule = run_schedule(spec, kind, steps)
    cooled = kind != "constant"
    branch_at = sorted({int(at) for at in spec.get("checkpoint_at_steps") or () if at <= steps})
    return _run(
        name, "single" if cooled else "trunk", cooled, spec, shape, schedule, paths, steps,
        budget=budget_flops, branch_at=branch_at,
    )  # fmt: skip


def must_be_reached(column: str, at_steps: Sequence[int], last: int) -> None:
    """A ServiceError unless every step that was asked for is trained: nothing is left out in
    silence. `last` is the last step, of a sweep that of its longest run."""
    late = [int(step) for step in at_steps if step > last]
    if late:
        raise ServiceError(
            "invalid",
            f"{column} names step {min(late)}, and training ends at step {last}.",
            f"Name steps up to {last}, or train longer.",
            column=column,
            value=min(late),
        )


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


def _runs_of_size(
    name: str,
    spec: Mapping[str, Any],
    shape: Mapping[str, Any],
    cells: Mapping[int, float],
    kind: str,
    paths: Mapping[str, str],
) -> list[PlannedRun]:
    label = f"{name}/d{shape['d_model']}-L{shape['n_layers']}"
    if kind != "wsd":
        return [
            _run(
                f"{label}-{budget:.3g}", "single", True, spec, shape,
                _schedule(spec, kind, steps), paths, steps, budget=budget,
            )
            for steps, budget in sorted(cells.items())
        ]  # fmt: skip
    starts = {steps: steps - cooldown_steps(spec, steps) for steps in sorted(cells)}
    longest = max(starts.values())
    constant = {**_schedule(spec, "wsd", longest), "kind": "constant", "cooldown_steps": 0}
    trunk = _run(
        f"{label}-trunk", "trunk", False, spec, shape, constant, paths, longest,
        branch_at=sorted(set(starts.values())),
    )  # fmt: skip
    branches = [
        _run(
            f"{label}-{cells[steps]:.3g}", "branch", True, spec, shape,
            _schedule(spec, "wsd", steps), paths, steps,
            parent=trunk.name, parent_step=start, budget=cells[steps],
        )
        for steps, start in starts.items()
    ]  # fmt: skip
    return [trunk, *branches]


def _repeats(
    name: str,
    spec: Mapping[str, Any],
    shape: Mapping[str, Any],
    cells: Mapping[int, float],
    kind: str,
    paths: Mapping[str, str],
) -> list[PlannedRun]:
    """The shortest run once more for each of `repeat_seeds`, alone: what luck is worth."""
    steps = min(cells)
    label = f"{name}/d{shape['d_model']}-L{shape['n_layers']}-{cells[steps]:.3g}"
    return [
        _run(
            f"{label}-s{seed}", "single", True, {**spec, "seed": seed}, shape,
            _schedule(spec, kind, steps), paths, steps, budget=cells[steps],
        )
        for seed in _repeat_seeds(spec)
    ]  # fmt: skip


def _rates(spec: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """{suffix of the runs' names: specification}, one for each of `lrs`."""
    lrs = sorted({float(lr) for lr in spec.get("lrs") or ()})
    if not lrs:
        return {"": spec}
    optimizer = spec.get("optimizer") or {"name": "muon"}
    return {f"/lr{lr:g}": {**spec, "optimizer": {**optimizer, "lr": lr}} for lr in lrs}


def _repeat_seeds(spec: Mapping[str, Any]) -> list[int]:
    seeds = sorted({int(seed) for seed in spec.get("repeat_seeds") or ()})
    if int(spec.get("seed", 0)) in seeds:
        raise ServiceError(
            "invalid",
            f"repeat_seeds holds the sweep's own seed, {spec.get('seed', 0)}.",
            "A repeat needs a seed of its own.",
            column="repeat_seeds",
        )
    return seeds


def _run(
    name: str,
    kind: str,
    cooled: bool,
    spec: Mapping[str, Any],
    shape: Mapping[str, Any],
    schedule: dict[str, Any],
    paths: Mapping[str, str],
    steps: int,
    *,
    branch_at: Sequence[int] = (),
    parent: str | None = None,
    parent_step: int | None = None,
    budget: float | None = None,
) -> PlannedRun:
    tokens = float(steps) * float(spec["batch_tokens"])
    per_token = flops_per_token(shape)
    return PlannedRun(
        name=name,
        kind=kind,
        cooled=cooled,
        config=trainer_config(spec, shape, schedule, paths, cooled=cooled, branch_at=branch_at),
        steps=steps,
        new_steps=steps - (parent_step or 0),
        tokens=tokens,
        n={convention: float(n) for convention, n in parameter_counts(shape).items()},
        flops={convention: value * tokens for convention, value in per_token.items()},
        parent=parent,
        parent_step=parent_step,
        budget_flops=budget,
    )


def trainer_config(
    spec: Mapping[str, Any],
    shape: Mapping[str, Any],
    schedule: dict[str, Any],
    paths: Mapping[str, str],
    *,
    cooled: bool,
    branch_at: Sequence[int] = (),
) -> dict[str, Any]:
    """The JSON that the training process reads: nothing is left to its defaults that we decide."""
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
            if cooled
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


def cooldown_steps(spec: Mapping[str, Any], steps: int) -> int:
    fraction = float((spec.get("schedule") or {}).get("cooldown_fraction", 0.2))
    return max(1, round(fraction * steps))


def corpus_names(spec: Mapping[str, Any]) -> list[str]:
    """Every corpus that the spec reads, once, in order."""
    corpora = spec.get("corpora") or {}
    train = [corpus["name"] for corpus in corpora.get("train", ())]
    names = [*train, *corpora.get("validation", ())]
    if not train or not corpora.get("validation"):
        raise ServiceError(
            "invalid",
            "corpora needs at least one training corpus and one validation corpus.",
            '{"train": [{"name": "code", "weight": 1.0}], "validation": ["code"]}',
            column="corpora",
        )
    return list(dict.fromkeys(names))


def run_schedule(spec: Mapping[str, Any], kind: str, steps: int) -> dict[str, Any]:
    """The trainer's `schedule` section for a run by itself, or a ServiceError if it cannot be."""
    reason = _why_not(steps, 1, spec, kind, {})
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
    return _schedule(spec, kind, steps)


def _schedule(spec: Mapping[str, Any], kind: str, steps: int) -> dict[str, Any]:
    """Shares of the run, as a specification has them, become steps."""
    schedule = spec.get("schedule") or {}
    cooled = kind in ("wsd", "wsd-s")
    made: dict[str, Any] = {
        "kind": kind,
        "steps": steps,
        "warmup_steps": int(schedule.get("warmup_steps", 50)),
        "cooldown_steps": cooldown_steps(spec, steps) if cooled else 0,
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


def _schedule_kind(spec: Mapping[str, Any], *, more: tuple[str, ...] = ()) -> str:
    kind = str((spec.get("schedule") or {}).get("kind", "wsd"))
    if kind not in (*SCHEDULES, *more):
        raise ServiceError(
            "invalid",
            f"schedule.kind is {kind!r}.",
            f"Use one of {', '.join((*SCHEDULES, *more))}.",
            column="schedule.kind",
            value=kind,
        )
    return kind


def _why_not(
    steps: int, min_steps: int, spec: Mapping[str, Any], kind: str, cells: Mapping[int, float]
) -> str:
    """Why a cell is not run; empty if it is."""
    if steps < max(1, min_steps):
        return f"fewer than {min_steps} steps"
    if steps > MOST_STEPS:
        return f"more than {MOST_STEPS:g} steps"
    schedule = spec.get("schedule") or {}
    warmup = int(schedule.get("warmup_steps", 50))
    cooldown = cooldown_steps(spec, steps) if kind in ("wsd", "wsd-s") else 0
    if steps - cooldown <= warmup:
        return f"the warm-up of {warmup} steps is not over when the cool-down starts"
    if kind == "wsd-s":
        ends = [round(at * steps) for at in schedule.get("periods") or PERIODS]
        for begin, end in zip((0, *ends), ends, strict=False):
            if begin + warmup >= end - max(1, round(cooldown * end / steps)):
                return f"the period that ends at step {end} has no room for its cool-down"
        if ends[-1] != steps:
            return "schedule.periods does not end with 1"
    if kind == "step":
        at = [round(share * steps) for share, _ in schedule.get("drops") or DROPS]
        if at != sorted({*at}) or at[0] <= warmup or at[-1] >= steps:
            return f"schedule.drops at steps {at} do not rise from the warm-up to the end"
    if steps in cells:
        return f"the same {steps} steps as budget {cells[steps]:g}"
    return ""


def _sizes(spec: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    sizes: list[Mapping[str, Any]] = list(spec.get("sizes") or ())
    if spec.get("ladder"):
        if sizes:
            raise ServiceError(
                "invalid", "The sweep has both sizes and a ladder.", "Give one.", column="ladder"
            )
        return [*ladder(spec["ladder"])]
    if not sizes:
        raise ServiceError(
            "invalid",
            "sizes is empty.",
            'Give [{"d_model": 32, "n_layers": 2}], or a ladder: {"from": 32, "to": 128}.',
            column="sizes",
        )
    labels = [(size.get("d_model"), size.get("n_layers")) for size in sizes]
    for label in labels:
        if labels.count(label) > 1:
            raise ServiceError(
                "invalid",
                f"The size d_model {label[0]}, n_layers {label[1]} is given twice.",
                "Give each size once.",
                column="sizes",
            )
    return sizes


def _budgets(spec: Mapping[str, Any]) -> list[float]:
    budgets = sorted({_positive("budgets_flops", b) for b in spec.get("budgets_flops") or ()})
    if not budgets:
        raise ServiceError(
            "invalid", "budgets_flops is empty.", "Give [3e11, 1e12, 3e12].", column="budgets_flops"
        )
    labels = [f"{budget:.3g}" for budget in budgets]
    for label in labels:
        if labels.count(label) > 1:
            raise ServiceError(
                "invalid",
                f"Two budgets are both {label} to three digits.",
                "Space the budgets by 1% or more.",
                column="budgets_flops",
                value=label,
            )
    return budgets


def _positive(name: str, value: Any) -> float:
    number = float(value)
    if not (math.isfinite(number) and number > 0):
        raise ServiceError(
            "invalid",
            f"{name} is {value}.",
            "Give a positive number of FLOPs.",
            column=name,
            value=value,
        )
    return number


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


def _warnings(
    spec: Mapping[str, Any], runs: Sequence[PlannedRun], unique_tokens: Mapping[str, float]
) -> tuple[dict[str, str], ...]:
    warnings = []
    finals = [run for run in runs if run.cooled]
    sizes, lengths = {run.n["total"] for run in finals}, {run.tokens for run in finals}
    if len(finals) < 6 or len(sizes) < 3 or len(lengths) < 3:
        warnings.append(
            {
                "code": "small_sweep",
                "message": f"{len(finals)} final points over {len(sizes)} sizes and {len(lengths)} "
                "lengths: a law of five parameters wants at least 6 over 3 and 3.",
            }
        )
    train = spec["corpora"]["train"]
    total_weight = sum(corpus.get("weight", 1.0) for corpus in train)
    longest = max(run.tokens for run in runs)
    for corpus in train:
        unique = unique_tokens.get(corpus["name"])
        read = longest * corpus.get("weight", 1.0) / total_weight
        if unique and read > unique:
            warnings.append(
                {
                    "code": "more_than_one_epoch",
                    "message": f"The longest run reads {read:.3g} tokens of {corpus['name']}, "
                    f"which has {unique:.3g}: {read / unique:.2f} epochs.",
                }
            )
    return tuple(warnings)
