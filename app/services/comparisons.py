"""Which law forecasts these runs best: every law that they have the inputs of, ranked by its error
on the larger runs when it has seen the smaller ones only.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from app.services import fits, laws
from app.services.errors import ServiceError
from app.services.fits import AUTO, FitRequest, StoredFit
from fitting import Runs
from fitting.compare import Comparison, candidates, choose
from fitting.compare import compare as judge


@dataclass(frozen=True)
class Compared:
    """A comparison with what it was made from: the runs' ids (none for points), the reasons of
    those that were left out, and the rows that were read (None for points)."""

    comparison: Comparison
    runs: Runs
    run_ids: list[int]
    left_out: list[dict[str, Any]]
    rows: fits.Rows | None

    @property
    def best(self) -> str:
        return self.comparison.best(self.runs.inputs)

    def to_dict(self) -> dict[str, Any]:
        """The comparison, with the conventions that its numbers stand on; NaN is null."""
        document = {
            **self.comparison.to_dict(),
            "n_points": self.runs.n_used,
            "digest": self.runs.digest,
            "n_convention": self.runs.n_convention,
            "flops_convention": self.runs.flops_convention,
            "loss_unit": self.runs.loss_unit,
            "run_ids": self.run_ids,
            "left_out": self.left_out,
        }
        return dict(fits.finite(document))


def compare(
    connection: Connection,
    request: FitRequest,
    names: Sequence[str] | None = None,
    *,
    to_choose: bool = False,
) -> Compared:
    """Rank the laws `names` (default: `fitting.compare.candidates`).

    to_choose: those of them that `auto` may take.
    """
    rows = None
    if request.inputs is None:
        rows = fits.read_rows(connection, request)
        selected = fits.selected_of(rows, None, request)
        runs, run_ids, left_out = selected.runs, selected.run_ids, selected.left_out
    else:
        runs, run_ids, left_out = fits.runs_of_points(None, request), [], []
    known = set(runs.inputs) | ({"C"} if runs.compute() is not None else set())
    chosen = (
        candidates(known) if names is None else [laws.find(name) for name in dict.fromkeys(names)]
    )
    if not chosen:
        raise ServiceError(
            "invalid",
            f"No law takes the inputs {', '.join(runs.inputs) or '(none)'} and no others.",
            "Give N and D; GET /v1/laws lists what each law takes.",
        )
    found = (choose if to_choose else judge)(
        runs, chosen, objective=fits.objective_of(request), seed=request.seed
    )
    return Compared(found, runs, run_ids, left_out, rows)


def create_fit(connection: Connection, request: FitRequest) -> StoredFit:
    """Fit and store. For the law "auto" it is the first of the comparison, and the document says
    under `compared` which laws were ranked, and how."""
    if request.law != AUTO:
        return fits.create(connection, request)
    found = compare(connection, request, to_choose=True)
    document = {
        name: part
        for name, part in found.to_dict().items()
        if name in ("ranked", "skipped", "held_out", "drawn_from")
    }
    return fits.create(
        connection, request, chosen=found.best, more={"compared": document}, rows=found.rows
    )
