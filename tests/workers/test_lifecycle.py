"""The rules of one run, tried one by one, in every reachable state, and at random."""

from collections import deque
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.lifecycle import (
    Abandon,
    Close,
    Closed,
    ContactLost,
    Event,
    Exited,
    Heard,
    Kill,
    LeaseLost,
    LinesRefused,
    Phase,
    Policy,
    Reason,
    Recorded,
    State,
    Terminate,
    Tick,
    WorkerStopping,
    WriteClose,
    started,
    step,
)

POLICY = Policy(
    cancel_grace_seconds=1,
    stop_grace_seconds=2,
    release_seconds=1,
    silence_seconds=4,
    max_failures=2,
    backoff_seconds=2,
    backoff_cap_seconds=5,
)


def play(*events: Event, failures: int = 0, resumed: bool = False) -> tuple[State, list]:
    """The state after the events, and every action on the way."""
    state, actions = started(0, failures=failures, resumed=resumed), []
    for event in events:
        state, now = step(state, event, POLICY)
        actions += now
    return state, actions


def close_of(*events: Event, failures: int = 0, resumed: bool = False) -> Close:
    state, actions = play(*events, failures=failures, resumed=resumed)
    assert state.phase is Phase.CLOSING
    (write,) = [action for action in actions if isinstance(action, WriteClose)]
    assert state.close == write.close
    return write.close


START = Heard(0, "start")
FINISHED = Heard(1, "end", "finished")
STOPPED = Heard(1, "end", "stopped")


def test_a_run_that_finishes():
    state, actions = play(START, FINISHED, Exited(1, 0), Recorded(2), Closed(2))
    assert state.phase is Phase.DONE
    assert actions == [WriteClose(Close("finished"))]


def test_what_the_trainer_said_wins_over_its_exit_code():
    assert close_of(START, FINISHED, Exited(1, -11)).status == "finished"


def test_divergence_is_final_and_keeps_its_reason():
    close = close_of(START, Heard(1, "end", "diverged", "loss 12.1 at step 80"), Exited(1, 0))
    assert close == Close("diverged", "loss 12.1 at step 80")


@pytest.mark.parametrize("code", [1, 2])
def test_a_refused_configuration_fails_once_and_says_why(code):
    tail = "Traceback (most recent call last):\n  ...\nValueError: d_model 17, head_dim 16"
    close = close_of(Exited(1, code, tail))
    assert close.status == "failed"
    assert close.message.splitlines()[0] == (
        f"the trainer failed with exit code {code}: ValueError: d_model 17, head_dim 16"
    )


def test_dying_before_the_start_line_after_a_resume_may_be_the_checkpoint_s_fault():
    assert close_of(Exited(1, 1, "bad file"), resumed=True).status == "queued"


def test_failures_back_off_and_end():
    crash = (START, Exited(1, -9))
    assert close_of(*crash) == Close("queued", "the trainer was killed by signal 9", True, 2)
    assert close_of(*crash, failures=1).delay_seconds == 4
    last = close_of(*crash, failures=2)
    assert last.status == "failed"
    assert last.message.startswith("gave up after 3 failures in a row: the trainer was killed")
    assert [replace(POLICY, max_failures=99).delay_seconds(n) for n in (1, 2, 3, 500)] == [
        2,
        4,
        5,
        5,
    ]


def test_a_checkpoint_forgives_earlier_failures():
    close = close_of(START, Heard(1, "checkpoint"), Exited(2, 1, "CUDA error"), failures=2)
    assert (close.status, close.failed, close.delay_seconds) == ("queued", True, 2)


def test_leaving_without_an_end_line_is_a_failure():
    close = close_of(START, Exited(1, 0))
    assert (close.status, close.message) == ("queued", "the trainer left without an end line")


def test_cancel_asks_then_kills():
    state, actions = play(START, Recorded(1, stop_requested=True))
    assert (state.phase, actions) == (Phase.STOPPING, [Terminate()])
    state, actions = step(state, Tick(1.9), POLICY)
    assert not actions
    state, actions = step(state, Tick(2), POLICY)
    assert actions == (Kill(),)
    state, actions = step(state, Exited(2.1, -9), POLICY)
    assert actions == (WriteClose(Close("cancelled", "cancelled on request")),)


def test_a_run_that_finished_while_it_was_cancelled_is_finished():
    close = close_of(START, Recorded(1, stop_requested=True), FINISHED, Exited(1, 0))
    assert close.status == "finished"


def test_a_stopping_worker_gives_the_run_back_without_a_mark():
    events = START, WorkerStopping(1), STOPPED, Exited(2, 0)
    assert close_of(*events, failures=1) == Close("queued", "stopped with its worker")


