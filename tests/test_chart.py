"""What a chart of the page promises: lines where their values are, no more points than show."""

import math
import re

import pytest

from rnnopt.report.charts import Chart
from rnnopt.report.statistics import Curve
from rnnopt.report.style import number, short
from rnnopt.report.svg import BOTTOM, HEIGHT, LEFT, MOST_POINTS, RIGHT, TOP, WIDTH, to_svg

END, GROUND = WIDTH - RIGHT, HEIGHT - BOTTOM


def draw(*curves, **options):
    """A chart of lines of groups 0, 1, …."""
    lines = [(place, "name", curve) for place, curve in enumerate(curves)]
    return to_svg(Chart("title", "x", "summary", lines, **options))


def paths(svg, kind):
    """The points of each path in elements of a class."""
    found = re.findall(rf'<g class="{kind}.*?<path[^>]* d="([^"]*)"', svg, re.DOTALL)
    return [
        [tuple(map(float, pair)) for pair in re.findall(r"[ML] ([-\d.]+) ([-\d.]+)", one)]
        for one in found
    ]


def labels(svg):
    """What stands at the axes."""
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg)


def test_a_line_goes_from_corner_to_corner():
    (line,) = paths(draw(Curve([0, 5, 10], [0.0, 0.75, 1.0])), 'line"')
    assert line == [(LEFT, GROUND), ((LEFT + END) / 2, TOP + (GROUND - TOP) / 4), (END, TOP)]


def test_ticks_are_round_and_in_the_plot():
    assert labels(draw(Curve([0, 600], [0, 1])))[:4] == ["0", "200", "400", "600"]


def test_logarithmic_ticks_are_decades():
    svg = draw(Curve([0, 1], [1e-4, 1.0]), log_y=True)
    assert labels(svg)[-5:] == ["0.0001", "0.001", "0.01", "0.1", "1"]


@pytest.mark.parametrize("values", [[0.5, 1.2], [0.3, 0.3], [0.98, 1.1]])
def test_logarithmic_axes_of_little_span_have_ticks_too(values):
    svg = draw(Curve([0, 1], values), log_y=True)
    assert len(list(filter(None, labels(svg)))) >= 6 + len({*values})


@pytest.mark.parametrize(
    "values", [[], [2.0], [0.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [1e-300, 1e300]]
)
@pytest.mark.parametrize("log", [False, True])
def test_any_values_make_a_chart(values, log):
    svg = draw(Curve(list(range(len(values))), values), log_y=log, log_x=log)
    assert "nan" not in svg
    assert "inf" not in svg


def test_what_lies_beyond_the_axis_is_cut_off():
    # An interval of accuracies may reach below 0 and above 1.
    svg = draw(Curve([0, 1], [0.5, 0.5], [-1, -1], [2, 2]), y_range=(0, 1))
    band = svg[svg.index("FillBetween") : svg.index('<g class="line">')]
    (box,) = re.findall(r'clip-path="url\(#(\w+)\)"', band)
    plot = f'<rect x="{LEFT}" y="{TOP}" width="{END - LEFT}" height="{GROUND - TOP}"/>'
    assert re.search(rf'<clipPath id="{box}">\s*{plot}', svg)


def test_steps_go_level_then_up():
    (line,) = paths(draw(Curve([0, 10], [0, 1]), steps=True), 'line"')
    assert line == [(LEFT, GROUND), (END, GROUND), (END, TOP)]


def test_long_lines_are_thinned_and_keep_their_ends():
    values = list(range(10_000))
    curve = Curve(values, [float(v % 7) for v in values]).thinned(MOST_POINTS)
    assert len(curve.at) == len(curve.mean) == MOST_POINTS
    assert (curve.at[0], curve.at[-1]) == (0, 9_999)
    assert all(curve.mean[i] == at % 7 for i, at in enumerate(curve.at))
    assert curve.low is None
    assert curve.thinned(MOST_POINTS) is curve


def test_the_target_is_in_the_plot_even_if_no_line_comes_near():
    svg = draw(Curve([0, 1], [0.1, 0.2]), target=0.9)
    ((start, end),) = [line for line in paths(svg, "line2d") if line[0][1] == line[1][1] == TOP]
    assert (start[0], end[0]) == (LEFT, END)
    assert "target" not in "".join(labels(svg))  # the page says so


def test_a_chart_is_drawn_the_same_each_time_and_names_no_colour():
    curve = Curve([0, 1], [1, 1], [0, 0], [2, 2])
    svg = draw(*[curve] * 9, target=0.5)
    assert svg == draw(*[curve] * 9, target=0.5)
    assert not re.search("#[0-9a-f]{6}|black|white", svg)
    for i in range(8):
        assert f"fill: var(--c{i})" in svg
        assert f"stroke: var(--c{i})" in svg


@pytest.mark.parametrize(
    ("value", "label"),
    [(0, "0"), (0.25, "0.25"), (50_000, "50000"), (1e6, "1e6"), (2.5e-5, "2.5e-5"), (-3, "-3")],
)
def test_labels_are_short(value, label):
    assert number(value) == label


@pytest.mark.parametrize(
    ("value", "label"),
    [(123.4, "120"), (0.0567, "0.057"), (4.14e-27, "4.1e-27"), (math.nan, "nan")],
)
def test_short_values_have_two_digits(value, label):
    assert short(value) == label
