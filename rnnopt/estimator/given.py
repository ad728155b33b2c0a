"""Data as they were handed to an estimator: sequences, targets, weights and groups."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from sklearn.utils.validation import check_array, check_consistent_length


@dataclass(frozen=True)
class Given:
    """Data as they were handed over.

    Args:
        sequences: (time, features) each.
        targets: classes (count,) or numbers (count, outputs), or those of each step: classes
            (count, time), -1 where there is none, or numbers (count, time, outputs), NaN.
        weights: how much each sequence counts (count,), None where all count alike.
        groups: group of each sequence (count,), None where each is one.
    """

    sequences: Sequence[np.ndarray]
    targets: np.ndarray
    weights: np.ndarray | None
    groups: np.ndarray | None = None

    def select(self, places: np.ndarray) -> "Given":
        """Those at some places."""
        weights = None if self.weights is None else self.weights[places]
        groups = None if self.groups is None else self.groups[places]
        chosen = [self.sequences[i] for i in places]
        return Given(chosen, self.targets[places], weights, groups)

    def counted(self) -> "Given":
        """Those that count something; ValueError where none does, or less than nothing."""
        if self.weights is None:
            return self
        if self.weights.min() < 0 or self.weights.max() == 0:
            raise ValueError(
                "the weights of sequences and classes must not be negative, nor zero for all"
                f" sequences, got {self.weights.min():g} … {self.weights.max():g}."
            )
        return self.select(np.flatnonzero(self.weights > 0))


def read_weights(sample_weight: ArrayLike | None, targets: np.ndarray) -> np.ndarray | None:
    """How much each sequence counts; None where all count alike."""
    if sample_weight is None:
        return None
    weights = check_array(
        sample_weight,
        ensure_2d=False,
        allow_nd=True,
        ensure_min_samples=0,  # the shape is looked at below
        dtype=np.float64,
        input_name="sample_weight",
    )
    if weights.ndim != 1:
        raise ValueError(
            f"sample_weight must have one number a sequence, got the shape {weights.shape}."
        )
    check_consistent_length(targets, weights)
    return weights