def test_a_stopping_worker_kills_a_trainer_that_does_not_leave_and_still_gives_the_run_back():
    state, actions = play(START, WorkerStopping(1), Tick(3))
    assert actions == [Terminate(), Kill()]
    state, (write,) = step(state, Exited(3, -9), POLICY)
    assert write.close.status == "queued" and not write.close.failed


def test_a_trainer_stopped_by_somebody_else_is_queued_again():
    assert close_of(START, STOPPED, Exited(1, 0)).status == "queued"


def test_cancelled_while_the_worker_stops_is_cancelled():
    events = START, WorkerStopping(0), Recorded(1, stop_requested=True), STOPPED, Exited(1, 0)
    assert close_of(*events).status == "cancelled"


def test_without_the_database_training_goes_on_and_the_close_waits():
    state, actions = play(START, *[ContactLost(t) for t in range(3)], Heard(3, "points"), Tick(3))
    assert state.phase is Phase.TRAINING and not actions
    state, actions = play(START, ContactLost(1), FINISHED, Exited(2, 0), Tick(1e6))
    assert state.phase is Phase.CLOSING  # it has hours if need be
    state, _ = step(state, Recorded(1e6), POLICY)
    state, _ = step(state, Closed(1e6), POLICY)
    assert state.phase is Phase.DONE


def test_a_stopping_worker_does_not_wait_for_ever_for_the_database():
    state, actions = play(START, ContactLost(1), WorkerStopping(1), STOPPED, Exited(2, 0), Tick(4))
    assert state.phase is Phase.DONE
    assert actions[-1] == Abandon()


def test_a_zombie_kills_its_trainer_and_writes_nothing():
    state, actions = play(START, LeaseLost(1), LeaseLost(1), FINISHED, Exited(2, 0), Closed(3))
    assert state.phase is Phase.DONE
    assert actions == [Abandon(), Kill()]


def test_a_zombie_that_had_already_ended_writes_nothing():
    state, actions = play(START, FINISHED, Exited(1, 0), LeaseLost(2))
    assert state.phase is Phase.DONE and actions[-1] == Abandon()


def test_lines_that_cannot_be_stored_fail_the_run():
    close = close_of(START, LinesRefused(1, "step 0 is out of range"), Exited(1, -9))
    assert (close.status, close.message) == ("failed", "step 0 is out of range")


def test_a_silent_trainer_is_killed_and_tried_again():
    state, actions = play(START, Heard(1, "points"), Tick(4.9))
    assert not actions
    state, actions = step(state, Tick(5), POLICY)
    assert actions == (Kill(),)
    _, (write,) = step(state, Exited(5, -9), POLICY)
    assert write.close.status == "queued" and "printed nothing for 4 s" in write.close.message


# --- every reachable state ----------------------------------------------------------------------

EVENTS: list[Event] = [
    Heard(0, "start"),
    Heard(0, "points"),
    Heard(0, "checkpoint"),
    *[Heard(0, "end", status) for status in ("finished", "stopped", "odd")],
    Exited(0, 0),
    Exited(0, 1, "ValueError: x"),
    Exited(0, 2, "refused"),
    Exited(0, -9),
    Recorded(0),
    Recorded(0, stop_requested=True),
    ContactLost(0),
    LeaseLost(0),
    LinesRefused(0, "y"),
    WorkerStopping(0),
    Closed(0),
    Tick(0),
]


def earlier(state: State, seconds: float) -> State:
    """The same state as seen `seconds` later: the rules know differences of times only."""

    def shifted(at: float | None) -> float | None:
        return None if at is None else max(at - seconds, -POLICY.silence_seconds)

    return replace(
        state,
        heard_at=shifted(state.heard_at) or 0.0,
        deadline=shifted(state.deadline),
        give_up_at=shifted(state.give_up_at),
    )


def without_history(state: State) -> State:
    """The same state without what no rule looks at any more."""
    if state.phase is not Phase.TRAINING:
        state = replace(state, heard_at=0.0)
    if state.phase in (Phase.CLOSING, Phase.DONE):
        state = replace(state, accepted=False, resumed=False, said=None, detail="")
    return state


