"""`rnnopt predict --stream`: rows on standard input, predictions on standard output."""

import csv
import sys
from collections.abc import Iterator

from rnnopt.config.data_config import Decimal
from rnnopt.config.errors import UserError
from rnnopt.runs.prediction import TrainedModel
from rnnopt.runs.row_stream import row_stream
from rnnopt.tasks.user_data.readers.rows import RowReader

RESET = "reset"  # a line that begins a new series, as a blank one does


def answer_rows(trained: TrainedModel, decimal: Decimal | None) -> int:
    """Answers each row of standard input at once; the exit code.

    The first wrong row ends it: without its step, every later answer of the series would be wrong.

    Raises:
        UserError: a wrong row, named by its line, or a run that cannot answer row by row.
        BrokenPipeError: nobody reads the answers any more.
    """
    if sys.stdout is None:
        raise UserError("--stream writes to standard output, which is closed.")
    stream, p = row_stream(trained), trained.preparation
    reader = RowReader(stream.channels, p.table, p.missing != "error", decimal)
    table = csv.writer(sys.stdout, lineterminator="\n")
    try:
        table.writerow(stream.headings)
        sys.stdout.flush()
        count, last, begun = 1, None, False
        for number, line in _lines():
            if reader.is_blank(line) or line.strip().lower() == RESET:
                count += begun
                stream.restart(str(count))
                last, begun = None, False
                continue
            row = reader.read(line, number)
            if row is None:
                continue
            values, name = row
            if name is not None and name != last:
                stream.restart(name)
                last = name
            begun = True
            try:
                table.writerows(stream.take(values))
            except ValueError as error:
                raise UserError(f"standard input: line {number}: {error}.") from error
            sys.stdout.flush()
    except KeyboardInterrupt:  # the usual end of a stream
        return 130
    return 0


def _lines() -> Iterator[tuple[int, str]]:
    """The lines of standard input, numbered from 1, each as soon as it is there."""
    number = 0
    try:
        for number, line in enumerate(sys.stdin, start=1):
            yield number, line.removeprefix("\ufeff") if number == 1 else line
    except UnicodeDecodeError as error:
        raise UserError(f"standard input: line {number + 1} is no UTF-8 text.") from error
