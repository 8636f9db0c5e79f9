"""Pictures of experiments, as SVG files that show the theme of the reader, light or dark."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple
from xml.etree import ElementTree

from matplotlib.ticker import MaxNLocator

from muskie_jax.report.charts import Chart, LineStyle, Series, chart_svg, short, swatch
from muskie_jax.report.markup import Element, raw, tag
from muskie_jax.report.style import STYLE
from muskie_jax.sweeps.outcomes import ALL_MEASURES, BASELINE, Summary, number_text

FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif'
MORE_STYLE = f"""
svg {{ font-family: {FONT} }}
.paper {{ fill: var(--paper) }} .band {{ fill: var(--tint) }} .ink {{ fill: var(--ink) !important }}
.bold {{ font-weight: 600 }} .seed {{ fill: currentColor; opacity: .4 }}
.base {{ stroke: var(--soft); stroke-width: 1.4; stroke-dasharray: 4 3 }}
.better {{ fill: var(--c2) !important }} .worse {{ fill: var(--c1) !important }}
"""
WIDTH, LEFT, RIGHT = 900, 170, 560  # the plot is between LEFT and RIGHT, and text beside it
HEADER, ROW, GAP, MARGIN = 26, 22, 10, 16  # heights
LOWER_IS_BETTER = ("px", "minutes", "rooms_l1_mean", "recordings_l1_mean")
LEGEND_ROW = 20


class Question(NamedTuple):
    """A question that some runs of a sweep answer.

    Attributes:
      title: such as "Mask mode".
      base: what the base of the sweep does.
      runs: names of the runs.
    """

    title: str
    base: str
    runs: tuple[str, ...]


def verdict(run: Summary, base: Summary, measure: str) -> tuple[str, str]:
    """Returns how a run differs from the base, and "better", "worse" or "" for no clear difference.

    A difference is clear if it exceeds the sum of both standard deviations over seeds.
    """
    means = [each.mean(measure) for each in (run, base)]
    deviations = [each.deviation(measure) for each in (run, base)]
    if means[0] is None or means[1] is None:
        return "", ""
    difference = means[0] - means[1]
    text = f"{difference:+.{ALL_MEASURES[measure][1]}f}".replace("-", "\N{MINUS SIGN}")
    if run.name == BASELINE:
        return text, ""
    if deviations[0] is None or deviations[1] is None:
        return f"{text}, one seed", ""
    if abs(difference) <= deviations[0] + deviations[1]:
        return f"{text}, no clear difference", ""
    better = (difference < 0) == (measure in LOWER_IS_BETTER)
    return (f"{text}, better", "better") if better else (f"{text}, worse", "worse")


def comparison_svg(
    questions: Sequence[Question], summaries: Sequence[Summary], measure: str, note: str
) -> str:
    """Returns a picture with one row per run, grouped by question, below the row of the base.

    Args:
      questions: the groups of rows; runs without a summary are left out.
      summaries: outcomes; the first is the base.
      measure: a key of ALL_MEASURES.
      note: text below the picture, such as the predictor.
    """
    base, by_name = summaries[0], {summary.name: summary for summary in summaries}
    drawn_names = {base.name, *(name for question in questions for name in question.runs)}
    values = [x for each in summaries if each.name in drawn_names for x in _extent(each, measure)]
    ticks = MaxNLocator(6).tick_values(min(values), max(values))
    low, high = float(ticks[0]), float(ticks[-1])
    to_x = lambda value: LEFT + (RIGHT - LEFT) * (value - low) / (high - low)
    drawn, y = [], 3.0 * MARGIN
    top = y

    def add_row(summary: Summary, colour: str) -> None:
        nonlocal y
        drawn.append(_row(summary, base, measure, y, colour, to_x))
        y += ROW

    add_row(base, "c2")
    for question in questions:
        answers = [by_name[name] for name in question.runs if name in by_name]
        if not answers:
            continue
        y += GAP
        drawn.append(_text(MARGIN, y + 15, question.title, "start", "ink bold"))
        drawn.append(_text(LEFT, y + 15, f"base: {question.base}", "start"))
        y += HEADER
        for summary in answers:
            add_row(summary, "c0")
    mean, deviation = base.mean(measure) or 0.0, base.deviation(measure) or 0.0
    edges = to_x(max(low, mean - deviation)), to_x(min(high, mean + deviation))
    behind = [
        tag(
            "rect",
            x=f"{edges[0]:.1f}",
            y=top,
            width=f"{edges[1] - edges[0]:.1f}",
            height=y - top,
            class_="band",
        ),
        *(_line(to_x(tick), top, to_x(tick), y, "grid") for tick in ticks),
        *(_text(to_x(tick), y + 16, short(tick), "middle") for tick in ticks),
        _line(to_x(mean), top, to_x(mean), y, "base"),
        _text(MARGIN, MARGIN + 8, _title(measure), "start", "title"),
        _text(RIGHT + MARGIN, MARGIN + 8, "mean ± standard deviation", "start"),
    ]
    behind.append(_text(MARGIN, y + 40, note, "start"))
    return _standalone([*behind, *drawn], WIDTH, y + 52)


def _extent(summary: Summary, measure: str) -> list[float]:
    """Returns the values of a row, and the ends of its line."""
    mean, deviation = summary.mean(measure), summary.deviation(measure)
    ends = [] if mean is None or deviation is None else [mean - deviation, mean + deviation]
    return [*summary.values[measure], *ends]


def _row(summary: Summary, base: Summary, measure: str, y: float, colour: str, to_x) -> Element:
    centre, values, deviation = y + ROW / 2, summary.values[measure], summary.deviation(measure)
    mean = summary.mean(measure)
    parts = [_text(LEFT - 10, centre + 4, summary.name, "end", "ink")]
    if mean is not None:
        if deviation is not None:
            parts.append(_line(to_x(mean - deviation), centre, to_x(mean + deviation), centre, "curve"))
        dot = lambda x, r, css: tag("circle", cx=f"{to_x(x):.1f}", cy=f"{centre:.1f}", r=r, class_=css)
        parts += [*(dot(value, 2.6, "seed") for value in values), dot(mean, 5, "mark")]
        parts.append(_text(RIGHT + MARGIN, centre + 4, number_text(summary, measure), "start", "ink"))
        if summary is not base:
            parts.append(_text(RIGHT + 110, centre + 4, *_styled(verdict(summary, base, measure))))
    return tag("g", *parts, class_=colour)


def _styled(verdict_and_class: tuple[str, str]) -> tuple[str, str, str]:
    text, css_class = verdict_and_class
    return text, "start", css_class


def time_curve_svg(
    curves: Mapping[str, Sequence[tuple[float, float]]],
    levels: Mapping[str, float],
    measure: str,
    note: str,
) -> str:
    """Returns a chart of a measure over minutes of training.

    Args:
      curves: pairs (minutes, value), by name of the run.
      levels: horizontal lines to compare with, by name.
      measure: a key of ALL_MEASURES.
      note: text below the chart.
    """
    styles = {name: LineStyle(i) for i, name in enumerate(curves)}
    grey = {name: LineStyle(i, grey=True) for i, name in enumerate(levels)}
    series = [Series(name, styles[name], tuple(points)) for name, points in curves.items()]
    series += [Series(name, grey[name], level=value) for name, value in levels.items()]
    title = _title(measure)
    chart = chart_svg(Chart(title, "minutes of training", tuple(series), percent=measure == "px_10"))
    width, height = map(float, chart.get("viewBox", "0 0 0 0").split()[2:])
    parts: list[Element] = [tag("g", *list(chart))]
    for number, (name, style) in enumerate((styles | grey).items()):
        sample, y = swatch(style), height + LEGEND_ROW * number
        for key, value in (("x", MARGIN), ("y", y), ("width", 34), ("height", 14)):
            sample.set(key, f"{value:g}")
        value = f": {short(levels[name])}" if name in levels else ""
        parts += [sample, _text(MARGIN + 44, y + 11, f"{name}{value}", "start", "ink")]
    bottom = height + LEGEND_ROW * len(styles | grey)
    parts.append(_text(MARGIN, bottom + 14, note, "start"))
    return _standalone(parts, width, bottom + 26)


def _title(measure: str) -> str:
    title, _ = ALL_MEASURES[measure]
    return title[0].upper() + title[1:]


def _standalone(parts: Sequence[Element], width: float, height: float) -> str:
    """Returns the text of an SVG file with its style sheet and a background."""
    size = {"viewBox": f"0 0 {width:g} {height:g}", "width": f"{width:g}", "height": f"{height:g}"}
    background = tag("rect", class_="paper", width="100%", height="100%")
    root = tag("svg", raw("style", STYLE + MORE_STYLE), background, *parts, class_="chart", **size)
    root.set("xmlns", "http://www.w3.org/2000/svg")
    return ElementTree.tostring(root, encoding="unicode") + "\n"


def _line(x1: float, y1: float, x2: float, y2: float, css_class: str) -> Element:
    ends = {"x1": x1, "y1": y1, "x2": x2, "y2": y2}
    return tag("line", class_=css_class, **{name: f"{value:.1f}" for name, value in ends.items()})


def _text(x: float, y: float, text: str, anchor: str, css_class: str | None = None) -> Element:
    return tag("text", text, x=f"{x:.1f}", y=f"{y:.1f}", text_anchor=anchor, class_=css_class)
