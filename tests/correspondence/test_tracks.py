"""Ground-truth tracks, against the ray caster."""

import jax
import numpy as np
import pytest

from muskie_jax.correspondence.scores import rotation_angles
from muskie_jax.correspondence.tracks import draw_points, surface_points, true_tracks
from muskie_jax.data.posed import PosedViews
from muskie_jax.data.synthetic import WorldConfig, cast_rays, sample_cameras, sample_scene
from muskie_jax.data.synthetic.render import pixel_rays

SIZE = (360, 480)
VIEWS = 4
ROOMS = 3


@pytest.fixture(scope="module")
def cast():
    """Distance to the first surface along rays, in lengths of their directions."""
    return jax.jit(lambda scene, origins, directions: cast_rays(scene, origins, directions).distance)


@pytest.fixture(scope="module")
def rooms(cast):
    """Pairs of views, with blank images, and scene."""

    @jax.jit
    def sample(seed):
        key, world = jax.random.wrap_key_data(seed, impl="threefry2x32"), WorldConfig(baseline=(0.3, 1.0))
        scene = sample_scene(key, world)
        cameras = sample_cameras(key, scene, world, VIEWS, *SIZE)
        return scene, cameras, pixel_rays(cameras, *SIZE)

    pairs = []
    for number in range(ROOMS):
        scene, cameras, (origins, directions) = sample(np.array([7, number], np.uint32))
        depth = np.asarray(cast(scene, origins, directions))
        geometry = (np.asarray(x, np.float64) for x in (cameras.intrinsics, cameras.world_to_camera))
        blank = np.zeros((VIEWS, *SIZE, 3), np.uint8)
        pairs.append((PosedViews(blank, depth, depth > 0, *geometry), scene))
    return pairs


def ray_cast_tracks(cast, scene, views, points):
    """The expected tracks, by casting the points' own rays instead of reading depth maps.

    Returns tracks, whether they are inside the image, and how far (metres) an occluder is in front.
    """
    rotations, shifts = views.world_to_camera[:, :3, :3], views.world_to_camera[:, :3, 3]
    eyes = -np.einsum("vji,vj->vi", rotations, shifts)
    local_rays = (
        np.append(points + 0.5, np.ones((len(points), 1)), 1) @ np.linalg.inv(views.intrinsics[0]).T
    )
    rays = (local_rays @ rotations[0]).astype(np.float32)
    distance = np.asarray(cast(scene, eyes[0].astype(np.float32), rays), np.float64)
    surface = eyes[0] + distance[:, None] * rays

    local = np.einsum("vij,nj->nvi", rotations, surface) + shifts
    pixels = np.einsum("vij,nvj->nvi", views.intrinsics, local)
    tracks = pixels[..., :2] / pixels[..., 2:] - 0.5
    inside = (local[..., 2] > 0) & (tracks >= 0).all(-1) & (tracks <= np.array(SIZE[::-1]) - 0.5).all(-1)
    towards = surface[:, None] - eyes
    first_hit = cast(scene, eyes[None].astype(np.float32), towards.astype(np.float32))
    # The point is at distance 1. A hit well before that occludes it.
    occluder = (1 - np.asarray(first_hit)) * np.linalg.norm(towards, axis=-1)
    return tracks, inside, occluder


def test_tracks_match_the_ray_caster(rooms, cast):
    for number, (views, scene) in enumerate(rooms):
        points = draw_points(np.random.default_rng(number), views.valid[0], 300)
        tracks, visible = true_tracks(points, views)
        expected, inside, occluder = ray_cast_tracks(cast, scene, views, points)
        assert inside.mean() > 0.3
        np.testing.assert_allclose(tracks[inside], expected[inside], atol=0.05)
        assert not visible[:, 1:][~inside[:, 1:]].any()  # in the first view, rounding matters at the border

        # Depth maps sample distances at pixel centres only. So the two may differ at depth edges, and must
        # agree elsewhere, which is nearly everywhere.
        column, row = np.moveaxis(np.clip(np.round(expected), 1, np.array(SIZE[::-1]) - 2), -1, 0).astype(
            int
        )
        view = np.arange(VIEWS)
        around = [views.depth[view, row + y, column + x] for y in (-1, 0, 1) for x in (-1, 0, 1)]
        smooth = np.max(around, 0) - np.min(around, 0) < 0.04
        clear_cut = inside & smooth & ((occluder < 0.01) | (occluder > 0.15))
        clear_cut[:, 0] = False
        assert clear_cut.sum() > 0.6 * inside[:, 1:].sum()
        np.testing.assert_array_equal(visible[clear_cut], occluder[clear_cut] < 0.05)
        assert (occluder[clear_cut] > 0.15).sum() > 10, "no occlusion was tested"


