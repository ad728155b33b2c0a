"""Parquet tables, wide (a series a row) or long (a step a row)."""

from pathlib import Path

import numpy as np

from rnnopt.tasks.readers.columns import Columns, Parts
from rnnopt.tasks.readers.tables import from_table


def read_parquet(path: Path, columns: Columns) -> Parts:
    """The series of a parquet file."""
    import pyarrow as pa
    from pyarrow import parquet

    try:
        # The file alone: no folder beside it is taken for a partition.
        table = parquet.ParquetFile(path).read()
    except pa.ArrowInvalid as error:
        raise ValueError(f"it is no readable parquet file: {str(error).splitlines()[0]}") from error
    if table.num_rows == 0:
        raise ValueError("data need at least one series, got none.")
    arrays: dict[str, np.ndarray] = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        kind = column.type
        if pa.types.is_nested(kind):
            raise ValueError(f"column {name!r} must hold one value a row, got {kind}.")
        if pa.types.is_dictionary(kind):
            column = column.cast(kind.value_type)
        arrays[name] = column.to_numpy()
    return from_table(arrays, columns), None
