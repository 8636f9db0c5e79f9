"""Job `evaluate`: units of work that run once, on one host or several, and the report."""

import json
import pathlib
import re
import shutil

import numpy as np
import pytest

from conftest import ROOT, write_scene
from muskie_jax import evaluate as job
from muskie_jax.config import default_config, folder, posed, validate
from muskie_jax.config_file import load_config
from muskie_jax.data.posed.settings import PROTOCOLS
from muskie_jax.errors import UserError
from muskie_jax.evaluate import evaluate
from muskie_jax.evaluators import model_specs
from muskie_jax.evaluators.results import ResultRow
from muskie_jax.processes.workdir_lock import exclusive
from muskie_jax.report import results_file
from muskie_jax.report.write import write_report
from muskie_tests import posed_trees

READERS = list(PROTOCOLS)
OLD_RESULTS = pathlib.Path(__file__).parent / "results_before_renaming.jsonl"


def shipped(path):
    return load_config(ROOT / path)


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """Six views of a desk, with depth and cameras."""
    root = tmp_path_factory.mktemp("recordings")
    posed_trees.cameras(root)
    return root


def config_for(root, *models, **settings):
    config = default_config()
    config.job = "evaluate"
    config.posed.desk = posed("cameras", str(root), select="consecutive", groups=2)
    small = {"sizes": ((32, 48),), "views": (3,), "points": 20, "protocols": ("targets",)}
    config.evaluate.update({"models": models} | small | settings)
    config.evaluate.reconstruction.update({"views": (1, 2), "modes": (("random", 0.5),), "groups": 2})
    return config


def lines_of(folder):
    paths = sorted(folder.glob("results*.jsonl"))
    return [json.loads(line) for path in paths for line in path.read_text().splitlines()]


def figures_of(lines):
    """Models and rows by unit, without times."""
    return {line["unit"]: (line["model"], line["rows"]) for line in lines}


MODELS = ("untrained:nano", "still", "patches")


@pytest.fixture(scope="module")
def sweep(desk, tmp_path_factory):
    """The folder and result of a complete sweep."""
    folder = tmp_path_factory.mktemp("sweep")
    return folder, evaluate(config_for(desk, *MODELS), folder)


def test_every_evaluator_runs_on_every_model_that_it_accepts(sweep):
    folder, result = sweep
    lines = lines_of(folder)
    units = [(line["model"]["name"], line["evaluator"], line["setting"]["views"]) for line in lines]
    assert units == [
        ("untrained (nano)", "correspondence", 3),
        ("untrained (nano)", "reconstruction", 1),
        ("untrained (nano)", "reconstruction", 2),
        ("still", "correspondence", 3),
        ("patches", "correspondence", 3),
    ]
    assert result["units"] == result["done"] == len(lines)
    assert lines[0]["model"]["step"] == 0 and lines[0]["model"]["parameters"] > 1e5
    assert len(lines[0]["model"]["digest"]) == 16
    for line in lines:
        for figure in line["figures"]:
            assert (folder / figure["file"]).stat().st_size > 1000
    assert {figure["kind"] for line in lines for figure in line["figures"]} == {
        *("tracks", "features", "reconstruction")
    }
    for name in ("csv", "markdown", "latex", "html"):
        assert pathlib.Path(result[name]).stat().st_size > 100
    assert "untrained (nano)" in pathlib.Path(result["html"]).read_text()


def test_finished_units_are_not_repeated(sweep, desk, monkeypatch):
    folder, _ = sweep
    before = (folder / "results.jsonl").read_text()
    monkeypatch.setattr(model_specs, "build_model", lambda *_, **__: pytest.fail("a model was loaded"))
    result = evaluate(config_for(desk, *MODELS), folder)
    assert (result["units"], result["done"]) == (5, 0)
    assert (folder / "results.jsonl").read_text() == before


def test_one_job_writes_the_results_of_a_shard(desk, tmp_path):
    with exclusive(tmp_path / "results.lock"):
        for shard in ("", "1/2"):
            with pytest.raises(UserError, match="is in use by process .*results.lock"):
                evaluate(config_for(desk, "still", shard=shard), tmp_path)
        assert lines_of(tmp_path) == []
        evaluate(config_for(desk, "still", shard="2/2"), tmp_path)
    assert [path.name for path in tmp_path.glob("results*.jsonl")] == ["results.1.jsonl"]
    assert not list(tmp_path.glob("*.lock"))


