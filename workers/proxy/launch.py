"""Train one model in several processes: `python -m workers.proxy.launch 4 CONFIG.json --out DIR`.

torchrun on one machine, with what whoever starts it needs: it dies with its parent, and the
processes with it; its exit status is that of the process that failed first, so a configuration that
cannot be trained is status 2 here too; and stderr holds what the processes said, not torchrun.
"""

import logging
import signal
import sys
import tempfile

from torch.distributed import run
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from workers.proxy.process import die_with_parent

STOPPED = 143  # as a shell says that SIGTERM ended a program


def first_cause(error: ChildFailedError) -> tuple[int, ProcessFailure]:
    """The process that failed first; of several in the same look, one that was killed.

    The others fail because it is gone, and torchrun knows the time to a second only. SIGTERM is
    torchrun's own.
    """

    def order(item: tuple[int, ProcessFailure]) -> tuple[bool, int]:
        code = item[1].exitcode
        return (code >= 0 or code == -signal.SIGTERM, item[1].timestamp)

    return min(error.failures.items(), key=order)


def main(arguments: list[str] | None = None) -> int:
    processes, *rest = sys.argv[1:] if arguments is None else arguments
    die_with_parent()
    logging.disable(logging.CRITICAL)  # torchrun tells at length what its exit status says
    torchrun = ["--standalone", "--nproc-per-node", processes, "-m", "workers.proxy.train"]
    try:
        with tempfile.TemporaryDirectory() as logs:  # torchrun leaves its own behind
            given = run.parse_args(["--log-dir", logs, *torchrun, *rest])  # type: ignore[no-untyped-call]
            run.run(given)  # type: ignore[no-untyped-call]
    except ChildFailedError as error:
        rank, failure = first_cause(error)
        if failure.exitcode < 0:
            print(
                f"process {rank} of {processes} was killed by signal {-failure.exitcode}",
                file=sys.stderr,
            )
        return max(1, failure.exitcode)
    except SignalException:  # the processes have ended their step and left
        return STOPPED
    return 0


if __name__ == "__main__":
    sys.exit(main())
