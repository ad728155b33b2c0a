"""Text with commas, semicolons, tabs or blanks between cells: as in the UCR archive, or a table.

Without names each line is a series, with the label first or at the position in `Columns`; lines may
differ in length. With names in the first line it is a table, wide or long.
"""

import csv
import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from rnnopt.config.data_config import Decimal
from rnnopt.tasks.user_data.readers.columns import (
    IDS,
    LABELS,
    TIMES,
    Columns,
    Parts,
    at_place,
    is_number,
    place_of,
    to_numbers,
)
from rnnopt.tasks.user_data.readers.decimals import Rows, has_commas, refuse_points, with_points
from rnnopt.tasks.user_data.readers.tables import from_table
from rnnopt.tasks.user_data.recordings import Recordings, recordings

SEPARATORS = ("\t", ";", ",")
COMMAS = "decimal commas"  # note about a file that has them


@dataclass(frozen=True)
class Lines:
    """The cells of every line that is not empty.

    Args:
        written: the cells as written.
        rows: the cells with decimal points.
        commas: whether decimals are written with commas.
    """

    written: Rows
    rows: Rows
    commas: bool

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes about the notation."""
        return (COMMAS,) if self.commas else ()

    def check_decimals(self, named: bool) -> None:
        """Raises ValueError if numbers have points beside commas; names may have both."""
        if self.commas:
            refuse_points(self.written[named:], 1 + named)


def read_text(path: Path, columns: Columns) -> Parts:
    """Reads the series of a text file."""
    lines = read_lines(path, columns.decimal)
    rows = lines.rows
    widths = {len(row) for row in rows}
    bare = columns.unlabelled or widths == {columns.steps}
    place = place_of(columns.label)
    place = columns.place if place is None else place
    named = columns.header == "yes" or (columns.header is None and has_names(rows, bare, place))
    lines.check_decimals(named)
    found = _table(lines, columns) if named else _series(rows, columns, None if bare else place)
    return replace(found, notes=found.notes + lines.notes), None


def _table(lines: Lines, columns: Columns) -> Recordings:
    """The series of lines below a line of names."""
    names = [cell.strip() for cell in lines.written[0]]
    if len(set(names)) < len(names):
        raise ValueError("the names in the first line must differ from each other.")
    for number, row in enumerate(lines.rows[1:], start=2):
        if len(row) != len(names):
            raise ValueError(f"line {number} needs {len(names)} cells, got {len(row)}.")
    if len(lines.rows) < 2:
        raise ValueError("data need at least one series, got none.")
    cells = np.array(lines.rows[1:], dtype=object)
    return from_table({name: cells[:, i] for i, name in enumerate(names)}, columns)


def _series(rows: Rows, columns: Columns, place: int | None) -> Recordings:
    """The series of lines without names, with the label at a position, or without labels."""
    for wanted in (columns.label, columns.id, columns.time):
        unknown = wanted is not None and (wanted != columns.label or place_of(wanted) is None)
        if unknown and not columns.optional:
            raise ValueError(
                f"there is no column {wanted!r}: the first line has no names (a label has a place,"
                " 0 for the first column, -1 for the last)."
            )
    if place is None:
        series = [to_numbers(row, f"line {i + 1}") for i, row in enumerate(rows)]
        return replace(recordings(series), notes=("lines without names, no label",))
    series, labels = [], []
    for number, row in enumerate(rows, start=1):
        try:
            labels.append(at_place(row, place))
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from error
        steps = list(row)
        del steps[place]
        try:
            series.append(to_numbers(steps, f"line {number}"))
        except ValueError as error:
            raise ValueError(str(error)[:-1] + _label_last(rows, columns) + ".") from error
    where = {0: "first", -1: "last"}.get(place, f"in column {place}")
    return replace(recordings(series, labels), notes=(f"lines without names, the label {where}",))


def _label_last(rows: Rows, columns: Columns) -> str:
    """A hint if lines seem to end with their label, or with an empty cell."""
    if columns.label is not None and not any(row[-1].strip() for row in rows):
        return " (the last cell of each line is empty: --label -2 is the one before)"
    ends = columns.label is None and all(
        len(row) > 1 and not is_number(row[-1].replace(",", ".")) for row in rows
    )
    return " (pass --label last if lines end with their label)" if ends else ""


def read_lines(path: Path, decimal: Decimal | None = None) -> Lines:
    """The cells of every line that is not empty.

    Raises:
        ValueError: there are none, or a line cannot be cut into cells.
    """
    lines = [line for line in path.read_text("utf-8-sig").splitlines() if line.strip()]
    declared = (
        re.fullmatch(r"(?i)sep=([,;|\t])", lines[0]) if lines else None
    )  # spreadsheets write it
    lines = lines[1:] if declared else lines
    if not lines:
        raise ValueError("data need at least one series, got none.")
    separator = declared[1] if declared else separator_of(lines[0], decimal)
    try:
        cells = (
            [line.split() for line in lines]
            if separator is None
            else list(csv.reader(lines, delimiter=separator))
        )
    except csv.Error as error:  # a cell of more than 131072 characters
        raise ValueError(f"a line cannot be read as cells: {error}.") from error
    alone = separator is None and all(len(row) == 1 for row in cells)
    if alone and decimal == "," and any(row[0].count(",") > 1 for row in cells):
        raise ValueError(
            "no separator is left between cells with --decimal , : pass --decimal . if commas"
            " separate cells."
        )
    any_comma = any("," in line for line in lines)  # fast for most files
    commas = (any_comma or decimal == ",") and has_commas(cells[1:] or cells, separator, decimal)
    return Lines(cells, [with_points(row) for row in cells] if commas else cells, commas)


def separator_of(line: str, decimal: Decimal | None) -> str | None:
    """The separator of cells; None means blanks."""
    for one in SEPARATORS:
        # With decimal commas, other commas may separate cells in quotes.
        if one in line and (one != "," or decimal != "," or '"' in line):
            return one
    return None


def has_names(rows: Rows, bare: bool = False, place: int = 0) -> bool:
    """Whether the first line names columns.

    It does if most of its cells but the first are words. A line of numbers does if they count from
    0 or 1, or follow a word such as label or an empty cell, which no series would do.

    Args:
        rows: cells of each line.
        bare: whether lines have no label, so that the first cell may be a missing value.
        place: position of the label, used in place of the first cell.
    """
    if not bare and place != 0:
        rows = [_turned(row, place) for row in rows]
    first, *cells = [cell.strip() for cell in rows[0]]
    if 2 * sum(not is_number(cell) for cell in cells) > len(cells):
        return True
    if len(rows) < 2 or len({len(row) for row in rows}) > 1 or len(cells) < 2:
        return False
    counted = counts(cells) and len(cells) > 2
    if not is_number(first):
        usual = first.lower() in (*LABELS, *IDS, *TIMES)
        again = any(row[0].strip() == first for row in rows[1:])
        return counted or (usual and not again and len(set(cells)) == len(cells))
    if not first:
        return counts(cells) or (not bare and _rising(cells))
    return counts([first, *cells]) and len(cells) > 2


def _turned(row: list[str], place: int) -> list[str]:
    """The same cells with the one at `place` moved to the front, if there is one."""
    return (
        row if not -len(row) <= place < len(row) else [row[place], *row[:place], *row[place:][1:]]
    )


def counts(cells: list[str]) -> bool:
    """Whether the cells are 0, 1, 2, … or 1, 2, 3, …"""
    return cells in [[str(i + start) for i in range(len(cells))] for start in (0, 1)]


def _rising(cells: list[str]) -> bool:
    if not all(map(is_number, cells)):
        return False
    numbers = to_numbers(cells, "the first line")
    return bool((numbers[1:] > numbers[:-1]).all())
