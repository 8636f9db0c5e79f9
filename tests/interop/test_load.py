"""`load_pretrained` from every source, `save_pretrained`, and imported work directories."""

import json
import pathlib
import re
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import yaml

import muskie_jax
from conftest import ROOT
from muskie_jax import load_pretrained, push_to_hub, save_pretrained
from muskie_jax.checkpoint import Checkpointer
from muskie_jax.config import default_config
from muskie_jax.errors import UserError
from muskie_jax.fingerprint import digest
from muskie_jax.interop import load
from muskie_jax.interop.load import network_from_config, open_weights
from muskie_jax.interop.names import Network
from muskie_jax.interop.save import write_folder
from muskie_jax.interop.weights import Weights, write_weights
from muskie_jax.interop.workdir import make_workdir
from muskie_jax.optim import make_optimizer
from muskie_jax.train import train
from muskie_jax.train_step import TrainState
from muskie_tests.networks import random_inputs, random_network, random_variant, same
from muskie_tests.runs import forbid_reading, nano_config

STEPS = (20, 100)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A work directory with checkpoints of two steps, and the parameters of each."""
    workdir = tmp_path_factory.mktemp("runs") / "nano"
    config = nano_config("/secret/folder/photos")
    checkpoints, params = Checkpointer(workdir, keep=3), {}
    for step in STEPS:
        params[step] = random_variant("nano", step)[1]
        on_device = jax.tree.map(jnp.asarray, params[step])
        state = TrainState(jnp.int32(step), on_device, make_optimizer(config).init(on_device))
        checkpoints.save(state, config)
    checkpoints.close()
    lines = [{"step": s, "evaluation/mse": 1 / s, "evaluation/baseline_mse": 0.5} for s in (10, 20, 100)]
    lines.insert(1, {"step": 25, "train/loss": 1.0})
    text = "\n".join(json.dumps(line) for line in lines) + '\n{"step": 100, "evalu'
    (workdir / "metrics.jsonl").write_text(text)
    return workdir, params


@pytest.mark.parametrize(
    "where, step",
    [
        ("", 100),
        ("checkpoints", 100),
        ("20", 20),
        ("checkpoints/20", 20),
        ("checkpoints/100", 100),
        ("best", 100),
    ],
)
def test_loads_from_a_work_directory(trained, where, step):
    workdir, params = trained
    before = {path: path.stat().st_mtime_ns for path in workdir.rglob("*")}
    model, loaded = load_pretrained(workdir / where)
    assert {path: path.stat().st_mtime_ns for path in workdir.rglob("*")} == before, "nothing was written"
    assert same(loaded, params[step])
    assert (model.width, model.depth, model.heads) == (48, 2, 4)


@pytest.mark.parametrize(
    "name", ["m.safetensors", pytest.param("m.pth", marks=pytest.mark.extras), "folder"]
)
@pytest.mark.parametrize("views, size", [(1, (16, 80)), (5, (48, 32))])
def test_reconstructs_and_gives_features_at_any_size(trained, tmp_path, name, views, size):
    workdir, params = trained
    weights = open_weights(workdir / "20")
    if name == "folder":
        save_pretrained(tmp_path / name, *load_pretrained(workdir / "20"))
    else:
        if name.endswith("pth"):
            pytest.importorskip("torch")
        write_weights(tmp_path / name, weights)
    model, loaded = load_pretrained(str(tmp_path / name))
    assert same(loaded, params[20])
    images, mask = random_inputs(0, views, size)
    output = model.apply({"params": loaded}, images, mask)
    patches = size[0] // 16 * (size[1] // 16)
    assert output.pred.shape == output.conf.shape == (2, views, patches, 768)
    tokens = model.apply({"params": loaded}, images, method="features")
    assert [x.shape for x in tokens] == [(2, views, patches, 48)] * 2
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((output, tokens)))


def test_provenance_of_a_checkpoint(trained, tmp_path):
    copied = shutil.copytree(trained[0] / "checkpoints" / "20", tmp_path / "best")
    assert open_weights(copied).provenance["step"] == 20, "the step does not come from the folder's name"
    provenance = open_weights(trained[0] / "20").provenance
    assert provenance["step"] == 20
    assert provenance["metrics"] == {"step": 20, "mse": 1 / 20, "baseline_mse": 0.5}
    assert provenance["training"]["optim"]["learning_rate"] == 3e-3
    assert provenance["training"]["sources"]["photos"]["root"] == "photos"
    assert "secret" not in json.dumps(provenance), "paths of the training machine are private"


@pytest.fixture
def damaged(trained, tmp_path):
    """A copy of the work directory whose newest checkpoint is damaged."""
    workdir = shutil.copytree(trained[0], tmp_path / "damaged")
    largest = max((workdir / "checkpoints" / "100").rglob("*"), key=lambda path: path.stat().st_size)
    data = bytearray(largest.read_bytes())
    data[len(data) // 2] ^= 1
    largest.write_bytes(data)
    return workdir


def test_falls_back_from_a_damaged_checkpoint_to_the_previous_one(trained, damaged, capfd):
    files = sorted(damaged.rglob("*"))
    assert same(load_pretrained(damaged)[1], trained[1][20])
    assert "checkpoints/100 is damaged (" in capfd.readouterr().err
    assert sorted(damaged.rglob("*")) == files, "only the trainer moves it aside"
    with pytest.raises(UserError, match="checkpoints/100 is damaged .*use another one"):
        load_pretrained(damaged / "100")
    shutil.rmtree(damaged / "checkpoints" / "20" / "meta")
    with pytest.raises(UserError, match="has no intact checkpoint: the checkpoint"):
        load_pretrained(damaged)


def test_sources_without_weights_are_refused(trained, tmp_path, monkeypatch):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    for source, expected in [
        (tmp_path, "has no checkpoint yet"),
        ("empty", "is neither a work directory nor a checkpoint, and has no model.safetensors"),
        (
            "empty/nothing",
            "'empty/nothing' does not exist: choose small or tiny, a work directory, a checkpoint",
        ),
        ("user/model.safetensors", "'user/model.safetensors' does not exist: choose"),
        ("~nobody-of-this-name/x", "cannot expand '~' in '~nobody-of-this-name/x': unknown user"),
        ("a" * 5000, "is not a valid path: File name too long"),
    ]:
        with pytest.raises(UserError, match=expected):
            load_pretrained(source)
    with pytest.raises(
        UserError, match="is a local path: revision= and filename= are for hub repositories"
    ):
        load_pretrained(trained[0], filename="model.safetensors")


def test_rope_base_is_part_of_weights_and_checkpoints(tmp_path):
    config = default_config()
    config.model.update(variant="nano", rope_base=10.0)
    model = network_from_config(config.model.to_dict())
    assert model.rope_base == 10.0
    before = {name: value for name, value in config.model.to_dict().items() if name != "rope_base"}
    assert network_from_config(before).rope_base == 100.0, "of a checkpoint of an earlier version"
    network, params = random_network(0, rope_base=10.0)
    save_pretrained(tmp_path / "exported", network, params)
    assert load_pretrained(tmp_path / "exported")[0].rope_base == 10.0
    assert "| base of the rotary embedding | 10.0 |" in (tmp_path / "exported/README.md").read_text()


def test_options_of_the_model(trained):
    model, params = load_pretrained(trained[0], dtype="bfloat16", scan_blocks=True, num_heads=3)
    assert model.dtype == jnp.bfloat16 and model.scan_blocks and model.heads == 3
    assert {x.dtype for x in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    assert load_pretrained(trained[0], dtype=jnp.bfloat16)[0].dtype == jnp.bfloat16
    assert model.residual_dtype == jnp.float32
    assert load_pretrained(trained[0], residual_dtype="bfloat16")[0].residual_dtype == jnp.bfloat16
    for options, expected in [
        ({"dtype": "float16"}, "dtype: 'float16' is not a valid value"),
        ({"dtype": "single-ish"}, "dtype: 'single-ish' is not a valid value"),
        ({"residual_dtype": "half"}, "residual_dtype: 'float16' is not a valid value"),
        ({"num_heads": 5}, "num_heads=5 does not fit width 48"),
        ({"num_heads": "3"}, "num_heads=3 does not fit width 48"),
        ({"attention": "flex"}, r"attention='flex' is not a valid value \(choices: auto"),
        ({"patch": 8}, "load_pretrained: 'patch' is not a valid value"),
        ({"remat": "some"}, "remat: 'some' is not a valid value"),
    ]:
        with pytest.raises(UserError, match=expected):
            load_pretrained(trained[0] / "20", **options)


def test_unusable_inputs_are_refused(trained):
    model, params = load_pretrained(trained[0])
    backbone = {name: value for name, value in params.items() if name not in ("norm", "head")}
    images, mask = random_inputs(0, 2, (32, 32))
    with pytest.raises(ValueError, match="no reconstruction head: use method='features'"):
        model.apply({"params": backbone}, images, mask)
    with pytest.raises(ValueError, match=r"images must be float, in \[-1, 1\], got uint8"):
        model.apply({"params": params}, np.zeros(images.shape, np.uint8), method="features")


def test_a_checkpoint_deleted_while_it_is_read(trained, tmp_path, monkeypatch):
    """A running training deletes it and has written a newer one, which is loaded instead."""
    workdir = shutil.copytree(trained[0], tmp_path / "w")
    shutil.move(workdir / "checkpoints" / "100", tmp_path / "newer")
    read = load.read_params

    def read_while_training(folder):
        if folder.name == "20":
            shutil.rmtree(folder)
            shutil.move(tmp_path / "newer", workdir / "checkpoints" / "100")
        return read(folder)

    monkeypatch.setattr(load, "read_params", read_while_training)
    assert same(load_pretrained(workdir)[1], trained[1][100])


def test_arrays_deleted_while_they_are_read_print_no_tracebacks(trained, tmp_path):
    """Orbax's reader of each array complains, some of them when the program ends."""
    workdir = shutil.copytree(trained[0], tmp_path / "w")
    for path in (workdir / "checkpoints/100/state").rglob("d/*"):
        path.unlink()
    program = "import sys; from muskie_jax import load_pretrained; load_pretrained(sys.argv[1])"
    command = [sys.executable, "-c", program, str(workdir)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "checkpoints/100 is damaged (a file is missing)" in done.stderr
    assert len(done.stderr.splitlines()) == 1 and not done.stdout, done.stderr


@pytest.mark.parametrize("where", ["", "20", "best"])
def test_metrics_that_may_not_be_read_are_one_line_and_no_damage(trained, monkeypatch, capfd, where):
    forbid_reading(monkeypatch, "metrics.jsonl")
    with pytest.raises(UserError, match=r"^\S+/metrics.jsonl cannot be read: Permission denied: change"):
        open_weights(trained[0] / where)
    assert capfd.readouterr().err == ""


def test_saved_folders(trained, tmp_path):
    folder = tmp_path / "deep" / "folder"
    model, params = load_pretrained(trained[0])
    config = nano_config("/secret/folder/photos")
    metadata = save_pretrained(
        folder,
        model,
        params,
        training=config,
        metrics={"mse": 0.09, "baseline_mse": 0.15},
        licence="cc-by-4.0",
    )
    assert sorted(p.name for p in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    assert json.loads((folder / "config.json").read_text()) == {"model_type": "muskie"} | metadata
    assert metadata["params_digest"] == digest(params) and metadata["variant"] == "nano"
    card = (folder / "README.md").read_text()
    _, header, body = card.split("---\n", 2)
    assert yaml.safe_load(header)["license"] == "cc-by-4.0"
    for text in ("# Muskie (Nano)", "| 0.0900 |", "| 20 steps |", "under: cc-by-4.0.", "root photos",
                 "| 32x32, 32x48 |", "| random 0.9, rectangle 0.75, ellipse 0.75 |"):  # fmt: skip
        assert text in body, text
    assert "secret" not in card
    with pytest.raises(UserError, match="exists: choose another path"):
        save_pretrained(folder, model, params)
    save_pretrained(
        folder, model, {k: v for k, v in params.items() if k not in ("norm", "head")}, force=True
    )
    card = (folder / "README.md").read_text()
    assert "no, features only" in card and "Unknown: the source file" in card
    assert "not stated yet" in card and "authors of Muskie state no licence" in card
    for force in (False, True):
        (folder / "thesis.tex").touch()
        with pytest.raises(UserError, match="contains 'thesis.tex'" if force else "exists: choose"):
            save_pretrained(folder, model, params, force=force)
    (folder / "thesis.tex").unlink()
    assert load_pretrained(folder)[1].keys() == params.keys() - {"norm", "head"}
    assert not [p for p in folder.parent.iterdir() if p.name.startswith(".")]


HOSTILE = "`x` |\n\n## Licence\n\nMIT <img src=x> ![p](http://evil.example/x) www.evil.example"


@pytest.mark.parametrize(
    "training",
    [
        {"duration": HOSTILE, "sources": {HOSTILE: {"kind": HOSTILE, "x" * 9000: "y" * 9000}}},
        {"sources": [1], "batch": 3, "buckets": {"resolutions": [[1]], "views": HOSTILE}, "optim": "x"},
        {"sources": {"a": "b"}, "mask": {"modes": {"a": 1}}},
    ],
)
def test_metadata_cannot_inject_markup_into_the_card(tmp_path, training):
    """Metadata comes from files, which are untrusted."""
    model, params = random_network(0)
    weights = Weights(Network.of(model), params, {"training": training, "metrics": {"mse": 1.0}})
    write_weights(tmp_path / "m.safetensors", weights)
    again = open_weights(tmp_path / "m.safetensors")
    write_folder(tmp_path / "m", again, licence=f"{HOSTILE}\n---\n", force=False)
    card = (tmp_path / "m" / "README.md").read_text()
    assert card.count("\n## Licence") == 1 and card.count("\n---\n") == 1
    assert not re.search(r"(?<!\\)(<img|!\[|http:|www\.e)", card.split("---\n", 2)[2])
    assert all(len(line) < 2000 for line in card.splitlines())


def test_training_must_be_a_config(tmp_path):
    with pytest.raises(UserError, match="training is a str, not a config"):
        save_pretrained(tmp_path / "m", *random_network(0), training="400 epochs")


def test_only_exported_folders_are_pushed(tmp_path):
    with pytest.raises(UserError, match="has no model.safetensors: make the folder with export --out"):
        push_to_hub(tmp_path, "user/name")


def short_config(root):
    config = nano_config(root)
    config.duration, config.optim.warmup = "2 steps", "1 steps"
    config.buckets.views = (2,)
    config.buckets.resolutions = (((32, 32),),)
    config.evaluation.pictures = 0
    return config


def test_imported_work_directory(trained, tmp_path):
    workdir, params = trained
    make_workdir(tmp_path / "w", open_weights(workdir / "20"), None, force=False)
    imported = open_weights(tmp_path / "w")
    assert same(imported.params, params[20])
    assert imported.provenance["origin"]["step"] == 20 and "training" not in imported.provenance
    with pytest.raises(UserError, match="exists: choose another path"):
        make_workdir(tmp_path / "w", imported, None, force=False)
    make_workdir(tmp_path / "w", imported, None, force=True)
    assert [p.name for p in (tmp_path / "w" / "checkpoints").iterdir()] == ["0"]
    write_folder(tmp_path / "folder", imported, None, force=False)
    card = (tmp_path / "folder" / "README.md").read_text()
    assert "Imported from other weights (variant nano" in card and "no further training" in card


def test_evaluation_of_an_imported_work_directory(trained, tmp_path, photo_folder):
    workdir, params = trained
    weights = open_weights(workdir / "20")
    config = short_config(photo_folder)
    config.duration = "0 steps"
    config.optim.clip_norm = 1.0  # gives the optimizer's state other leaves than the default recipe's
    make_workdir(tmp_path / "default", weights, None, force=False)
    with pytest.raises(UserError, match="does not match the config"):
        train(config, tmp_path / "default")
    make_workdir(tmp_path / "clipped", weights, config, force=False)
    result = train(config, tmp_path / "clipped")
    assert result["step"] == 0 and result["params_digest"] == digest(params[20]) and result["mse"] > 0


@pytest.mark.slow
def test_training_continues_from_an_imported_work_directory(trained, tmp_path, photo_folder):
    workdir, params = trained
    make_workdir(tmp_path / "w", open_weights(workdir / "20"), None, force=False)
    config = short_config(photo_folder)
    config.optim.learning_rate = 1e-4  # Adam moves each parameter by about this much per step
    result = train(config, tmp_path / "w")
    assert result["step"] == 2
    fine_tuned = open_weights(tmp_path / "w")
    assert result["params_digest"] == fine_tuned.params_digest != digest(params[20])
    distances = jax.tree.map(lambda a, b: np.abs(a - b).max(), fine_tuned.params, params[20])
    assert max(jax.tree.leaves(distances)) < 1e-3, "training started from the imported weights"
    write_folder(tmp_path / "folder", fine_tuned, None, force=False)
    assert fine_tuned.provenance["origin"]["params_digest"] == digest(params[20])
    assert "Initialised from other weights (variant nano" in (tmp_path / "folder" / "README.md").read_text()
    with pytest.raises(UserError, match="is not replaced, because it contains 'data.json'"):
        make_workdir(tmp_path / "w", fine_tuned, None, force=True)


def test_weights_that_cannot_be_trained_are_refused(trained, tmp_path):
    weights = open_weights(trained[0])
    make = lambda weights, config=None: make_workdir(tmp_path / "w", weights, config, force=False)
    with pytest.raises(UserError, match="these weights have no reconstruction head"):
        make(weights.backbone())
    model, params = random_network(0)
    with pytest.raises(
        UserError, match="no variant has width 24, 2 blocks and 2 heads: add one to VARIANTS"
    ):
        make(Weights(Network.of(model), params))
    config = default_config()
    config.sources.photos = nano_config("x").sources.photos
    with pytest.raises(UserError, match=r"have width 48, but the config's network has 768: .*variant=nano"):
        make(weights, config)
    assert not (tmp_path / "w").exists()


def test_public_names_of_the_package():
    assert {"load_pretrained", "push_to_hub", "save_pretrained"} <= set(dir(muskie_jax))
    with pytest.raises(AttributeError, match="no attribute 'load_pretraned'"):
        muskie_jax.load_pretraned  # noqa: B018
    assert pathlib.Path(muskie_jax.__file__).name == "__init__.py"
