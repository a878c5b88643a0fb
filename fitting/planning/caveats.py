"""What must be said with an answer: that it is at an edge, blind, or leans on others' numbers."""

from fitting.planning.candidates import Candidates
from fitting.planning.problem import ShapeProblem
from fitting.planning.table import PUBLISHED_R_D, Table, law_inputs


def caveats(
    problem: ShapeProblem, plans: Candidates, table: Table, at: int, refused: int
) -> list[dict[str, str]]:
    said: list[dict[str, str]] = []

    def warn(code: str, message: str) -> None:
        said.append({"code": code, "message": message})

    names = problem.fit.law.input_names
    width, depth = int(plans.width[at]), int(plans.depth[at])
    edges = [
        f"{name} {float(column[at]):g}"
        for name, column in (("width", plans.width), ("depth", plans.depth))
        if column.min() < column.max() and column[at] in (column.min(), column.max())
    ]
    if "depth" not in names:
        at_edge = f" It chose {width} x {depth}" + (
            f", at the edge of the grid ({', '.join(edges)})." if edges else "."
        )
        warn(
            "shape_blind",
            f"{problem.fit.law.name} knows the size and not the shape. Wide and shallow steps are "
            "fast, so it walks to as few layers as it is offered, where measured losses are up to "
            f"5.5% worse than it says.{at_edge} Fit width_depth to runs of some ten shapes.",
        )
    elif edges:
        warn("edge_of_grid", f"The best plan is at the edge of what was searched: "
             f"{', '.join(edges)}. Offer more, or calibrate further out.")  # fmt: skip
    if refused:
        warn("beyond_calibration", f"{refused} plans lie more than 4 times outside the measured "
             "shapes or GPUs and were not judged.")  # fmt: skip
    if problem.step_time.spans is None:
        warn("not_calibrated", f"Step times are read off a data sheet ({problem.step_time.source})."
             " `scalewright calibrate` measures them.")  # fmt: skip
    elif problem.step_time.mean_error > 0.15:
        warn("rough_step_time", f"Shapes left out of the calibration were missed by "
             f"{problem.step_time.mean_error:.0%} on average.")  # fmt: skip
    tokens, unique = float(table.tokens[0, at]), problem.unique_tokens
    if problem.max_tokens is not None and tokens > 0.98 * problem.max_tokens:
        warn(
            "tokens_cap",
            f"Tokens run out at {problem.max_tokens:.4g}: without the cap a smaller model on more "
            "tokens would be better.",
        )
    if unique is not None and tokens > unique:
        epochs = tokens / unique
        if "U" in names:
            warn("repeats", f"The plan reads its {unique:.4g} distinct tokens {epochs:.3g} times.")
        else:
            warn(
                "repeats_by_another_law",
                f"The plan reads its {unique:.4g} distinct tokens {epochs:.3g} times; what repeats "
                f"are worth is Muennighoff et al.'s R_D = {PUBLISHED_R_D:.3g}; their own runs "
                "leave it open from 6.5 upwards.",
            )
    if problem.critical_batch or len(problem.batches or ()) > 1:
        warn("batch_by_kaplan", "What a larger batch costs is Kaplan et al.'s critical batch size, "
             "measured on their models and data.")  # fmt: skip
    predicted = problem.fit.predict(law_inputs(problem, plans, at, tokens))
    far = {k: float(v[0]) for k, v in predicted.reach.items() if v[0] > 10}
    if far:
        warn("far_beyond_data", "The plan lies far beyond the largest fitted run: "
             + ", ".join(f"{k} {v:.3g} times" for k, v in far.items()) + ".")  # fmt: skip
    if problem.fit.status != "converged":
        warn(f"fit_{problem.fit.status}", problem.fit.message)
    return said
