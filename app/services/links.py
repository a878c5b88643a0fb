"""Links: one loss from another, fitted to pairs of runs, or of evaluations of the same run.

A link is kept with its pairs, so that its page can draw them whatever becomes of the runs. It never
changes; to fit again is to make another.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any

import numpy as np
from sqlalchemy import Connection

from app.services import fits, fitted, paging
from app.services.errors import ServiceError
from app.services.link_sets import LinkSet, OpenSet, named_apart, open_set, same_unit
from app.storage import fitted as storage
from app.storage.fitted import Stored
from fitting import FittingError, Prediction
from fitting.loss_to_loss import Link, LinkPrediction, Pairs, fit_link, pair
from fitting.loss_to_loss import transitivity as by_way

RESOURCE: storage.Resource = "link"
MAX_DRAWS = 5_000
MAX_RUNS = 100_000
# A link has four parameters: so many pairs, drawn by the seed, speak for more.
DRAWN_PAIRS = 300
MAX_LOSSES = 10_000
MAX_SETS = 12


@dataclass(frozen=True)
class LinkRequest:
    """kind, method, pairing: None for what the sets suggest (see `kind_of`) and the library's
    defaults. unit: what losses are converted to. hold_out: pairs of more FLOPs than this are
    predicted, not fitted. kappa_prior: (mean, sd), None for none, "default" for the kind's own."""

    source: LinkSet
    target: LinkSet
    others: tuple[LinkSet, ...] = ()
    kind: str | None = None
    method: str | None = None
    pairing: str = "exact"
    unit: str | None = None
    E0: float | None = None
    E1: float | None = None
    floor_law: str | None = None
    kappa_prior: tuple[float, float] | str | None = "default"
    noise_ratio: float = 1.0
    hold_out: float | None = None
    draws: int = 400
    resample: str = "cell"
    level: float = 0.9
    seed: int = 0


@dataclass(frozen=True)
class StoredLink:
    """A link as it is kept. `document` is LINK.json with its pairs; draws where asked for."""

    id: int
    project_id: int | None
    kind: str
    status: str
    digest: str
    request: dict[str, Any]
    document: dict[str, Any]
    run_ids: list[int]
    created_at: datetime


@dataclass(frozen=True)
class SourceLoss:
    """What a link is asked about: losses, or the points at which a stored fit forecasts them.

    measured False: `loss` is itself a forecast; `lower`, `upper` its interval, at the level asked
    for, where it is known. flops: of the runs, for how far they reach.
    """

    loss: Sequence[float] | None = None
    measured: bool = True
    lower: Sequence[float] | None = None
    upper: Sequence[float] | None = None
    fit: int | None = None
    inputs: Mapping[str, Sequence[float]] | None = None
    flops: Sequence[float] | None = None
    mixture: str | None = None
    level: float | None = None


def create(connection: Connection, request: LinkRequest) -> StoredLink:
    """Pair, fit and store. ServiceError or FittingError where it cannot be done, all of it."""
    sets = open_sets(connection, request)
    kind = request.kind or kind_of(sets[0], sets[1])
    pairs = _paired(sets, request.pairing)
    used, held = split_at(pairs, request.hold_out)
    found = used.n_pairs
    used = drawn(used, request.seed)
    link = fit_link(
        used,
        kind,
        method=request.method,
        E0=request.E0,
        E1=request.E1,
        floor_law=request.floor_law,
        kappa_prior=request.kappa_prior,
        noise_ratio=request.noise_ratio,
        draws=request.draws,
        resample=request.resample,
        level=request.level,
        seed=request.seed,
    )
    document = fits.finite(
        {
            **link.to_dict(),
            "sets": [_described(one) for one in sets],
            "pairs": rows_of(used),
            "drawn_from": found if found > used.n_pairs else None,
            "held_out": None
            if held is None
            else judged(link, drawn(held, request.seed), request.hold_out),
            "transitivity": transitivity(used, link),
            "left_out": [row for one in sets for row in one.left_out],
        }
    )
    digest = hashlib.sha256(" ".join(one.runs.digest for one in sets).encode()).hexdigest()
    stored = storage.create(
        connection,
        RESOURCE,
        kind=link.kind,
        status=link.status,
        digest=digest,
        request=described(request),
        document=document,
        project_id=next((one.project_id for one in sets if one.project_id is not None), None),
        run_ids=sorted({one for opened in sets for one in opened.run_ids or ()}),
    )
    return _shown(stored, draws=False)


def get(connection: Connection, link_id: int, *, draws: bool = False) -> StoredLink:
    return _shown(fitted.get(connection, RESOURCE, link_id), draws=draws)


