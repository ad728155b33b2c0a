"""Statistics of the training series and targets, by which a `Preparation` fills and scales."""

from collections.abc import Sequence

import numpy as np

from rnnopt.tasks.moments import check_plain, moments
from rnnopt.tasks.user_data.recordings import Recordings
from rnnopt.tasks.user_data.target_kinds import numbers_of


def observed_mean(series: Sequence[np.ndarray]) -> np.ndarray:
    """Mean (channel,) of the values that are not missing; 0 if all are."""
    total, seen = np.zeros(series[0].shape[1]), np.zeros(series[0].shape[1])
    for one in series:
        total += np.nansum(one, 0, dtype=np.float64)
        seen += (~np.isnan(one)).sum(0)
    return total / np.maximum(seen, 1)


def moments_of(
    series: list[np.ndarray], normalize: bool, names: tuple[str, ...] | None
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of each channel, or of each target if there are no names."""
    if normalize:
        return moments(series)
    check_plain(series, "values" if names else "targets", names)
    return np.zeros(series[0].shape[1]), np.ones(series[0].shape[1])


def target_moments(data: Recordings, normalize: bool) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of each number to predict."""
    if data.steps is None:
        assert data.targets is not None
        return moments_of([numbers_of(data.targets)], normalize, None)
    found = []
    for there, name in zip(data.steps.columns(), data.steps.names, strict=True):
        if not len(there):
            raise ValueError(f"{name} has no target in the training data.")
        found.append(moments_of([there[:, None]], normalize, None))
    means, deviations = zip(*found, strict=True)
    return np.concatenate(means), np.concatenate(deviations)
