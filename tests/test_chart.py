"""What a chart promises: round ticks, lines where their values are, no more points than show."""

import math
import re

import pytest

from rnnopt.report.svg import (
    BOTTOM,
    HEIGHT,
    LEFT,
    MOST_POINTS,
    RIGHT,
    TOP,
    WIDTH,
    Line,
    axis,
    layout,
    short,
)
from rnnopt.report.svg import number as label_of


def points(path):
    """The points of a path of M and L."""
    return [tuple(map(float, pair)) for pair in re.findall(r"[ML]([-\d.]+) ([-\d.]+)", path)]


def draw(*lines, **options):
    return layout(lines, "title", "x", "summary", **options)


def test_a_line_goes_from_corner_to_corner():
    chart = draw(Line(3, [0, 5, 10], [0.0, 0.5, 1.0]))
    ((number, path, band),) = chart.lines
    assert (number, band) == (3, "")
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    middle = ((LEFT + right) / 2, (TOP + bottom) / 2)
    assert points(path) == [(LEFT, bottom), middle, (right, TOP)]


def test_ticks_are_round_and_in_the_plot():
    ticks = axis([0, 600], 0, 300).ticks
    assert ticks == [(0, "0"), (100, "200"), (200, "400"), (300, "600")]


def test_logarithmic_ticks_are_decades():
    found = axis([1e-4, 1.0], 0, 400, log=True).ticks
    assert found == [(0, "0.0001"), (100, "0.001"), (200, "0.01"), (300, "0.1"), (400, "1")]


def test_logarithmic_axes_of_little_span_have_ticks_too():
    assert len(axis([0.5, 1.2], 0, 100, log=True).ticks) >= 2
    assert len(axis([0.3, 0.3], 0, 100, log=True).ticks) >= 2
    assert [label for _, label in axis([0.6, 1.6], 0, 100, log=True).ticks][:2] == ["0.6", "0.8"]


def test_zero_on_a_logarithmic_axis_is_at_its_end():
    held = axis([0.0, 0.1, 1.0], 0, 100, log=True)
    assert (held.place(0.0), held.place(0.1), held.place(1.0)) == (0, 0, 100)


@pytest.mark.parametrize("values", [[], [math.nan], [math.inf], [2.0], [0.0, 0.0]])
@pytest.mark.parametrize("log", [False, True])
def test_any_values_make_an_axis(values, log):
    held = axis(values, 0, 100, log)
    assert held.low < held.high
    assert all(0 <= place <= 100 for place, _ in held.ticks)


def test_what_lies_beyond_the_axis_is_drawn_at_its_end():
    # An interval of accuracies may reach below 0 and above 1.
    chart = draw(Line(0, [0, 1], [0.5, 0.5], [-1, -1], [2, 2]), y_range=(0, 1))
    heights = {y for _, y in points(chart.lines[0][2])}
    assert heights == {HEIGHT - BOTTOM, TOP}


def test_a_band_goes_there_above_and_back_below():
    chart = draw(Line(0, [0, 1], [1, 1], [0, 0], [2, 2]))
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    corners = [(LEFT, TOP), (right, TOP), (right, bottom), (LEFT, bottom)]
    assert points(chart.lines[0][2]) == corners
    assert chart.lines[0][2].endswith("Z")


def test_steps_go_level_then_up():
    chart = draw(Line(0, [0, 10], [0, 1]), steps=True)
    assert chart.lines[0][1] == f"M{LEFT:g} {HEIGHT - BOTTOM:g}H{WIDTH - RIGHT:g}V{TOP:g}"


def test_long_lines_are_thinned_and_keep_their_ends():
    count = 10_000
    ((_, path, _),) = draw(Line(0, range(count), range(count))).lines
    drawn = points(path)
    assert len(drawn) == MOST_POINTS
    assert drawn[0] == (LEFT, HEIGHT - BOTTOM)
    assert drawn[-1] == (WIDTH - RIGHT, TOP)


def test_the_target_is_in_the_plot_even_if_no_line_comes_near():
    chart = draw(Line(0, [0, 1], [0.1, 0.2]), level=0.9)
    assert chart.level == (TOP, "target 0.9")
    assert draw(Line(0, [0, 1], [0, 1]), level=math.nan).level is None


@pytest.mark.parametrize(
    ("value", "label"),
    [(0, "0"), (0.25, "0.25"), (50_000, "50000"), (1e6, "1e6"), (2.5e-5, "2.5e-5"), (-3, "-3")],
)
def test_labels_are_short(value, label):
    assert label_of(value) == label


@pytest.mark.parametrize(
    ("value", "label"),
    [(123.4, "120"), (0.0567, "0.057"), (4.14e-27, "4.1e-27"), (math.nan, "nan")],
)
def test_short_values_have_two_digits(value, label):
    assert short(value) == label
