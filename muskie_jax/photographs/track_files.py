"""What `muskie track` writes: a picture of the points in all photographs, a table, arrays and JSON."""

import json
import pathlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

from muskie_jax.files import atomic_write
from muskie_jax.photographs.opening import short_names, thumbnail
from muskie_jax.photographs.output_files import write_arrays, write_picture, write_table
from muskie_jax.photographs.tracking import Tracks
from muskie_jax.viz.found_points import TILE, Tile, points_sheet

MAX_TILES = 23  # photographs in the picture, beside the query
SUFFIXES = (".csv", ".npz", ".json")
COLUMNS = ("point", "photograph", "x", "y", "confidence", "visible")


def write_tracks(paths: Sequence[pathlib.Path], tracks: Tracks, force: bool) -> None:
    """Writes the picture, and the files with SUFFIXES.

    Points are counted from 1, as in the picture; arrays follow their order.

    Raises:
      UserError: if a file cannot be written.
    """
    picture, table, arrays, document = paths
    rows = [
        {
            "point": point + 1,
            "photograph": str(path),
            "x": round(float(tracks.positions[point, view, 0]), 2),
            "y": round(float(tracks.positions[point, view, 1]), 2),
            "confidence": round(float(tracks.confidence[point, view]), 4),
            "visible": bool(tracks.visible[point, view]),
        }
        for point in range(len(tracks.points))
        for view, path in enumerate(tracks.paths)
    ]
    write_table(table, force, COLUMNS, [list(row.values()) for row in rows])
    with atomic_write(document, force) as part:
        content = {"query": str(tracks.query), "points": tracks.points.tolist(), "found": rows}
        part.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    write_arrays(
        arrays,
        force,
        points=tracks.points,
        positions=tracks.positions,
        confidence=tracks.confidence,
        visible=tracks.visible,
        photographs=np.array([str(path) for path in tracks.paths]),
        query=str(tracks.query),
    )
    write_picture(picture, tracks_picture(tracks), force)


def tracks_picture(tracks: Tracks) -> UInt8[np.ndarray, "height width 3"]:
    """Draws the query with its numbered points, and the points that were found in the other photographs.

    Of more than MAX_TILES photographs, those with most points are drawn, in their order.
    """
    query_name, *names = short_names([tracks.query, *tracks.paths])
    most_points = np.argsort(-tracks.visible.sum(0), kind="stable")[:MAX_TILES]
    others = [
        _tile(names[view], tracks.paths[view], tracks.positions[:, view], tracks.visible[:, view])
        for view in sorted(most_points.tolist())
    ]
    everywhere = np.ones(len(tracks.points), bool)
    return points_sheet(_tile(query_name, tracks.query, tracks.points, everywhere), others)


def _tile(name: str, path: pathlib.Path, positions: np.ndarray, visible: np.ndarray) -> Tile:
    pixels, scale = thumbnail(path, 2 * TILE)
    return Tile(name, pixels, positions * scale, visible)
