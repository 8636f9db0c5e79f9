"""`perf.match_scores`: photographs of one scene have more matches than those of two."""

import numpy as np

from conftest import write_scene
from muskie_jax.perf import match_scores
from muskie_tests.commands import complaint_of, run_module
from muskie_tests.photographs import texture, write_photograph, write_pixel_network


def test_one_scene_has_more_matches_than_two(tmp_path, capsys):
    model = write_pixel_network(tmp_path / "pixels.safetensors")
    for seed in range(3):
        world = texture(256, 256, seed)
        (tmp_path / "scenes" / f"{seed}").mkdir(parents=True)
        for number in range(2):
            window = world[32 * number : 32 * number + 192, :192]
            write_photograph(tmp_path / "scenes" / f"{seed}" / f"{number}.png", window)
    match_scores.main([str(tmp_path / "scenes"), f"--model={model}", "--size=192"])
    table, wrongly_named = capsys.readouterr().out.split("\n\n")
    rows = [line.split() for line in table.splitlines()[1:]]
    medians = {(row[0], float(row[2])): float(row[4].rstrip("%")) for row in rows}
    assert len(medians) == 2 * len(match_scores.CONFIDENCES)
    assert medians["one", 0.2] > 50 > 5 > medians["two", 0.2]
    by_confidence = [medians["one", least] for least in match_scores.CONFIDENCES]
    assert (np.diff(by_confidence) <= 0).all()
    title, *lines = wrongly_named.splitlines()
    assert "fewer matches than 95% of the pairs of two scenes" in title
    assert dict(line.split() for line in lines)["0.2"] == "0%"


def test_mistakes(tmp_path):
    write_scene(tmp_path / "only", 2, 0)
    complaint = complaint_of(run_module("muskie_jax.perf.match_scores", tmp_path))
    assert "must have a folder for each of two or more scenes" in complaint
