"""Curves as SVG, in the colours of the page, light or dark; names stand in a legend beside them.

An own small writer and not matplotlib's: its pictures have colours, ids and widths of text of their own,
which a page with many of them, in two themes, would have to undo.
"""

import dataclasses
import math
from collections.abc import Sequence

from matplotlib.ticker import MaxNLocator

from muskie_jax.report.markup import Element, tag

WIDTH, HEIGHT = 440, 300
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 36, 44  # margins around the curves
COLOURS, GREYS = 6, 3  # in the page's style
DASHES = ("7 4", "2 4", "9 3 2 3")  # of grey lines
MARKER_SIZE = 4.2
POLYGONS = {  # corners; a circle has none
    0: (), 1: ((-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)),
    2: ((0, -1.2), (1.1, 0.8), (-1.1, 0.8)), 3: ((0, -1.25), (1.25, 0), (0, 1.25), (-1.25, 0)),
    4: ((0, 1.2), (1.1, -0.8), (-1.1, -0.8)),
    5: ((-0.4, -1.2), (0.4, -1.2), (0.4, -0.4), (1.2, -0.4), (1.2, 0.4), (0.4, 0.4), (0.4, 1.2),
        (-0.4, 1.2), (-0.4, 0.4), (-1.2, 0.4), (-1.2, -0.4), (-0.4, -0.4)),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Look:
    """How a model is drawn, everywhere: the number-th of its sort; what only serves to compare is grey."""

    number: int
    grey: bool = False

    @property
    def style(self) -> str:
        """Its class in the page's style."""
        return f"g{self.number % GREYS}" if self.grey else f"c{self.number % COLOURS}"

    @property
    def dash(self) -> str | None:
        return DASHES[self.number % len(DASHES)] if self.grey else None

    @property
    def marker(self) -> int | None:
        """The first models differ in colour and in shape, 36 in one of them."""
        return None if self.grey else (self.number + self.number // COLOURS) % len(POLYGONS)


@dataclasses.dataclass(frozen=True)
class Series:
    """A curve.

    Attributes:
      title: what it is, for a tooltip.
      points: (x, y), in order; one point with x None is a level: a line across the whole chart.
      look: of its model.
      dashed: the second of two curves of a model.
    """

    title: str
    points: tuple[tuple[float | None, float], ...]
    look: Look
    dashed: bool = False


@dataclasses.dataclass(frozen=True)
class Chart:
    """Attributes:
    title: what it shows, and the unit of y.
    x_label: what x is, and its unit.
    series: the curves.
    ticks: (x, what it says) of chosen places; () chooses round numbers.
    names: (x, what it is called) of points that lie between ticks.
    logarithmic: in x.
    percent: y goes from 0 to 100.
    note: below it.
    ours: of something that the paper does not have.
    """

    title: str
    x_label: str
    series: tuple[Series, ...]
    ticks: tuple[tuple[float, str], ...] = ()
    names: tuple[tuple[float, str], ...] = ()
    logarithmic: bool = False
    percent: bool = False
    note: str = ""
    ours: bool = False


def chart_svg(chart: Chart) -> Element:
    """A chart as an SVG element, without ids and without colours of its own."""
    xs = [x for series in chart.series for x, _ in series.points if x is not None]
    xs += [x for x, _ in chart.ticks] or [0]
    highest = max(y for series in chart.series for _, y in series.points)
    y_ticks = _round_ticks(100 if chart.percent else highest)
    x_ticks = chart.ticks or tuple((x, short(x)) for x in _round_ticks(max(xs)) if x <= max(xs))
    scaled = math.log if chart.logarithmic else float
    low, high = scaled(min(xs)), scaled(max(xs))
    inner = (WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM)
    across = lambda x: LEFT + inner[0] * ((scaled(x) - low) / (high - low) if high > low else 0.5)
    up = lambda y: TOP + inner[1] * (1 - y / y_ticks[-1])

    parts = [tag("title", f"{chart.title} by {chart.x_label}")]
    for y in y_ticks:
        parts.append(_line([(LEFT, up(y)), (WIDTH - RIGHT, up(y))], "axis" if y == 0 else "grid"))
        parts.append(_text(LEFT - 7, up(y) + 4, short(y), "end"))
    for x, text in x_ticks:
        parts.append(_line([(across(x), up(0)), (across(x), up(0) + 4)], "axis"))
        parts.append(_text(across(x), up(0) + 18, text, "middle"))
    parts.append(_text(4, 16, chart.title, "start", "title"))
    parts.append(_text(LEFT + inner[0] / 2, HEIGHT - 6, chart.x_label, "middle"))
    ends = (low, high) if not chart.logarithmic else (math.exp(low), math.exp(high))
    for series in chart.series:
        level = any(x is None for x, _ in series.points)
        points = [(x, series.points[0][1]) for x in ends] if level else series.points
        places = [(across(x), up(y)) for x, y in points]
        curve = _line(places, "curve", dash="5 4" if series.dashed else series.look.dash)
        curve.append(tag("title", f"{series.title}: {short(points[0][1])}" if level else series.title))
        marks = []
        if not level and series.look.marker is not None:
            for place, (x, y) in zip(places, points):
                marks.append(_marker(*place, series.look.marker, hollow=series.dashed))
                marks[-1].append(
                    tag("title", f"{series.title}: {short(y)} at {_said(x, (*x_ticks, *chart.names))}")
                )
        parts.append(tag("g", curve, *marks, class_=series.look.style, data_look=series.look.style))
    return tag("svg", *parts, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", class_="chart")


def swatch(look: Look) -> Element:
    """How a model is drawn, for a legend."""
    marker = None if look.marker is None else _marker(17, 7, look.marker)
    line = _line([(1, 7), (33, 7)], "curve", dash=look.dash)
    return tag("svg", line, marker, viewBox="0 0 34 14", class_=f"swatch {look.style}", aria_hidden="true")


def short(number: float) -> str:
    """A number as people write it on an axis: 2.5, 400k, 1.2M."""
    for unit, size in (("M", 1e6), ("k", 1e4)):
        if abs(number) >= size:
            return f"{number / (1e3 if unit == 'k' else size):.4g}{unit}"
    return f"{number:.4g}"


def _said(x: float, ticks: Sequence[tuple[float, str]]) -> str:
    return dict(ticks).get(x, short(x))


def _round_ticks(highest: float) -> list[float]:
    """From 0 to the next round number."""
    ticks = MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]).tick_values(0, highest or 1)
    return [round(float(tick), 12) for tick in ticks if tick >= 0]


def _line(places: Sequence[tuple[float, float]], style: str, dash: str | None = None) -> Element:
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    return tag("polyline", points=points, class_=style, stroke_dasharray=dash)


def _text(x: float, y: float, text: str, anchor: str, style: str | None = None) -> Element:
    return tag("text", text, x=f"{x:.1f}", y=f"{y:.1f}", text_anchor=anchor, class_=style)


def _marker(x: float, y: float, shape: int, hollow: bool = False) -> Element:
    style = "mark hollow" if hollow else "mark"
    if not POLYGONS[shape]:
        return tag("circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r=MARKER_SIZE, class_=style)
    corners = ((x + MARKER_SIZE * a, y + MARKER_SIZE * b) for a, b in POLYGONS[shape])
    return tag("polygon", points=" ".join(f"{a:.1f},{b:.1f}" for a, b in corners), class_=style)
