"""Matches and tracks, with a network that knows patches by their pixels, between shifted photographs."""

import numpy as np
import pytest

from muskie_jax.errors import UserError
from muskie_jax.photographs import encoding as encoding_module
from muskie_jax.photographs.encoding import PREDICTORS, Encoding, encode, find_points
from muskie_jax.photographs.matching import match_photographs, matches_of
from muskie_jax.photographs.opening import Network, open_views
from muskie_jax.photographs.tracking import parse_points, track_photographs
from muskie_tests.photographs import pixel_network, texture, write_photograph

SIZE = 192
SHIFT = np.array([48, 32])  # pixels that the second photograph's window is to the right and below
WORLD = texture(400, 400)


def window(left, top, height=SIZE, width=SIZE):
    return WORLD[top : top + height, left : left + width]


@pytest.fixture(scope="module")
def network():
    return Network("pixels", *pixel_network())


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """A photograph, a shifted one of twice the size that EXIF turns, and another scene."""
    folder = tmp_path_factory.mktemp("photographs")
    return [
        write_photograph(folder / "first.png", window(0, 0)),
        write_photograph(folder / "second.png", window(*SHIFT), enlarge=2, orientation=6),
        write_photograph(folder / "other.png", texture(SIZE, SIZE, seed=5)),
    ]


