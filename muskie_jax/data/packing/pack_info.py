"""The files of a pack, and `PackInfo`, the description of a pack in its metadata.json.

dataset_info.json, features.json, metadata.json       TFDS's files; `PackInfo` is part of metadata.json
muskie-train.array_record-00000-of-00042, ...          shards, one record per frame
index/                                                 the scenes, and the record numbers of their frames
"""

import dataclasses
import hashlib
import json
import pathlib
from typing import Any

from muskie_jax.errors import UserError

FORMAT = 1  # version of the pack format; this version of the code reads no other
KEY = "muskie_jax"  # the description's key in metadata.json
CHECKSUM = "checksum"  # key of the SHA-256 of the rest of the description
METADATA, INDEX, UNFINISHED = "metadata.json", "index", "packing"
TFDS_FILES = ("dataset_info.json", "features.json")
DATASET = "muskie"
SPLIT = "train"  # contains all records; held-out scenes are chosen when training starts
SHARDS = f"{DATASET}-{SPLIT}.array_record"  # prefix of the shards' names, as TFDS requires


@dataclasses.dataclass(frozen=True)
class PackInfo:
    """Description of a pack. The field names are keys of metadata.json and must not change.

    Attributes:
      settings: the packed source's settings: `source`, its kind; `window` and `zoom`, as in
        `PhotographSource`; `groups`, whether scenes are fixed groups of views.
      encoding: the values of `size`, `quality` and `format` (see `Encoding`).
      lossless: whether all files were copied unchanged.
      geometry: whether records have depth and cameras.
      upright: whether readers apply the images' EXIF orientation.
      shards, index: dictionaries that describe the files by `name`, `bytes` and `sha256`; shards also have
        `records`.
      skipped: messages about unreadable images, which are not in the pack.
      dropped: names of scenes without a readable image.
      plan: digest of the `PackPlan`.
      tfds: descriptions of TFDS_FILES, like `index`; empty in packs of version 0.1.0.
    """

    settings: dict[str, Any]
    encoding: dict[str, Any]
    lossless: bool
    geometry: bool
    upright: bool
    shards: list[dict[str, Any]]
    index: list[dict[str, Any]]
    skipped: list[str]
    dropped: list[str]
    plan: str
    tfds: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    @property
    def files(self) -> list[dict[str, Any]]:
        return self.shards + self.index + self.tfds

    @property
    def bytes(self) -> int:
        return sum(file["bytes"] for file in self.files)


def metadata_of(info: PackInfo, version: str) -> dict[str, Any]:
    """Returns the contents of a metadata.json; `parse_metadata` is the inverse.

    Args:
      info: the description of the pack.
      version: version of muskie_jax that wrote it.
    """
    values = {"format": FORMAT, "version": version} | dataclasses.asdict(info)
    return {KEY: values | {CHECKSUM: _checksum(values)}}


def _checksum(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def parse_metadata(text: str | bytes, root: str) -> PackInfo:
    """Returns the description in a metadata.json.

    Args:
      text: the file's contents.
      root: folder or URL of the pack, for messages.

    Raises:
      UserError: if it does not describe a pack, is damaged, or the pack's format version is not FORMAT.
    """
    try:
        values = json.loads(text)[KEY]
        checksum = values.pop(CHECKSUM, None)  # packs of version 0.1.0 have none
        found = _checksum(values)
        written, _ = values.pop("format"), values.pop("version")
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(
            f"{root!r} was not packed by `python -m muskie_jax.data pack`, or its {METADATA} is damaged: "
            "choose the folder of a pack, or copy the file there again"
        ) from None
    if written != FORMAT:
        raise UserError(
            f"{root!r} is a pack of format {written}, but this version reads {FORMAT}: pack it again, or "
            "use the version of muskie_jax that packed it"
        )
    try:
        info = PackInfo(**values)
        is_intact = checksum in (None, found) and all(map(_is_description, info.files))
        is_intact &= all("records" in shard for shard in info.shards)
    except TypeError:  # other names of fields, or fields of other types
        info, is_intact = None, False
    if info is None or not is_intact:
        raise UserError(f"{METADATA} of the pack {root!r} is damaged: copy it there again, or pack again")
    return info


def _is_description(file: Any) -> bool:
    """Returns whether a value describes a file of a pack."""
    return isinstance(file, dict) and file.keys() >= {"name", "bytes", "sha256"}


def load_pack_info(root: pathlib.Path) -> PackInfo:
    """Returns the description of the pack in a folder, after checking that its files are complete.

    Compares the contents of TFDS's small files, but only the sizes of others: see
    `RemotePack.damaged_files`.

    Raises:
      UserError: if there is no pack, packing did not finish, or a file is missing, damaged or of another
        size.
    """
    if (root / UNFINISHED).is_dir():
        raise UserError(f"the pack {str(root)!r} is not finished: run the same pack command again")
    try:
        info = parse_metadata((root / METADATA).read_bytes(), str(root))
    except OSError as error:
        raise UserError(
            f"{str(root)!r} contains no pack ({METADATA}: {error.strerror}): choose a folder that "
            "`python -m muskie_jax.data pack` wrote"
        ) from error
    for file in info.files:
        path = root / file["name"]
        # ArrayRecord reads a missing or truncated file as an empty one.
        if not path.is_file():
            raise UserError(f"{path} is missing: copy or pack it again")
        size = path.stat().st_size
        if size != file["bytes"]:
            raise UserError(f"{path} has {size} bytes, not {file['bytes']}: copy or pack it again")
    for file in info.tfds:
        if hashlib.sha256((root / file["name"]).read_bytes()).hexdigest() != file["sha256"]:
            raise UserError(f"{root / file['name']} is damaged: copy or pack it again")
    for name in TFDS_FILES:  # also in packs that do not describe them
        if not (root / name).is_file():
            raise UserError(f"{root / name} is missing: copy or pack it again")
    return info
