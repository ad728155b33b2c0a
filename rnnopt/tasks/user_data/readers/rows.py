"""Lines of a table that come one after another: each is a step of a series, a cell a channel."""

import csv
from collections.abc import Sequence

import numpy as np

from rnnopt.config.data_config import Decimal
from rnnopt.config.errors import UserError
from rnnopt.tasks.user_data.limits import LARGEST
from rnnopt.tasks.user_data.readers.columns import is_number, to_numbers
from rnnopt.tasks.user_data.readers.decimals import refuse_points, with_points
from rnnopt.tasks.user_data.readers.text import separator_of
from rnnopt.tasks.user_data.recordings import TableSchema, default_names

SHOWN = 10  # names


class RowReader:
    """Reads lines as the values of a run's channels.

    If the first line names columns, they are matched with the channels by name. Columns that the
    training data had besides (label, time, group, …) are passed over. Without names, or for
    channels without names, positions count.

    Args:
        channels: names of the channels.
        table: schema of the training data, if they were a table.
        gaps: whether a value may be missing.
        decimal: decimal sign; None means a point.
    """

    def __init__(
        self,
        channels: Sequence[str],
        table: TableSchema | None = None,
        gaps: bool = False,
        decimal: Decimal | None = None,
    ):
        self.channels, self.table, self.gaps, self.decimal = list(channels), table, gaps, decimal
        self._separator: str | None = None
        self._width = len(channels)
        self._places: list[int] | None = None  # of the channels, if columns have names
        self._identity: int | None = None
        self._begun = False

    def is_blank(self, line: str) -> bool:
        """Whether a line has no cells: where tabs separate cells, a line of tabs has some."""
        return not line.strip(" \r\n" if self._separator == "\t" else None)

    def read(self, line: str, number: int) -> tuple[np.ndarray, str | None] | None:
        """The values (channel,) of a line and the series it names; None for a line of names.

        Args:
            line: a line that is not blank.
            number: number of the line, from 1.

        Raises:
            UserError: another number of cells, or a cell that is not a finite number.
        """
        if not self._begun:
            self._separator = separator_of(line, self.decimal)
        cells = self._cells(line, number)
        if not self._begun:
            self._begun = True
            if self._names_columns(cells):
                self._match([cell.strip() for cell in cells])
                return None
        if len(cells) != self._width:
            names = ", ".join(self.channels[:SHOWN]) + ", …" * (len(self.channels) > SHOWN)
            such = f" ({names})" if self._places is None else ", as the first line"
            count = f"{self._width} cell{'s' * (self._width > 1)}"
            raise self._bad(number, f"needs {count}{such}, got {len(cells)}")
        name = None if self._identity is None else cells[self._identity].strip()
        if name == "":
            raise self._bad(number, "has no value in the column of ids")
        chosen = cells if self._places is None else [cells[place] for place in self._places]
        return self._values(chosen, number), name

    def _cells(self, line: str, number: int) -> list[str]:
        try:
            if self._separator is None:
                cells = line.split()
            else:
                (cells,) = csv.reader([line], delimiter=self._separator, strict=True)
        except (csv.Error, ValueError) as error:
            raise self._bad(number, f"cannot be read as cells: {error}") from error
        return cells

    def _names_columns(self, cells: list[str]) -> bool:
        """Whether the first line has names: those of the channels, or words alone."""
        if self._named and set(self.channels) <= {cell.strip() for cell in cells}:
            return True
        return not any(map(is_number, with_points(cells)))

    @property
    def _named(self) -> bool:
        return self.channels != list(default_names(len(self.channels)))

    def _match(self, names: list[str]) -> None:
        """Finds the channels in a line of names."""
        table = self.table
        besides: set[str | None] = set()
        if table is not None:
            besides = {table.id, table.label, table.time, table.group, *table.dropped}
            besides |= {*table.unused, *(table.label or "").split(",")}
            self._identity = names.index(table.id) if table.id in names else None
        rest = [i for i, name in enumerate(names) if name not in besides]
        if self._named:
            lacking = [repr(name) for name in self.channels if name not in names]
            extra = [repr(names[i]) for i in rest if names[i] not in self.channels]
            if lacking or extra or len(set(names)) < len(names):
                told = [f"lacks {', '.join(lacking[:SHOWN])}"] * bool(lacking)
                told += [f"has {', '.join(extra[:SHOWN])} besides"] * bool(extra)
                wrong = " and ".join(told) or "has a name twice"
                raise self._bad(1, f"needs the names of the run's channels: it {wrong}")
            self._places = [names.index(name) for name in self.channels]
        elif len(rest) != len(self.channels):
            raise self._bad(1, f"needs {len(self.channels)} columns, got {len(rest)}")
        else:
            self._places = rest
        self._width = len(names)

    def _values(self, cells: list[str], number: int) -> np.ndarray:
        try:
            if self.decimal == ",":
                refuse_points([cells], number)
                cells = with_points(cells)
            values = to_numbers(cells, f"line {number}")
        except ValueError as error:
            raise UserError(f"standard input: {error}") from error
        missing = np.isnan(values)
        if missing.any() and not self.gaps:
            channel = self.channels[int(missing.argmax())]
            raise self._bad(
                number, f"has no value for {channel}, and the run was trained with --missing error"
            )
        if (np.abs(values[~missing]) > LARGEST).any():
            place = int(np.nanargmax(np.abs(values)))
            raise self._bad(
                number,
                f"needs finite numbers within {LARGEST:g}, got {cells[place].strip()[:40]} for"
                f" {self.channels[place]}",
            )
        return values

    @staticmethod
    def _bad(number: int, wrong: str) -> UserError:
        return UserError(f"standard input: line {number} {wrong}.")
