"""Tests run on the CPU, as eight devices, and keep compiled programs between runs."""

import gc
import importlib.metadata
import os
import pathlib

ROOT = pathlib.Path(__file__).resolve().parent.parent
os.environ["JAX_PLATFORMS"] = "cpu"
# Programs of tests run for a moment: time goes into compiling them.
QUICKLY = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
if importlib.metadata.version("jaxlib").startswith("0.10."):  # the flag is gone from later ones
    QUICKLY += " --xla_cpu_use_fusion_emitters=false"
# On a busy machine virtual devices may wait long for each other; XLA would end the process after 40 s.
PATIENTLY = "--xla_cpu_collective_call_terminate_timeout_seconds=300"


def xla_flags(devices: int) -> str:
    """XLA_FLAGS for so many virtual devices."""
    return f"--xla_force_host_platform_device_count={devices} {QUICKLY} {PATIENTLY}"


os.environ["XLA_FLAGS"] = xla_flags(8)
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")

import numpy as np
import pytest
from absl import flags
from PIL import Image


def python_path(*folders: pathlib.Path) -> str:
    """Returns PYTHONPATH with folders put first."""
    before = os.environ.get("PYTHONPATH")
    return os.pathsep.join([*map(str, folders), *([before] if before else [])])


GOLDEN = pathlib.Path(__file__).parent / "golden"


def pytest_collection_modifyitems(items):
    """Puts slow tests first, the longest in front, so that no process is left with one at the end."""

    def minutes(item):
        slow = item.get_closest_marker("slow")
        return slow.kwargs.get("minutes", 1) if slow else 0

    items.sort(key=minutes, reverse=True)


def pytest_collection_finish():
    """Makes Python look for garbage less often: while JAX traces, that took a quarter of the time."""
    gc.freeze()  # modules stay
    gc.set_threshold(20_000, 20, 20)


@pytest.fixture(autouse=True, scope="session")
def parsed_flags():
    """Grain's worker processes insist on parsed flags."""
    if not flags.FLAGS.is_parsed():
        flags.FLAGS(["tests"])


@pytest.fixture(scope="session")
def golden():
    """Numbers of the published implementation, by name (tests/golden/README.md)."""
    return dict(np.load(GOLDEN / "muskie_tiny.npz"))


def write_scene(folder: pathlib.Path, count: int, seed: int, size=(72, 96)) -> None:
    """Photographs of one flat, textured scene, each showing another part of it."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 255, (12, 16, 3), np.uint8))
    whole = coarse.resize((2 * size[1], 2 * size[0]), Image.Resampling.BICUBIC)
    folder.mkdir(parents=True)
    for number in range(count):
        left, top = rng.integers(size[1]), rng.integers(size[0])
        view = whole.crop((left, top, left + size[1], top + size[0]))
        view.save(folder / f"frame_{number}.jpg", quality=95)


@pytest.fixture(scope="session")
def photo_folder(tmp_path_factory):
    """Four scenes of 12, 5, 3 and 8 photographs."""
    root = tmp_path_factory.mktemp("photos")
    for seed, (name, count) in enumerate({"attic": 12, "barn": 5, "cave": 3, "dome": 8}.items()):
        write_scene(root / name, count, seed)
    return root
