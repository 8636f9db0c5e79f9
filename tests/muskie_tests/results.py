"""A small folder of results, as two hosts leave it when one of them is killed."""

import pathlib
import shutil

import numpy as np
from PIL import Image

from muskie_jax.evaluators.results import ResultRow
from muskie_jax.report.results_file import FigureFile, ModelInfo, ResultUnit, append

HOSTILE = (
    "</td><script>nope()</script><img src=x onerror=nope()> & \"q\" 'r' | *b* $x_1$ \\y{%} ü \u202e\x07"
)
SHOWN = HOSTILE.replace("\u202e", "\\u202e").replace("\x07", "\\x07")  # as a page shows it

STILL = ModelInfo("did not move", "still")
UNTRAINED = ModelInfo("untrained (small)", "muskie", 0, "untrained", 22_000_000, "00ff" * 16)
DINO = ModelInfo("DINOv2", "dinov2", None, "a file", 86_000_000, "d1" * 32)
EARLY, LATE = (
    ModelInfo(f"{HOSTILE} at {step}", "muskie", step, "runs/hostile", 22_000_000, f"{step:064x}")
    for step in (100, 400)
)
NAVI = {"dataset": "navi", "height": 512, "width": 512, "views": 8}
KITCHEN = {"dataset": "kitchen", "height": 96, "width": 128, "views": 4}


def correspondence(eval_set, predictor, layer, px, cm=None, protocol="targets", **labels):
    """Returns a row whose percentages follow from its mean error; without cm there is no depth."""
    values = {"px_ate": px} | {f"px_{t}": min(100.0, 100 * t / px) for t in (1, 2, 5, 10, 25, 50)}
    if cm is not None:
        values |= {"cm_ate": cm} | {f"cm_{t}": min(100.0, 10 * t / cm) for t in (1, 2, 5, 10)}
    labels = {"angle": "all", "points": "all"} | labels
    labels = {"predictor": predictor, "layer": layer, "protocol": protocol} | labels
    return ResultRow(eval_set | labels, values | {"pairs": 700})


def rows_of_network(model, px, cm, eval_set):
    """Yields rows of three layers, of attention over all, refined, consistent and by angle."""
    predictors = ("attention", "feature") if model.kind == "muskie" else ("feature",)
    for protocol, factor in (("targets", 1), ("published", 0.875)):
        for predictor in predictors:
            for layer, worse in ((1, 2.0), (2, 1.25), (3, 1.5)):
                yield correspondence(eval_set, predictor, layer, px * worse * factor, cm, protocol)
        if model.kind == "muskie":
            yield correspondence(eval_set, "attention", "all", px * factor, cm, protocol)
    main = ("attention", "all", 1) if model.kind == "muskie" else ("feature", 2, 1.25)
    predictor, layer, worse = main
    yield correspondence(eval_set, f"{predictor}+refined", layer, px * worse / 2, cm)
    consistent = correspondence(eval_set, predictor, layer, px * worse / 4, cm, points="cycle")
    yield consistent._replace(values=consistent.values | {"pairs": 350})
    for angle, factor in (("0-10", 0.5), ("10-20", 2)):
        yield correspondence(eval_set, predictor, layer, px * worse * factor, cm, angle=angle)


def reconstruction(mse, views, context, overlap="all", references=1):
    eval_set = {"dataset": "kitchen", "height": 96, "width": 128, "mask": "random 0.9"}
    labels = {"views": views, "num_reference": references, "context": context, "overlap": overlap}
    return ResultRow(eval_set | labels, {"mse": mse, "baseline_mse": 0.08, "patches": 1000})


def unit(number, model, evaluator, rows=(), figures=(), **more):
    fields = {"seconds": 2.5, "finished": f"2026-11-22T20:00:{number:02d}Z", "device": "a <b>device</b>"}
    fields |= {"version": "0.1.0"}
    setting = {"groups": 12, "points": 60} | more.pop("setting", {})
    return ResultUnit(
        f"{number:04x}", model, evaluator, setting, tuple(rows), tuple(figures), **fields | more
    )


