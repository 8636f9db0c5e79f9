"""The frames that are packed, with all that is known of them: from folders, rooms, or another pack.

Each class has

- `scenes`: a `SceneTable`;
- `settings`: what a pack says of its source (see `pack`), and `origin`, where it is;
- `geometry`: whether depth and cameras are known, and `reason`, why they are not;
- `upright`: whether images are turned as their EXIF orientation says;
- `record(scene, frame)`: the record, files unchanged; raises `BadImage`;
- `object_box(scene, frame)`: as sources have it; raises `BadImage`;
- `parallel`: whether several processes can share the work.
"""

import functools
import hashlib
import pathlib

import jax
import numpy as np

from muskie_jax.data.cameras_json import CAMERAS, PosedImage, read_cameras
from muskie_jax.data.images import read_file
from muskie_jax.data.packing.encoding import Encoding, encode_depth
from muskie_jax.data.packing.packed import PackedSource
from muskie_jax.data.packing.records import Geometry, Record
from muskie_jax.data.scenes import GROUP_MARK, Scene, SceneTable, location
from muskie_jax.data.sources import FolderSource, Source
from muskie_jax.data.synthetic.render import render_group
from muskie_jax.data.synthetic.scenes import WorldConfig
from muskie_jax.data.synthetic.textures import photo_pyramid

SEED_STREAM = 5  # keeps the seeds of packed rooms apart from what else is drawn from a run's seed


class FolderFrames:
    """Photographs of a folder; with depth and cameras, if every scene has a `cameras.json` of them all.

    (See `muskie_jax.data.cameras_json` for that file, which lies in the folder of the images or above it.)
    """

    parallel = True

    def __init__(self, source: FolderSource):
        self.source, self.scenes = source, source.scenes
        self.origin = str(source.root.resolve())
        without = self._without_cameras()
        self.geometry = not without
        # Where no scene has cameras, there is nothing to say.
        some = without and any(self._camera(scene.frames[0]) for scene in source.scenes)
        self.reason = f" (scene {without} has no {CAMERAS} of all its images)" if some else ""
        self.upright = not self.geometry  # intrinsics are those of the pixels as they are stored
        self.settings = {
            "source": source.layout.title,
            "window": source.window,
            "zoom": source.zoom,
            "groups": any(GROUP_MARK in name for name in source.scenes.names()),
        }

    def _without_cameras(self) -> str:
        """A scene some of whose cameras are not known; empty if there is none."""
        for scene in self.scenes:
            if not all(self._camera(frame) for frame in scene.frames):
                return scene.name
        return ""

    def _camera(self, path: str) -> PosedImage | None:
        return _cameras(self.source.root, pathlib.PurePosixPath(path).parent).get(path)

    def record(self, scene: int, frame: int) -> Record:
        name, frames = self.scenes[scene]
        path, geometry = frames[frame], None
        if self.geometry:
            camera = self._camera(path)
            geometry = Geometry(
                read_file(self.source.root / camera.depth), camera.intrinsics, camera.world_to_camera
            )
        return Record(read_file(self.source.root / path), location(name), path, geometry)

    def object_box(self, scene: int, frame: int):
        return self.source.object_box(scene, frame)


@functools.lru_cache(maxsize=64)
def _cameras(root: pathlib.Path, folder: pathlib.PurePosixPath) -> dict[str, PosedImage]:
    """The cameras of a folder's images, by path below the root; empty if they are not known."""
    for parent in (folder, *folder.parents):
        if (root / parent / CAMERAS).is_file():
            below = lambda path, parent=parent: (parent / path).as_posix()
            known = read_cameras(root / parent / CAMERAS)
            return {below(camera.image): camera._replace(depth=below(camera.depth)) for camera in known}
    return {}


class PackedFrames:
    """The frames of another pack, such as to make smaller ones of them."""

    parallel = True

    def __init__(self, source: PackedSource):
        self.source, self.scenes = source, source.scenes
        self.origin = str(source.root.resolve())
        self.geometry, self.upright = source.pack.geometry, source.pack.upright
        self.settings = source.pack.settings | {"window": source.window, "zoom": source.zoom}
        self.reason = ""

    def record(self, scene: int, frame: int) -> Record:
        return self.source.record(scene, frame)

    def object_box(self, scene: int, frame: int):
        return self.source.object_box(scene, frame)


class RenderedFrames:
    """Rooms of the synthetic world, with exact depth and cameras.

    Args:
      world: the distribution that rooms are drawn from.
      seed: room i is a function of (seed, i).
      scenes, views: rooms, and views of each.
      size: (height, width) of a view.
      encoding: of the images, which are encoded at once.
      photos: textures, uint8 (N, S, S, 3), or None.
    """

    parallel = False  # the device, or JAX's threads, are busy with one room already
    geometry, upright, reason, origin = True, False, "", ""

    def __init__(
        self,
        world: WorldConfig,
        seed: int,
        scenes: int,
        views: int,
        size: tuple[int, int],
        encoding: Encoding,
        photos: np.ndarray | None = None,
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
        self._render = functools.lru_cache(maxsize=1)(
            lambda scene: jax.device_get(compiled(self.seed_of(scene)))
        )

    def seed_of(self, scene: int) -> np.ndarray:
        """The seed of a room, uint32 (2,); see `render_group`."""
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

    def object_box(self, scene: int, frame: int):
        del scene, frame


Frames = FolderFrames | PackedFrames | RenderedFrames


def frames_of(source: Source) -> FolderFrames | PackedFrames:
    """What is packed of a source of photographs."""
    return PackedFrames(source) if isinstance(source, PackedSource) else FolderFrames(source)
