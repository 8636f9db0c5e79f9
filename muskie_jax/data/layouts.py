"""How the datasets of the paper lie in their folders, one row each.

A dataset that is not here needs no more than a row, or the `glob` of `config.folder`.
"""

import dataclasses
import pathlib


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where the scenes of a dataset are, and how samples are drawn from them.

    Attributes:
      title: what the dataset is called.
      scenes: pattern of scene folders, below the dataset's root.
      images: pattern of a scene's images, below its folder; "**" means any depth. Frames are in natural
        order of their paths.
      window: consecutive frames a sample is drawn from; None means the whole scene.
      masks: the folder of object masks, beside that of the images: a PNG of the same stem each.
      zoom: the share of samples cropped to the object's mask.
      groups: a file below the root that lists scenes as fixed groups of views; with it, `scenes` and
        `images` say only what its paths look like.
    """

    title: str
    scenes: str
    images: str
    window: int | None = None
    masks: str = ""
    zoom: float = 0.0
    groups: str = ""

    @property
    def tree(self) -> str:
        """What the paths of images look like, for messages."""
        return f"{self.scenes}/{self.images}"

    def mask_of(self, frame: str) -> str:
        """The path of a frame's mask."""
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


def photographs(glob: str, window: int | None) -> Layout:
    """The layout of a user's own folder, from a pattern of images below its root.

    Images of one folder are one scene: "*/*" means `<root>/<scene>/<image>`, "*/images/*" and "**/*"
    are deeper, "*" is a single scene.
    """
    scenes, _, images = glob.rpartition("/")
    return Layout("photographs", scenes, images, window)
