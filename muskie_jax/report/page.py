"""Writes report.html: a single self-contained file that loads nothing and opens from disk."""

import base64
import hashlib
import io
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from PIL import Image

from muskie_jax.report.charts import Chart, LineStyle, chart_svg, swatch
from muskie_jax.report.curves import LineStyles
from muskie_jax.report.markup import Element, page_text, raw, tag
from muskie_jax.report.results_file import FigureFile, ModelInfo, ResultUnit
from muskie_jax.report.selection import MISSING, badge, family, parse_range, shown_models, sort_key
from muskie_jax.report.style import SCRIPT, STYLE
from muskie_jax.report.table_files import BEYOND_PAPER
from muskie_jax.report.tables import BOLD, Row, Section, Table, Titles
from muskie_jax.writers import duration

FIGURES = {  # kind -> title and note
    "tracks": (
        "Tracks",
        "Points of the first view, tracked into the other views. Rings: ground truth. Dots: predictions.",
    ),
    "epipolar": (
        "Epipolar lines",
        "Points of the first view, in views whose depth is unknown. Lines: where the point of that colour "
        "must lie. Dots: predictions.",
    ),
    "features": (
        "Features as colours",
        "Principal components of the features, in one palette for all views: a surface that the network "
        "recognises has the same colour in each view.",
    ),
    "reconstruction": (
        "Reconstructions",
        "From top to bottom: input, prediction, confidence (dark to bright), ground truth.",
    ),
    "geometry": (
        "Depth",
        "From top to bottom: views, predicted depth, true depth. Near is red, far is blue.",
    ),
}
LONG_NAME, LONG_HEADER = 40, 10  # characters; longer texts wrap
LABEL_NAMES = {"num_reference": "reference views"}  # names of picture labels
COUNT_LABELS = ("views", "reference views")  # written as "8 views"; other labels as "layer 3"
IN_3D = "Open in 3D"  # a link to a figure's page
MEDIA_TYPES = {"JPEG": "image/jpeg", "PNG": "image/png"}
HOW_TO_READ = {  # by part
    "Correspondence": "ATE is the mean distance between true and predicted positions of points, in pixels "
    "of the image or in centimetres of the scene. @5 px is the percentage of points that are at most 5 px "
    "off. Trivial baselines use no network: a network that does not beat them has not learned "
    f"correspondence. {BOLD} Click a column header to sort by it.",
    "Reconstruction": "The trivial baseline fills masked patches with the mean colour of the visible ones: "
    f"a network that does not beat it has not learned to reconstruct. {BOLD}",
}


def report_page(
    units: Sequence[ResultUnit],
    titles: Titles,
    styles: LineStyles,
    sentences: Sequence[tuple[str, str]],
    parts: Sequence[tuple[str, Sequence[tuple[Section, Sequence[Chart]]]]],
    folder: pathlib.Path,
) -> str:
    """Returns the page as HTML.

    Args:
      units: everything that was measured.
      titles: titles of models.
      styles: line styles of model families, for charts and tables.
      sentences: pairs (title of an evaluation set, its main result), for the summary.
      parts: pairs (title, list of (tables, charts) per evaluation set).
      folder: folder with the figures.
    """
    pictures = _pictures(units, titles, folder)
    chapters = [(title, f"part{number}") for number, (title, _) in enumerate(parts)]
    chapters += [("Pictures", "pictures")] if pictures else []
    links = [tag("a", title, href=f"#{anchor}") for title, anchor in chapters]
    body = [
        tag("h1", "Evaluation"),
        tag("p", _dates_and_versions(units), class_="soft"),
        tag("nav", *links, aria_label="Contents") if len(links) > 1 else None,
        _summary(sentences),
        tag("h2", "What was measured"),
        _facts(units),
        _model_table(units, titles, styles),
    ]
    for (title, sections), (_, anchor) in zip(parts, chapters):
        body.append(tag("h2", title, id=anchor))
        if title in HOW_TO_READ:
            body.append(tag("p", HOW_TO_READ[title], class_="note"))
        for section, charts in sections:
            body += _section(section, charts, titles, styles)
    if pictures:
        body += [tag("h2", "Pictures", id="pictures"), *pictures]
    return page_text(tag("html", _head(), tag("body", *body, raw("script", SCRIPT)), lang="en"))


