"""Sequences as people hand them over, read into one padded array with clear errors.

`read_sequences` takes what scikit-learn's estimators take, a table (count, columns) whose columns
are the steps of one feature, and besides it (count, time, features), and a list of arrays, one a
sequence, of different lengths.
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.utils.validation import check_array, check_consistent_length, validate_data

from rnnopt.estimator.doubts import Seen, doubt_axes, doubt_lengths, refuse_one_axis

LAYOUTS = ("time-first", "time-last")


def read_sequences(
    estimator: Any, X: Any, lengths: ArrayLike | None, *, layout: str, reset: bool
) -> tuple[np.ndarray, np.ndarray | None]:
    """Padded sequences (count, time, features), single precision, and true lengths or None.

    Sets, or without `reset` checks, the estimator's `n_features_in_` and `columns_are_steps_`.

    Args:
        estimator: whose data they are; errors name it.
        X: (count, time), (count, time, features), or a list of arrays (time, features) or (time,).
        lengths: true steps of each padded sequence; what stands behind them may be anything.
        layout: "time-last" where X is (count, features, time), and a list's arrays likewise.
        reset: whether the estimator is fitted anew.

    Raises:
        ValueError: for NaN or infinite numbers, wrong shapes, and features or lengths that do not
            fit.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"layout must be one of {', '.join(LAYOUTS)}, got {layout!r}.")
    arrays = _separate(X)
    if arrays is not None:
        if lengths is not None:
            raise ValueError("lengths go with padded sequences; a list of arrays has its own.")
        if not reset and not estimator.columns_are_steps_ and all(np.ndim(a) == 1 for a in arrays):
            _doubt(estimator, [len(a) for a in arrays])
        inputs, steps = _pad([_one(estimator, i, a, layout) for i, a in enumerate(arrays)])
        _check_features(estimator, inputs, reset)
        return inputs, steps
    if lengths is not None:
        X, lengths = _without_padding(X, lengths, layout)
    if not hasattr(X, "shape"):
        X = np.asarray(X)
    refuse_one_axis(X.shape)
    if not reset:
        time = X.shape[2 if layout == "time-last" and len(X.shape) == 3 else 1]
        doubt_lengths(time, lengths, seen_by(estimator))
        if len(X.shape) == 2 and not estimator.columns_are_steps_:
            _doubt(estimator, [time] * X.shape[0] if lengths is None else lengths.tolist())
    if len(X.shape) == 2 and (reset or estimator.columns_are_steps_):
        estimator.columns_are_steps_ = True
        table = validate_data(estimator, X, reset=reset, dtype=np.float32)
        return _for_torch(table[:, :, None]), lengths
    numbers = check_array(X, dtype=np.float32, allow_nd=True, estimator=estimator, input_name="X")
    if numbers.ndim > 3:
        raise ValueError(f"X must be (count, time, features), got the shape {numbers.shape}.")
    numbers = numbers[:, :, None] if numbers.ndim == 2 else _turned(numbers, layout)
    if 0 in numbers.shape:
        raise ValueError(f"X must have steps and features, got the shape {numbers.shape}.")
    _check_features(estimator, numbers, reset)
    return _for_torch(numbers), lengths


def seen_by(estimator: Any) -> Seen | None:
    """What an estimator was fitted to; None of one that was saved before that was kept."""
    return getattr(estimator, "_seen", None)


def _doubt(estimator: Any, lengths: list[int]) -> None:
    """Looks at sequences of one feature that an estimator of arrays with features is asked for."""
    doubt_axes(lengths, estimator.n_features_in_, type(estimator).__name__, seen_by(estimator))


def _for_torch(array: np.ndarray) -> np.ndarray:
    """The array, or a copy if it cannot be written to, which torch warns of."""
    return np.require(array, requirements=["C", "W"])


def _separate(X: Any) -> list[Any] | None:
    """The arrays of a list of sequences; None where X is, or may be read as, one array."""
    if isinstance(X, np.ndarray):
        return list(X) if X.dtype == object and X.ndim == 1 and _many(X) else None
    if not isinstance(X, (list, tuple)) or not X:
        return None
    if all(hasattr(item, "shape") and len(item.shape) for item in X):
        return list(X)
    try:
        np.asarray(X)
    except ValueError:  # lists of different lengths
        return list(X)
    return None


def _many(X: np.ndarray) -> bool:
    return all(isinstance(item, (np.ndarray, list, tuple)) for item in X)


def _turned(array: np.ndarray, layout: str) -> np.ndarray:
    return array.swapaxes(-1, -2) if layout == "time-last" else array


def _one(estimator: Any, place: int, array: Any, layout: str) -> np.ndarray:
    """A sequence of a list as (time, features)."""
    array = check_array(
        array,
        dtype=np.float32,
        ensure_2d=False,
        allow_nd=True,
        ensure_min_samples=0,
        estimator=estimator,
        input_name=f"X[{place}]",
    )
    if array.ndim not in (1, 2) or 0 in array.shape:
        raise ValueError(
            f"X[{place}] must be (time, features) or (time,) with at least one step, got the shape"
            f" {array.shape}."
        )
    return array[:, None] if array.ndim == 1 else _turned(array, layout)


def _pad(arrays: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """(count, time, features), zero behind each end, and the lengths."""
    features = arrays[0].shape[1]
    for place, array in enumerate(arrays):
        if array.shape[1] != features:
            raise ValueError(
                f"all sequences must have the same features: X[0] has {features}, X[{place}] has"
                f" {array.shape[1]}."
            )
    lengths = np.array([len(array) for array in arrays])
    padded = np.zeros((len(arrays), lengths.max(), features), dtype=np.float32)
    for row, array in zip(padded, arrays, strict=True):
        row[: len(array)] = array
    return padded, lengths


def _without_padding(X: Any, lengths: Any, layout: str) -> tuple[np.ndarray, np.ndarray]:
    """X with zeros behind each sequence's end, and the lengths as whole numbers."""
    numbers, given = np.array(X), np.asarray(lengths)
    if numbers.ndim not in (2, 3):
        raise ValueError(
            f"lengths go with X of (count, time) or (count, time, features), got the shape"
            f" {numbers.shape}."
        )
    check_consistent_length(numbers, given)
    time = numbers.shape[2 if layout == "time-last" and numbers.ndim == 3 else 1]
    if given.ndim != 1 or not np.array_equal(given, given.astype(np.int64)):
        raise ValueError(f"lengths must be whole numbers, one a sequence, got {lengths!r}.")
    if given.min() < 1 or given.max() > time:
        raise ValueError(
            f"lengths must be in 1 … {time}, the steps of X, got {given.min()} … {given.max()}."
        )
    beyond = np.arange(time) >= given[:, None]
    view = numbers if numbers.ndim == 2 else _turned(numbers, layout)
    view[beyond] = 0
    return numbers, given.astype(np.int64)


def _check_features(estimator: Any, inputs: np.ndarray, reset: bool) -> None:
    """Notes how many features a step has, or checks that they are as many as there were."""
    features = inputs.shape[2]
    if reset:
        estimator.columns_are_steps_, estimator.n_features_in_ = False, features
        return
    wanted = 1 if estimator.columns_are_steps_ else estimator.n_features_in_
    if features != wanted:
        name = type(estimator).__name__
        raise ValueError(
            f"X has {features} features, but {name} is expecting {wanted} features as input."
        )
