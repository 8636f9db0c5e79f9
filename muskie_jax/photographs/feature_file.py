"""Writes the features of photographs to one `.npz` file, which documents itself, and draws them.

Photographs are processed in groups, one group in memory at a time, so that hundreds of them fit.

Letters in shapes: N photographs, rows x columns patches of a view, d channels.
"""

import dataclasses
import json
import os
import pathlib
import shutil
import tempfile
import zipfile
from collections.abc import Sequence
from typing import IO, Any

import numpy as np
from jaxtyping import Float64, Int

import muskie_jax
from muskie_jax.checks import require
from muskie_jax.data.load_images import FilePath, common_size, image_files, load_images, photograph_sizes
from muskie_jax.data.packing.remote import format_bytes
from muskie_jax.data.views import centre_box
from muskie_jax.errors import UserError
from muskie_jax.files import atomic_write, user_path
from muskie_jax.fingerprint import digest
from muskie_jax.interop.load import load_backbone
from muskie_jax.models.muskie import Muskie
from muskie_jax.photographs.features import (
    check_views,
    choose_blocks,
    crop_note,
    drawn_block,
    group_features,
    split_into_groups,
)
from muskie_jax.photographs.opening import check_view_size, short_names
from muskie_jax.photographs.output_files import check_output, existing_folder, write_picture
from muskie_jax.photographs.progress_bar import ProgressBar
from muskie_jax.viz.features import feature_sheet, pca_colours
from muskie_jax.writers import log

FORMAT = "muskie_jax features 1"
DRAWN = 24  # photographs in the picture; of more, evenly spaced ones are drawn
RESERVE = 50_000_000  # bytes of disk that stay free

ABOUT = """\
Patch features of {count} photographs, computed by Muskie (arXiv 2511.18115) with muskie_jax {version}.
Network: --model {model}, parameters {digest}.

Arrays, by name, with shape and type:
{arrays}

Views. From each photograph, turned upright, the largest centred crop of a common aspect ratio is taken and
resized to {view_height} x {view_width} pixels (height x width). This view has {rows} rows and {columns}
columns of patches, {patch} x {patch} pixels each, and one token per patch. Tokens have no final norm.

Positions are x and y in pixels of the upright photograph, whose EXIF orientation is applied. (0, 0) is the
top left corner of the image, so the centre of its first pixel is (0.5, 0.5). With
left, top, right, bottom = crops[n], patch (row, column) of photograph n spans
  x from left + column * (right - left) / {columns} to left + (column + 1) * (right - left) / {columns},
  y from top + row * (bottom - top) / {rows} to top + (row + 1) * (bottom - top) / {rows}.

Groups. The views of a group attend to each other, so a token depends on all views of its group.
{grouping}
"""


@dataclasses.dataclass(frozen=True)
class FeatureOptions:
    """Settings of a file of features.

    Attributes:
      size: the views' shorter side in pixels, see `load_images`.
      blocks: blocks whose tokens are written, from 1 to the network's depth; None: all.
      views: most views in a group; the views of a group attend to each other.
      float16: whether tokens are stored in 16 bits. They are computed in 32.
    """

    size: int = 224
    blocks: tuple[int, ...] | None = None
    views: int = 8
    float16: bool = False


def write_features(
    paths: FilePath | Sequence[FilePath],
    out: FilePath,
    source: FilePath,
    options: FeatureOptions = FeatureOptions(),
    force: bool = False,
) -> dict[str, Any]:
    """Writes the features of photographs to a `.npz` file, and a picture of them beside it.

        write_features("kitchen/", "kitchen.npz", "runs/rooms", FeatureOptions(blocks=(4,)))
        file = numpy.load("kitchen.npz")
        print(file["about"])  # describes the arrays
        tokens = file["block_4"]  # (photographs, rows, columns, channels)

    Args:
      paths: files and folders of photographs of one scene, ordered such that neighbours overlap.
      out: the file. The picture has the same name with the suffix `.png`.
      source: the weights, see `load_pretrained`.
      options: what is computed.
      force: whether earlier output is replaced.

    Returns:
      What was written, as JSON values; "shape" is the shape of each block's array.

    Raises:
      UserError: before computing, if a photograph, the weights or an option is wrong, or the disk has too
        little space; later, if the pixels of a photograph are damaged.
    """
    out = user_path(out)
    require(out.suffix == ".npz", f"--out={out} must end with .npz")
    require(options.views >= 1, f"--views={options.views} must be at least 1")
    picture = out.with_suffix(".png")
    files = image_files(paths)
    for path in (out, picture):
        check_output(path, files, force)
    sizes = photograph_sizes(files)
    model, params = load_backbone(source)
    plan = _plan(files, sizes, model, options)
    _check_space(out, plan)
    _log_plan(out, plan)
    metadata = plan.metadata() | {"model": os.fspath(source), "params_digest": digest(params)}
    # Blocks are written beside the result. While the last one is copied, it takes space twice.
    with atomic_write(out, force) as part, tempfile.TemporaryDirectory(dir=part.parent) as folder:
        blocks = {f"block_{block}": pathlib.Path(folder) / f"{block}.npy" for block in plan.blocks}
        drawn = _write_blocks(list(blocks.values()), plan, model, params)
        _write_archive(part, plan, metadata, blocks)
    write_picture(picture, _draw(plan, *drawn), force)
    return {
        "job": "features",
        "out": str(out),
        "picture": str(picture),
        "photographs": len(files),
        "groups": len(plan.groups),
        "shape": list(plan.shape),
        "bytes": out.stat().st_size,
    } | {name: metadata[name] for name in ("blocks", "dtype", "model", "params_digest")}


