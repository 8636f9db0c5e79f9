"""Checkpoints are due after steps or minutes, and several processes agree."""

import numpy as np
import pytest

from muskie_jax.checkpoints.schedule import SaveSchedule


@pytest.fixture
def clock(monkeypatch):
    """Minutes since the start of the test, as a list with one number."""
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: 60 * now[0])
    return now


def test_steps_and_minutes_make_a_save_due(clock):
    schedule = SaveSchedule(every=10, keep_every=25, minutes=15, agree_every=50)
    assert [step for step in range(1, 51) if schedule.is_due(step)] == [10, 20, 25, 30, 40, 50]
    clock[0] = 14.9
    assert not schedule.is_due(51)
    clock[0] = 15.0
    assert schedule.is_due(51) and schedule.is_due(52)
    schedule.saved()
    assert not schedule.is_due(53)
    clock[0] = 30.0
    assert schedule.is_due(54)


def test_an_interval_of_zero_is_none(clock):
    clock[0] = 1e6
    assert not any(SaveSchedule(0, 0, 0, 50).is_due(step) for step in range(1, 1000))


def test_processes_follow_the_clock_of_the_first(clock, monkeypatch):
    answers = []
    monkeypatch.setattr("jax.process_count", lambda: 2)
    monkeypatch.setattr(
        "jax.experimental.multihost_utils.broadcast_one_to_all",
        lambda own: answers.append(bool(own)) or np.array(first_is_late),
    )
    schedule = SaveSchedule(every=0, keep_every=0, minutes=15, agree_every=5)
    first_is_late, clock[0] = False, 20.0
    assert not any(schedule.is_due(step) for step in range(1, 11))
    assert answers == [True, True]  # of steps 5 and 10: this process alone is late
    first_is_late, clock[0] = True, 0.0
    assert [step for step in range(11, 21) if schedule.is_due(step)] == [15, 20]
