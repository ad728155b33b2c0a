"""Variables of MATLAB as arrays: cells, vectors with two axes, and what only MATLAB can convert."""

from collections.abc import Mapping, Sequence
from typing import NoReturn

import numpy as np

Variable = np.ndarray | list[np.ndarray]  # an array, or the matrices of cells

CONVERTED = {  # kinds of variables that are refused: what they are, and the command that converts
    "struct": ("a struct", "{0} = s.{0} (s is the struct)"),
    "table": (
        "a table, a string or a categorical array, which MATLAB alone can read",
        "{0} = table2array({0}) or {0} = cellstr({0})",
    ),
    "sparse": ("sparse", "{0} = full({0})"),
    "complex": ("complex", "{0} = [real({0}) imag({0})] or {0} = abs({0})"),
    "nested": (
        "a cell array of other things than matrices or texts",
        "{0} = cellfun(@double, {0}, 'UniformOutput', false)",
    ),
    "channel first": (
        "a cell array of matrices that look like (channel, time)",
        "{0} = cellfun(@transpose, {0}, 'UniformOutput', false)",
    ),
    "text": ("one text, and there are several series", "{0} = cellstr({0})"),
}


def refuse(name: str, kind: str) -> NoReturn:
    """Raises ValueError for a variable of a kind in `CONVERTED`."""
    what, command = CONVERTED[kind]
    advice = f"use {command.format(name)} in MATLAB before save"
    raise ValueError(f"variable {name!r} is {what}: {advice}.")


def of_cells(name: str, cells: Sequence[np.ndarray]) -> Variable:
    """The content of a cell array: texts as an array of words, matrices as a list of series.

    Raises:
        ValueError: texts beside matrices, or matrices of (channel, time).
    """
    words = [one.dtype.kind == "U" for one in cells]
    if any(words) or not cells:
        if not all(words):
            refuse(name, "nested")
        return np.array([str(one) for one in cells])
    if all(one.ndim == 2 and one.shape[0] == 1 for one in cells):  # row vectors
        return [one[0] for one in cells]
    if any(one.ndim != 2 for one in cells):
        refuse(name, "nested")
    rows, widths = {one.shape[0] for one in cells}, {one.shape[1] for one in cells}
    if len(widths) > 1 and len(rows) == 1:
        refuse(name, "channel first")
    return list(cells)


def flat(arrays: Mapping[str, Variable]) -> dict[str, Variable]:
    """The same variables, rows and columns of one value per series without their second axis.

    Raises:
        ValueError: a variable is a single text where each series needs one.
    """
    found = dict(arrays)
    for name, one in arrays.items():
        base, _, part = name.partition("_")
        inputs = arrays.get(f"x_{part}" if part else "x")
        if base == "x" or inputs is None or isinstance(one, list):
            continue
        if one.dtype.kind == "U" and one.size == 1 < len(inputs):
            refuse(name, "text")
        if one.ndim == 2 and 1 in one.shape and one.size == len(inputs):
            found[name] = one.ravel()
    return found


def rows_of(name: str, letters: np.ndarray) -> np.ndarray:
    """The texts (row,) of a matrix of letters or of their codes, without what fills them up."""
    if letters.ndim != 2:
        refuse(name, "nested")
    if letters.dtype.kind == "U":
        rows = ["".join(row) for row in letters.tolist()]
    else:
        rows = [row.astype("<u2").tobytes().decode("utf-16-le", "replace") for row in letters]
    return np.array([row.rstrip(" \0") for row in rows])
