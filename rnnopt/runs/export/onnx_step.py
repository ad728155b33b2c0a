"""A `PlainModel` as an ONNX graph of one step: from inputs and states to answers and next states.

Each layer is the same operator as in the graph of whole series, on a sequence of one step. Between
two constants that must stay apart (see `plain_model`) stands a choice that depends on the input.
"""

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import TensorProto, helper
from torch import nn

from rnnopt.layers.plain import PlainIndRNN, PlainIndRNNLayer
from rnnopt.runs.export.onnx_builder import Graph
from rnnopt.runs.export.onnx_graph import (
    checked_model,
    linear_read_out,
    operator_of,
)
from rnnopt.runs.export.plain_model import PlainModel, affine
from rnnopt.runs.export.step_states import StepState


def to_onnx_step(model: PlainModel, states: list[StepState], int8: bool = False) -> onnx.ModelProto:
    """The graph from inputs (batch, channel) and states to answers and the next states."""
    g = Graph(int8)
    network = model.network
    values = _prepared(g, model)
    names = iter([state.name for state in states])
    following: list[str] = []
    for layer, norm in zip(network.recurrent, network.norms, strict=True):
        if isinstance(layer, PlainIndRNN):
            kept = [_indrnn(g, layer, values, next(names))]
        else:
            kept = _torch_layer(g, layer, values, names)
        following += kept
        values = kept[0]
        if isinstance(norm, nn.BatchNorm1d):
            scale, shift = affine(norm)
            values = g.add("Mul", values, g.constant(scale))
            values = g.add("Add", values, g.constant(shift))
    if network.readout == "mean":
        total = g.add("Add", next(names), values)
        count = g.add("Add", next(names), g.constant(1.0, np.float32))
        following += [total, count]
        values = g.add("Div", total, count)
    outputs = linear_read_out(g, model, values)
    if model.answer == "softmax":
        outputs = g.add("Softmax", outputs, axis=-1)
    elif model.answer == "sigmoid":
        outputs = g.add("Sigmoid", outputs)
    else:
        outputs = g.add("Add", _apart(g, outputs), g.constant(model.target_mean))
    return _finished(g, model, states, outputs, following)


def _prepared(g: Graph, model: PlainModel) -> str:
    """The inputs, prepared as in training."""
    values = g.add("Sub", "inputs", g.constant(model.mean))
    values = g.add("Sub", _apart(g, values), g.constant(model.mean_rest))
    values = g.add("Div", values, g.constant(model.deviation))
    if model.missing_filled:
        values = g.add("Where", g.add("IsNaN", values), g.constant(model.fill), values)
    return values


def _apart(g: Graph, values: str) -> str:
    """The same values, so that no program merges a constant before with one after."""
    return g.add("Where", g.add("IsNaN", values), g.constant(np.nan, np.float32), values)


def _torch_layer(g: Graph, layer: nn.Module, values: str, names: Iterator[str]) -> list[str]:
    """The next states of a layer: h, and for an LSTM c."""
    operator, weights, attributes = operator_of(g, layer)
    count = 2 if operator == "LSTM" else 1
    first = [g.add("Unsqueeze", next(names), g.whole(0)) for _ in range(count)]
    step = g.add("Unsqueeze", values, g.whole(0))
    g.add(operator, step, *weights, "", *first, outputs=1 + count, **attributes)
    ends = g.nodes[-1].output[1:]  # (directions, batch, hidden)
    return [g.add("Squeeze", end, g.whole(0)) for end in ends]


def _indrnn(g: Graph, layer: PlainIndRNN, values: str, state: str) -> str:
    """The next state of an IndRNN layer."""
    (one,) = layer.layers
    assert isinstance(one, PlainIndRNNLayer)
    reaching = g.add("MatMul", values, g.matrix(one.input.weight, transposed=True))
    reaching = g.add("Add", reaching, g.constant(one.input.bias))
    kept = g.add("Mul", state, g.constant(one.bounded()))
    return g.add("Relu" if one.relu else "Tanh", g.add("Add", reaching, kept))


def _finished(
    g: Graph, model: PlainModel, states: list[StepState], outputs: str, following: list[str]
) -> onnx.ModelProto:
    def info(name: str, width: int) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", width])

    ends = [f"next_{state.name}" for state in states]
    for inner, name in zip([outputs, *following], ["answers", *ends], strict=True):
        g.nodes.append(helper.make_node("Identity", [inner], [name]))
    given = [info("inputs", len(model.mean)), *(info(s.name, s.width) for s in states)]
    found = [info("answers", model.network.output.out_features)]
    found += [info(name, s.width) for name, s in zip(ends, states, strict=True)]
    return checked_model(helper.make_graph(g.nodes, "rnnopt", given, found, g.constants))
