"""A signal requests a stop, even while the run is writing a message."""

import signal
import sys

import pytest

from muskie_jax.interrupt import StopSignal


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
