"""What is there, and what to do next: the read side of the overview."""

from dataclasses import asdict
from typing import Any

from sqlalchemy import Connection

from app.services import forecasts as kept
from app.storage import overview as storage
from app.storage import sweeps as stored_sweeps

Row = dict[str, Any]


def overview(connection: Connection) -> Row:
    """counts, projects, sweeps, forecasts (judged), fits and the next step that makes sense."""
    counts = storage.counts(connection)
    return {
        "counts": counts,
        "projects": storage.projects(connection),
        "sweeps": sweeps(connection),
        "forecasts": forecasts(connection, limit=12),
        "fits": storage.fits(connection, limit=1),
        "next_step": next_step(counts),
    }


def sweeps(connection: Connection, limit: int = 20, sweep_id: int | None = None) -> list[Row]:
    """Sweeps with the `share` of their compute that is done: a large run weighs what it costs."""
    rows = []
    for row in storage.sweeps(connection, limit, sweep_id):
        progress = stored_sweeps.progress(connection, row["id"])
        planned = progress.flops_planned
        share = min(1.0, progress.flops_done / planned) if planned > 0 else 0.0
        rows.append(row | {"share": share, "flops": planned})
    return rows


def forecasts(connection: Connection, limit: int = 100) -> list[Row]:
    """Forecasts, newest first, each with the `label` that tables and figures call it by."""
    found = kept.page(connection, limit=limit).items
    return [asdict(one) | {"label": _label(one)} for one in found]


def _label(one: kept.ForecastShown) -> str:
    at = ", ".join(f"{name} {value:.3g}" for name, value in sorted(one.inputs.items()))
    return one.run_name or at.replace("e+", "e") or f"forecast {one.id}"


def score(rows: list[Row]) -> Row:
    """How the forecasts did: hits, mean |error|, median half-width (shares of the loss), reach.

    Backtests are left out: they were made when the answer was known.
    """
    rows = [row for row in rows if row["made"] != "backtest"]
    scored = [row for row in rows if row["inside"] is not None]
    widths = sorted((row["upper"] - row["lower"]) / 2 / row["loss"] for row in rows)
    ratios = [row["compute_ratio"] for row in rows if row["compute_ratio"]]
    return {
        "scored": len(scored),
        "hits": sum(row["inside"] for row in scored),
        "expected": (
            f"{sum(row['level'] for row in scored):.1f} expected of honest intervals"
            if scored
            else "nothing scored yet"
        ),
        "mean_error": sum(abs(row["error"]) for row in scored) / len(scored) if scored else None,
        "half_width": widths[len(widths) // 2] if widths else None,
        "farthest": max(ratios) if ratios else None,
    }


def next_step(counts: Row) -> Row | None:
    """The one thing to do next: plan, wait, fit, or forecast; None when all of it has happened."""
    if not counts["runs"]:
        return {
            "title": "Start here: nothing has been measured yet",
            "text": "Plan a sweep of small proxy runs and let a worker train them, or import the "
            "runs that you already have. A CSV with N, D and loss is enough.",
            "command": "scalewright sweep submit sweep.json && scalewright worker\n"
            "scalewright import runs.csv --project my-project",
        }
    if not counts["finished"]:
        return {
            "title": "Next: let the runs finish",
            "text": "Runs are waiting for a worker. Start one for each core or GPU you can spare; "
            "a worker that dies loses nothing, another one resumes its run.",
            "command": "scalewright worker",
        }
    if not counts["fits"]:
        return {
            "title": "Next: fit a law to the finished runs",
            "text": "There are finished runs and no fit. Send POST /v1/fits with the project and "
            "the validation set, or fit a CSV on the command line.",
            "command": "scalewright fit chinchilla runs.csv",
        }
    if not counts["forecasts"]:
        return {
            "title": "Next: write a forecast down before the large run starts",
            "text": "Under Predict, see what loss a larger run would reach and how a budget is "
            "best spent. Keep the number with POST /v1/forecasts: it is scored when the run lands.",
            "command": None,
        }
    return None
