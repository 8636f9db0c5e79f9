"""Runs the code that README.md and docs show for weights and images, in order, as a reader would."""

import os
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from conftest import ROOT, python_path, write_scene, xla_flags
from muskie_jax.checkpoint import Checkpointer
from muskie_jax.config import default_config
from muskie_jax.models.muskie import build_model
from muskie_jax.optim import make_optimizer
from muskie_jax.train_step import TrainState


def code_blocks(path: str, heading: str) -> list[tuple[str, str]]:
    """Returns (language, code) of the code blocks below a heading, up to the next heading of its level."""
    section = (ROOT / path).read_text().split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return re.findall(r"```(\w+)\n(.*?)```", section, re.DOTALL)


@pytest.fixture
def reader(tmp_path):
    """Returns a function that runs code in a folder with `runs/quickstart`, of the smallest network."""
    config = default_config()
    params = build_model("nano").init(
        jax.random.key(0), jnp.zeros((1, 1, 16, 16, 3)), jnp.zeros((1, 1, 1), bool)
    )["params"]
    config.model.variant = "nano"
    checkpoints = Checkpointer(tmp_path / "runs" / "quickstart", keep=1)
    checkpoints.save(TrainState(jnp.int32(400), params, make_optimizer(config).init(params)), config)
    checkpoints.close()
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, module in (("python", ""), ("muskie", "-m muskie_jax ")):
        program = programs / name
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" {module}"$@"\n')
        program.chmod(0o755)

    def run(language: str, code: str, folder: str = ".") -> None:
        environment = os.environ | {
            "PATH": f"{programs}:{os.environ['PATH']}",
            "PYTHONPATH": python_path(ROOT, ROOT / "muskie_jax" / "interop"),
            "XLA_FLAGS": xla_flags(1),
        }
        command = ["bash", "-euc", code] if language == "bash" else ["python", "-c", code]
        done = subprocess.run(
            command,
            cwd=tmp_path / folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, code + done.stderr

    run.folder = tmp_path
    return run


def test_loading_and_exporting_as_the_readme_says(reader):
    write_scene(reader.folder / "scenes" / "kitchen", 4, seed=0, size=(224, 224))
    (_, load), (_, export) = code_blocks("README.md", "Load weights")
    reader("python", f"{load}\nassert [t.shape for t in tokens] == [(1, 4, 196, 384)] * 6")
    reader("bash", export)
    assert (reader.folder / "muskie.safetensors").is_file()


def test_matching_and_tracking_as_the_docs_say(reader):
    write_scene(reader.folder / "photographs", 3, seed=0, size=(72, 96))
    for number, path in enumerate(sorted((reader.folder / "photographs").iterdir()), 1):
        path.rename(reader.folder / f"{number}.jpg")
    ((_, code),) = code_blocks("docs/photographs.md", "From Python")
    reader("python", f"{code}\nassert found.positions.shape == (2, 3, 2)")


@pytest.mark.slow
def test_loading_photographs_as_the_docs_say(reader):
    write_scene(reader.folder / "photographs", 2, seed=0, size=(96, 96))
    (reader.folder / "kitchen").mkdir()
    for number, path in enumerate(sorted((reader.folder / "photographs").iterdir()), 1):
        path.rename(reader.folder / "kitchen" / f"{number}.jpg")
    ((_, code),) = code_blocks("docs/bring_your_own.md", "Images")
    reader("python", f"{code}\nassert [t.shape for t in tokens] == [(1, 2, 196, 384)] * 6")


GEOMETRY = """import jax.numpy as jnp
from muskie_jax import save_pretrained
images, depth, valid = jnp.zeros((1, 2, 32, 48, 3)), jnp.ones((1, 2, 32, 48)), None
intrinsics, world_to_camera = jnp.eye(3), jnp.broadcast_to(jnp.eye(4), (1, 2, 4, 4))
"""


@pytest.mark.slow
def test_reconstruction_as_the_docs_say(reader):
    write_scene(reader.folder / "scenes" / "kitchen", 2, seed=0, size=(96, 96))
    page = "docs/reconstruction.md"
    ((_, load),) = code_blocks(page, "Load published weights")
    ((_, build),) = code_blocks(page, "Build a network")
    ((_, lose),) = code_blocks(page, "Targets and losses")
    build = build.replace("runs/base", "runs/quickstart")
    save = 'save_pretrained("exported", model, params)\nassert losses.total > 0'
    reader("python", f"{build}\n{GEOMETRY}\n{lose}\n{save}")
    load = load.replace("reconstruction.pth", "exported")
    reader("python", f"{load}\nassert output.points.shape == (1, 2, 224, 224, 3)")


IMAGES = "import numpy as np\nimages = np.zeros((1, 4, 224, 224, 3), np.float32)\n"
TORCH_IMAGES = "import torch\nimages = torch.zeros(1, 4, 3, 224, 224)\n"
TOKENS = "\nassert [tuple(t.shape) for t in {}] == [(1, 4, 196, 384)] * 6"


@pytest.mark.slow
@pytest.mark.extras
def test_every_form_of_weights_in_the_docs(reader):
    pytest.importorskip("torch")
    pytest.importorskip("onnxscript")
    page = "docs/weights.md"
    ((_, load),) = code_blocks(page, "Load weights")
    reader("python", IMAGES + load + TOKENS.format("tokens"))
    (_, export), (_, publish) = code_blocks(page, "Export weights")
    reader("bash", export)
    reader("bash", publish.splitlines()[0])  # not the upload
    assert (reader.folder / "exported" / "README.md").is_file()
    ((_, torch_code),) = code_blocks(page, "Use weights in PyTorch")
    reader("python", TORCH_IMAGES + torch_code + TOKENS.format("tokens"))
    (_, train_on), *_ = code_blocks(page, "Continue training from weights")
    reader("bash", train_on.splitlines()[0].replace("muskie-base.pth", "muskie.safetensors"))
    assert (reader.folder / "runs" / "imported" / "checkpoints" / "0").is_dir()
    (_, programs), (_, program) = code_blocks(page, "Export a program")
    reader("bash", programs)
    reader("python", IMAGES + program + TOKENS.format("results"), folder="muskie_program")
    assert (reader.folder / "muskie.onnx").is_file()
