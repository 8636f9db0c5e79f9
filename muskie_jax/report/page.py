"""report.html: one file with everything in it, that loads nothing and can be opened from a disk."""

import base64
import hashlib
import io
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from PIL import Image

from muskie_jax.report.charts import Chart, chart_svg, swatch
from muskie_jax.report.curves import Looks
from muskie_jax.report.markup import Element, page_text, raw, tag
from muskie_jax.report.results_file import FigureFile, ModelInfo, ResultUnit
from muskie_jax.report.selection import family, interval, rank, shown
from muskie_jax.report.selection import tag as mark
from muskie_jax.report.style import SCRIPT, STYLE
from muskie_jax.report.table_files import OURS
from muskie_jax.report.tables import MISSING, Line, Section, Table, Titles
from muskie_jax.writers import duration

FIGURES = {
    "tracks": (
        "Tracks",
        "Points of the first view, and where they are in the others: rings are true, dots predicted.",
    ),
    "features": (
        "Features as colours",
        "One palette for all views: a surface that is recognised keeps its colour.",
    ),
    "reconstruction": (
        "Reconstructions",
        "What was seen, what was painted, how sure the network was (dark to bright), the truth.",
    ),
}
LONG, LONG_HEAD = 40, 10  # letters of a name, of the head of a column; longer ones are broken into lines
WORDS = {"num_reference": "whole views"}  # of labels of pictures
PLURAL = ("views", "whole views")
MEDIA_TYPES = {"JPEG": "image/jpeg", "PNG": "image/png"}
HOW_TO_READ = (
    "ATE is the mean distance between where a point is and where it was predicted, in pixels of the image "
    "or in centimetres of the scene; @5 px is the share of points, in percent, that are at most 5 px off. "
    "Trivial baselines have learned nothing: a network that is not better has not either. Bold is best. A "
    "click on the head of a column sorts by it."
)


def report_page(
    units: Sequence[ResultUnit],
    titles: Titles,
    looks: Looks,
    sentences: Sequence[tuple[str, str]],
    parts: Sequence[tuple[str, Sequence[tuple[Section, Sequence[Chart]]]]],
    folder: pathlib.Path,
) -> str:
    """The whole page.

    Args:
      units: what was measured.
      titles, looks: of the models.
      sentences: (place, what is found there) of the summary.
      parts: (title, (tables, charts) of each place).
      folder: where the figures are.
    """
    pictures = _pictures(units, titles, folder)
    chapters = [(title, f"part{number}") for number, (title, _) in enumerate(parts)]
    chapters += [("Pictures", "pictures")] if pictures else []
    links = [tag("a", title, href=f"#{anchor}") for title, anchor in chapters]
    body = [
        tag("h1", "Evaluation"),
        tag("p", _when(units), class_="soft"),
        tag("nav", *links, aria_label="Contents") if len(links) > 1 else None,
        _summary(sentences),
        tag("h2", "What was measured"),
        _facts(units),
        _models(units, titles, looks),
    ]
    for (title, places), (_, anchor) in zip(parts, chapters):
        body.append(tag("h2", title, id=anchor))
        if title == "Correspondence":
            body.append(tag("p", HOW_TO_READ, class_="note"))
        for section, charts in places:
            body += _section(section, charts, titles, looks)
    if pictures:
        body += [tag("h2", "Pictures", id="pictures"), *pictures]
    allowed = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{allowed}'"
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", "Evaluation"),
        raw("style", STYLE),
    )
    return page_text(tag("html", head, tag("body", *body, raw("script", SCRIPT)), lang="en"))


def _when(units: Sequence[ResultUnit]) -> str:
    days = sorted({unit.finished[:10] for unit in units if unit.finished})
    versions = sorted({unit.version for unit in units if unit.version})
    said = [" to ".join(dict.fromkeys((days[0], days[-1])))] if days else []
    return ", ".join(said + ([f"muskie_jax {', '.join(versions)}"] if versions else []))


def _summary(sentences: Sequence[tuple[str, str]]) -> Element | None:
    if not sentences:
        return None
    items = [tag("li", tag("b", f"{place}:"), f" {sentence}") for place, sentence in sentences]
    return tag("div", tag("ul", *items), class_="summary")


