"""A Muskie that starts from a vision transformer of single images computes the same layers."""

import json

import jax
import numpy as np
import pytest
import safetensors.numpy

from muskie_jax.errors import UserError
from muskie_jax.interop.framewise import read_framewise
from muskie_jax.interop.load import load_pretrained, model_of
from muskie_jax.interop.single_stream import (
    check_sizes,
    convert_single_stream,
    muskie_from_single_stream,
    parse_target,
    settings_of_network,
    split_source,
)
from muskie_jax.models.framewise import Framewise, Settings
from muskie_jax.models.muskie import VARIANTS
from muskie_tests.commands import complaint_of, run_in_process

NANO = VARIANTS["nano"]
WIDTH, LAYERS, HEADS, PATCH, HIDDEN = NANO.width, 2 * NANO.depth, NANO.heads, 8, 4 * NANO.width


def timm_file(path, family="dinov2", layers=LAYERS, width=WIDTH, **changes):
    """Writes random weights under timm's names, which those of DINOv2's and MAE's repositories equal."""
    rng = np.random.default_rng(0)
    draw = lambda *shape: (0.2 * rng.standard_normal(shape)).astype(np.float32)
    prefix = "enc_blocks" if family == "crocov2" else "blocks"
    tensors = {
        "patch_embed.proj.weight": draw(width, 3, PATCH, PATCH),
        "patch_embed.proj.bias": draw(width),
    }
    norm = "enc_norm" if family == "crocov2" else "norm"
    names = {f"{norm}.weight": (width,), f"{norm}.bias": (width,)}
    if family != "crocov2":
        tensors |= {"cls_token": draw(1, 1, width), "pos_embed": draw(1, 1 + 4 * 4, width)}
    hidden = 4 * width
    for i in range(layers):
        block = {
            "norm1.weight": (width,), "norm1.bias": (width,),
            "norm2.weight": (width,), "norm2.bias": (width,),
            "attn.qkv.weight": (3 * width, width), "attn.qkv.bias": (3 * width,),
            "attn.proj.weight": (width, width), "attn.proj.bias": (width,),
            "mlp.fc1.weight": (hidden, width), "mlp.fc1.bias": (hidden,),
            "mlp.fc2.weight": (width, hidden), "mlp.fc2.bias": (width,),
        }  # fmt: skip
        if family == "dinov2":
            block |= {"ls1.gamma": (width,), "ls2.gamma": (width,)}
        names |= {f"{prefix}.{i}.{name}": shape for name, shape in block.items()}
    tensors |= {name: draw(*shape) for name, shape in names.items()}
    tensors |= changes
    safetensors.numpy.save_file(tensors, path)
    return path


def images():
    return np.random.default_rng(1).uniform(-1, 1, (2, 1, 4 * PATCH, 3 * PATCH, 3)).astype(np.float32)


def tokens_of(settings, params):
    """Tokens of every layer of the single-stream network, for each image."""
    network = Framewise(settings)
    return network.apply({"params": params}, images()[:, 0], method="features")


def test_the_layers_of_one_view_are_those_of_the_other_network(tmp_path):
    """CroCo v2 has our positions and no class token. Without registers, both networks are then equal."""
    path = timm_file(tmp_path / "croco.safetensors", "crocov2")
    settings, params = read_framewise("crocov2", path, HEADS)
    conversion = muskie_from_single_stream(settings, params, "nano", registers=0)
    weights = conversion.weights
    model = model_of(weights.network)
    ours = model.apply({"params": weights.params}, images(), method="features")
    theirs = tokens_of(settings, params)
    # The last one of theirs is normalised.
    for block in range(NANO.depth - 1):
        np.testing.assert_allclose(ours[block][:, 0], theirs[2 * block + 1], rtol=1e-3, atol=1e-3)
    assert conversion.left_out == ()
    x = np.asarray(ours[-1][:, 0], np.float64)
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    norm = weights.params["norm"]
    np.testing.assert_allclose(x * norm["scale"] + norm["bias"], theirs[-1], rtol=1e-3, atol=2e-3)


