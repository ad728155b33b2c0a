"""Error messages for data on which training would be possible but useless."""

from collections.abc import Sequence

import numpy as np

from rnnopt.tasks.user_data.recordings import Recordings

# More different whole numbers than this look like measurements, not like classes.
MANY_CLASSES = 20


def refuse_unlikely(data: Recordings, targets: np.ndarray) -> None:
    """Raises ValueError for rows of targets (count, several) that are unlikely to be numbers."""
    width = targets.shape[1]
    escape = f"pass kind regression if they are {width} numbers to predict for each series."
    if targets.dtype.kind != "f":
        raise ValueError(f"{rows_of_classes(targets)}.")
    if all(len(one) == width for one in data.series) and not _are_one_hot(targets):
        raise ValueError(
            f"the targets {targets.shape} look like one for each of the {width} steps: pass"
            f" each_step (--each-step) if they are, or {escape}"
        )
    if _are_classes(targets):
        raise ValueError(f"{rows_of_classes(targets)}; {escape}")


def rows_of_classes(targets: np.ndarray, name: str = "targets") -> str:
    """Advice for several classes per series, without a full stop.

    Args:
        targets: (count, several) numbers, truth values or words.
        name: name of the targets.
    """
    rows = f"the rows of the {name} {targets.shape}".replace("the y", "y")
    if _are_one_hot(targets):
        return (
            f"{rows} look like classes as rows of 0 and 1: give one class per series,"
            f" {name}.argmax(1)"
        )
    truths = targets.dtype.kind in "biuf" and np.isin(targets, (0, 1)).all()
    kind = "several labels per series, as 0 and 1" if truths else "several classes per series"
    pass_kind = "pass kind multilabel, or " if truths and name == "targets" else ""
    return (
        f"{rows} look like {kind}, and a classifier gives each series one class:"
        f" {pass_kind}{ONE_EACH}"
    )


def _are_one_hot(targets: np.ndarray) -> bool:
    """Whether each row has one 1 and otherwise zeros."""
    numeric = targets.dtype.kind in "biuf"
    return bool(numeric and np.isin(targets, (0, 1)).all() and (targets.sum(1) == 1).all())


# Advice for several labels per series.
ONE_EACH = (
    "train one classifier for each column (from Python, scikit-learn's MultiOutputClassifier around"
    " an RNNClassifier does)"
)


def _are_classes(targets: np.ndarray) -> bool:
    """Whether every column has few different whole numbers."""
    whole = bool((targets == np.round(targets)).all())
    return whole and all(len(np.unique(column)) <= MANY_CLASSES for column in targets.T)


# -- series of other lengths ----------------------------------------------------------------------

NEARLY = 0.1  # of the training series' length: a smaller difference is ignored
SINGLE = "a single series goes in a list, [X], or as X[None]"


def one_step_each(lengths: Sequence[int], shortest: int) -> str | None:
    """Warning about many series of one step, without a full stop; None if there is no reason.

    Args:
        lengths: lengths of series with one channel.
        shortest: length of the shortest training series.
    """
    if len(lengths) == 1 or shortest == 1 or max(lengths) > 1:
        return None
    return (
        f"{len(lengths)} series of one step each, and the network was trained on {shortest} steps"
        f" or more: this looks like one series without its first axis, and {SINGLE}"
    )


def far_lengths(lengths: Sequence[int], shortest: int, longest: int) -> str | None:
    """Warning if series are much shorter or longer than the training series, else None.

    Args:
        lengths: lengths of the series.
        shortest, longest: least and greatest length of the training series.
    """
    far = [n for n in lengths if not (1 - NEARLY) * shortest <= n <= (1 + NEARLY) * longest]
    if not far:
        return None
    trained = f"{shortest}" if shortest == longest else f"{shortest} to {longest}"
    these = f"{far[0]}" if min(far) == max(far) else f"{min(far)} to {max(far)}"
    return (
        f"{len(far)} of {len(lengths)} series have {these} steps, and the network was trained on"
        f" {trained}: its answers to them may be no better than chance"
    )
