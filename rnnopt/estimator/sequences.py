"""Sequences as people hand them over, read one by one and as they are, with clear errors.

`read_sequences` takes what scikit-learn's estimators take, a table (count, columns) whose columns
are the steps of one feature, and besides it (count, time, features), and a list of arrays, one a
sequence, of different lengths. Nothing is rounded and no list is padded here.
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.utils.validation import check_array, validate_data

from rnnopt.estimator.doubts import Seen, doubt_axes, doubt_lengths, refuse_one_axis

LAYOUTS = ("time-first", "time-last")
# Types that numbers keep until their mean is taken off in float64; others become float64 at once.
NUMBERS = [np.float64, np.float32, np.float16, *map(np.dtype, "bBhHiIlLqQ?")]


def read_sequences(
    estimator: Any, X: Any, lengths: ArrayLike | None, *, layout: str, reset: bool
) -> list[np.ndarray]:
    """The true steps of each sequence, (time, features).

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
        sequences = [_one(estimator, i, a, layout) for i, a in enumerate(arrays)]
        _check_alike(sequences)
        _check_features(estimator, sequences[0].shape[1], reset)
        return sequences
    if lengths is not None:
        X, lengths = _without_padding(X, lengths, layout)
    if not hasattr(X, "shape"):
        X = np.asarray(X)
    refuse_one_axis(X.shape)
    if not reset:
        time = _time(X, layout)
        doubt_lengths(time, lengths, seen_by(estimator))
        if len(X.shape) == 2 and not estimator.columns_are_steps_:
            _doubt(estimator, [time] * X.shape[0] if lengths is None else lengths.tolist())
    if len(X.shape) == 2 and (reset or estimator.columns_are_steps_):
        estimator.columns_are_steps_ = True
        table = validate_data(estimator, X, reset=reset, dtype=_type_for(X))
        return _cut(table[:, :, None], lengths)
    numbers = check_array(X, dtype=_type_for(X), allow_nd=True, estimator=estimator, input_name="X")
    if numbers.ndim > 3:
        raise ValueError(f"X must be (count, time, features), got the shape {numbers.shape}.")
    numbers = numbers[:, :, None] if numbers.ndim == 2 else _turned(numbers, layout)
    if 0 in numbers.shape:
        raise ValueError(f"X must have steps and features, got the shape {numbers.shape}.")
    _check_features(estimator, numbers.shape[2], reset)
    return _cut(numbers, lengths)


def padded_steps(X: Any, layout: str) -> int | None:
    """Steps of an array of sequences, true or not; None where they come in a list."""
    return None if _separate(X) is not None else _time(X, layout)


def _time(X: Any, layout: str) -> int:
    shape = X.shape if hasattr(X, "shape") else np.asarray(X).shape
    return shape[2 if layout == "time-last" and len(shape) == 3 else 1]


def seen_by(estimator: Any) -> Seen | None:
    """What an estimator was fitted to; None of one that was saved before that was kept."""
    return getattr(estimator, "_seen", None)


def _doubt(estimator: Any, lengths: list[int]) -> None:
    """Looks at sequences of one feature that an estimator of arrays with features is asked for."""
    doubt_axes(lengths, estimator.n_features_in_, type(estimator).__name__, seen_by(estimator))


def _cut(numbers: np.ndarray, lengths: np.ndarray | None) -> list[np.ndarray]:
    """The true steps of each of (count, time, features), views of them."""
    if lengths is None:
        return list(numbers)
    return [one[:length] for one, length in zip(numbers, lengths, strict=True)]


def _type_for(X: Any) -> Any:
    """What to make of its numbers: an array's stay as they are, so that it is not copied."""
    return NUMBERS if isinstance(X, np.ndarray) else np.float64


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
        dtype=_type_for(array),
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


def _check_alike(sequences: list[np.ndarray]) -> None:
    features = sequences[0].shape[1]
    for place, array in enumerate(sequences):
        if array.shape[1] != features:
            raise ValueError(
                f"all sequences must have the same features: X[0] has {features}, X[{place}] has"
                f" {array.shape[1]}."
            )


def _without_padding(X: Any, lengths: Any, layout: str) -> tuple[np.ndarray, np.ndarray]:
    """X with zeros behind each sequence's end, and the lengths as whole numbers."""
    numbers = np.asarray(X).copy()  # of a tensor too, which has no other way to a copy
    if numbers.ndim not in (2, 3):
        raise ValueError(
            f"lengths go with X of (count, time) or (count, time, features), got the shape"
            f" {numbers.shape}."
        )
    given, time = _whole_lengths(lengths, len(numbers)), _time(numbers, layout)
    if given.min() < 1 or given.max() > time:
        raise ValueError(
            f"lengths must be in 1 … {time}, the steps of X, got {given.min()} … {given.max()}."
        )
    beyond = np.arange(time) >= given[:, None]
    view = numbers if numbers.ndim == 2 else _turned(numbers, layout)
    view[beyond] = 0
    return numbers, given


def _whole_lengths(lengths: Any, count: int) -> np.ndarray:
    """The lengths (count,) as whole numbers."""
    wanted = f"lengths must be {count} whole numbers, one a sequence, got"
    try:
        given = np.asarray(lengths)
    except ValueError:  # rows of different lengths
        raise ValueError(f"{wanted} rows of different lengths.") from None
    if given.shape != (count,):
        raise ValueError(f"{wanted} the shape {given.shape}.")
    try:
        if given.dtype.kind not in "iufO":
            raise ValueError
        numbers = given.astype(np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"{wanted} {given.tolist()[0]!r} first, of type {given.dtype}.") from None
    wrong = ~np.isfinite(numbers) | (numbers != np.round(numbers))
    if wrong.any():
        place = int(np.argmax(wrong))
        raise ValueError(f"{wanted} {numbers[place]:g} for X[{place}].")
    return numbers.astype(np.int64)


def _check_features(estimator: Any, features: int, reset: bool) -> None:
    """Notes how many features a step has, or checks that they are as many as there were."""
    if reset:
        estimator.columns_are_steps_, estimator.n_features_in_ = False, features
        return
    wanted = 1 if estimator.columns_are_steps_ else estimator.n_features_in_
    if features != wanted:
        name = type(estimator).__name__
        raise ValueError(
            f"X has {features} features, but {name} is expecting {wanted} features as input."
        )
