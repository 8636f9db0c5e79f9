"""Packs in cloud storage are copied once per machine, verified, and read like any other."""

import fcntl
import uuid
from concurrent.futures import ThreadPoolExecutor, wait

import fsspec
import numpy as np
import pytest

from muskie_jax.config import folder, packed
from muskie_jax.data.mixture import build_mixture
from muskie_jax.data.packing.packed_source import PackedSource
from muskie_jax.data.packing.remote import RemotePack
from muskie_jax.errors import UserError
from muskie_tests.packs import batches, config_of, flip_bit, pack_of, sampler_of


@pytest.fixture(scope="module")
def local(photo_folder, tmp_path_factory):
    """A pack in a folder."""
    out = tmp_path_factory.mktemp("pack") / "pack"
    pack_of(folder(root=str(photo_folder)), out)
    return out


@pytest.fixture
def bucket(local):
    """The address of a copy of it in a bucket, which is in this process's memory."""
    address = f"memory://{uuid.uuid4().hex}/pack"
    files, base = fsspec.url_to_fs(address)
    files.put(str(local), base, recursive=True)
    return address


def remove_shards(address):
    files, base = fsspec.url_to_fs(address)
    for path in files.glob(f"{base}/*array_record*"):
        files.rm(path)


def test_a_pack_in_a_bucket_yields_the_same_batches(local, bucket, tmp_path, capsys):
    expected = batches(sampler_of(packed(root=str(local))))
    sampler = sampler_of(packed(root=bucket), cache=str(tmp_path / "cache"))
    assert f"Copying {bucket}, 0.3 MB, to {tmp_path / 'cache'}/pack-" in capsys.readouterr().err
    remove_shards(bucket)
    again = sampler_of(packed(root=bucket), cache=str(tmp_path / "cache"))
    assert "Copying" not in capsys.readouterr().err
    for found in (batches(sampler), batches(again)):
        for (*_, a), (*_, b) in zip(expected, found, strict=True):
            np.testing.assert_array_equal(a, b)


def test_the_data_root_may_be_an_address(bucket, tmp_path):
    base, _, name = bucket.rpartition("/")
    mixture = build_mixture(config_of(packed(root=name), root=base, cache=str(tmp_path)))
    (source,) = mixture.training
    assert isinstance(source, PackedSource) and len(source.scenes) == 4 - 1  # one is held out


def test_an_interrupted_copy_is_completed_and_another_pack_is_another_copy(
    photo_folder, bucket, tmp_path, capsys
):
    source = packed(root=bucket)
    build_mixture(config_of(source, cache=str(tmp_path / "cache")))
    (copy,) = (tmp_path / "cache").iterdir()
    shards = sorted(copy.glob("*array_record*"))
    before = shards[1].stat().st_mtime_ns
    shards[0].unlink()
    capsys.readouterr()
    build_mixture(config_of(source, cache=str(tmp_path / "cache")))
    assert "0.1 MB" in capsys.readouterr().err and shards[0].exists()
    assert shards[1].stat().st_mtime_ns == before
    pack_of(folder(root=str(photo_folder), window=3), tmp_path / "other")
    files, base = fsspec.url_to_fs(bucket)
    files.rm(base, recursive=True)
    files.put(str(tmp_path / "other"), base, recursive=True)
    mixture = build_mixture(config_of(source, cache=str(tmp_path / "cache")))
    (other,) = mixture.training
    assert isinstance(other, PackedSource) and other.window == 3
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_damage_in_transit_is_detected(local, bucket, tmp_path):
    files, base = fsspec.url_to_fs(bucket)
    (path,) = files.glob(f"{base}/*00001-of-00002")
    damaged = tmp_path / "damaged"
    damaged.write_bytes((local / path.rpartition("/")[2]).read_bytes())
    flip_bit(damaged)
    files.put(str(damaged), path)
    with pytest.raises(UserError, match=r"00001-of-00002 is damaged: copy it there again"):
        build_mixture(config_of(packed(root=bucket), cache=str(tmp_path / "cache")))
    assert [name[-14:] for name in RemotePack(bucket).damaged_files()] == ["00001-of-00002"]
    remove_shards(bucket)
    assert len(RemotePack(bucket).damaged_files()) == 2


def test_an_unreadable_address_is_reported_in_one_line(tmp_path):
    fsspec.register_implementation(
        "cloud", "no_such_package.Files", clobber=True, errtxt="Please install no-such-package"
    )
    for address, expected in (
        ("cloud://bucket/pack", "ImportError: Please install no-such-package"),
        ("memory://nothing/here", "memory://nothing/here/metadata.json does not exist"),
    ):
        with pytest.raises(UserError, match=expected):
            build_mixture(config_of(packed(root=address), cache=str(tmp_path)))


def test_a_cache_that_is_too_small_or_unwritable_is_reported_in_one_line(bucket, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot be copied to .*--config.data.cache="):
        build_mixture(config_of(packed(root=bucket), cache=str(tmp_path / "file")))
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with pytest.raises(UserError, match=r"needs 0.3 MB in .*, which has 0.0 MB free: .*data.cache="):
        build_mixture(config_of(packed(root=bucket), cache=str(tmp_path / "cache")))


def test_processes_of_a_host_share_one_copy(local, tmp_path, capsys):
    remote = RemotePack(f"file://{local}")
    folder = remote.local_copy(tmp_path)
    (shard, *_) = folder.glob("*array_record*")
    shard.unlink()
    capsys.readouterr()
    with (folder / "lock").open() as lock, ThreadPoolExecutor(2) as threads:
        fcntl.flock(lock, fcntl.LOCK_EX)
        both = [threads.submit(remote.local_copy, tmp_path) for _ in range(2)]
        assert not wait(both, timeout=0.5).done and not shard.exists()
        fcntl.flock(lock, fcntl.LOCK_UN)
        assert {future.result(timeout=60) for future in both} == {folder}
    assert shard.exists() and capsys.readouterr().err.count("Copying") == 1
