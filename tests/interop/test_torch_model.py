"""The PyTorch module computes the same results as the JAX module, from the same files."""

import argparse
import pathlib
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image

from muskie_tests.networks import random_inputs, random_network, same

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.extras

from muskie_jax import load_images, load_pretrained, save_pretrained  # noqa: E402
from muskie_jax.interop import torch_model  # noqa: E402
from muskie_jax.interop.load import open_weights  # noqa: E402
from muskie_jax.interop.names import Network, parameters  # noqa: E402
from muskie_jax.interop.weights import Weights, state_dict, write_weights  # noqa: E402
from muskie_jax.models.muskie import VARIANTS, build_model  # noqa: E402

TOLERANCE = 1e-4
torch.set_num_threads(1)  # tests run in parallel


def to_torch_images(images):
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 1, 4, 2, 3)))


def compare(model, params, theirs, images, mask):
    """The largest absolute difference between the outputs, and between the tokens of every block."""
    apply = jax.jit(model.apply, static_argnames=("method", "return_tokens"))
    ours = apply({"params": params}, images, mask, return_tokens=True)
    plain = apply({"params": params}, images, method="features")
    with torch.inference_mode():
        pixels, torch_mask = to_torch_images(images), torch.from_numpy(mask)
        output, tokens = theirs(pixels, torch_mask), theirs.features(pixels, torch_mask)
        unmasked = theirs.features(pixels)
    pairs = [(ours.pred, output.pred), (ours.conf, output.conf)]
    pairs += [*zip(ours.tokens, tokens, strict=True), *zip(plain, unmasked, strict=True)]
    assert all(tuple(a.shape) == tuple(b.shape) for a, b in pairs)
    return max(float(np.abs(np.asarray(a) - b.numpy()).max()) for a, b in pairs)


def test_the_published_numbers(golden):
    state = {
        k.removeprefix("param/"): torch.from_numpy(v) for k, v in golden.items() if k.startswith("param/")
    }
    model = torch_model.from_state_dict(state, num_heads=4)
    images, mask = torch.from_numpy(golden["images"]), torch.from_numpy(golden["mask"] > 0)
    with torch.inference_mode():
        pred, conf = model(images, mask)
        tokens = model.features(images)

    def as_images(x):
        x = x.unflatten(2, (3, 4)).unflatten(-1, (3, 16, 16))  # (B, V, rows, columns, 3, 16, 16)
        return x.permute(0, 1, 4, 2, 5, 3, 6).flatten(3, 4).flatten(4, 5)

    close = lambda ours, theirs: np.testing.assert_allclose(ours.numpy(), theirs, rtol=0, atol=2e-5)
    close(as_images(pred), golden["pred"])
    close(as_images(conf), golden["conf"])
    for block, ours in enumerate(tokens):
        close(ours.flatten(0, 1), golden[f"latent/{block}"])


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
@pytest.mark.parametrize(
    "seed, views, size, options",
    [
        (0, 3, (48, 80), {}),
        (1, 1, (16, 112), {"width": 48, "heads": 3, "registers": 1}),
        (2, 5, (40, 24), {"patch": 8, "view_embed": "learned", "max_views": 6}),
        (3, 2, (32, 80), {"rope_base": 10.0}),
    ],
)
def test_jax_to_file_to_pytorch(tmp_path, seed, views, size, options, suffix):
    model, params = random_network(seed, **options)
    images, mask = random_inputs(seed, views, size, model.patch)
    write_weights(tmp_path / f"m.{suffix}", Weights(Network.of(model), params))
    theirs = torch_model.load(tmp_path / f"m.{suffix}")
    assert compare(model, params, theirs, images, mask) < TOLERANCE


