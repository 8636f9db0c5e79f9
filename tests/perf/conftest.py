"""What the tests of measurements share."""

import sys

import pytest

from muskie_jax.perf import trainings


@pytest.fixture
def fake_training(request, tmp_path, monkeypatch):
    """Puts TRAINING, a program in the test's module, in the place of training; returns a folder."""
    program = tmp_path / "training.py"
    program.write_text(request.module.TRAINING)
    monkeypatch.setattr(trainings, "TRAIN", (sys.executable, str(program)))
    return tmp_path / "runs"
