"""Finds points of a photograph in others.

    muskie track query.jpg views/ --points "812,430; 96,310" --out tracks.png

Points are x,y in pixels of the upright query, as image viewers show it. Photographs may have any sizes and
orientations; folders stand for their images. Writes the picture, and beside it tracks.csv, tracks.npz and
tracks.json: where each point is in each photograph, with a confidence, and whether it is visible.
docs/photographs.md explains the result.
"""

from absl import flags, logging

from muskie_jax.command_line import OUT, run_command
from muskie_jax.compilation_cache import keep_compiled_programs
from muskie_jax.photographs.command_flags import (
    define_force,
    define_model,
    define_predictor,
    define_size,
    define_turned,
)
from muskie_jax.photographs.matching import other_photographs
from muskie_jax.photographs.opening import find_photographs, open_network
from muskie_jax.photographs.output_files import plan_outputs
from muskie_jax.photographs.track_files import MAX_TILES, SUFFIXES, write_tracks
from muskie_jax.photographs.tracking import check_points, parse_points, track_photographs
from muskie_jax.writers import log, print_result

_POINTS = flags.DEFINE_string("points", None, 'Points of the query: "x,y; x,y", in its pixels.')
_MODEL = define_model()
_SIZE = define_size()
_PREDICTOR = define_predictor()
_TURNED = define_turned()
_FORCE = define_force()

NEEDED = {"points": '"812,430; 96,310"', "out": "tracks.png"}
OPTIONAL = ("model", "size", "predictor", "turned", "force")
HELP = {"out": "Picture to write; .csv, .npz and .json files with the same name are written beside it."}
ARGUMENTS = ("query.jpg", "views/")


def track(arguments: list[str]) -> None:
    """Finds the points of the command line; flags must be parsed."""
    logging.set_verbosity(logging.WARNING)
    keep_compiled_programs()
    query, *rest = find_photographs(arguments)
    assert OUT.value is not None and _POINTS.value is not None, "needed flags"
    points, others = parse_points(_POINTS.value), other_photographs(query, rest)
    check_points(points, query)
    paths = plan_outputs(OUT.value, SUFFIXES, _FORCE.value, [query, *others])
    network = open_network(_MODEL.value)
    tracks = track_photographs(
        network, query, others, points, _SIZE.value, _PREDICTOR.value, turned=_TURNED.value
    )
    write_tracks(paths, tracks, _FORCE.value)
    seen = tracks.visible.sum(1).tolist()
    for number, ((x, y), count) in enumerate(zip(points.tolist(), seen), 1):
        log(f"Point {number} at {x:g},{y:g}: found in {count} of {len(others)} photographs")
    if len(others) > MAX_TILES:
        log(f"{paths[0]} shows the {MAX_TILES} photographs with most points; the other files have all")
    print_result({"job": "track", "query": str(query), "found": seen, "out": [str(path) for path in paths]})


def main(invocation: str = "python -m muskie_jax.track") -> None:
    """Finds the points in `sys.argv`. `invocation` is how messages refer to the program."""
    run_command(invocation, __doc__ or "", track, NEEDED, OPTIONAL, ARGUMENTS, HELP)


if __name__ == "__main__":
    main()
