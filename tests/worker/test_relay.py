"""Tasks that overlap at their ends, and nowhere else."""

from __future__ import annotations

import threading

import pytest

from worker.channel import nothing
from worker.relay import Leg, Relay

SECONDS = 10  # more than any of this takes


def test_the_next_task_may_be_taken_once_passed_on_and_the_one_after_once_the_first_has_ended() -> None:
    relay, first_may_end, third_taken = Relay(), threading.Event(), threading.Event()

    def first(leg: Leg) -> None:
        leg.pass_on()
        assert first_may_end.wait(SECONDS)

    relay.run(first)

    def go_on() -> None:
        relay.run(Leg.pass_on)
        third_taken.set()

    other = threading.Thread(target=go_on)
    other.start()
    assert not third_taken.wait(0.3)
    first_may_end.set()
    assert third_taken.wait(SECONDS)
    other.join()
    relay.finish()


def test_the_device_belongs_to_one_task_at_a_time() -> None:
    relay, users, most = Relay(), 0, 0

    def work(leg: Leg) -> None:
        nonlocal users, most
        with leg.turn(nothing):
            leg.pass_on()
            users += 1
            most = max(most, users)
            threading.Event().wait(0.01)
            users -= 1

    for _ in range(20):
        relay.run(work)
    relay.finish()
    assert most == 1 and users == 0


def test_who_waits_for_the_device_can_give_up() -> None:
    relay, first_may_end, outcome = Relay(), threading.Event(), []

    def first(leg: Leg) -> None:
        with leg.turn(nothing):
            leg.pass_on()
            assert first_may_end.wait(SECONDS)

    def second(leg: Leg) -> None:
        def give_up() -> None:
            raise InterruptedError

        with pytest.raises(InterruptedError), leg.turn(give_up):
            pass
        outcome.append("gave up")
        first_may_end.set()

    relay.run(first)
    relay.run(second)
    relay.finish()
    assert outcome == ["gave up"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_task_that_fails_holds_up_nobody() -> None:
    relay, done = Relay(), []

    def fail(leg: Leg) -> None:
        with leg.turn(nothing):
            raise RuntimeError("no such thing")

    def work(leg: Leg) -> None:
        with leg.turn(nothing):
            done.append(True)

    relay.run(fail)
    relay.run(work)
    relay.finish()
    assert done == [True]
