"""What a worker does with one training run: (state, event) -> (state, actions), and nothing else.

Every rule about retrying, losing contact with the database, losing the lease, cancelling and
stopping is here; the processes, pipes and connections are in `supervise.py` and `recorder.py`.
Modelled on dask's `worker_state_machine.py`: no clock, no I/O, so every race is an ordinary test.

    TRAINING --> STOPPING --> KILLING --> CLOSING --> DONE
       the trainer lives (SIGTERM) (SIGKILL)  it is gone;   nothing is left to do
                                              one last write

Times are seconds of a monotonic clock, carried by the events.
"""

from dataclasses import dataclass, replace
from enum import StrEnum


class Phase(StrEnum):
    TRAINING = "training"
    STOPPING = "stopping"
    KILLING = "killing"
    CLOSING = "closing"
    DONE = "done"


class Reason(StrEnum):
    """Why the trainer is being stopped."""

    CANCEL = "cancel"
    WORKER_STOP = "worker_stop"
    LEASE_LOST = "lease_lost"
    SILENT = "silent"
    REFUSED = "refused"


@dataclass(frozen=True)
class Policy:
    """Waiting times in seconds, and how often a run may fail without getting anywhere."""

    cancel_grace_seconds: float = 1.5  # a cancelled run ends within 3 s, so little is left for it
    stop_grace_seconds: float = 20.0  # Slurm and Kubernetes kill 30 s after SIGTERM
    release_seconds: float = 5.0  # after the grace: time to tell the database
    silence_seconds: float = 900.0  # guess: torch.compile of a large model takes minutes
    max_failures: int = 3  # forgiven in a row; one more and the run has failed
    backoff_seconds: float = 2.0  # doubled by every failure in a row
    backoff_cap_seconds: float = 300.0

    def delay_seconds(self, failures: int) -> float:
        """The wait before the next attempt, after `failures` (>= 1) failures in a row."""
        return min(self.backoff_seconds * 2.0 ** min(failures - 1, 30), self.backoff_cap_seconds)


@dataclass(frozen=True)
class Close:
    """The last write of an attempt: the run's status from here on.

    `status` is one of finished, diverged, failed, cancelled, or queued (another attempt follows,
    no sooner than `delay_seconds` from now). `failed`: this attempt counts as a failure.
    """

    status: str
    message: str = ""
    failed: bool = False
    delay_seconds: float = 0.0


@dataclass(frozen=True)
class State:
    """One attempt at one run.

    failures    failed attempts in a row before this one without a new checkpoint
    resumed     this attempt started from a checkpoint
    heard_at    when the trainer last printed a line
    accepted    the trainer printed its start line, so it accepted the configuration
    said        the trainer's end line, if it came: (status, message)
    deadline    when STOPPING turns into KILLING
    give_up_at  when a stopping worker leaves an unreachable database be
    """

    phase: Phase
    failures: int
    resumed: bool
    heard_at: float
    accepted: bool = False
    said: tuple[str, str] | None = None
    reason: Reason | None = None
    detail: str = ""
    deadline: float | None = None
    give_up_at: float | None = None
    close: Close | None = None


def started(at: float, *, failures: int = 0, resumed: bool = False) -> State:
    """The state of an attempt whose trainer has just been started."""
    return State(Phase.TRAINING, failures=failures, resumed=resumed, heard_at=at)


# --- events -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Heard:
    """The trainer printed a line; `event` is its kind, status and message belong to `end`."""

    at: float
    event: str
    status: str = ""
    message: str = ""


@dataclass(frozen=True)
class Exited:
    """The trainer is gone and all that it printed has been heard. A signal is a negative code."""

    at: float
    returncode: int
    stderr_tail: str = ""


@dataclass(frozen=True)
class Recorded:
    """The database took a batch: the lease still holds."""

    at: float
    stop_requested: bool = False


@dataclass(frozen=True)
class ContactLost:
    at: float
    error: str = ""


@dataclass(frozen=True)
class LeaseLost:
    """The database answered that another attempt holds the run, or that nobody should."""

    at: float


