"""`scalewright cluster`: workers under the scheduler that people already have."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli_options import Json
from app.cli_output import Refused, note, print_json

if TYPE_CHECKING:
    from app.settings import Settings

GpusPerRun = Annotated[
    int, typer.Option(help="Of these, how many each run has at once, for runs of several.")
]
RunsPerGpu = Annotated[int | None, typer.Option(help="How many small runs share each GPU.")]

cluster = typer.Typer(no_args_is_help=True, help="Workers on a cluster: slurm, kubernetes.")


@cluster.command("slurm")
def slurm(
    array: Annotated[int, typer.Option(help="How many workers.")] = 1,
    gpus: Annotated[int, typer.Option(help="GPUs of each worker.")] = 0,
    gpus_per_run: GpusPerRun = 1,
    runs_per_gpu: RunsPerGpu = None,
    cpus: Annotated[int, typer.Option(help="Cores of each worker.")] = 1,
    concurrency: Annotated[
        int | None,
        typer.Option(help="Runs at once in each worker; else one per GPU, or per core."),
    ] = None,
    at_once: Annotated[
        int | None, typer.Option(help="How many of the array may run at the same time.")
    ] = None,
    partition: Annotated[str | None, typer.Option(help="As sbatch's.")] = None,
    account: Annotated[str | None, typer.Option(help="As sbatch's.")] = None,
    qos: Annotated[str | None, typer.Option(help="As sbatch's.")] = None,
    constraint: Annotated[str | None, typer.Option(help="As sbatch's; one feature.")] = None,
    reservation: Annotated[str | None, typer.Option(help="As sbatch's.")] = None,
    time: Annotated[str | None, typer.Option(help="As sbatch's, for example 4:00:00.")] = None,
    mem: Annotated[str | None, typer.Option(help="As sbatch's, for example 16G.")] = None,
    grace: Annotated[
        int, typer.Option(help="Seconds before the end at which runs are given back.")
    ] = 60,
    stay: Annotated[
        bool,
        typer.Option("--stay", help="Wait for new work instead of leaving when there is none."),
    ] = False,
    requeue: Annotated[
        bool, typer.Option(help="Come back after the time limit or a preemption.")
    ] = True,
    database_url_file: Annotated[
        Path | None,
        typer.Option(
            help="A file with the database's URL that every node can read, and only its owner; "
            "else DATABASE_URL travels in the job's environment."
        ),
    ] = None,
    python: Annotated[
        Path | None, typer.Option(help="The interpreter on the nodes; else this one.")
    ] = None,
    log_dir: Annotated[
        Path | None, typer.Option(help="Logs and the script; else `slurm` in the data folder.")
    ] = None,
    job_name: Annotated[str, typer.Option(help="As sbatch's.")] = "scalewright",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the script; submit nothing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Write and submit an array of workers: each trains what is queued in one Postgres."""
    from app.cli_operate import settings_or_refuse
    from app.services import slurm as service

    if database_url_file is not None:
        database_url_file = service.check_secret_file(database_url_file)
    settings = settings_or_refuse(database_url_file=database_url_file)
    _refuse_embedded(settings)
    options = {
        "partition": partition,
        "account": account,
        "qos": qos,
        "constraint": constraint,
        "reservation": reservation,
        "time": time,
        "mem": mem,
    }
    variables = {
        "SCALEWRIGHT_DATA_DIR": str(settings.data_dir),
        "SCALEWRIGHT_CHECKPOINT_DIR": str(settings.checkpoint_dir),
        "SCALEWRIGHT_CORPUS_DIR": str(settings.corpus_dir),
    }
    if settings.checkpoint_store is not None:
        variables["SCALEWRIGHT_CHECKPOINT_STORE"] = settings.checkpoint_store
    by_file = settings.database_url_file is not None
    if by_file:
        variables["SCALEWRIGHT_DATABASE_URL_FILE"] = str(settings.database_url_file)
    folder = (log_dir or settings.data_dir / "slurm").expanduser().absolute()
    job = service.WorkerArray(
        array=array,
        gpus=gpus,
        gpus_per_run=gpus_per_run,
        runs_per_gpu=runs_per_gpu,
        cpus=cpus,
        concurrency=concurrency,
        at_once=at_once,
        grace_seconds=grace,
        drain=not stay,
        requeue=requeue,
        job_name=job_name,
        log_dir=folder,
        python=(python or Path(sys.executable)).absolute(),
        variables=variables,
        options={name: value for name, value in options.items() if value is not None},
    )
    text = service.script(job)
    if dry_run:
        typer.echo(text, nl=False) if not as_json else print_json({"script": text})
        return
    environment = service.environment_of_submission(os.environ, with_url=not by_file)
    path = folder / f"{job_name}.sbatch"
    job_id = service.submit(text, path, environment)
    if as_json:
        print_json({"job_id": job_id, "script": str(path), "log_dir": str(folder)})
    else:
        note(f"submitted {array} workers as job {job_id}; script and logs in {folder}")
        typer.echo(job_id)


@cluster.command("kubernetes")
def kubernetes(
    replicas: Annotated[int, typer.Option(help="How many workers.")] = 4,
    gpus: Annotated[int, typer.Option(help="GPUs of each worker; 0 for none.")] = 1,
    gpus_per_run: GpusPerRun = 1,
    runs_per_gpu: RunsPerGpu = None,
    cpus: Annotated[int, typer.Option(help="Cores that each worker asks for.")] = 2,
    mem: Annotated[str | None, typer.Option(help="Memory of each worker, such as 16Gi.")] = None,
    worker_image: Annotated[
        str, typer.Option(help="The Dockerfile's `worker`, as your registry has it.")
    ] = "scalewright-worker",
    api_image: Annotated[
        str, typer.Option(help="The Dockerfile's `api`, as your registry has it.")
    ] = "scalewright-api",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the manifests; apply nothing.")
    ] = False,
) -> None:
    """Fill in the manifests of API, workers, migration and storage, and let kubectl apply them."""
    from app.services import kubernetes as service

    pods = service.WorkerPods(
        api_image=api_image,
        worker_image=worker_image,
        replicas=replicas,
        gpus=gpus,
        gpus_per_run=gpus_per_run,
        runs_per_gpu=runs_per_gpu,
        cpus=cpus,
        mem=mem,
    )
    text = service.manifests(pods)
    typer.echo(text if dry_run else service.apply(text, os.environ), nl=False)


def _refuse_embedded(settings: "Settings") -> None:
    """The embedded server is one machine's: on another node a second one would be started."""
    from sqlalchemy.engine import make_url

    from app.settings import is_loopback

    if settings.database_url is None:
        raise Refused(
            "Workers on a cluster need one Postgres that every node reaches.",
            "Set DATABASE_URL, or --database-url-file. See docs/operations/cluster.md.",
        )
    url = make_url(settings.database_url)
    host = url.host or url.query.get("host") or "localhost"
    if not isinstance(host, str) or host.startswith("/") or is_loopback(host):
        note("The database's address is this machine's own: other nodes will not reach it.")
