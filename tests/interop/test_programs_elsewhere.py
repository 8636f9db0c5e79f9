"""StableHLO and ONNX programs compute the same results as the network, without this package."""

import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from muskie_jax.errors import UserError
from muskie_jax.interop import onnx_program
from muskie_jax.interop.names import Network
from muskie_jax.interop.onnx_program import write_onnx
from muskie_jax.interop.stablehlo import PLATFORMS, export_program, write_stablehlo
from muskie_jax.interop.weights import Weights
from muskie_tests.networks import random_inputs, random_network

VIEWS, SIZE = 3, (32, 48)


@pytest.fixture(scope="module")
def network():
    """A model, its parameters, and the same as weights."""
    model, params = random_network(7)
    return model, params, Weights(Network.of(model), params)


def expected_results(model, params, images, mask, output):
    if output == "features":
        return model.apply({"params": params}, images, mask, method="features")
    result = model.apply({"params": params}, images, mask)
    return result.pred, result.conf


def check(got, expected, tolerance):
    assert len(got) == len(expected)
    for ours, theirs in zip(got, expected):
        assert ours.shape == theirs.shape
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance)


RUN = """
import sys
for name in ("muskie_jax", "flax", "orbax"): sys.modules[name] = None
import jax, numpy as np
from load_muskie import load
muskie = load()
inputs = np.load("inputs.npz")
results = {}
for groups in (1, 2):
    images, mask = inputs["images"][:groups], inputs["mask"][:groups]
    results |= {f"{groups}/{i}": np.asarray(x) for i, x in enumerate(muskie(images, mask))}
results |= {f"unmasked/{i}": np.asarray(x) for i, x in enumerate(muskie(inputs["images"]))}
np.savez("results.npz", **results)
try:
    muskie(inputs["images"][:, :2])
except ValueError as error:
    print(error)
"""


@pytest.mark.parametrize("output", ["features", "reconstruction"])
def test_stablehlo_without_this_package(tmp_path, network, output):
    model, params, weights = network
    folder = tmp_path / "program"
    write_stablehlo(folder, weights, VIEWS, SIZE, output)
    assert sorted(p.name for p in folder.iterdir()) == [
        "load_muskie.py",
        "muskie.stablehlo",
        "weights.safetensors",
    ]
    images, mask = random_inputs(7, VIEWS, SIZE)
    np.savez(folder / "inputs.npz", images=images, mask=mask)
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    done = subprocess.run(
        [sys.executable, "-c", RUN],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    complaint = "images must be float, of shape (groups, 3, 32, 48, 3), got float32 (2, 2, 32, 48, 3)\n"
    assert done.stdout == complaint, done.stderr
    assert b".py" not in (folder / "muskie.stablehlo").read_bytes(), "source paths are private"
    results = np.load(folder / "results.npz")
    for groups in (1, 2):
        expected = expected_results(model, params, images[:groups], mask[:groups], output)
        check([results[f"{groups}/{i}"] for i in range(len(expected))], expected, 2e-5)
    expected = expected_results(model, params, images, None, output)
    check([results[f"unmasked/{i}"] for i in range(len(expected))], expected, 2e-5)
    with pytest.raises(UserError, match="exists: choose another path"):
        write_stablehlo(folder, weights, VIEWS, SIZE, output)


def test_stablehlo_runs_on_all_platforms_with_any_number_of_groups(network):
    exported = export_program(network[2], VIEWS, SIZE, "features")
    assert set(exported.platforms) == set(PLATFORMS) == {"cpu", "cuda", "tpu"}
    images = jax.tree.unflatten(exported.in_tree, exported.in_avals)[0][1]
    assert str(images.shape[0]) == "groups" and images.shape[1:] == (VIEWS, *SIZE, 3)
    # TPUs round the factors of float32 products to 16 bits unless the program asks for full precision.
    assert "HIGHEST" in exported.mlir_module()
    assert "HIGHEST" not in export_program(network[2], VIEWS, SIZE, "features", "bfloat16").mlir_module()


@pytest.mark.slow
@pytest.mark.extras
@pytest.mark.parametrize("output", ["features", "reconstruction"])
def test_onnx(tmp_path, network, output):
    for name in ("torch", "onnxscript"):
        pytest.importorskip(name)
    runtime = pytest.importorskip("onnxruntime")
    model, params, weights = network
    write_onnx(tmp_path / "m.onnx", weights, VIEWS, SIZE, output)
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"], "the file contains the weights"
    assert b".py" not in (tmp_path / "m.onnx").read_bytes(), "source paths are private"
    session = runtime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    images, mask = random_inputs(7, VIEWS, SIZE)
    names = [result.name for result in session.get_outputs()]
    assert names == (["tokens_0", "tokens_1"] if output == "features" else ["pred", "conf"])
    for groups in (1, 2):
        inputs = {"images": images[:groups].transpose(0, 1, 4, 2, 3), "mask": mask[:groups]}
        expected = expected_results(model, params, images[:groups], mask[:groups], output)
        check(session.run(names, inputs), expected, 1e-4)


@pytest.mark.extras
def test_weights_too_large_for_onnx_are_refused(tmp_path, network, monkeypatch):
    for name in ("torch", "onnx", "onnxscript"):
        pytest.importorskip(name)
    monkeypatch.setattr(onnx_program, "MAX_BYTES", 1000)
    with pytest.raises(UserError, match="exceed the 2 GB limit of ONNX files: use stablehlo"):
        write_onnx(tmp_path / "m.onnx", network[2], VIEWS, SIZE, "features")
    assert not list(tmp_path.iterdir())
