"""Checkpoints of trainers are read alike by `load_pretrained` and by the PyTorch module."""

import argparse
import os
import pathlib
import sys

import jax
import numpy as np
import pytest
import safetensors.numpy

from muskie_jax.errors import UserError
from muskie_jax.interop.names import Network, to_torch
from muskie_jax.interop.weights import Weights, read_weights, state_dict
from muskie_tests.networks import random_network, same

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.extras

from muskie_jax.interop import torch_model  # noqa: E402


@pytest.fixture(scope="module")
def muskie():
    """A network's parameters, and its PyTorch state dict."""
    model, params = random_network(0)
    return params, state_dict(Weights(Network.of(model), params))


def under(prefix, tensors):
    return {prefix + name: x for name, x in tensors.items()}


def read_both(path, capsys):
    """Reads a file with both loaders, which must agree; returns the parameters and what was said."""
    weights = read_weights(path, 2)
    said = capsys.readouterr().err
    theirs = torch_model.load(path, 2)
    assert capsys.readouterr().err == said
    ours = to_torch(jax.tree.map(np.asarray, weights.params), weights.network)
    for name, tensor in theirs.state_dict().items():
        np.testing.assert_array_equal(tensor.numpy(), ours[name])
    return weights.params, said.removeprefix(f"{path}: ").strip()


def refuse_both(path, num_heads=2):
    """Returns the message of both loaders, which must be equal."""
    with pytest.raises(UserError) as ours:
        read_weights(path, num_heads)
    with pytest.raises(ValueError) as theirs:
        torch_model.load(path, num_heads)
    assert str(ours.value) == str(theirs.value) and "\n" not in str(theirs.value)
    return str(ours.value).removeprefix(f"{path}: ")


@pytest.mark.parametrize("key", ["model", "state_dict", "model_state_dict", "teacher", None])
@pytest.mark.parametrize(
    "prefix, suffix",
    [("", "pth"), ("encoder.", "pt"), ("teacher.backbone.", "pth"), ("module.", "ckpt")],
)
def test_state_dicts_under_keys_and_prefixes(tmp_path, muskie, key, prefix, suffix, capsys):
    params, state = muskie
    content = under(prefix, state)
    path = tmp_path / f"m.{suffix}"
    torch.save({key: content, "epoch": 3} if key else content, path)
    read, said = read_both(path, capsys)
    assert same(read, params)
    assert said == (f"read the tensors under '{prefix}'" if prefix else "")


def test_a_lightning_checkpoint(tmp_path, muskie, capsys):
    params, state = muskie
    wide = {name: x.double() for name, x in state.items()}
    content = {
        "epoch": 3,
        "pytorch-lightning_version": "2.5.0",
        "state_dict": under("model.encoder.", wide) | under("model.", {"head.weight": torch.zeros(2, 24)}),
        "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 1e-4}]}],
        "hyper_parameters": {"lr": 1e-4, "path": pathlib.PurePosixPath("/data")},
    }
    torch.save(content, tmp_path / "epoch=3.ckpt")
    read, said = read_both(tmp_path / "epoch=3.ckpt", capsys)
    assert same(read, params)
    assert said == (
        "read the tensors under 'model.encoder.'; left out 1 more (model.head.weight); "
        f"rounded {len(wide)} float64 tensors to float32"
    )


@pytest.mark.parametrize("prefix", ["encoder.", ""])
def test_safetensors_of_a_larger_model(tmp_path, muskie, prefix, capsys):
    params, state = muskie
    tensors = {prefix + name: x.numpy() for name, x in state.items()}
    safetensors.numpy.save_file(tensors, tmp_path / "m.safetensors")
    assert same(read_both(tmp_path / "m.safetensors", capsys)[0], params)


def test_a_state_dict_in_memory_may_have_a_prefix(muskie, capsys):
    torch_model.from_state_dict(under("backbone.", muskie[1]), 2)
    assert capsys.readouterr().err == "state dict: read the tensors under 'backbone.'\n"


def test_settings_of_omegaconf_are_ignored(tmp_path, muskie, fake_omegaconf, capsys):
    content = {"model": muskie[1], "args": argparse.Namespace(config=fake_omegaconf), "cfg": fake_omegaconf}
    torch.save(content, tmp_path / "m.pth")
    for name in [name for name in sys.modules if name.startswith("omegaconf.")]:
        del sys.modules[name]  # reading needs no OmegaConf
    assert same(read_both(tmp_path / "m.pth", capsys)[0], muskie[0])


def test_real_settings_of_omegaconf_are_ignored(tmp_path, muskie, capsys):
    omegaconf = pytest.importorskip("omegaconf")
    settings = {"lr": 1e-4, "n": 3, "flag": True, "modes": ["a", "b"], "same": "${lr}"}
    others = {"root": pathlib.Path("x"), "none": None, "bytes": b"x", "empty": {}}
    config = omegaconf.OmegaConf.create(settings | others)
    torch.save({"model": muskie[1], "args": config}, tmp_path / "m.pth")
    assert same(read_both(tmp_path / "m.pth", capsys)[0], muskie[0])


class Command:
    """Runs a command when it is unpickled, under the name of a settings class."""

    def __reduce__(self):
        return os.system, ("touch ran",)


def test_nothing_in_settings_is_executed(tmp_path, muskie, fake_omegaconf, monkeypatch):
    monkeypatch.chdir(tmp_path)
    vars(fake_omegaconf)["_content"]["command"] = Command()
    torch.save({"model": muskie[1], "args": fake_omegaconf}, "m.pth")
    assert "none was run" in refuse_both(pathlib.Path("m.pth"))
    assert not pathlib.Path("ran").exists()


