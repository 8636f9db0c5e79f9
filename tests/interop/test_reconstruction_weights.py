"""Files of a backbone with its decoder of point maps and cameras: they load, export, and are checked."""

import argparse
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax.traverse_util import flatten_dict

from muskie_jax import load_pretrained, save_pretrained
from muskie_jax.errors import UserError
from muskie_jax.interop.load import load_backbone, open_weights
from muskie_jax.interop.names import Network, to_jax, to_torch
from muskie_jax.interop.reconstruction_names import ReconstructionNetwork, reconstruction_from_tensors
from muskie_jax.models.muskie import Muskie, build_model
from muskie_jax.models.reconstruction import Reconstruction
from muskie_tests import golden_reconstruction as golden
from muskie_tests.commands import complaint_of, run_in_process
from muskie_tests.networks import same


@pytest.fixture
def published(tmp_path):
    """A file with published names, without metadata."""
    path = tmp_path / "published.safetensors"
    safetensors.numpy.save_file(golden.tensors(), path)
    return path


@pytest.mark.parametrize("variant, decoder_depth", [("base", 2), ("large", 20), ("tiny", 1)])
def test_every_parameter_is_in_the_table(variant, decoder_depth):
    model = Reconstruction(build_model(variant), decoder_depth)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 1, 32, 32, 3)))["params"]
    network = ReconstructionNetwork.of(model)
    table = network.parameters()
    needed = {p.path: p.shape for p in table if not p.in_head}
    assert needed == {path: x.shape for path, x in flatten_dict(shapes).items()}
    assert all(np.prod(p.shape) == np.prod(p.torch_shape) for p in table)
    assert len({p.torch_name for p in table}) == len(table)
    tensors = {p.torch_name: np.broadcast_to(np.float32(0), p.torch_shape) for p in table}
    assert reconstruction_from_tensors(tensors) == network
    assert network.variant == variant and network.backbone == Network.of(model.backbone)


def test_published_tensors_convert_in_both_directions():
    tensors = golden.tensors()
    assert golden.network() == ReconstructionNetwork(32, 4, 4, 16, 4, decoder_depth=2)
    back = to_torch(golden.params(), golden.network())
    assert back.keys() == tensors.keys()
    assert all(back[name].shape == x.shape and np.array_equal(back[name], x) for name, x in tensors.items())


def test_a_published_file_loads(published):
    model, params = load_pretrained(published, num_heads=4)
    assert isinstance(model, Reconstruction) and model.decoder_depth == 2
    assert isinstance(model.backbone, Muskie) and model.backbone.heads == 4
    assert same(params, golden.params())
    output = jax.jit(model.apply)({"params": params}, golden.images())
    assert golden.worst(output.local_points, golden.numbers()["pred/local_points"]) < 1e-4
    half, _ = load_pretrained(published, num_heads=4, dtype="bfloat16", remat="full")
    assert half.backbone.dtype == jnp.bfloat16 and half.backbone.remat == "full"


def test_an_exported_folder_loads_without_num_heads(published, tmp_path):
    folder = tmp_path / "folder"
    metadata = save_pretrained(folder, *load_pretrained(published, num_heads=4), licence="cc-by-4.0")
    assert metadata["decoder_depth"] == 2 and metadata["num_heads"] == 4
    model, params = load_pretrained(folder)
    assert same(params, golden.params()) and model.backbone.heads == 4
    assert safetensors.numpy.load_file(folder / "model.safetensors").keys() == golden.tensors().keys()
    card = (folder / "README.md").read_text()
    assert "# Muskie (Width 32) with a decoder of point maps and cameras" in card
    assert "decoder blocks, for point maps and cameras | 2 |" in card and "output.camera_to_world" in card
    assert (
        "features only" not in card
        and json.loads((folder / "config.json").read_text())["decoder_depth"] == 2
    )


def test_the_backbone_alone_of_an_exported_file(published, tmp_path, capsys):
    save_pretrained(tmp_path / "folder", *load_pretrained(published, num_heads=4))
    capsys.readouterr()
    model, params = load_backbone(tmp_path / "folder")
    assert isinstance(model, Muskie) and same(params, golden.params()["backbone"])
    said = capsys.readouterr().err
    assert "read the tensors under 'encoder.encoder.'; left out " in said
    assert open_weights(published, 4).network == golden.network().backbone


def test_a_network_without_the_heads_of_pretraining(tmp_path):
    """As it is after training from new parameters."""
    backbone = {n: x for n, x in golden.params()["backbone"].items() if n not in ("norm", "head")}
    params = golden.params() | {"backbone": backbone}
    save_pretrained(tmp_path / "folder", golden.model(), params)
    assert same(load_pretrained(tmp_path / "folder")[1], params)


@pytest.mark.extras
def test_a_published_checkpoint_with_settings_of_omegaconf(tmp_path, fake_omegaconf):
    torch = pytest.importorskip("torch")
    state = {name: torch.from_numpy(x) for name, x in golden.tensors().items()}
    content = {"model": state, "args": fake_omegaconf, "more": argparse.Namespace(config=fake_omegaconf)}
    torch.save(content, tmp_path / "m.pth")
    for name in [name for name in sys.modules if name.startswith("omegaconf.")]:
        del sys.modules[name]  # reading needs no OmegaConf
    assert same(load_pretrained(tmp_path / "m.pth", num_heads=4)[1], golden.params())


