"""Finds matches between photographs, and draws them.

    muskie match 1.jpg 2.jpg --out matches.png

Photographs may have any sizes and orientations; folders stand for their images. The first photograph is
matched with each of the others. Writes the picture, and beside it matches.csv and matches.npz: x and y of
each match in pixels of the two upright photographs, and its score. docs/photographs.md explains the result.
"""

from absl import flags, logging

from muskie_jax.command_line import OUT, run_command
from muskie_jax.compilation_cache import keep_compiled_programs
from muskie_jax.correspondence.sift import import_opencv
from muskie_jax.photographs.command_flags import (
    define_force,
    define_model,
    define_predictor,
    define_size,
    define_turned,
)
from muskie_jax.photographs.match_files import MAX_ROWS, Pair, write_matches
from muskie_jax.photographs.matching import match_photographs, match_warnings, other_photographs
from muskie_jax.photographs.opening import find_photographs, open_network
from muskie_jax.photographs.output_files import plan_outputs
from muskie_jax.photographs.sift import NEEDING, sift_matches
from muskie_jax.writers import log, print_result

_MODEL = define_model()
_SIZE = define_size()
_MAX = flags.DEFINE_integer("max", 80, "Matches to draw for each pair of photographs.", lower_bound=1)
_PREDICTOR = define_predictor()
_TURNED = define_turned()
_BASELINE = flags.DEFINE_enum("baseline", None, ["sift"], "Another method, drawn beside: OpenCV's SIFT.")
_FORCE = define_force()

NEEDED = {"out": "matches.png"}
OPTIONAL = ("model", "size", "max", "predictor", "turned", "baseline", "force")
HELP = {"out": "Picture to write; a .csv and a .npz file with the same name are written beside it."}
ARGUMENTS = ("1.jpg", "2.jpg")


def match(arguments: list[str]) -> None:
    """Matches the photographs of the command line; flags must be parsed."""
    logging.set_verbosity(logging.WARNING)
    keep_compiled_programs()
    first, *rest = find_photographs(arguments)
    others, sift = other_photographs(first, rest), _BASELINE.value is not None
    suffixes = [".csv", ".npz", *([".sift.csv", ".sift.npz"] if sift else [])]
    assert OUT.value is not None, "a needed flag"
    paths = plan_outputs(OUT.value, suffixes, _FORCE.value, [first, *others])
    if sift:
        import_opencv(NEEDING)
    network = open_network(_MODEL.value)
    results = match_photographs(network, first, others, _SIZE.value, _PREDICTOR.value, turned=_TURNED.value)
    pairs = []
    for path, matches in zip(others, results):
        by_method = {"Muskie": matches} | ({"SIFT": sift_matches(first, path)} if sift else {})
        found = f"{path}: {len(matches.score)} of {matches.searched} patches match"
        log(found + (f"; SIFT: {len(by_method['SIFT'].score)}" if sift else ""))
        pairs.append(Pair(path, by_method))
    write_matches(paths, first, pairs, _MAX.value, _FORCE.value)
    for line in match_warnings([(pair.path, pair.matches["Muskie"]) for pair in pairs], _TURNED.value):
        log(line)
    if len(pairs) > MAX_ROWS:
        log(f"{paths[0]} shows the {MAX_ROWS} photographs with most matches")
    counts = [
        {"photograph": str(pair.path)}
        | {name.lower(): len(each.score) for name, each in pair.matches.items()}
        | {"few": pair.matches["Muskie"].are_few, "still": pair.matches["Muskie"].hardly_move}
        for pair in pairs
    ]
    written = [str(path) for path in paths]
    print_result({"job": "match", "first": str(first), "matches": counts, "out": written})


def main(invocation: str = "python -m muskie_jax.match") -> None:
    """Matches the photographs in `sys.argv`. `invocation` is how messages refer to the program."""
    run_command(invocation, __doc__ or "", match, NEEDED, OPTIONAL, ARGUMENTS, HELP)


if __name__ == "__main__":
    main()
