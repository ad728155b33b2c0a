"""A `PlainModel` as an ONNX graph: one RNN, LSTM or GRU operator per layer, for any lengths.

The graph is written operator by operator: exporters that trace unroll the steps, so that a graph
accepts only one length and grows with it. Gates are reordered for ONNX: LSTM (i, o, f, g), in torch
(i, f, g, o); GRU (z, r, n), in torch (r, z, n).

https://onnx.ai/onnx/operators/
"""

from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

from rnnopt.layers.plain import BothDirections, PlainIndRNN, PlainIndRNNLayer
from rnnopt.runs.export.onnx_builder import Graph
from rnnopt.runs.export.plain_model import PlainModel, affine, read_out_of

OPSET = 17
IR_VERSION = 8  # runtimes since 2022 read it
GATES = {"LSTM": (0, 3, 1, 2), "GRU": (1, 0, 2)}


def to_onnx(model: PlainModel, int8: bool = False) -> onnx.ModelProto:
    """The graph of `model`: from inputs (batch, time, channel) and lengths (batch,) to outputs."""
    g = Graph(int8)
    states, lengths, time = "inputs", "lengths", _size(g, "inputs", 1)
    zero = g.constant(0.0, np.float32)
    valid = _true_steps(g, lengths, time)
    states = g.add("Sub", states, g.constant(model.mean))
    states = g.add(
        "Where", valid, states, zero
    )  # also separates the two subtractions, see plain_model
    states = g.add("Sub", states, g.constant(model.mean_rest))
    states = g.add("Div", states, g.constant(model.deviation))
    if model.missing_filled:
        states = g.add("Where", g.add("IsNaN", states), g.constant(model.fill), states)
    states = g.add("Where", valid, states, zero)
    if model.pool > 1:
        states, lengths, time = _pooled(g, states, lengths, time, model.pool)
    states = g.add("Transpose", states, perm=[1, 0, 2])
    network = model.network
    for convolution in network.stem:
        states, lengths, time = _convolution(g, convolution, states, lengths)
    for layer, norm in zip(network.recurrent, network.norms, strict=True):
        states = _layer(g, layer, states, lengths)
        if isinstance(norm, nn.BatchNorm1d):
            scale, shift = affine(norm)
            states = g.add("Mul", states, g.constant(scale))
            states = g.add("Add", states, g.constant(shift))
    states = g.add("Transpose", states, perm=[1, 0, 2])
    if network.readout == "last":
        states = _final_states(g, states, lengths, network.bidirectional)
    elif network.readout == "mean":
        states = g.add("Where", _true_steps(g, lengths, time), states, zero)
        total = g.add("ReduceSum", states, g.whole(1), keepdims=0)
        count = g.add("Cast", g.add("Unsqueeze", lengths, g.whole(1)), to=TensorProto.FLOAT)
        states = g.add("Div", total, count)
    outputs = _read_out(g, model, states, lengths)
    g.nodes.append(helper.make_node("Identity", [outputs], ["answers"]))
    return _finished(g, model)


def linear_read_out(g: Graph, model: PlainModel, states: str) -> str:
    """The outputs before softmax, or at the targets' scale without the mean of the targets."""
    weight, bias = read_out_of(model)
    outputs = g.add("MatMul", states, g.matrix(weight, transposed=True))
    return g.add("Add", outputs, g.constant(bias))


def _read_out(g: Graph, model: PlainModel, states: str, lengths: str) -> str:
    outputs = linear_read_out(g, model, states)
    if model.answer == "softmax":
        return g.add("Softmax", outputs, axis=-1)
    if model.answer == "sigmoid":
        return g.add("Sigmoid", outputs)
    answered = g.add("Greater", lengths, g.constant(0, np.int64))
    axes = g.whole(1, 2) if model.network.readout == "every" else g.whole(1)
    answered = g.add("Unsqueeze", answered, axes)
    outputs = g.add("Where", answered, outputs, g.constant(0.0, np.float32))
    return g.add("Add", outputs, g.constant(model.target_mean))


def _finished(g: Graph, model: PlainModel) -> onnx.ModelProto:
    shape: list[Any] = ["batch", model.network.output.out_features]
    if model.network.readout == "every":
        shape.insert(1, "time")
    width = len(model.get_buffer("mean"))
    graph = helper.make_graph(
        g.nodes,
        "rnnopt",
        [
            helper.make_tensor_value_info("inputs", TensorProto.FLOAT, ["batch", "time", width]),
            helper.make_tensor_value_info("lengths", TensorProto.INT64, ["batch"]),
        ],
        [helper.make_tensor_value_info("answers", TensorProto.FLOAT, shape)],
        g.constants,
    )
    return checked_model(graph)


