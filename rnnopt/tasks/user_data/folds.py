"""Folds of a cross-validation, as scikit-learn draws them, the same for the same seed."""

import warnings

import numpy as np


def fold_of(
    classes: np.ndarray | None,
    groups: np.ndarray | None,
    count: int,
    folds: int,
    fold: int,
    seed: int,
) -> np.ndarray:
    """Positions of the series of one fold, sorted; each series is in exactly one.

    scikit-learn's StratifiedKFold makes them, KFold without classes, and with groups
    StratifiedGroupKFold and GroupKFold, which keep a group in one fold.

    Args:
        classes: (count,) class of each series, or None.
        groups: (count,) group of each series, or None.
        count: number of series.
        folds: number of folds.
        fold: number of the one, from 1.
        seed: seed of the draw.

    Raises:
        ValueError: fewer series, groups or series of each class than folds.
    """
    from sklearn.model_selection import GroupKFold, KFold, StratifiedGroupKFold, StratifiedKFold

    units = count if groups is None else len(np.unique(groups))
    what = "series" if groups is None else "groups"
    if units < folds:
        raise ValueError(f"{folds} folds need {folds} {what} at least, got {units}.")
    shuffled = dict(n_splits=folds, shuffle=True, random_state=seed % 2**32)
    if groups is not None:
        if classes is None:
            # Of groups in another order: its choice between groups of one size depends on it.
            order = np.random.default_rng(seed).permutation(units)
            groups = order[np.unique(groups, return_inverse=True)[1]]
            splitter = GroupKFold(n_splits=folds)
        else:
            splitter = StratifiedGroupKFold(**shuffled)
    else:
        splitter = KFold(**shuffled) if classes is None else StratifiedKFold(**shuffled)
    with warnings.catch_warnings():  # of a class with fewer series than folds
        warnings.simplefilter("ignore", UserWarning)
        splits = list(splitter.split(np.zeros(count), classes, groups))
    held = splits[fold - 1][1]
    if not len(held):
        raise ValueError(f"fold {fold} of {folds} would have no series: take fewer folds.")
    return np.sort(held)
