"""One side of a link: runs of a project on a validation set, or points, in the link's unit.

A validation set says how many tokens and bytes were evaluated, so its losses are known in nats per
token and in bits per byte. What the runs were trained on, and with which tokenizer, travels with
them: a link holds for one training mixture, and losses per token of two tokenizers do not compare.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from sqlalchemy import Connection

from app.services import fits, laws, projects
from app.services.errors import ServiceError
from app.services.fits import FitRequest
from app.storage import runs as stored_runs
from fitting import Runs
from fitting.loss_to_loss.pairs import check_tokens_per_byte

PLANE = "chinchilla"
"""Any law of N and D: what a link pairs runs by."""


@dataclass(frozen=True)
class LinkSet:
    """data: which runs and validation set, or which points (its `law` is not read).

    tokens_per_byte, tokenizer, mixture: of points, where they are known; runs say it themselves.
    """

    data: FitRequest
    name: str | None = None
    tokens_per_byte: float | None = None
    tokenizer: str | None = None
    mixture: str | None = None


@dataclass(frozen=True)
class OpenSet:
    """A side as the link reads it. run_ids: of the points, in order; None where they are no runs.
    factor: what losses in `measured_unit` were multiplied by."""

    name: str
    runs: Runs
    run_ids: list[int] | None
    tokenizer: str | None
    mixtures: list[str] | None
    measured_unit: str
    factor: float
    left_out: list[dict[str, Any]] = field(default_factory=list)
    project_id: int | None = None
    validation_set: str | None = None


def open_set(
    connection: Connection,
    asked: LinkSet,
    side: str,
    unit: str | None,
    known: dict[int, dict[str, Any]] | None = None,
) -> OpenSet:
    """The side's runs with their losses in `unit` (None: as they were measured).

    known: what runs were trained on, where other sets have asked already; added to.
    ServiceError, with `side` in its column, where they cannot be had or converted.
    """
    request = asked.data
    try:
        if request.inputs is not None:
            runs = fits.runs_of_points(laws.find(PLANE), request)
            found = OpenSet(
                asked.name or side, runs, None, asked.tokenizer,
                None if asked.mixture is None else [asked.mixture] * len(runs),
                runs.loss_unit, 1.0,
            )  # fmt: skip
            per_byte = asked.tokens_per_byte
        else:
            found, per_byte = _of_project(connection, asked, side, {} if known is None else known)
        return _in_unit(found, unit, per_byte)
    except ServiceError as error:
        error.column = f"{side}.{error.column}" if error.column else side
        raise


def named_apart(sets: Sequence[OpenSet]) -> list[OpenSet]:
    """The sets with names that differ: what they are called twice is told apart by its mixture or
    its place."""
    out: list[OpenSet] = []
    for place, one in enumerate(sets):
        name = one.name
        if sum(other.name == one.name for other in sets) > 1:
            words = sorted(set(one.mixtures or ()))
            name = f"{one.name}, trained on {words[0]}" if len(words) == 1 else one.name
        if any(other.name == name for other in out) or (
            name == one.name and sum(other.name == name for other in sets) > 1
        ):
            name = f"{name} ({place + 1})"
        out.append(replace(one, name=name))
    return out


def same_unit(sets: Sequence[OpenSet]) -> None:
    """Refuse sets whose losses are in several units, with the remedy."""
    units = {one.runs.loss_unit for one in sets}
    if len(units) > 1:
        shown = ", ".join(f"{one.name}: {one.runs.loss_unit}" for one in sets)
        raise ServiceError(
            "invalid",
            f"The sets are in {len(units)} units ({shown}).",
            'Ask for one with "loss_unit": "bits/byte".',
            column="loss_unit",
        )


def mixture_of(config: Mapping[str, Any]) -> str | None:
    """What a run was trained on, in words: `code`, or `code 70% + english 30%`; None: not known."""
    sources = (config.get("data") or {}).get("train")
    if not sources:
        return None
    try:
        weights = {str(one["name"]): float(one.get("weight", 1.0)) for one in sources}
    except (KeyError, TypeError, ValueError):
        return None
    total = sum(weights.values())
    shares = [
        name if len(weights) == 1 or not total > 0 else f"{name} {100 * weight / total:.3g}%"
        for name, weight in weights.items()
    ]
    before = (config.get("init") or {}).get("kind") == "continual"
    return " + ".join(shares) + (" after other data" if before else "")


def _of_project(
    connection: Connection, asked: LinkSet, side: str, known: dict[int, dict[str, Any]]
) -> tuple[OpenSet, float | None]:
    request = asked.data
    chosen = fits.select_runs(connection, laws.find(PLANE), request)
    assert request.project is not None and request.validation_set is not None
    if new := set(chosen.run_ids) - known.keys():
        known |= stored_runs.trained_on(connection, new)
    said = [known[one] for one in chosen.run_ids]
    each = {id(one): one for one in said}  # runs that say the same share it
    words = {key: mixture_of(one) for key, one in each.items()}
    mixtures = [words[id(one)] for one in said]
    sizes = {(one.get("model") or {}).get("vocab_size") for one in each.values()}
    tokenizer = f"{sizes.pop()} tokens" if len(sizes) == 1 and None not in sizes else None
    found = OpenSet(
        name=asked.name or request.validation_set,
        runs=chosen.runs,
        run_ids=chosen.run_ids,
        tokenizer=asked.tokenizer or tokenizer,
        mixtures=[one or "" for one in mixtures] if all(mixtures) else None,
        measured_unit=chosen.runs.loss_unit,
        factor=1.0,
        left_out=[{"set": side, **row} for row in chosen.left_out],
        project_id=projects.resolve(connection, request.project).id,
        validation_set=request.validation_set,
    )
    return found, asked.tokens_per_byte or _tokens_per_byte(
        chosen.tokens_per_byte, request.validation_set
    )


def _tokens_per_byte(said: np.ndarray, validation_set: str) -> float | None:
    """Tokens to a byte of the validation text; None where some run's evaluation does not say.

    Runs of one tokenizer evaluate the same text: where they differ by more than a percent the
    sizes are not those of one text, and the median would hide it.
    """
    if np.isnan(said).any():
        return None
    least, most = float(said.min()), float(said.max())
    if most > 1.01 * least:
        raise ServiceError(
            "invalid",
            f"The evaluations on {validation_set!r} have {least:.4g} to {most:.4g} "
            "tokens to a byte: they are of several tokenizers.",
            "Select the runs of one.",
            column="select",
        )
    return float(np.median(said))


def _in_unit(found: OpenSet, unit: str | None, per_byte: float | None) -> OpenSet:
    runs = found.runs
    if unit is None or unit == runs.loss_unit:
        return found
    to_nats_per_byte = {"bits/byte": math.log(2.0), "nats/byte": 1.0, "nats/token": per_byte}
    into, out_of = to_nats_per_byte[runs.loss_unit], to_nats_per_byte[unit]
    if into is None or out_of is None:
        raise ServiceError(
            "invalid",
            f"Losses of {found.name!r} in {runs.loss_unit} become {unit} only with the tokens and "
            "bytes of its validation text, which are not known.",
            'Give "tokens_per_byte", counted on that text, or import evaluations with both.',
            column="tokens_per_byte",
        )
    if per_byte is not None and "nats/token" in (runs.loss_unit, unit):
        check_tokens_per_byte(per_byte)
    factor = into / out_of
    converted = Runs(
        inputs=runs.inputs,
        loss=runs.loss * factor,
        run=runs.group,
        n_convention=runs.n_convention,
        flops_convention=runs.flops_convention,
        loss_unit=unit,
        flops=runs.flops,
    )
    return replace(found, runs=converted, factor=factor)
