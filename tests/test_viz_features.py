"""Pictures of features: one colour basis for all views, and mutual matches."""

import numpy as np
import pytest

from muskie_jax.models.muskie import patchify
from muskie_jax.viz.features import (
    CORRECT,
    GAP,
    MIN_MATCH_SIDE,
    WRONG,
    match_picture,
    mutual_matches,
    patch_centres,
    pca_colours,
)

GRID, PATCH = (3, 4), 2
LENGTH, WIDTH = 12, 20


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def draw_tokens(rng, *shape):
    """Draws skewed tokens: the sign of a symmetric component would be arbitrary."""
    return rng.exponential(size=(*shape, WIDTH)) * np.geomspace(10, 0.1, WIDTH)


def one_per_patch(colours):
    """Returns int (V, L, 3) from (V, H, W, 3), whose pixels must be equal within each patch."""
    views = len(colours)
    patches = colours.reshape(views, GRID[0], PATCH, GRID[1], PATCH, 3)
    assert (patches == patches[:, :, :1, :, :1]).all()
    return patches[:, :, 0, :, 0].reshape(views, LENGTH, 3).astype(int)


def test_the_same_tokens_have_the_same_colours_in_every_view(rng):
    """Neither their position nor an offset of all tokens of a view changes colours."""
    tokens, order = draw_tokens(rng, LENGTH), rng.permutation(LENGTH)
    views = np.stack([tokens, tokens[order], tokens + 30 * rng.standard_normal(WIDTH)])
    colours = pca_colours(views, GRID, PATCH)
    assert colours.shape == (3, GRID[0] * PATCH, GRID[1] * PATCH, 3) and colours.dtype == np.uint8
    first, second, third = one_per_patch(colours)
    np.testing.assert_allclose(second, first[order], atol=1)
    np.testing.assert_allclose(third, first, atol=1)
    assert first.std(0).min() > 30


def test_views_share_one_scale(rng):
    """Tokens that differ half as much have half the contrast."""
    tokens = draw_tokens(rng, LENGTH)
    calm = tokens.mean(0) + (tokens - tokens.mean(0)) / 2
    first, second = one_per_patch(pca_colours(np.stack([tokens, calm]), GRID, PATCH))
    np.testing.assert_allclose(np.ptp(second, axis=0) / np.ptp(first, axis=0), 0.5, atol=0.2)


def test_colours_do_not_depend_on_the_axes_of_the_features(rng):
    tokens = draw_tokens(rng, 2, LENGTH)
    rotation, _ = np.linalg.qr(rng.standard_normal((WIDTH, WIDTH)))
    for turned in (tokens @ rotation, -tokens, tokens[..., ::-1]):
        colours = one_per_patch(pca_colours(turned, GRID, PATCH))
        np.testing.assert_allclose(colours, one_per_patch(pca_colours(tokens, GRID, PATCH)), atol=1)


def test_red_green_blue_are_the_first_three_components(rng):
    """An outlier does not flatten the contrast of the others."""
    length = 400
    factors = rng.exponential(size=(length, 3))
    factors[7, 0] = 1000
    axes, _ = np.linalg.qr(rng.standard_normal((WIDTH, 3)))
    tokens = (factors * [9, 3, 1]) @ axes.T
    colours = pca_colours(tokens[None], (20, 20), 1).reshape(length, 3).astype(float)
    others = np.arange(length) != 7
    for channel in range(3):
        within = others & (0 < colours[:, channel]) & (colours[:, channel] < 255)
        assert np.corrcoef(colours[within, channel], factors[within, channel])[0, 1] > 0.98
    assert (colours[others].std(0) > 30).all()


@pytest.mark.parametrize("width", [1, 2, WIDTH])
def test_constant_components_are_grey(rng, width):
    tokens = np.tile(rng.standard_normal(width), (2, LENGTH, 1))
    with np.errstate(all="raise"):
        assert (pca_colours(tokens, GRID, PATCH) == 128).all()
        tokens[:, ::3, 0] += 1
        colours = one_per_patch(pca_colours(tokens, GRID, PATCH))
    assert (colours[:, ::3, 0] == 255).all() and (
        np.delete(colours[..., 0], slice(None, None, 3), 1) == 0
    ).all()
    assert (colours[..., 1:] == 128).all()


