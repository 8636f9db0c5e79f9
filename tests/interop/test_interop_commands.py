"""`python -m muskie_jax.interop` as a user meets it."""

import json

import pytest

from muskie_jax.interop.load import open_weights
from muskie_jax.interop.names import Network
from muskie_jax.interop.weights import Weights, write_weights
from muskie_jax.models.muskie import build_model
from muskie_tests.commands import complaint_of, run_in_process, run_module
from muskie_tests.networks import made_network, named_network


def run(*arguments):
    return run_module("muskie_jax.interop", *arguments, XLA_FLAGS="")


def result(*arguments):
    done = run(*arguments)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def complaint(*arguments):
    return complaint_of(run(*arguments))


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file of nano weights."""
    path = tmp_path_factory.mktemp("weights") / "nano.safetensors"
    write_weights(path, Weights(Network.of(build_model("nano")), named_network("nano", 0)[1]))
    return path


def test_round_of_formats(weights, tmp_path):
    """File -> work directory -> folder -> backbone file -> program: each says what it is."""
    digest = open_weights(weights).described()["params_digest"]
    first = result("import", "--from", weights, "--out", tmp_path / "w")
    assert first == {"job": "import", "variant": "nano", "backbone_only": False, "params_digest": digest,
                     "out": str(tmp_path / "w")}  # fmt: skip
    export = ("export", "--checkpoint", tmp_path / "w")
    assert result(*export, "--out", tmp_path / "folder")["params_digest"] == digest
    assert (tmp_path / "folder" / "README.md").is_file()
    backbone = result(
        "export",
        "--checkpoint",
        tmp_path / "folder",
        "--out",
        tmp_path / "b.safetensors",
        "--backbone-only",
    )
    assert backbone["backbone_only"] is True and open_weights(tmp_path / "b.safetensors").backbone_only
    program = ("stablehlo", "--checkpoint", tmp_path / "b.safetensors", "--views", "2", "--size", "32x48")
    assert result(*program, "--out", tmp_path / "program")["out"] == str(tmp_path / "program")
    assert (tmp_path / "program" / "muskie.stablehlo").is_file()
    assert "no reconstruction head: write --output features" in complaint(
        *program, "--out", tmp_path / "other", "--output", "reconstruction"
    )


EXPORT = ["export", "--checkpoint", "{weights}", "--out"]
PROGRAM = ["stablehlo", "--checkpoint", "{weights}", "--out", "{tmp}/p"]


@pytest.mark.parametrize(
    "arguments, expected",
    [
        ([], "no command: write python -m muskie_jax.interop with one of export, import, push, stablehlo"),
        (["exprt"], "no command 'exprt': write python -m muskie_jax.interop with one of export"),
        (["export", "--out", "{tmp}/m.pth"], "--checkpoint is missing: write --checkpoint runs/quickst"),
        (["export", "--checkpoint", "{tmp}/no", "--out", "{tmp}/m.pth"], "there is no '{tmp}/no': write a"),
        ([*EXPORT, "{tmp}/m.npz"], "write a name that ends with .safetensors or .pth, or a folder's"),
        ([*EXPORT, "{weights}"], "exists already: write another"),
        (["export", "--checkpoint", "{weights}", "--out", "{tmp}", "--force"], "also holds 'thesis.tex'"),
        (["onnx", "--checkpoint", "{weights}", "--out", "{tmp}/p"], "ends with .onnx"),
        (
            [*EXPORT, "{tmp}/m.pth", "--views=3"],
            "--views is not for `python -m muskie_jax.interop export` (",
        ),
        ([*EXPORT, "{tmp}/m.pth", "--licence=x"], "is for the card of"),
        ([*EXPORT, "/proc/x/m.pth"], "/proc/x/m.pth cannot be written"),
        ([*PROGRAM, "--size=60x30"], "write 64x32"),
        ([*PROGRAM, "--size=big"], "--size=big: write pixels"),
        (["push", "--from", "{tmp}", "--repo", "user/name"], "has no model.safetensors: make it with exp"),
    ],
)
def test_mistakes_are_one_line(arguments, expected, weights, tmp_path):
    fill = lambda text: text.replace("{tmp}", str(tmp_path)).replace("{weights}", str(weights))
    (tmp_path / "thesis.tex").touch()
    done = run_in_process("muskie_jax.interop", *map(fill, arguments))
    assert fill(expected) in complaint_of(done)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_help_of_a_command():
    done = run_in_process("muskie_jax.interop", "export", "--help")
    assert done.returncode == 0
    assert done.stdout.startswith("python -m muskie_jax.interop export --checkpoint runs/quickstart --out ")
    assert "--licence " in done.stdout and "--views" not in done.stdout


def test_heads_of_unknown_sizes(tmp_path):
    model, params = made_network(0)
    tensors = Weights(Network.of(model), params)
    write_weights(tmp_path / "m.safetensors", tensors)
    done = run("import", "--from", tmp_path / "m.safetensors", "--out", tmp_path / "w")
    assert done.returncode == 2 and "no variant has width 24, 2 blocks and 2 heads" in done.stderr
    out = tmp_path / "n.safetensors"
    result("export", "--checkpoint", tmp_path / "m.safetensors", "--out", out, "--num_heads=3")
    assert open_weights(out).network.heads == 3
