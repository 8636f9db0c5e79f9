"""Photographs as views: nothing is cropped, padding is masked, positions map to the files and back."""

import numpy as np
import pytest

from muskie_jax.errors import UserError
from muskie_jax.photographs.opening import find_photographs, open_views, short_names, thumbnail
from muskie_tests.photographs import texture, write_photograph


@pytest.fixture
def mixed(tmp_path):
    """A landscape photograph, one that EXIF turns to portrait, and a panorama."""
    return [
        write_photograph(tmp_path / "landscape.png", texture(96, 128)),
        write_photograph(tmp_path / "portrait.png", texture(128, 96, seed=1), enlarge=2, orientation=6),
        write_photograph(tmp_path / "panorama.png", texture(96, 960, seed=2)),
    ]


def test_photographs_keep_their_shape_and_the_rest_is_padding(mixed):
    views = open_views(mixed[:2], size=96)
    assert views.areas.tolist() == [[96, 128], [128, 96]]
    assert views.sizes.tolist() == [[96, 128], [256, 192]]
    assert views.images.shape == (2, 128, 128, 3) and views.patch == 16
    assert views.padding.shape == (2, 8, 8)
    assert not views.padding[0, :6].any() and views.padding[0, 6:].all()
    assert not views.padding[1, :, :6].any() and views.padding[1, :, 6:].all()
    pixels = np.round((views.images + 1) * 127.5)
    np.testing.assert_array_equal(pixels[0, :96, :128], texture(96, 128))
    assert np.abs(pixels[1, :128, :96] - texture(128, 96, seed=1)).mean() < 3
    assert (views.images[views.padding.repeat(16, 1).repeat(16, 2)] == 0).all()


def test_positions_map_to_photographs_and_back(mixed):
    points = np.array([[[3.0, 4], [50, 60]]])
    for turns in range(4):
        views = open_views(mixed, size=96, turns=turns)
        assert views.areas[0].tolist() == ([96, 128] if turns % 2 == 0 else [128, 96])
        for view in range(len(views.paths)):
            corner = views.areas[view][::-1].astype(float)
            opposite = views.to_photograph(view, corner) + views.to_photograph(view, np.zeros(2))
            np.testing.assert_allclose(opposite, views.sizes[view][::-1])
            back = views.from_photograph(view, views.to_photograph(view, points))
            np.testing.assert_allclose(back, points)
    views = open_views(mixed, size=96)
    np.testing.assert_allclose(
        views.to_photograph(1, np.array([[96.0, 128], [5, 7]])), [[192, 256], [10, 14]]
    )


def test_panoramas_are_limited(mixed):
    assert open_views(mixed[2], size=96).areas.tolist() == [[16, 192]]


def test_files_and_folders_without_repetitions(mixed, monkeypatch):
    folder = mixed[0].parent
    found = find_photographs([mixed[1], folder])
    assert [path.name for path in found] == ["portrait.png", "landscape.png", "panorama.png"]
    monkeypatch.chdir(folder)
    assert find_photographs(["landscape.png", folder / "landscape.png"]) == [mixed[0].relative_to(folder)]
    assert short_names([folder / "a.png", folder / "b.png"]) == ["a.png", "b.png"]
    assert short_names([folder / "a.png", folder / "b.png", folder / "x" / "c.png"]) == [
        f"{folder.name}/a.png", f"{folder.name}/b.png", "x/c.png",
    ]  # fmt: skip


def test_thumbnails_are_upright_and_never_enlarged(mixed):
    assert thumbnail(mixed[1], 128)[0].shape == (128, 96, 3)
    assert thumbnail(mixed[0], 500)[0].shape == (96, 128, 3)


def test_what_cannot_be_opened_is_one_line(mixed, tmp_path):
    (tmp_path / "broken.png").write_bytes(mixed[0].read_bytes()[:300])
    for paths, expected in [
        (tmp_path / "no.jpg", "no.jpg: No such file"),
        (tmp_path / "broken.png", "broken.png: "),
        (tmp_path / "film.mp4", "is a video: extract frames with"),
        ([], "there are no photographs"),
    ]:
        with pytest.raises(UserError, match=expected):
            open_views(paths)
    with pytest.raises(UserError, match="--size=8 pixels must be at least the patch size 16"):
        open_views(mixed, size=8)