def _facts(units: Sequence[ResultUnit]) -> Element:
    """On what, how much, how long."""
    facts = []
    datasets: dict[str, dict[str, set]] = {}
    for unit in units:
        for row in unit.rows:
            if "dataset" in row.labels:
                of = datasets.setdefault(str(row.labels["dataset"]), {})
                size = (row.labels.get("height"), row.labels.get("width"))
                of.setdefault("size", set()).update({size} if None not in size else ())
                for name, value in (
                    ("views", row.labels.get("views")),
                    ("groups", row.values.get("groups", unit.setting.get("groups"))),
                    ("pairs", row.values.get("pairs")),
                ):
                    of.setdefault(name, set()).update({value} if isinstance(value, int | float) else ())
    for dataset, of in datasets.items():
        said = []
        if of["groups"]:
            said.append(f"{_upto(of['groups'])} groups")
        if of["views"]:
            said.append(f"{' or '.join(f'{views:g}' for views in sorted(of['views']))} views")
        if of["size"]:
            said.append(
                " or ".join(f"{height}x{width}" for height, width in sorted(of["size"], key=str))
                + " pixels"
            )
        if of["pairs"]:
            said.append(f"up to {max(of['pairs']):,.0f} pairs of points")
        facts += [tag("dt", dataset), tag("dd", ", ".join(said))]
    devices = sorted({unit.device for unit in units if unit.device})
    if devices:
        facts += [tag("dt", "Devices"), tag("dd", ", ".join(devices))]
    seconds = sum(unit.seconds for unit in units)
    facts += [tag("dt", "Time"), tag("dd", f"{duration(seconds)} for {len(units)} units of work")]
    return tag("dl", *facts)


def _upto(numbers: set) -> str:
    return f"{'up to ' if len(numbers) > 1 else ''}{max(numbers):,.0f}"


def _models(units: Sequence[ResultUnit], titles: Titles, looks: Looks) -> Element:
    """Every model, checkpoints too: what it is, and its fingerprint."""
    heads = ("model", "kind", "step", "parameters", "digest", "source")
    rows = []
    for model in sorted({unit.model for unit in units}, key=rank):
        cells = [
            _named(titles[model], mark(model), looks.get(family(model))),
            tag("td", model.kind),
            _number(None if model.step is None else f"{model.step:,}", model.step),
            _number(None if model.parameters is None else f"{model.parameters:,}", model.parameters),
            tag("td", model.digest[:8], title=model.digest or None),
            tag("td", model.source),
        ]
        rows.append(tag("tr", *cells))
    header = [_head(name, name in ("step", "parameters")) for name in heads]
    return _scrolled(tag("table", tag("thead", tag("tr", *header)), tag("tbody", *rows)))


def _section(section: Section, charts: Sequence[Chart], titles: Titles, looks: Looks) -> Iterable[Element]:
    """A place: its tables, its charts with one legend, and what is ours alone."""
    yield tag("h3", section.title)
    for table in section.tables:
        yield from _table(table, looks)
    yield from _charts([chart for chart in charts if not chart.ours], titles, looks)
    for table in section.details:
        heading, *rest = _table(table, looks)
        yield tag("details", tag("summary", heading.text), *rest)
    if section.ours:
        parts = [part for table in section.ours for part in _table(table, looks)]
        for table in section.every:
            heading, *rest = _table(table, looks)
            parts.append(tag("details", tag("summary", f"{heading.text}, every line"), *rest))
        parts += _charts([chart for chart in charts if chart.ours], titles, looks)
        yield tag("div", tag("h4", OURS), *parts, class_="ours")


def _charts(charts: Sequence[Chart], titles: Titles, looks: Looks) -> Iterable[Element]:
    """Charts side by side, under one legend."""
    if charts:
        yield _legend(charts, titles, looks)
        figures = [
            tag("figure", chart_svg(chart), tag("figcaption", chart.note) if chart.note else None)
            for chart in charts
        ]
        yield tag("div", *figures, class_="charts")


def _table(table: Table, looks: Looks) -> Iterable[Element]:
    numbers = range(len(table.columns))
    header = [_head(name) for name in table.heads] + [_head(column.name, True) for column in table.columns]

    def row(line: Line) -> Element:
        first, *rest = line.heads
        cells = [
            _number(
                None if line.values[number] is None else table.text(line, number),
                line.values[number],
                best=table.is_best(line, number),
            )
            for number in numbers
        ]
        look = looks.get(line.family) if line.family is not None else None
        return tag(
            "tr", _named(first, line.tag, look), *(tag("td", text, class_="name") for text in rest), *cells
        )

    bodies = [tag("tbody", *map(row, table.lines))]
    if table.published:
        bodies.append(tag("tbody", *map(row, table.published), class_="paper"))
    yield tag("h4", table.title)
    yield _scrolled(tag("table", tag("thead", tag("tr", *header)), *bodies))
    if table.note:
        yield tag("p", table.note, class_="note")


