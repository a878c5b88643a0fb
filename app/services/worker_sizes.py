"""How large the workers are that a scheduler is asked for: what Slurm and Kubernetes have alike."""

from app.services.errors import ServiceError

MOST_GPUS = 64
MOST_CPUS = 4096


def check(
    gpus: int,
    gpus_per_run: int,
    runs_per_gpu: int | None,
    *others: tuple[str, int | None, int, int],
) -> None:
    """ServiceError, with what is accepted. `others`: (option, number, least, most) of more."""
    for name, number, least, most in (
        ("--gpus", gpus, 0, MOST_GPUS),
        ("--gpus-per-run", gpus_per_run, 1, max(1, gpus)),
        ("--runs-per-gpu", runs_per_gpu, 1, 64 if gpus else 0),
        *others,
    ):
        if number is not None and not least <= number <= most:
            accepted = f"It must be between {least} and {most}."
            if most < least:
                accepted = "It needs GPUs: add --gpus."
            raise ServiceError("invalid", f"{name} is {number}.", accepted)
    if gpus_per_run > 1 and runs_per_gpu is not None:
        raise ServiceError(
            "invalid",
            "--gpus-per-run is for large runs and --runs-per-gpu for small ones.",
            "Give one of them.",
        )