def test_every_parameter_matters():
    """The comparisons above would therefore notice any wrong parameter."""
    model, params = random_network(0)
    images, mask = random_inputs(0, 2, (32, 48))
    state = state_dict(Weights(Network.of(model), params))

    def results(state):
        theirs = torch_model.from_state_dict(state, model.heads)
        with torch.inference_mode():
            output = theirs(to_torch_images(images), torch.from_numpy(mask))
        return torch.cat(output)

    torch.manual_seed(0)
    plain = results(state)
    for name, tensor in state.items():
        moved = results(state | {name: tensor + 0.1 * torch.randn_like(tensor)})
        assert (moved - plain).abs().max() > 3 * TOLERANCE, name


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_round_trip_through_jax_changes_no_bit(tmp_path, suffix):
    torch.manual_seed(3)
    network = torch_model.TorchMuskie(width=48, depth=2, heads=4)
    torch.nn.init.normal_(network.mask_placeholder)
    # The published trainer saves these entries.
    optimizer = torch.optim.AdamW(network.parameters())
    network.features(torch.zeros(1, 1, 3, 16, 16))[-1].sum().backward()
    optimizer.step()
    state = network.state_dict()
    arguments = argparse.Namespace(lr=2e-4, mask_mode=["random"], output_dir="out", dist_url=None)
    content = {
        "model": state,
        "optimizer": optimizer.state_dict(),
        "epoch": 3,
        "scaler": {},
        "args": arguments,
    }
    torch.save(content, tmp_path / "checkpoint-3.pth")
    model, params = load_pretrained(tmp_path / "checkpoint-3.pth")
    assert model.heads == 4
    weights = Weights(Network.of(model), jax.tree.map(np.asarray, params))
    write_weights(tmp_path / f"back.{suffix}", weights)
    back = torch_model.load(tmp_path / f"back.{suffix}").state_dict()
    assert set(back) == set(state)
    for name, tensor in state.items():
        assert torch.equal(back[name].view(torch.int32), tensor.view(torch.int32)), name
    assert same(jax.tree.map(np.asarray, load_pretrained(tmp_path / f"back.{suffix}")[1]), weights.params)


def test_damaged_metadata_is_refused(tmp_path):
    model, params = random_network(4)
    path = tmp_path / "m.safetensors"
    write_weights(path, Weights(Network.of(model), params))
    path.write_bytes(path.read_bytes().replace(b'num_heads\\": 2', b'num_heads\\": 6'))
    with pytest.raises(ValueError, match="m.safetensors: it is damaged: its metadata does not match its"):
        torch_model.load(path)


def test_a_backbone_alone(tmp_path):
    model, params = random_network(4)
    backbone = Weights(Network.of(model), params).backbone()
    write_weights(tmp_path / "b.safetensors", backbone)
    theirs = torch_model.load(tmp_path / "b.safetensors")
    images, _ = random_inputs(4, 2, (32, 32))
    ours = model.apply(
        {"params": open_weights(tmp_path / "b.safetensors").params}, images, method="features"
    )
    with torch.inference_mode():
        tokens = theirs.features(to_torch_images(images))
    assert max(float(np.abs(np.asarray(a) - b.numpy()).max()) for a, b in zip(ours, tokens)) < TOLERANCE


@pytest.mark.parametrize("variant", VARIANTS)
def test_parameters_of_every_variant(variant):
    """Names and shapes match the table, and sizes match `VARIANTS`."""
    size = VARIANTS[variant]
    with torch.device("meta"):
        theirs = torch_model.TorchMuskie(size.width, size.depth, torch_model.HEADS[size.width, size.depth])
    table = parameters(Network.of(build_model(variant)))
    assert {n: tuple(x.shape) for n, x in theirs.state_dict().items()} == {
        p.torch_name: p.torch_shape for p in table
    }
    assert theirs.head_size == size.width // size.heads


def test_without_jax(tmp_path):
    """The module works without JAX, from the package and as a file on its own."""
    model, params = random_network(5)
    save_pretrained(tmp_path / "folder", model, params)
    shutil.copy(torch_model.__file__, tmp_path / "torch_model.py")
    program = (
        "import sys\n"
        "for name in ('jax', 'flax', 'orbax'): sys.modules[name] = None\n"
        "from {module} import load\n"
        "import torch\n"
        "tokens = load({path!r}).features(torch.zeros(1, 2, 3, 32, 48))\n"
        "print(len(tokens), *tokens[-1].shape)\n"
    )
    root = pathlib.Path(torch_model.__file__).parents[2]
    for module, folder in (("muskie_jax.interop.torch_model", root), ("torch_model", tmp_path)):
        code = program.format(module=module, path=str(tmp_path / "folder" / "model.safetensors"))
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False
        )
        assert done.stdout.split() == ["2", "1", "2", "6", "24"], done.stderr


