"""Three minutes of random faults; launch/soak.sh takes longer."""

import json
import pathlib

import pytest

from muskie_tests.soak import soak

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not pathlib.Path("/proc").exists(), reason="finds data workers in /proc"),
]


def test_after_three_minutes_of_faults_a_training_ends_like_an_undisturbed_one():
    report = soak(minutes=3.0, seed=7)
    print(json.dumps(report))
    assert report["equal"], report["failure"]
    assert report["faults"] >= 3 and report["trainings"] >= 1