def test_stand_ins_store_and_run_nothing():
    """Whatever a pickle calls them with."""
    for cls in torch_model.ignored_classes():
        instance = cls(1, "a", [])
        instance.__setstate__({"x": 1})
        assert vars(instance) == {} and not callable(instance)


def without(name):
    return lambda state: {n: x for n, x in state.items() if n != name}


@pytest.mark.parametrize(
    "change, num_heads, expected",
    [
        (without("register_tokens"), 2, "these are not Muskie weights: register_tokens is missing"),
        (without("mask_placeholder"), 2, "these are not Muskie weights: mask_placeholder is missing"),
        (without("decoder_pred.bias"), 2, "do not fit this network; missing: decoder_pred.bias"),
        (lambda s: s | {"blocks.0.x": torch.zeros(1)}, 2, "do not fit this network; unknown: blocks.0.x"),
        (lambda s: s | {"decoder_norm.bias": torch.zeros(3)}, 2, "shape: decoder_norm.bias (3, not 24)"),
        (lambda s: s | {"register_tokens": torch.zeros(4, 24)}, 2, "register_tokens has shape (4, 24)"),
        (lambda s: s, None, "no variant has width 24 and 2 blocks: set num_heads="),
        (lambda s: s, 5, "num_heads=5 does not fit width 24: each head needs a multiple of 4 channels"),
        (lambda s: under("a.", s) | under("b.", s), 2, "it contains several networks, under 'a.', 'b.'"),
        (lambda s: {"model": {}}, 2, "it contains no tensor"),
        (lambda s: {"epoch": 3}, 2, "'epoch' is not a tensor"),
        (lambda s: [1], 2, "it contains a list, not a dictionary"),
        (lambda s: {"model": s, "x": Command()}, 2, "it contains Python objects other than weights"),
    ],
)
def test_both_loaders_refuse_alike(tmp_path, muskie, change, num_heads, expected):
    torch.save(change(muskie[1]), tmp_path / "m.pth")
    if num_heads is None:  # the message of the command line also names its flag
        with pytest.raises(ValueError, match=expected):
            torch_model.load(tmp_path / "m.pth")
        return
    assert expected in refuse_both(tmp_path / "m.pth", num_heads)


@pytest.mark.parametrize(
    "name, start", [("m.pth", b"\x80\x02"), ("m.ckpt", b"\x80\x02"), ("m.safetensors", b"")]
)
def test_a_damaged_file_is_refused_alike(tmp_path, name, start):
    (tmp_path / name).write_bytes(start + b"hello " * 100)
    assert "it cannot be read: it is damaged, or not a weights file" in refuse_both(tmp_path / name)


@pytest.mark.parametrize("name", ["m.pth", "m.ckpt", "m.safetensors"])
@pytest.mark.parametrize("page", [b"<!DOCTYPE html>", b"\n \t<html>", b"\xef\xbb\xbf<html>"])
def test_a_web_page_is_named_alike(tmp_path, name, page):
    (tmp_path / name).write_bytes(page + b"<title>Virus scan warning</title>")
    assert refuse_both(tmp_path / name) == "it is a web page, not a weights file: download the file itself"


@pytest.mark.parametrize("archive", [True, False])
def test_a_wrong_suffix_is_named_alike(tmp_path, muskie, archive):
    path = tmp_path / "m.safetensors"
    torch.save(muskie[1], path, _use_new_zipfile_serialization=archive)
    assert refuse_both(path) == "it is a PyTorch file: rename it to .pth"
    safetensors.numpy.save_file({name: x.numpy() for name, x in muskie[1].items()}, tmp_path / "m.pth")
    assert refuse_both(tmp_path / "m.pth") == "it is a safetensors file: rename it to .safetensors"


def test_numbers_that_are_not_finite_are_refused_alike(tmp_path, muskie):
    for value in (torch.nan, 1e300):  # the latter is infinite in float32
        bias = torch.full((24,), value, dtype=torch.float64)
        torch.save(muskie[1] | {"decoder_norm.bias": bias}, tmp_path / "m.pth")
        assert "infinite or undefined numbers" in refuse_both(tmp_path / "m.pth")


@pytest.mark.parametrize("length", [0x3C3C, 0x0280])  # "<<", and the start of a pickle
def test_a_header_of_any_length_is_read(tmp_path, muskie, length, capsys):
    tensors = {name: x.numpy() for name, x in muskie[1].items()}
    data = safetensors.numpy.save(tensors)
    size = int.from_bytes(data[:8], "little")
    padded = data[8 : 8 + size].rstrip().ljust(-(-size // 0x10000) * 0x10000 + length)
    (tmp_path / "m.safetensors").write_bytes(len(padded).to_bytes(8, "little") + padded + data[8 + size :])
    assert same(read_both(tmp_path / "m.safetensors", capsys)[0], muskie[0])


def test_shared_tensors_count_once(tmp_path, muskie, capsys):
    """The file is smaller than its tensors together."""
    blocks = {name: x for name, x in muskie[1].items() if name.startswith("blocks.")}
    torch.save({"state_dict": under("encoder.", muskie[1]) | under("copy.", blocks)}, tmp_path / "m.ckpt")
    assert same(read_both(tmp_path / "m.ckpt", capsys)[0], muskie[0])
