"""A signal requests a stop, even while the run is writing a message."""

import signal
import sys

import pytest

from muskie_jax.interrupt import StopSignal


def test_a_time_limit_requests_a_stop(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    stop, endless = StopSignal(max_minutes=2), StopSignal()
    with stop:
        now[0] = 119.0
        assert not stop.requested(1)
        now[0] = 121.0
        assert stop.requested(2) and stop.name == "config.max_minutes"
    assert not endless.requested(2)


class Busy:
    """A standard error that is in the middle of a write."""

    def write(self, text):
        raise RuntimeError("reentrant call inside <_io.BufferedWriter name='<stderr>'>")

    flush = write


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_during_a_write_requests_a_stop(monkeypatch, capfd, name):
    with StopSignal() as stop:
        assert not stop.requested(1)
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stderr", Busy())
            signal.raise_signal(signal.Signals[name])
        assert stop.requested(2) and stop.name == name
    assert f"{name}: saving after this step" in capfd.readouterr().err
