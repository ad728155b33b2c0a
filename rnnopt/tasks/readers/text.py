"""Comma, semicolon, tab or blank separated text: as the UCR archive has it, or a named table.

Without names each line is a series, the label first; lines may differ in length. With names in the
first line it is a table, wide or long.
"""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np

from rnnopt.tasks.readers.columns import IDS, LABELS, TIMES, Columns, Parts, is_number, to_numbers
from rnnopt.tasks.readers.tables import from_table
from rnnopt.tasks.recordings import recordings

SEPARATORS = ("\t", ";", ",")


def read_text(path: Path, columns: Columns) -> Parts:
    """The series of a text file."""
    rows = read_rows(path)
    widths = {len(row) for row in rows}
    bare = columns.unlabelled or widths == {columns.steps}
    if columns.header == "yes" or (columns.header is None and has_names(rows, bare)):
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
        if wanted is not None and not columns.optional:
            raise ValueError(f"there is no column {wanted!r}: the first line has no names.")
    first = 0 if bare else 1
    series = [to_numbers(row[first:], f"line {i + 1}") for i, row in enumerate(rows)]
    found = recordings(series, None if bare else [row[0] for row in rows])
    note = "lines without names, " + ("no label" if bare else "the label first")
    return replace(found, notes=(note,)), None


def read_rows(path: Path) -> list[list[str]]:
    """The cells of every line that is not empty."""
    lines = [line for line in path.read_text("utf-8-sig").splitlines() if line.strip()]
    if not lines:
        raise ValueError("data need at least one series, got none.")
    separator = next((one for one in SEPARATORS if one in lines[0]), None)
    if separator is None:
        return [line.split() for line in lines]
    try:
        return list(csv.reader(lines, delimiter=separator))
    except csv.Error as error:  # a cell of more than 131072 characters
        raise ValueError(f"a line cannot be read as cells: {error}.") from error


def has_names(rows: list[list[str]], bare: bool = False) -> bool:
    """Whether the first line names columns.

    It does if most of its cells but the first are words. A line of numbers does if they count from
    0 or 1, or follow a word such as label, or nothing, as no series would.

    Args:
        rows: cells of each line.
        bare: lines have no label, so that the first cell may be a value that is missing.
    """
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


def counts(cells: list[str]) -> bool:
    """Whether they are 0, 1, 2, … or 1, 2, 3, …"""
    return cells in [[str(i + start) for i in range(len(cells))] for start in (0, 1)]


def _rising(cells: list[str]) -> bool:
    numbers = to_numbers(cells, "the first line")
    return bool((numbers[1:] > numbers[:-1]).all())
