"""Charts as SVG in the colours of the page, which its reader's light or dark mode sets."""

import io
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from markupsafe import Markup

from rnnopt.report.charts import Chart
from rnnopt.report.figures import draw
from rnnopt.report.style import number

WIDTH, HEIGHT = 360, 240
LEFT, RIGHT, TOP, BOTTOM = 46, 14, 10, 40  # room for labels around the plot
MOST_POINTS = 250  # of a line: more than a screen can tell apart
DASHES = ("none", "7 3", "2 2.5", "9 3 2 3")
# What stands for the colours of the page's style sheet; none is black, which SVG leaves out.
NAMES = {f"#c0105{i}": f"c{i}" for i in range(8)} | {"#666666": "faint", "#b0b0b0": "rule"}
SETTINGS: Any = {
    "svg.fonttype": "none", "svg.hashsalt": "rnnopt", "font.sans-serif": ["DejaVu Sans"],
    "figure.facecolor": "none", "axes.facecolor": "none", "axes.edgecolor": "#666666",
    "axes.spines.top": False, "axes.spines.right": False, "axes.xmargin": 0, "axes.ymargin": 0,
    "axes.grid": True, "axes.axisbelow": True, "lines.scale_dashes": False,
}  # fmt: skip


def to_svg(chart: Chart) -> Markup:
    """What an <svg> of WIDTH x HEIGHT units holds to show a chart.

    No text from files is in it: titles and labels of groups belong to the page.
    """
    import numpy as np
    from matplotlib import style
    from matplotlib.figure import Figure

    text = io.StringIO()
    with style.context(["default", SETTINGS]), np.errstate(over="ignore"):
        figure = Figure(figsize=(WIDTH / 72, HEIGHT / 72), dpi=72)
        width, height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
        axis = figure.add_axes((LEFT / WIDTH, BOTTOM / HEIGHT, width / WIDTH, height / HEIGHT))
        lines = [(place, label, curve.thinned(MOST_POINTS)) for place, label, curve in chart.lines]
        draw(axis, replace(chart, lines=lines), _look)
        for one, ends in ((axis.xaxis, axis.get_xlim()), (axis.yaxis, axis.get_ylim())):
            ticks = _ticks(*ends, one.get_scale() == "log")
            one.set_ticks(ticks, labels=list(map(number, ticks)))
            one.set_ticks([], minor=True)
        axis.tick_params(length=0, pad=6)
        axis.set_xlabel(chart.x_label, labelpad=9)
        for line in axis.lines:  # at the ends of an axis it keeps its width
            line.set_clip_box(axis.bbox.padded(2))
        unsaid = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(text, format="svg", metadata=unsaid)
    found = text.getvalue()
    found = found[found.index('<g id="figure_1">') : found.rindex("</svg>")]
    found = found.replace('<g id="', '<g class="')  # a page has several charts
    found = re.sub(r"(\.\d)\d+(?=[ \n])", r"\1", found)  # in paths, a tenth of a unit is enough
    for color, name in NAMES.items():
        found = found.replace(color, f"var(--{name})")
    return Markup(found)


def _ticks(low: float, high: float, log: bool) -> list[float]:
    """Round values of an axis, so few that their labels have room on a phone."""
    from matplotlib.ticker import LogLocator, MaxNLocator

    ticks: Sequence[float] = ()
    if log:
        decades = math.log10(high) - math.log10(low)
        subs = (1.0, 2.0, 5.0) if decades < 1.3 else (1.0, 3.0) if decades < 3 else (1.0,)
        ticks = LogLocator(10, subs, numticks=7).tick_values(low, high)
    if sum(low <= tick <= high for tick in ticks) < 2:  # also where less than a decade is shown
        ticks = MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    return [float(tick) for tick in ticks if low <= tick <= high]


def _dashes(place: int) -> str:
    """Of a group's lines: 8 colours and 4 kinds of dashes make 32 pairs."""
    return DASHES[(place + place // 8) % 4]


def _look(place: int) -> dict[str, Any]:
    """Colour and dashes of a group's lines for matplotlib."""
    dashes = _dashes(place)
    style = "-" if dashes == "none" else (0, tuple(map(float, dashes.split())))
    return dict(color=f"#c0105{place % 8}", linestyle=style)


def key(place: int) -> str:
    """The style of a group's line in a legend."""
    return f"stroke: var(--c{place % 8}); stroke-dasharray: {_dashes(place)}"
