"""The networks in the repository do what they were trained for, on rooms that they did not see."""

import functools
import json

import jax
import numpy as np
import pytest
from PIL import Image

from conftest import ROOT
from muskie_jax.config_file import load_config
from muskie_jax.data.synthetic import WorldConfig, render_groups
from muskie_jax.data.synthetic.correspondence import find_in_view
from muskie_jax.evaluate import evaluate
from muskie_jax.interop.bundled import DIGESTS, FOLDER
from muskie_jax.photographs.matching import match_photographs
from muskie_jax.photographs.opening import open_network

SIZE, PATCH = 128, 16  # pixels
SEEDS = np.array([[2**32 - 1, number] for number in (4, 5, 6, 7)], np.uint32)  # no training renders these


@pytest.fixture(scope="module")
def rooms():
    """Two views of each of four rooms, with depth and cameras."""
    options = {"num_views": 2, "height": SIZE, "width": SIZE, "with_geometry": True}
    options |= {"config": WorldConfig()}
    return jax.tree.map(np.asarray, jax.jit(functools.partial(render_groups, **options))(SEEDS))


@pytest.fixture(scope="module")
def photographs(rooms, tmp_path_factory):
    """The two files of each room."""
    folder = tmp_path_factory.mktemp("rooms")
    paths = [[folder / f"{room}-{view}.png" for view in range(2)] for room in range(len(SEEDS))]
    for files, views in zip(paths, rooms.images):
        for path, pixels in zip(files, views):
            Image.fromarray(pixels).save(path)
    return paths


@pytest.mark.parametrize("name", DIGESTS)
def test_most_matches_of_a_room_are_right_and_two_rooms_have_few(name, rooms, photographs):
    network = open_network(name)
    count = right = wrong_room = 0
    for room, (first, second) in enumerate(photographs):
        other = photographs[room - 1][1]
        matches, elsewhere = (match_photographs(network, first, each, SIZE)[0] for each in (second, other))
        cameras = jax.tree.map(lambda leaf, room=room: leaf[room], rooms.cameras)
        truth, visible = find_in_view(matches.first, rooms.depth[room], cameras, 0, 1)
        error = np.linalg.norm(matches.second - truth, axis=-1)
        count += len(error)
        right += np.sum(visible & (error < PATCH))
        wrong_room += len(elsewhere.score)
    assert count > 0.5 * len(SEEDS) * (SIZE // PATCH) ** 2
    assert right > 0.75 * count
    assert wrong_room < 0.25 * count


def test_they_are_models_of_an_evaluation_and_beat_no_motion(tmp_path):
    config = load_config(ROOT / "configs" / "evaluate.py")
    config.evaluate.models = (*DIGESTS, "still")
    config.evaluate.update({"sizes": ((96, 96),), "views": (2,), "layers": (2,), "pictures": 0})
    config.evaluate.update({"evaluators": ("correspondence",), "protocols": ("targets",)})
    config.posed.rooms.groups = 4
    evaluate(config, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    error = {line["model"]["name"]: line["rows"][0]["values"]["px_ate"] for line in lines}
    step = {line["model"]["name"]: line["model"]["step"] for line in lines}
    assert step["small"] == 21_000 and step["tiny"] == 26_000
    assert max(error["small"], error["tiny"]) < 0.75 * error["still"], "attention"


def test_the_card_has_the_digests():
    card = (FOLDER / "README.md").read_text()
    assert all(f"`{digest}`" in card for digest in DIGESTS.values())
