"""A sweep's specification -> the exact runs to train. Pure: nothing is read or stored.

For each size one trunk at constant learning rate, and from it one branch for each budget that
cools down to a finished run: with budgets x3.16 apart and a 20% cool-down this trains 25% fewer
tokens than separate runs, and every further budget costs only its own part.
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
from app.services.run_config import (
    MOST_STEPS,
    cooldown_steps,
    flops_per_token,
    is_cooled,
    model_shape,
    parameter_counts,
    run_schedule,
    schedule_kind,
    schedule_of,
    steps_for,
    trainer_config,
    why_no_run,
)

SCHEDULES = ("wsd", "cosine", "linear", "step", "wsd-s")
MAX_RUNS = 2000
# Below this many steps an initial transient is measured, not a power law (a rule of thumb; what
# the demo's sweep says of it: docs/demo-sweep.md).
MIN_STEPS = 1000


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

    @classmethod
    def of(
        cls,
        name: str,
        kind: str,
        config: dict[str, Any],
        *,
        parent: str | None = None,
        parent_step: int | None = None,
        budget_flops: float | None = None,
    ) -> "PlannedRun":
        """What follows from the trainer's configuration. A branch counts its trunk's steps as its
        own; any other child counts from 1."""
        shape = model_shape(config["model"])
        steps = int(config["schedule"]["steps"])
        tokens = float(steps) * float(config["batch_tokens"])
        return cls(
            name=name,
            kind=kind,
            cooled=is_cooled(config["schedule"]),
            config=config,
            steps=steps,
            new_steps=steps - (parent_step or 0) if kind == "branch" else steps,
            tokens=tokens,
            n={convention: float(n) for convention, n in parameter_counts(shape).items()},
            flops={name: flops * tokens for name, flops in flops_per_token(shape).items()},
            parent=parent,
            parent_step=parent_step,
            budget_flops=budget_flops,
        )

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
                   lrs: every size and budget at each of these peak rates, each a recipe of its own
                   repeat_seeds: the shortest run of each size again with these seeds
    paths          corpus name -> folder, for each corpus that the spec names
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
    _check_schedule_kind(spec, SCHEDULES)
    runs: list[PlannedRun] = []
    skipped: list[dict[str, Any]] = []
    for size in sizes:
        shape = model_shape({**spec.get("model", {}), **size})
        cells: dict[int, float] = {}
        for budget in budgets:
            steps = steps_for(shape, budget, int(spec["batch_tokens"]))
            if reason := _why_skipped(steps, spec, cells):
                skipped.append(
                    {"size": dict(size), "budget_flops": budget, "steps": steps, "reason": reason}
                )
            else:
                cells[steps] = budget
        for suffix, recipe in rates.items() if cells else ():
            runs += _runs_of_size(name + suffix, recipe, shape, cells, paths)
            runs += _repeats(name + suffix, recipe, shape, cells, paths)
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
    _check_schedule_kind(spec, (*SCHEDULES, "constant"))
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
    schedule = run_schedule(spec, steps)
    branch_at = sorted({int(at) for at in spec.get("checkpoint_at_steps") or () if at <= steps})
    return PlannedRun.of(
        name,
        "single" if is_cooled(schedule) else "trunk",
        trainer_config(spec, shape, schedule, paths, branch_at=branch_at),
        budget_flops=budget_flops,
    )


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


def _runs_of_size(
    name: str,
    spec: Mapping[str, Any],
    shape: Mapping[str, Any],
    cells: Mapping[int, float],
    paths: Mapping[str, str],
) -> list[PlannedRun]:
    """cells: steps -> budget, of the runs that a law is fitted to."""
    label = f"{name}/d{shape['d_model']}-L{shape['n_layers']}"
    if schedule_kind(spec) != "wsd":
        return [
            PlannedRun.of(
                f"{label}-{budget:.3g}",
                "single",
                trainer_config(spec, shape, schedule_of(spec, steps), paths),
                budget_flops=budget,
            )
            for steps, budget in sorted(cells.items())
        ]
    starts = {steps: steps - cooldown_steps(spec, steps) for steps in sorted(cells)}
    constant = {
        **schedule_of(spec, max(starts.values())), "kind": "constant", "cooldown_steps": 0
    }  # fmt: skip
    branch_at = sorted(set(starts.values()))
    trunk = PlannedRun.of(
        f"{label}-trunk", "trunk", trainer_config(spec, shape, constant, paths, branch_at=branch_at)
    )
    branches = [
        PlannedRun.of(
            f"{label}-{cells[steps]:.3g}",
            "branch",
            trainer_config(spec, shape, schedule_of(spec, steps), paths),
            parent=trunk.name,
            parent_step=start,
            budget_flops=cells[steps],
        )
        for steps, start in starts.items()
    ]
    return [trunk, *branches]


def _repeats(
    name: str,
    spec: Mapping[str, Any],
    shape: Mapping[str, Any],
    cells: Mapping[int, float],
    paths: Mapping[str, str],
) -> list[PlannedRun]:
    """The shortest run once more for each of `repeat_seeds`, alone: what luck is worth."""
    steps = min(cells)
    label = f"{name}/d{shape['d_model']}-L{shape['n_layers']}-{cells[steps]:.3g}"
    schedule = schedule_of(spec, steps)
    return [
        PlannedRun.of(
            f"{label}-s{seed}",
            "single",
            trainer_config({**spec, "seed": seed}, shape, schedule, paths),
            budget_flops=cells[steps],
        )
        for seed in _repeat_seeds(spec)
    ]


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


def _check_schedule_kind(spec: Mapping[str, Any], known: Sequence[str]) -> None:
    kind = schedule_kind(spec)
    if kind not in known:
        raise ServiceError(
            "invalid",
            f"schedule.kind is {kind!r}.",
            f"Use one of {', '.join(known)}.",
            column="schedule.kind",
            value=kind,
        )


def _why_skipped(steps: int, spec: Mapping[str, Any], cells: Mapping[int, float]) -> str:
    """Why a cell of so many steps is not run beside `cells`; empty if it is."""
    min_steps, max_steps = int(spec.get("min_steps", MIN_STEPS)), spec.get("max_steps")
    if steps < min_steps:
        return f"fewer than {min_steps} steps"
    if reason := why_no_run(spec, steps):
        return reason
    if steps in cells:
        return f"the same {steps} steps as budget {cells[steps]:g}"
    if max_steps is not None and steps > int(max_steps):
        return f"more than {int(max_steps)} steps"
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