def test_a_killed_sweep_resumes(sweep, desk, tmp_path):
    folder, _ = sweep
    lines = (folder / "results.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "results.jsonl").write_text("".join(lines[:3]) + lines[3][:50])
    result = evaluate(config_for(desk, *MODELS), tmp_path)
    assert result["done"] == 2
    assert figures_of(lines_of(tmp_path)) == figures_of(lines_of(folder))


def test_other_settings_and_other_data_have_other_identities(sweep, desk):
    folder, _ = sweep
    finished = {line["unit"] for line in lines_of(folder)}
    for change in ({"points": 21}, {"views": (2,)}, {"dtype": "bfloat16"}, {"sizes": ((32, 32),)}):
        assert not finished & planned(config_for(desk, "still", **change), folder)
    config = config_for(desk, "still")
    assert finished & planned(config, folder)
    config.posed.desk.groups = 1
    assert not finished & planned(config, folder)


def planned(config, folder):
    """The identities of a config's units."""
    models = job.find_models(config.evaluate.models, "last", config.evaluate.dtype)
    evaluators = job.make_evaluators(config, folder)
    return {unit.identity for unit in job.plan_units(models, evaluators, config)}


def test_results_of_the_first_version_load_and_are_measured_again(tmp_path, monkeypatch):
    """That version drew points and masks of recordings from names of folders."""
    monkeypatch.chdir(tmp_path)  # data are part of the identity: roots must be the same as then
    config = default_config()
    for name in ("desk", "shelf"):
        posed_trees.cameras(tmp_path / "recordings" / name)
        config.posed[name] = posed("cameras", f"recordings/{name}", select="consecutive", groups=2)
    config.evaluate.update({"models": ("untrained:nano", "still"), "sizes": ((32, 48),), "views": (3,)})
    config.evaluate.update({"points": 20, "layers": (2,), "protocols": ("targets",), "pictures": 0})
    config.evaluate.reconstruction.update({"views": (1, 2), "modes": (("random", 0.5),)})
    config.evaluate.reconstruction.update({"references": (1,), "groups": 2})
    shutil.copy(OLD_RESULTS, tmp_path / "results.jsonl")
    old = results_file.read(tmp_path)
    assert {unit.evaluator for unit in old} == {"reconstruction", "correspondence"}
    contexts = {row.labels["context"] for row in old[0].rows}
    assert contexts == {"own", "distractor"} and old[0].setting["distractors"] == ["shelf 1", "shelf 0"]
    assert not {unit.identity for unit in old} & planned(config, tmp_path)
    assert write_report(tmp_path)["html"].stat().st_size > 1000


def test_draws_do_not_depend_on_names_of_folders(desk, tmp_path):
    copy = tmp_path / "another_name"
    shutil.copytree(desk, copy)
    results = []
    for name, root in (("desk", desk), ("bureau", copy)):
        config = config_for(root, "untrained:nano", "still")
        config.posed = {name: config.posed.desk}
        evaluate(config, tmp_path / name)
        lines = lines_of(tmp_path / name)
        results.append([(row["values"], row["by_group"]) for line in lines for row in line["rows"]])
    assert results[0] == results[1] and len(results[0]) > 10


def test_reconstructions_of_synthetic_data_have_the_identities_of_earlier_versions(tmp_path):
    """A setting of the synthetic world was renamed since. Correspondence changed at the border of views."""
    config = default_config()
    config.posed.rooms = posed("synthetic", groups=2)
    config.evaluate.update({"models": ("still", "untrained:nano"), "sizes": ((32, 32),), "views": (2,)})
    config.evaluate.points = 20
    config.evaluate.reconstruction.update({"views": (2,), "modes": (("random", 0.5),)})
    config.evaluate.reconstruction.update({"references": (1,), "groups": 2})
    first_version = {"88fa78afeb4e28aa", "e47672ae05f3646a", "592565e6446c82d9"}
    assert planned(config, tmp_path) & first_version == {"592565e6446c82d9"}


def test_identities_depend_on_the_set_of_distractors(desk, tmp_path):
    """With a second set, targets of a single scene get distractors."""
    alone = config_for(desk, "untrained:nano", evaluators=("reconstruction",))
    before = planned(alone, tmp_path)
    posed_trees.cameras(tmp_path / "more")
    alone.posed.more = posed("cameras", str(tmp_path / "more"), select="consecutive", groups=2)
    both = planned(alone, tmp_path)
    assert len(both) == 2 * len(before) and not both & before


def test_the_protocols_digest_does_not_depend_on_the_number_of_reconstructed_views(sweep):
    folder, _ = sweep
    digests = {}
    for line in lines_of(folder):
        digests.setdefault(line["evaluator"], set()).add(line["setting"]["question"])
        assert line["setting"]["reader"] == "cameras"
    assert {name: len(found) for name, found in digests.items()} == {
        "correspondence": 1,
        "reconstruction": 1,
    }


def test_a_unit_that_fails_does_not_stop_the_others(desk, tmp_path):
    damaged = tmp_path / "weights" / "damaged.safetensors"
    damaged.parent.mkdir()
    damaged.write_bytes(b"not safetensors")
    config = config_for(desk, str(damaged), "still", evaluators=("correspondence",))
    with pytest.raises(
        UserError, match="damaged.safetensors.*the other 1 units are done and in the report"
    ):
        evaluate(config, tmp_path / "out")
    assert [line["model"]["name"] for line in lines_of(tmp_path / "out")] == ["still"]
    assert (tmp_path / "out" / "report.html").stat().st_size > 1000


def photos_config(root):
    """Two reconstructions of photographs in a folder, at two sizes."""
    config = default_config()
    config.job = "evaluate"
    config.sources.photos = folder(root=str(root), holdout=None)
    small = {
        "models": ("untrained:nano",),
        "evaluators": ("reconstruction",),
        "sizes": ((32, 48), (32, 32)),
    }
    config.evaluate.update(small | {"pictures": 0})
    config.evaluate.reconstruction.update({"views": (2,), "modes": (("random", 0.5),), "groups": 4})
    return config


def truncate(files):
    for path in files:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_unreadable_photographs_are_counted_in_one_warning(tmp_path, capsys):
    write_scene(tmp_path / "photos" / "garden", 17, 1)
    truncate(sorted((tmp_path / "photos" / "garden").iterdir())[:9])
    assert evaluate(photos_config(tmp_path / "photos"), tmp_path / "out")["done"] == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "were unreadable" in line]
    pattern = (
        r"WARNING: photos: (\d+) of (\d+) images drawn were unreadable, such as .*garden/frame_\d+.jpg: "
    )
    match = re.search(pattern, line)
    assert match and 0 < int(match[1]) == int(match[2]) - 4 * 2


