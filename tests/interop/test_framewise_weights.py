"""Published files of MAE, DINOv2, DINOv3 and CroCo v2: all tensors are used, wrong files are refused."""

import re

import huggingface_hub
import numpy as np
import pytest
import safetensors.numpy
from flax.traverse_util import flatten_dict
from huggingface_hub.errors import EntryNotFoundError

from conftest import GOLDEN
from muskie_jax.errors import UserError
from muskie_jax.interop.framewise import HEAD_COUNTS, load_framewise, read_framewise
from muskie_jax.models.framewise import Framewise
from muskie_tests.framewise_networks import (
    CASES,
    HEADS,
    kind_of,
    repository_tensors,
    timm_tensors,
    transformers_classifier,
    transformers_tensors,
)

pytestmark = pytest.mark.extras  # PyTorch and transformers


@pytest.fixture
def read(tmp_path):
    """Writes tensors to a file and reads settings and parameters back."""

    def read(kind, tensors, num_heads=HEADS):
        safetensors.numpy.save_file(tensors, tmp_path / "m.safetensors")
        return read_framewise(kind, tmp_path / "m.safetensors", num_heads)

    return read


@pytest.fixture
def refusal(read, tmp_path):
    """Returns the message, without the path, with which a file of tensors is refused."""

    def refusal(kind, tensors, num_heads=HEADS):
        with pytest.raises(UserError) as error:
            read(kind, tensors, num_heads)
        start = f"{tmp_path / 'm.safetensors'}: "
        assert str(error.value).startswith(start)
        return str(error.value).removeprefix(start)

    return refusal


@pytest.fixture(scope="module")
def croco():
    golden = np.load(GOLDEN / "crocov2_tiny.npz")
    return {name.removeprefix("param/"): golden[name] for name in golden if name.startswith("param/")}


def same(one, other):
    one, other = flatten_dict(one), flatten_dict(other)
    return one.keys() == other.keys() and all(np.array_equal(one[path], other[path]) for path in one)


@pytest.mark.parametrize("case", CASES)
def test_both_names_give_the_same_parameters(case, read):
    settings, params = read(kind_of(case), transformers_tensors(case))
    tensors = repository_tensors(case)
    assert not tensors.keys() & transformers_tensors(case).keys() - {"norm.weight", "norm.bias"}
    other_settings, other = read(kind_of(case), tensors)
    assert same(params, other)
    if "dinov3" in case:
        np.testing.assert_allclose(other_settings.frequencies, [1, 100**-0.25, 0.1, 100**-0.75], rtol=1e-6)
        tensors.pop("rope_embed.periods")
        other_settings, _ = read(kind_of(case), tensors)
    assert settings == other_settings
    assert settings.gated == ("gated" in case)
    assert settings.registers == (3 if "registers" in case else 4 if "dinov3" in case else 0)


@pytest.mark.parametrize("case", CASES)
def test_names_of_timm_give_the_same_features(case, read):
    """Parameters differ: with registers, timm adds the class token's position to the class token."""
    images = np.random.default_rng(0).uniform(-1, 1, (1, 56, 56, 3)).astype(np.float32)
    tensors = repository_tensors(case)
    tensors.pop("rope_embed.periods", None)  # rounded; timm computes them

    def features(tensors):
        settings, params = read(kind_of(case), tensors)
        return settings, Framewise(settings).apply({"params": params}, images, method="features")

    (settings, ours), (other_settings, others) = features(tensors), features(timm_tensors(case))
    assert settings == other_settings
    for tokens, other in zip(ours, others, strict=True):
        np.testing.assert_allclose(tokens, other, atol=1e-5)


@pytest.mark.parametrize("case", ["mae", "dinov2", "dinov2, registers, gated"])
def test_classifiers_of_transformers(case, read, capsys):
    tensors = transformers_classifier(case)
    _, params = read(kind_of(case), tensors)
    prefix = next(name for name in tensors if "embeddings" in name).partition("embeddings")[0]
    bare = {n.removeprefix(prefix): x for n, x in tensors.items() if n.startswith(prefix)}
    assert same(params, read(kind_of(case), bare)[1])
    expected = f"read the tensors under '{prefix}'; left out 2 more (classifier."
    assert expected in capsys.readouterr().err


