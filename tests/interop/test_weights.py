"""Files of weights round-trip; anything else is refused, and nothing in a file is executed."""

import argparse
import json
import os
import pathlib
import pickle
import stat
import sys
import zipfile
from concurrent import futures

import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy

from muskie_jax.errors import UserError
from muskie_jax.interop import weights as weights_module
from muskie_jax.interop.names import Network, to_torch
from muskie_jax.interop.weights import Weights, read_weights, write_weights
from muskie_tests.networks import random_network, same

pytestmark = pytest.mark.extras  # PyTorch, for .pth files
PROVENANCE = {"step": 20, "training": {"duration": "20 steps"}, "metrics": {"mse": 0.5}}


@pytest.fixture(scope="module")
def weights():
    model, params = random_network(0)
    return Weights(Network.of(model), params, PROVENANCE)


@pytest.fixture(params=["m.safetensors", "m.pth"])
def path(request, tmp_path, weights):
    """A file of either format."""
    if request.param.endswith("pth"):
        pytest.importorskip("torch")
    write_weights(tmp_path / request.param, weights)
    return tmp_path / request.param


def refusal(path, num_heads=None):
    """Returns the message with which a file is refused; checks that nothing was written or executed."""
    before = sorted(path.parent.rglob("*"))
    with pytest.raises(UserError) as error:
        read_weights(path, num_heads)
    assert sorted(path.parent.rglob("*")) == before, "something was written"
    message = str(error.value)
    assert message.startswith(str(path)) and "\n" not in message
    return message


def test_round_trip(path, weights):
    back = read_weights(path)
    assert same(back.params, weights.params)
    assert back.network == weights.network and back.provenance == PROVENANCE
    assert back.metadata() == weights.metadata()


def test_files_have_default_permissions(path):
    (path.parent / "plain").touch()
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE((path.parent / "plain").stat().st_mode)


def test_an_existing_file_is_replaced_only_with_force(path, weights):
    before = path.read_bytes()
    with pytest.raises(UserError, match="exists: choose another path, or pass --force"):
        write_weights(path, weights.backbone())
    assert path.read_bytes() == before
    with path.open("rb") as old:
        write_weights(path, weights.backbone(), force=True)
        assert old.read() == before, "an open file keeps its old content"
    assert read_weights(path).backbone_only
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_failed_write_keeps_the_old_file(path, weights, monkeypatch):
    before = path.read_bytes()

    def full(part, *_):
        if isinstance(part, pathlib.Path):
            part.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    for writer in ("save_safetensors", "save_pth"):
        monkeypatch.setattr(weights_module, writer, full)
    with pytest.raises(UserError, match="cannot be written: No space left on device"):
        write_weights(path, weights, force=True)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_other_suffixes_are_refused(tmp_path, weights):
    with pytest.raises(UserError, match=r"m.npz: the name must end with .safetensors, .pth or .pt"):
        write_weights(tmp_path / "m.npz", weights)
    (tmp_path / "m.npz").touch()
    assert "is not a weights file: its name must end with one of .safetensors" in refusal(
        tmp_path / "m.npz"
    )


@pytest.mark.parametrize("fraction", [0.02, 0.3, 0.6, 0.9])
def test_a_flipped_bit_is_noticed(path, weights, fraction):
    data = bytearray(path.read_bytes())
    numbers = np.concatenate([x.ravel() for x in to_torch(weights.params, weights.network).values()])
    needle = numbers[int(fraction * len(numbers)) :][:4].tobytes()
    offset = data.find(needle)
    assert offset > 0 and data.count(needle) == 1
    data[offset + 2] ^= 16
    path.write_bytes(data)
    message = refusal(path)
    assert "contents do not match its digest" in message or "a checksum does not match" in message


@pytest.mark.parametrize("fraction", [0, 0.001, 0.1, 0.5, 0.99])
def test_a_truncated_file_is_refused(path, fraction):
    path.write_bytes(path.read_bytes()[: int(fraction * path.stat().st_size)])
    assert "it cannot be read: it is damaged, or not a weights file" in refusal(path)