def page(
    connection: Connection,
    *,
    project: str | int | None = None,
    kind: str | None = None,
    cursor: str | None = None,
    limit: int = paging.DEFAULT_LIMIT,
) -> paging.Page[StoredLink]:
    """Newest first, without draws."""
    return fitted.page_as(
        connection,
        RESOURCE,
        lambda one: _shown(one, draws=False),
        project=project,
        kind=kind,
        cursor=cursor,
        limit=limit,
    )


def load(connection: Connection, link_id: int) -> Link:
    """The link itself, with its draws: what predicts and translates."""
    return link_of(fitted.get(connection, RESOURCE, link_id).document)


def link_of(document: Mapping[str, Any]) -> Link:
    """A Link from a stored document, whose missing numbers are null."""
    parts = dict(document)
    for name in ("calibration", "source_law"):
        if parts.get(name):
            parts[name] = {k: math.nan if v is None else v for k, v in parts[name].items()}
    for name in ("r2", "r2_log"):
        parts[name] = math.nan if parts.get(name) is None else parts[name]
    return Link.from_dict(parts)


def predict(
    connection: Connection, link_id: int, asked: SourceLoss
) -> tuple[LinkPrediction, list[dict[str, str]]]:
    """The target's losses with their intervals, and what is to be said beside the link's own
    warnings. A source loss from a fit is a forecast: its interval goes in."""
    stored = fitted.get(connection, RESOURCE, link_id)
    link = link_of(stored.document)
    if (asked.loss is None) == (asked.fit is None):
        raise ServiceError(
            "invalid",
            "A link needs the source's loss: a number, or a fit that forecasts it, and not both.",
            'Give "source_loss", or "fit" with "points".',
            column="source_loss",
        )
    if asked.fit is not None:
        source, flops, notes = _forecast(connection, stored, link, asked)
        found = link.predict(
            source, flops=asked.flops or flops, mixture=asked.mixture, level=asked.level
        )
        return found, notes
    assert asked.loss is not None
    count = len(asked.loss)
    for name in ("lower", "upper", "flops"):
        column = getattr(asked, name)
        if column is not None and len(column) != count:
            raise ServiceError(
                "invalid",
                f"{len(column)} values of {name} for {count} source losses.",
                "Give one for each.",
                column=name,
            )
    interval = None
    if asked.lower is not None and asked.upper is not None:
        interval = (np.asarray(asked.lower), np.asarray(asked.upper))
    found = link.predict(
        np.asarray(asked.loss, dtype=float),
        measured=asked.measured and interval is None,
        source_interval=interval,
        flops=asked.flops,
        mixture=asked.mixture,
        level=asked.level,
    )
    return found, []


def open_sets(connection: Connection, request: LinkRequest) -> list[OpenSet]:
    """Source, target and the others, in one unit and with names that differ."""
    asked = [("source", request.source), ("target", request.target)]
    asked += [(f"others.{place + 1}", one) for place, one in enumerate(request.others)]
    if len(asked) > MAX_SETS:
        raise ServiceError(
            "too_large", f"{len(asked)} sets are more than {MAX_SETS}.", "Link fewer at once."
        )
    known: dict[int, dict[str, Any]] = {}
    sets = named_apart(
        [open_set(connection, one, side, request.unit, known) for side, one in asked]
    )
    same_unit(sets)
    biggest = max(sets, key=lambda one: len(one.runs))
    if len(biggest.runs) > MAX_RUNS:
        raise ServiceError(
            "too_large",
            f"{biggest.name!r} has {len(biggest.runs)} runs, more than {MAX_RUNS}.",
            "Select fewer.",
        )
    return sets


def kind_of(source: OpenSet, target: OpenSet) -> str:
    """What two sets suggest: one model on two texts, two models on one text, or two of both."""
    if source.run_ids is None or target.run_ids is None:
        return "train_to_train"
    if set(source.run_ids) & set(target.run_ids):
        return "train_to_test"
    return "test_to_test" if source.validation_set == target.validation_set else "train_to_train"


def split_at(pairs: Pairs, flops: float | None) -> tuple[Pairs, Pairs | None]:
    """Pairs up to `flops`, and those beyond; (all, None) without a cut."""
    if flops is None:
        return pairs, None
    below = pairs.compute <= flops * (1 + 1e-9)
    used, held = pairs.select(below), pairs.select(~below)
    if used.n_pairs < 3 or not held.n_pairs:
        raise ServiceError(
            "not_enough_data",
            f"{used.n_pairs} of {pairs.n_pairs} pairs have at most {flops:.4g} FLOPs: at least "
            "3 are to be fitted and 1 held out.",
            f"Choose a cut between {pairs.compute[pairs.paired].min():.4g} and "
            f"{pairs.compute[pairs.paired].max():.4g}.",
            column="hold_out_above_flops",
            value=flops,
        )
    return used, held


