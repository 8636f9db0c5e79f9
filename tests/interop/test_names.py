"""The table of names covers every parameter, in both directions, and nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from muskie_jax.errors import UserError
from muskie_jax.interop.names import Network, network_of, parameters, to_jax, to_torch
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
    made = jax.eval_shape(model.init, jax.random.key(0), image, jnp.zeros((1, 1, 1), bool))["params"]
    table = parameters(Network.of(model))
    assert {p.path: p.shape for p in table} == {path: x.shape for path, x in flatten_dict(made).items()}
    assert all(np.prod(p.shape) == np.prod(p.torch_shape) for p in table)
    assert len({p.torch_name for p in table}) == len(table)


def test_the_published_network_in_both_directions(golden, published):
    network = network_of(published)
    assert network == Network(width=48, depth=2, heads=4, patch=16, registers=4)
    tree = to_jax(published, network)
    assert same(tree, golden_params(golden, "param"))
    back = to_torch(tree, network)
    assert {name: x.tobytes() for name, x in back.items()} == {n: x.tobytes() for n, x in published.items()}
    assert {name: x.shape for name, x in back.items()} == {n: x.shape for n, x in published.items()}


@pytest.mark.parametrize(
    "options", [{}, {"view_embed": "learned", "max_views": 3}, {"patch": 8, "registers": 0}]
)
def test_there_and_back_changes_no_bit(options):
    model, params = random_network(1, **options)
    network = Network.of(model)
    tensors = to_torch(params, network)
    assert network_of(tensors, num_heads=2) == network
    assert same(to_jax(tensors, network), params)


def test_a_backbone_alone(published):
    backbone = {name: x for name, x in published.items() if not name.startswith("decoder")}
    tree = to_jax(backbone, network_of(backbone))
    assert "head" not in tree and "norm" not in tree
    assert set(to_torch(tree, network_of(backbone))) == set(backbone)


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
        ({"decoder_norm__bias": ZEROS[1:]}, "of another shape: decoder_norm.bias (47, not 48)"),
        ({"blocks__0__frame_mlp__fc1__weight": np.zeros((48, 192), np.float32)}, "(48x192, not 192x48)"),
        ({"decoder_norm__bias": np.zeros(48)}, "type than float32: decoder_norm.bias (float64)"),
        ({"blocks__7__norm1__bias": ZEROS}, "missing: blocks.2.norm1.weight"),
        ({"mask_placeholder": None}, "no weights of a Muskie: mask_placeholder is"),
        ({"register_tokens": ZEROS}, "no weights of a Muskie: register_tokens is (48,)"),
    ],
)  # fmt: skip
def test_other_names_and_shapes_are_listed(published, changes, expected):
    tensors = changed(published, **changes)
    with pytest.raises(UserError) as error:
        to_jax(tensors, network_of(tensors, num_heads=4))
    assert expected in str(error.value) and "\n" not in str(error.value)


def test_many_wrong_names_are_not_all_listed(published):
    tensors = {name.replace("norm", "ln"): x for name, x in published.items()}
    with pytest.raises(UserError) as error:
        to_jax(tensors, network_of(tensors))
    assert " and 12 more; unknown: " in str(error.value)


def test_parameters_of_another_network_are_not_written():
    model, params = random_network(0)
    other = Network.of(model.clone(depth=3))
    with pytest.raises(UserError, match="missing: block_2/frame/norm1/scale"):
        to_torch(params, other)


def test_sizes_without_a_name_need_their_heads(published):
    tensors = changed(published, patch_embed__proj__weight=np.zeros((60, 3, 16, 16), np.float32))
    with pytest.raises(UserError, match="width 60 and 2 blocks: say how many heads"):
        network_of(tensors)
    assert network_of(tensors, num_heads=5).heads == 5
    for heads in (0, 7, 6):  # 60 / 6 = 10 channels cannot turn by two axes
        with pytest.raises(UserError, match=f"num_heads={heads} does not fit width 60"):
            network_of(tensors, num_heads=heads)


@pytest.mark.parametrize("variant", VARIANTS)
def test_sizes_with_a_name_are_known_by_their_shapes(variant):
    network = Network.of(build_model(variant))
    shapes = {p.torch_name: np.broadcast_to(np.float32(0), p.torch_shape) for p in parameters(network)}
    assert network_of(shapes) == network
    assert network.variant == variant
