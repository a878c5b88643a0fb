"""Hours and money -> a budget in FLOPs, at a share of a peak that is taken as given."""

from fitting.errors import FittingError


def budget_flops(
    *,
    gpu_hours: float | None = None,
    dollars: float | None = None,
    hours: float | None = None,
    gpus: float | None = None,
    peak_flops_per_second: float,
    utilisation: float,
    dollars_per_gpu_hour: float | None = None,
) -> float:
    """FLOPs that time or money buys: GPU-hours x 3600 x peak x utilisation (MFU, in (0, 1]).

    Give exactly one of gpu_hours; dollars with dollars_per_gpu_hour; hours with gpus.
    """
    given = [gpu_hours is not None, dollars is not None, hours is not None or gpus is not None]
    if sum(given) != 1:
        raise FittingError(
            "bad_option",
            f"{sum(given)} budgets were given.",
            "Give one of: gpu_hours; dollars and dollars_per_gpu_hour; hours and gpus.",
        )
    if dollars is not None:
        if not dollars_per_gpu_hour or dollars_per_gpu_hour <= 0:
            raise FittingError("bad_option", "dollars needs dollars_per_gpu_hour, positive.")
        gpu_hours = dollars / dollars_per_gpu_hour
    elif gpu_hours is None:
        if hours is None or gpus is None:
            raise FittingError("bad_option", "hours and gpus go together.", "Give both.")
        gpu_hours = hours * gpus
    if not 0 < utilisation <= 1:
        raise FittingError("bad_option", f"utilisation is {utilisation}.", "Give one in (0, 1].")
    if not (gpu_hours > 0 and peak_flops_per_second > 0):
        raise FittingError("bad_option", "Hours and peak FLOPs per second must be positive.")
    return float(gpu_hours) * 3600.0 * peak_flops_per_second * utilisation
