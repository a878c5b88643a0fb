"""The tasks that procrastinate delivers. A delivery only says "look at this": the lease decides.

`app` has no address of its own; `service.py` gives it a pool when it opens it.
"""

import procrastinate
import structlog
from sqlalchemy.exc import OperationalError

from workers import attempt

log = structlog.get_logger()

TRAIN_QUEUE, JOBS_QUEUE = "train", "jobs"
QUEUES = (TRAIN_QUEUE, JOBS_QUEUE)

app = procrastinate.App(connector=procrastinate.PsycopgConnector())


@app.task(name="train_run", queue=TRAIN_QUEUE, pass_context=True)
def train_run(context: procrastinate.JobContext, run_id: int) -> None:
    """Train one run, or find out that somebody else does."""
    station: attempt.Station = context.additional_context["station"]
    outcome = attempt.train(station, run_id)
    log.info("delivery done", run_id=run_id, outcome=outcome)


# A refusal is a job's answer and raises nothing; what raises and may pass is an absent database.
WHEN_THE_DATABASE_IS_BACK = procrastinate.RetryStrategy(
    max_attempts=20, wait=5, retry_exceptions=[OperationalError]
)


@app.task(name="run_job", queue=JOBS_QUEUE, pass_context=True, retry=WHEN_THE_DATABASE_IS_BACK)
def run_job(context: procrastinate.JobContext, job_id: int) -> None:
    """Do one row of `jobs`: a long fit."""
    from app.services import jobs  # brings scipy: only where a job is done

    station: attempt.Station = context.additional_context["station"]
    job = jobs.perform(station.engine, job_id)
    log.info("job done", job_id=job_id, kind=job.kind, status=job.status)
