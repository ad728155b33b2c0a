"""Which sequences early stopping keeps aside: of each class, or whole groups."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.model_selection import train_test_split
from sklearn.utils.validation import check_consistent_length, column_or_1d

from rnnopt.tasks.user_data.splits import hold_out_groups


def read_groups(groups: ArrayLike | None, targets: np.ndarray) -> np.ndarray | None:
    """The group of each sequence (count,); ValueError for another shape."""
    if groups is None:
        return None
    names: np.ndarray = column_or_1d(groups)
    check_consistent_length(targets, names)
    return names


def kept_and_aside(
    targets: np.ndarray, groups: np.ndarray | None, share: float, random: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Places of the sequences to train on, and of those to keep aside.

    Args:
        targets: (count,) classes, of each of which a share is kept aside; or other targets.
        groups: (count,) group of each sequence, each on one side; or None.
        share: fraction to keep aside.
        random: numpy's random state.

    Raises:
        ValueError: too few sequences, groups or members of a class.
    """
    classes = targets if targets.ndim == 1 else None
    count = len(targets)
    try:
        if groups is not None:
            return hold_out_groups(classes, groups, share, int(random.randint(2**31 - 1)))
        kept, aside = train_test_split(
            np.arange(count), test_size=share, random_state=random, stratify=classes
        )
        return kept, aside
    except ValueError as error:
        raise ValueError(
            f"early_stopping cannot keep validation_fraction={share:g} of {count} sequences aside,"
            f" {_needed(classes, groups)}: give more, another fraction, or early_stopping=False."
        ) from error


def _needed(classes: np.ndarray | None, groups: np.ndarray | None) -> str:
    """What early stopping needs of the sequences, and what there is."""
    if groups is not None:
        return (
            "it needs two groups, and every class in those that it does not keep aside (there are"
            f" {len(np.unique(groups))} groups)"
        )
    if classes is None:
        return "it needs two at least"
    fewest = int(np.unique(classes, return_counts=True)[1].min())
    return (
        "it needs two of each class, and as many as there are classes in both parts (the"
        f" rarest class has {fewest})"
    )
