"""Turned first views: images and points turn alike, and angles weigh by how well they suit a view."""

import jax.numpy as jnp
import numpy as np
import pytest

from muskie_jax.correspondence.orientation import (
    SHARPNESS,
    angles,
    orientation_weights,
    turn_image,
    turn_points,
)
from muskie_jax.correspondence.predictors import bilinear_sample

SQUARE, WIDE = (24, 24), (16, 24)


def picture(size, seed=0):
    """A smooth picture, so that interpolation changes it little."""
    rows, columns = np.indices(size) / 5
    shifts = np.random.default_rng(seed).uniform(0, 6, 3)
    return np.stack([np.sin(rows + s) * np.cos(columns - s) for s in shifts], -1).astype(np.float32)


def test_quarter_turns_of_squares_are_exact():
    image = picture(SQUARE)
    for quarters, angle in enumerate(angles(4)):
        expected = np.rot90(image, -quarters)
        np.testing.assert_allclose(turn_image(jnp.asarray(image), angle), expected, atol=1e-4)


@pytest.mark.parametrize("size", [SQUARE, WIDE])
@pytest.mark.parametrize("angle", [0.0, 0.4, -2.0, np.pi / 2])
def test_points_turn_with_the_image(size, angle):
    image = jnp.asarray(picture(size))
    points = jnp.asarray(np.random.default_rng(1).uniform((0, 0), size[::-1], (60, 2)) - 0.5, jnp.float32)
    turned, inside = turn_points(points, jnp.float32(angle), size)
    limit = np.array(size[::-1]) - 1
    in_frame = ((np.asarray(turned) > 1) & (np.asarray(turned) < limit - 1)).all(-1)
    assert in_frame.sum() > 15 and np.asarray(inside)[in_frame].all()
    assert not np.asarray(inside)[(np.asarray(turned) > limit + 0.6).any(-1)].any()
    before = bilinear_sample(image[None], points)[0]
    after = bilinear_sample(turn_image(image, jnp.float32(angle))[None], turned)[0]
    clear = in_frame & ((np.asarray(points) > 2) & (np.asarray(points) < limit - 2)).all(-1)
    np.testing.assert_allclose(before[clear], after[clear], atol=0.08)
    back, _ = turn_points(turned, jnp.float32(-angle), size)
    np.testing.assert_allclose(back, points, atol=1e-3)


def test_what_enters_the_frame_has_the_mean_colour():
    image = picture(WIDE) + 2
    turned = np.asarray(turn_image(jnp.asarray(image), angles(4)[1]))
    np.testing.assert_allclose(turned[:, :4], np.broadcast_to(image.mean((0, 1)), (16, 4, 3)), rtol=1e-5)
    assert np.abs(turned[:, 4:-4] - image.mean((0, 1))).min() > 0


def test_angles_weigh_by_how_distinctly_points_are_found():
    concentration = np.zeros((4, 3, 2))
    concentration[1, :, 0] = 0.5, 0.4, 0.0
    concentration[2, :, 0] = 0.0, 0.0, 0.8  # one point does not decide for all
    concentration[0, :, 1] = 0.2
    inside = np.ones((4, 3), bool)
    weights = np.asarray(orientation_weights(concentration, inside))
    np.testing.assert_allclose(weights.sum(0), 1, rtol=1e-5)
    assert (weights[1, :, 0] > weights[2, :, 0]).all() and (weights[0, :, 1] > 0.9).all()
    ratio = weights[1, 0, 0] / weights[2, 0, 0]
    np.testing.assert_allclose(ratio, np.exp((0.9 - 0.8) / 3 / SHARPNESS), rtol=1e-3)
    # A point outside the frame neither counts nor follows.
    inside[1, 2] = False
    weights = np.asarray(orientation_weights(concentration, inside))
    assert weights[1, 2, 0] == 0 and weights[2, 2, 0] > 0.9
    assert (weights[1, :2, 0] > 0.9).all()
    inside[1] = inside[3] = False
    weights = np.asarray(orientation_weights(concentration, inside))
    assert (weights[2, :, 0] > 0.9).all() and (weights[[1, 3]] == 0).all()
