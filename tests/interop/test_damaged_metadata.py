"""Flipped bits in the metadata of exported `.safetensors` files are noticed."""

import contextlib
import dataclasses
import json

import pytest

from muskie_jax.errors import UserError
from muskie_jax.interop.names import Network
from muskie_jax.interop.weights import Weights, read_provenance, read_weights, write_weights
from muskie_jax.models.muskie import build_model
from muskie_tests.networks import random_variant


@pytest.fixture
def weights():
    """A variant, so that a file without metadata has a number of heads, and with another rope_base."""
    network = dataclasses.replace(Network.of(build_model("nano")), rope_base=50.0)
    return Weights(network, random_variant("nano", 0)[1], {"step": 20, "metrics": {"mse": 0.5}})


@pytest.fixture
def path(tmp_path, weights):
    write_weights(tmp_path / "m.safetensors", weights)
    return tmp_path / "m.safetensors"


def flips(path):
    """Yields the content of the file with one flipped bit of each byte of its metadata."""
    data = path.read_bytes()
    start, key = data.index(b'"__metadata__"'), len(b'"__metadata__":')
    rest = data[start + key : 8 + int.from_bytes(data[:8], "little")].decode()
    _, length = json.JSONDecoder().raw_decode(rest)
    for offset in range(start, start + key + length):
        yield data[:offset] + bytes([data[offset] ^ 1 << offset % 8]) + data[offset + 1 :]


def test_with_a_flipped_bit_a_file_is_refused_or_read_as_it_was(path, weights):
    accepted = 0
    for content in flips(path):
        path.write_bytes(content)
        with contextlib.suppress(UserError):
            assert read_weights(path).metadata() == weights.metadata(), content[:1000]
            accepted += 1
    assert accepted <= len("muskie_digest"), "the name of the digest itself changes nothing"


@pytest.mark.parametrize(
    "old, new",
    [
        (b'num_heads\\": 4', b'num_heads\\": 6'),
        (b'rope_base\\": 50.0', b'rope_base\\": 70.0'),
        (b"params_digest", b"params_digesu"),
        (b'"muskie"', b'"muskhe"'),
    ],
)
def test_damaged_metadata_is_one_line(path, old, new):
    content = path.read_bytes()
    assert content.count(old) == 1
    path.write_bytes(content.replace(old, new))
    expected = "it is damaged: its metadata does not match its digest; download it again"
    with pytest.raises(UserError) as refused:
        read_weights(path)
    assert str(refused.value) == f"{path}: {expected}"
    with pytest.raises(UserError, match=expected):
        read_provenance(path)


def test_files_without_a_digest_of_their_metadata_are_read(path, weights):
    """Earlier versions wrote none."""
    path.write_bytes(path.read_bytes().replace(b'"muskie_digest"', b'"another_entry"'))
    assert read_weights(path).metadata() == weights.metadata()