def checked_model(graph: onnx.GraphProto) -> onnx.ModelProto:
    """The model of a graph, after ONNX's own check."""
    opset = [helper.make_opsetid("", OPSET)]
    built = helper.make_model(graph, opset_imports=opset, ir_version=IR_VERSION)
    onnx.checker.check_model(built, full_check=True)
    return built


def _size(g: Graph, name: str, axis: int) -> str:
    """The size of an axis, a scalar whole number."""
    shape = g.add("Shape", name)
    return g.add("Gather", shape, g.constant(axis, np.int64))


def _true_steps(g: Graph, lengths: str, time: str) -> str:
    """Which steps are not padding, (batch, time, 1)."""
    steps = g.add("Range", g.constant(0, np.int64), time, g.constant(1, np.int64))
    row = g.add("Unsqueeze", steps, g.whole(0))
    valid = g.add("Less", row, g.add("Unsqueeze", lengths, g.whole(1)))
    return g.add("Unsqueeze", valid, g.whole(2))


def _pooled(g: Graph, states: str, lengths: str, time: str, width: int) -> tuple[str, str, str]:
    """States, lengths and time after the mean of every `width` true steps."""
    by = g.constant(width, np.int64)
    more = g.add("Mod", g.add("Sub", by, g.add("Mod", time, by)), by)
    none = g.whole(0, 0, 0, 0)
    pads = g.add("Concat", none, g.add("Unsqueeze", more, g.whole(0)), g.whole(0), axis=0)
    states = g.add("Pad", states, pads)
    channels = g.add("Unsqueeze", _size(g, states, 2), g.whole(0))
    shape = g.add("Concat", g.whole(0, -1, width), channels, axis=0)
    sums = g.add("ReduceSum", g.add("Reshape", states, shape), g.whole(2), keepdims=0)
    starts = g.add("Range", g.constant(0, np.int64), time, by)
    left = g.add(
        "Sub", g.add("Unsqueeze", lengths, g.whole(1)), g.add("Unsqueeze", starts, g.whole(0))
    )
    counts = g.add("Clip", left, g.constant(1, np.int64), by)
    counts = g.add("Unsqueeze", g.add("Cast", counts, to=TensorProto.FLOAT), g.whole(2))
    states = g.add("Div", sums, counts)
    rounded = g.add("Add", lengths, g.constant(width - 1, np.int64))
    return states, g.add("Div", rounded, by), _size(g, states, 1)


def _convolution(g: Graph, one: Any, states: str, lengths: str) -> tuple[str, str, str]:
    """States (time, batch, channel), lengths and time after a convolution of the stem."""
    scale, shift = affine(one.norm)
    weight = one.layer.weight * scale[:, None, None]
    states = g.add("Transpose", states, perm=[1, 2, 0])
    convolved = [states, g.matrix(weight), g.constant(shift)]
    strides, pads = [one.stride], [one.before, one.after]
    states = g.add("Relu", g.add("Conv", *convolved, strides=strides, pads=pads))
    rounded = g.add("Add", lengths, g.constant(one.stride - 1, np.int64))
    lengths = g.add("Div", rounded, g.constant(one.stride, np.int64))
    states = g.add("Transpose", states, perm=[0, 2, 1])
    time = _size(g, states, 1)
    states = g.add("Where", _true_steps(g, lengths, time), states, g.constant(0.0, np.float32))
    return g.add("Transpose", states, perm=[1, 0, 2]), lengths, time


def _final_states(g: Graph, states: str, lengths: str, bidirectional: bool) -> str:
    """The states (batch, directions × hidden) where each direction ends."""
    index = g.add("Unsqueeze", g.add("Sub", lengths, g.whole(1)), g.whole(1))
    if not bidirectional:
        return g.add("GatherND", states, index, batch_dims=1)
    g.add("Split", states, outputs=2, axis=2)
    forwards, backwards = g.nodes[-1].output
    ends = [
        g.add("GatherND", forwards, index, batch_dims=1),
        g.add("Gather", backwards, g.constant(0, np.int64), axis=1),
    ]
    return g.add("Concat", *ends, axis=1)


