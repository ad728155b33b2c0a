"""Names with options in a table's cells: broken after : and , where they do not fit, none lost."""

import io

import pytest
from rich.console import Console
from rich.table import Table

from rnnopt.cli.tables import Name, column_of, widths

LONG = "frank-wolfe:norm=inf,radius=0.01"


def test_a_name_is_broken_behind_its_colon_and_its_commas_alone():
    assert Name(LONG).lines(16) == ["frank-wolfe:", "norm=inf,", "radius=0.01"]
    assert Name(LONG).lines(24) == ["frank-wolfe:norm=inf,", "radius=0.01"]
    assert Name(LONG).lines(32) == [LONG]
    assert Name("adam hidden=32").lines(10) == ["adam", "hidden=32"]


def test_a_piece_that_does_not_fit_goes_on_at_the_next_line():
    assert Name("adam:decoupled_weight_decay=False").lines(12) == [
        "adam:", "decoupled_we", "ight_decay=F", "alse",
    ]  # fmt: skip


@pytest.mark.parametrize("text", [LONG, "", "a,,b::c", "x" * 50, "日本語:長さ=100,幅=3"])
@pytest.mark.parametrize("width", [1, 2, 7, 20, 200])
def test_nothing_is_lost(text, width):
    assert "".join(Name(text).lines(width)).replace(" ", "") == text


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_a_table_breaks_no_word_of_a_name(monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    out = io.StringIO()
    table = Table(column_of([LONG, "adam"]), *(f"figure {i} of it" for i in range(6)))
    table.add_row(Name(LONG), *["0.123 ± 0.456"] * 6)
    Console(file=out, width=columns).print(table)
    cells = [line.split("│")[1].strip() for line in out.getvalue().splitlines() if "│" in line]
    assert "".join(cells) == LONG
    assert all(cell[-1:] in ("", ":", ",", "1") for cell in cells)


COLUMNS = [["test accuracy", "0.94 ± 0.19"], ["reached 0.9", "0/2"], ["status", "2 out of budget"]]


@pytest.mark.parametrize(
    ("columns", "found"),
    [
        (80, [None, None, None]),  # room for all in one line
        (57, [11, 7, None]),  # headings and sentences are broken
        (40, [None, None, None]),  # figures are, too
    ],
)
def test_figures_are_broken_last(monkeypatch, columns, found):
    console = Console(width=columns, height=25)
    monkeypatch.setattr("rnnopt.cli.tables.console", console)
    assert widths(COLUMNS, name=10) == found
