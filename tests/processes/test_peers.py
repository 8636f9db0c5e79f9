"""What a process says when another process of its run has ended."""

import pytest

from muskie_jax.processes.peers import hint_of_peers

GLOO = "UNKNOWN: Gloo all-reduce failed: [external/gloo/transport/tcp/pair.cc:547] Connection reset by peer"


@pytest.mark.parametrize(
    "message, processes, has_hint",
    [(GLOO, 2, True), (GLOO, 1, False), ("NCCL operation failed", 8, True), ("out of memory", 2, False)],
)
def test_a_broken_connection_hints_at_another_process(message, processes, has_hint):
    hint = hint_of_peers(RuntimeError(message), processes)
    assert ("another process has probably ended first" in hint) == has_hint
