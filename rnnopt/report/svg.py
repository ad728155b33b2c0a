"""Line charts as numbers and path data that a page can put into <svg>; nothing here is markup.

A chart is WIDTH x HEIGHT units with y downwards. Colours and dashes belong to the page: a line only
has the number of its group.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

WIDTH, HEIGHT = 360.0, 240.0
LEFT, RIGHT, TOP, BOTTOM = 46.0, 14.0, 10.0, 40.0  # room for labels around the plot
MOST_POINTS = 250  # of a line: more than a screen can tell apart
LEAST = 1e-12  # on logarithmic axes, where there is no zero


@dataclass(frozen=True)
class Line:
    """A line to draw: group `number`, points, and a band around them or None."""

    number: int
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None


@dataclass(frozen=True)
class Axis:
    """Maps values between `low` and `high` to units between `start` and `end`."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False
    ticks: list[tuple[float, str]] = field(default_factory=list)  # place in units, label

    def place(self, value: float) -> float:
        """Where a value is drawn; beyond the ends, at the end."""
        low, high = self.low, self.high
        if self.log:
            value, low, high = (math.log10(max(v, LEAST)) for v in (value, low, high))
        share = min(1.0, max(0.0, (value - low) / (high - low)))
        return round(self.start + share * (self.end - self.start), 1)


@dataclass(frozen=True)
class Chart:
    """A chart, laid out: what the page needs to draw it.

    Args:
        title: what the y axis shows; the page puts it above.
        x_label: what the x axis shows.
        summary: what the chart says, for those who cannot see it.
        x, y: the axes.
        lines: for each line its number, its path, and the path of its band or "".
        level: height of a horizontal line to mark and its label, or None.
    """

    title: str
    x_label: str
    summary: str
    x: Axis
    y: Axis
    lines: list[tuple[int, str, str]]
    level: tuple[float, str] | None = None


def axis(
    values: Sequence[float], start: float, end: float, log: bool = False, wanted: int = 4
) -> Axis:
    """An axis that holds the finite values, with round ticks.

    Args:
        values: to hold; on a logarithmic axis those that are not above zero do not count.
        start, end: in units.
        log: whether it is logarithmic.
        wanted: how many ticks, about.
    """
    from matplotlib.ticker import LogLocator, MaxNLocator

    held = [v for v in values if math.isfinite(v) and (v > LEAST or not log)] or [1.0]
    low, high = min(held), max(held)
    ticks: Sequence[float] = ()
    if log:
        low, high = (low, high) if high > 1.5 * low else (low / 1.5, high * 1.5)
        decades = math.log10(high / low)
        subs = (1.0, 2.0, 5.0) if decades < 1.3 else (1.0, 3.0) if decades < 3 else (1.0,)
        ticks = LogLocator(10, subs, numticks=wanted + 3).tick_values(low, high)
    elif high <= low:
        low, high = low - 0.5, high + 0.5
    if sum(low <= tick <= high for tick in ticks) < 2:  # also where less than a decade is shown
        ticks = MaxNLocator(wanted + 1, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    bare = Axis(low, high, start, end, log)
    shown = [float(tick) for tick in ticks if low <= tick <= high]
    return Axis(low, high, start, end, log, [(bare.place(t), number(t)) for t in shown])


def number(value: float) -> str:
    """A tick's label: short, and no 1e+06."""
    if value != 0 and not 1e-3 <= abs(value) < 1e5:
        mantissa, _, exponent = f"{value:.3g}".partition("e")
        if exponent:
            return f"{mantissa}e{int(exponent)}"
    return f"{value:.6g}"


def short(value: float) -> str:
    """A value with two digits that count, written like a tick's label."""
    return number(float(f"{value:.2g}"))


def layout(
    lines: Sequence[Line],
    title: str,
    x_label: str,
    summary: str,
    *,
    log_x: bool = False,
    log_y: bool = False,
    y_range: tuple[float, float] | None = None,
    steps: bool = False,
    level: float | None = None,
) -> Chart:
    """Lays a chart out.

    Args:
        lines: what to draw.
        title, x_label, summary: as in `Chart`.
        log_x, log_y: which axes are logarithmic.
        y_range: ends of the y axis; unset means those of the lines and the level.
        steps: lines go level to the next point, then up.
        level: a value on the y axis to mark as the target.
    """
    marked = [] if level is None or not math.isfinite(level) else [level]
    heights = [v for one in lines for v in (*one.y, *(one.low or ()), *(one.high or ()))]
    x = axis([v for one in lines for v in one.x], LEFT, WIDTH - RIGHT, log_x)
    y = axis(list(y_range or heights + marked), HEIGHT - BOTTOM, TOP, log_y)
    drawn = []
    for one in map(_thinned, lines):
        band = ""
        if one.low is not None and one.high is not None:
            outline = [*zip(one.x, one.high, strict=True)]
            outline += reversed([*zip(one.x, one.low, strict=True)])
            band = _path(x, y, outline) + "Z"
        points = [*zip(one.x, one.y, strict=True)]
        drawn.append((one.number, _path(x, y, points, steps), band))
    mark = (y.place(marked[0]), f"target {marked[0]:g}") if marked else None
    return Chart(title, x_label, summary, x, y, drawn, mark)


def _thinned(line: Line) -> Line:
    """The line with no more points than can be seen; the last one stays."""
    count = len(line.x)
    if count <= MOST_POINTS:
        return line
    kept = [round(i * (count - 1) / (MOST_POINTS - 1)) for i in range(MOST_POINTS)]

    def of(values: Sequence[float]) -> list[float]:
        return [values[i] for i in kept]

    low, high = (None if band is None else of(band) for band in (line.low, line.high))
    return Line(line.number, of(line.x), of(line.y), low, high)


def _path(x: Axis, y: Axis, points: Sequence[tuple[float, float]], steps: bool = False) -> str:
    """The `d` of an SVG path through the points."""
    parts: list[str] = []
    for a, b in points:
        at, height = x.place(a), y.place(b)
        if not parts:
            parts.append(f"M{at:g} {height:g}")
        else:
            parts.append(f"H{at:g}V{height:g}" if steps else f"L{at:g} {height:g}")
    return "".join(parts)
