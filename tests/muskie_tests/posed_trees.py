"""Miniature posed datasets in every supported layout, rendered from one scene of known geometry.

The scene is a slanted wall and a square in front of it. The colour of a surface point is a smooth function
of its position, so that pixels, depth and cameras can be checked against each other. Each function writes
the tree of one reader, and returns the views that the reader must return.
"""

import importlib.util
import json
import pathlib
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

SIZE = (60, 80)  # height, width
INTRINSICS = np.array([[70.0, 0, 42.5], [0, 72.0, 28.0], [0, 0, 1]])
CENTRED = np.array([[70.0, 0, 40.0], [0, 70.0, 30.0], [0, 0, 1]])
WALL = np.array([0.2, -0.1, 1.0]), 3.0  # normal and offset: points with normal @ x = offset
SQUARE = np.array([0.0, 0.0, 1.0]), 2.0
HALF = 0.35  # half the square's side, metres
OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])


def needs(package: str) -> list[Any]:
    """Returns the marks of tests that need an extra package."""
    missing = importlib.util.find_spec(package) is None
    return [pytest.mark.extras, pytest.mark.skipif(missing, reason=f"{package} is not installed")]


# Packages that readers need beyond the requirements, and readers as parameters of tests.
PACKAGES = {"colmap": "pycolmap", "blendedmvs": "OpenEXR"}


def readers(*names: str) -> list[Any]:
    """Returns names of readers as parameters; those that need an extra package have its marks."""
    return [pytest.param(name, marks=needs(PACKAGES[name])) if name in PACKAGES else name for name in names]


class View(NamedTuple):
    """What a reader must return for a frame: see `PosedViews`."""

    name: str
    image: np.ndarray
    depth: np.ndarray
    intrinsics: np.ndarray
    world_to_camera: np.ndarray


def rotation(x: float, y: float, z: float) -> np.ndarray:
    """Returns the product of rotations about the x, y and z axis, in radians."""
    result = np.eye(3)
    for axis, angle in enumerate((x, y, z)):
        i, j = (axis + 1) % 3, (axis + 2) % 3
        step = np.eye(3)
        step[[i, j], [i, j]] = np.cos(angle)
        step[i, j], step[j, i] = -np.sin(angle), np.sin(angle)
        result = step @ result
    return result


def pose_of(number: int) -> np.ndarray:
    """Returns world_to_camera of a frame: cameras side by side, slightly rotated about all axes."""
    pose = np.eye(4)
    pose[:3, :3] = rotation(0.03 * np.sin(number), -0.04 * number, 0.05 * number)
    pose[:3, 3] = -pose[:3, :3] @ [0.12 * number - 0.3, 0.05 * np.cos(number), 0.02 * number]
    return pose


def colour_of(points: np.ndarray) -> np.ndarray:
    """Returns colours (..., 3), 0 to 255, of surface points (..., 3) in metres."""
    waves = np.array([[5.0, 2.0, 1.0], [-2.0, 6.0, 2.0], [3.0, -4.0, 5.0]])
    return 128 + 90 * np.sin(points @ waves.T)


def render(intrinsics, world_to_camera, size=SIZE, scale=1.0, only_square=False):
    """Renders image, uint8 (h, w, 3), and depth (h, w) of the scene, scaled by a factor."""
    rows, columns = np.mgrid[: size[0], : size[1]] + 0.5
    rays = np.stack([columns, rows, np.ones(size)], -1) @ np.linalg.inv(intrinsics).T
    rotation, centre = world_to_camera[:3, :3], -world_to_camera[:3, :3].T @ world_to_camera[:3, 3] / scale
    directions = rays @ rotation  # rays have depth 1, so the distance along them is depth
    distance = lambda plane: (plane[1] - plane[0] @ centre) / (directions @ plane[0])
    wall, square = distance(WALL), distance(SQUARE)
    hit = centre + directions * square[..., None]
    on_square = (np.abs(hit[..., :2]) < HALF).all(-1)
    depth = np.where(on_square, square, wall)
    image = np.round(colour_of(centre + directions * depth[..., None])).astype(np.uint8)
    return image, np.where(on_square | (not only_square), depth, 0) * scale


def views_of(names, intrinsics=INTRINSICS, **options) -> list[View]:
    """Renders one view for each name."""
    poses = [pose_of(number) for number in range(len(names))]
    if "scale" in options:
        poses = [pose * np.array([[1, 1, 1, options["scale"]]]) for pose in poses]
        for pose in poses:
            pose[3, 3] = 1
    pairs = [render(intrinsics, pose, **options) for pose in poses]
    return [
        View(name, *pair, intrinsics, pose) for name, pair, pose in zip(names, pairs, poses, strict=True)
    ]