@pytest.mark.parametrize(
    "content",
    [b"", b"PK\x03\x04", b"hello " * 100, b"\x80\x02.", np.random.default_rng(0).bytes(4096)],
    ids=["empty", "zip", "text", "pickle", "noise"],
)
def test_arbitrary_bytes_are_refused(path, content):
    path.write_bytes(content)
    assert refusal(path)


@pytest.mark.parametrize("content", [b"", b"hello"])
@pytest.mark.parametrize("name", ["m.pth", "m.pt"])
def test_a_file_that_is_no_pickle_is_refused_without_pytorch(tmp_path, monkeypatch, name, content):
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / name).write_bytes(content)
    assert "it cannot be read: it is damaged, or not a weights file" in refusal(tmp_path / name)
    (tmp_path / name).write_bytes(pickle.dumps({}))
    assert "this needs PyTorch" in refusal(tmp_path / name)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_web_page_is_named_without_pytorch(tmp_path, monkeypatch, suffix):
    monkeypatch.setitem(sys.modules, "torch", None)
    path = tmp_path / f"m{suffix}"
    path.write_bytes(b"\n<!DOCTYPE html><title>Virus scan warning</title>")
    expected = "it is a web page, not a weights file: download the file itself"
    assert refusal(path) == f"{path}: {expected}"
    with pytest.raises(UserError, match=expected):
        weights_module.read_provenance(path)


