"""`python -m muskie_jax.interop` as a user runs it."""

import json

import pytest

from conftest import xla_flags
from muskie_jax.interop.load import open_weights
from muskie_jax.interop.names import Network
from muskie_jax.interop.weights import Weights, write_weights
from muskie_jax.models.muskie import build_model
from muskie_tests.commands import complaint_of, run_in_process, run_module
from muskie_tests.networks import random_network, random_variant

MODULE = "muskie_jax.interop"


def result(run, *arguments):
    done = run(MODULE, *arguments)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def run_alone(module, *arguments):
    """In a process of its own, on one device."""
    return run_module(module, *arguments, XLA_FLAGS=xla_flags(devices=1))


def complaint(*arguments):
    return complaint_of(run_in_process(MODULE, *arguments))


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file of nano weights."""
    path = tmp_path_factory.mktemp("weights") / "nano.safetensors"
    write_weights(path, Weights(Network.of(build_model("nano")), random_variant("nano", 0)[1]))
    return path


def test_round_trip_of_formats(weights, tmp_path):
    """File, work directory, folder, backbone file and program report the same weights."""
    digest = open_weights(weights).params_digest
    imported = result(run_alone, "import", "--from", weights, "--out", tmp_path / "w")
    assert imported == {"job": "import", "variant": "nano", "backbone_only": False, "params_digest": digest,
                        "out": str(tmp_path / "w")}  # fmt: skip
    exported = result(
        run_in_process, "export", "--checkpoint", tmp_path / "w", "--out", tmp_path / "folder"
    )
    assert exported["params_digest"] == digest
    assert (tmp_path / "folder" / "README.md").is_file()
    export = ("export", "--checkpoint", tmp_path / "folder", "--backbone-only")
    backbone = result(run_in_process, *export, "--out", tmp_path / "b.safetensors")
    assert backbone["backbone_only"] is True and open_weights(tmp_path / "b.safetensors").backbone_only
    program = ("stablehlo", "--checkpoint", tmp_path / "b.safetensors", "--views", "2", "--size", "32x48")
    folder = tmp_path / "program"
    assert result(run_in_process, *program, "--out", folder)["out"] == str(folder)
    assert (folder / "muskie.stablehlo").is_file()
    assert "no reconstruction head: pass --output features" in complaint(
        *program, "--out", tmp_path / "other", "--output", "reconstruction"
    )


EXPORT = ["export", "--checkpoint", "{weights}", "--out"]
PROGRAM = ["stablehlo", "--checkpoint", "{weights}", "--out", "{tmp}/p"]


@pytest.mark.parametrize(
    "arguments, expected",
    [
        ([], "python -m muskie_jax.interop needs a command: use one of export, import, push, stablehlo"),
        (["exprt"], "muskie_jax.interop has no command 'exprt': use one of export"),
        (["export", "--out", "{tmp}/m.pth"], "--checkpoint is missing: pass --checkpoint runs/quickst"),
        (
            ["export", "--checkpoint", "{tmp}/no", "--out", "{tmp}/m.pth"],
            "'{tmp}/no' does not exist: choose",
        ),
        ([*EXPORT, "{tmp}/m.npz"], "choose a folder, or a name that ends with .safetensors or .pth"),
        ([*EXPORT, "{weights}"], "exists: choose another path, or pass --force"),
        (
            ["export", "--checkpoint", "{weights}", "--out", "{tmp}", "--force"],
            "contains 'thesis.tex', which this",
        ),
        (["onnx", "--checkpoint", "{weights}", "--out", "{tmp}/p"], "must end with .onnx"),
        (
            [*EXPORT, "{tmp}/m.pth", "--views=3"],
            "`python -m muskie_jax.interop export` has no flag --views: leave it out (",
        ),
        ([*EXPORT, "{tmp}/m.pth", "--licence=x"], "--licence is for the model card of"),
        ([*EXPORT, "/proc/x/m.pth"], "/proc/x/m.pth cannot be written"),
        ([*PROGRAM, "--size=60x30"], "not divisible by the patch size 16: use 48x16 or 64x32"),
        ([*PROGRAM, "--size=big"], "--size=big must be pixels"),
        (["push", "--from", "{tmp}", "--repo", "user/name"], "has no model.safetensors: make the folder"),
    ],
)
def test_mistakes_are_one_line(arguments, expected, weights, tmp_path):
    fill = lambda text: text.replace("{tmp}", str(tmp_path)).replace("{weights}", str(weights))
    (tmp_path / "thesis.tex").touch()
    done = run_in_process("muskie_jax.interop", *map(fill, arguments))
    assert fill(expected) in complaint_of(done)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_mistake_ends_the_process_with_one_line():
    assert "no command 'exprt'" in complaint_of(run_alone(MODULE, "exprt"))


def test_help_of_a_command():
    done = run_in_process(MODULE, "export", "--help")
    assert done.returncode == 0
    assert done.stdout.startswith("python -m muskie_jax.interop export --checkpoint runs/quickstart --out ")
    assert "--licence " in done.stdout and "--views" not in done.stdout


def test_sizes_of_no_variant_need_num_heads(tmp_path):
    model, params = random_network(0)
    path, out = tmp_path / "m.safetensors", tmp_path / "n.safetensors"
    write_weights(path, Weights(Network.of(model), params))
    assert "no variant has width 24, 2 blocks and 2 heads" in complaint(
        "import", "--from", path, "--out", tmp_path / "w"
    )
    result(run_in_process, "export", "--checkpoint", path, "--out", out, "--num_heads=3")
    assert open_weights(out).network.heads == 3
