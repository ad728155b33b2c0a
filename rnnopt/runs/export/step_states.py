"""The states of a graph of one step: what the caller keeps between two steps."""

from dataclasses import dataclass
from typing import Any

from rnnopt.layers.plain import PlainIndRNN
from rnnopt.runs.export.plain_model import PlainModel


@dataclass(frozen=True)
class StepState:
    """A state of the graph.

    Args:
        name: name of the input; that of the output is next_ and this name.
        width: numbers of each sequence.
        meaning: what they are.
    """

    name: str
    width: int
    meaning: str


def states_of(model: PlainModel) -> list[StepState]:
    """The states of the graph, in order."""
    found: list[tuple[int, str]] = []
    for k, layer in enumerate(model.network.recurrent, 1):
        width = hidden_of(layer)
        found.append((width, f"h of layer {k}"))
        if getattr(layer, "mode", "") == "LSTM":
            found.append((width, f"c of layer {k}"))
    if model.network.readout == "mean":
        found += [(found[-1][0], "sum of the states so far"), (1, "number of steps so far")]
    return [StepState(f"state_{i}", *one) for i, one in enumerate(found)]


def hidden_of(layer: Any) -> int:
    """Units of a layer in torch's operators."""
    if isinstance(layer, PlainIndRNN):
        return len(layer.layers[0].u)  # type: ignore[arg-type]
    return int(layer.hidden_size)