@dataclass(frozen=True)
class LinesRefused:
    """What the trainer printed cannot be stored, now or ever."""

    at: float
    message: str


@dataclass(frozen=True)
class WorkerStopping:
    at: float


@dataclass(frozen=True)
class Tick:
    at: float


@dataclass(frozen=True)
class Closed:
    """The database took the last write."""

    at: float


Event = (
    Heard
    | Exited
    | Recorded
    | ContactLost
    | LeaseLost
    | LinesRefused
    | WorkerStopping
    | Tick
    | Closed
)


# --- actions ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Terminate:
    """SIGTERM to the trainer: finish the step, write a checkpoint, leave."""


@dataclass(frozen=True)
class Kill:
    """SIGKILL to the trainer's process group."""


@dataclass(frozen=True)
class WriteClose:
    """Store everything heard so far, then the run's new status; try until it is taken."""

    close: Close


@dataclass(frozen=True)
class Abandon:
    """Store nothing more, not even what is waiting: the run is not ours."""


Action = Terminate | Kill | WriteClose | Abandon
Step = tuple[State, tuple[Action, ...]]


# --- the rules ----------------------------------------------------------------------------------


def step(state: State, event: Event, policy: Policy) -> Step:
    """The next state, and what to do now. Never raises; an event that comes too late is ignored."""
    if state.phase is Phase.DONE:
        return state, ()
    match event:
        case Heard():
            return _heard(state, event), ()
        case Exited():
            return _exited(state, event, policy)
        case Recorded():
            return _recorded(state, event, policy)
        case ContactLost():
            # Training goes on: the lines wait in the spool, and the writes are fenced.
            return state, ()
        case LeaseLost():
            return _lease_lost(state)
        case LinesRefused():
            return _lines_refused(state, event)
        case WorkerStopping():
            return _worker_stopping(state, event, policy)
        case Tick():
            return _tick(state, event, policy)
        case Closed():
            if state.phase is Phase.CLOSING:
                return replace(state, phase=Phase.DONE), ()
            return state, ()


def _alive(state: State) -> bool:
    return state.phase in (Phase.TRAINING, Phase.STOPPING, Phase.KILLING)


def _heard(state: State, event: Heard) -> State:
    if event.event == "end":
        return replace(state, heard_at=event.at, said=(event.status, event.message))
    if event.event == "checkpoint":
        # A new checkpoint is progress: earlier failures no longer count against the run.
        return replace(state, heard_at=event.at, failures=0)
    accepted = state.accepted or event.event == "start"
    return replace(state, heard_at=event.at, accepted=accepted)


def _recorded(state: State, event: Recorded, policy: Policy) -> Step:
    if not event.stop_requested:
        return state, ()
    grace_ends = event.at + policy.cancel_grace_seconds
    if state.phase is Phase.TRAINING:
        state = replace(state, phase=Phase.STOPPING, reason=Reason.CANCEL, deadline=grace_ends)
        return state, (Terminate(),)
    if state.reason in (Reason.WORKER_STOP, Reason.SILENT) and _alive(state):
        # Already being stopped for another reason: cancelled all the same, and sooner.
        deadline = None if state.deadline is None else min(state.deadline, grace_ends)
        return replace(state, reason=Reason.CANCEL, deadline=deadline), ()
    return state, ()


def _lease_lost(state: State) -> Step:
    if state.phase is Phase.CLOSING:
        return replace(state, phase=Phase.DONE, close=None), (Abandon(),)
    if state.reason is Reason.LEASE_LOST:
        return state, ()
    state = replace(state, phase=Phase.KILLING, reason=Reason.LEASE_LOST, deadline=None)
    return state, (Abandon(), Kill())


def _lines_refused(state: State, event: LinesRefused) -> Step:
    if state.reason in (Reason.LEASE_LOST, Reason.REFUSED):
        return state, ()
    if state.phase is Phase.CLOSING:
        close = Close("failed", event.message, failed=True)
        return replace(state, reason=Reason.REFUSED, close=close), (WriteClose(close),)
    state = replace(
        state, phase=Phase.KILLING, reason=Reason.REFUSED, detail=event.message, deadline=None
    )
    return state, (Kill(),)


