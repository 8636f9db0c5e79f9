"""The predictor of correspondence that an experiment names in advance."""

from typing import NamedTuple

from muskie_jax.checks import require
from muskie_jax.evaluators.predictions import ALL

DEFAULT_PREDICTOR = "attention+refined all"
PREDICTOR_HELP = "Predictor of correspondence and its layer, such as 'feature+refined 4'."


class PredictorName(NamedTuple):
    """A predictor and its layer, see `muskie_jax.evaluators.predictions.Predictor`."""

    predictor: str
    layer: str

    @classmethod
    def parse(cls, text: str) -> "PredictorName":
        """Parses text such as "attention+refined all" or "feature 4".

        Raises:
          UserError: for text of another form.
        """
        words = text.split()
        require(
            len(words) == 2 and (words[1] == ALL or words[1].isdigit()),
            f"--predictor={text!r} must be a predictor and its layer, such as {DEFAULT_PREDICTOR!r}",
        )
        return cls(*words)