def test_matches_undo_a_shuffle(rng):
    tokens, order = draw_tokens(rng, LENGTH), rng.permutation(LENGTH)
    exposed = 2.5 * tokens[order] + 30 * rng.standard_normal(WIDTH)
    matches = mutual_matches(tokens.astype(np.float32), exposed.astype(np.float32))
    assert sorted(matches.first) == list(range(LENGTH))
    np.testing.assert_array_equal(order[matches.second], matches.first)
    np.testing.assert_allclose(matches.score, 1, atol=1e-5)


def test_matches_are_mutual_and_the_strongest_come_first():
    """Tokens are directions in a plane, in degrees; the mean of each view is zero."""
    at = lambda *degrees: np.stack([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))], -1)
    first = at(0, 10, 90, 180, 190, 270)
    second = at(12, 80, 192, 260)
    matches = mutual_matches(first, second)
    # 0 and 180 are nearest to 12 and 192, which are nearer to 10 and 190.
    assert set(zip(matches.first, matches.second)) == {(1, 0), (4, 2), (2, 1), (5, 3)}
    assert set(matches.first[:2]) == {1, 4}
    np.testing.assert_allclose(matches.score, np.cos(np.radians([2, 2, 10, 10])))


def test_dissimilar_tokens_do_not_match(rng):
    same = np.tile(rng.standard_normal(WIDTH), (LENGTH, 1))
    for first, second in ((same, same), (same, draw_tokens(rng, LENGTH))):
        with np.errstate(all="raise"):
            matches = mutual_matches(first, second)
        assert len(matches.first) == len(matches.second) == len(matches.score) == 0


def test_patch_centres_are_in_the_order_of_tokens():
    rows, columns = np.indices((GRID[0] * 16, GRID[1] * 16)) + 0.5
    image = np.stack([columns, rows, rows], -1)  # every pixel holds its position
    of_patches = patchify(image, 16).reshape(LENGTH, 3, -1).mean(-1)
    np.testing.assert_allclose(patch_centres(GRID, 16), of_patches[:, :2])


def test_match_picture_draws_from_end_to_end():
    images = np.zeros((2, 32, 64, 3), np.uint8)
    images[1] = 90
    scale = MIN_MATCH_SIDE / 32
    first, second = np.array([[8.0, 8.0], [40.0, 24.0]]), np.array([[24.0, 8.0], [56.0, 16.0]])
    picture = match_picture(images, first, second, np.array([True, False]))
    assert picture.shape == (MIN_MATCH_SIDE, 2 * 64 * scale + GAP, 3) and picture.dtype == np.uint8

    def pixel(x, y, view):
        return picture[round(y * scale), round(x * scale + view * (64 * scale + GAP))]

    for number, colour in enumerate((CORRECT, WRONG)):
        for view, points in enumerate((first, second)):
            np.testing.assert_array_equal(pixel(*points[number], view), colour)
    np.testing.assert_array_equal(pixel(30, 8, 0), CORRECT)  # on the way
    assert (pixel(50, 2, 0) == 0).all() and (pixel(4, 28, 1) == 90).all()
    assert (picture[:, round(64 * scale) + GAP // 2].min(-1) == 255).mean() > 0.95  # the gap is white


def test_match_colours_encode_x_in_the_first_view():
    images = np.zeros((2, 400, 400, 3), np.uint8)
    first = np.array([[20.0, 100.0], [20.0, 300.0], [380.0, 200.0]])
    picture = match_picture(images, first, first[::-1])
    left, also_left, right = (picture[int(y), int(x)] for x, y in first)
    np.testing.assert_array_equal(left, also_left)
    assert np.abs(left.astype(int) - right).max() > 60
    empty = match_picture(images, first[:0], first[:0])
    assert (empty[:, :400] == 0).all()
