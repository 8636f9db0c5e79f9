"""Writes all files of a report from a folder of results."""

import pathlib

from muskie_jax.files import atomic_write
from muskie_jax.report.correspondence_tables import correspondence_section
from muskie_jax.report.curves import correspondence_charts, line_styles, reconstruction_charts
from muskie_jax.report.epipolar_tables import TITLE as EPIPOLAR_TITLE
from muskie_jax.report.epipolar_tables import epipolar_section, epipolar_sentence
from muskie_jax.report.geometry_tables import (
    GEOMETRY_TITLE,
    PROBE_TITLE,
    RECALL_TITLE,
    geometry_section,
    pose_sentence,
    probe_section,
    recall_section,
)
from muskie_jax.report.page import report_page
from muskie_jax.report.reconstruction_tables import reconstruction_section
from muskie_jax.report.results_file import FILES, read
from muskie_jax.report.selection import (
    EvalSet,
    MaskedEvalSet,
    eval_sets,
    measurements_of,
    unique_titles,
    with_mean_colour,
)
from muskie_jax.report.summary import correspondence_sentence, reconstruction_sentence
from muskie_jax.report.table_files import csv_text, latex_text, markdown_text

ATTEMPTS = 5


def write_report(folder: pathlib.Path) -> dict[str, pathlib.Path]:
    """Writes results.csv, tables.md, tables.tex and report.html, replacing older files.

    If several hosts finish at once, each writes the report. A host starts again if its input grew while it
    wrote, so the last report covers all results.

    Args:
      folder: folder with the results.

    Returns:
      The paths by `csv`, `markdown`, `latex` and `html`.

    Raises:
      UserError: if there are no results, or files cannot be read or written.
    """
    paths = {}
    for _ in range(ATTEMPTS):
        sizes_before = _results_sizes(folder)
        paths = _write_once(folder)
        if _results_sizes(folder) == sizes_before:
            break
    return paths


def _results_sizes(folder: pathlib.Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in folder.glob(FILES)}


def _write_once(folder: pathlib.Path) -> dict[str, pathlib.Path]:
    units = read(folder)
    reconstructed = with_mean_colour(measurements_of(units, "reconstruction"))
    models = [unit.model for unit in units] + [measurement.model for measurement in reconstructed]
    titles = unique_titles(models)
    styles = line_styles(titles)

    correspondence, epipolar, reconstruction, sentences = [], [], [], []
    measurements = measurements_of(units, "correspondence")
    for eval_set, title in eval_sets(measurements, EvalSet).items():
        section = correspondence_section(measurements, eval_set, title, titles)
        correspondence.append((section, correspondence_charts(measurements, eval_set, titles, styles)))
        sentences.append((title, correspondence_sentence(measurements, eval_set, titles)))
    measurements = measurements_of(units, "epipolar")
    for eval_set, title in eval_sets(measurements, EvalSet).items():
        epipolar.append((epipolar_section(measurements, eval_set, title, titles), []))
        sentences.append((title, epipolar_sentence(measurements, eval_set, titles)))
    for eval_set, title in eval_sets(reconstructed, MaskedEvalSet).items():
        section = reconstruction_section(reconstructed, eval_set, title, titles)
        reconstruction.append((section, reconstruction_charts(reconstructed, eval_set, titles, styles)))
        sentences.append((title, reconstruction_sentence(reconstructed, eval_set, titles)))
    frozen = {"recall": recall_section, "pose_probe": probe_section}
    geometry = {
        name: [
            (section_of(measurements, eval_set, title, titles), [])
            for measurements in [measurements_of(units, name)]
            for eval_set, title in eval_sets(measurements, EvalSet).items()
        ]
        for name, section_of in (frozen | {"geometry": geometry_section}).items()
    }
    measurements = measurements_of(units, "geometry")
    for eval_set, title in eval_sets(measurements, EvalSet).items():
        sentences.append((title, pose_sentence(measurements, eval_set, titles)))
    parts = [
        ("Correspondence", correspondence),
        (EPIPOLAR_TITLE, epipolar),
        ("Reconstruction", reconstruction),
        (GEOMETRY_TITLE, geometry["geometry"]),
        (RECALL_TITLE, geometry["recall"]),
        (PROBE_TITLE, geometry["pose_probe"]),
    ]
    parts = [(title, sections) for title, sections in parts if sections]
    tables = [(title, [section for section, _ in sections]) for title, sections in parts]
    summary = [(title, sentence) for title, sentence in sentences if sentence]

    texts = {
        "csv": ("results.csv", csv_text(units)),
        "markdown": ("tables.md", markdown_text(tables)),
        "latex": ("tables.tex", latex_text(tables)),
        "html": ("report.html", report_page(units, titles, styles, summary, parts, folder)),
    }
    paths = {}
    for kind, (name, text) in texts.items():
        paths[kind] = folder / name
        with atomic_write(paths[kind], force=True) as part:
            part.write_text(text, encoding="utf-8", errors="backslashreplace")
    return paths