def units_with_pictures(folder: pathlib.Path) -> list[ResultUnit]:
    """Returns all units and writes their pictures into the folder."""
    (folder / "figures").mkdir(parents=True)
    rng = np.random.default_rng(0)
    figures = []
    for kind, suffix in (("tracks", "jpg"), ("features", "png"), ("reconstruction", "jpg")):
        pixels = rng.integers(0, 255, (60, 240, 3), np.uint8)
        Image.fromarray(pixels).save(folder / "figures" / f"{kind}.{suffix}")
        figures.append(FigureFile(f"figures/{kind}.{suffix}", kind, KITCHEN, f"A caption, {HOSTILE}"))
    Image.fromarray(pixels).save(folder.parent / "elsewhere.png")
    Image.fromarray(pixels).save(folder / "figures" / "other.gif")
    (folder / "figures" / "text.png").write_text("not a picture")
    figures += [
        FigureFile(name, "tracks", {}, "must not be there")
        for name in ("../elsewhere.png", "figures/text.png", "figures/missing.png", "figures/other.gif")
    ]
    shutil.copy(folder / "figures" / "features.png", folder / "figures" / "early.png")
    early = [FigureFile("figures/early.png", "features", KITCHEN, "of an earlier checkpoint")]
    # In the order of a sweep: evaluator, then model. Errors in pixels and centimetres.
    measured = [(UNTRAINED, 80.0, 30.0), (DINO, 16.0, None), (EARLY, 40.0, 12.0), (LATE, 20.0, 6.0)]
    pictures, units = {LATE: figures, EARLY: early}, []
    for eval_set, reader in ((NAVI, "navi"), (KITCHEN, "files")):
        setting = {"reader": reader, "question": eval_set["dataset"]}
        still = [correspondence(eval_set, "still", "all", 100.0, 50.0, p) for p in ("targets", "published")]
        units.append(unit(len(units), STILL, "correspondence", still, setting=setting))
        for model, px, cm in measured:
            rows = rows_of_network(model, px, cm, eval_set)
            shown = pictures.get(model, ())
            units.append(unit(len(units), model, "correspondence", rows, shown, setting=setting))
    for model, mse in ((UNTRAINED, 0.08), (EARLY, 0.05), (LATE, 0.03)):
        alone = [reconstruction(mse * 2.5, 1, "none", references=0)]
        units.append(unit(len(units), model, "reconstruction", alone))
        rows = [reconstruction(mse * 2 / views, views, "own") for views in (2, 4)]
        rows += [reconstruction(0.06, views, "distractor") for views in (2, 4)]
        rows += [reconstruction(0.07, 4, context, references=0) for context in ("own", "distractor")]
        rows += [
            reconstruction(0.04, 4, "own", "0.3-0.6"),
            reconstruction(0.05, 4, "distractor", "0.3-0.6"),
        ]
        units.append(unit(len(units), model, "reconstruction", rows))
    units.append(
        unit(len(units), LATE, "another", [ResultRow({"name": "=1+1", "px_10": "x"}, {"kind": 0.1})])
    )
    return units


def make_results(folder: pathlib.Path) -> list[ResultUnit]:
    """Writes the files of two hosts, one killed while writing, and returns the units that count.

    One unit was done twice: its older line must be ignored.
    """
    units = units_with_pictures(folder)
    older = units[0]._replace(rows=(correspondence(NAVI, "still", "all", 1.0),), finished="2026-11-21")
    append(folder / "results.1.jsonl", older)
    for number, done in enumerate(units):
        append(folder / ("results.1.jsonl" if number % 2 else "results.jsonl"), done)
    with open(folder / "results.1.jsonl", "a") as file:
        file.write('{"unit": "ffff", "model": {"name": "cut')
    return units
