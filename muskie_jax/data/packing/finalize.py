"""Turns finished shards into a pack: writes the index of scenes and TFDS's metadata."""

import dataclasses
import pathlib
import shutil
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from muskie_jax import __version__
from muskie_jax.data.packing.encoding import Encoding
from muskie_jax.data.packing.frames import Frames
from muskie_jax.data.packing.pack_info import (
    DATASET,
    INDEX,
    SPLIT,
    TFDS_FILES,
    UNFINISHED,
    PackInfo,
    metadata_of,
)
from muskie_jax.data.packing.pack_plan import PackPlan
from muskie_jax.data.packing.records import features
from muskie_jax.data.packing.shards import ShardResult, sha256_of
from muskie_jax.data.scenes import Scene, SceneTable


def finalize(
    plan: PackPlan, shards: list[ShardResult], frames: Frames, encoding: Encoding, out: pathlib.Path
) -> None:
    """Writes the index and the metadata of a pack after its shards are complete.

    Args:
      plan: the plan by which the shards were written.
      shards: the result of each shard, in order.
      frames: the packed frames.
      encoding: how images are stored.
      out: the pack's folder.
    """
    dropped = _write_index(plan, shards, frames, out)
    info = PackInfo(
        settings=plan.description["settings"],
        encoding=dataclasses.asdict(encoding),
        lossless=encoding.lossless and frames.parallel,
        geometry=frames.geometry,
        upright=frames.upright,
        shards=[
            {
                "name": plan.shard_name(number),
                "bytes": shard.bytes,
                "sha256": shard.sha256,
                "records": shard.records,
            }
            for number, shard in enumerate(shards)
        ],
        index=[_description(path, out) for path in sorted((out / INDEX).iterdir())],
        skipped=[message for shard in shards for message in shard.skipped],
        dropped=dropped,
        plan=plan.digest,
    )
    _write_tfds_metadata(info, out)


def _description(path: pathlib.Path, out: pathlib.Path) -> dict[str, Any]:
    """Returns the entry of a finished file in `PackInfo`."""
    name = path.relative_to(out).as_posix()
    return {"name": name, "bytes": path.stat().st_size, "sha256": sha256_of(path)}


def _write_index(plan: PackPlan, shards: list[ShardResult], frames: Frames, out: pathlib.Path) -> list[str]:
    """Writes the scenes and the record numbers of their frames.

    Returns:
      Names of the scenes without a readable frame, which are not in the index.
    """
    kept = np.array([kept for shard in shards for kept in shard.kept], bool)
    sizes = np.array([size for shard in shards for size in shard.sizes], np.int32).reshape(-1, 2)
    boxes = [box or (np.nan,) * 4 for shard in shards for box in shard.boxes]
    # Records are numbered without the skipped images, which get -1.
    numbers_of_frames = np.where(kept, np.cumsum(kept) - 1, -1)[plan.numbers]
    scenes, first_sizes, dropped, start = [], [], [], 0
    for name, paths in frames.scenes:
        numbers = numbers_of_frames[start : start + len(paths)]
        start += len(paths)
        readable = np.flatnonzero(numbers >= 0)
        if len(readable):
            scenes.append(Scene(name, tuple(paths[i] for i in readable)))
            first_sizes.append(sizes[numbers[readable[0]]])
        else:
            dropped.append(name)
    # Renamed when it is complete, so that a killed run leaves no partial index.
    part = out / UNFINISHED / INDEX
    shutil.rmtree(part, ignore_errors=True)
    shutil.rmtree(out / INDEX, ignore_errors=True)
    part.mkdir()
    SceneTable.of(scenes, first_sizes).save(part)
    np.save(part / "records.npy", numbers_of_frames[numbers_of_frames >= 0])
    if np.isfinite(boxes).any():
        np.save(part / "boxes.npy", np.array(boxes, np.float64))
    part.rename(out / INDEX)
    return dropped


def _write_tfds_metadata(info: PackInfo, out: pathlib.Path) -> None:
    template = tfds.core.ShardedFileTemplate(
        data_dir=epath.Path(out), dataset_name=DATASET, split=SPLIT, filetype_suffix="array_record"
    )
    split = tfds.core.SplitInfo(
        name=SPLIT,
        shard_lengths=[shard["records"] for shard in info.shards],
        num_bytes=sum(shard["bytes"] for shard in info.shards),
        filename_template=template,
    )
    tfds.folder_dataset.write_metadata(
        data_dir=out,
        features=features(info.geometry),
        split_infos=[split],
        filename_template=template,
        check_data=False,  # the check needs TensorFlow, and `write_shard` has read every record back
        description=f"Views of scenes ({info.settings['source']}), packed by muskie_jax {__version__}.",
    )
    info = dataclasses.replace(info, tfds=[_description(out / name, out) for name in TFDS_FILES])
    tfds.core.MetadataDict(metadata_of(info, __version__)).save_metadata(out)  # the pack is complete
