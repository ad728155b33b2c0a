"""Several labels a series, each 0 or 1: checked, and named."""

import numpy as np

from rnnopt.tasks.user_data.recordings import Recordings


def labels_of(targets: np.ndarray | None) -> np.ndarray:
    """Labels (count, label) of 0 and 1 in float64.

    Raises:
        ValueError: words, other numbers, or a single label.
    """
    if targets is None:
        raise ValueError("several labels a series need targets of each series, not of each step.")
    if targets.dtype.kind != "f" or targets.ndim != 2 or targets.shape[1] < 2:
        shape = f"{targets.ravel()[0]!r} first" if targets.dtype.kind != "f" else str(targets.shape)
        raise ValueError(
            "kind multilabel needs rows of at least two labels, each 0 or 1, one row a series, got"
            f" {shape}: name the columns of a table with --label a,b,c."
        )
    wrong = ~np.isin(targets, (0, 1))
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        raise ValueError(
            f"labels must be 0 or 1, got {targets[row, column]:g} in series {row + 1}, label"
            f" {column + 1}."
        )
    return targets


def names_of(data: Recordings) -> tuple[str, ...]:
    """The names of the labels: of their columns, or label 1, label 2, …"""
    width = labels_of(data.targets).shape[1]
    named = "" if data.table is None or data.table.label is None else data.table.label
    names = tuple(named.split(","))
    return names if len(names) == width else tuple(f"label {i + 1}" for i in range(width))


def macro_f1(true: np.ndarray, found: np.ndarray) -> float:
    """Mean over the labels of F1; 0 of a label that is neither there nor predicted.

    Args:
        true, found: (count, label) of truth values.
    """
    hits = (true & found).sum(0)
    return float(np.mean(2 * hits / np.maximum(true.sum(0) + found.sum(0), 1)))