def plane(offsets=((0.0, 0.0, 0.0), (0.5, 0.0, 0.0)), distance=2.0, size=(40, 60)):
    """Cameras side by side in front of a wall."""
    views, intrinsics = len(offsets), np.array([[50.0, 0, 30], [0, 50, 20], [0, 0, 1]])
    poses = np.repeat(np.eye(4)[None], views, 0)
    poses[:, :3, 3] = -np.array(offsets)
    depth = np.full((views, *size), distance, np.float32)
    images = np.zeros((views, *size, 3), np.uint8)
    return PosedViews(images, depth, depth > 0, np.repeat(intrinsics[None], views, 0), poses)


def test_a_wall_moves_by_focal_length_times_baseline_over_depth():
    points = np.array([[40, 10], [20, 30], [5, 5]])
    tracks, visible = true_tracks(points, plane())
    np.testing.assert_allclose(tracks[:, 1], points - [12.5, 0])
    assert visible.tolist() == [[True, True], [True, True], [False, False]]  # no other view sees the last


@pytest.mark.parametrize(
    "surface, is_visible",
    [(1.94, False), (1.96, True), (0.0, True), (3.0, True)],
    ids=["front", "near", "hole", "behind"],
)
def test_occlusion(surface, is_visible):
    views = plane()
    views.depth[1, 10, 28] = surface  # 27.5 rounds to the even pixel
    assert true_tracks(np.array([[40, 10]]), views)[1].tolist() == [[is_visible, is_visible]]


def test_points_of_the_border_are_visible_in_their_own_view():
    """On the way through a camera, column 0 may become -7e-15, which is outside the image."""
    views = plane(((0.0, 0.0, 0.0), (-0.1, -0.1, 0.0)), distance=2.3)
    views.intrinsics[:] = [[51.7, 0, 29.3], [0, 53.1, 19.7], [0, 0, 1]]
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    turn *= np.linalg.det(turn)
    views.world_to_camera[:, :3, :3] = views.world_to_camera[:, :3, :3] @ turn  # another world frame
    rows, columns = np.indices((40, 60)).reshape(2, -1)
    border = np.stack([columns, rows], -1)[(rows == 0) | (columns == 0)]
    border = border[(border < (56, 36)).all(-1)]  # seen by the second view too
    tracks, visible = true_tracks(border, views)
    assert visible.all()
    np.testing.assert_array_equal(tracks[:, 0], border)


def test_points_behind_the_camera_are_invisible():
    views = plane()
    views.world_to_camera[1, :3, :3] = np.diag([-1.0, 1, -1])
    views.world_to_camera[1, :3, 3] = 0
    assert not true_tracks(np.array([[30, 20]]), views)[1].any()


def test_surface_points_between_pixels_and_holes():
    views = plane(((0.0, 0, 0),))
    views.depth[0, 10, 20:22] = 2.0, 3.0
    views.depth[0, 12, 20:22] = 0.0, 3.0
    tracks = np.array([[[20.25, 10.0]], [[20.25, 12.0]], [[-5.0, 0.0]]])
    surface, known = surface_points(tracks, views, "targets")
    # Holes are excluded, and the border is repeated outside.
    np.testing.assert_allclose(surface[..., 2], [[2.25], [3.0], [2.0]])
    np.testing.assert_allclose(surface[0, 0, 0], (20.75 - 30) / 50 * 2.25)
    assert known.all()
    surface, _ = surface_points(tracks, views, "published")
    np.testing.assert_allclose(surface[..., 2], [[2.25], [0.75], [0.0]])
    np.testing.assert_allclose(surface[0, 0, 0], (20.25 - 30) / 50 * 2.25)
    views.depth[:] = 0
    surface, known = surface_points(tracks, views, "targets")
    assert not known.any() and not surface.any()


def test_drawn_points_are_valid_and_distinct():
    valid = np.zeros((20, 30), bool)
    valid[5:9, 10:20] = True
    rng = np.random.default_rng(0)
    points = draw_points(rng, valid, 25)
    assert valid[points[:, 1], points[:, 0]].all() and len(np.unique(points, axis=0)) == 25
    assert len(draw_points(rng, valid, 100)) == 40


def test_rotation_angles():
    poses = np.repeat(np.eye(4)[None], 3, 0)
    angle = np.radians(37)
    poses[1, :2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    poses[2, :3, 3] = 5
    np.testing.assert_allclose(rotation_angles(poses), [0, 37, 0], atol=1e-5)
    np.testing.assert_allclose(rotation_angles(poses[[1, 0]]), [0, 37], atol=1e-5)
