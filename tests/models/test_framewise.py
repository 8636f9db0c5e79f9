"""MAE, DINOv2 and DINOv3 against `transformers`, CroCo v2 against its published implementation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax.traverse_util import flatten_dict, unflatten_dict

from conftest import GOLDEN
from muskie_jax.interop.framewise import load_framewise
from muskie_jax.models.framewise import MEAN, STD, Framewise, Settings, interpolate_positions
from muskie_tests.framewise_networks import (
    CASES,
    HEADS,
    kind_of,
    repository_tensors,
    transformers_model,
    transformers_tensors,
)

pytestmark = pytest.mark.extras  # PyTorch and transformers

# Wider than high, and not the size that tables of positions are for: smaller along one axis, larger along
# the other.
SIZE = {"mae": (24, 48), "dinov2": (28, 49), "dinov3": (24, 40)}


def loaded(tensors, kind, folder, **options):
    path = folder / "model.safetensors"
    safetensors.numpy.save_file(tensors, path)
    return load_framewise(kind, path, num_heads=HEADS, **options)


def compiled(model):
    return jax.jit(lambda params, images: model.apply({"params": params}, images, method="features"))


def images_of(size, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (2, *size, 3)).astype(np.float32)


def transformers_tokens(case, images):
    """Patch tokens after each layer, the last after the final norm, by `transformers`."""
    torch = pytest.importorskip("torch")
    model = transformers_model(case)
    pixels = (images / 2 + 0.5 - MEAN) / STD
    options = {"pixel_values": torch.tensor(pixels).permute(0, 3, 1, 2), "output_hidden_states": True}
    if case == "mae":  # sorts patches by noise, to drop some
        model, patches = model.vit, images[0, ..., 0].size // 8**2
        options |= {"noise": torch.arange(patches).repeat(len(images), 1), "interpolate_pos_encoding": True}
    with torch.inference_mode():
        output = model(**options)
    first = 1 + getattr(model.config, "num_register_tokens", 0)
    layers = [*output.hidden_states[1:-1], output.last_hidden_state]
    return [layer[:, first:].numpy() for layer in layers]


def assert_all_parameters_matter(apply, params, images, tokens):
    flat = flatten_dict(params)
    for path, array in flat.items():
        changed = unflatten_dict(
            flat | {path: array + 0.1 * np.cos(np.arange(array.size)).reshape(array.shape)}
        )
        moved = np.abs(apply(changed, images)[-1] - tokens[-1]).max()
        assert moved > 1e-3, f"{'/'.join(path)} changes nothing"


@pytest.mark.parametrize("case", CASES)
def test_tokens_match_transformers(case, tmp_path):
    model, params = loaded(transformers_tensors(case), kind_of(case), tmp_path)
    assert model.settings.family.epsilon == transformers_model(case).config.layer_norm_eps
    images = images_of(SIZE[kind_of(case)])
    apply = compiled(model)
    tokens = apply(params, images)
    expected = transformers_tokens(case, images)
    assert [x.shape for x in tokens] == [x.shape for x in expected] and len(tokens) == 2
    for ours, other in zip(tokens, expected):
        np.testing.assert_allclose(ours, other, rtol=0, atol=1e-4)
    assert_all_parameters_matter(apply, params, images, tokens)


def test_rotation_periods_are_read_from_the_file(tmp_path):
    """DINOv3's own files store the periods of its rotations, rounded."""
    torch = pytest.importorskip("torch")
    tensors = repository_tensors("dinov3, gated")
    periods = np.float32(1.1) * tensors["rope_embed.periods"]
    model, params = loaded(tensors | {"rope_embed.periods": periods}, "dinov3", tmp_path)
    images = images_of(SIZE["dinov3"])
    tokens = compiled(model)(params, images)
    rotations = transformers_model("dinov3, gated").rope_embeddings
    exact = rotations.inv_freq
    try:
        rotations.inv_freq = 1 / torch.tensor(periods)
        expected = transformers_tokens("dinov3, gated", images)
    finally:
        rotations.inv_freq = exact
    assert np.abs(expected[-1] - transformers_tokens("dinov3, gated", images)[-1]).max() > 1e-2
    np.testing.assert_allclose(tokens[-1], expected[-1], rtol=0, atol=1e-4)


@pytest.fixture(scope="module")
def croco():
    return dict(np.load(GOLDEN / "crocov2_tiny.npz"))


def test_croco_matches_the_published_implementation(croco, tmp_path):
    tensors = {name[len("param/") :]: x for name, x in croco.items() if name.startswith("param/")}
    model, params = loaded(tensors, "crocov2", tmp_path)
    images = croco["images"].transpose(0, 2, 3, 1)
    apply = compiled(model)
    tokens = apply(params, images)
    for layer, ours in enumerate(tokens):
        np.testing.assert_allclose(ours, croco[f"tokens/{layer}"], rtol=0, atol=1e-4)
    assert_all_parameters_matter(apply, params, images, tokens)
    model, _ = loaded(tensors, "crocov2", tmp_path, dtype="bfloat16")
    for exact, half in zip(tokens, compiled(model)(params, images)):
        assert half.dtype == jnp.bfloat16
        assert 0 < np.abs(half - exact).mean() < 0.02 * np.abs(exact).mean()


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("grid", [(5, 5), (5, 6), (1, 3), (13, 11)])
def test_interpolation_matches_pytorch(grid, antialias):
    torch = pytest.importorskip("torch")
    table = np.random.default_rng(0).standard_normal((25, 3), np.float32)
    maps = torch.tensor(table).reshape(1, 5, 5, 3).permute(0, 3, 1, 2)
    expected = torch.nn.functional.interpolate(maps, grid, mode="bicubic", antialias=antialias)
    ours = np.asarray(interpolate_positions(table, 5, grid, antialias))
    np.testing.assert_allclose(ours, expected[0].flatten(1).T, rtol=0, atol=2e-6)


NETWORK = Framewise(Settings("dinov2", width=16, depth=1, heads=2, patch=14, hidden=8, table=2))


def test_grid_of_an_image():
    assert NETWORK.grid(28, 70) == (2, 5)
    with pytest.raises(
        ValueError, match="image size 512x28 is not divisible by the patch size 14: crop or"
    ):
        NETWORK.grid(512, 28)


@pytest.mark.parametrize(
    "shape, message", [((1, 2, 28, 28, 3), r"\(N, H, W, 3\)"), ((1, 28, 30, 3), "28x30")]
)
def test_invalid_images_raise(shape, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda: NETWORK.init(jax.random.key(0), jnp.zeros(shape), method="features"))
