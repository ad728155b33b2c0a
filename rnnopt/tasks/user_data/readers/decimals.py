"""Decimal commas: much of Europe writes 1,5, and its spreadsheets put semicolons between cells.

A comma is a decimal comma if the user says so; or, in a file with semicolons or tabs, if numbers
have commas and none has a point. Thousands separators are never removed by a guess.
"""

import re

from rnnopt.config.data_config import Decimal

Rows = list[list[str]]

COMMA = re.compile(r"[+-]?([0-9]+,[0-9]*|,[0-9]+)([eE][+-]?[0-9]+)?")
POINT = re.compile(COMMA.pattern.replace(",", r"\."))
# A number that could also be a whole number: 1,234
GROUPS = re.compile(r"[+-]?[1-9][0-9]{0,2}(,[0-9]{3})+")
# With separators between thousands: 1.234,56 or 1 234 or 1'234.5
THOUSANDS = re.compile(
    r"[+-]?[0-9]{1,3}([.,'’ \u00a0\u2009\u202f])[0-9]{3}(\1[0-9]{3})*([.,][0-9]+)?"
)


def has_commas(rows: Rows, separator: str | None, chosen: Decimal | None) -> bool:
    """Whether decimals have a comma.

    Args:
        rows: cells of each line, without names.
        separator: separator between the cells; None means blanks.
        chosen: the user's choice, if any.

    Raises:
        ValueError: the user made no choice, and the commas may also separate thousands.
    """
    if chosen is not None or separator not in (";", "\t"):
        return chosen == ","
    commas = _numbers(rows, ",", COMMA)
    if not commas or _numbers(rows, ".", POINT):
        return False
    if all(map(GROUPS.fullmatch, commas)):
        raise ValueError(
            f"numbers such as {commas[0]!r} may have a decimal comma, or commas between thousands:"
            " pass --decimal , for the first, and write them without these for the second."
        )
    return True


def with_points(row: list[str]) -> list[str]:
    """The cells of a line, with points instead of decimal commas."""
    return [
        cell.replace(",", ".") if "," in cell and COMMA.fullmatch(cell.strip()) else cell
        for cell in row
    ]


def refuse_points(rows: Rows, first: int) -> None:
    """Raises ValueError if a number has a point where decimals have commas.

    Args:
        rows: cells of each line, as they are written.
        first: number of the first line.
    """
    for number, row in enumerate(rows, start=first):
        for place, cell in enumerate(row, start=1):
            if "." in cell and POINT.fullmatch(cell.strip()):
                raise ValueError(
                    f"line {number}, value {place}: {cell.strip()[:40]!r} has a point, and decimals"
                    " have a comma here: write all decimals in the same way (see --decimal), and no"
                    " thousands separators."
                )


def advice(cell: str) -> str:
    """Advice for a cell that is a number in another notation; "" for any other cell."""
    cell, hints = cell.strip(), []
    if THOUSANDS.fullmatch(cell):
        hints.append("write numbers without thousands separators")
    if COMMA.fullmatch(cell):
        hints.append("pass --decimal , where decimals have a comma")
    if re.fullmatch(r"[+-]?[0-9]+[ \t]+[+-]?[0-9.]+", cell) and not hints:
        hints.append("pass --decimal , where blanks stand between cells and decimals have a comma")
    return f" ({', or '.join(hints)})" if hints else ""


def _numbers(rows: Rows, sign: str, pattern: re.Pattern[str]) -> list[str]:
    """The cells that are numbers with the decimal sign `sign`."""
    cells = [cell.strip() for row in rows for cell in row if sign in cell]
    return [cell for cell in cells if pattern.fullmatch(cell)]
