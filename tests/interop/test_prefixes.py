"""Weights inside checkpoints of larger models are found, and what reading changed is said."""

import numpy as np
import pytest
import safetensors.numpy

from conftest import GOLDEN
from muskie_jax.errors import UserError
from muskie_jax.interop.framewise import read_framewise
from muskie_jax.interop.names import Network, to_torch
from muskie_jax.interop.prefixes import network_tensors
from muskie_jax.interop.sources import SourceKind, expand_pattern, identify_source
from muskie_jax.interop.weights import read_weights
from muskie_tests.networks import random_network, same

PREFIXES = ("encoder.", "encoder.encoder.", "backbone.", "teacher.backbone.", "module.", "model.",
            "model._orig_mod.encoder.")  # fmt: skip


@pytest.fixture(scope="module")
def muskie():
    model, params = random_network(0)
    return params, to_torch(params, Network.of(model))


def under(prefix, tensors):
    return {prefix + name: x for name, x in tensors.items()}


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_prefix_is_removed_and_said(tmp_path, muskie, prefix, capsys):
    params, tensors = muskie
    safetensors.numpy.save_file(under(prefix, tensors), tmp_path / "m.safetensors")
    assert same(read_weights(tmp_path / "m.safetensors", 2).params, params)
    note = f"{tmp_path / 'm.safetensors'}: read the tensors under '{prefix}'\n"
    assert capsys.readouterr().err == note


def test_nothing_is_said_of_a_plain_file(tmp_path, muskie, capsys):
    safetensors.numpy.save_file(muskie[1], tmp_path / "m.safetensors")
    read_weights(tmp_path / "m.safetensors", 2)
    assert capsys.readouterr().err == ""


def test_other_parts_of_a_model_are_left_out_and_said(tmp_path, muskie, capsys):
    """A prefix may occur twice, and other networks have some of the same names."""
    params, tensors = muskie
    zeros = np.zeros(3, np.float32)
    others = {"head.weight": zeros, "aggregator.patch_embed.proj.weight": zeros, "b": zeros, "c": zeros}
    content = under("encoder.encoder.", tensors) | others
    safetensors.numpy.save_file(content, tmp_path / "m.safetensors")
    assert same(read_weights(tmp_path / "m.safetensors", 2).params, params)
    said = capsys.readouterr().err
    assert "read the tensors under 'encoder.encoder.'; left out 4 more (" in said and ", ...)" in said


def test_the_teacher_is_preferred_to_the_student(tmp_path, muskie):
    params, tensors = muskie
    student = {name: x + 1 for name, x in tensors.items()}
    both = under("student.backbone.", student) | under("teacher.backbone.", tensors)
    safetensors.numpy.save_file(both, tmp_path / "m.safetensors")
    assert same(read_weights(tmp_path / "m.safetensors", 2).params, params)


def test_several_networks_are_refused(tmp_path, muskie):
    both = under("left.", muskie[1]) | under("right.", muskie[1])
    safetensors.numpy.save_file(both, tmp_path / "m.safetensors")
    expected = "it contains several networks, under 'left.', 'right.': save one of their state dicts alone"
    with pytest.raises(UserError, match=expected):
        read_weights(tmp_path / "m.safetensors", 2)


def test_under_a_prefix_missing_and_unknown_tensors_are_still_named(tmp_path, muskie):
    tensors = dict(muskie[1])
    tensors["blocks.0.x"] = tensors.pop("mask_placeholder")
    safetensors.numpy.save_file(under("encoder.", tensors), tmp_path / "m.safetensors")
    with pytest.raises(UserError, match="these are not Muskie weights: mask_placeholder is missing"):
        read_weights(tmp_path / "m.safetensors", 2)
    tensors["mask_placeholder"] = tensors["blocks.0.x"]
    safetensors.numpy.save_file(under("encoder.", tensors), tmp_path / "m.safetensors")
    with pytest.raises(UserError, match="unknown: blocks.0.x"):
        read_weights(tmp_path / "m.safetensors", 2)


def test_float64_is_rounded_and_said(tmp_path, muskie, capsys):
    params, tensors = muskie
    wide = {name: x.astype(np.float64) for name, x in tensors.items()}
    safetensors.numpy.save_file(under("model.", wide), tmp_path / "m.safetensors")
    assert same(read_weights(tmp_path / "m.safetensors", 2).params, params)
    said = capsys.readouterr().err
    assert said.endswith(f"under 'model.'; rounded {len(wide)} float64 tensors to float32\n")
    wide["decoder_norm.bias"][0] = 1e300
    safetensors.numpy.save_file(wide, tmp_path / "m.safetensors")
    with pytest.raises(UserError, match="infinite or undefined numbers"):
        read_weights(tmp_path / "m.safetensors", 2)


def test_names_that_only_end_alike_are_no_prefix():
    tensors = {"my_mask_placeholder": np.zeros(1)}
    assert network_tensors(tensors, ("mask_placeholder",)) == (tensors, "", [])


def test_checkpoints_of_lightning_are_weights_files(tmp_path):
    (tmp_path / "epoch=3.ckpt").touch()
    assert identify_source(tmp_path / "epoch=3.ckpt").kind is SourceKind.FILE
    assert expand_pattern(f"{tmp_path}/*") == [f"{tmp_path}/epoch=3.ckpt"]
    with pytest.raises(UserError, match=r"epoch=3.ckpt: it cannot be read: it is damaged"):
        read_weights(tmp_path / "epoch=3.ckpt")


def test_prefixes_and_heads_of_baselines(tmp_path, capsys):
    golden = np.load(GOLDEN / "crocov2_tiny.npz")
    tensors = {name.removeprefix("param/"): golden[name] for name in golden if name.startswith("param/")}
    path, heads = tmp_path / "m.safetensors", 2
    safetensors.numpy.save_file(tensors, path)
    settings, params = read_framewise("crocov2", path, heads)
    assert capsys.readouterr().err == "", "published files have decoders"
    head = {"head.weight": np.zeros((3, 32), np.float32)}
    safetensors.numpy.save_file(tensors | head, path)
    assert read_framewise("crocov2", path, heads)[0] == settings
    assert capsys.readouterr().err == f"{path}: left out 1 more (head.weight)\n"
    wide = {name: x.astype(np.float64) for name, x in tensors.items()}
    safetensors.numpy.save_file(under("backbone.", wide) | head, path)
    other_settings, other = read_framewise("crocov2", path, heads)
    assert other_settings == settings and same(other, params)
    said = capsys.readouterr().err
    assert "under 'backbone.'; left out 1 more (head.weight); rounded" in said