def _head() -> Element:
    """Returns the page's head. Its policy allows only our script, in case a name has unescaped markup."""
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    return tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", "Evaluation"),
        raw("style", STYLE),
    )


def _dates_and_versions(units: Sequence[ResultUnit]) -> str:
    days = sorted({unit.finished[:10] for unit in units if unit.finished})
    versions = sorted({unit.version for unit in units if unit.version})
    parts = [" to ".join(dict.fromkeys((days[0], days[-1])))] if days else []
    parts += [f"muskie_jax {', '.join(versions)}"] if versions else []
    return ", ".join(parts)


def _summary(sentences: Sequence[tuple[str, str]]) -> Element | None:
    if not sentences:
        return None
    items = [tag("li", tag("b", f"{title}:"), f" {sentence}") for title, sentence in sentences]
    return tag("div", tag("ul", *items), class_="summary")


def _facts(units: Sequence[ResultUnit]) -> Element:
    """Lists the size of each dataset, the devices and the time."""
    facts = []
    for dataset, description in _dataset_sizes(units).items():
        facts += [tag("dt", dataset), tag("dd", description)]
    devices = sorted({unit.device for unit in units if unit.device})
    if devices:
        facts += [tag("dt", "Devices"), tag("dd", ", ".join(devices))]
    seconds = sum(unit.seconds for unit in units)
    facts += [tag("dt", "Time"), tag("dd", f"{duration(seconds)} for {len(units)} evaluations")]
    return tag("dl", *facts)


def _dataset_sizes(units: Sequence[ResultUnit]) -> dict[str, str]:
    """Describes each dataset, for example "12 groups, 8 views, 512x512 pixels"."""
    sizes: dict[str, set[tuple]] = {}
    counts: dict[str, dict[str, set[float]]] = {}
    for unit in units:
        for row in unit.rows:
            if "dataset" not in row.labels:
                continue
            dataset = str(row.labels["dataset"])
            size = (row.labels.get("height"), row.labels.get("width"))
            sizes.setdefault(dataset, set()).update({size} if None not in size else ())
            of_dataset = counts.setdefault(dataset, {"groups": set(), "views": set(), "pairs": set()})
            for name, value in (
                ("groups", row.values.get("groups", unit.setting.get("groups"))),
                ("views", row.labels.get("views")),
                ("pairs", row.values.get("pairs")),
            ):
                if isinstance(value, int | float):
                    of_dataset[name].add(value)
    descriptions = {}
    for dataset, of_dataset in counts.items():
        groups, views, pairs = of_dataset["groups"], of_dataset["views"], of_dataset["pairs"]
        parts = []
        if groups:
            parts.append(f"{'up to ' if len(groups) > 1 else ''}{max(groups):,.0f} groups")
        if views:
            parts.append(f"{_alternatives(f'{count:g}' for count in sorted(views))} views")
        if sizes[dataset]:
            shapes = sorted(sizes[dataset], key=str)
            parts.append(f"{_alternatives(f'{height}x{width}' for height, width in shapes)} pixels")
        if pairs:
            parts.append(f"up to {max(pairs):,.0f} pairs of a point and a view")
        descriptions[dataset] = ", ".join(parts)
    return descriptions


def _alternatives(texts: Iterable[str]) -> str:
    *rest, last = texts
    return f"{', '.join(rest)} or {last}" if rest else last


