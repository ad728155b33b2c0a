"""Number of gates stacked in a tensor: nn.LSTM keeps 4 matrices in one tensor, nn.GRU 3."""

import re
from functools import lru_cache

from torch import Size

NAME = re.compile(
    r"(.*?)(weight|bias)_(ih|hh)(_l\d+(?:_reverse)?)?"
)  # of nn.LSTM, nn.GRU, their cells


@lru_cache(maxsize=64)  # called at every step with the same shapes
def count_gates(
    shapes: tuple[Size, ...], gates: int | str, names: tuple[str, ...] = ()
) -> tuple[int, ...]:
    """Number of gates stacked along the first dimension of each tensor.

    A layer of nn.LSTM or nn.GRU (or of their cells) registers four consecutive tensors: input
    weights (gH, d), recurrent weights (gH, H) and two biases (gH), g = 4 or 3. gates="auto"
    recognises a layer by its names, if its recurrent weights are among the tensors, or without
    names by these consecutive shapes; any other tensor has 1. Layers with neither biases nor names,
    and layers with `proj_size`, are not recognised: put them in a parameter group with `gates=4`.

    Args:
        shapes: shapes of a parameter group's tensors, in order.
        gates: "auto", or one number for every tensor whose row count it divides.
        names: the tensors' names, or none.

    Returns:
        One number per shape.
    """
    if isinstance(gates, int):
        return tuple(gates if shape and shape[0] % gates == 0 else 1 for shape in shapes)
    return _by_name(shapes, names) if names else _by_shape(shapes)


def _by_name(shapes: tuple[Size, ...], names: tuple[str, ...]) -> tuple[int, ...]:
    found = [NAME.fullmatch(name) for name in names]
    layers = {
        (match[1], match[4]): _ratio(shape)
        for match, shape in zip(found, shapes, strict=True)
        if match and match[2] == "weight" and match[3] == "hh"
    }
    counts = [layers.get((match[1], match[4]), 1) if match else 1 for match in found]
    # Names may lie: a tensor whose rows do not divide has no gates.
    return tuple(
        count if shape and shape[0] % count == 0 else 1
        for count, shape in zip(counts, shapes, strict=True)
    )


def _by_shape(shapes: tuple[Size, ...]) -> tuple[int, ...]:
    counts = [1] * len(shapes)
    for i in range(len(shapes) - 3):
        inputs, recurrent, *biases = shapes[i : i + 4]
        if len(inputs) != 2 or len(recurrent) != 2 or recurrent[0] != inputs[0]:
            continue
        if all(tuple(bias) == (inputs[0],) for bias in biases) and _ratio(recurrent) > 1:
            counts[i : i + 4] = [_ratio(recurrent)] * 4
    return tuple(counts)


def _ratio(recurrent: Size) -> int:
    """3 or 4 for recurrent weights (3H, H) or (4H, H), else 1."""
    if len(recurrent) != 2 or recurrent[1] == 0 or recurrent[0] % recurrent[1]:
        return 1
    ratio = recurrent[0] // recurrent[1]
    return ratio if ratio in (3, 4) else 1