def drawn(pairs: Pairs, seed: int) -> Pairs:
    """`DRAWN_PAIRS` of the pairs at random where there are more, and as many of the cells that only
    one set has."""
    rng = np.random.default_rng([seed, 31])
    keep = np.zeros(pairs.paired.size, dtype=bool)
    for cells in (np.flatnonzero(pairs.paired), np.flatnonzero(~pairs.paired)):
        few = cells.size <= DRAWN_PAIRS
        keep[cells if few else rng.choice(cells, DRAWN_PAIRS, replace=False)] = True
    return pairs if keep.all() else pairs.select(keep)


def rows_of(pairs: Pairs) -> list[dict[str, Any]]:
    """{N, D, flops, source, target} of each pair, by increasing compute."""
    rows = np.flatnonzero(pairs.paired)
    return [
        {
            "N": float(pairs.N[i]),
            "D": float(pairs.D[i]),
            "flops": float(pairs.compute[i]),
            "source": float(pairs.x[i]),
            "target": float(pairs.y[i]),
        }
        for i in rows[np.argsort(pairs.compute[rows], kind="stable")].tolist()
    ]


def judged(link: Link, held: Pairs, cut: float | None) -> dict[str, Any]:
    """Pairs that were not fitted, each with what the link said of it from its measured source
    loss; a source loss at or below E0 has no forecast, which is said, not clipped."""
    points = []
    for row in rows_of(held):
        try:
            found = link.predict(row["source"], flops=row["flops"])
        except FittingError as error:
            points.append({**row, "refused": error.message})
            continue
        loss, lower, upper = (float(v[0]) for v in (found.value, found.lower, found.upper))
        points.append(
            {
                **row,
                "loss": loss,
                "lower": lower,
                "upper": upper,
                "error": loss / row["target"] - 1.0,
                "inside": bool(lower <= row["target"] <= upper),
            }
        )
    scored = [abs(point["error"]) for point in points if "error" in point]
    return {
        "above_flops": cut,
        "points": points,
        "mean_error": float(np.mean(scored)) if scored else None,
        "worst_error": float(np.max(scored)) if scored else None,
        "inside": sum(bool(point.get("inside")) for point in points),
    }


def transitivity(pairs: Pairs, link: Link) -> list[dict[str, Any]]:
    """Where a third set shares the cells: source -> third at once, and by way of the target.

    Three links by the method `free_E1`, each from its own pairs, so that they may disagree (links
    of one joint fit never do); difference: the largest relative one over the pairs.
    """
    out: list[dict[str, Any]] = []
    for place in range(2, pairs.losses.shape[1]):
        third = pairs.names[place]
        try:
            there = _between(pairs, 0, place, link)
            first = _between(pairs, 0, 1, link)
            second = _between(pairs, 1, place, link)
        except FittingError as error:
            out.append({"third": third, "refused": error.message})
            continue
        with np.errstate(all="ignore"):
            ratio = by_way(there.values, first.values, second.values, pairs.x[pairs.paired])
        ratio = np.abs(ratio[np.isfinite(ratio)])
        out.append(
            {
                "third": third,
                "kappa": there.params["kappa"],
                "kappa_by_way": first.params["kappa"] * second.params["kappa"],
                "difference": float(ratio.max()) if ratio.size else None,
            }
        )
    return out


def described(request: LinkRequest) -> dict[str, Any]:
    """What is stored with the link: enough to make it again."""
    parts = asdict(replace(request, source=_NO_SET, target=_NO_SET, others=()))
    parts["source"] = _asked(request.source)
    parts["target"] = _asked(request.target)
    parts["others"] = [_asked(one) for one in request.others]
    if isinstance(request.kappa_prior, tuple):
        parts["kappa_prior"] = list(request.kappa_prior)
    return parts


def request_from(described: Mapping[str, Any]) -> LinkRequest:
    """The opposite of `described`."""
    parts = dict(described)
    prior = parts["kappa_prior"]
    return LinkRequest(
        **{
            **parts,
            "source": _set_from(parts["source"]),
            "target": _set_from(parts["target"]),
            "others": tuple(map(_set_from, parts["others"])),
            "kappa_prior": tuple(prior) if isinstance(prior, list) else prior,
        }
    )


