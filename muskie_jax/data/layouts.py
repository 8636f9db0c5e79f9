"""Folder layouts of the paper's datasets, one row each.

To add a dataset, add a row to LAYOUTS, or use the `glob` of `config.folder`.
"""

import dataclasses
import pathlib


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where the scenes of a dataset are, and how samples are drawn from them.

    Attributes:
      title: name of the dataset in messages.
      scenes: glob pattern of scene folders, relative to the dataset's root.
      images: glob pattern of a scene's images, relative to its folder; "**" matches any depth. Frames
        are sorted by path, in natural order.
      window: number of consecutive frames that a sample is drawn from; None: the whole scene.
      masks: name of the folder of object masks, next to the images' folder. Each mask is a PNG file with
        the same stem as its image.
      zoom: fraction of samples that are cropped to the object's mask.
      groups: file that lists fixed groups of views, relative to the root; each group is a scene. If it is
        set, `scenes` and `images` only describe the paths in messages.
    """

    title: str
    scenes: str
    images: str
    window: int | None = None
    masks: str = ""
    zoom: float = 0.0
    groups: str = ""

    @property
    def image_pattern(self) -> str:
        """The glob pattern of all images, relative to the root."""
        return f"{self.scenes}/{self.images}"

    def mask_path(self, frame: str) -> str:
        """Returns the path of a frame's object mask; both paths are relative to the root."""
        path = pathlib.PurePosixPath(frame)
        return (path.parent.parent / self.masks / f"{path.stem}.png").as_posix()


LAYOUTS = {
    "arkitscenes": Layout("ARKitScenes", "Training/*", "vga_wide/*.jpg", window=32),
    "scannetpp": Layout("ScanNet++", "*", "images/*.jpg", window=32),
    "co3d": Layout("CO3Dv2", "*/[0-9]*_*_*", "images/*.jpg", window=32, masks="masks", zoom=0.5),
    "blendedmvg": Layout("BlendedMVG", "*", "*.png", window=32),
    "hypersim": Layout("HyperSim", "*", "images/scene_cam_*_final_preview/*.jpg", window=16),
    "waymo": Layout("Waymo", "*", "*.jpg"),
    "megadepth": Layout("MegaDepth", "*/*", "*.jpg", groups="all_metadata_8view.npz"),
    "dl3dv": Layout("DL3DV-10K", "*K/*", "images_8/*.png", window=64),
    "re10k": Layout("RealEstate10K", "*", "*.jpg", window=32),
    "wildrgbd": Layout("WildRGB-D", "*/scenes/scene_*", "rgb/*.png", window=32, masks="masks", zoom=0.5),
}
# The published code can read Waymo, but does not train on it.
PUBLISHED_DATASETS = (
    "arkitscenes", "scannetpp", "co3d", "blendedmvg", "hypersim", "megadepth", "dl3dv", "re10k", "wildrgbd",
)  # fmt: skip


PHOTOGRAPHS = "photographs"  # title of the layout of a user's own folder


def folder_layout(glob: str, window: int | None) -> Layout:
    """Returns the layout of a user's own folder.

    Args:
      glob: pattern of images below the root. Images of one folder form one scene: "*/*" means
        `<root>/<scene>/<image>`, "*/images/*" and "**/*" reach deeper folders, and "*" is a single scene.
      window: see `Layout`.
    """
    scenes, _, images = glob.rpartition("/")
    return Layout(PHOTOGRAPHS, scenes, images, window)
