"""Standardises series in float64, whatever their offset and unit, to float32 inputs of a network.

Mean and deviation are computed and applied in float64; only the result becomes float32. Series are
processed in blocks, which need little additional memory.

Deviations use the corrected two-pass algorithm (Chan, Golub and LeVeque, "Algorithms for computing
the sample variance", The American Statistician 1983): the second pass also measures the error of
the first pass's mean, which matters for large means. Each channel is first divided by a power of
two near its largest value, which is exact and keeps squares within float64.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from rnnopt.tasks.storage import room
from rnnopt.tasks.user_data.limits import LARGEST

BLOCK = 1 << 16  # values
CONSTANT = 1e-14  # of the largest value: a smaller variation is only rounding
FINE = 0.1  # of the deviation: the largest tolerable rounding to float32
SINGLE = np.finfo(np.float32)


def moments(
    series: Sequence[np.ndarray], weights: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation (channel,) over all steps, in float64; 1 where nothing varies.

    Args:
        series: (time, channel) arrays of any type, without gaps.
        weights: (count,) weight of each series; None means equal weights.

    Raises:
        ValueError: values beyond 1e100.
    """
    largest = np.max([np.abs(block).max(0) for block, _ in _blocks(series)], 0)
    if largest.max() > LARGEST:
        raise ValueError(f"values must be within {LARGEST:g}, the largest is {largest.max():.4g}.")
    unit = np.exp2(np.frexp(largest)[1])
    total, mean = 0.0, np.zeros(len(largest))
    for block, counts in _blocks(series, weights):
        total += counts.sum()
        mean += counts @ (block / unit)
    mean /= total
    rest, squares = np.zeros(len(largest)), np.zeros(len(largest))
    for block, counts in _blocks(series, weights):
        from_mean = block / unit - mean
        rest += counts @ from_mean
        squares += counts @ from_mean**2
    rest /= total
    deviation = unit * np.sqrt(np.maximum(0.0, squares / total - rest**2))
    return unit * (mean + rest), np.where(deviation <= CONSTANT * largest, 1.0, deviation)


def standardized(
    series: Sequence[np.ndarray], mean: np.ndarray, deviation: np.ndarray, what: str = "values"
) -> tuple[Tensor, Tensor | None]:
    """Inputs of a network: the series minus `mean`, divided by `deviation`, in float32.

    Args:
        series: (time, channel) arrays of any type.
        mean, deviation: (channel,)
        what: name of the series for the error message.

    Returns:
        Inputs and lengths as in `Examples`: (count, time, channel) and None if all series have the
        same length, else (steps, channel) and (count,).

    Raises:
        ValueError: values that float32 cannot hold; more memory than is free.
    """
    lengths = torch.tensor([len(one) for one in series])
    steps, channels = int(lengths.sum()), series[0].shape[1]
    inputs, place = room((steps, channels), f"{steps} steps of {channels} channels"), 0
    for block, _ in _blocks(series):
        exact = (block - mean) / deviation
        rounded = inputs[place : place + len(exact)]
        rounded.copy_(torch.from_numpy(exact))
        if not bool(torch.isfinite(rounded).all()):
            raise ValueError(
                f"{what} must be within 3e38 for the network, the largest is"
                f" {np.abs(exact).max():.4g}: scale them or leave normalisation on."
            )
        place += len(exact)
    if bool((lengths == lengths[0]).all()):
        return inputs.view(len(series), -1, channels), None
    return inputs, lengths


def check_plain(
    series: Sequence[np.ndarray], what: str = "values", names: Sequence[str] | None = None
) -> None:
    """Raises ValueError if unchanged series would lose their variation in float32.

    Args:
        series: (time, channel) arrays of any type.
        what: name of the series for the error message.
        names: names of the channels; None means channel 1, … for values, output 1, … for targets.
    """
    mean, deviation = moments(series)
    largest = np.max([np.abs(block).max(0) for block, _ in _blocks(series)], 0)
    varies = np.max([np.abs(block - mean).max(0) for block, _ in _blocks(series)], 0)
    rounding = np.maximum(SINGLE.eps * largest, SINGLE.tiny)
    lost = (varies > CONSTANT * largest) & (rounding > FINE * deviation) & (largest <= SINGLE.max)
    if not lost.any():
        return
    worst = int(np.argmax(lost))
    column = "channel" if what == "values" else "output"
    name = f"{column} {worst + 1}" if names is None else names[worst]
    raise ValueError(
        f"{what} would go unchanged into float32, of about seven digits, and {name} is lost"
        f" there: it varies by {deviation[worst]:.3g} around {mean[worst]:.9g}. Scale them, take"
        " the offset off, or leave normalisation on."
    )


def _blocks(
    series: Sequence[np.ndarray], weights: np.ndarray | None = None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Blocks of all series' steps (steps, channel) in float64, with the weight of each step."""
    counts = np.ones(len(series)) if weights is None else weights
    most = max(1, BLOCK // series[0].shape[1])
    parts, of, steps = [], [], 0
    for one, count in zip(series, counts, strict=True):
        for start in range(0, len(one), most):
            part = one[start : start + most]
            parts.append(part)
            of.append(count)
            steps += len(part)
            if steps >= most:
                yield _block(parts, of)
                parts, of, steps = [], [], 0
    if parts:
        yield _block(parts, of)


def _block(parts: list[np.ndarray], of: list[float]) -> tuple[np.ndarray, np.ndarray]:
    block = np.concatenate(parts, dtype=np.float64, casting="unsafe")
    return block, np.repeat(of, [len(part) for part in parts])
