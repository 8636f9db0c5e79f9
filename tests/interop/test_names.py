"""The table of names covers exactly the parameters of the network, in both directions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from muskie_jax.errors import UserError
from muskie_jax.interop.names import Network, network_from_tensors, parameters, to_jax, to_torch
from muskie_jax.models.muskie import VARIANTS, build_model
from muskie_tests.golden_params import golden_params
from muskie_tests.networks import random_network, same


@pytest.fixture(scope="module")
def published(golden):
    """The published network's state dict, at toy size."""
    return {name[len("param/") :]: value for name, value in golden.items() if name.startswith("param/")}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(
    "options", [{}, {"view_embed": "learned", "max_views": 5}, {"patch": 8, "registers": 2}]
)
def test_every_parameter_of_every_variant_is_in_the_table(variant, options):
    model = build_model(variant, **options)
    image = jnp.zeros((1, 1, model.patch, model.patch, 3))
    params = jax.eval_shape(model.init, jax.random.key(0), image, jnp.zeros((1, 1, 1), bool))["params"]
    table = parameters(Network.of(model))
    assert {p.path: p.shape for p in table} == {path: x.shape for path, x in flatten_dict(params).items()}
    assert all(np.prod(p.shape) == np.prod(p.torch_shape) for p in table)
    assert len({p.torch_name for p in table}) == len(table)


def test_published_weights_convert_in_both_directions(golden, published):
    network = network_from_tensors(published)
    assert network == Network(width=48, depth=2, heads=4, patch=16, registers=4)
    tree = to_jax(published, network)
    assert same(tree, golden_params(golden, "param"))
    back = to_torch(tree, network)
    assert {name: x.tobytes() for name, x in back.items()} == {n: x.tobytes() for n, x in published.items()}
    assert {name: x.shape for name, x in back.items()} == {n: x.shape for n, x in published.items()}


@pytest.mark.parametrize(
    "options", [{}, {"view_embed": "learned", "max_views": 3}, {"patch": 8, "registers": 0}]
)
def test_round_trip_changes_no_bit(options):
    model, params = random_network(1, **options)
    network = Network.of(model)
    tensors = to_torch(params, network)
    assert network_from_tensors(tensors, num_heads=2) == network
    assert same(to_jax(tensors, network), params)


def test_a_backbone_alone(published):
    backbone = {name: x for name, x in published.items() if not name.startswith("decoder")}
    tree = to_jax(backbone, network_from_tensors(backbone))
    assert "head" not in tree and "norm" not in tree
    assert set(to_torch(tree, network_from_tensors(backbone))) == set(backbone)


def changed(tensors, **changes):
    """Tensors with some replaced, or, with None, removed. "__" stands for a dot."""
    changes = {name.replace("__", "."): value for name, value in changes.items()}
    kept = {name: x for name, x in tensors.items() if name not in changes}
    return kept | {name: x for name, x in changes.items() if x is not None}


ZEROS = np.zeros(48, np.float32)


@pytest.mark.parametrize(
    "changes, expected",
    [
        ({"blocks__1__norm3__bias": None}, "missing: blocks.1.norm3.bias"),
        ({"decoder_pred__bias": None}, "missing: decoder_pred.bias"),
        ({"blocks__0__attn__qkv__bias": ZEROS}, "unknown: blocks.0.attn.qkv.bias"),
        ({"decoder_norm__bias": ZEROS[1:]}, "wrong shape: decoder_norm.bias (47, not 48)"),
        ({"blocks__0__frame_mlp__fc1__weight": np.zeros((48, 192), np.float32)}, "(48x192, not 192x48)"),
        ({"decoder_norm__bias": np.zeros(48, np.int64)}, "not float32: decoder_norm.bias (int64)"),
        ({"blocks__7__norm1__bias": ZEROS}, "missing: blocks.2.norm1.weight"),
        ({"mask_placeholder": None}, "not Muskie weights: mask_placeholder is missing"),
        ({"register_tokens": ZEROS}, "not Muskie weights: register_tokens has shape (48,)"),
    ],
)  # fmt: skip
def test_wrong_names_and_shapes_are_listed(published, changes, expected):
    tensors = changed(published, **changes)
    with pytest.raises(UserError) as error:
        to_jax(tensors, network_from_tensors(tensors, num_heads=4))
    assert expected in str(error.value) and "\n" not in str(error.value)


def test_long_lists_of_names_are_abridged(published):
    tensors = {name.replace("norm", "ln"): x for name, x in published.items()}
    with pytest.raises(UserError) as error:
        to_jax(tensors, network_from_tensors(tensors))
    assert " and 12 more; unknown: " in str(error.value)


def test_parameters_of_another_network_are_refused():
    model, params = random_network(0)
    other = Network.of(model.clone(depth=3))
    with pytest.raises(UserError, match="missing: block_2/frame/norm1/scale"):
        to_torch(params, other)


def test_sizes_of_no_variant_need_num_heads(published):
    tensors = changed(published, patch_embed__proj__weight=np.zeros((60, 3, 16, 16), np.float32))
    with pytest.raises(UserError, match="no variant has width 60 and 2 blocks: set num_heads="):
        network_from_tensors(tensors)
    assert network_from_tensors(tensors, num_heads=5).heads == 5
    for heads in (0, 7, 6):  # 60 / 6 = 10 channels do not split over the two axes of the rotation
        with pytest.raises(UserError, match=f"num_heads={heads} does not fit width 60"):
            network_from_tensors(tensors, num_heads=heads)


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_are_recognised_by_their_shapes(variant):
    network = Network.of(build_model(variant))
    shapes = {p.torch_name: np.broadcast_to(np.float32(0), p.torch_shape) for p in parameters(network)}
    assert network_from_tensors(shapes) == network
    assert network.variant == variant
