"""Prints how many points models find, by one predictor, pooled over the datasets of an evaluation.

    muskie pooled --workdir runs/evaluation

--workdir is that of `muskie evaluate`. Every pair of a point and a view has the same weight. The reports of
an evaluation show each dataset by itself, and mainly attention; --predictor selects what is printed here.
"""

from absl import flags, logging

from muskie_jax.command_line import WORKDIR, run_command
from muskie_jax.errors import UserError, fail
from muskie_jax.files import user_path
from muskie_jax.report import results_file
from muskie_jax.sweeps.outcomes import MEASURES, POINT_MEASURES, correspondence
from muskie_jax.sweeps.predictor import DEFAULT_PREDICTOR, PREDICTOR_HELP, PredictorName

_PREDICTOR = flags.DEFINE_string("predictor", DEFAULT_PREDICTOR, PREDICTOR_HELP)

NEEDED = {"workdir": "runs/evaluation"}


def pooled() -> None:
    """Prints the table that the flags describe; they must be parsed."""
    logging.set_verbosity(logging.WARNING)
    try:
        folder, predictor = user_path(WORKDIR.value or ""), PredictorName.parse(_PREDICTOR.value)
        datasets = {unit.setting["dataset"] for unit in results_file.read(folder)}
        measured = correspondence(folder, datasets, predictor)
    except UserError as error:
        fail(str(error))
    titles = [MEASURES[key][0] for key in POINT_MEASURES]
    print(f"| {' | '.join(['model', 'step', *titles])} |")
    print("| --- |" + " ---: |" * (1 + len(titles)))
    for (name, step), values in measured.items():
        cells = [f"{values[key]:.{MEASURES[key][1]}f}" for key in POINT_MEASURES]
        print(f"| {' | '.join([name, '' if step is None else str(step), *cells])} |")


def main(invocation: str = "python -m muskie_jax.sweeps.pooled") -> None:
    """Prints the table of the flags in `sys.argv`. `invocation` is how messages refer to the program."""
    run_command(invocation, __doc__ or "", pooled, NEEDED, ("predictor",))


if __name__ == "__main__":
    main()
