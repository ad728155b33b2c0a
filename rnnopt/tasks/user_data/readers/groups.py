"""Groups: the column of the person or machine that a series is of, or what looks like one."""

from collections.abc import Mapping, Sequence

import numpy as np

from rnnopt.tasks.user_data.target_checks import group_words

# Columns with such names hold groups, whatever is in them.
USUAL = (
    "subject", "person", "participant", "patient", "user", "machine", "device", "group", "groups",
    "engine", "unit", "site", "animal", "driver", "speaker", "volunteer",
)  # fmt: skip


def suspicious(names: Sequence[str]) -> str | None:
    """The first of some names that says of groups: subject, subject_id, Person ID, …"""
    return next((name for name in names if _bare(name) in USUAL), None)


def _bare(name: str) -> str:
    words = [word for word in name.lower().replace("_", " ").replace("-", " ").split() if word]
    without = [word for word in words if word not in ("id", "no", "nr", "number", "name", "train")]
    return without[0] if len(without) == 1 else ""


def looks_like_groups(
    columns: Mapping[str, np.ndarray], rows: Mapping[str, np.ndarray]
) -> str | None:
    """The first column that looks like groups: by its name, or as it never changes in a series.

    Such a column holds words or whole numbers, at least two of them, and fewer than there are
    series.

    Args:
        columns: (row,) values by the names of columns.
        rows: the rows of each series.
    """
    named = suspicious(list(columns))
    if named is not None:
        return named if len({str(value) for value in columns[named].tolist()}) > 1 else None
    for name, values in columns.items():
        words = np.array([str(value) for value in values.tolist()])
        of_series = [words[its] for its in rows.values()]
        if any((one != one[0]).any() for one in of_series):
            continue
        different = {str(one[0]) for one in of_series}
        if 1 < len(different) < len(rows) and not any(map(_is_fraction, different)):
            return name
    return None


def _is_fraction(word: str) -> bool:
    try:
        return float(word) != round(float(word))
    except (ValueError, OverflowError):  # a word, or infinite
        return False


def group_of_each(words: Sequence[str], rows: Mapping[str, np.ndarray], column: str) -> np.ndarray:
    """The group of each series (count,).

    Args:
        words: the cells of the column.
        rows: the rows of each series.
        column: its name.

    Raises:
        ValueError: a series has several, or none.
    """
    cells, found = np.array(words), []
    for name, its in rows.items():
        different = sorted(set(cells[its].tolist()))
        if len(different) > 1:
            raise ValueError(
                f"column {column!r} must be the same for all steps of a series, series {name!r} has"
                f" {', '.join(different[:5])}."
            )
        found.append(different[0])
    return group_words(found, len(found))
