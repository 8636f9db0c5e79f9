"""The frames that `pack` reads: from a folder, from another pack, or rendered from the synthetic world."""

import functools
import hashlib
import pathlib
from typing import Any, Protocol

import jax
import numpy as np
from jaxtyping import UInt8, UInt32

from muskie_jax.data.cameras_json import CAMERAS, PosedImage, read_cameras
from muskie_jax.data.depth import load_depth
from muskie_jax.data.images import read_file
from muskie_jax.data.objects import RelativeBox
from muskie_jax.data.packing.encoding import Encoding, encode_depth
from muskie_jax.data.packing.packed_source import PackedSource
from muskie_jax.data.packing.records import Geometry, Record
from muskie_jax.data.scenes import GROUP_MARK, Scene, SceneTable, location
from muskie_jax.data.sources import FolderSource, Source
from muskie_jax.data.synthetic.render import render_group
from muskie_jax.data.synthetic.scenes import WorldConfig
from muskie_jax.data.synthetic.textures import photo_pyramid

SEED_STREAM = 5  # separates the seeds of packed rooms from other draws from a run's seed


class Frames(Protocol):
    """Frames to pack, with depth and cameras where they are known.

    Attributes:
      scenes: the scenes and the paths of their frames.
      settings: the source's settings, which the pack stores (see `PackInfo.settings`).
      origin: absolute path of the source; "" for rendered frames.
      geometry: whether every frame has depth and a camera.
      geometry_note: the reason why frames have no depth or camera, for the log; may be empty.
      upright: whether to apply the images' EXIF orientation.
      parallel: whether worker processes may share the work.
    """

    scenes: SceneTable
    settings: dict[str, Any]
    origin: str
    geometry: bool
    geometry_note: str
    upright: bool
    parallel: bool

    def record(self, scene: int, frame: int) -> Record:
        """Returns a frame's record with its files unchanged; raises `BadImage`."""
        ...

    def object_box(self, scene: int, frame: int) -> RelativeBox | None:
        """Returns the bounding box of the frame's object, or None; raises `BadImage`."""
        ...


class FolderFrames:
    """Photographs of a folder, as `Frames`.

    They have geometry if every scene has a `cameras.json` that lists all its images. That file is in the
    images' folder or in a folder above it (see `muskie_jax.data.cameras_json`).
    """

    parallel = True

    def __init__(self, source: FolderSource):
        self.source, self.scenes = source, source.scenes
        self.origin = str(source.root.resolve())
        without_cameras = self._scene_without_cameras()
        self.geometry = not without_cameras
        # A folder that has no cameras at all needs no note.
        some_cameras = any(self._camera(scene.frames[0]) for scene in source.scenes)
        self.geometry_note = (
            f" (scene {without_cameras} has no {CAMERAS} that lists all its images)"
            if without_cameras and some_cameras
            else ""
        )
        # Intrinsics refer to pixels as they are stored, so images with cameras keep their orientation.
        self.upright = not self.geometry
        self.settings = {
            "source": source.layout.title,
            "window": source.window,
            "zoom": source.zoom,
            "groups": any(GROUP_MARK in name for name in source.scenes.names()),
        }

    def _scene_without_cameras(self) -> str:
        """Returns the name of the first scene with a frame without a camera; "" if there is none."""
        for scene in self.scenes:
            if not all(self._camera(frame) for frame in scene.frames):
                return scene.name
        return ""

    def _camera(self, path: str) -> PosedImage | None:
        return _cameras(self.source.root, pathlib.PurePosixPath(path).parent).get(path)

    def record(self, scene: int, frame: int) -> Record:
        name, frames = self.scenes[scene]
        path = frames[frame]
        camera = self._camera(path) if self.geometry else None
        geometry = None
        if camera:
            file = self.source.root / camera.depth
            depth = read_file(file) if file.suffix == ".png" else encode_depth(load_depth(file))
            geometry = Geometry(depth, camera.intrinsics, camera.world_to_camera)
        return Record(read_file(self.source.root / path), location(name), path, geometry)

    def object_box(self, scene: int, frame: int) -> RelativeBox | None:
        return self.source.object_box(scene, frame)


