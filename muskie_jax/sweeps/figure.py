r"""Draws an experiment: its runs beside their base, or the correspondence of a run over minutes.

    muskie figure --config configs/ablations.py --workdir runs/ablations --out ablations.svg
    muskie figure --workdir runs/curve --out curve.svg

--out is an SVG file. With --config, --workdir is that of `muskie experiment` with this config. A row is a
run: a small dot for each seed, a large dot for their mean, and a line of one standard deviation to each
side. Rows are grouped by QUESTIONS of the config file, if it has them.

Without --config, --workdir is that of `muskie evaluate` on several checkpoints of a run, and the picture is
a curve over minutes of training. --predictor selects the predictor, and --levels adds horizontal lines.
"""

import pathlib
from collections.abc import Sequence

from absl import flags, logging
from ml_collections import config_flags

from muskie_jax.checks import one_of, require
from muskie_jax.command_line import CONFIG, FLAGS, OUT, WORKDIR, run_command
from muskie_jax.config_file import load_module
from muskie_jax.errors import UserError, fail
from muskie_jax.files import user_path
from muskie_jax.report import results_file
from muskie_jax.sweeps.drawing import Question, comparison_svg, time_curve_svg
from muskie_jax.sweeps.outcomes import (
    ALL_MEASURES,
    BASELINE,
    POINT_MEASURES,
    SUMMARIES,
    Summary,
    correspondence,
    minutes_at_steps,
    read_summaries,
)
from muskie_jax.sweeps.predictor import DEFAULT_PREDICTOR, PREDICTOR_HELP, PredictorName

DEFAULT_MEASURES = ("px_10", "recordings_auc_30", "rooms_auc_30")
_MEASURE = flags.DEFINE_string(
    "measure",
    None,
    f"What to draw: {', '.join(f'{key} ({title})' for key, (title, _) in ALL_MEASURES.items())}. "
    f"By default the first of {', '.join(DEFAULT_MEASURES)} that was measured.",
)
_LEVELS = flags.DEFINE_list(
    "levels", None, "Without --config: lines to compare with, such as SIFT=40.1,DINOv2=55.3."
)
_PREDICTOR = flags.DEFINE_string(
    "predictor", DEFAULT_PREDICTOR, f"Without --config: {PREDICTOR_HELP[0].lower()}{PREDICTOR_HELP[1:]}"
)
_NOTE = flags.DEFINE_string("note", "", "Text below the picture, such as machine and date.")

NEEDED = {"workdir": "runs/ablations", "out": "ablations.svg"}


def figure() -> None:
    """Draws the picture that the flags describe; they must be parsed."""
    logging.set_verbosity(logging.WARNING)
    measure, note = _MEASURE.value, _NOTE.value
    try:
        if measure is not None:
            one_of(measure, ALL_MEASURES, "--measure")
        workdir, out = user_path(WORKDIR.value or ""), user_path(OUT.value or "")
        require(out.suffix == ".svg", f"--out={out} must be a file whose name ends with .svg")
        if CONFIG.value is not None:
            predictor, summaries = read_summaries(workdir / SUMMARIES)
            file = config_flags.get_config_filename(FLAGS[CONFIG.name]).partition(":")[0]
            measure = _measured(measure, summaries)
            if measure in POINT_MEASURES:
                note = "; ".join(filter(None, (f"correspondence by {predictor}", note)))
            text = comparison_svg(_questions(file, summaries), summaries, measure, note)
        else:
            text = _time_curve(
                workdir, measure or DEFAULT_MEASURES[0], _parse_levels(_LEVELS.value or ()), note
            )
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text, encoding="utf-8")
    except (UserError, OSError) as error:
        fail(str(error))
    print(out)


def _measured(measure: str | None, summaries: Sequence[Summary]) -> str:
    """Returns the measure to draw: the given one, or by default the first of DEFAULT_MEASURES with values.

    Raises:
      UserError: if no run has a value.
    """
    known = [key for key in ALL_MEASURES if any(summary.values.get(key) for summary in summaries)]
    chosen = measure or next((key for key in DEFAULT_MEASURES if key in known), DEFAULT_MEASURES[0])
    require(chosen in known, f"--measure={chosen} was not measured: choose from {', '.join(known)}")
    return chosen


def _questions(file: str, summaries: Sequence[Summary]) -> list[Question]:
    """Returns the questions of a config file, or one about all runs except the first."""
    asked = getattr(load_module(file), "QUESTIONS", None)
    if asked is None:
        runs = tuple(each.name for each in summaries[1:] if each.name != BASELINE)
        return [Question("Runs", summaries[0].name, runs)]
    return [Question(*question) for question in asked]


def _parse_levels(entries: Sequence[str]) -> dict[str, float]:
    levels = {}
    for entry in entries:
        name, _, value = entry.partition("=")
        try:
            levels[name] = float(value)
        except ValueError:
            raise UserError(
                f"--levels has {entry!r}, which must be a name and a number: SIFT=40.1"
            ) from None
    return levels


def _time_curve(folder: pathlib.Path, measure: str, more_levels: dict[str, float], note: str) -> str:
    """Returns the chart of an evaluation of several checkpoints of one or more runs."""
    require(measure in POINT_MEASURES, f"--measure={measure} needs --config: draw px or px_10 instead")
    predictor = PredictorName.parse(_PREDICTOR.value)
    units = results_file.read(folder)
    sources = {unit.model.name: unit.model.source for unit in units}
    measured = correspondence(folder, {unit.setting["dataset"] for unit in units}, predictor)
    curves: dict[str, list[tuple[float, float]]] = {}
    levels: dict[str, float] = {}
    for (name, step), values in sorted(measured.items(), key=lambda item: item[0][1] or 0):
        minutes = minutes_at_steps(pathlib.Path(sources[name])) if step else {}
        if step in minutes:
            curves.setdefault(name, []).append((minutes[step], values[measure]))
        else:
            levels[name] = values[measure]
    require(
        any(len(points) > 1 for points in curves.values()),
        f"{folder} has no two checkpoints of a run with metrics.jsonl: evaluate it with "
        "--config.evaluate.checkpoints=all",
    )
    return time_curve_svg(
        curves, levels | more_levels, measure, "; ".join(filter(None, (" ".join(predictor), note)))
    )


def main(invocation: str = "python -m muskie_jax.sweeps.figure") -> None:
    """Draws the picture of the flags in `sys.argv`. `invocation` is how messages refer to the program."""
    optional = ("config", "measure", "predictor", "levels", "note")
    run_command(invocation, __doc__ or "", figure, NEEDED, optional)


if __name__ == "__main__":
    main()
