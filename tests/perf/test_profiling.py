"""Which updates a trace contains, and what is logged about it."""

import re

import jax
import jax.numpy as jnp
import pytest

from muskie_jax.perf.profiling import StepProfile


def run_updates(profile, steps):
    """Runs annotated computations as updates, then closes the profile."""
    for step in steps:
        profile.before(step)
        with jax.profiler.TraceAnnotation(f"update number {step};"):
            result = jnp.sin(jnp.ones(3))
        profile.after(step, result)
    profile.close()


@pytest.mark.parametrize(
    "steps, traced",
    [
        (range(1, 9), [3, 4, 5]),
        (range(1, 5), [3, 4]),  # the run ends early
        (range(5, 9), [5]),  # the run resumes within the range
    ],
)
def test_a_trace_contains_the_updates_of_the_range_that_ran(steps, traced, tmp_path, capsys):
    run_updates(StepProfile((3, 5), tmp_path), steps)
    (trace,) = tmp_path.rglob("*.xplane.pb")
    found = {int(number) for number in re.findall(rb"update number (\d+);", trace.read_bytes())}
    assert sorted(found) == traced
    message = f"Traced updates {traced[0]} to {traced[-1]}: xprof --logdir {tmp_path}"
    assert capsys.readouterr().err.splitlines() == [message]


@pytest.mark.parametrize(
    "range_to_trace, log", [((3, 5), "Traced nothing: this run had no update from 3 to 5\n"), ((), "")]
)
def test_a_run_outside_the_range_traces_nothing(range_to_trace, log, tmp_path, capsys):
    run_updates(StepProfile(range_to_trace, tmp_path), range(6, 9))
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr().err == log