def save(path: pathlib.Path, pixels: np.ndarray, **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)


def save_depth(path: pathlib.Path, metres: np.ndarray, unit=1e-3) -> None:
    save(path, np.round(metres / unit).astype(np.uint16))


def write_matrix(path: pathlib.Path, matrix: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savetxt(path, matrix, fmt="%.12f")


def cameras(root, count=6):
    views = views_of([f"images/{number:04d}.png" for number in range(count)])
    frames = []
    for view in views:
        depth = view.name.replace("images", "depth")
        save(root / "desk" / view.name, view.image)
        save_depth(root / "desk" / depth, view.depth)
        frames.append({
            "image": view.name, "depth": depth, "intrinsics": view.intrinsics.tolist(),
            "world_to_camera": view.world_to_camera.tolist(),
        })  # fmt: skip
    (root / "desk" / "cameras.json").write_text(json.dumps({"frames": frames}))
    return [view._replace(name=f"desk/{number:04d}") for number, view in enumerate(views)]


def transforms(root, count=6):
    names = [f"train/r_{number}" for number in range(count)]
    views = views_of(names)
    frames = []
    for number, view in enumerate(views):
        save(root / "lego" / f"{view.name}.png", view.image)
        save_depth(root / "lego" / f"depth_{number}.png", view.depth, 1e-4)
        camera_to_world = np.linalg.inv(view.world_to_camera) @ OPENGL
        frames.append({
            "file_path": f"./{view.name}", "depth_file_path": f"depth_{number}.png",
            "transform_matrix": camera_to_world.tolist(),
        })  # fmt: skip
    k = INTRINSICS
    frames[1]["fl_x"] = frames[1]["fl_y"] = 71.0  # this frame has a camera of its own
    contents = {
        "fl_x": k[0, 0], "fl_y": k[1, 1], "cx": k[0, 2], "cy": k[1, 2], "w": SIZE[1], "h": SIZE[0],
        "depth_unit_scale_factor": 1e-4, "frames": frames,
    }  # fmt: skip
    (root / "lego" / "transforms.json").write_text(json.dumps(contents))
    second = k.copy()
    second[0, 0] = second[1, 1] = 71.0
    image, depth = render(second, views[1].world_to_camera)
    save(root / "lego" / "train" / "r_1.png", image)
    save_depth(root / "lego" / "depth_1.png", depth, 1e-4)
    views[1] = views[1]._replace(image=image, depth=depth, intrinsics=second)
    return [view._replace(name=f"lego/r_{number}") for number, view in enumerate(views)]


def scannet(root, numbers=(15, 30, 60, 90, 120, 300), scene="scene0707_00"):
    scale = np.diag([640 / SIZE[1], 480 / SIZE[0], 1])  # intrinsics are for 640x480
    matrices: dict[str, Any] = {scene: scale @ INTRINSICS}
    np.savez(root / "intrinsics.npz", **matrices)
    views = views_of([f"{scene}/{number}" for number in numbers])
    for number, view in zip(numbers, views):
        # Colour may have a higher resolution than depth.
        larger = render(np.diag([2, 2, 1]) @ INTRINSICS, view.world_to_camera, (120, 160))[0]
        save(root / scene / "color" / f"{number}.jpg", larger, quality=100, subsampling=0)
        save_depth(root / scene / "depth" / f"{number}.png", view.depth)
        write_matrix(root / scene / "pose" / f"{number}.txt", np.linalg.inv(view.world_to_camera))
    return views


def seven_scenes(root, numbers=range(0, 120, 20), registered=True):
    from muskie_jax.data.posed.seven_scenes import DEPTH_TO_COLOUR

    folder = root / "chess" / "seq-03"
    small = np.diag([SIZE[1] / 640, SIZE[0] / 480, 1])
    colour, depth = (small @ [[f, 0, 320], [0, f, 240], [0, 0, 1]] for f in (525, 585))
    views = views_of([f"chess/seq-03/{number:06d}" for number in numbers], colour)
    for number, view in zip(numbers, views):
        save(folder / f"frame-{number:06d}.color.png", view.image)
        write_matrix(folder / f"frame-{number:06d}.pose.txt", np.linalg.inv(view.world_to_camera))
        if registered:
            save_depth(folder / f"frame-{number:06d}.depth.proj.png", view.depth)
        raw = render(depth, np.linalg.inv(DEPTH_TO_COLOUR) @ view.world_to_camera)[1]
        steps = np.round(1000 * raw).astype(np.uint16)
        steps[:2] = 65535  # missing
        save(folder / f"frame-{number:06d}.depth.png", steps)
    for step in range(0, 100, 20):  # frames between are never opened
        for between in range(step + 1, step + 20):
            (folder / f"frame-{between:06d}.color.png").touch()
    (root / "chess" / "seq-01").mkdir()
    (root / "chess" / "seq-01" / "frame-000000.color.png").touch()
    (root / "chess" / "TestSplit.txt").write_text("sequence3\n")
    return views


def neural_rgbd(root, count=6):
    names = [f"kitchen/img{number}" for number in range(count)]
    views = views_of(names, CENTRED)
    for number, view in enumerate(views):
        save(root / "kitchen" / "images" / f"img{number}.png", view.image)
        save_depth(root / "kitchen" / "depth" / f"depth{number}.png", view.depth)
    poses = np.concatenate([np.linalg.inv(view.world_to_camera) @ OPENGL for view in views])
    write_matrix(root / "kitchen" / "poses.txt", poses)
    (root / "kitchen" / "focal.txt").write_text("70.0\n")
    return views


def quaternion(rotation: np.ndarray) -> np.ndarray:
    """Returns (w, x, y, z) of a rotation by less than 180 degrees."""
    w = np.sqrt(1 + np.trace(rotation)) / 2
    r = rotation
    x, y, z = r[2, 1] - r[1, 2], r[0, 2] - r[2, 0], r[1, 0] - r[0, 1]
    return np.array([w, x / (4 * w), y / (4 * w), z / (4 * w)])


def navi(root, count=6, collections=("multiview_00_pixel",), name="vase"):
    """Returns the views of the last collection; the object is the square, scaled by a quarter."""
    (root / name / "wild_set").mkdir(parents=True)
    for collection in collections:
        folder = root / name / collection
        views = views_of(
            [f"{name}/{collection}/{i:03d}" for i in range(count)], CENTRED, scale=0.25, only_square=True
        )
        annotations = []
        for number, view in enumerate(views):
            save(
                folder / "images" / f"downsampled_{number:03d}.jpg", view.image, quality=100, subsampling=0
            )
            inverse = np.divide(655.35, view.depth, out=np.zeros(SIZE), where=view.depth > 0)
            save_depth(folder / "depth" / f"downsampled_{number:03d}.png", inverse, 1)
            pose = view.world_to_camera
            annotations.append({
                "filename": f"{number:03d}.jpg", "image_size": [4 * side for side in SIZE],
                "camera": {
                    "q": (1.5 * quaternion(pose[:3, :3])).tolist(), "t": (1000 * pose[:3, 3]).tolist(),
                    "focal_length": 280.0,
                },
            })  # fmt: skip
        (folder / "annotations.json").write_text(json.dumps(annotations[::-1]))
    return views


def colmap(root, count=6, model="PINHOLE", png=False):
    import pycolmap  # pyright: ignore[reportMissingImports]  # an optional extra

    views = views_of([f"{number:02d}.png" for number in range(count)])
    reconstruction = pycolmap.Reconstruction()
    k = INTRINSICS
    params = [k[0, 0], k[1, 1], k[0, 2], k[1, 2]] + [0.1] * 4 * (model != "PINHOLE")
    camera = pycolmap.Camera(model=model, width=SIZE[1], height=SIZE[0], params=params, camera_id=1)
    reconstruction.add_camera_with_trivial_rig(camera)
    for number, view in enumerate(views):
        save(root / "garden" / "images" / view.name, view.image)
        if png:
            save_depth(root / "garden" / "depth" / view.name, view.depth, 2e-4)
        else:
            path = root / "garden" / "stereo" / "depth_maps" / f"{view.name}.geometric.bin"
            path.parent.mkdir(parents=True, exist_ok=True)
            pycolmap.DepthMap.from_array(view.depth.astype(np.float32), 0.1, 9.0).write(str(path))
        image = pycolmap.Image(name=view.name, camera_id=1, image_id=number + 1)
        pose = pycolmap.Rigid3d(view.world_to_camera[:3])
        reconstruction.add_image_with_trivial_frame(image, pose)
    (root / "garden" / "sparse").mkdir()
    reconstruction.write(str(root / "garden" / "sparse"))
    return [view._replace(name=f"garden/{number:02d}") for number, view in enumerate(views)]


def tum(root, count=6, name="rgbd_dataset_freiburg3_desk"):
    """The camera of fr3 at an eighth of its size. Depth is 5 ms, poses are 8 ms after their image."""
    from muskie_jax.data.posed.tum import CAMERAS

    fx, fy, cx, cy = (value / 8 for value in CAMERAS["3"])
    folder, times = root / name, [1341845820.25 + 0.5 * number for number in range(count)]
    views = views_of(
        [f"{name}/{time:.6f}" for time in times], np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
    )
    lists = {"rgb": "", "depth": "", "groundtruth": "# tx ty tz qx qy qz qw\n"}
    for time, view in zip(times, views):
        save(folder / "rgb" / f"{time:.6f}.png", view.image)
        save_depth(folder / "depth" / f"{time + 0.005:.6f}.png", view.depth, 2e-4)
        camera_to_world = np.linalg.inv(view.world_to_camera)
        w, *xyz = quaternion(camera_to_world[:3, :3])
        numbers = " ".join(f"{value:.12f}" for value in (*camera_to_world[:3, 3], *xyz, w))
        lists["rgb"] += f"{time:.6f} rgb/{time:.6f}.png\n"
        lists["depth"] += f"{time + 0.005:.6f} depth/{time + 0.005:.6f}.png\n"
        for wrong in (time - 0.012, time + 0.018):  # poses that are further away
            lists["groundtruth"] += f"{wrong:.6f} 9 9 9 0 0 0 1\n"
        lists["groundtruth"] += f"{time + 0.008:.6f} {numbers}\n"
    for kind, text in lists.items():
        (folder / f"{kind}.txt").write_text(text)
    return views


def _scene_metadata(folder, views, images, depth, names, intrinsics):
    """Writes a scene of ScanNet++ or ARKitScenes; JPEG does not change pixels of one colour much."""
    for name, view in zip(names, views):
        stem = name.removesuffix(".png")
        save(folder / images / f"{stem}.jpg", view.image, quality=100, subsampling=0)
        save_depth(folder / depth / f"{stem}.png", view.depth)
    arrays: dict[str, Any] = {
        "images": np.array(names),
        "trajectories": np.stack([np.linalg.inv(view.world_to_camera) for view in views]),
        "intrinsics": np.stack(intrinsics),
        "pairs": np.array([[0, 1, 0.5]]),
    }
    np.savez(folder / "scene_metadata.npz", **arrays)


def scannetpp(root, count=6, scene="0a5c013435"):
    names = [f"DSC{number:05d}" for number in range(count)]
    views = views_of([f"{scene}/{name}" for name in names])
    _scene_metadata(root / scene, views, "images", "depth", names, [INTRINSICS] * count)
    return views


def arkitscenes(root, count=6, scene="41048190"):
    """A test scene, and a scene for training that is not read."""
    names = [f"{scene}_{3414.1 + number / 10:.3f}.png" for number in range(count)]
    views = views_of([f"{scene}/{name.removesuffix('.png')}" for name in names])
    k = INTRINSICS
    intrinsics = [np.array([SIZE[1], SIZE[0], k[0, 0], k[1, 1], k[0, 2], k[1, 2]])] * count
    _scene_metadata(root / "Test" / scene, views, "vga_wide", "lowres_depth", names, intrinsics)
    (root / "Training" / "40753679" / "vga_wide").mkdir(parents=True)
    (root / "Training" / "40753679" / "scene_metadata.npz").touch()
    return views


def blendedmvs(root, count=6, scene="000000000000000000000001"):
    views = views_of([f"{scene}/{number:08d}" for number in range(count)])
    for number, view in enumerate(views):
        path = root / scene / f"{number:08d}"
        save(path.with_suffix(".jpg"), view.image, quality=100, subsampling=0)
        write_exr(path.with_suffix(".exr"), {"Y": view.depth})
        camera_to_world = np.linalg.inv(view.world_to_camera)
        cameras: dict[str, Any] = {
            "intrinsics": view.intrinsics, "R_cam2world": camera_to_world[:3, :3],
            "t_cam2world": camera_to_world[:3, 3],
        }  # fmt: skip
        np.savez(path.with_suffix(".npz"), **cameras)
    return views


def write_exr(path, channels):
    import OpenEXR  # pyright: ignore[reportMissingImports]  # an optional extra

    arrays = {name: pixels.astype(np.float32) for name, pixels in channels.items()}
    OpenEXR.File({"compression": OpenEXR.ZIP_COMPRESSION}, arrays).write(str(path))