def test_a_safetensors_file_with_another_suffix_is_named_without_pytorch(tmp_path, weights, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    write_weights(tmp_path / "m.safetensors", weights)
    path = (tmp_path / "m.safetensors").rename(tmp_path / "m.pth")
    assert refusal(path) == f"{path}: it is a safetensors file: rename it to .safetensors"


class Command:
    """An object that runs a command when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("where", ["beside", "as a tensor", "bare", "bare, old protocol", "renamed"])
def test_a_malicious_pickle_is_refused(tmp_path, weights, where):
    torch = pytest.importorskip("torch")
    marker, path = tmp_path / "ran", tmp_path / ("m.safetensors" if where == "renamed" else "m.pth")
    evil, state = Command(marker), weights_module.state_dict(weights)
    if where in ("beside", "as a tensor"):
        content = {"model": state, "args": evil} if where == "beside" else {"model": state | {"x": evil}}
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(evil, protocol=2 if "old" in where else 4))
    message = refusal(path)
    assert not marker.exists()
    if where in ("beside", "as a tensor"):
        assert "none was run" in message and "system" in message
    pickle.loads(pickle.dumps(evil))  # proves that the command works
    assert marker.exists()


def test_names_are_never_used_as_paths(tmp_path, weights):
    tensors = to_torch(weights.params, weights.network)
    tensors["../../escaped"] = tensors["/tmp/escaped"] = np.zeros(1, np.float32)
    safetensors.numpy.save_file(tensors, tmp_path / "m.safetensors")
    assert "unknown: ../../escaped, /tmp/escaped" in refusal(tmp_path / "m.safetensors", 2).replace(
        "unknown: /tmp/escaped, ../../escaped", "unknown: ../../escaped, /tmp/escaped"
    )


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_16_bit_floats_become_float32(tmp_path, weights, dtype):
    tensors = {n: x.astype(dtype) for n, x in to_torch(weights.params, weights.network).items()}
    safetensors.numpy.save_file(tensors, tmp_path / "m.safetensors")
    back = to_torch(read_weights(tmp_path / "m.safetensors", 2).params, weights.network)
    assert all(np.array_equal(back[name], x.astype(np.float32)) for name, x in tensors.items())


def rewrite(path, weights, metadata=None, **tensors):
    tensors = to_torch(weights.params, weights.network) | tensors
    header = {"muskie": metadata if isinstance(metadata, str) else json.dumps(metadata or {})}
    safetensors.numpy.save_file(tensors, path, header)


@pytest.mark.parametrize(
    "metadata, expected",
    [
        ({"format": 99}, "has format 99; this code reads format 1"),
        ({"num_heads": "2; rm"}, "num_heads='2; rm', which is not an integer"),
        ({"format": True}, "has format True"),
        ({"format": "\x1b" * 3000}, "has format"),
        ({"num_heads": 2, "training": {"a": [[[[[[[[[[1]]]]]]]]]]}}, "nested too deeply"),
        ({"num_heads": 2, "training": {"a": "x" * 200_000}}, "has over 100,000 characters"),
        ({"params_digest": 3}, "params_digest that is not a string"),
        ({"num_heads": 2, "rope_base": -1}, "rope_base='-1', which is not a positive number"),
        ({"num_heads": 2, "rope_base": "100"}, "rope_base='100', which is not"),
        ({"num_heads": 5}, "num_heads=5 does not fit width 24"),
        ({}, "no variant has width 24 and 2 blocks"),
        ([1], "its metadata is a list, not a dictionary"),
        ("{", "it cannot be read"),
    ],
)
def test_invalid_metadata_is_refused(tmp_path, weights, metadata, expected):
    rewrite(tmp_path / "m.safetensors", weights, metadata)
    assert expected in refusal(tmp_path / "m.safetensors")


@pytest.mark.parametrize("step", [-1, "`\n## Licence", 1.5, None])
@pytest.mark.parametrize("metrics", [[1], {"mse": "x"}, {"mse": float("nan")}, "mse"])
def test_malformed_provenance_is_ignored(tmp_path, weights, step, metrics):
    metadata = {"num_heads": 2, "step": step, "metrics": metrics, "training": "3", "other": 1}
    rewrite(tmp_path / "m.safetensors", weights, metadata)
    assert read_weights(tmp_path / "m.safetensors").provenance == {}


@pytest.mark.parametrize(
    "name, shape",
    [("view_embedding", ()), ("view_embedding", (3,)), ("patch_embed.proj.weight", (24, 3, 0, 0)),
     ("register_tokens", (4, 24)), ("patch_embed.proj.weight", (0, 3, 16, 16))],
)  # fmt: skip
def test_odd_shapes_are_refused(tmp_path, weights, name, shape):
    rewrite(tmp_path / "m.safetensors", weights, {"num_heads": 2}, **{name: np.zeros(shape, np.float32)})
    assert "these are not Muskie weights" in refusal(tmp_path / "m.safetensors")


def test_hostile_names_are_escaped(tmp_path, weights):
    names = ["\x1b[2J\nerror: fine", "x" * 100_000]
    rewrite(tmp_path / "m.safetensors", weights, {"num_heads": 2}, **dict.fromkeys(names, np.zeros(1)))
    message = refusal(tmp_path / "m.safetensors")
    assert "\x1b" not in message and "\\x1b[2J" in message and len(message) < 1000


def test_non_finite_numbers_are_refused(tmp_path, weights):
    bias = np.full(24, np.nan, np.float32)
    rewrite(tmp_path / "m.safetensors", weights, {"num_heads": 2}, **{"decoder_norm.bias": bias})
    assert "infinite or undefined numbers" in refusal(tmp_path / "m.safetensors")
    broken = weights.params | {"norm": {"scale": weights.params["norm"]["scale"], "bias": bias}}
    with pytest.raises(UserError, match="infinite or undefined numbers"):
        write_weights(tmp_path / "n.safetensors", Weights(weights.network, broken))
    assert not (tmp_path / "n.safetensors").exists()


@pytest.mark.parametrize(
    "content, expected",
    [
        ({"model": {}}, "it contains no tensor"),
        ({"model": {"a": 1}}, "'a' is not a tensor"),
        ([1, 2], "it contains a list, not a dictionary"),
        ({"epoch": 3}, "'epoch' is not a tensor"),
    ],
)
def test_content_without_a_state_dict_is_refused(tmp_path, content, expected):
    torch = pytest.importorskip("torch")
    torch.save(content, tmp_path / "m.pth")
    assert expected in refusal(tmp_path / "m.pth")


def test_a_bare_state_dict_is_read(tmp_path, weights):
    torch = pytest.importorskip("torch")
    torch.save(weights_module.state_dict(weights), tmp_path / "m.pth")
    assert same(read_weights(tmp_path / "m.pth", 2).params, weights.params)


def odd_tensor(torch, kind):
    if kind == "expanded":  # 4 bytes that expand to 4 terabytes
        return torch.zeros(1).expand(10**12)
    if kind == "expanded, 16 bits":
        return torch.zeros(1, dtype=torch.bfloat16).expand(10**12)
    if kind == "sparse":
        return torch.eye(3).to_sparse()
    if kind == "meta":
        return torch.zeros(3, device="meta")
    return torch.zeros(3).to(torch.float8_e4m3fn)


@pytest.mark.parametrize("kind", ["expanded", "expanded, 16 bits", "sparse", "meta", "float8"])
def test_odd_tensors_are_refused(tmp_path, weights, kind):
    torch = pytest.importorskip("torch")
    tensors = weights_module.state_dict(weights) | {"junk": odd_tensor(torch, kind)}
    torch.save({"model": tensors}, tmp_path / "m.pth")
    message = refusal(tmp_path / "m.pth", 2)
    assert (
        "larger than the file" in message
        if "expanded" in kind
        else "junk is not" in message or "junk is of type" in message or "not a weights file" in message
    )


@pytest.mark.parametrize("kind", ["compressed", "large pickle", "several disks"])
def test_odd_archives_are_refused(tmp_path, weights, kind, monkeypatch):
    torch = pytest.importorskip("torch")
    torch.save({"model": weights_module.state_dict(weights)}, tmp_path / "m.pth")
    if kind == "several disks":
        data = bytearray((tmp_path / "m.pth").read_bytes())
        data[data.rindex(b"PK\x06\x07") + 16] ^= 2  # the number of disks; is_zipfile does not expect it
        (tmp_path / "m.pth").write_bytes(data)
        assert "it cannot be read: it is damaged" in refusal(tmp_path / "m.pth", 2)
        return
    if kind == "large pickle":
        monkeypatch.setattr(weights_module, "MAX_PICKLE", 100)
        assert "its pickled part is larger than 100 bytes" in refusal(tmp_path / "m.pth", 2)
        return
    with zipfile.ZipFile(tmp_path / "m.pth") as old, zipfile.ZipFile(tmp_path / "n.pth", "w") as new:
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry), compress_type=zipfile.ZIP_DEFLATED)
    assert "its archive is compressed" in refusal(tmp_path / "n.pth", 2)


def test_concurrent_reads(tmp_path, weights):
    """Safe globals apply to the whole process, so one read must not remove them during another."""
    torch = pytest.importorskip("torch")
    content = {"model": weights_module.state_dict(weights), "args": argparse.Namespace(lr=1)}
    torch.save(content, tmp_path / "m.pth")
    with futures.ThreadPoolExecutor(8) as pool:
        for read in pool.map(lambda _: read_weights(tmp_path / "m.pth", 2), range(24)):
            assert same(read.params, weights.params)


@pytest.mark.parametrize("wrapper", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_prefixes_of_wrapped_modules_are_removed(tmp_path, weights, wrapper):
    tensors = {wrapper + name: x for name, x in to_torch(weights.params, weights.network).items()}
    safetensors.numpy.save_file(tensors, tmp_path / "m.safetensors")
    assert same(read_weights(tmp_path / "m.safetensors", 2).params, weights.params)


def test_a_damaged_archive_without_metadata_is_noticed(tmp_path, weights):
    """Published files have no digest, so only the archive's checksums reveal damage."""
    torch = pytest.importorskip("torch")
    torch.save({"model": weights_module.state_dict(weights)}, tmp_path / "m.pth")
    data = bytearray((tmp_path / "m.pth").read_bytes())
    with zipfile.ZipFile(tmp_path / "m.pth") as archive:
        largest = max(archive.infolist(), key=lambda entry: entry.file_size)
    data[largest.header_offset + 2000] ^= 1
    (tmp_path / "m.pth").write_bytes(data)
    assert "a checksum does not match" in refusal(tmp_path / "m.pth", 2)
