"""The projection to rotations: its value, and its gradient where that of an SVD is infinite."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from muskie_jax.models.camera_head import CameraHead, closest_rotation


def rotation(rng):
    q, _ = np.linalg.qr(rng.standard_normal((3, 3)))
    return q * np.sign(np.linalg.det(q))


def with_singular_values(values, seed):
    rng = np.random.default_rng(seed)
    return rotation(rng) @ np.diag(values) @ rotation(rng).T


def project(matrix):
    """In float64, by a search over the signs of singular vectors' products."""
    u, _, vt = np.linalg.svd(matrix)
    return u @ np.diag([1, 1, np.linalg.det(u @ vt)]) @ vt


CASES = {
    "general": (2.0, 1.1, 0.4),
    "all equal": (1.0, 1.0, 1.0),
    "two equal": (1.3, 1.3, 0.5),
    "the smaller two equal": (1.5, 0.7, 0.7),
    "a reflection": (1.5, 0.9, -0.3),
    "a reflection with equal values": (1.2, 1.2, -0.4),
    "rank 2": (1.4, 0.9, 0.0),
}


@pytest.mark.parametrize("values", CASES.values(), ids=CASES)
def test_gradient_against_finite_differences(values):
    matrix, weights = with_singular_values(values, 0), np.random.default_rng(1).standard_normal((3, 3))
    ours, gradient = jax.value_and_grad(lambda m: (closest_rotation(m) * weights).sum())(
        jnp.asarray(matrix, jnp.float32)
    )
    assert ours == pytest.approx((project(matrix) * weights).sum(), abs=1e-5)
    expected, step = np.zeros((3, 3)), 1e-6
    for i in np.ndindex(3, 3):
        change = np.zeros((3, 3))
        change[i] = step
        difference = project(matrix + change) - project(matrix - change)
        expected[i] = (difference * weights).sum() / (2 * step)
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(gradient, expected, atol=2e-4 * np.abs(expected).max())


def test_the_closest_of_many_rotations():
    rng = np.random.default_rng(2)
    matrices = rng.standard_normal((5, 3, 3)).astype(np.float32)
    ours = np.asarray(closest_rotation(matrices))
    np.testing.assert_allclose(ours @ ours.swapaxes(1, 2), np.broadcast_to(np.eye(3), (5, 3, 3)), atol=1e-5)
    assert np.allclose(np.linalg.det(ours), 1, atol=1e-5)
    others = np.stack([rotation(rng) for _ in range(3000)])
    distance = lambda rotations, m: np.square(rotations - m).sum((-2, -1))
    for m, r in zip(matrices, ours):
        assert distance(r, m) <= distance(others, m).min() + 1e-5


@pytest.mark.parametrize("values", [(0.0, 0.0, 0.0), (1.7, 0.0, 0.0), (1.0, 0.8, -0.8), (1.0, 1.0, -1.0)])
def test_an_ambiguous_rotation_has_a_finite_gradient(values):
    matrix = jnp.asarray(with_singular_values(values, 3), jnp.float32)
    gradient = jax.grad(lambda m: closest_rotation(m)[0, 1])(matrix)
    assert np.isfinite(gradient).all() and np.abs(gradient).max() < 1e5


def test_a_head_of_zeros_has_finite_gradients():
    head, tokens = CameraHead(jnp.dtype("float32")), jnp.ones((1, 2, 4, 8))
    params = jax.tree.map(jnp.zeros_like, head.init(jax.random.key(0), tokens))
    pose, gradient = jax.value_and_grad(lambda p: head.apply(p, tokens)[..., :3, :].sum())(params)
    assert np.isfinite(pose) and all(np.isfinite(x).all() for x in jax.tree.leaves(gradient))
