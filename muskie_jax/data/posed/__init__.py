"""Posed datasets: views with depth and cameras, on which correspondence is measured.

`open_posed(name, settings, views)` opens one entry of `config.posed` as a `PosedSet`: groups of views that
are always the same for the same settings. `PosedSet.load` returns the pixels of a group as `PosedViews`.

A *reader* is a module of this package that parses one file layout. It defines

- `EXPECTED_FILES`, a description of what identifies a root folder, for error messages;
- `read(root, settings) -> RGBDDataset`, which returns all `Sequence`s of `Frame`s below a folder. A frame
  contains the paths of its image and depth map, and its camera: intrinsics in pixels and world_to_camera in
  metres, both with OpenCV axes. Either all frames have a depth map, or none has. `read` parses text files,
  and image headers if a size is needed, but reads no pixels. It raises `UserError`, or `BadImage` for an
  unreadable header.

Everything else is shared: kinds of depth maps (`muskie_jax.data.depth`), resizing and cropping
(`pixels.py`), groups (`groups.py`), checks of headers, poses and intrinsics (`frames.py`), of lens
distortion (`distortion.py`) and of missing files (`missing.py`), and helpers for parsing (`parsing.py`).

To add a reader called `mine`:

1. Write `mine.py` with `EXPECTED_FILES` and `read`; `cameras_json.py` is the shortest example. Its
   docstring documents the files, and the assumptions about them.
2. Add it to `READER_MODULES` in `dataset.py`, and a file that identifies it to `MARKER_FILES`.
3. Add it to `PROTOCOLS` in `settings.py`: its default way to choose groups, and its default frame stride.
   If it has more settings than `RecordingSettings`, add their class to `SETTINGS`. Add it to
   `CONVENTIONS` in `warp_refusal.py`, which lists the poses and axes of files, and to `READERS` in
   `configs/evaluate.py`.
4. Write a miniature of the layout, `mine(root)`, in `tests/muskie_tests/posed_trees.py`, and add the reader
   to the lists of readers in `tests/data/test_posed.py`, `test_posed_opening.py` and
   `test_posed_errors.py`. They compare pixels, depth and cameras with what was written, and check errors.
5. Add a row to the tables of readers in `docs/evaluation.md` and `docs/bring_your_own.md`.

Then `config.posed.kitchen = posed("mine", root="/data/kitchen")` evaluates on it.
"""

from muskie_jax.data.posed.dataset import open_posed
from muskie_jax.data.posed.views import Group, PosedSet, PosedViews

__all__ = ["Group", "PosedSet", "PosedViews", "open_posed"]
