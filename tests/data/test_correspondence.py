"""Points of a synthetic room are found in another view."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from muskie_jax.data.synthetic import Cameras, WorldConfig, render_group
from muskie_jax.data.synthetic.correspondence import find_in_view
from muskie_jax.data.synthetic.view_differences import (
    compare_views,
    measure_view_differences,
    view_difference_lines,
)
from muskie_jax.viz.features import patch_centres

SIZE = (40, 60)  # height, width
FOCAL = 50.0


def two_cameras(position, rotation):
    """Two cameras with the same intrinsics: one at the origin, one with the given pose."""
    intrinsics = np.array([[FOCAL, 0, 30], [0, FOCAL, 20], [0, 0, 1]])
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = rotation, -rotation @ np.asarray(position)
    intrinsics, poses = np.stack([intrinsics, intrinsics]), np.stack([np.eye(4), pose])
    return Cameras(intrinsics, poses)  # pyright: ignore[reportArgumentType] NumPy arrays keep float64


def test_a_translated_camera():
    """A point 5 m away moves by focal length * baseline / depth = 10 pixels."""
    depth = np.full((2, *SIZE), 5.0)
    cameras = two_cameras([1.0, 0, 0], np.eye(3))
    points = np.array([[55.0, 20.0], [12.5, 3.5], [9.0, 3.0]])
    found, visible = find_in_view(points, depth, cameras, 0, 1)
    np.testing.assert_allclose(found, points - [10, 0])
    assert visible.tolist() == [True, True, False]  # the last projects left of the image
    back, visible = find_in_view(found[:2], depth, cameras, 1, 0)
    np.testing.assert_allclose(back, points[:2])
    assert visible.all()

    depth[1, 3, 2] = 4.0  # an object occludes the second point
    _, visible = find_in_view(points, depth, cameras, 0, 1)
    assert visible.tolist() == [True, False, False]
    depth[0, 20, 55] = 2.5  # a nearer point moves farther
    found, _ = find_in_view(points, depth, cameras, 0, 1)
    np.testing.assert_allclose(found[0], [35, 20])


def test_points_of_the_border_are_visible_in_their_own_view():
    quarter = np.array([[0.0, 1, 0], [-1, 0, 0], [0, 0, 1]])
    cameras = two_cameras([0.3, 0.1, 0.7], quarter @ np.diag([-1.0, 1, -1]))
    points = np.array([[x, 0.0] for x in range(60)] + [[0.0, y] for y in range(40)])
    found, visible = find_in_view(points, np.full((2, *SIZE), 4.7), cameras, 1, 1)
    np.testing.assert_array_equal(found, points)
    assert visible.all()


def test_a_rotated_camera():
    depth = np.full((2, *SIZE), 5.0)
    quarter = np.array([[0.0, 1, 0], [-1, 0, 0], [0, 0, 1]])  # the world's y is the camera's x
    points = np.array([[34.0, 21.0], [30.0, 20.0]])
    found, visible = find_in_view(points, depth, two_cameras([0, 0, 0], quarter), 0, 1)
    np.testing.assert_allclose(found, [[31, 16], [30, 20]])
    assert visible.all()
    backwards = np.diag([-1.0, 1, -1])
    _, visible = find_in_view(points, depth, two_cameras([0, 0, 0], backwards), 0, 1)
    assert not visible.any()


@pytest.fixture(scope="module")
def room():
    """A room with uniform lighting, in which a surface has the same colour in all views."""
    even = {"light_jitter": 0, "exposure": 0, "colour_cast": 0, "tone_jitter": 0}
    world = dataclasses.replace(WorldConfig(), baseline=(0.1, 0.3), **even)
    options = {"num_views": 2, "height": 96, "width": 96, "config": world, "with_geometry": True}
    render = jax.jit(functools.partial(render_group, **options))
    return jax.tree.map(np.asarray, render(np.array([7, 2], np.uint32)))


def test_corresponding_points_have_the_same_colour(room):
    points = patch_centres((96, 96), 1)
    found, visible = find_in_view(points, room.depth, room.cameras, 0, 1)
    assert 0.3 < visible.mean() < 1

    def colours(view, coords):
        columns, rows = np.clip(coords.astype(int), 0, 95).T
        return room.images[view][rows, columns].astype(float)

    difference = lambda coords: np.abs(colours(0, points) - colours(1, coords)).mean(-1)
    at_found, at_same_coords = difference(found), difference(points)
    assert np.median(at_found[visible]) < 10 < 30 < np.median(at_same_coords[visible])
    assert at_found[~visible].mean() > 2 * at_found[visible].mean()


def test_two_views_of_a_wall_are_compared():
    """A wall 5 m away, of which 60 x 40 pixels at focal length 50 show 6 x 4 m."""
    depth = np.full((2, *SIZE), 5.0)
    overlap, angle, scale, roll = compare_views(depth, two_cameras([1.0, 0, 0], np.eye(3)), 0, 1)
    assert overlap == pytest.approx(5 / 6, abs=0.04)
    # The sight lines to a point in the middle between both cameras are 2 atan(0.5 / 5) apart.
    assert 9 < angle < np.degrees(2 * np.arctan(0.1)) + 0.01
    assert scale == pytest.approx(0, abs=1e-6) and roll == pytest.approx(0, abs=1e-6)

    cos, sin = np.cos(0.5), np.sin(0.5)
    rolled = two_cameras([0, 0, 0], np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]]))
    _, angle, _, roll = compare_views(depth, rolled, 0, 1)
    assert roll == pytest.approx(np.degrees(0.5)) and angle == pytest.approx(0, abs=1e-4)

    cameras = two_cameras([0, 0, 0], np.eye(3))
    cameras.intrinsics[1, [0, 1], [0, 1]] *= 2
    for first, second in ((0, 1), (1, 0)):
        overlap, _, scale, _ = compare_views(depth, cameras, first, second)
        assert scale == pytest.approx(1) and overlap == pytest.approx((0.25, 1)[first], abs=0.02)

    behind = two_cameras([0, 0, 0], np.diag([-1.0, 1, -1]))
    overlap, angle, scale, _ = compare_views(depth, behind, 0, 1)
    assert overlap == 0 and np.isnan(angle) and np.isnan(scale)


def test_differences_between_views_of_a_world_are_summarised():
    still = WorldConfig(
        baseline=(0.0, 0.0), aim_jitter=0.0, roll_jitter=0.0, zoom_jitter=0.0, centre_jitter=0.0
    )
    found = measure_view_differences(still, groups=1, num_views=2)
    assert found.overlap.shape == (2 * 20,), "one batch of pairs"
    assert found.overlap.min() > 0.99 and found.angle.max() < 0.1 and found.scale.max() < 1e-3
    distinct = found._replace(scale=np.ones(40), angle=np.full(40, 30.0), roll=np.full(40, 5.0))
    _, head, *rows = view_difference_lines(distinct.summary())
    assert [row.split() for row in rows] == [
        [p, "100%", "30", "2.00", "5"] for p in ("10th", "50th", "90th")
    ]
    columns = ("shared pixels", "angle, degrees", "size ratio", "roll, degrees")
    for column, cell in zip(columns, ("100%", "30", "2.00", "5")):
        end = head.index(column) + len(column)
        assert rows[0][:end].endswith(f" {cell}"), "a cell ends below the title of its column"