def _head(name: str, number: bool = False) -> Element:
    style = " ".join((["number"] if number else []) + (["long"] if len(name) > LONG_HEAD else []))
    return tag("th", tag("button", name, type="button"), scope="col", class_=style or None)


def _named(name: str, marked: str, look) -> Element:
    """A cell with the name of a model, as it is drawn and what must be said of it."""
    badge = tag("span", marked, class_="tag") if marked else None
    style = "name long" if len(name) > LONG else "name"
    return tag("td", swatch(look) if look else None, name, badge, data_value=name, class_=style)


def _number(text: str | None, value: float | None, best: bool = False) -> Element:
    style = "number best" if best else "number"
    return tag(
        "td", MISSING if text is None else text, class_=style, data_value="" if value is None else value
    )


def _scrolled(table: Element) -> Element:
    return tag("div", table, class_="scroll", tabindex="0")


def _legend(charts: Sequence[Chart], titles: Titles, looks: Looks) -> Element:
    """The models of these charts, each once."""
    drawn = {series.look for chart in charts for series in chart.series}
    items = [
        tag("li", swatch(looks[family(model)]), tag("span", title))
        for model, title in titles.items()
        if looks[family(model)] in drawn
        and model == shown(m for m in titles if family(m) == family(model))[-1]
    ]
    return tag("ul", *items, class_="legend")


def _pictures(units: Sequence[ResultUnit], titles: Titles, folder: pathlib.Path) -> list[Element]:
    """All pictures by kind; those of earlier checkpoints are folded away."""
    found: dict[str, dict[str, tuple[ModelInfo, FigureFile]]] = {}
    for unit in units:
        for figure in unit.figures:
            found.setdefault(figure.kind, {})[figure.file] = (unit.model, figure)
    parts = []
    latest = set(shown(titles))
    for kind in sorted(found, key=lambda kind: (kind not in FIGURES, [*FIGURES, kind].index(kind))):
        title, note = FIGURES.get(kind, (kind, ""))
        order = lambda item: (
            [(*interval(label), str(label)) for label in item[1].labels.values()],
            rank(item[0]),
        )
        now, earlier = [], []
        for model, figure in sorted(found[kind].values(), key=order):
            picture = _picture(model, figure, titles, folder)
            if picture is not None:
                (now if model in latest else earlier).append(picture)
        if not now and not earlier:
            continue
        parts += [tag("h3", title), tag("p", note, class_="note") if note else None]
        parts.append(tag("div", *now, class_="pictures"))
        if earlier:
            head = tag("summary", f"{len(earlier)} of earlier checkpoints")
            parts.append(tag("details", head, tag("div", *earlier, class_="pictures")))
    return [part for part in parts if part is not None]


def _picture(model: ModelInfo, figure: FigureFile, titles: Titles, folder: pathlib.Path) -> Element | None:
    """A picture as part of the page; None if its file is no JPEG or PNG in the folder."""
    path = (folder / figure.file).resolve()
    if not path.is_relative_to(folder.resolve()) or not path.is_file():
        return None
    content = path.read_bytes()
    try:
        with Image.open(io.BytesIO(content)) as image:
            kind, (width, height) = image.format, image.size
    except (OSError, Image.DecompressionBombError):
        return None
    if kind not in MEDIA_TYPES:
        return None
    source = f"data:{MEDIA_TYPES[kind]};base64,{base64.b64encode(content).decode()}"
    said = figure.caption.removeprefix(f"{model.name}: ")
    more = _more_labels(figure.labels, said)
    caption = tag("figcaption", tag("b", titles[model]), f": {said}", f" [{more}]" if more else None)
    image = tag("img", src=source, width=width, height=height, alt=figure.caption)
    return tag("figure", image, caption)


def _more_labels(labels: Mapping[str, Any], said: str) -> str:
    """Labels of a picture that its caption does not say: text as it is, numbers with their names."""
    height, width = labels.get("height"), labels.get("width")
    size = {} if None in (height, width) else {"size": f"{height}x{width}"}
    rest = {name: value for name, value in labels.items() if name not in ("height", "width")}
    rest = {WORDS.get(name, name): value for name, value in (rest | size).items()}
    texts = (
        str(v) if isinstance(v, str) else f"{v} {n}" if n in PLURAL else f"{n} {v}" for n, v in rest.items()
    )
    return ", ".join(text for text in texts if text != "all" and text not in said)
