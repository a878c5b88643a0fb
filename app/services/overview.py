"""What is there, and what to do next: the read side of the overview."""

from typing import Any

from sqlalchemy import Connection

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
    """Forecasts with `label`, `error` (actual / forecast - 1) and `hit` (None until scored)."""
    return [judged(row) for row in storage.forecasts(connection, limit)]


def judged(row: Row) -> Row:
    """The forecast with its verdict: inside the interval, ends included, is a hit."""
    actual = row["actual"]
    inputs = ", ".join(f"{name} {value:.3g}" for name, value in (row["inputs"] or {}).items())
    inputs = inputs.replace("e+", "e")
    return row | {
        "label": row.get("run_name") or inputs or f"forecast {row['id']}",
        "error": None if actual is None else actual / row["loss"] - 1.0,
        "hit": None if actual is None else row["lower"] <= actual <= row["upper"],
    }


def score(rows: list[Row]) -> Row:
    """How the forecasts did: hits, mean |error|, median half-width (shares of the loss), reach."""
    scored = [row for row in rows if row["hit"] is not None]
    widths = sorted((row["upper"] - row["lower"]) / 2 / row["loss"] for row in rows)
    ratios = [row["compute_ratio"] for row in rows if row["compute_ratio"]]
    return {
        "scored": len(scored),
        "hits": sum(row["hit"] for row in scored),
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
