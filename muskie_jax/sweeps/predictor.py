"""The predictor of correspondence that an experiment names in advance."""

import re
from fractions import Fraction
from typing import NamedTuple

from muskie_jax.checks import require
from muskie_jax.evaluators.predictions import ALL

DEFAULT_PREDICTOR = "feature+refined 5/6"
PREDICTOR_HELP = (
    "Predictor of correspondence and its layer, such as 'feature+refined 4', or 'feature+refined 5/6' for "
    "the layer at five sixths of the network."
)
LAYER = re.compile(rf"{ALL}|[1-9]\d*(/[1-9]\d*)?")


class PredictorName(NamedTuple):
    """A predictor and its layer, see `muskie_jax.evaluators.predictions.Predictor`.

    The layer may be a fraction of the number of layers, so that networks of several sizes are comparable.
    """

    predictor: str
    layer: str

    @classmethod
    def parse(cls, text: str) -> "PredictorName":
        """Parses text such as "attention+refined all", "feature 4" or "feature+refined 5/6".

        Raises:
          UserError: for text of another form.
        """
        words = text.split()
        require(
            len(words) == 2 and LAYER.fullmatch(words[1]),
            f"--predictor={text!r} must be a predictor and its layer, such as {DEFAULT_PREDICTOR!r}",
        )
        return cls(*words)

    def layer_of(self, layers: int) -> str:
        """Returns the layer as results name it, for a network that has `layers` of them."""
        return str(round(Fraction(self.layer) * layers)) if "/" in self.layer else self.layer
