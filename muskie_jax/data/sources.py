"""Where scenes come from: folders of photographs, and the synthetic world.

A photograph source has `scenes`, a list of `Scene`, and `load(frame)`, which opens one of their
frames. The synthetic world has neither: a seed is a scene, and it is rendered on the device.
"""

import dataclasses
import pathlib
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from muskie_jax.data.images import Photograph, read_photograph
from muskie_jax.data.synthetic.scenes import WorldConfig
from muskie_jax.errors import UserError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp")


class Scene(NamedTuple):
    """Photographs of one place; `frames` are paths relative to the source's root, in order."""

    name: str
    frames: tuple[str, ...]


def natural_key(name: str) -> tuple[list[tuple[int, Any]], str]:
    """Sort key that counts, frame_2 before frame_10; no two names are equal to it."""
    parts = re.split(r"(\d+)", name)
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in parts if part], name


@dataclasses.dataclass(frozen=True)
class FolderSource:
    """Scenes of photographs under one root: images of the same folder are one scene.

    Attributes:
      name: of the dataset, for logs and per-dataset losses.
      root: the folder.
      scenes: found by `scan`, in natural order.
      window: consecutive frames that a sample is drawn from; None means the whole scene.
      weight: how often the source is drawn, relative to the others.
    """

    name: str
    root: pathlib.Path
    scenes: tuple[Scene, ...]
    window: int | None = None
    weight: float = 1.0

    def load(self, frame: str) -> Photograph:
        """Opens one frame; raises `BadImage`."""
        return read_photograph(self.root / frame)

    def __len__(self) -> int:
        return sum(len(scene.frames) for scene in self.scenes)


@dataclasses.dataclass(frozen=True)
class SyntheticSource:
    """An endless supply of rooms, each a function of its seed (see `muskie_jax.data.synthetic`)."""

    name: str
    world: WorldConfig
    weight: float = 1.0


Source = FolderSource | SyntheticSource


def _is_image(path: pathlib.Path) -> bool:
    """By its name; files of the system, such as ._IMG.jpg, are not."""
    return path.suffix.lower() in EXTENSIONS and not path.name.startswith(".")


def scan(root: str, glob: str = "*/*") -> tuple[Scene, ...]:
    """Finds the scenes of a folder, images in one folder being one scene.

    Args:
      root: the folder that `glob` starts from.
      glob: which files are images of a scene: "*/*" for `<root>/<scene>/<image>`,
        "*/images/*" or "**/*" for deeper layouts, "*" for one scene without a folder of its own.

    Raises:
      UserError: if there is no such folder, or no image in it.
    """
    folder = pathlib.Path(root).expanduser()
    if not folder.is_dir():
        raise UserError(f"no folder {str(root)!r}: the root of a source is a folder of scene folders")
    files = [path for path in folder.glob(glob) if _is_image(path)]
    by_scene: dict[str, list[str]] = {}
    for path in files:
        relative = path.relative_to(folder)
        by_scene.setdefault(relative.parent.as_posix(), []).append(relative.as_posix())
    if not by_scene:
        raise UserError(_nothing_found(folder, glob))
    return tuple(
        Scene(name, tuple(sorted(by_scene[name], key=natural_key)))
        for name in sorted(by_scene, key=natural_key)
    )


def _nothing_found(folder: pathlib.Path, glob: str) -> str:
    kinds = ", ".join(EXTENSIONS)
    message = f"no image ({kinds}) matches {glob!r} under {str(folder)!r}"
    elsewhere = next(filter(_is_image, folder.rglob("*")), None)
    if elsewhere is None:
        return message
    parent = elsewhere.relative_to(folder).parent
    pattern = "/".join(["*"] * (len(parent.parts) + 1))
    return f"{message}, but there is {elsewhere.relative_to(folder)}: write glob={pattern!r}"


def split_scenes(scenes: Sequence[Scene], holdout: float) -> tuple[tuple[Scene, ...], tuple[Scene, ...]]:
    """Splits scenes into (training, held out), the same way every time.

    The held-out scenes are evenly spaced in the list; one at least is held out if `holdout` is not
    zero and there are two scenes or more.
    """
    count = min(max(round(holdout * len(scenes)), 1 if holdout else 0), len(scenes) - 1)
    held = {int((i + 0.5) * len(scenes) / count) for i in range(count)}
    training = tuple(scene for i, scene in enumerate(scenes) if i not in held)
    return training, tuple(scenes[i] for i in sorted(held))