@pytest.mark.parametrize("case", CASES)
def test_every_number_of_a_file_is_in_the_tree(case, read):
    tensors = transformers_tensors(case)
    used = {n: x for n, x in tensors.items() if not re.match(r"decoder|embeddings\.mask_token", n)}
    assert len(used) < len(tensors)
    numbers = np.concatenate([x.ravel() for x in used.values()])
    found = np.concatenate([x.ravel() for x in flatten_dict(read(kind_of(case), tensors)[1]).values()])
    if "dinov3" in case:  # whose keys have no bias
        numbers = np.concatenate([numbers, np.zeros(2 * 32, np.float32)])
    np.testing.assert_array_equal(np.sort(found), np.sort(numbers))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("names", [transformers_tensors, repository_tensors])
def test_missing_and_unknown_tensors_are_named(case, names, refusal):
    kind, tensors = kind_of(case), names(case)
    wanted = [
        n for n in tensors if not re.search(r"decoder|mask_token|register|storage|bias_mask|rope|local", n)
    ]
    for name in wanted[:: max(1, len(wanted) // 6)]:
        assert f"missing: {name.removeprefix('vit.')}" in refusal(
            kind, {n: tensors[n] for n in tensors if n != name}
        )
    prefix = "vit." if "vit.layernorm.weight" in tensors else ""
    assert "unknown: blocks.0.x" in refusal(kind, tensors | {f"{prefix}blocks.0.x": np.ones(3, np.float32)})


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("names", [transformers_tensors, repository_tensors])
def test_a_wrong_shape_is_named(case, names, refusal):
    kind, tensors = kind_of(case), names(case)
    for name, array in tensors.items():
        if re.search(r"decoder|mask_token|local_cls|bias_mask", name):
            continue
        message = refusal(
            kind, tensors | {name: np.ones((*array.shape[:-1], array.shape[-1] + 1), np.float32)}
        )
        # A tensor that the width or a count is read from makes the others' shapes wrong instead.
        assert name.removeprefix("vit.") in message or "wrong shape" in message, message


@pytest.mark.parametrize("case", [*CASES, "crocov2"])
@pytest.mark.parametrize("kind", ["mae", "dinov2", "dinov3", "crocov2"])
def test_weights_of_another_kind_are_named(case, kind, refusal, croco):
    titles = {"mae": "MAE", "dinov2": "DINOv2", "dinov3": "DINOv3", "crocov2": "CroCo v2"}
    if kind == kind_of(case):
        return
    for names in (transformers_tensors, repository_tensors):
        message = refusal(kind, croco if case == "crocov2" else names(case))
        theirs = kind_of(case)
        expected = f"these are {titles[theirs]} weights, not {titles[kind]} weights: use {theirs!r} as kind"
        assert message == expected


def test_weights_of_muskie_are_named(refusal, golden):
    muskie = {name.removeprefix("param/"): x for name, x in golden.items() if name.startswith("param/")}
    assert refusal("dinov2", muskie) == "these are Muskie weights, not DINOv2 weights"


def test_version_1_of_croco_is_refused(refusal, croco):
    message = refusal("crocov2", croco | {"enc_pos_embed": np.ones((15, 32), np.float32)})
    assert "unknown: enc_pos_embed" in message


def test_a_bias_may_be_absent_from_all_layers_but_not_from_one(read, refusal):
    tensors = transformers_tensors("dinov3")
    one = "layer.1.attention.q_proj.bias"
    assert f"missing: {one}" in refusal("dinov3", {n: x for n, x in tensors.items() if n != one})
    # The largest DINOv3 has none at all.
    none = {n: x for n, x in tensors.items() if not re.search(r"[qkv]_proj\.bias", n)}
    assert not read("dinov3", none)[1]["block_1"]["attention"]["qkv"]["bias"].any()


@pytest.mark.parametrize(
    "heads, expected",
    [
        (None, "no published DINOv2 has width 32: set num_heads="),
        (3, "num_heads=3 does not fit width 32"),
        (16, "num_heads=16 does not fit width 32"),
    ],
)
def test_unknown_numbers_of_heads_are_refused(heads, expected, refusal):
    assert expected in refusal("dinov2", transformers_tensors("dinov2"), heads)


def test_exceptions_to_64_channels_per_head():
    assert HEAD_COUNTS == {("mae", 1280): 16, ("dinov3", 4096): 32}


def test_heads_have_64_channels_by_default(read):
    wide = {}
    for name, array in transformers_tensors("dinov2").items():  # width and hidden width times 4
        wide[name] = np.tile(array, [4 if n in (32, 128) else 1 for n in array.shape])
    settings, _ = read("dinov2", wide, None)
    assert (settings.width, settings.hidden, settings.heads) == (128, 512, 2)


@pytest.mark.parametrize(
    "changed, expected",
    [
        ({"rope_embed.periods": np.ones(5, np.float32)}, "rope_embed.periods (5, not 4)"),
        ({"rope_embed.periods": np.zeros(4, np.float32)}, "rope_embed.periods must be positive"),
        ({"norm.bias": np.full(32, np.nan, np.float32)}, "norm.bias contains infinite or undefined"),
        ({"norm.bias": np.zeros(32, np.int32)}, "not float32: norm.bias (int32)"),
        ({"norm.bias": np.full(32, 1e300)}, "norm.bias contains infinite or undefined"),
        ({"blocks.0.attn.qkv.bias_mask": np.ones(5, np.float32)}, "unknown: blocks.0.attn.qkv.bias_mask"),
    ],
)
def test_invalid_numbers_are_named(changed, expected, refusal):
    assert expected in refusal("dinov3", repository_tensors("dinov3") | changed)


def test_16_bit_floats_become_float32(read):
    tensors = {name: x.astype(np.float16) for name, x in repository_tensors("dinov3").items()}
    params = flatten_dict(read("dinov3", tensors)[1])
    assert {x.dtype.name for x in params.values()} == {"float32"}
    assert np.array_equal(
        params["patch_embed", "bias"], tensors["patch_embed.proj.bias"].astype(np.float32)
    )


@pytest.mark.parametrize("name", ["m.pth", "pytorch_model.bin"])
def test_pytorch_files(name, tmp_path, read):
    torch = pytest.importorskip("torch")
    state = {n: torch.from_numpy(x.copy()) for n, x in repository_tensors("mae").items()}
    torch.save({"model": state, "croco_kwargs": {"enc_depth": 2, "pos_embed": "RoPE100"}}, tmp_path / name)
    model, params = load_framewise("mae", tmp_path / name, num_heads=HEADS)
    settings, expected = read("mae", repository_tensors("mae"))
    assert model.settings == settings and same(params, expected)


def test_hub_repository(tmp_path, monkeypatch):
    """Like MAE's: an old PyTorch file beside a TensorFlow file."""
    torch = pytest.importorskip("torch")
    path = tmp_path / "pytorch_model.bin"
    torch.save({n: torch.from_numpy(x.copy()) for n, x in transformers_tensors("mae").items()}, path)

    def get(repo, name, revision):
        assert repo == "facebook/vit-mae-base"
        if name != path.name:
            raise EntryNotFoundError("404")
        return str(path)

    files = ["config.json", "pytorch_model.bin", "tf_model.h5"]
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", get)
    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", lambda *_, **__: files)
    monkeypatch.chdir(tmp_path)
    assert load_framewise("mae", "facebook/vit-mae-base", num_heads=HEADS)[0].settings.table == 4


@pytest.mark.parametrize(
    "kind, source, options, expected",
    [
        ("dino", "m.safetensors", {}, "kind: 'dino' is not a valid value; did you mean"),
        (
            "mae",
            "m.safetensors",
            {},
            "'m.safetensors' does not exist: choose a weights file, or user/name",
        ),
        (
            "mae",
            "here.npz",
            {},
            "here.npz is not a weights file: its name must end with one of .safeten",
        ),
        ("mae", "folder", {}, "folder is not a weights file"),
        ("mae", "here.pth", {"revision": "x"}, "revision= and filename= are for hub repositories only"),
        ("mae", "here.pth", {}, "here.pth: it cannot be read"),
        ("mae", "here.pth", {"dtype": "float16"}, "dtype: 'float16' is not a valid value"),
        ("mae", "here.pth", {"attention": "flex"}, "attention='flex' is not a valid value"),
    ],
)
def test_invalid_sources_are_refused(kind, source, options, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    for name in ("here.npz", "here.pth"):
        (tmp_path / name).touch()
    with pytest.raises(UserError, match=re.escape(expected)):
        load_framewise(kind, source, **options)


def test_a_folder_with_model_safetensors(tmp_path):
    safetensors.numpy.save_file(transformers_tensors("dinov2"), tmp_path / "model.safetensors")
    assert load_framewise("dinov2", tmp_path, num_heads=HEADS)[0].settings.kind == "dinov2"
