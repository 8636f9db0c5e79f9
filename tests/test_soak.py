"""Every random fault once; launch/soak.sh attacks for longer."""

import json
import pathlib

import pytest

from muskie_tests.soak import FAULTS, IN_STORAGE, ON_DISK, STORAGE_FAULTS, has_storage, soak

pytestmark = [
    pytest.mark.slow(minutes=5),
    pytest.mark.skipif(not pathlib.Path("/proc").exists(), reason="finds data workers in /proc"),
]


def test_after_every_fault_trainings_end_like_undisturbed_ones():
    """A number of faults, not of minutes, so that a busy machine tests as much as an idle one."""
    kinds = ON_DISK + IN_STORAGE * has_storage()
    report = soak(seed=7, kinds=kinds, trainings=len(kinds), faults=len(FAULTS) // len(ON_DISK))
    print(json.dumps(report))
    assert report["equal"], report["failure"]
    expected = set(FAULTS) | (set(STORAGE_FAULTS) if has_storage() else set())
    assert expected <= set(report) and report["trainings"] == len(kinds)
