"""Names with options in the cells of a table: broken after : and , where they are too long.

Beside them headings are broken between words, and figures such as 0.94 ± 0.01 are not.
"""

import re
from collections.abc import Iterable, Iterator, Sequence

from rich.cells import cell_len, chop_cells
from rich.console import Console, ConsoleOptions
from rich.measure import Measurement
from rich.table import Column
from rich.text import Text

from rnnopt.cli.terminal import console

PIECE = re.compile(r"[^:, ]*[:, ]+|[^:, ]+")


class Name:
    """A name such as frank-wolfe:norm=inf,radius=0.01 as a cell.

    A piece between two places to break at that is wider than the cell goes on at the next line.
    """

    def __init__(self, text: str):
        self.text = text

    @property
    def longest(self) -> int:
        """Cells of the widest piece."""
        return max((cell_len(one.rstrip()) for one in PIECE.findall(self.text)), default=0)

    def lines(self, width: int) -> list[str]:
        """The text in lines of at most so many cells."""
        lines = [""]
        for piece in PIECE.findall(self.text):
            if cell_len(lines[-1] + piece.rstrip()) <= width:
                lines[-1] += piece
            else:
                lines += chop_cells(piece, max(1, width))
        return [line.rstrip() for line in lines if line.strip()]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        for line in self.lines(options.max_width):
            yield Text(line)

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(self.longest, cell_len(self.text)).with_maximum(options.max_width)


def column_of(names: Iterable[str], heading: str = "optimizer") -> Column:
    """A column for `Name`s: a quarter of the terminal, more where a piece needs it."""
    cells = [Name(name) for name in names]
    whole = max((cell_len(one.text) for one in cells), default=0)
    pieces = max((one.longest for one in cells), default=0)
    width = max(len(heading), pieces, min(whole, console.width // 4))
    return Column(heading, width=min(width, console.width // 2))


def widths(columns: Sequence[Sequence[str]], name: int) -> list[int | None]:
    """How wide each column of headings and figures is beside names; None is as rich has it.

    Args:
        columns: of each the heading and its cells.
        name: width of the column of names.
    """
    room = console.width - name - 3 * (len(columns) + 1) - 1
    if sum(max(map(cell_len, column)) for column in columns) <= room:
        return [None] * len(columns)
    least = [max(map(_longest_piece, column)) for column in columns]
    if sum(least) > room:
        return [None] * len(columns)
    figures = [all(_is_figure(cell) for cell in cells) for _, *cells in columns]
    return [width if kept else None for width, kept in zip(least, figures, strict=True)]


def _is_figure(cell: str) -> bool:
    return not any(map(str.isalpha, cell))


def _longest_piece(cell: str) -> int:
    """Cells of what is not broken: all of a figure, else a word."""
    return max(map(cell_len, [cell] if _is_figure(cell) else cell.split()))
