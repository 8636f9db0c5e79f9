"""All files of a report, from a folder of results alone."""

import pathlib

from muskie_jax.files import atomic_write
from muskie_jax.report.curves import correspondence_charts, looks, reconstruction_charts
from muskie_jax.report.page import report_page
from muskie_jax.report.reconstruction_tables import reconstruction_section
from muskie_jax.report.results_file import FILES, read
from muskie_jax.report.selection import HiddenPlace, entries_of, places, titles
from muskie_jax.report.summary import correspondence_sentence, reconstruction_sentence
from muskie_jax.report.table_files import csv_text, latex_text, markdown_text
from muskie_jax.report.tables import correspondence_section

ATTEMPTS = 5


def write_report(folder: pathlib.Path) -> dict[str, pathlib.Path]:
    """Writes results.csv, tables.md, tables.tex and report.html into a folder of results, over older ones.

    Where several hosts end at once, each writes: one whose results grew meanwhile writes again, so that
    no older report stays.

    Returns:
      The paths by `csv`, `markdown`, `latex` and `html`.

    Raises:
      UserError: if there are no results, they cannot be read, or nothing can be written.
    """
    for _ in range(ATTEMPTS):
        before = _sizes(folder)
        paths = _write(folder)
        if _sizes(folder) == before:
            break
    return paths


def _sizes(folder: pathlib.Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in folder.glob(FILES)}


def _write(folder: pathlib.Path) -> dict[str, pathlib.Path]:
    units = read(folder)
    named = titles(unit.model for unit in units)
    drawn = looks(named)
    points, hidden = entries_of(units, "correspondence"), entries_of(units, "reconstruction")

    correspondence, reconstruction, sentences = [], [], []
    for place, title in places(points).items():
        section = correspondence_section(points, place, title, named)
        correspondence.append((section, correspondence_charts(points, place, named, drawn)))
        sentences.append((section.title, correspondence_sentence(points, place, named)))
    for place, title in places(hidden, HiddenPlace).items():
        section = reconstruction_section(hidden, place, title, named)
        reconstruction.append((section, reconstruction_charts(hidden, place, named, drawn)))
        sentences.append((section.title, reconstruction_sentence(hidden, place, named)))
    parts = [("Correspondence", correspondence), ("Reconstruction", reconstruction)]
    parts = [(title, found) for title, found in parts if found]
    tables = [(title, [section for section, _ in found]) for title, found in parts]
    said = [(place, sentence) for place, sentence in sentences if sentence]

    texts = {
        "csv": ("results.csv", csv_text(units)),
        "markdown": ("tables.md", markdown_text(tables)),
        "latex": ("tables.tex", latex_text(tables)),
        "html": ("report.html", report_page(units, named, drawn, said, parts, folder)),
    }
    paths = {}
    for kind, (name, text) in texts.items():
        paths[kind] = folder / name
        with atomic_write(paths[kind], force=True) as part:
            part.write_text(text, encoding="utf-8", errors="backslashreplace")
    return paths