def _worker_stopping(state: State, event: WorkerStopping, policy: Policy) -> Step:
    if state.give_up_at is not None:
        return state, ()
    grace_ends = event.at + policy.stop_grace_seconds
    state = replace(state, give_up_at=grace_ends + policy.release_seconds)
    if state.phase is Phase.TRAINING:
        state = replace(state, phase=Phase.STOPPING, reason=Reason.WORKER_STOP, deadline=grace_ends)
        return state, (Terminate(),)
    return state, ()


def _tick(state: State, event: Tick, policy: Policy) -> Step:
    if state.phase is Phase.TRAINING and event.at - state.heard_at >= policy.silence_seconds:
        detail = f"the trainer printed nothing for {policy.silence_seconds:g} s and was killed"
        state = replace(state, phase=Phase.KILLING, reason=Reason.SILENT, detail=detail)
        return state, (Kill(),)
    if state.phase is Phase.STOPPING and state.deadline is not None and event.at >= state.deadline:
        return replace(state, phase=Phase.KILLING, deadline=None), (Kill(),)
    if (
        state.phase is Phase.CLOSING
        and state.give_up_at is not None
        and event.at >= state.give_up_at
    ):
        # The lease runs out by itself and the reaper queues the run again.
        return replace(state, phase=Phase.DONE, close=None), (Abandon(),)
    return state, ()


def _exited(state: State, event: Exited, policy: Policy) -> Step:
    if not _alive(state):
        return state, ()
    if state.reason is Reason.LEASE_LOST:
        return replace(state, phase=Phase.DONE), ()
    close = verdict(state, event, policy)
    return replace(state, phase=Phase.CLOSING, close=close, deadline=None), (WriteClose(close),)


def verdict(state: State, event: Exited, policy: Policy) -> Close:
    """What becomes of a run whose trainer is gone.

    What the trainer said wins over why we stopped it: a run that finished while it was being
    cancelled is finished. What it said last wins over its exit code: by then
    everything is recorded.
    """
    status, message = state.said or ("", "")
    if state.reason is Reason.REFUSED:
        return Close("failed", state.detail, failed=True)
    if status in ("finished", "diverged"):
        return Close(status, message)
    if state.reason is Reason.CANCEL:
        return Close("cancelled", "cancelled on request")
    if status == "stopped" or state.reason is Reason.WORKER_STOP:
        # Also when nobody here asked: Slurm sends SIGTERM to every process of a job.
        return Close("queued", "stopped with its worker")
    why = state.detail or _why_it_died(event)
    # The trainer refuses a configuration with exit code 2, or dies of it before its start line.
    # A second attempt would do the same. A broken checkpoint is another matter: it may be skipped.
    refused = event.returncode == 2 or (
        event.returncode > 0 and not state.accepted and not state.resumed
    )
    if status == "failed" or (refused and state.reason is None):
        return Close("failed", message or why, failed=True)
    return _again(why, state.failures + 1, policy)


def unstarted(why: str, failures: int, policy: Policy, *, forever: bool) -> Close:
    """What becomes of a run whose trainer could not even be started; `forever`: nor ever will."""
    if forever:
        return Close("failed", why, failed=True)
    return _again(why, failures + 1, policy)


def _again(why: str, failures: int, policy: Policy) -> Close:
    if failures > policy.max_failures:
        return Close("failed", f"gave up after {failures} failures in a row: {why}", failed=True)
    return Close("queued", why, failed=True, delay_seconds=policy.delay_seconds(failures))


def _why_it_died(event: Exited) -> str:
    """One sentence first, then what the trainer left on stderr."""
    tail = event.stderr_tail.strip()
    last = tail.splitlines()[-1].strip() if tail else ""
    if event.returncode < 0:
        sentence = f"the trainer was killed by signal {-event.returncode}"
    elif event.returncode == 0:
        sentence = "the trainer left without an end line"
    else:
        sentence = f"the trainer failed with exit code {event.returncode}"
    if last:
        sentence += f": {last}"
    return f"{sentence}\n\n{tail}" if tail and tail != last else sentence
