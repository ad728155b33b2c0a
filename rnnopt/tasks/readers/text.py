"""Comma, semicolon, tab or blank separated text: as the UCR archive has it, or a named table.

Without names each line is a series, the label first; lines may differ in length. With names in the
first line it is a table, wide or long.
"""

import csv
from pathlib import Path

import numpy as np

from rnnopt.tasks.readers.columns import Columns, Parts, is_number, to_numbers
from rnnopt.tasks.readers.tables import from_table
from rnnopt.tasks.recordings import recordings

SEPARATORS = ("\t", ";", ",")


def read_text(path: Path, columns: Columns) -> Parts:
    """The series of a text file."""
    rows = read_rows(path)
    if has_names(rows):
        names = [cell.strip() for cell in rows[0]]
        if len(set(names)) < len(names):
            raise ValueError("the names in the first line must differ from each other.")
        for number, row in enumerate(rows[1:], start=2):
            if len(row) != len(names):
                raise ValueError(f"line {number} needs {len(names)} cells, got {len(row)}.")
        if len(rows) < 2:
            raise ValueError("data need at least one series, got none.")
        cells = np.array(rows[1:], dtype=object)
        return from_table({name: cells[:, i] for i, name in enumerate(names)}, columns), None
    for wanted in (columns.label, columns.id, columns.time):
        if wanted is not None:
            raise ValueError(f"there is no column {wanted!r}: the first line has no names.")
    widths = {len(row) for row in rows}
    bare = columns.unlabelled or widths == {columns.steps}
    first = 0 if bare else 1
    series = [to_numbers(row[first:], f"line {i + 1}") for i, row in enumerate(rows)]
    return recordings(series, None if bare else [row[0] for row in rows]), None


def read_rows(path: Path) -> list[list[str]]:
    """The cells of every line that is not empty."""
    lines = [line for line in path.read_text("utf-8-sig").splitlines() if line.strip()]
    if not lines:
        raise ValueError("data need at least one series, got none.")
    separator = next((one for one in SEPARATORS if one in lines[0]), None)
    if separator is None:
        return [line.split() for line in lines]
    return list(csv.reader(lines, delimiter=separator))


def has_names(rows: list[list[str]]) -> bool:
    """Whether the first line names columns.

    It does if most of its cells but the first are words, or if they count from 0 or 1.
    """
    cells = [cell.strip() for cell in rows[0][1:]]
    words = sum(not is_number(cell) for cell in cells)
    if 2 * words > len(cells):
        return True
    counted = [[str(i + first) for i in range(len(cells))] for first in (0, 1)]
    return len(cells) > 2 and cells in counted and not is_number(rows[0][0])