def reachable() -> dict[State, list[tuple[Event, State, tuple]]]:
    """Every state that any order of events leads to at time 0, with its outgoing steps."""
    graph: dict[State, list[tuple[Event, State, tuple]]] = {}
    todo = deque(
        started(0, failures=failures, resumed=resumed)
        for failures in (0, 2)
        for resumed in (False, True)
    )
    while todo:
        state = without_history(todo.popleft())
        if state in graph:
            continue
        graph[state] = [(event, *step(state, event, POLICY)) for event in EVENTS]
        todo.extend(after for _, after, _ in graph[state])
        if state.phase is not Phase.DONE:
            todo.append(earlier(state, 1))
    return graph


@pytest.fixture(scope="module")
def graph():
    return reachable()


def test_the_whole_graph_keeps_the_promises(graph):
    assert len(graph) > 500
    for state, moves in graph.items():
        for event, after, actions in moves:
            # nothing happens after the end, and nothing is written for a run that is not ours
            if state.phase is Phase.DONE:
                assert after == state and not actions
            if state.reason is Reason.LEASE_LOST or isinstance(event, LeaseLost):
                assert not any(isinstance(action, WriteClose) for action in actions)
            if isinstance(event, LeaseLost):
                assert after.phase in (Phase.KILLING, Phase.DONE)
            # contact with the database never decides about a living trainer
            if isinstance(event, ContactLost):
                assert after.phase is state.phase and not actions
            # a dead trainer gets no signal, and only its death ends a living one
            if state.phase is Phase.CLOSING:
                assert not any(isinstance(action, Terminate | Kill) for action in actions)
            if state.phase in (Phase.TRAINING, Phase.STOPPING, Phase.KILLING):
                dead = after.phase in (Phase.CLOSING, Phase.DONE)
                assert dead == isinstance(event, Exited)
            # phases only go forward
            order = list(Phase)
            assert order.index(after.phase) >= order.index(state.phase)
            # the close that is waiting is the close that was asked for
            for action in actions:
                if isinstance(action, WriteClose):
                    assert after.close == action.close and after.phase is Phase.CLOSING
                    assert action.close.status in (
                        "finished",
                        "diverged",
                        "failed",
                        "cancelled",
                        "queued",
                    )
                    if action.close.status == "failed":
                        assert action.close.message
                    if isinstance(event, Exited) and event.returncode == 2 and not state.said:
                        assert action.close.status != "queued" or state.reason in (
                            Reason.WORKER_STOP,
                            Reason.SILENT,
                        )


def test_every_state_ends_once_the_trainer_dies_and_the_database_answers(graph):
    for state in graph:
        after = state
        for event in (Exited(0, -9), Recorded(0), Closed(0)):
            after, _ = step(after, event, POLICY)
        assert after.phase is Phase.DONE


def test_a_stopping_worker_ends_from_every_state_whatever_else_happens(graph):
    """SIGTERM, then only time and the trainer's death: no database needed."""
    for state in graph:
        after, _ = step(state, WorkerStopping(0), POLICY)
        killed = after.phase is Phase.KILLING
        for second in range(1, 8):
            after, actions = step(after, Tick(second), POLICY)
            killed = killed or Kill() in actions
            if killed and second >= 3:
                after, _ = step(after, Exited(second, -9), POLICY)
        assert after.phase is Phase.DONE


def test_a_cancelled_run_is_asked_or_killed_at_once_in_every_state(graph):
    for state in graph:
        after, _ = step(state, Recorded(0, stop_requested=True), POLICY)
        if state.phase in (Phase.TRAINING, Phase.STOPPING):
            assert after.phase is Phase.STOPPING
            after, actions = step(after, Tick(POLICY.cancel_grace_seconds), POLICY)
            assert actions == (Kill(),)


# --- at random, over attempts -------------------------------------------------------------------

KINDS = st.sampled_from(EVENTS)


@given(attempts=st.lists(st.lists(st.tuples(KINDS, st.floats(0, 3)), max_size=30), max_size=12))
@settings(max_examples=300, deadline=None)
def test_no_history_loops_without_progress(attempts):
    """Over any number of attempts: without a new checkpoint a run fails only so many times."""
    failures = 0
    for history in attempts:
        state, now, progressed = started(0.0, failures=failures), 0.0, False
        for kind, wait in history:
            now += wait
            before = state
            state, _ = step(state, replace(kind, at=now), POLICY)
            if before.phase in (Phase.TRAINING, Phase.STOPPING, Phase.KILLING):
                progressed |= isinstance(kind, Heard) and kind.event == "checkpoint"
            if before.phase is Phase.DONE:
                assert state == before
        state, _ = step(state, Exited(now, -9), POLICY)
        if state.close is None:
            continue  # the run went to somebody else
        failures = (0 if progressed else failures) + state.close.failed
        if state.close.status != "queued":
            return
        assert failures <= POLICY.max_failures