def _model_table(units: Sequence[ResultUnit], titles: Titles, styles: LineStyles) -> Element:
    """Lists every model, checkpoints included."""
    rows = []
    for model in sorted({unit.model for unit in units}, key=sort_key):
        cells = [
            _name_cell(titles[model], badge(model), styles.get(family(model))),
            tag("td", model.kind),
            _number_cell(None if model.step is None else f"{model.step:,}", model.step),
            _number_cell(None if model.parameters is None else f"{model.parameters:,}", model.parameters),
            tag("td", model.digest[:8], title=model.digest or None),
            tag("td", model.source),
        ]
        rows.append(tag("tr", *cells))
    names = ("model", "kind", "step", "parameters", "digest", "source")
    header = [_header_cell(name, is_number=name in ("step", "parameters")) for name in names]
    return _scrollable(tag("table", tag("thead", tag("tr", *header)), tag("tbody", *rows)))


def _section(
    section: Section, charts: Sequence[Chart], titles: Titles, styles: LineStyles
) -> Iterable[Element]:
    """Yields the tables and charts of an evaluation set, then its tables and charts beyond the paper."""
    yield tag("h3", section.title)
    for table in section.tables:
        yield from _table(table, styles)
    yield from _charts([chart for chart in charts if not chart.beyond_paper], titles, styles)
    for table in section.details:
        heading, *rest = _table(table, styles)
        yield tag("details", tag("summary", heading.text), *rest)
    if section.beyond_paper:
        parts = [part for table in section.beyond_paper for part in _table(table, styles)]
        for table in section.complete:
            heading, *rest = _table(table, styles)
            parts.append(tag("details", tag("summary", f"{heading.text}: all rows"), *rest))
        parts += _charts([chart for chart in charts if chart.beyond_paper], titles, styles)
        yield tag("div", tag("h4", BEYOND_PAPER), *parts, class_="ours")


def _charts(charts: Sequence[Chart], titles: Titles, styles: LineStyles) -> Iterable[Element]:
    """Yields charts side by side, under one legend."""
    if charts:
        yield _legend(charts, titles, styles)
        figures = [
            tag("figure", chart_svg(chart), tag("figcaption", chart.note) if chart.note else None)
            for chart in charts
        ]
        yield tag("div", *figures, class_="charts")


def _legend(charts: Sequence[Chart], titles: Titles, styles: LineStyles) -> Element:
    """Lists each model family of these charts once, by its last model."""
    drawn = {series.style for chart in charts for series in chart.series}
    items = []
    for model, title in titles.items():
        style = styles[family(model)]
        last = shown_models(other for other in titles if family(other) == family(model))[-1]
        if style in drawn and model == last:
            items.append(tag("li", swatch(style), tag("span", title)))
    return tag("ul", *items, class_="legend")


def _table(table: Table, styles: LineStyles) -> Iterable[Element]:
    """Yields a table's heading, the table and its note."""
    header = [_header_cell(name) for name in table.label_names]
    header += [_header_cell(column.name, is_number=True) for column in table.columns]

    def tr(row: Row) -> Element:
        model, *labels = row.labels
        cells = [_name_cell(model, row.badge, styles.get(row.family))]
        cells += [tag("td", label, class_="name") for label in labels]
        for column, value in enumerate(row.values):
            text = None if value is None else table.text(row, column)
            interval = table.interval_text(row, column)
            cells.append(_number_cell(text, value, interval, table.is_best(row, column)))
        return tag("tr", *cells)

    bodies = [tag("tbody", *map(tr, table.rows))]
    if table.published:
        bodies.append(tag("tbody", *map(tr, table.published), class_="paper"))
    yield tag("h4", table.title)
    yield _scrollable(tag("table", tag("thead", tag("tr", *header)), *bodies))
    if note := table.full_note():
        yield tag("p", note, class_="note")


def _header_cell(name: str, is_number: bool = False) -> Element:
    classes = (["number"] if is_number else []) + (["long"] if len(name) > LONG_HEADER else [])
    return tag("th", tag("button", name, type="button"), scope="col", class_=" ".join(classes) or None)


def _name_cell(name: str, badge_text: str, style: LineStyle | None) -> Element:
    """Returns a cell with a model's line style, name and badge."""
    return tag(
        "td",
        swatch(style) if style else None,
        name,
        tag("span", badge_text, class_="tag") if badge_text else None,
        data_value=name,
        class_="name long" if len(name) > LONG_NAME else "name",
    )


