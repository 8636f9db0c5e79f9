"""Which files are read as images, and what to do with images and videos that are not."""

import collections
import pathlib
import shlex
from collections.abc import Sequence

try:
    import pillow_heif  # pyright: ignore[reportMissingImports]  # an optional extra
except ImportError:
    HAS_HEIF = False
else:
    HAS_HEIF = True
    pillow_heif.register_heif_opener(thumbnails=False)

HEIF = (".heic", ".heif", ".hif")
EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", *(HEIF if HAS_HEIF else ()))
VIDEOS = (
    ".3gp", ".avi", ".insv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".webm",
    ".wmv",
)  # fmt: skip
# Images that are not read. OpenEXR is not among them: next to photographs, such files contain depth.
OTHER_IMAGES = (
    *HEIF, ".arw", ".avif", ".cr2", ".cr3", ".dng", ".gif", ".jfif", ".jp2", ".jxl", ".nef", ".orf", ".ppm",
    ".psd", ".raf", ".rw2", ".tga",
)  # fmt: skip
INSTALL_HEIF = 'install pillow-heif with python -m pip install -e ".[heic]" -c constraints.txt'
FRAMES_PER_SECOND = 2  # enough overlap for a video that was filmed while walking


def is_image(path: str) -> bool:
    """Returns whether a path has the name of an image that can be read; hidden files are not images."""
    return _has_suffix(path, EXTENSIONS)


def is_video(path: str) -> bool:
    """Returns whether a path has the name of a video; hidden files are not videos."""
    return _has_suffix(path, VIDEOS)


def is_unread(path: str) -> bool:
    """Returns whether a path has the name of a video, or of an image in a format that is not read."""
    return is_video(path) or (_has_suffix(path, OTHER_IMAGES) and not is_image(path))


def _has_suffix(path: str, suffixes: tuple[str, ...]) -> bool:
    name = path.rpartition("/")[2]  # hidden files, such as ._IMG.jpg, are not images
    return name.lower().endswith(suffixes) and not name.startswith(".")


def unread_lines(paths: Sequence[str], root: pathlib.Path, pattern: str = "*") -> list[str]:
    """Describes files that are not read: one line per remedy, with counts, an example and what to do.

    Args:
      paths: the files, relative to `root`: unread images and videos, and images outside all scene folders.
      root: the root of their source.
      pattern: glob pattern of the source's images below the root.
    """
    videos = [path for path in paths if is_video(path)]
    outside = [path for path in paths if is_image(path)]
    heif = [path for path in paths if is_unread(path) and _has_suffix(path, HEIF)]
    known = {*videos, *outside, *heif}
    others = [path for path in paths if path not in known]
    lines = []
    if heif:
        lines.append(f"{_count(heif)}: {INSTALL_HEIF}")
    if others:
        lines.append(f"{_count(others)}: convert to JPEG or PNG")
    if videos:
        video = root / videos[0]
        # A video next to the scene folders gets a folder of its own.
        folder = video.with_suffix("") if "/" in pattern and "/" not in videos[0] else video.parent
        lines.append(f"{_count(videos)}: extract frames with {ffmpeg_command(video, folder)}")
    if outside:
        lines.append(
            f"{_count(outside)}, outside all scene folders: move to a folder per scene, or use glob='*' "
            "if they are one scene"
        )
    return lines


def _count(paths: Sequence[str]) -> str:
    """Returns text such as "3 .heic and 1 .hif files, such as kitchen/IMG_1.heic"."""
    suffixes = collections.Counter(pathlib.PurePath(path).suffix.lower() for path in paths)
    counts = " and ".join(f"{count} {suffix}" for suffix, count in suffixes.most_common())
    return f"{counts} file, {paths[0]}" if len(paths) == 1 else f"{counts} files, such as {paths[0]}"


def ffmpeg_command(video: pathlib.Path, folder: pathlib.Path) -> str:
    """Returns the shell command that writes frames of a video to a folder, as JPEG files."""
    frames = f"{folder}/{video.stem}_%05d.jpg"
    command = (
        f"ffmpeg -i {shlex.quote(str(video))} -vf fps={FRAMES_PER_SECOND} -q:v 2 {shlex.quote(frames)}"
    )
    return command if folder == video.parent else f"mkdir -p {shlex.quote(str(folder))} && {command}"