@functools.lru_cache(maxsize=64)
def _cameras(root: pathlib.Path, folder: pathlib.PurePosixPath) -> dict[str, PosedImage]:
    """Returns the cameras of a folder's images with depth, by path below the root; empty without a file."""
    for parent in (folder, *folder.parents):
        if (root / parent / CAMERAS).is_file():
            below_root = lambda path, parent=parent: (parent / path).as_posix()
            cameras = read_cameras(root / parent / CAMERAS)
            return {
                below_root(camera.image): camera._replace(depth=below_root(camera.depth))
                for camera in cameras
                if camera.depth
            }
    return {}


class PackedFrames:
    """The frames of another pack, for example to pack them again at a smaller size."""

    parallel = True
    geometry_note = ""

    def __init__(self, source: PackedSource):
        self.source, self.scenes = source, source.scenes
        self.origin = str(source.root.resolve())
        self.geometry, self.upright = source.info.geometry, source.info.upright
        self.settings = source.info.settings | {"window": source.window, "zoom": source.zoom}

    def record(self, scene: int, frame: int) -> Record:
        return self.source.record(scene, frame)

    def object_box(self, scene: int, frame: int) -> RelativeBox | None:
        return self.source.object_box(scene, frame)


class RenderedFrames:
    """Rooms of the synthetic world, with exact depth and cameras.

    Args:
      world: the distribution that rooms are drawn from.
      seed: the pack's seed; room i is a function of (seed, i).
      scenes: number of rooms.
      views: number of views per room.
      size: (height, width) of a view.
      encoding: how views are stored. Views are encoded when they are rendered.
      photos: N square textures of S x S pixels; None for procedural textures only.
    """

    parallel = False  # one room already occupies the device, or JAX's threads on a CPU
    geometry, upright, geometry_note, origin = True, False, "", ""

    def __init__(
        self,
        world: WorldConfig,
        seed: int,
        scenes: int,
        views: int,
        size: tuple[int, int],
        encoding: Encoding,
        photos: UInt8[np.ndarray, "N S S 3"] | None = None,
    ):
        self.seed, self.encoding = seed, encoding
        digits = len(str(max(scenes, views) - 1))
        extension = "png" if encoding.format == "png" else "jpg"
        frames = [f"{view:0{digits}d}.{extension}" for view in range(views)]
        names = [f"room_{number:0{digits}d}" for number in range(scenes)]
        self.scenes = SceneTable.of(
            (Scene(name, tuple(f"{name}/{frame}" for frame in frames)) for name in names),
            [size] * scenes,
        )
        self.settings = {
            "source": "synthetic",
            "window": None,
            "zoom": 0.0,
            "groups": False,
            "world": repr(world),
            "seed": seed,
            "size": list(size),
            "photos": None if photos is None else hashlib.sha256(photos.tobytes()).hexdigest(),
        }
        height, width = size
        render = functools.partial(
            render_group, num_views=views, height=height, width=width, config=world, with_geometry=True
        )
        pyramid = None if photos is None else photo_pyramid(jax.numpy.asarray(photos))
        compiled = jax.jit(lambda seed: render(seed, photos=pyramid))
        # All views of a room are rendered together, and the records of a room are read one after another.
        self._render = functools.lru_cache(maxsize=1)(
            lambda scene: jax.device_get(compiled(self.seed_of(scene)))
        )

    def seed_of(self, scene: int) -> UInt32[np.ndarray, " 2"]:
        """Returns the seed of a room (see `render_group`)."""
        return np.random.default_rng([self.seed, SEED_STREAM, scene]).integers(2**32, size=2, dtype="u4")

    def record(self, scene: int, frame: int) -> Record:
        views = self._render(scene)
        geometry = Geometry(
            encode_depth(views.depth[frame]),
            views.cameras.intrinsics[frame].astype(np.float64),
            views.cameras.world_to_camera[frame].astype(np.float64),
        )
        name, frames = self.scenes[scene]
        return Record(self.encoding.encode(views.images[frame]), name, frames[frame], geometry)

    def object_box(self, scene: int, frame: int) -> RelativeBox | None:
        del scene, frame
        return None


def frames_from_source(source: Source) -> FolderFrames | PackedFrames:
    """Returns the frames of a source of photographs."""
    if isinstance(source, PackedSource):
        return PackedFrames(source)
    assert isinstance(source, FolderSource), "synthetic sources are packed as RenderedFrames"
    return FolderFrames(source)
