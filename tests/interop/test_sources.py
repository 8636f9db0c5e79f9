"""What a source of weights is, for every kind of source."""

import json
import pathlib

import pytest

from muskie_jax.errors import UserError
from muskie_jax.interop.sources import SourceKind, expand_pattern, identify_source

RUN = pathlib.Path("runs/base")
SAVED = RUN / "checkpoints" / "5000"


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    """A run, an unsaved run, a copied checkpoint, an export and a file."""
    monkeypatch.chdir(tmp_path)
    for folder in (SAVED / "meta", "runs/unsaved/checkpoints", "copied/5000/meta", "export", "photos"):
        pathlib.Path(folder).mkdir(parents=True)
    for file in ("export/model.safetensors", "muskie.pth", "notes.txt", "photos/a.jpg"):
        pathlib.Path(file).touch()


@pytest.mark.parametrize(
    "source, kind, path, workdir",
    [
        ("runs/base", SourceKind.WORKDIR, RUN, RUN),
        ("runs/base/checkpoints", SourceKind.WORKDIR, RUN, RUN),
        ("runs/base/5000", SourceKind.CHECKPOINT, SAVED, RUN),
        ("runs/base/checkpoints/5000", SourceKind.CHECKPOINT, SAVED, RUN),
        ("copied/5000", SourceKind.CHECKPOINT, "copied/5000", None),
        ("muskie.pth", SourceKind.FILE, "muskie.pth", None),
        ("export", SourceKind.EXPORT, "export/model.safetensors", None),
        ("user/name", SourceKind.REPOSITORY, "user/name", None),
        ("photos", SourceKind.NO_WEIGHTS, "photos", None),
        ("photos/name", SourceKind.MISSING, "photos/name", None),
        ("user/name.pth", SourceKind.MISSING, "user/name.pth", None),
        ("runs/base/6000", SourceKind.MISSING, "runs/base/6000", RUN),
        ("runs/base/checkpoints/6000", SourceKind.MISSING, "runs/base/checkpoints/6000", RUN),
    ],
)
def test_every_kind_of_source(source, kind, path, workdir):
    found = identify_source(source)
    assert (found.kind, found.path, found.workdir) == (kind, pathlib.Path(path), workdir)


def test_the_best_checkpoint_of_a_run():
    other = RUN / "checkpoints" / "6000" / "meta"
    other.mkdir(parents=True)
    with pytest.raises(UserError, match="runs/base/best: none of the .* was evaluated: use runs/base,"):
        identify_source("runs/base/best")
    errors = {7000: 0.1, 5000: 0.2, 6000: 0.3}
    rows = [json.dumps({"step": step, "evaluation/mse": error}) for step, error in errors.items()]
    rows += ['{"step": 5000, "train/mse": 0.9}', "unfini"]
    (RUN / "metrics.jsonl").write_text("\n".join(rows))
    assert identify_source("runs/base/best") == (SourceKind.CHECKPOINT, SAVED, RUN)  # 7000 is not saved
    (RUN / "best").mkdir()
    assert identify_source("runs/base/best").kind is SourceKind.NO_WEIGHTS  # a folder of that name


def test_names_that_no_path_can_have():
    with pytest.raises(UserError, match="is not a valid path: File name too long"):
        identify_source("a" * 5000)


def test_patterns_match_weights_only():
    assert [pathlib.Path(path).name for path in expand_pattern("*")] == ["export", "muskie.pth"]
    assert [pathlib.Path(path).name for path in expand_pattern("runs/*")] == ["base"]
    assert [pathlib.Path(path).name for path in expand_pattern("runs/base/*")] == []
    assert expand_pattern("photos/*") == [] and expand_pattern("photos") == ["photos"]