def test_matches_are_in_pixels_of_the_upright_files(network, photographs):
    first, second, _ = photographs
    (matches,) = match_photographs(network, first, second, SIZE)
    overlap = ((SIZE - SHIFT) // 16).prod()
    assert 0.8 * overlap <= len(matches.score) <= 1.05 * overlap and matches.searched == (SIZE // 16) ** 2
    errors = np.linalg.norm(matches.second - 2 * (matches.first - SHIFT), axis=-1)
    assert np.median(errors) < 2 and (errors < 16).mean() > 0.95, "16 pixels are half a patch"
    assert (np.diff(matches.score) <= 0).all() and not matches.are_few


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_turned_photographs_match_if_asked(quarters, network, photographs, tmp_path):
    """The photograph is not square, and its second copy shows it turned, and half as large."""
    first = write_photograph(tmp_path / "first.png", window(0, 0, 96, 192), enlarge=2)
    turned = write_photograph(tmp_path / "turned.png", np.rot90(window(0, 0, 96, 192), quarters))
    others = [turned, photographs[2]]
    upright, _ = match_photographs(network, first, others, SIZE)
    matches, other = match_photographs(network, first, others, SIZE, turned=True)
    assert upright.are_few and not matches.are_few and other.are_few
    x, y = matches.first.T / 2
    expected = {1: (y, 192 - x), 2: (192 - x, 96 - y), 3: (96 - y, x)}[quarters]
    assert np.median(np.abs(matches.second - np.stack(expected, -1))) < 2


def test_photographs_of_other_scenes_have_few_matches(network, photographs):
    (matches,) = match_photographs(network, photographs[0], photographs[2], SIZE)
    assert matches.are_few


@pytest.mark.parametrize("shape", [(2, 3), (3, 2)])
def test_confidence_does_not_depend_on_the_number_of_patches(shape, network, tmp_path):
    """Photographs of equal detail, each with a noisy copy: their patches are equally distinct."""
    median, concentration = [], []
    for size in (96, 160, 320):
        height, width = (size * side // min(shape) for side in shape)
        pixels = texture(height, width, seed=2)
        noise = np.random.default_rng(0).normal(0, 60, pixels.shape)
        noisy = np.clip(pixels + noise, 0, 255).astype(np.uint8)
        names = (tmp_path / f"{name}{size}.png" for name in "ab")
        pair = [write_photograph(*each) for each in zip(names, (pixels, noisy))]
        encoding = encode(network, pair, size)
        (matches,) = matches_of(encoding, min_confidence=0.0)
        assert len(matches.score) > 0.6 * matches.searched == 0.6 * encoding.views.padding[1].size
        median.append(float(np.median(matches.score)))
        concentration.append(196 / (196 + matches.searched * (1 / median[-1] - 1)))
    assert max(median) < 1.2 * min(median), median
    assert max(concentration) > 1.5 * min(concentration), "it falls with the number of patches"


def test_all_patches_of_identical_views_lead_back(tmp_path):
    """Some are similar to many others, and some to none; a softmax would favour those that are distinct."""
    path = write_photograph(tmp_path / "photograph.png", texture(320, 320))
    views = open_views([path, path], 320)
    rng = np.random.default_rng(0)
    features = rng.standard_normal((20, 20, 16)) + 3 * (rng.random((20, 20, 1)) < 0.7)
    encoding = Encoding(views, np.stack([features, features]).astype(np.float32), None)
    (matches,) = matches_of(encoding, min_confidence=0.0)
    assert len(matches.score) == matches.searched == 400
    np.testing.assert_allclose(matches.first, matches.second, atol=8)


def test_every_photograph_is_matched_with_the_first(network, photographs):
    first, second, other = photographs
    related, unrelated = match_photographs(network, first, [second, other, first], SIZE)
    (alone,) = match_photographs(network, first, second, SIZE)
    np.testing.assert_allclose(related.second, alone.second, atol=1e-3)
    assert len(unrelated.score) < 0.2 * len(related.score)


def test_many_photographs_are_matched_in_groups(network, photographs, monkeypatch, capsys):
    first, second, other = photographs
    together = match_photographs(network, first, [second, other], SIZE)
    monkeypatch.setattr(encoding_module, "GROUP", 2)
    apart = match_photographs(network, first, [second, other], SIZE)
    for one, two in zip(together, apart, strict=True):
        np.testing.assert_allclose(one.second, two.second, atol=1e-3)
    assert "Group 2 of 2: photographs 2 to 2" in capsys.readouterr().err


def test_plain_patches_are_not_searched_for(network, photographs, tmp_path):
    pixels = window(0, 0).copy()
    pixels[: SIZE // 2] = 200
    half = write_photograph(tmp_path / "half.png", pixels)
    (matches,) = match_photographs(network, half, photographs[1], SIZE)
    assert matches.searched == (SIZE // 16) ** 2 // 2
    assert (matches.first[:, 1] > SIZE // 2).all()


@pytest.mark.parametrize("predictor", PREDICTORS)
def test_padding_is_never_matched(predictor, network, tmp_path):
    wide = write_photograph(tmp_path / "wide.png", window(0, 0, 96, 192))
    high = write_photograph(tmp_path / "high.png", window(0, 0, 192, 96), enlarge=3)
    encoding = encode(network, [wide, high], 96, predictor)
    rows, columns = np.indices((5, 11)).reshape(2, -1)
    everywhere = np.stack([17.0 * columns + 2, 18 * rows + 2], -1)
    found = find_points(encoding, 0, everywhere)
    assert (found.positions >= 0).all() and (found.positions[:, 1] <= (288, 576)).all()
    if predictor == "features":
        shared = found.visible[:, 1] & (everywhere < 80).all(-1)
        assert shared.sum() > 0.8 * (everywhere < 80).all(-1).sum()
        assert np.abs(found.positions[shared, 1] / 3 - everywhere[shared]).max() < 8


def test_attention_to_padding_is_ignored(tmp_path):
    wide = write_photograph(tmp_path / "wide.png", window(0, 0, 96, 192))
    high = write_photograph(tmp_path / "high.png", window(0, 0, 192, 96))
    views = open_views([wide, high], 96)
    cells = views.padding[0].size
    cell, padding = np.flatnonzero(~views.padding[1])[30], np.flatnonzero(views.padding[1])[30]
    attention = np.zeros((2, cells, 2, cells), np.float32)
    attention[0, :, 1, cell], attention[0, :, 1, padding] = 0.1, 0.9
    point = np.array([[104.0, 40.0]])
    found = find_points(Encoding(views, None, attention), 0, point)
    row, column = divmod(int(cell), views.padding.shape[2])
    assert np.abs(found.positions[0, 1] - 16 * (np.array([column, row]) + 0.5)).max() <= 16


def test_any_photograph_of_a_group_may_be_the_query(network, photographs):
    encoding = encode(network, photographs, SIZE)
    back = matches_of(encoding, first=1)[0]
    errors = np.linalg.norm(back.second - (back.first / 2 + SHIFT), axis=-1)
    assert len(back.score) > 50 and np.median(errors) < 1


def test_tracks_and_what_is_not_visible(network, photographs):
    inside, gone = [120.0, 100.0], [20.0, 20.0]
    tracks = track_photographs(network, photographs[0], photographs, np.array([inside, gone]), SIZE)
    assert tracks.paths == tuple(photographs[1:])
    assert tracks.visible.tolist() == [[True, False], [False, False]]
    np.testing.assert_allclose(tracks.positions[0, 0], 2 * (inside - SHIFT), atol=6)
    assert tracks.confidence[0, 0] > tracks.confidence[1].max()
    assert (
        tracks.positions.shape == (2, 2, 2) and ((0 <= tracks.confidence) & (tracks.confidence <= 1)).all()
    )


def test_a_point_is_itself_in_its_photograph(network, photographs):
    found = find_points(encode(network, photographs, SIZE), 1, np.array([[3.0, 380.0]]))
    assert found.positions[0, 1].tolist() == [3, 380]
    assert found.visible[0, 1] and found.confidence[0, 1] == 1


def test_mistakes(network, photographs):
    for points in ([-1.0, 5.0], [5.0, 193.0]):
        with pytest.raises(UserError, match=r"point .* is outside .*first.png: x must be from 0 to 192"):
            track_photographs(network, photographs[0], photographs[1:], np.array([points]), SIZE)
    with pytest.raises(UserError, match="there is no other photograph than"):
        match_photographs(network, photographs[0], photographs[0])
    with pytest.raises(UserError, match="predictor: 'sift' is not a valid value"):
        encode(network, photographs, SIZE, "sift")


def test_points_of_the_command_line():
    assert parse_points(" 812,430;96.5 , 310; ").tolist() == [[812, 430], [96.5, 310]]
    for text in ("", "5", "1,2,3", "x,y", "1;2", "1,2 3,4"):
        with pytest.raises(UserError, match="must be x,y in pixels, separated by semicolons"):
            parse_points(text)
