"""Locks, metrics, results, weights and packs in object storage, and what is refused."""

import dataclasses
import json
import threading
import time

import fsspec
import jax
import numpy as np
import pytest

from muskie_jax.checkpoints.ownership import require_outside_of_checkpoints
from muskie_jax.config import default_config, folder, packed, posed
from muskie_jax.errors import UserError
from muskie_jax.evaluate import evaluate
from muskie_jax.evaluators.model_specs import find_models
from muskie_jax.interop.load import load_pretrained
from muskie_jax.interop.save import save_pretrained
from muskie_jax.models.initial_params import init_params
from muskie_jax.models.muskie import build_model
from muskie_jax.processes import workdir_lock
from muskie_jax.processes.workdir_lock import Owner, WorkdirLock
from muskie_jax.storage import address, mirror
from muskie_jax.storage.address import append_text, storage_path
from muskie_jax.storage.mirror import local_files
from muskie_jax.storage.outputs import write_output
from muskie_jax.writers import JsonLines
from muskie_tests import posed_trees
from muskie_tests.commands import complaint_of, run_in_process
from muskie_tests.object_storage import BUCKET
from muskie_tests.packs import batches, pack_of, sampler_of

pytestmark = [
    pytest.mark.extras,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


# --- Locks --------------------------------------------------------------------------------------------


def test_a_lock_is_held_by_one_job_and_released(workdir):
    lock = WorkdirLock(workdir / "train.lock")
    with pytest.raises(UserError, match="is in use by process .* \\(train.lock.1\\)"):
        WorkdirLock(workdir / "train.lock")
    lock.release()
    WorkdirLock(workdir / "train.lock").release()
    assert not workdir.exists() or not list(workdir.iterdir())


def test_a_work_directory_in_the_checkpoints_of_another_is_refused(workdir):
    require_outside_of_checkpoints(workdir / "checkpoints/7")
    (workdir / "metrics.jsonl").write_text("")
    require_outside_of_checkpoints(workdir)
    with pytest.raises(
        UserError, match=f"--workdir={workdir}/checkpoints/7 is inside {workdir}/checkpoints,"
    ):
        require_outside_of_checkpoints(workdir / "checkpoints/7")


def test_of_many_jobs_one_takes_the_lock(workdir):
    taken, refused = [], []

    def job():
        try:
            taken.append(WorkdirLock(workdir / "train.lock"))
        except UserError as error:
            refused.append(str(error))

    jobs = [threading.Thread(target=job) for _ in range(6)]
    for each in jobs:
        each.start()
    for each in jobs:
        each.join()
    assert len(taken) == 1 and len(refused) == 5
    taken[0].release()


def test_the_lock_of_a_dead_job_is_taken_over_and_that_of_a_living_one_is_not(workdir, monkeypatch):
    monkeypatch.setattr(workdir_lock, "DEAD_SECONDS", 4.0)
    monkeypatch.setattr(workdir_lock, "REFRESH_SECONDS", 1.0)
    path = workdir / "train.lock"
    owner = dataclasses.replace(Owner.this_process(workdir), machine="another", host="node7")
    text = json.dumps(dataclasses.asdict(owner))
    (workdir / "train.lock.1").write_text(text)
    ended = threading.Event()

    def refresh():
        while not ended.wait(0.5):
            (workdir / "train.lock.1").write_text(text)

    living = threading.Thread(target=refresh)
    living.start()
    try:
        with pytest.raises(UserError, match="in use by process .* on node7"):
            WorkdirLock(path)
    finally:
        ended.set()
        living.join()
    lock = WorkdirLock(path)
    assert [each.name for each in workdir.iterdir()] == ["train.lock.2"]
    lock.release()


# --- Files of a work directory ------------------------------------------------------------------------


def test_files_are_copied_in_the_background_and_continued(workdir, monkeypatch):
    monkeypatch.setattr(mirror, "SECONDS", 0.2)
    with local_files(workdir, ["metrics.jsonl"]) as files:
        lines = JsonLines(files.folder / "metrics.jsonl", 0)
        for step in (1, 2, 3):
            lines.write(step, {"loss": 1 / step})
        deadline = time.monotonic() + 20
        while not (workdir / "metrics.jsonl").exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        assert (workdir / "metrics.jsonl").read_text().count("\n") == 3  # before the end
        lines.write(4, {"loss": 0.25})
        (files.folder / "wandb").mkdir()
        (files.folder / "wandb" / "log").write_text("x")
        (files.folder / "pictures.part").write_text("x")
    assert not files.folder.exists()
    assert [path.name for path in workdir.iterdir()] == ["metrics.jsonl"]
    with local_files(workdir, ["metrics.jsonl"]) as files:  # continues from step 2
        JsonLines(files.folder / "metrics.jsonl", 2).write(3, {"loss": 0.5})
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert rows == [{"step": 1, "loss": 1.0}, {"step": 2, "loss": 0.5}, {"step": 3, "loss": 0.5}]


def test_files_that_cannot_be_copied_are_kept_and_named(store, workdir, capsys):
    with (
        pytest.raises(UserError, match="could not be copied to .* copy them from ") as error,
        local_files(workdir, []) as files,
    ):
        (files.folder / "metrics.jsonl").write_text("{}\n")
        store.fault = lambda method, path: 403 if method in ("PUT", "POST") else None
        files.upload()
        files.upload()
    assert str(files.folder) in str(error.value)
    assert (files.folder / "metrics.jsonl").read_text() == "{}\n"
    assert capsys.readouterr().err.count("WARNING: files could not be copied to") == 1


def test_text_is_added_to_a_file(workdir):
    append_text(workdir / "errors.txt", "one\n")
    append_text(workdir / "errors.txt", "two\n")
    assert (workdir / "errors.txt").read_text() == "one\ntwo\n"


def test_an_evaluation_continues_and_reports(workdir, tmp_path):
    posed_trees.cameras(tmp_path)
    config = default_config()
    config.job = "evaluate"
    config.posed.desk = posed("cameras", str(tmp_path), select="consecutive", groups=2)
    config.evaluate.update(
        {"models": ("still", "patches"), "sizes": ((32, 48),), "views": (3,), "points": 20,
         "protocols": ("targets",), "evaluators": ("correspondence",)}
    )  # fmt: skip
    result = evaluate(config, workdir)
    assert result["workdir"] == str(workdir) and result["done"] == result["units"] > 0
    names = {path.name for path in workdir.iterdir()}
    assert {"results.jsonl", "report.html"} <= names and not any("lock" in name for name in names)
    assert evaluate(config, workdir)["done"] == 0
    first, _, rest = (workdir / "results.jsonl").read_text().partition("\n")
    (workdir / "results.1.jsonl").write_text(first + "\n")  # that of another shard
    (workdir / "results.jsonl").write_text(rest)
    assert evaluate(config, workdir)["done"] == 0


# --- Weights and packs --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def network():
    model = build_model("nano")
    return model, init_params(model, 0)


def same(first, second):
    jax.tree.map(np.testing.assert_array_equal, first, second)


def test_weights_are_exported_and_loaded(network, workdir, url):
    model, params = network
    save_pretrained(url, model, params)
    same(load_pretrained(url)[1], params)
    with pytest.raises(UserError, match="exists: choose another path, or pass --force"):
        save_pretrained(url, model, params)
    save_pretrained(url, model, jax.tree.map(lambda x: x + 1, params), force=True)
    (spec,) = find_models([url], "last", "float32")
    same(spec.load_network().params, jax.tree.map(lambda x: x + 1, params))
    assert spec.version != "elsewhere"
    file = f"{url}.safetensors"
    done = run_in_process("muskie_jax", "interop", "export", "--checkpoint", url, "--out", file)
    assert done.returncode == 0, done.stderr
    same(load_pretrained(file)[1], jax.tree.map(lambda x: x + 1, params))
    with pytest.raises(UserError, match="does not exist: choose"):
        load_pretrained(f"{url}/missing")


def test_an_interrupted_export_has_no_weights(store, network, workdir):
    entries = ("model.safetensors", "config.json")
    for text in ("old", "new"):
        if text == "new":
            store.fault = lambda method, path: (
                403 if method in ("PUT", "POST") and "model.safetensors" in path else None
            )
        try:
            with write_output(workdir, force=True, entries=entries) as part:
                part.mkdir()
                for name in entries:
                    (part / name).write_text(text)
        except UserError as error:
            assert text == "new" and "cannot be written" in str(error)
    store.fault = lambda method, path: None
    assert [path.name for path in workdir.iterdir()] == ["config.json"]


def test_a_pack_is_copied_and_read(photo_folder, url, tmp_path):
    out = tmp_path / "pack"
    pack_of(folder(root=str(photo_folder)), out)
    files, base = fsspec.url_to_fs(url)
    files.put(str(out), base, recursive=True)
    expected = batches(sampler_of(packed(root=str(out))))
    found = batches(sampler_of(packed(root=url), cache=str(tmp_path / "cache")))
    for (*_, a), (*_, b) in zip(expected, found, strict=True):
        np.testing.assert_array_equal(a, b)


# --- What is refused ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path, reason",
    [
        ("ftp://host/run", "only gs:// and s3:// are supported"),
        ("gs://bucket", "must name a bucket and a folder, such as gs://bucket/run"),
        ("s3:///run", "must name a bucket and a folder"),
    ],
)
def test_wrong_urls_are_refused(path, reason):
    with pytest.raises(UserError, match=reason):
        storage_path(path)


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    monkeypatch.setattr(address.importlib.util, "find_spec", lambda name: None)
    address.require_backend.cache_clear()
    with pytest.raises(UserError, match=r"gs:// needs the package gcsfs: .*'\.\[gcs\]' -c constraints.txt"):
        storage_path("gs://bucket/run")


def test_a_missing_bucket_is_named_before_anything_starts(store):
    done = run_in_process(
        "muskie_jax",
        "train",
        "--config=configs/quickstart.py",
        f"--workdir={store.scheme}://nowhere-abc/run",
    )
    assert "the bucket 'nowhere-abc' does not exist: create it first" in complaint_of(done)


@pytest.mark.parametrize("command", [["interop", "import", "--from=x.pth", "--out"], ["benchmark"]])
def test_other_outputs_are_refused(command):
    url = f"gs://{BUCKET}/x"
    if command == ["benchmark"]:
        command = ["benchmark", "--config=configs/benchmark.py", "--workdir"]
    done = run_in_process("muskie_jax", *command, url)
    assert "is a URL, but a local path is needed" in complaint_of(done)
