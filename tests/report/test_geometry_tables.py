"""Tables of cameras, recall and the pose probe: which layer they show, and which value is best."""

import pytest

from muskie_jax.correspondence.recall import PIXELS
from muskie_jax.evaluators.results import ResultRow
from muskie_jax.report.geometry_tables import ANGLES, AUC, _table
from muskie_jax.report.results_file import ModelInfo, append
from muskie_jax.report.write import write_report
from muskie_tests.results import DINO, UNTRAINED, unit

OURS = ModelInfo("ours", "muskie", 100, "runs/ours", 22_000_000, "aa" * 32)
ROOMS = {"dataset": "rooms", "height": 96, "width": 128, "views": 2}
GROUPS = 8


def recall(layer, cm_2, px_10, angle="all"):
    values = {f"cm_{t}": cm_2 * t / 2 for t in (1, 2, 5)}
    values |= {f"px_{t}": px_10 * t / 10 for t in PIXELS}
    groups = {name: [value] * GROUPS for name, value in values.items()}
    groups |= {"pairs": [1.0] * GROUPS, "cm_pairs": [1.0] * GROUPS}
    return ResultRow(ROOMS | {"layer": layer, "angle": angle}, values | {"view_pairs": GROUPS}, groups)


def poses(auc_30, **labels):
    values = {"auc_5": auc_30 / 4, "auc_15": auc_30 / 2, "auc_30": auc_30}
    values |= {
        f"{name}_{kind}": 10.0 for name in ("rotation", "translation") for kind in ("mean", "median")
    }
    return ResultRow(
        ROOMS | labels, values | {"view_pairs": 56.0}, {"pairs": [7.0] * 8, "auc_30": [auc_30] * 8}
    )


def probe(layer, auc_30, fit_error):
    row = poses(auc_30, layer=layer)
    constant = {"constant_auc_30": 3.0, "constant_rotation_mean": 24.0, "constant_translation_mean": 57.0}
    return row._replace(values=row.values | constant | {"fit_error": fit_error})


def with_points(row, l1, prefix=""):
    names = ("accuracy", "completeness", "normals", "l1")
    values = {f"{prefix}{name}_{kind}": l1 for name in names for kind in ("mean", "median")}
    return row._replace(values=row.values | values)


@pytest.fixture
def tables(tmp_path):
    """The Markdown tables by the title of their part, and the page."""
    layers = [recall(1, 5.0, 50.0), recall(2, 20.0, 40.0)]
    angles = [recall(2, 30.0, 60.0, "0-15"), recall(2, 10.0, 30.0, "15-30"), recall(1, 77.0, 77.0, "0-15")]
    units = [
        unit(0, UNTRAINED, "recall", [recall(1, 1.0, 10.0)]),
        unit(1, OURS, "recall", layers + angles),
        unit(2, DINO, "pose_probe", [probe(1, 12.0, 0.3)]),
        unit(3, OURS, "pose_probe", [probe(1, 90.0, 0.2), probe(2, 30.0, 0.1)]),
        unit(4, OURS, "geometry", [with_points(with_points(poses(40.0), 0.05), 0.04, "icp_")]),
        unit(5, UNTRAINED, "geometry", [poses(2.0)]),
    ]
    for each in units:
        append(tmp_path / "results.jsonl", each)
    paths = write_report(tmp_path)
    parts = paths["markdown"].read_text().split("\n## ")[1:]
    return {part.partition(":")[0]: part for part in parts}, paths["html"].read_text()


def test_every_evaluator_has_a_part_of_its_own(tables):
    parts, page = tables
    assert list(parts) == [
        "Cameras and point maps",
        "Recall of correspondence from frozen features",
        "Relative pose from frozen features",
    ]
    assert all(f'<h2 id="part{number}">' in page for number in range(3))


def test_recall_shows_the_layer_with_most_matches_within_two_centimetres(tables):
    parts, _ = tables
    overall, *by_angle = parts["Recall of correspondence from frozen features"].split("### ")[1:]
    (ours,) = (line for line in overall.splitlines() if line.startswith("| ours"))
    assert "| layer 2 | **10.0**" in ours and "**40.0**" in ours
    centimetres, pixels, scannet = by_angle
    assert "0-15°" in centimetres and "| ours | layer 2 | 30.0" in centimetres
    assert "77.0" not in centimetres + pixels and "60.0" in pixels and "Within 40 px" in scannet


def test_the_probe_shows_the_layer_that_fits_best_and_the_mean_pose(tables):
    parts, _ = tables
    part = parts["Relative pose from frozen features"]
    (ours,) = (line for line in part.splitlines() if line.startswith("| ours"))
    assert "| layer 2 |" in ours and "**30.0**" in ours and "90.0" not in ours
    assert "a rotation error of 24.0°, a direction error of 57.0° and AUC@30° 3.0." in part


def test_medians_are_not_bold_since_they_have_no_interval():
    columns = _table("poses", {}, {}, AUC | ANGLES, "").columns
    better = {column.name: column.better for column in columns}
    assert better["rotation error, mean °"] == "lower" and better["rotation error, median °"] == ""


def test_points_have_a_table_per_alignment_and_only_models_with_points(tables):
    parts, page = tables
    relative, similarity, refined = parts["Cameras and point maps"].split("### ")[1:]
    assert "| ours | **10.0** | **20.0** | **40.0**" in relative and "untrained" in relative
    assert "0.050" in similarity and "untrained" not in similarity
    assert "ICP" in refined and "0.040" in refined
    assert "pose AUC@30°: ours 40.0, untrained (small) 2.0; its points are 0.050 m off (L1)." in page
