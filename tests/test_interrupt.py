"""Signals ask a run to end, whatever it is doing."""

import signal
import sys

import pytest

from muskie_jax.interrupt import StopSignal


class Busy:
    """A standard error that is being written to."""

    def write(self, text):
        raise RuntimeError("reentrant call inside <_io.BufferedWriter name='<stderr>'>")

    flush = write


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_in_the_middle_of_a_message(monkeypatch, capfd, name):
    with StopSignal() as stop:
        assert not stop.requested(1)
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stderr", Busy())
            signal.raise_signal(signal.Signals[name])
        assert stop.requested(2) and stop.name == name
    assert f"{name}: saving after this step" in capfd.readouterr().err