@pytest.mark.extras
def test_an_exported_file_of_pytorch(published, tmp_path):
    torch = pytest.importorskip("torch")
    run = lambda *flags: run_in_process("muskie_jax.interop", "export", "--checkpoint", published, *flags)
    path = tmp_path / "m.pth"
    assert "no variant has width 32 and 4 blocks: set num_heads= (--num_heads)" in complaint_of(
        run("--out", path)
    )
    done = run("--out", path, "--num_heads", "4")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["backbone_only"] is False
    state = torch.load(path, weights_only=True)["model"]
    assert all(np.array_equal(state[name], x) for name, x in golden.tensors().items())
    assert same(load_pretrained(path)[1], golden.params())
    done = run("--out", tmp_path / "backbone.safetensors", "--num_heads", "4", "--backbone-only")
    assert json.loads(done.stdout)["backbone_only"] is True
    model, params = load_pretrained(tmp_path / "backbone.safetensors")
    assert isinstance(model, Muskie) and "head" not in params


def test_a_prefix_is_removed_and_other_tensors_are_left_out(tmp_path, capsys):
    tensors = {f"module.{name}": x for name, x in golden.tensors().items()} | {"ema_steps": np.zeros(1)}
    safetensors.numpy.save_file(tensors, tmp_path / "m.safetensors")
    assert same(load_pretrained(tmp_path / "m.safetensors", num_heads=4)[1], golden.params())
    assert "read the tensors under 'module.'; left out 1 more (ema_steps)" in capsys.readouterr().err


CONVOLUTION = "head.point_head.scratch.layer1_rn.weight"


@pytest.mark.parametrize(
    "removed, added, expected",
    [
        ("head.camera_head.fc_rot.bias", {}, "missing: head.camera_head.fc_rot.bias"),
        ("head.camera_head", {}, "missing: head.camera_head.res_conv.0.res_conv1.weight"),
        ("encoder.additional_blocks.1.norm2", {}, "missing: encoder.additional_blocks.1.norm2.weight"),
        ("encoder.additional_blocks.0.", {}, "missing: encoder.additional_blocks.0.norm1.weight"),
        ("encoder.encoder.decoder_norm", {}, "missing: encoder.encoder.decoder_norm.weight"),
        ("", {"head.depth_head.bias": (4,)}, "unknown: head.depth_head.bias"),
        ("", {CONVOLUTION: (32, 8, 1, 1)}, f"wrong shape: {CONVOLUTION} (32x8x1x1, not 32x8x3x3)"),
        ("encoder.encoder.", {}, "these are not Muskie weights: register_tokens is missing"),
    ],
)
def test_other_networks_are_refused(tmp_path, removed, added, expected):
    tensors = {
        name: x for name, x in golden.tensors().items() if not (removed and name.startswith(removed))
    }
    tensors |= {name: np.zeros(shape, np.float32) for name, shape in added.items()}
    path = tmp_path / "m.safetensors"
    safetensors.numpy.save_file(tensors, path)
    with pytest.raises(UserError) as error:
        load_pretrained(path, num_heads=4)
    assert str(error.value).startswith(str(path)) and expected in str(error.value)


def test_a_file_with_too_few_blocks_is_refused(tmp_path):
    dropped = ("encoder.encoder.blocks.3.", "encoder.additional_blocks.")
    tensors = {name: x for name, x in golden.tensors().items() if not name.startswith(dropped)}
    safetensors.numpy.save_file(tensors, tmp_path / "m.safetensors")
    expected = "the point head reads 4 blocks, but there are 3 backbone blocks and decoder_depth=0"
    with pytest.raises(UserError, match=expected):
        load_pretrained(tmp_path / "m.safetensors", num_heads=4)


@pytest.mark.parametrize("damaged", [CONVOLUTION, "encoder.encoder.blocks.1.frame_mlp.fc1.weight"])
def test_a_damaged_number_is_noticed_also_if_the_backbone_alone_is_read(published, tmp_path, damaged):
    save_pretrained(tmp_path / "folder", *load_pretrained(published, num_heads=4))
    path = tmp_path / "folder" / "model.safetensors"
    data = bytearray(path.read_bytes())
    number = golden.tensors()[damaged].ravel()[:4].tobytes()
    assert data.count(number) == 1
    data[data.find(number) + 2] ^= 16
    path.write_bytes(data)
    for load in (load_pretrained, load_backbone):
        with pytest.raises(UserError, match="it is damaged: its contents do not match its digest"):
            load(tmp_path / "folder")


def test_parameters_of_another_decoder_are_refused(tmp_path):
    with pytest.raises(UserError, match="missing: decoder_2/frame/norm1/scale"):
        save_pretrained(tmp_path / "folder", golden.model(decoder_depth=3), golden.params())
    shifted = to_jax(golden.tensors(), golden.network())
    del shifted["camera_head"]["translation"]["bias"]
    with pytest.raises(UserError, match="missing: camera_head/translation/bias"):
        save_pretrained(tmp_path / "folder", golden.model(), shifted)
