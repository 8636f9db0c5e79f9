"""Line charts as SVG. The page's style sheet colours them, for light and dark themes.

Matplotlib's SVG is not used: it hard-codes colours, element ids and text widths, which clash on a page with
many charts and two themes.
"""

import dataclasses
import math
from collections.abc import Sequence

from matplotlib.ticker import MaxNLocator

from muskie_jax.report.markup import Element, tag

WIDTH, HEIGHT = 440, 300
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 36, 44  # margins around the plot area
COLOURS, GREYS = 6, 3  # classes c0 to c5 and g0 to g2 of the page's style sheet
DASHES = ("7 4", "2 4", "9 3 2 3", "14 3")  # dash patterns of grey lines
MARKER_SIZE = 4.2
POLYGONS = {  # corners of markers; () is a circle
    0: (), 1: ((-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)),
    2: ((0, -1.2), (1.1, 0.8), (-1.1, 0.8)), 3: ((0, -1.25), (1.25, 0), (0, 1.25), (-1.25, 0)),
    4: ((0, 1.2), (1.1, -0.8), (-1.1, -0.8)),
    5: ((-0.4, -1.2), (0.4, -1.2), (0.4, -0.4), (1.2, -0.4), (1.2, 0.4), (0.4, 0.4), (0.4, 1.2),
        (-0.4, 1.2), (-0.4, 0.4), (-1.2, 0.4), (-1.2, -0.4), (-0.4, -0.4)),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class LineStyle:
    """Colour, dash and marker of a model family, the same in every chart and table.

    Attributes:
      index: position among the coloured or the grey families.
      grey: whether the line is grey, as for baselines.
    """

    index: int
    grey: bool = False

    @property
    def css_class(self) -> str:
        return f"g{self.index % GREYS}" if self.grey else f"c{self.index % COLOURS}"

    @property
    def dash(self) -> str | None:
        return DASHES[self.index % len(DASHES)] if self.grey else None

    @property
    def marker(self) -> int | None:
        """Key of POLYGONS. The first 36 families have distinct pairs of colour and marker."""
        return None if self.grey else (self.index + self.index // COLOURS) % len(POLYGONS)


@dataclasses.dataclass(frozen=True)
class Series:
    """A curve.

    Attributes:
      title: tooltip.
      style: line style of its model.
      points: points (x, y), in order of x.
      level: y of a horizontal line across the chart, instead of points.
      dashed: whether this is the second of two curves of one model.
    """

    title: str
    style: LineStyle
    points: tuple[tuple[float, float], ...] = ()
    level: float | None = None
    dashed: bool = False


@dataclasses.dataclass(frozen=True)
class Chart:
    """Curves over one axis.

    Attributes:
      title: the metric and its unit.
      x_label: the quantity on the x axis and its unit.
      series: the curves.
      ticks: pairs (x, label); () places ticks at round numbers.
      point_names: pairs (x, name), for tooltips of points between ticks.
      logarithmic: whether the x axis is logarithmic.
      percent: whether y goes from 0 to 100.
      note: caption.
      beyond_paper: whether the paper has no such measurement.
    """

    title: str
    x_label: str
    series: tuple[Series, ...]
    ticks: tuple[tuple[float, str], ...] = ()
    point_names: tuple[tuple[float, str], ...] = ()
    logarithmic: bool = False
    percent: bool = False
    note: str = ""
    beyond_paper: bool = False


def chart_svg(chart: Chart) -> Element:
    """Returns a chart as an SVG element, without ids and inline colours."""
    xs = [x for series in chart.series for x, _ in series.points]
    xs += [x for x, _ in chart.ticks] or [0]
    ys = [y for series in chart.series for _, y in series.points]
    ys += [series.level for series in chart.series if series.level is not None]
    y_ticks = _round_ticks(100 if chart.percent else max(ys))
    x_ticks = chart.ticks or tuple((x, short(x)) for x in _round_ticks(max(xs)) if x <= max(xs))
    scale_x = math.log if chart.logarithmic else float
    x_range = (min(xs), max(xs))
    low, high = map(scale_x, x_range)
    plot_width, plot_height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    to_svg_x = lambda x: LEFT + plot_width * ((scale_x(x) - low) / (high - low) if high > low else 0.5)
    to_svg_y = lambda y: TOP + plot_height * (1 - y / y_ticks[-1])

    parts = [tag("title", f"{chart.title} by {chart.x_label}")]
    for y in y_ticks:
        line = [(LEFT, to_svg_y(y)), (WIDTH - RIGHT, to_svg_y(y))]
        parts.append(_line(line, "axis" if y == 0 else "grid"))
        parts.append(_text(LEFT - 7, to_svg_y(y) + 4, short(y), "end"))
    bottom = to_svg_y(0)
    for x, label in x_ticks:
        parts.append(_line([(to_svg_x(x), bottom), (to_svg_x(x), bottom + 4)], "axis"))
        parts.append(_text(to_svg_x(x), bottom + 18, label, "middle"))
    parts.append(_text(4, 16, chart.title, "start", "title"))
    parts.append(_text(LEFT + plot_width / 2, HEIGHT - 6, chart.x_label, "middle"))
    x_names = dict((*x_ticks, *chart.point_names))
    for series in chart.series:
        points, tooltip = series.points, series.title
        if series.level is not None:
            points = tuple((x, series.level) for x in x_range)
            tooltip += f": {short(series.level)}"
        coords = [(to_svg_x(x), to_svg_y(y)) for x, y in points]
        curve = _line(coords, "curve", dash="5 4" if series.dashed else series.style.dash)
        curve.append(tag("title", tooltip))
        # Grey lines are dashed anyway, so hollow markers distinguish a model's second curve.
        shape = 0 if series.style.marker is None and series.dashed else series.style.marker
        markers = []
        if shape is not None and series.level is None:
            for coord, (x, y) in zip(coords, points):
                marker = _marker(*coord, shape, hollow=series.dashed)
                marker.append(tag("title", f"{series.title}: {short(y)} at {x_names.get(x, short(x))}"))
                markers.append(marker)
        parts.append(tag("g", curve, *markers, class_=series.style.css_class))
    return tag("svg", *parts, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", class_="chart")


def swatch(style: LineStyle) -> Element:
    """Returns a legend's sample of a line style, as SVG."""
    marker = None if style.marker is None else _marker(17, 7, style.marker)
    line = _line([(1, 7), (33, 7)], "curve", dash=style.dash)
    css_class = f"swatch {style.css_class}"
    return tag("svg", line, marker, viewBox="0 0 34 14", class_=css_class, aria_hidden="true")


def short(number: float) -> str:
    """Formats a number for an axis: 2.5, 9000, 400k, 1.2M."""
    if abs(number) >= 1e6:
        return f"{number / 1e6:.4g}M"
    if abs(number) >= 1e4:
        return f"{number / 1e3:.4g}k"
    return f"{number:.4g}"


def _round_ticks(highest: float) -> list[float]:
    """Returns about five ticks from 0 to the first round number at or above `highest`."""
    ticks = MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]).tick_values(0, highest or 1)
    return [round(float(tick), 12) for tick in ticks if tick >= 0]


def _line(coords: Sequence[tuple[float, float]], css_class: str, dash: str | None = None) -> Element:
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in coords)
    return tag("polyline", points=points, class_=css_class, stroke_dasharray=dash)


def _text(x: float, y: float, text: str, anchor: str, css_class: str | None = None) -> Element:
    return tag("text", text, x=f"{x:.1f}", y=f"{y:.1f}", text_anchor=anchor, class_=css_class)


def _marker(x: float, y: float, shape: int, hollow: bool = False) -> Element:
    css_class = "mark hollow" if hollow else "mark"
    if not POLYGONS[shape]:
        return tag("circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r=MARKER_SIZE, class_=css_class)
    corners = ((x + MARKER_SIZE * a, y + MARKER_SIZE * b) for a, b in POLYGONS[shape])
    return tag("polygon", points=" ".join(f"{a:.1f},{b:.1f}" for a, b in corners), class_=css_class)
