"""Measures how many matches photographs of different scenes have, and photographs of one scene.

    python -m muskie_jax.perf.match_scores photos/ --model=small

`photos/` has a folder for each scene. Prints, for several minimum confidences, the fraction of searched
patches that match: between photographs of one scene that are --step apart, and of different scenes. Then
prints how many pairs of one scene a warning about few matches would wrongly name.
MIN_CONFIDENCE and FEW, in `muskie_jax.photographs`, follow from it.
"""

import argparse
import sys
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from muskie_jax.checks import require
from muskie_jax.data.load_images import list_images
from muskie_jax.errors import UserError, fail
from muskie_jax.files import user_path
from muskie_jax.photographs.encoding import PREDICTOR, PREDICTORS, encode
from muskie_jax.photographs.matching import Matches, matches_of
from muskie_jax.photographs.opening import SIZE, Network, open_network
from muskie_jax.writers import table_head, table_row

CONFIDENCES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
QUANTILES = (0.05, 0.5, 0.95)


def match_pairs(network: Network, pairs: Sequence, size: int, predictor: str) -> list[Matches]:
    """Returns all consistent matches of pairs of photographs, whatever their confidence."""
    return [matches_of(encode(network, pair, size, predictor), 0, 0.0)[0] for pair in pairs]


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m muskie_jax.perf.match_scores",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", help="folder with a folder for each scene")
    parser.add_argument("--model", default="small", help="see load_pretrained")
    parser.add_argument("--size", type=int, default=SIZE, help="shorter side, pixels")
    parser.add_argument("--step", type=int, default=2, help="distance of two photographs of one scene")
    parser.add_argument("--predictor", default=PREDICTOR, choices=PREDICTORS)
    options = parser.parse_args(arguments)
    try:
        _print_fractions(options)
    except UserError as error:
        fail(str(error))


def _print_fractions(options: argparse.Namespace) -> None:
    scenes = [list_images(each) for each in sorted(user_path(options.folder).iterdir()) if each.is_dir()]
    require(len(scenes) > 1, f"{options.folder} must have a folder for each of two or more scenes")
    network = open_network(options.model)
    last = lambda scene: scene[min(options.step, len(scene) - 1)]
    kinds = {
        "one scene": [(scene[0], last(scene)) for scene in scenes],
        "two scenes": [
            (scene[0], last(scenes[(number + shift) % len(scenes)]))
            for shift in (1, 2)
            for number, scene in enumerate(scenes)
        ],
    }
    by_kind = {}
    columns = (("", 10), ("confidence", 10), *((f"{quantile:.0%}", 6) for quantile in QUANTILES))
    print(table_head(columns))
    for name, pairs in kinds.items():
        matches = match_pairs(network, pairs, options.size, options.predictor)
        by_kind[name] = [fractions(matches, least) for least in CONFIDENCES]
        for least, values in zip(CONFIDENCES, by_kind[name]):
            cells = [f"{value:.1%}" for value in np.quantile(values, QUANTILES)]
            print(table_row([name, f"{least:g}", *cells], columns))
    print("\nPairs of one scene with fewer matches than 95% of the pairs of two scenes:")
    for least, one, two in zip(CONFIDENCES, *by_kind.values()):
        print(table_row(["", f"{least:g}", f"{(one < np.quantile(two, 0.95)).mean():.0%}"], columns[:3]))


def fractions(matches: Sequence[Matches], least: float) -> Float[np.ndarray, " pairs"]:
    """Returns the fraction of searched patches that match with a confidence of at least `least`."""
    return np.array([(each.score >= least).sum() / max(1, each.searched) for each in matches])


if __name__ == "__main__":
    main(sys.argv[1:])
