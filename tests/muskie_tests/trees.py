"""Miniature datasets: the ten published folder layouts, with a few tiny images each.

An image's colour encodes its scene and frame: red is 40 times the scene's number, green 3 times the
frame's. The trees also have the other files and folders of the published ones, which must be ignored.
"""

import pathlib

import numpy as np
from PIL import Image, ImageDraw

SIZE = (48, 64)  # height, width
STEP = (40, 3)  # red per scene, green per frame


def draw(path: pathlib.Path, scene: int, frame: int, size=SIZE) -> None:
    """Writes an image of one colour, which encodes its scene and frame."""
    path.parent.mkdir(parents=True, exist_ok=True)
    colour = (STEP[0] * scene, STEP[1] * frame, 128)
    Image.new("RGB", size[::-1], colour).save(path, quality=100)  # PNG ignores the quality


def which(pixels: np.ndarray) -> tuple[int, int]:
    """Returns (scene, frame) of an image or a crop of it, uint8 (..., 3)."""
    red, green, _ = pixels.reshape(-1, 3).astype(float).mean(0)
    return round(red / STEP[0]), round(green / STEP[1])


def draw_mask(path: pathlib.Path, box: tuple[int, int, int, int] | None, size=SIZE) -> None:
    """Writes a mask of one rectangle: left, top, and exclusive right and bottom. None: an empty mask."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = Image.new("L", size[::-1])
    if box:
        left, top, right, bottom = box
        ImageDraw.Draw(mask).rectangle((left, top, right - 1, bottom - 1), fill=255)
    mask.save(path)


def arkitscenes(root):
    for scene, name in enumerate(("40753679", "41048190", "9")):
        for frame in range(5):
            draw(root / "Training" / name / "vga_wide" / f"{name}_{frame * 7}.{frame}50.jpg", scene, frame)
        draw(root / "Training" / name / "lowres_depth" / "0.png", scene, 0)
    draw(root / "Validation" / "41" / "vga_wide" / "0.jpg", 3, 0)
    return {"Training/9": 5, "Training/40753679": 5, "Training/41048190": 5}


def scannetpp(root):
    for scene, name in enumerate(("00777c41d4", "02455b3d20")):
        for frame in range(12):
            draw(root / name / "images" / f"frame_{frame}.jpg", scene, frame)
        draw(root / name / "depth" / "frame_0.png", scene, 0)
    (root / "scannetpp_pairs").mkdir()
    (root / "all_metadata.npz").touch()
    return {"00777c41d4": 12, "02455b3d20": 12}


def co3d(root):
    names = ("apple/110_13051_23361", "apple/189_20393_38136", "bench/415_57112_110099")
    for scene, name in enumerate(names):
        for frame in range(4):
            draw(root / name / "images" / f"frame{frame:06d}.jpg", scene, frame)
            # The object grows from frame to frame; the last mask is empty.
            box = None if frame == 3 else (20, 20, 24 + 4 * frame, 26)
            draw_mask(root / name / "masks" / f"frame{frame:06d}.png", box)
    draw(root / "apple" / "previews" / "images" / "a.jpg", 5, 5)
    (root / "apple" / "set_lists").mkdir()
    return dict.fromkeys(names, 4)


def blendedmvg(root):
    for scene, name in enumerate(("000000000000000000000000", "5a0271884e62597cdee0d0eb")):
        for frame in range(6):
            draw(root / name / f"{frame:08d}.png", scene, frame)
        draw(root / name / "cams" / "0.png", 5, 5)
    (root / "empty").mkdir()
    return {"000000000000000000000000": 6, "5a0271884e62597cdee0d0eb": 6}


def hypersim(root):
    for scene, name in enumerate(("ai_001_001", "ai_001_010")):
        for camera in range(2):
            folder = root / name / "images" / f"scene_cam_{camera:02d}_final_preview"
            for frame in range(10):
                draw(folder / f"frame.{frame:04d}.color.jpg", scene, 10 * camera + frame)
        draw(root / name / "images" / "scene_cam_00_geometry_preview" / "frame.0000.jpg", 5, 5)
    (root / "metadata_camera_parameters.csv").touch()
    return {"ai_001_001": 20, "ai_001_010": 20}


def waymo(root):
    names = ("segment-10017090168044687777.tfrecord", "segment-1024360143612057520.tfrecord")
    for scene, name in enumerate(names):
        for frame in range(45):
            draw(root / name / f"{frame:05d}_1.jpg", scene, frame)
    (root / "waymo_exist_pairs.npz").touch()
    (root / "segment-empty").mkdir()
    return dict.fromkeys(sorted(names, key=lambda name: int(name[8:-9])), 45)


def megadepth(root):
    # All scenes share one list of images, and groups do not list them in order.
    scenes, images, pairs = ("0000 dense0", "0001 dense1"), [], []
    for scene, name in enumerate(scenes):
        for frame in range(12):
            image = f"{1000 * scene + frame}_o"
            draw(root.joinpath(*name.split()) / f"{image}.jpg", scene, frame)
            images.append(image)
    for scene, start in ((0, 0), (0, 4), (1, 2)):
        group = [12 * scene + start + frame for frame in (7, 2, 0, 1, 3, 6, 5, 4)]
        pairs.append((scene, group))
    array = np.empty(len(pairs), object)
    array[:] = pairs
    path = root / "all_metadata_8view.npz"
    np.savez(path, pairs=array, scenes=np.array(scenes), images=np.array(images))
    return {"0000/dense0#0": 8, "0000/dense0#1": 8, "0001/dense1#2": 8}


def dl3dv(root):
    for scene, name in enumerate(("1K/0a1b", "1K/ff00", "11K/0123")):
        for frame in range(3 + 67 * (scene == 2)):
            draw(root / name / "images_8" / f"frame_{frame + 9:05d}.png", scene, frame)
        draw(root / name / "images_4" / "frame_00001.png", 5, 5)
    return {"1K/0a1b": 3, "1K/ff00": 3, "11K/0123": 70}


def re10k(root):
    for scene, name in enumerate(("000c3ab189999a83", "0000cc6d8b108390")):
        for frame in range(40):
            draw(root / name / f"{frame * 33366}.jpg", scene, frame)
    return {"000c3ab189999a83": 40, "0000cc6d8b108390": 40}


def wildrgbd(root):
    names = ("apple/scenes/scene_0", "apple/scenes/scene_2", "apple/scenes/scene_10")
    for scene, name in enumerate(names):
        for frame in range(4):
            draw(root / name / "rgb" / f"{frame:05d}.png", scene, frame)
            draw_mask(root / name / "masks" / f"{frame:05d}.png", (20, 20, 28, 26))
            draw(root / name / "depth" / f"{frame:05d}.png", 5, 5)
    return dict.fromkeys(names, 4)


# Each function writes a tree to a folder, and returns {scene: number of frames} in natural order.
TREES = {
    tree.__name__: tree
    for tree in (
        arkitscenes, scannetpp, co3d, blendedmvg, hypersim, waymo, megadepth, dl3dv, re10k, wildrgbd,
    )
}  # fmt: skip
