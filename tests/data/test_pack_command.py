"""`python -m muskie_jax.data pack` and `verify`."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from conftest import ROOT
from muskie_tests.commands import complaint_of, run_in_process, run_module
from muskie_tests.packs import flip_bit

DATA = "muskie_jax.data"
PHOTOS = ("--config", "configs/photos.py")


def complaint(*arguments):
    return complaint_of(run_in_process(DATA, *arguments))


def test_pack_and_verify_by_command(photo_folder, tmp_path):
    root = f"--config.sources.photos.root={photo_folder}"
    arguments = (*PHOTOS, root, "--out", tmp_path / "pack", "--shards=2", "--workers=0")
    done = run_in_process(DATA, "pack", *arguments)
    assert done.returncode == 0, done.stderr
    assert "4 scenes, 28 images, without depth and cameras" in done.stderr
    result = json.loads(done.stdout)
    assert (result["images"], result["scenes"], result["shards"]) == (28, 4, 2)
    good = run_module(DATA, "verify", tmp_path / "pack")
    assert good.returncode == 0 and json.loads(good.stdout)["images"] == 28
    flip_bit(next((tmp_path / "pack").glob("*00001-of-00002")))
    (tmp_path / "pack" / "features.json").unlink()
    done = run_in_process(DATA, "verify", tmp_path / "pack")
    assert "2 of 11 files" in complaint_of(done)
    for name in ("muskie-train.array_record-00001-of-00002", "features.json"):
        assert f"{name} is missing or damaged\n" in done.stderr


@pytest.mark.parametrize(
    "arguments, expected",
    [
        ([], "python -m muskie_jax.data needs a command: use one of "),
        (["verify"], "run python -m muskie_jax.data verify <folder or URL> <flags>"),
        (["verify", "/nowhere"], "/nowhere/metadata.json does not exist"),
        (["pack", *PHOTOS], "--out is missing: pass --out packs/photos"),
        (["pack", *PHOTOS, "--out=x", "--config.sead=1"], "unknown setting 'sead'; did you mean 'seed'?"),
        (["pack", *PHOTOS, "--out=x", "--config.sources.photos.root=tests", "--views=2"],
         "--views does not apply to photos"),
        (["pack", "--config", "configs/quickstart.py", "--out=x", "--size=9"], "use --height and --width"),
        (["pack", *PHOTOS, "--out=gs://b/x", "--config.sources.photos.root=tests"],
         "--out=gs://b/x is a URL: choose a local folder"),
        (["groups", "/nowhere"], "/nowhere/all_metadata.npz"),
        (["pack", "--config", "configs/muskie_base.py", "--out=x"], "--source is missing: pass --source"),
        (["pack", "--config", "configs/muskie_base.py", "--out=x", "--source=co3b"], "mean 'co3d'?"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_reported_in_one_line(arguments, expected):
    assert expected in complaint(*arguments)


def test_ctrl_c_stops_workers_and_the_same_command_continues(tmp_path):
    scene = tmp_path / "photos" / "scene"
    scene.mkdir(parents=True)
    noise = np.random.default_rng(0).integers(0, 255, (1500, 2000, 3), np.uint8)
    Image.fromarray(noise).save(scene / "0.jpg", quality=95)
    for number in range(1, 24):
        os.link(scene / "0.jpg", scene / f"{number}.jpg")
    command = ["pack", *PHOTOS, "--out", str(tmp_path / "pack"), "--shards=4",
               f"--config.sources.photos.root={tmp_path / 'photos'}"]  # fmt: skip
    # A test that runs in the background of a script ignores SIGINT, which a new process would inherit.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(
        [sys.executable, "-m", DATA, *command, "--workers=1"],
        cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    signal.signal(signal.SIGINT, before)
    while not list((tmp_path / "pack").glob("*.array_record-*")):
        assert process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130 and "same command continues" in stderr, stderr
    assert len(list((tmp_path / "pack").glob("*.array_record-*"))) == 1, "the other shards are abandoned"
    again = run_in_process(DATA, *command, "--workers=0")
    assert again.returncode == 0 and "1 of 4 shards are finished" in again.stderr, again.stderr
    assert json.loads(again.stdout)["images"] == 24
