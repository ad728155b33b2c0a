"""The user's arrays as series (time, channel): numbers, shapes and lengths, checked."""

from typing import Any

import numpy as np

from rnnopt.tasks.user_data.limits import LARGEST


def series_of(inputs: Any, lengths: Any = None) -> list[np.ndarray]:
    """The series (time, channel) in float64; those of a mapped file of floats are views of it.

    Args:
        inputs: (count, time), (count, time, feature), or a list of (time,) or (time, feature).
        lengths: (count,) true steps of padded series; None when all are true.

    Raises:
        ValueError: other shapes or types; infinite values; no series, step or channel.
    """
    series = _arrays(inputs)
    if lengths is not None:
        series = _cut(series, lengths)
    if not series:
        raise ValueError("data need at least one series, got none.")
    features = {one.shape[1] for one in series}
    if len(features) > 1:
        raise ValueError(f"every series needs the same number of channels, got {sorted(features)}.")
    if features.pop() < 1:
        raise ValueError("series need at least one channel, got none.")
    for i, one in enumerate(series):
        if len(one) < 1:
            raise ValueError(f"every series needs at least one step, series {i + 1} has none.")
        far = np.abs(one, dtype=np.float64) > LARGEST
        if far.any():
            step, channel = np.argwhere(far)[0] + 1
            raise ValueError(
                f"values must be finite and within {LARGEST:g}, got an infinite or larger one in"
                f" series {i + 1}, step {step}, channel {channel}."
            )
    return series


def _arrays(inputs: Any) -> list[np.ndarray]:
    if isinstance(inputs, (list, tuple)):
        arrays = [_numbers(one, f"series {i + 1}") for i, one in enumerate(inputs)]
        for i, one in enumerate(arrays):
            if one.ndim not in (1, 2):
                raise ValueError(
                    f"a series must be (time,) or (time, feature), series {i + 1} is {one.shape}"
                    + (": a single series goes in a list, [X]." if one.ndim == 0 else ".")
                )
        return [one[:, None] if one.ndim == 1 else one for one in arrays]
    array = _numbers(inputs, "the inputs")
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3:
        raise ValueError(
            f"inputs must be (count, time) or (count, time, feature), got shape {array.shape}"
            + (": a single series goes in a list, [X], or as X[None]." if array.ndim == 1 else ".")
        )
    if not array.size:  # without a step, the number of series is arbitrary
        raise ValueError(
            "inputs need at least one series of at least one step and one channel, got shape"
            f" {array.shape}."
        )
    return list(array)


def _numbers(values: Any, what: str) -> np.ndarray:
    array = np.asarray(values)
    if array.dtype == object or array.dtype.kind not in "biuf":
        raise ValueError(
            f"{what} must be an array of numbers, got type {array.dtype}; series of different"
            " lengths go in a list, or padded with their lengths."
        )
    if isinstance(values, np.memmap) and array.dtype in (np.float32, np.float64):
        return array
    with np.errstate(over="ignore", invalid="ignore"):  # infinity is checked later
        return array.astype(np.float64)


def _cut(series: list[np.ndarray], lengths: Any) -> list[np.ndarray]:
    try:
        lengths = np.asarray(lengths)
    except ValueError:
        raise ValueError(
            f"lengths must be {len(series)} whole numbers, one per series, got rows of different"
            " lengths."
        ) from None
    if lengths.shape != (len(series),) or lengths.dtype.kind not in "iu":
        raise ValueError(
            f"lengths must be {len(series)} whole numbers, one per series, got {lengths.dtype} of"
            f" shape {lengths.shape}."
        )
    for i, (one, length) in enumerate(zip(series, lengths, strict=True)):
        if not 1 <= length <= len(one):
            raise ValueError(
                f"lengths must be in 1 … {len(one)} (time), series {i + 1} has {length}."
            )
    return [one[:length] for one, length in zip(series, lengths, strict=True)]
