"""Parquet tables, wide (a row per series), long (a row per step), or with lists of steps."""

from pathlib import Path
from typing import Any

import numpy as np

from rnnopt.tasks.names import LONGEST
from rnnopt.tasks.user_data.limits import check_declared
from rnnopt.tasks.user_data.readers.columns import Columns, Parts
from rnnopt.tasks.user_data.readers.parquet_lists import from_lists, lists_of
from rnnopt.tasks.user_data.readers.tables import from_table

ROWS = 64  # that are read at a time, of tables with lists
# Errors of pyarrow for damaged files, besides its own classes.
DAMAGED = (OSError, KeyError, MemoryError, OverflowError, RuntimeError, TypeError, UnicodeError)


def read_parquet(path: Path, columns: Columns) -> Parts:
    """Reads the series of a parquet file."""
    import pyarrow as pa

    try:
        table = _read(path)
        table.validate(full=True)
    except (pa.ArrowException, *DAMAGED) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise ValueError(f"it is no readable parquet file: {reason}") from error
    if table.num_rows == 0:
        raise ValueError("data need at least one series, got none.")
    if len(set(table.column_names)) < table.num_columns:
        raise ValueError("the names of the columns must differ from each other.")
    pairs = dict(zip(table.column_names, table.columns, strict=True))
    lists = {name: lists_of(name, one) for name, one in pairs.items() if _is_list(one.type)}
    single = {name: _column(name, one) for name, one in pairs.items() if name not in lists}
    return (from_lists(single, lists, columns) if lists else from_table(single, columns)), None


def _is_list(kind: Any) -> bool:
    import pyarrow as pa

    types = pa.types
    return types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)


def _read(path: Path) -> Any:
    """The file's table, with each word stored once."""
    import pyarrow as pa
    from pyarrow import parquet

    # Only the file: a folder beside it does not count as a partition.
    stored = path.stat().st_size
    if not stored:
        raise pa.ArrowInvalid("it is empty")
    limits = dict(thrift_string_size_limit=2 * stored, thrift_container_size_limit=2 * stored)
    with parquet.ParquetFile(path, **limits) as file:
        schema, facts = file.schema_arrow, file.metadata
        if facts.num_columns == 0:
            raise ValueError("a table needs a column for each step, got none.")
        # Not the column statistics of the parts: reading those of a damaged file ends the process
        # (pyarrow 26, an uncaught C++ exception).
        parts = [facts.row_group(i) for i in range(facts.num_row_groups)]
        unpacked = sum(max(0, part.total_byte_size) for part in parts)
        rows = max(facts.num_rows, sum(max(0, part.num_rows) for part in parts))
        check_declared(max(unpacked, 8 * rows * facts.num_columns), stored, "the table")
    is_words = (pa.types.is_string, pa.types.is_binary, pa.types.is_large_string)
    words = [field.name for field in schema if any(one(field.type) for one in is_words)]
    with parquet.ParquetFile(path, read_dictionary=words, **limits) as file:
        if not any(_is_list(field.type) for field in schema):
            return file.read()
        # A header does not say how long lists are: a few rows at a time, and no more than fits.
        batches, taken = [], 0
        for batch in file.iter_batches(batch_size=ROWS):
            batches.append(batch)
            taken += batch.nbytes
            check_declared(taken, stored, "the table")
        return pa.Table.from_batches(batches) if batches else file.read()


def _column(name: str, column: Any) -> np.ndarray:
    """One column as an array (row,)."""
    import pyarrow as pa

    kind = column.type
    if pa.types.is_nested(kind):
        raise ValueError(f"column {name!r} must hold one value per row, got {str(kind)[:60]}.")
    try:
        if not pa.types.is_dictionary(kind):
            return column.to_numpy()
        parts = []
        for chunk in column.chunks:
            known = chunk.dictionary.to_pylist()
            if any(isinstance(one, str | bytes) and len(one) > LONGEST for one in known):
                raise ValueError(
                    f"column {name!r} must have words of {LONGEST} characters at most."
                )
            words = np.array([*known, None], dtype=object)
            parts.append(words[chunk.indices.fill_null(len(known)).to_numpy()])
        return np.concatenate(parts)
    except (pa.ArrowException, IndexError, *DAMAGED) as error:
        raise ValueError(f"column {name!r} cannot be read as {str(kind)[:60]}.") from error
