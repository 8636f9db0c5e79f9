"""What the README says of weights is run, line by line."""

import os
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from conftest import ROOT, xla_flags
from muskie_jax.checkpoint import Checkpointer
from muskie_jax.config import default_config
from muskie_jax.models.muskie import build_model
from muskie_jax.optim import make_optimizer
from muskie_jax.train_step import TrainState

SECTION = "## Use the weights"


def blocks():
    """(language, code) of the section's code blocks."""
    text = (ROOT / "README.md").read_text().split(SECTION)[1].split("\n## ")[0]
    return re.findall(r"```(\w+)\n(.*?)```", text, re.DOTALL)


@pytest.fixture
def folder(tmp_path):
    """Where a reader would be: runs/quickstart is there, of the smallest network."""
    config = default_config()
    params = build_model("nano").init(
        jax.random.key(0), jnp.zeros((1, 1, 16, 16, 3)), jnp.zeros((1, 1, 1), bool)
    )["params"]
    config.model.variant = "nano"
    checkpoints = Checkpointer(tmp_path / "runs" / "quickstart", keep=1)
    checkpoints.save(TrainState(jnp.int32(400), params, make_optimizer(config).init(params)), config)
    checkpoints.close()
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    return tmp_path


def test_every_line_of_use_the_weights(folder):
    for name in ("torch", "onnxscript"):
        pytest.importorskip(name)
    found = blocks()
    assert [language for language, _ in found] == ["python", "bash", "python", "bash", "python"]
    environment = os.environ | {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    environment["XLA_FLAGS"] = xla_flags(1)
    ends = [
        "assert output.pred.shape == (1, 4, 196, 768) and len(tokens) == 2 and tokens[0].shape[-1] == 48",
        "",
        "assert output.pred.shape == (1, 4, 196, 768) and tokens[1].shape == (1, 4, 196, 48)",
        "",
        "assert tokens[1].shape == (2, 4, 196, 48)",
    ]
    for (language, code), end in zip(found, ends):
        command = ["bash", "-euc", code] if language == "bash" else ["python", "-c", f"{code}\n{end}"]
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, code + done.stderr
    made = {"muskie.safetensors", "muskie.pth", "muskie.onnx", "muskie_program", "runs", "bin"}
    assert {path.name for path in folder.iterdir()} == made
    assert (folder / "runs" / "imported" / "checkpoints" / "0").is_dir()