def _layer(g: Graph, layer: nn.Module, states: str, lengths: str) -> str:
    """One recurrent layer on (time, batch, feature)."""
    if not isinstance(layer, BothDirections):
        (one,) = directions_of(layer)
        return _direction(g, one, states)
    one, other = directions_of(layer.layer)
    forwards = _direction(g, one, states)
    # ReverseSequence leaves the padding where it is. ONNX's operators have a second direction of
    # their own, which begins at the last true step; OpenVINO 2026.4 begins it at the padding.
    backwards = g.add("ReverseSequence", states, lengths, time_axis=0, batch_axis=1)
    backwards = _direction(g, other, backwards)
    backwards = g.add("ReverseSequence", backwards, lengths, time_axis=0, batch_axis=1)
    return g.add("Concat", forwards, backwards, axis=2)


def directions_of(layer: Any) -> list[nn.Module]:
    """The directions of a layer of torch, or of a `PlainIndRNN`, as layers of one direction."""
    if isinstance(layer, PlainIndRNN):
        return list(layer.layers)
    if not layer.bidirectional:
        return [layer]
    found: list[nn.Module] = []
    for end in ("l0", "l0_reverse"):
        options = {"nonlinearity": layer.nonlinearity} if layer.mode.startswith("RNN") else {}
        one = type(layer)(layer.input_size, layer.hidden_size, **options)
        names = {name: name.replace("l0", end) for name, _ in one.named_parameters()}
        one.load_state_dict({name: getattr(layer, theirs) for name, theirs in names.items()})
        found.append(one.requires_grad_(False))
    return found


def _direction(g: Graph, one: nn.Module, states: str) -> str:
    """A layer of one direction on (time, batch, feature)."""
    if isinstance(one, PlainIndRNNLayer):
        return _indrnn(g, one, states)
    operator, inputs, attributes = operator_of(g, one)
    found = g.add(operator, states, *inputs, **attributes)
    return g.add("Squeeze", found, g.whole(1))  # (time, directions, batch, hidden)


def operator_of(g: Graph, layer: nn.Module) -> tuple[str, list[str], dict[str, Any]]:
    """The operator of a torch layer of one direction, its weights and its attributes."""
    torch_layer: Any = layer
    operator = torch_layer.mode.split("_")[0]
    order = GATES.get(operator, (0,))
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    w, r, b_w, b_r = (  # (1, …), of one direction
        reordered(getattr(torch_layer, f"{name}_l0"), order)[None] for name in names
    )
    attributes: dict[str, Any] = dict(hidden_size=torch_layer.hidden_size)
    if operator == "RNN":
        kind = "Relu" if torch_layer.nonlinearity == "relu" else "Tanh"
        attributes["activations"] = [kind]
    if operator == "GRU":
        attributes["linear_before_reset"] = 1  # as in torch
    biases = g.constant(torch.cat((b_w, b_r), 1))
    return operator, [g.matrix(w, 2), g.matrix(r, 2), biases], attributes


def reordered(weights: Tensor, order: tuple[int, ...]) -> Tensor:
    """The gates of some weights in another order."""
    parts = weights.detach().chunk(len(order))
    return torch.cat([parts[i] for i in order])


def _indrnn(g: Graph, one: PlainIndRNNLayer, states: str) -> str:
    """One direction of an IndRNN layer: a Scan over time."""
    reaching = g.add("MatMul", states, g.matrix(one.input.weight, transposed=True))
    reaching = g.add("Add", reaching, g.constant(one.input.bias))
    u, activation = g.constant(one.bounded()), "Relu" if one.relu else "Tanh"
    shape: list[str | int | None] = ["batch", one.input.out_features]
    info = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n in ("h", "z", "new", "out")
    ]
    body = helper.make_graph(
        [
            helper.make_node("Mul", ["h", u], ["kept"]),
            helper.make_node("Add", ["z", "kept"], ["sum"]),
            helper.make_node(activation, ["sum"], ["new"]),
            helper.make_node("Identity", ["new"], ["out"]),
        ],
        "step",
        info[:2],
        info[2:],
    )
    first = g.add("Gather", reaching, g.constant(0, np.int64), axis=0)
    zeros = g.add("ConstantOfShape", g.add("Shape", first))
    g.add("Scan", zeros, reaching, outputs=2, num_scan_inputs=1, body=body)
    return g.nodes[-1].output[1]
