"""The decoder of point maps and cameras: published numbers, any size, options of training."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from muskie_jax.interop.names import to_torch
from muskie_jax.models.attention import Attention
from muskie_jax.models.muskie import Muskie
from muskie_jax.models.reconstruction import Reconstruction, init_params, point_levels
from muskie_jax.sharding import batch_sharding, make_mesh, state_sharding
from muskie_tests import golden_reconstruction as golden

TOLERANCE = 1e-4  # of the largest entry of an array


def apply(model, images=None, params=None):
    images = golden.images() if images is None else images
    return jax.jit(model.apply)({"params": golden.params() if params is None else params}, images)


@pytest.fixture(scope="module")
def output():
    return apply(golden.model())


def test_tokens_of_every_block():
    features = lambda params, images: golden.model().apply({"params": params}, images, method="features")
    tokens = jax.jit(features)(golden.params(), golden.images())
    assert len(tokens) == 6
    for i, ours in enumerate(tokens):
        theirs = golden.numbers()[f"tokens/{i}"]
        assert golden.worst(ours.reshape(theirs.shape), theirs) < TOLERANCE


def test_points_and_cameras(output):
    n, every = golden.numbers(), (slice(None), slice(None), slice(None, None, 4), slice(None, None, 4))
    assert golden.worst(output.local_points, n["pred/local_points"]) < TOLERANCE
    assert golden.worst(output.confidence[every], n["pred/local_points_conf"]) < TOLERANCE
    assert golden.worst(output.camera_to_world, n["pred/camera_poses"]) < TOLERANCE
    assert golden.worst(output.points[every], n["pred/points"]) < TOLERANCE


@pytest.fixture(scope="module")
def gradients():
    """Returns gradients of the published loss, given its derivatives by point maps and cameras."""
    n = golden.numbers()
    upstream = [jnp.asarray(n[f"grad_pred/{name}"]) for name in ("local_points", "camera_poses")]

    def of(model):
        def predictions(params):
            output = model.apply({"params": params}, golden.images())
            return output.local_points, output.camera_to_world

        run = jax.jit(lambda params, upstream: jax.vjp(predictions, params)[1](tuple(upstream))[0])
        return to_torch(jax.tree.map(np.asarray, run(golden.params(), upstream)), golden.network())

    return of


def test_gradients(gradients):
    ours, theirs = gradients(golden.model()), golden.tensors("grad")
    # A translation of all cameras does not change the loss: the derivative is rounding error in both.
    common = "head.camera_head.fc_t.bias"
    assert np.abs(ours.pop(common)).max() < 1e-7 and np.abs(theirs[common]).max() < 1e-7
    unused = ours.keys() - theirs.keys()
    assert all(np.all(ours[name] == 0) for name in unused)
    assert len(unused) == 9 and len(ours) - len(unused) > 200
    errors = {name: golden.worst(x, theirs[name]) for name, x in ours.items() if name in theirs}
    assert max(errors.values()) < TOLERANCE, max(errors, key=errors.__getitem__)


@pytest.mark.parametrize("remat", ["elementwise", "full"])
@pytest.mark.slow
def test_rematerialisation_changes_no_gradient(gradients, remat):
    plain, recomputed = gradients(golden.model()), gradients(golden.model(remat=remat))
    errors = [
        golden.worst(recomputed[name], x) for name, x in plain.items() if x.any() and "fc_t" not in name
    ]
    assert max(errors) < TOLERANCE


def test_a_frozen_backbone_gets_no_gradient(gradients):
    frozen, theirs = gradients(golden.model(freeze_backbone=True)), golden.tensors("grad")
    in_backbone = [name for name in frozen if name.startswith("encoder.encoder.")]
    assert all(np.all(frozen[name] == 0) for name in in_backbone)
    decoder = "encoder.additional_blocks.0.frame_attn.qkv.weight"
    assert golden.worst(frozen[decoder], theirs[decoder]) < TOLERANCE


@pytest.mark.parametrize("size", [(48, 80), (16, 16), (32, 64)])
def test_any_multiple_of_the_patch(size):
    images = golden.images()[:1, :2, : size[0], : size[1]]
    output = apply(golden.model(), images)
    assert output.local_points.shape == output.points.shape == (1, 2, *size, 3)
    assert output.confidence.shape == (1, 2, *size) and output.camera_to_world.shape == (1, 2, 4, 4)
    assert all(x.dtype == jnp.float32 and np.isfinite(x).all() for x in jax.tree.leaves(output))
    assert (output.local_points[..., 2] > 0).all() and (output.confidence >= 1).all()
    with pytest.raises(ValueError, match="image size 48x70 is not divisible by the patch size 16"):
        golden.model().apply({"params": golden.params()}, golden.images()[:, :, :48, :70])


def test_points_are_local_points_moved_by_cameras(output):
    rotation, centre = output.camera_to_world[..., :3, :3], output.camera_to_world[..., :3, 3]
    moved = np.einsum("bvij,bvhwj->bvhwi", rotation, output.local_points) + centre[:, :, None, None]
    np.testing.assert_allclose(output.points, moved, atol=1e-5)
    np.testing.assert_allclose(
        rotation @ rotation.mT, np.broadcast_to(np.eye(3), rotation.shape), atol=1e-5
    )
    assert (np.linalg.det(rotation) > 0).all()


def test_order_of_views_does_not_matter(output):
    reversed_views = apply(golden.model(), golden.images()[:, ::-1])
    np.testing.assert_allclose(reversed_views.points[:, ::-1], output.points, atol=1e-4)


def test_bfloat16_is_close_and_returns_float32(output):
    half = apply(golden.model(dtype=jnp.dtype("bfloat16")))
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(half))
    assert 1e-5 < golden.worst(half.local_points, output.local_points) < 0.05
    rotation = half.camera_to_world[..., :3, :3]
    np.testing.assert_allclose(
        rotation @ rotation.mT, np.broadcast_to(np.eye(3), rotation.shape), atol=1e-5
    )


@pytest.mark.parametrize("axis, size", [("data", 2), ("fsdp", 2), ("view", 3)])
def test_groups_views_and_parameters_can_be_sharded(output, axis, size):
    mesh = make_mesh({"data": 1, "fsdp": 1, "view": 1} | {axis: size}, jax.devices()[:size])
    model = golden.model(attention=Attention("xla", mesh))
    images = jax.device_put(golden.images(), batch_sharding("images", mesh))
    params = jax.device_put(golden.params(), state_sharding(golden.params(), mesh))
    sharded = apply(model, images, params)
    assert golden.worst(sharded.points, output.points) < TOLERANCE


def test_levels_that_the_point_head_reads():
    assert point_levels(1024, 12, 20) == (23, 25, 28, 31)
    assert point_levels(1024, 12, 2) == (5, 7, 10, 13)
    assert point_levels(768, 6, 2) == point_levels(384, 6, 2) == (4, 5, 6, 7)
    assert point_levels(1280, 16, 0) == (12, 13, 14, 15)
    assert point_levels(192, 3, 1) == (0, 1, 2, 3)
    with pytest.raises(ValueError, match="3 backbone blocks and decoder_depth=0: use decoder_depth=1 or"):
        point_levels(192, 3, 0)


def test_initial_values_and_a_given_backbone():
    model = Reconstruction(Muskie(24, 3, 2), decoder_depth=1)
    params = init_params(model)
    backbone = {"mask_token": np.ones(24)}
    kernel = params["point_head"]["level_1_resample"]["kernel"]
    assert kernel.shape == (4, 4, 6, 6) and 0.09 < np.abs(kernel).max() <= 1 / np.sqrt(6 * 16)
    kernel, bias = (params["point_head"]["conv1"][name] for name in ("kernel", "bias"))
    assert 0.06 < np.abs(kernel).max() <= 1 / np.sqrt(24 * 9) and bias.std() > 0.02
    given = init_params(model, backbone, seed=1)
    assert given["backbone"] == backbone
    assert given.keys() == params.keys()
    assert not np.array_equal(kernel, given["point_head"]["conv1"]["kernel"])
