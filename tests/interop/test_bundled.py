"""Weights in the repository are found by name; names never hide a user's own files by accident."""

import hashlib
import pathlib

import jax
import numpy as np
import pytest

from muskie_jax import load_pretrained
from muskie_jax.errors import UserError
from muskie_jax.evaluators.model_specs import find_models
from muskie_jax.interop import bundled
from muskie_jax.interop.load import open_weights, training_configs
from muskie_jax.interop.names import Network
from muskie_jax.interop.sources import SourceKind, expand_pattern, identify_source
from muskie_jax.interop.weights import Weights, read_tensors, write_weights
from muskie_jax.models.muskie import build_model
from muskie_tests.commands import complaint_of, run_in_process
from muskie_tests.networks import random_variant, same

TRAINING = {"seed": 7}


@pytest.fixture
def weights():
    params = random_variant("nano", 0)[1]
    return Weights(Network.of(build_model("nano")), params, {"training": TRAINING})


@pytest.fixture
def repository(weights, tmp_path, monkeypatch):
    """A folder `weights` with "small", and an empty working directory."""
    monkeypatch.setattr(bundled, "FOLDER", tmp_path / "weights")
    write_weights(bundled.bundled_path("small"), weights, dtype="float16")
    digest = hashlib.sha256(bundled.bundled_path("small").read_bytes()).hexdigest()
    monkeypatch.setitem(bundled.DIGESTS, "small", digest)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


def test_bundled_weights_load_by_name(repository, weights):
    model, params = load_pretrained("small")
    assert model.width == 48
    assert same(jax.device_get(params), weights.rounded("float16").params)
    assert training_configs("small") == [TRAINING]


def test_bundled_weights_are_models_of_an_evaluation(repository):
    (spec, renamed) = find_models(("small", "ours=small"), "last", "float32")
    assert (spec.name, renamed.name, spec.weights) == ("small", "ours", "small")
    assert spec.version == renamed.version != "elsewhere"
    assert spec.load().info.parameters == sum(x.size for x in jax.tree.leaves(load_pretrained("small")[1]))


def test_bundled_weights_are_sources_of_commands(repository, tmp_path):
    out = tmp_path / "copy.safetensors"
    done = run_in_process("muskie_jax.interop", "export", "--checkpoint", "small", "--out", out)
    assert done.returncode == 0, done.stderr
    assert open_weights(out).params_digest == open_weights("small").params_digest


@pytest.mark.parametrize("name, most_bytes", [("small", 45e6), ("tiny", 8e6)])
def test_files_in_the_repository_are_what_their_names_say(name, most_bytes):
    path = bundled.bundled_path(name)
    assert open_weights(name).network.variant == name and not open_weights(name).backbone_only
    assert path.stat().st_size <= most_bytes
    assert {tensor.dtype for tensor in read_tensors(path)[0].values()} == {np.dtype("float16")}


def test_missing_weights_say_where_they_should_be(repository, monkeypatch):
    monkeypatch.setitem(bundled.DIGESTS, "tiny", "0" * 64)
    with pytest.raises(UserError, match="'tiny' are missing: .*weights/muskie_tiny_rooms.safetensors does"):
        load_pretrained("tiny")
    with pytest.raises(UserError, match="'tiny' are missing"):
        find_models(("tiny",), "last", "float32")


def test_an_installation_without_the_folder_says_how_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr(bundled, "FOLDER", tmp_path / "site-packages" / "weights")
    with pytest.raises(UserError, match="'small' are not installed: .*site-packages; clone .*install -e"):
        load_pretrained("small")


@pytest.mark.parametrize("change", ["last byte", "git-lfs pointer"])
def test_weights_with_another_digest_are_refused(change, repository):
    path = bundled.bundled_path("small")
    content = path.read_bytes()
    path.write_bytes(
        content[:-1] + bytes([content[-1] ^ 1])
        if change == "last byte"
        else b"version https://git-lfs.github.com/spec/v1\n"
    )
    with pytest.raises(UserError, match="is not the file of this version: its SHA-256 digest begins with"):
        load_pretrained("small")


@pytest.mark.parametrize("folder", ["small", "small/checkpoints/5"])
def test_a_local_path_of_the_same_name_is_written_with_its_folder(folder, repository):
    pathlib.Path("small/checkpoints/5/meta").mkdir(parents=True)
    assert identify_source("small").kind is SourceKind.FILE
    found = identify_source(f"./{folder}")
    assert found.kind is not SourceKind.FILE and found.path == pathlib.Path(folder).absolute()
    assert identify_source(pathlib.Path(folder)) == found
    assert identify_source(str(found.workdir)).kind is SourceKind.WORKDIR
    (spec,) = find_models(("./small",), "last", "float32")
    assert (spec.name, spec.step) == ("small", 5)
    assert identify_source(spec.source).kind is SourceKind.WORKDIR


def test_patterns_match_paths_only(repository):
    pathlib.Path("small/checkpoints/5/meta").mkdir(parents=True)
    pathlib.Path("large/checkpoints/5/meta").mkdir(parents=True)
    assert expand_pattern("*") == ["large", "./small"]


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_float16_files_are_half_as_large_and_read_back_exactly(suffix, weights, tmp_path):
    if suffix == ".pth":
        pytest.importorskip("torch")
    full, half = tmp_path / f"full{suffix}", tmp_path / f"half{suffix}"
    write_weights(full, weights)
    metadata = write_weights(half, weights, dtype="float16")
    assert half.stat().st_size < 0.6 * full.stat().st_size
    assert {tensor.dtype for tensor in read_tensors(half)[0].values()} == {np.dtype("float16")}
    read = open_weights(half)
    assert read.params_digest == metadata["params_digest"] != weights.params_digest
    assert {leaf.dtype for leaf in jax.tree.leaves(read.params)} == {np.dtype("float32")}
    errors = jax.tree.map(lambda a, b: np.abs(a - b).max() / np.abs(b).max(), read.params, weights.params)
    assert 0 < max(jax.tree.leaves(errors)) <= 2**-11


def test_numbers_too_large_for_float16_are_refused(weights, tmp_path):
    weights.params["mask_token"] = np.full_like(weights.params["mask_token"], 1e5)
    with pytest.raises(UserError, match="too large for float16: export float32"):
        write_weights(tmp_path / "m.safetensors", weights, dtype="float16")
    assert not list(tmp_path.iterdir())


def test_export_writes_float16_on_request(weights, tmp_path):
    source = tmp_path / "full.safetensors"
    write_weights(source, weights)
    out = tmp_path / "half.safetensors"
    export = ("muskie_jax.interop", "export", "--checkpoint", source, "--out", out)
    done = run_in_process(*export, "--dtype=float16")
    assert done.returncode == 0, done.stderr
    tensors, _ = read_tensors(out)
    assert {tensor.dtype for tensor in tensors.values()} == {np.dtype("float16")}
    complaint = complaint_of(run_in_process(*export, "--dtype=bfloat16"))
    assert "--dtype: 'bfloat16' is not a valid value" in complaint and "float16, float32" in complaint