def test_units_that_fail_alike_log_the_error_once(tmp_path, capsys):
    write_scene(tmp_path / "photos" / "garden", 6, 1)
    truncate(sorted((tmp_path / "photos" / "garden").iterdir())[:5])
    with pytest.raises(UserError, match="too few readable images .*and 1 more units failed"):
        evaluate(photos_config(tmp_path / "photos"), tmp_path / "out")
    assert capsys.readouterr().err.count("FAILED: scene 'garden'") == 1


def test_nothing_to_do_is_an_error(desk, tmp_path):
    with pytest.raises(UserError, match="nothing to evaluate"):
        evaluate(config_for(desk, "still", evaluators=("reconstruction",)), tmp_path)


def test_the_headline_is_of_an_unrefined_predictor_under_protocol_targets(sweep):
    folder, _ = sweep
    for line in lines_of(folder):
        rows = [ResultRow(row["labels"], row["values"]) for row in line["rows"]]
        headline = job.headline(rows)
        if line["evaluator"] == "reconstruction":
            assert headline.startswith("masked error ")
            continue
        predictor = {"still": "still", "patches": "feature"}.get(line["model"]["name"], "attention")
        layer = 1 if predictor == "feature" else "all"
        labels = {
            "predictor": predictor,
            "layer": layer,
            "protocol": "targets",
            "angle": "all",
            "points": "all",
        }
        (row,) = [row for row in rows if labels.items() <= row.labels.items()]
        assert headline.startswith(predictor)
        assert f"{row.values['px_10']:.1f}% within 10 px (targets)" in headline


def test_two_hosts_split_the_units(sweep, desk, tmp_path):
    folder, _ = sweep
    for number in (2, 1):
        result = evaluate(config_for(desk, *MODELS, shard=f"{number}/2"), tmp_path)
        assert result["units"] == 5
    files = sorted(path.name for path in tmp_path.glob("results*.jsonl"))
    assert files == ["results.1.jsonl", "results.jsonl"]
    assert figures_of(lines_of(tmp_path)) == figures_of(lines_of(folder))