def test_under_autocast_tokens_stay_float32():
    """Autocast rounds products but keeps the residual stream in float32, as published."""
    torch.manual_seed(0)
    model = torch_model.TorchMuskie(width=48, depth=2, heads=4).eval()
    images, mask = torch.rand(1, 2, 3, 32, 48) * 2 - 1, torch.rand(1, 2, 6) < 0.5
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        rough, unmasked = model.features(images, mask), model.features(images)
    with torch.inference_mode():
        exact = model.features(images, mask)
    assert {x.dtype for x in (*rough, *unmasked)} == {torch.float32}
    assert 0 < (rough[-1] - exact[-1]).square().mean().sqrt() < 0.006 * exact[-1].square().mean().sqrt()
    half = model.bfloat16().features(images.bfloat16(), mask)
    assert half[-1].dtype == torch.bfloat16


def test_unusable_inputs_are_refused():
    state = torch_model.TorchMuskie(width=60, depth=1, heads=5).state_dict()
    with pytest.raises(ValueError, match="no variant has width 60 and 1 blocks: set num_heads="):
        torch_model.from_state_dict(state)
    backbone = {name: x for name, x in state.items() if not name.startswith("decoder")}
    with pytest.raises(ValueError, match="no reconstruction head: call features"):
        torch_model.from_state_dict(backbone, 5)(torch.zeros(1, 1, 3, 32, 32))
    model = torch_model.from_state_dict(state, 5)
    with pytest.raises(ValueError, match="30x32 is not divisible by the patch size 16: crop or resize to"):
        model.features(torch.zeros(1, 1, 3, 30, 32))
    with pytest.raises(ValueError, match=r"in \[-1, 1\], but have values up to 255: convert 0..255 pixels"):
        model.features(torch.full((1, 1, 3, 32, 32), 255.0))
    bias = torch.full((60,), torch.nan)
    with pytest.raises(ValueError, match="^the weights contain infinite or undefined numbers"):
        torch_model.from_state_dict(state | {"decoder_norm.bias": bias}, 5)


@pytest.mark.parametrize(
    "shape, hint",
    [
        ((1, 2, 64, 64, 3), ": convert images whose channels are last with images.movedim(-1, 2)"),
        ((1, 2, 30, 64, 3), ": convert images whose channels are last with images.movedim(-1, 2)"),
        ((1, 3, 2, 32, 32), ""),
        ((2, 3, 32, 32), ""),
    ],
)
def test_images_with_other_axes_are_refused(shape, hint):
    model = torch_model.TorchMuskie(width=48, depth=1, heads=4)
    for dtype in (torch.float32, torch.uint8):
        with pytest.raises(ValueError) as error:
            model(torch.full(shape, 255, dtype=dtype))
        assert str(error.value) == f"images must have shape (B, V, 3, H, W), got {shape}{hint}"
    if hint:
        assert torch.zeros(shape).movedim(-1, 2).shape[2] == 3


def test_paths_that_are_no_files_are_refused(tmp_path):
    for suffix in ("", ".pth", ".safetensors"):
        path = tmp_path / f"m{suffix}"
        expected = "pass a .safetensors, .pth, .pt or .ckpt file"
        with pytest.raises(FileNotFoundError) as missing:
            torch_model.load(path)
        assert str(missing.value) == f"{path} does not exist: {expected}"
        path.mkdir()
        with pytest.raises(ValueError) as folder:
            torch_model.load(str(path))
        assert str(folder.value) == f"{path} is a folder: {expected}, such as model.safetensors in it"


def test_photographs_are_loaded_as_in_jax(tmp_path):
    """Smooth images of three sizes, one turned by its EXIF orientation, and one that is transparent."""
    rng = np.random.default_rng(0)
    files = [tmp_path / f"{number}.jpg" for number in range(3)]
    exif = Image.Exif()
    for file, size, orientation in zip(files, ((160, 120), (120, 160), (200, 144)), (1, 6, 1)):
        coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8))
        exif[0x0112] = orientation
        coarse.resize(size, Image.Resampling.BICUBIC).save(file, exif=exif, quality=95)
    transparent = coarse.resize((160, 120), Image.Resampling.BICUBIC)
    transparent.putalpha(100)
    files.append(tmp_path / "3.png")
    transparent.save(files[-1])
    views, crops = torch_model.load_images(files, size=100)
    ours = load_images(files, size=100)
    np.testing.assert_allclose(crops, ours.crops)
    theirs = views[0].permute(0, 2, 3, 1).numpy()
    assert theirs.shape == ours.images.shape == (4, 96, 128, 3)
    assert np.abs(theirs - ours.images).max() < 4 / 127.5
