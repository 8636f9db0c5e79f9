"""Texts that processes exchange."""

import threading
import time

from muskie_jax.processes import coordination
from muskie_jax.processes.coordination import Coordination
from muskie_tests.processes import Store


def test_a_process_that_is_waited_for_is_named(monkeypatch, capfd):
    monkeypatch.setattr(coordination, "WAIT_MILLISECONDS", 10)
    monkeypatch.setattr(coordination, "MESSAGE_SECONDS", 0.1)
    store = Store(2)
    own, other = Coordination(store, 0, 2), Coordination(store, 1, 2)
    other._prefix = own._prefix  # as in another process
    late = threading.Timer(0.5, other.gather, ("checkpoint 4", "two"))
    late.start()
    start = time.monotonic()
    assert own.gather("checkpoint 4", "one") == ["one", "two"]
    late.join()
    lines = capfd.readouterr().err.splitlines()
    assert set(lines) == {"process 0 waits for process 1 (checkpoint 4)"}
    assert 1 < len(lines) < 10 * (time.monotonic() - start) + 1
