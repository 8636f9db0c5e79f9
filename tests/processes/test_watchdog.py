"""The watchdog ends a process whose devices or disk hang, and no other."""

import time

import pytest

from muskie_jax.config import default_config, validate
from muskie_jax.errors import TRY_AGAIN, UserError
from muskie_jax.processes import watchdog as watchdog_lib
from muskie_jax.processes.watchdog import Watchdog
from muskie_tests.runs import nano_config

LIMIT = 0.3  # seconds


class Result:
    """A result of the devices, which is not ready at first."""

    def __init__(self):
        self.ready = False

    def is_ready(self):
        return self.ready


@pytest.fixture
def ended():
    """(message, exit status) of each end of the process."""
    return []


@pytest.fixture
def watchdog(tmp_path, monkeypatch, ended):
    monkeypatch.setattr(watchdog_lib, "POLL_SECONDS", 0.01)
    limits = default_config().watchdog
    limits.update({name: LIMIT / 60 for name in limits})
    end = lambda *what: ended.append(what)
    with Watchdog(limits, tmp_path, lambda: "step 40 in checkpoints", end) as made:
        yield made


def test_an_update_that_hangs_ends_the_process_and_names_the_checkpoint(watchdog, ended, tmp_path):
    with watchdog.update(41) as watch:
        watch({"loss": Result()})
    time.sleep(3 * LIMIT)
    ((message, status),) = ended
    (stacks,) = tmp_path.glob("stacks_*.txt")
    assert message == (
        "update 41 has not finished within 0.005 minutes: the run is ended, and the same command continues "
        f"from step 40 in checkpoints (stacks of all threads: {stacks}; limit: "
        "config.watchdog.step_minutes)"
    )
    assert status == TRY_AGAIN == 75
    assert "in test_an_update_that_hangs_ends" in stacks.read_text()


def test_an_update_that_cannot_be_started_ends_the_process(watchdog, ended):
    with watchdog.update(7):
        time.sleep(3 * LIMIT)
    assert ended[0][0].startswith("update 7 has not finished")


def test_finished_updates_may_wait_for_the_loop_as_long_as_they_like(watchdog, ended):
    """The loop may be waiting for data, or evaluating."""
    with watchdog.update(1) as watch:
        result = Result()
        watch([result])
        result.ready = True
    time.sleep(3 * LIMIT)
    assert not ended


def test_an_update_s_time_starts_when_the_devices_have_finished_the_earlier_ones(watchdog, ended):
    results = [Result() for _ in range(4)]
    for step, result in enumerate(results):
        with watchdog.update(step) as watch:
            watch(result)
    for result in results:  # each takes two thirds of the limit
        time.sleep(2 / 3 * LIMIT)
        result.ready = True
    assert not ended
    with watchdog.update(9) as watch:
        watch(Result())
    time.sleep(3 * LIMIT)
    assert ended[0][0].startswith("update 9 ")


def test_a_save_that_hangs_in_the_background_ends_the_process(watchdog, ended):
    saving = [True]
    with watchdog.save(40, lambda: saving[0]):
        pass
    time.sleep(LIMIT / 2)
    saving[0] = False
    time.sleep(2 * LIMIT)
    assert not ended
    with watchdog.save(50, lambda: True):
        pass
    time.sleep(3 * LIMIT)
    ((message, status),) = ended
    assert message.startswith("saving the state of step 50 has not finished within") and status == TRY_AGAIN
    assert message.endswith("limit: config.watchdog.save_minutes)")


def test_an_update_that_hangs_lets_a_save_finish_first(watchdog, ended):
    saved = time.monotonic() + 2 * LIMIT
    watchdog._limits.save_minutes = 1.0
    with watchdog.save(40, lambda: time.monotonic() < saved), watchdog.update(41):
        pass
    with watchdog.update(42) as watch:
        watch(Result())
    time.sleep(1.6 * LIMIT)
    assert not ended
    time.sleep(1.5 * LIMIT)
    assert ended[0][0].startswith("update 42 ")


def test_an_evaluation_has_the_time_of_its_batches(watchdog, ended):
    with watchdog.batches("the evaluation", "step_minutes", 4):
        time.sleep(3 * LIMIT)
        assert not ended
        time.sleep(2 * LIMIT)
    ((message, _),) = ended
    assert message.startswith("the evaluation has not finished within 0.02 minutes")


def test_a_process_that_was_stopped_does_not_count_that_time(watchdog, ended, monkeypatch):
    """After Ctrl-Z, nothing has been done, by this thread either."""
    monkeypatch.setattr(watchdog_lib, "SUSPENDED_SECONDS", LIMIT / 2)
    wait, stopped = watchdog._done.wait, []

    def stops_once(seconds):
        if not stopped:
            stopped.append(time.sleep(3 * LIMIT))
        return wait(seconds)

    monkeypatch.setattr(watchdog._done, "wait", stops_once)
    with watchdog.update(1) as watch, watchdog.save(2, lambda: not result.ready):
        result = Result()
        watch([result])
        while not stopped:
            time.sleep(0.01)
        time.sleep(LIMIT / 2)
    result.ready = True
    assert not ended
    with watchdog.update(3):
        time.sleep(3 * LIMIT)
    assert ended[0][0].startswith("update 3 has not finished")


def test_no_limit(watchdog, ended):
    watchdog._limits.step_minutes = 0.0
    with watchdog.update(1) as watch:
        watch(Result())
    time.sleep(3 * LIMIT)
    assert not ended


def test_negative_limits_are_refused():
    config = nano_config("photos")
    config.watchdog.step_minutes = -1.0
    with pytest.raises(UserError, match="config.watchdog.step_minutes=-1.0 must be at least 0"):
        validate(config)