def test_a_model_is_loaded_once(desk, tmp_path, monkeypatch):
    loads = []
    build = model_specs.build_model
    monkeypatch.setattr(model_specs, "build_model", lambda *a, **k: loads.append(a) or build(*a, **k))
    sizes = ((32, 48), (32, 32))
    config = config_for(desk, "untrained:nano", sizes=sizes, evaluators=("correspondence",), pictures=0)
    assert evaluate(config, tmp_path)["done"] == 4 and len(loads) == 1
    names = [line["model"]["name"] for line in lines_of(tmp_path)]
    assert names == ["untrained (nano)"] * 2 + ["did not move"] * 2, "the trivial baseline is always there"


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("models", (), "use for example"),
        ("evaluators", ("correspondance",), "did you mean 'correspondence'"),
        ("protocols", ("paper",), "'paper' is not a valid value"),
        ("sizes", ((512,),), "must be (height, width)"),
        ("views", (1,), "must be 2 or more"),
        ("layers", (0,), "must be 1 or more"),
        ("points", 0, "must be at least 1"),
        ("checkpoints", "each", "or for example 'every 3'"),
        ("shard", "3/2", "is not a part such as '2/4'"),
        ("dtype", "float16", "'float16' is not a valid value"),
    ],
)
def test_invalid_settings(desk, key, value, message):
    config = config_for(desk, "still", **{key: value})
    with pytest.raises(UserError) as caught:
        validate(config)
    assert f"config.evaluate.{key}" in str(caught.value) and message in str(caught.value)


def test_missing_data_and_models_are_errors_before_any_work(desk, tmp_path):
    config = shipped("configs/evaluate.py:cameras")
    config.posed.yours.root = "/nowhere"
    with pytest.raises(UserError, match="config.posed.yours.*/nowhere"):
        evaluate(config, tmp_path)
    config.posed.yours.root = str(desk)
    config.evaluate.models = ("runs/nothing/x",)
    with pytest.raises(UserError, match="'runs/nothing/x' does not exist"):
        evaluate(config, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("arg", [None, "photos", "navi_pairs", "scannet_pairs", *READERS])
def test_the_shipped_config_has_every_kind_of_data(arg, desk):
    config = shipped("configs/evaluate.py" + (f":{arg}" if arg else ""))
    for dataset in config.posed.values():
        if "root" in dataset:
            dataset.root = str(desk)
    if arg == "photos":
        config.sources.photos.root = str(desk)
    validate(config)
    assert config.job == "evaluate"
    assert bool(config.posed) != bool(config.sources)


@pytest.mark.parametrize("name, size", [("navi", (48, 48)), ("scannet", (48, 64))])
def test_recall_on_pairs_of_views(name, size, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    if name == "navi":
        posed_trees.navi(data, collections=("multiview_00_pixel", "wild_set"))
    else:
        posed_trees.scannet(data)
        np.savez(data / "test.npz", name=np.array([(707, 0, 15, 60), (707, 0, 30, 15)], np.uint16))
    config = shipped(f"configs/evaluate.py:{name}_pairs")
    config.posed[name].root = str(data)
    config.evaluate.update(models=("patches",), sizes=(size,))
    assert evaluate(config, tmp_path / "out")["done"] == 1
    (line,) = lines_of(tmp_path / "out")
    assert line["evaluator"] == "recall" and line["setting"]["protocol"] == name
    overall = next(row for row in line["rows"] if row["labels"]["angle"] == "all")
    assert overall["values"]["view_pairs"] == 2, "of NAVI's six pairs, every fourth"
    assert overall["values"]["px_80"] > overall["values"]["px_5"]
    config.evaluate.recall.protocol = "nav"
    with pytest.raises(UserError, match=r"config.evaluate.recall.protocol: 'nav' .* did you mean 'navi'"):
        validate(config)


def test_the_shipped_config_lists_its_arguments():
    with pytest.raises(Exception, match="choices: photos, geometry, .*, recordings, wide, cameras"):
        shipped("configs/evaluate.py:camera")


def test_recordings_without_depth_are_measured_by_epipolar_distance(desk, tmp_path):
    shutil.copytree(desk, tmp_path / "park")
    (path,) = (tmp_path / "park").rglob("cameras.json")
    contents = json.loads(path.read_text())
    for frame in contents["frames"]:
        del frame["depth"]
    path.write_text(json.dumps(contents))
    config = config_for(desk, "still", evaluators=("correspondence",))
    config.posed.park = posed("cameras", str(tmp_path / "park"), groups=2)
    result = evaluate(config, tmp_path / "out")
    lines = {line["setting"]["dataset"]: line for line in lines_of(tmp_path / "out")}
    assert lines["desk"]["evaluator"] == "correspondence" and lines["park"]["evaluator"] == "epipolar"
    names = {name for row in lines["park"]["rows"] for name in row["values"]}
    assert "epipolar_mean" in names and not any(name.startswith(("px_", "cm_")) for name in names)
    page = pathlib.Path(result["html"]).read_text()
    assert "Correspondence without depth: epipolar distance" in page and "Epipolar lines" in page
    assert result["units"] == result["done"] == 2


def test_insisting_on_a_geometry_keeps_results(desk, tmp_path):
    config = config_for(desk, "still")
    before = planned(config, tmp_path)
    config.posed.desk.check = False
    assert planned(config, tmp_path) == before