def test_layer_scales_and_normalisation_are_kept(tmp_path):
    """With uniform attention, positions do not matter; a register then does what the class token did."""
    path = timm_file(tmp_path / "dino.safetensors")
    settings, params = read_framewise("dinov2", path, HEADS)
    params["positions"] = np.zeros_like(params["positions"])
    for i in range(LAYERS):
        qkv = params[f"block_{i}"]["attention"]["qkv"]
        qkv["kernel"][:, : 2 * WIDTH] = 0
        qkv["bias"][: 2 * WIDTH] = 0
    weights = muskie_from_single_stream(settings, params, "nano", registers=1).weights
    weights.params["register_tokens"] = params["class_token"]
    ours = model_of(weights.network).apply({"params": weights.params}, images(), method="features")
    np.testing.assert_allclose(ours[0][:, 0], tokens_of(settings, params)[1], rtol=1e-3, atol=1e-3)


def test_registers_of_the_same_number_are_kept(tmp_path):
    registers = np.random.default_rng(3).normal(size=(1, 4, WIDTH)).astype(np.float32)
    path = timm_file(tmp_path / "registers.safetensors", register_tokens=registers)
    conversion = convert_single_stream("dinov2", path, "nano", HEADS)
    np.testing.assert_array_equal(conversion.weights.params["register_tokens"], registers[0])
    assert conversion.fresh == ("head", "mask_token")
    path = timm_file(tmp_path / "two.safetensors", register_tokens=registers[:, :2])
    conversion = convert_single_stream("dinov2", path, "nano", HEADS)
    assert conversion.fresh == ("register_tokens", "head", "mask_token")
    assert conversion.left_out == ("2 registers", "class token", "table of positions")
    assert conversion.weights.params["register_tokens"].shape == (4, WIDTH)


def test_other_sizes_are_named(tmp_path):
    path = timm_file(tmp_path / "dino.safetensors")
    with pytest.raises(
        UserError, match=r"needs a vision transformer of width 192, depth 6, heads 3.*, but th"
    ):
        convert_single_stream("dinov2", path, "tiny", HEADS)
    with pytest.raises(UserError, match="use --as muskie_nano"):
        convert_single_stream("dinov2", path, "base", HEADS)
    deep = timm_file(tmp_path / "deep.safetensors", layers=3)
    with pytest.raises(UserError, match="of depth 4, but this DINOv2 has depth 3: use other weights"):
        convert_single_stream("dinov2", deep, "nano", HEADS)
    gated = Settings("dinov2", WIDTH, LAYERS, HEADS, PATCH, HIDDEN, gated=True)
    with pytest.raises(UserError, match="has gated MLPs"):
        check_sizes(gated, "nano")


def test_everything_else_of_the_file_must_fit(tmp_path):
    path = timm_file(tmp_path / "dino.safetensors", **{"blocks.0.odd.weight": np.ones(3, np.float32)})
    with pytest.raises(UserError, match="odd"):
        convert_single_stream("dinov2", path, "nano", HEADS)


def test_sources_and_targets():
    assert split_source("dinov2:facebook/dinov2-base") == ("dinov2", "facebook/dinov2-base")
    assert split_source("muskie-base.pth") is None and split_source("C:/weights.pth") is None
    assert parse_target("muskie_base") == "base"
    with pytest.raises(UserError, match="--as: 'muskie_bsae' is not a valid value.*muskie_base"):
        parse_target("muskie_bsae")


def test_the_command_makes_a_work_directory(tmp_path):
    path = timm_file(tmp_path / "dino.safetensors")
    arguments = ("import", "--from", f"dinov2:{path}", "--num_heads", HEADS, "--out", tmp_path / "run")
    assert "needs the size of the Muskie: pass --as muskie_base" in complaint_of(
        run_in_process("muskie_jax.interop", *arguments)
    )
    done = run_in_process("muskie_jax.interop", *arguments, "--as", "muskie_nano")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["variant"] == "nano"
    assert "new values: register_tokens, head, mask_token; left out: class token, table" in done.stderr
    assert "--config.model.patch=8" in done.stderr
    model, params = load_pretrained(tmp_path / "run")
    assert model.patch == PATCH
    expected = convert_single_stream("dinov2", path, "nano", HEADS).weights
    assert settings_of_network(expected.network) == "--config.model.patch=8"
    jax.tree.map(np.testing.assert_array_equal, params, expected.params)
    origin = json.loads((tmp_path / "run" / "imported.json").read_text())
    assert origin["single_stream"]["kind"] == "dinov2"
    wrong = ("import", "--from", tmp_path / "run", "--as", "muskie_nano", "--out", tmp_path / "other")
    assert "--as is for --from mae:... or dinov2:..." in complaint_of(
        run_in_process("muskie_jax.interop", *wrong)
    )