def _number_cell(text: str | None, value: float | None, interval: str = "", best: bool = False) -> Element:
    return tag(
        "td",
        MISSING if text is None else text,
        tag("span", interval, class_="interval") if interval else None,
        class_="number best" if best else "number",
        data_value="" if value is None else value,
    )


def _scrollable(table: Element) -> Element:
    return tag("div", table, class_="scroll", tabindex="0")


def _pictures(units: Sequence[ResultUnit], titles: Titles, folder: pathlib.Path) -> list[Element]:
    """Returns all pictures by kind; pictures of earlier checkpoints are collapsed."""
    by_kind: dict[str, dict[str, tuple[ModelInfo, FigureFile]]] = {}
    for unit in units:
        for figure in unit.figures:
            by_kind.setdefault(figure.kind, {})[figure.file] = (unit.model, figure)
    parts = []
    shown = set(shown_models(titles))
    order = lambda item: (
        [(*parse_range(label), str(label)) for label in item[1].labels.values()],
        sort_key(item[0]),
    )
    for kind in sorted(by_kind, key=lambda kind: (kind not in FIGURES, [*FIGURES, kind].index(kind))):
        title, note = FIGURES.get(kind, (kind, ""))
        latest, earlier = [], []
        for model, figure in sorted(by_kind[kind].values(), key=order):
            picture = _picture(model, figure, titles, folder)
            if picture is not None:
                (latest if model in shown else earlier).append(picture)
        if not latest and not earlier:
            continue
        parts.append(tag("h3", title))
        if note:
            parts.append(tag("p", note, class_="note"))
        parts.append(tag("div", *latest, class_="pictures"))
        if earlier:
            summary = tag("summary", f"{len(earlier)} from earlier checkpoints")
            parts.append(tag("details", summary, tag("div", *earlier, class_="pictures")))
    return parts


def _picture(model: ModelInfo, figure: FigureFile, titles: Titles, folder: pathlib.Path) -> Element | None:
    """Returns a picture embedded in the page; None unless its file is a JPEG or PNG inside the folder."""
    path = (folder / figure.file).resolve()
    if not path.is_relative_to(folder.resolve()) or not path.is_file():
        return None
    content = path.read_bytes()
    try:
        with Image.open(io.BytesIO(content)) as image:
            image_format, (width, height) = str(image.format), image.size
    except (OSError, Image.DecompressionBombError):
        return None
    if image_format not in MEDIA_TYPES:
        return None
    source = f"data:{MEDIA_TYPES[image_format]};base64,{base64.b64encode(content).decode()}"
    description = figure.caption.removeprefix(f"{model.name}: ")
    more = _labels_missing_in(description, figure.labels)
    title = tag("b", titles[model])
    text = f": {description}" + (f" [{more}]" if more else "")
    caption = tag("figcaption", title, text, *_page_link(figure, folder))
    return tag("figure", tag("img", src=source, width=width, height=height, alt=figure.caption), caption)


def _page_link(figure: FigureFile, folder: pathlib.Path) -> tuple[str | Element, ...]:
    """Returns a link to a figure's page; nothing unless it is an HTML file inside the folder."""
    path = (folder / figure.page).resolve()
    if not path.is_relative_to(folder.resolve()) or path.suffix != ".html" or not path.is_file():
        return ()
    return " ", tag("a", IN_3D, href=quote(figure.page))


def _labels_missing_in(description: str, labels: Mapping[str, Any]) -> str:
    """Formats the labels of a picture that its description does not mention."""
    rest = {name: value for name, value in labels.items() if name not in ("height", "width")}
    if None not in (size := (labels.get("height"), labels.get("width"))):
        rest["size"] = f"{size[0]}x{size[1]}"
    texts = []
    for label, value in rest.items():
        name = LABEL_NAMES.get(label, label)
        if isinstance(value, str):
            text = value
        else:
            text = f"{value} {name}" if name in COUNT_LABELS else f"{name} {value}"
        if text != "all" and text not in description:
            texts.append(text)
    return ", ".join(texts)
