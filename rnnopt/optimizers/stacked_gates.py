"""How many gates a tensor stacks: nn.LSTM keeps 4 matrices in one tensor, nn.GRU 3."""

from functools import lru_cache

from torch import Size


@lru_cache(maxsize=64)  # asked at every step, with the same shapes
def count_gates(shapes: tuple[Size, ...], gates: int | str) -> tuple[int, ...]:
    """Gates stacked along the first dimension of each tensor.

    A layer of nn.LSTM or nn.GRU (or of their cells) registers input weights (gH, d), recurrent
    weights (gH, H) and two biases (gH) in a row, g = 4 or 3. That run of shapes is what "auto"
    looks for; anything else counts 1. Layers without biases or with `proj_size` are not recognised:
    put them in a parameter group with `gates=4`.

    Args:
        shapes: shapes of a parameter group's tensors, in order.
        gates: "auto", or one number for every tensor whose rows it divides.

    Returns:
        One number per shape.
    """
    if isinstance(gates, int):
        return tuple(gates if shape and shape[0] % gates == 0 else 1 for shape in shapes)
    counts = [1] * len(shapes)
    for i in range(len(shapes) - 3):
        inputs, recurrent, *biases = shapes[i : i + 4]
        if len(inputs) != 2 or len(recurrent) != 2 or recurrent[1] == 0:
            continue
        rows = inputs[0]
        count, remainder = divmod(rows, recurrent[1])
        same_rows = recurrent[0] == rows and all(tuple(bias) == (rows,) for bias in biases)
        if same_rows and count in (3, 4) and not remainder:
            counts[i : i + 4] = [count] * 4
    return tuple(counts)
