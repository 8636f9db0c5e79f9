"""Which updates are traced, and that a run says so."""

import jax
import pytest

from muskie_jax.profiling import StepProfile


@pytest.mark.parametrize(
    "run, expected",
    [
        (range(1, 9), ["start", 3, 4, 5, "stop", "Traced updates 3 to 5"]),
        (range(1, 5), ["start", 3, 4, "stop", "Traced updates 3 to 4"]),  # ends early
        (range(5, 9), ["start", 5, "stop", "Traced updates 5 to 5"]),  # goes on
        (range(6, 9), ["Traced nothing: no update from 3 to 5 was run"]),
    ],
)
def test_the_updates_that_are_run_are_traced(run, expected, tmp_path, monkeypatch):
    events = []
    monkeypatch.setattr(jax.profiler, "start_trace", lambda folder: events.append("start"))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: events.append("stop"))
    monkeypatch.setattr("muskie_jax.profiling.tell", lambda text: events.append(text.split(": x")[0]))
    profile = StepProfile((3, 5), tmp_path)
    for step in run:
        profile.before(step)
        if profile.running:
            events.append(step)
        profile.after(step, None)
    profile.close()
    assert events == expected


def test_nothing_is_said_where_no_trace_is_asked_for(tmp_path, capsys):
    profile = StepProfile((), tmp_path)
    profile.before(1)
    profile.after(1, None)
    profile.close()
    assert capsys.readouterr() == ("", "")