@dataclasses.dataclass(frozen=True)
class _Plan:
    """What a file will contain.

    Attributes:
      files: the photographs.
      sizes: height and width of each upright photograph, pixels.
      crops: left, top, right and bottom of each view in its photograph, pixels.
      size: height and width of all views, pixels.
      groups: the photographs of each group.
      blocks: blocks whose tokens are written, from 1.
      depth, patch, channels: number of blocks, patch size and width of the network.
      dtype: type of stored tokens.
    """

    files: list[pathlib.Path]
    sizes: Int[np.ndarray, "N 2"]
    crops: Float64[np.ndarray, "N 4"]
    size: tuple[int, int]
    groups: list[range]
    blocks: tuple[int, ...]
    depth: int
    patch: int
    channels: int
    dtype: np.dtype

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Returns the shape of a block's array: photographs, rows, columns, channels."""
        height, width = self.size
        return len(self.files), height // self.patch, width // self.patch, self.channels

    @property
    def block_bytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize

    @property
    def picture_block(self) -> int:
        """Returns the index, in `blocks`, of the block that is drawn, see `drawn_block`."""
        return self.blocks.index(drawn_block(self.blocks, self.depth))

    def arrays(self) -> dict[str, np.ndarray]:
        """Returns all arrays but tokens and texts."""
        count, rows, columns, _ = self.shape
        left, top, right, bottom = self.crops.T[:, :, None]
        x = left + (np.arange(columns) + 0.5) * (right - left) / columns
        y = top + (np.arange(rows) + 0.5) * (bottom - top) / rows
        grid = (count, rows, columns)
        centres = [np.broadcast_to(x[:, None], grid), np.broadcast_to(y[:, :, None], grid)]
        return {
            "photographs": np.array([str(path) for path in self.files]),
            "sizes": self.sizes.astype(np.int32),
            "crops": self.crops,
            "centres": np.stack(centres, -1).astype(np.float32),
            "groups": np.repeat(np.arange(len(self.groups)), list(map(len, self.groups))).astype(np.int32),
        }

    def metadata(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "patch": self.patch,
            "channels": self.channels,
            "view_size": list(self.size),
            "blocks": list(self.blocks),
            "dtype": self.dtype.name,
            "group_sizes": list(map(len, self.groups)),
        }


def _plan(
    files: list[pathlib.Path], sizes: Int[np.ndarray, "N 2"], model: Muskie, options: FeatureOptions
) -> _Plan:
    """Decides the size of the views, their groups and the blocks; raises UserError for a wrong option."""
    check_view_size(options.size, model.patch)
    size = common_size(sizes, options.size, model.patch)
    groups = split_into_groups(len(files), options.views)
    check_views(model, max(map(len, groups)), f"--views={options.views}")
    dtype = np.dtype(np.float16 if options.float16 else np.float32)
    crops = np.array([centre_box((height, width), size[1] / size[0]) for height, width in sizes.tolist()])
    blocks = choose_blocks(options.blocks, model)
    return _Plan(files, sizes, crops, size, groups, blocks, model.depth, model.patch, model.width, dtype)


def _check_space(out: pathlib.Path, plan: _Plan) -> None:
    folder = existing_folder(out)
    free = shutil.disk_usage(folder).free
    needed = plan.block_bytes * (len(plan.blocks) + 1) + RESERVE
    if needed > free:
        raise UserError(
            f"{out} needs {format_bytes(needed)} while it is written, but {folder} has "
            f"{format_bytes(free)} free: pass fewer --blocks, --float16, a smaller --size, or an --out on "
            "another disk"
        )


def _log_plan(out: pathlib.Path, plan: _Plan) -> None:
    """Logs what will be computed, its size on disk, and what may surprise."""
    count, (height, width) = len(plan.files), plan.size
    total = format_bytes(plan.block_bytes * len(plan.blocks))
    if count == 1:
        log("One photograph: its features come from this view alone; Muskie is made for several views")
    noun = "photograph" if count == 1 else "photographs"
    log(f"{count} {noun} at {height}x{width} pixels, in {_grouping(plan)}; {out} will have {total}")
    if note := crop_note(plan.crops, plan.sizes, list(map(str, plan.files))):
        log(note)


def _grouping(plan: _Plan) -> str:
    """Returns the number and sizes of groups as a phrase, such as "9 groups of 7 to 8"."""
    sizes = sorted(set(map(len, plan.groups)))
    if len(plan.groups) == 1:
        return "one group"
    return f"{len(plan.groups)} groups of {' to '.join(map(str, sizes))}"


