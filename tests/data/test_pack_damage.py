"""`muskie data verify` finds any flipped bit in any file of a pack, and reports it in one line."""

import json

import numpy as np
import pytest

from muskie_jax.config import folder
from muskie_jax.data.packing.pack_info import load_pack_info
from muskie_jax.data.packing.remote import RemotePack
from muskie_jax.errors import UserError
from muskie_tests.packs import pack_of

SMALL_FILES = ("dataset_info.json", "features.json", "metadata.json")
FLIPS = 150  # per file


@pytest.fixture(scope="module")
def pack(photo_folder, tmp_path_factory):
    """The folder of a pack. Tests restore what they change."""
    out = tmp_path_factory.mktemp("packs") / "pack"
    pack_of(folder(root=str(photo_folder)), out)
    return out


def flipped(path, rng):
    """Flips random bits of a file, one at a time; yields a description of each, and restores the file."""
    data = path.read_bytes()
    for bit in rng.choice(8 * len(data), min(FLIPS, 8 * len(data)), replace=False).tolist():
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        yield f"bit {bit} of {path.name}: {bytes(damaged[max(0, bit // 8 - 9) : bit // 8 + 9])!r}"
    path.write_bytes(data)


@pytest.mark.parametrize("name", SMALL_FILES)
def test_a_flipped_bit_in_a_small_file_is_found_by_verify_and_before_training(pack, name):
    for what in flipped(pack / name, np.random.default_rng(0)):
        for check in (lambda: RemotePack(str(pack)).verify(), lambda: load_pack_info(pack)):
            try:
                check()
            except UserError as error:
                is_named = name in str(error) or "is a pack of format" in str(error)
                assert is_named and "\n" not in str(error), what
            else:
                pytest.fail(f"not found: {what}")
    RemotePack(str(pack)).verify()


def test_a_flipped_bit_in_any_other_file_is_found_by_verify(pack):
    files = [path for path in pack.rglob("*") if path.is_file() and path.name not in SMALL_FILES]
    assert len(files) == 2 + 7  # shards and index
    for path in files:
        name = path.relative_to(pack).as_posix()
        data = bytearray(path.read_bytes())
        for bit in np.random.default_rng(1).choice(8 * len(data), 8).tolist():
            data[bit // 8] ^= 1 << bit % 8
            path.write_bytes(data)
            assert RemotePack(str(pack)).damaged_files() == [name]
            data[bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
    assert RemotePack(str(pack)).damaged_files() == []


def without_checksums(pack):
    """Makes metadata.json what version 0.1.0 wrote; returns what it was."""
    before = (pack / "metadata.json").read_text()
    values = json.loads(before)
    del values["muskie_jax"]["checksum"], values["muskie_jax"]["tfds"]
    (pack / "metadata.json").write_text(json.dumps(values))
    return before


def test_packs_without_checksums_of_their_metadata_still_load_and_damage_is_one_line(pack):
    before = without_checksums(pack)
    try:
        RemotePack(str(pack)).verify()
        assert len(load_pack_info(pack).files) == 2 + 7
        for what in flipped(pack / "metadata.json", np.random.default_rng(2)):
            try:
                RemotePack(str(pack)).verify()
            except UserError:
                continue
            except Exception as error:
                pytest.fail(f"{type(error).__name__} {error}: {what}")
    finally:
        (pack / "metadata.json").write_text(before)
