"""Which tensors are columns of one matrix, for the learnt ball.

A recurrent layer computes W_ih x + W_hh h + b: one matrix [W_ih W_hh b] times one vector. A linear
layer is [W b]. Together their columns share a basis on the side of the outputs. The gates of an
LSTM or a GRU are matrices of their own, which see the same inputs.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from torch import Size

from rnnopt.optimizers.frank_wolfe.gates import NAME, count_gates

# The read-out's step is this much longer; measured in docs/experiment-log.md.
READOUT = 3.0
KINDS = (("weight", "ih"), ("weight", "hh"), ("bias", "ih"), ("bias", "hh"))
Layer = list[int]  # positions of a recurrent layer's tensors in the order of KINDS


@dataclass(frozen=True)
class Block:
    """Tensors that are columns of one matrix, or of one matrix per gate.

    Args:
        members: positions of the tensors in their group, from left to right.
        gates: matrices stacked along the rows.
        twin: position of a second bias that is added to the last member; the two share its step.
        scale: factor of the step.
    """

    members: tuple[int, ...]
    gates: int = 1
    twin: int | None = None
    scale: float = 1.0

    @property
    def positions(self) -> tuple[int, ...]:
        """All tensors of the block."""
        return self.members if self.twin is None else (*self.members, self.twin)


@lru_cache(maxsize=64)  # called at every step with the same shapes
def find_blocks(
    shapes: tuple[Size, ...],
    gates: int | str,
    names: tuple[str, ...] = (),
    no_twins: tuple[int, ...] = (),
) -> tuple[Block, ...]:
    """The blocks of a parameter group.

    Recurrent layers are recognised by the names of nn.RNN, nn.LSTM, nn.GRU and their cells, or
    without names by four consecutive shapes (rows, inputs), (rows, units), (rows,), (rows,). A
    matrix takes in a vector of as many rows if that follows it, or with names if it is its bias.
    The last matrix after the last recurrent layer is the read-out. Every other tensor is a block.

    Args:
        shapes: shapes of the tensors, in order.
        gates: "auto"; a number for all tensors whose row count it divides; 1 keeps stacks whole.
        names: the tensors' names, or none.
        no_twins: positions of vectors that are no second bias, whatever their shapes say.

    Returns:
        Blocks, each tensor in exactly one.
    """
    counts = count_gates(shapes, gates, names)
    found = _layers_by_name(shapes, names) if names else _layers_by_shape(shapes)
    layers = [layer for layer in found if layer[3] not in no_twins]
    cells = [_cell(layer, shapes, counts) for layer in layers]
    used = {i for cell in cells for i in cell.positions}
    members: dict[int, tuple[int, ...]] = {i: (i,) for i in range(len(shapes)) if i not in used}
    for i, shape in enumerate(shapes):
        if i in members and len(shape) > 1:
            bias = _bias_of(i, shapes, names, used)
            if bias is not None:
                used.add(bias)
                members[i] += members.pop(bias)
    others = [Block(found, counts[i]) for i, found in members.items()]
    after = max((max(cell.positions) for cell in cells), default=len(shapes))
    last = max((i for i in members if len(shapes[i]) > 1), default=-1)
    return tuple(cells) + tuple(
        Block(b.members, b.gates, scale=READOUT if b.members[0] == last > after else 1.0)
        for b in others
    )


def _layers_by_name(shapes: tuple[Size, ...], names: tuple[str, ...]) -> Iterator[Layer]:
    """The tensors of each layer with a recurrent matrix; -1 for a missing one."""
    layers: dict[tuple[str, str], dict[tuple[str, str], int]] = {}
    for i, name in enumerate(names):
        if match := NAME.fullmatch(name):
            layers.setdefault((match[1], match[4]), {})[match[2], match[3]] = i
    for found in layers.values():
        layer = [found.get(kind, -1) for kind in KINDS]
        if layer[1] >= 0 and len(shapes[layer[1]]) == 2:
            yield layer


def _layers_by_shape(shapes: tuple[Size, ...]) -> Iterator[Layer]:
    i = 0
    while i + 3 < len(shapes):
        inputs, recurrent, *biases = shapes[i : i + 4]
        matrices = len(inputs) == len(recurrent) == 2 and inputs[0] == recurrent[0]
        square = matrices and recurrent[1] > 0 and recurrent[0] in _multiples(recurrent[1])
        if square and all(tuple(bias) == (inputs[0],) for bias in biases):
            yield [i, i + 1, i + 2, i + 3]
            i += 3
        i += 1


def _multiples(units: int) -> tuple[int, ...]:
    return units, 3 * units, 4 * units


def _cell(layer: Layer, shapes: tuple[Size, ...], counts: tuple[int, ...]) -> Block:
    """A matrix per gate. A GRU's second bias stands inside a product: a column of its own."""
    rows, units = shapes[layer[1]]
    biases = all(i >= 0 and tuple(shapes[i]) == (rows,) for i in layer[2:])
    twin = layer[3] if biases and rows != 3 * units else None
    members = tuple(i for i in layer if i >= 0 and i != twin and shapes[i][:1] == (rows,))
    return Block(members, counts[layer[1]], twin)


def _bias_of(
    i: int, shapes: tuple[Size, ...], names: tuple[str, ...], used: set[int]
) -> int | None:
    """Position of a matrix's bias."""
    j = i + 1
    if names:
        bias = names[i].removesuffix("weight") + "bias"
        by_name = {name: k for k, name in enumerate(names)}
        if match := NAME.fullmatch(names[i]):
            bias = f"{match[1]}bias_ih{match[4] or ''}"
        j = by_name.get(bias, len(shapes))
    fits = j < len(shapes) and j not in used and tuple(shapes[j]) == (shapes[i][0],)
    return j if fits else None