def _write_blocks(
    files: list[pathlib.Path], plan: _Plan, model: Muskie, params: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Computes group by group, and appends each block's tokens to its `.npy` file.

    Returns:
      Pixels and tokens, of one block, of the photographs that are drawn.
    """
    count, drawn = len(plan.files), set(_drawn(len(plan.files)))
    pixels, tokens, bar = [], [], ProgressBar(count, "photographs")
    streams = [path.open("wb") for path in files]
    try:
        header = {"descr": plan.dtype.str, "fortran_order": False, "shape": plan.shape}
        for stream in streams:
            np.lib.format.write_array_header_1_0(stream, header)
        for group in plan.groups:
            loaded = load_images(plan.files[group.start : group.stop], plan.size, plan.patch)
            outputs = group_features(params, loaded.images, model=model, blocks=plan.blocks)
            blocks = [np.asarray(tokens) for tokens in outputs]
            for block, stream, values in zip(plan.blocks, streams, blocks):
                stream.write(_stored(values, block, plan.dtype).tobytes())
            chosen = [view for view, photograph in enumerate(group) if photograph in drawn]
            pixels.append(loaded.pixels()[chosen])
            tokens.append(blocks[plan.picture_block][chosen])
            bar.advance(len(group))
    finally:
        for stream in streams:
            stream.close()
    return np.concatenate(pixels), np.concatenate(tokens)


def _drawn(count: int) -> list[int]:
    """Returns the indices of the photographs in the picture."""
    return np.unique(np.linspace(0, count - 1, min(count, DRAWN)).round().astype(int)).tolist()


def _stored(values: np.ndarray, block: int, dtype: np.dtype) -> np.ndarray:
    largest = np.abs(values).max()
    if dtype == np.float16 and not largest <= np.finfo(np.float16).max:
        raise UserError(
            f"block {block} has values up to {largest:.3g}, too large for 16 bits: leave out --float16"
        )
    return values.astype(dtype)


def _write_archive(
    path: pathlib.Path, plan: _Plan, metadata: dict[str, Any], blocks: dict[str, pathlib.Path]
) -> None:
    """Writes the `.npz` file, and deletes each block's own file once it is copied."""
    arrays = plan.arrays()
    about = np.array(_about(plan, metadata, arrays))
    texts = {"about": about, "metadata": np.array(json.dumps(metadata))}
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in (texts | arrays).items():
            with _entry(archive, name) as entry:
                np.lib.format.write_array(entry, array, allow_pickle=False)
        for name, block in blocks.items():
            with _entry(archive, name) as entry, block.open("rb") as source:
                shutil.copyfileobj(source, entry, 2**20)
            block.unlink()


def _entry(archive: zipfile.ZipFile, name: str) -> IO[bytes]:
    return archive.open(f"{name}.npy", "w", force_zip64=True)


def _about(plan: _Plan, metadata: dict[str, Any], arrays: dict[str, np.ndarray]) -> str:
    """Returns the description of the file that it contains."""
    _, rows, columns, _ = plan.shape
    meanings = {
        "photographs": "files, as they were given",
        "sizes": "height and width of each upright photograph, pixels",
        "crops": "left, top, right and bottom of its view, pixels of the photograph",
        "centres": "x and y of each patch's centre, pixels of the photograph",
        "groups": "group of each photograph, from 0",
    }
    described = [(name, array.shape, str(array.dtype), meanings[name]) for name, array in arrays.items()]
    for block in plan.blocks:
        meaning = f"tokens after block {block}: photograph, row, column, channel"
        described.append((f"block_{block}", plan.shape, plan.dtype.name, meaning))
    described.append(("metadata", (), "text", "the settings of this file, as JSON"))
    lines = [
        f"  {name:<12} {shape!s:<20} {'text' if 'U' in kind else kind:<8} {meaning}"
        for name, shape, kind, meaning in described
    ]
    grouping = (
        f"The photographs were split, in their order, into {_grouping(plan)}."
        if len(plan.groups) > 1
        else "All photographs are in one group."
    )
    return ABOUT.format(
        count=len(plan.files), version=muskie_jax.__version__, model=metadata["model"],
        digest=metadata["params_digest"], arrays="\n".join(lines), view_height=plan.size[0],
        view_width=plan.size[1], rows=rows, columns=columns, patch=plan.patch, grouping=grouping,
    )  # fmt: skip


def _draw(plan: _Plan, pixels: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    _, rows, columns, channels = plan.shape
    flat = tokens.reshape(len(tokens), rows * columns, channels)
    colours = pca_colours(flat, (rows, columns), plan.patch)
    drawn = _drawn(len(plan.files))
    names = short_names([plan.files[index] for index in drawn])
    groups = plan.arrays()["groups"][drawn]
    return feature_sheet(pixels, colours, names, groups, f"block {plan.blocks[plan.picture_block]}")
