"""Pictures of matches and of found points: marks are where they should be, and nothing else is drawn."""

import numpy as np
import pytest

from muskie_jax.photographs import track_files
from muskie_jax.photographs.match_files import caption
from muskie_jax.photographs.matching import Matches
from muskie_jax.photographs.track_files import tracks_picture
from muskie_jax.photographs.tracking import Tracks
from muskie_jax.viz import found_points, match_lines
from muskie_jax.viz.found_points import Tile, points_sheet
from muskie_jax.viz.match_lines import Panel, match_sheet
from muskie_jax.viz.tracks import position_colours, spread_points
from muskie_tests.photographs import write_photograph

GREY = 60


def grey(height, width):
    return np.full((height, width, 3), GREY, np.uint8)


def panel(first, second, sizes=((100, 200), (300, 150)), score=None):
    score = np.ones(len(first)) if score is None else score
    photographs = (grey(*sizes[0]), grey(*sizes[1]))
    first, second = (np.array(each, float).reshape(-1, 2) for each in (first, second))
    return Panel("Muskie", "", photographs, first, second, score)


def near(sheet, x, y, radius=3):
    """Returns whether most pixels around a position are coloured, as neither paper nor photographs are."""
    around = sheet[round(y) - radius : round(y) + radius + 1, round(x) - radius : round(x) + radius + 1]
    return (np.ptp(around.astype(int), axis=-1) > 30).mean() > 0.5


def test_matches_end_at_their_places():
    sheet = match_sheet([[panel([(50, 25)], [(75, 240)])]], 10)
    side, left = match_lines.SIDE, match_lines.MARGIN
    # The photographs become 280 x 560 and 560 x 280 (height x width); the lower one is centred.
    top = match_lines.HEADER + match_lines.MARGIN // 2
    start = (left + side / 4, top + side / 4 + side / 8)
    end = (left + side + match_lines.GAP + side / 4, top + 0.8 * side)
    assert near(sheet, *start) and near(sheet, *end)
    middle = np.add(start, end) / 2
    line = sheet[round(middle[1]) - 3 : round(middle[1]) + 4, round(middle[0])]
    assert (np.ptp(line.astype(int), axis=-1) > 30).any(), "a line joins them"
    coloured = np.ptp(sheet.astype(int), axis=-1) > 30
    assert coloured.mean() < 0.01


def test_colour_is_the_position_in_the_first_photograph():
    alone, first, *_ = position_colours(np.array([(50.0, 9)]), 200) + position_colours(
        np.array([(50.0, 5), (60, 5), (190, 5)]), 200
    )
    assert alone == first
    points = np.array([(x, 0.0) for x in np.linspace(0, 200, 9)])
    assert len(set(position_colours(points, 200))) == 9
    one, among = (
        match_sheet([[panel(ends, ends, ((100, 200), (100, 200)))]], 10)
        for ends in ([(50, 25)], [(50, 25), (60, 75), (190, 75)])
    )
    x, y = match_lines.MARGIN + match_lines.SIDE // 4, match_lines.HEADER + match_lines.MARGIN // 2 + 70
    assert (one[y, x] == among[y, x]).all() and np.ptp(one[y, x].astype(int)) > 30


def test_captions_say_how_many_of_what():
    matches = Matches(np.zeros((9, 2)), np.zeros((9, 2)), np.ones(9), 156, np.zeros(9))
    assert caption(matches, "a", "b") == "a and b: 9 of 156 patches match - few, as different scenes have"
    assert caption(matches._replace(searched=20), "a", "b") == "a and b: 9 of 20 patches match"
    assert caption(matches._replace(moved=None, unit="keypoints"), "a", "b").endswith("156 keypoints match")


def test_panels_are_in_rows_and_columns():
    one = match_sheet([[panel([(50, 25)], [(75, 240)])]], 10)
    four = match_sheet([[panel([], [])] * 2] * 2, 10)
    assert four.shape[0] == 2 * one.shape[0] and four.shape[1] == 2 * one.shape[1]


def test_few_of_many_matches_are_drawn_the_better_ones_and_spread():
    rng = np.random.default_rng(0)
    positions, score = rng.uniform(0, 100, (400, 2)), rng.uniform(0.1, 1, 400)
    chosen = spread_points(positions, score, 40)
    assert len(set(chosen.tolist())) == 40 and score[chosen].mean() > score.mean() + 0.1
    cells = {tuple(cell) for cell in (positions[chosen] // 25).astype(int).tolist()}
    assert len(cells) == 16, "every sixteenth of the photograph has one"
    many = match_sheet([[panel(positions, positions, ((100, 100), (100, 100)), score)]], 400)
    few = match_sheet([[panel(positions, positions, ((100, 100), (100, 100)), score)]], 40)
    coloured = lambda sheet: (np.ptp(sheet.astype(int), axis=-1) > 30).sum()
    assert coloured(few) < 0.4 * coloured(many)


@pytest.mark.parametrize("others", [1, 5])
def test_points_are_drawn_where_they_are_visible(others):
    query = Tile("query", grey(100, 200), np.array([(50.0, 50.0), (150.0, 50.0)]), np.ones(2, bool))
    other = Tile("other", grey(200, 100), np.array([(50.0, 50.0), (50.0, 150.0)]), np.array([True, False]))
    sheet = points_sheet(query, [other] * others)
    side, margin = found_points.TILE, found_points.MARGIN
    assert near(sheet, margin + side / 4, margin + side / 4) and near(
        sheet, margin + 0.75 * side, margin + side / 4
    )
    left = 2 * margin + side + side / 4  # of the photograph in the second tile, which is half as wide
    assert near(sheet, left + side / 4, margin + side / 4)
    assert not near(sheet, left + side / 4, margin + 0.75 * side, radius=12)
    columns = min(found_points.COLUMNS, 1 + others)
    assert sheet.shape[1] == columns * (side + margin) + margin


def test_portraits_take_little_space():
    tile = Tile("p", grey(200, 100), np.array([(50.0, 50.0)]), np.ones(1, bool))
    sheet = points_sheet(tile, [tile] * 7)
    side, margin = found_points.TILE, found_points.MARGIN
    assert sheet.shape[:2] == (side + found_points.CAPTION + 2 * margin, 8 * (side // 2 + margin) + margin)
    for column in range(8):
        assert near(sheet, margin + column * (side / 2 + margin) + side / 4, margin + side / 4)


def test_of_many_photographs_those_with_most_points_are_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr(track_files, "MAX_TILES", 2)
    paths = [write_photograph(tmp_path / f"{number}.png", grey(64, 64)) for number in range(5)]
    visible = np.array([[False, True, False, True], [False, True, True, True]])
    tracks = Tracks(
        np.full((2, 2), 9.0), np.full((2, 4, 2), 9.0), visible * 1.0, visible, paths[0], tuple(paths[1:])
    )
    drawn = []
    monkeypatch.setattr(track_files, "points_sheet", lambda query, others: drawn.extend(others))
    tracks_picture(tracks)
    assert [tile.name for tile in drawn] == ["2.png", "4.png"]


def test_what_is_not_found_is_named():
    missing = lambda *visible: found_points._missing(np.array(visible))
    assert missing(True, True) == ""
    assert missing(True, False, False) == "not found: 2, 3"
    assert missing(False, False) == "no point found" and missing(False) == "not found"