_NO_SET = LinkSet(fits.FitRequest(law=""))
_OF_SET = ("name", "tokens_per_byte", "tokenizer", "mixture")


def _set_from(asked: Mapping[str, Any]) -> LinkSet:
    named = {name: asked[name] for name in _OF_SET if name in asked}
    data = {name: value for name, value in asked.items() if name not in _OF_SET}
    return LinkSet(fits.request_from({"law": "", **data}), **named)


def _asked(one: LinkSet) -> dict[str, Any]:
    data = fits.describe_request(one.data)
    for name in ("law", "objective", "delta", "draws", "level", "seed"):
        data.pop(name)
    named = {name: getattr(one, name) for name in _OF_SET}
    return {**data, **{name: value for name, value in named.items() if value is not None}}


def _described(one: OpenSet) -> dict[str, Any]:
    mixtures = sorted(set(one.mixtures or ()))
    return {
        "name": one.name,
        "validation_set": one.validation_set,
        "project_id": one.project_id,
        "n_runs": len(one.runs),
        "measured_unit": one.measured_unit,
        "factor": one.factor,
        "tokenizer": one.tokenizer,
        "mixtures": mixtures,
    }


def _paired(sets: Sequence[OpenSet], how: str) -> Pairs:
    source, target = sets[0], sets[1]
    tokenizers = None
    if source.tokenizer and target.tokenizer:
        tokenizers = (source.tokenizer, target.tokenizer)
    return pair(
        source.runs,
        target.runs,
        how,
        names=(source.name, target.name),
        others={one.name: one.runs for one in sets[2:]} or None,
        tokenizers=tokenizers,
        mixtures=(source.mixtures, target.mixtures),
    )


def _between(pairs: Pairs, source: int, target: int, link: Link) -> Link:
    """The link of two of the sets by itself, without draws."""
    known = {0: float(link.values[2]), 1: float(link.values[3])}
    two = replace(
        pairs,
        losses=pairs.losses[:, [source, target]],
        names=(pairs.names[source], pairs.names[target]),
        warnings=(),
    )
    return fit_link(two, link.kind, method="free_E1", E0=known[source], draws=0)


def _forecast(
    connection: Connection, stored: Stored, link: Link, asked: SourceLoss
) -> tuple[Prediction, list[float] | None, list[dict[str, str]]]:
    """The source's loss by a stored fit, in the link's unit, the runs' compute, and warnings."""
    assert asked.fit is not None
    kept = fits.get(connection, asked.fit)
    fit = fits.load(connection, asked.fit)
    if asked.inputs is None:
        raise ServiceError(
            "invalid",
            f"Fit {asked.fit} forecasts the source's loss only somewhere.",
            'Give "points", each with every input of its law.',
            column="points",
        )
    if fit.n_convention != link.n_convention:
        raise ServiceError(
            "invalid",
            f"Fit {asked.fit} counts N as {fit.n_convention}, the link as {link.n_convention}.",
            "Fit both by one convention.",
            column="fit",
            value=asked.fit,
        )
    found = fit.predict({name: np.asarray(column) for name, column in asked.inputs.items()})
    if fit.loss_unit != link.unit:
        side = stored.document.get("sets", [{}])[0]
        if side.get("measured_unit") != fit.loss_unit:
            raise ServiceError(
                "invalid",
                f"Fit {asked.fit} is in {fit.loss_unit}, the link in {link.unit}.",
                "Fit both in one unit.",
                column="fit",
                value=asked.fit,
            )
        factor = float(side["factor"])
        found = replace(
            found, value=found.value * factor, lower=found.lower * factor,
            upper=found.upper * factor, loss_unit=link.unit,
        )  # fmt: skip
    notes = []
    said = kept.request.get("validation_set")
    asked_of = stored.request.get("source", {}).get("validation_set")
    if said is not None and asked_of is not None and said != asked_of:
        notes.append(
            {
                "code": "another_validation_set",
                "message": f"Fit {asked.fit} is of losses on {said}, the link's source is "
                f"{asked_of}: the forecast is of another loss.",
            }
        )
    flops = None
    if "N" in found.inputs and "D" in found.inputs:
        flops = (6.0 * found.inputs["N"] * found.inputs["D"]).tolist()
    return found, flops, notes


def _shown(stored: Stored, *, draws: bool) -> StoredLink:
    parts = {**vars(stored), "document": dict(stored.document), "run_ids": list(stored.run_ids)}
    if not draws:
        parts["document"].pop("draws", None)
    return StoredLink(**parts)
