"""Sentences for data that a network could be trained on, but to no good."""

import numpy as np

from rnnopt.tasks.recordings import Recordings


def refuse_unlikely(data: Recordings, targets: np.ndarray) -> None:
    """Raises ValueError for rows of targets that hardly are numbers to predict."""
    width = targets.shape[1]
    escape = f"say kind regression if they are {width} numbers to predict for each series."
    if targets.dtype.kind != "f":
        return
    if np.isin(targets, (0, 1)).all() and (targets.sum(1) == 1).all():
        raise ValueError(
            f"the targets {targets.shape} look like classes as rows of 0 and 1: give a class number"
            f" a series (argmax over the row), or {escape}"
        )
    if all(len(one) == width for one in data.series):
        raise ValueError(
            f"the targets {targets.shape} look like one for each of the {width} steps, and one"
            f" a series is needed; {escape}"
        )
