"""A `PlainModel` as a C header of one step: weights as constants, and functions that use them.

It needs C99 or C++ and math.h, and allocates nothing. The caller keeps the state. The functions are
`static inline`, so that a header may be included in several files.
"""

import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from rnnopt.config.errors import UserError
from rnnopt.layers.plain import PlainIndRNN, PlainIndRNNLayer
from rnnopt.runs.export import c_code
from rnnopt.runs.export.c_comment import Description, comment
from rnnopt.runs.export.int8 import rows_in_int8
from rnnopt.runs.export.plain_model import PlainModel, affine, read_out_of
from rnnopt.runs.export.step_states import hidden_of


@dataclass(frozen=True)
class Header:
    """A header and its sizes in bytes.

    Args:
        text: the header.
        weights: bytes of all constants.
        state: bytes of the state, where an int has 4.
        stack: bytes of the arrays of a step.
    """

    text: str
    weights: int
    state: int
    stack: int


class Constants:
    """Collects arrays of a header, and counts their bytes.

    Args:
        int8: whether matrices are stored as int8 with a scale for each row.
    """

    def __init__(self, int8: bool):
        self.int8, self.lines, self.bytes = int8, list[str](), 0

    def array(self, name: str, values: Tensor) -> None:
        """Adds float32 numbers."""
        if not bool(values.isfinite().all()):
            raise UserError(
                "the network has weights or scales that are not finite in float32: nothing was"
                " written."
            )
        numbers = values.detach().float().flatten().numpy()
        self._add("float", name, (f"{value!s}f" for value in numbers), len(numbers))
        self.bytes += 4 * len(numbers)

    def matrix(self, name: str, values: Tensor) -> None:
        """Adds a matrix (rows, columns)."""
        members = f"NAME_{name}_weights"
        if self.int8:
            whole, scales = rows_in_int8(values)
            numbers = whole.flatten().tolist()
            self._add("signed char", f"{name}_weights", map(str, numbers), len(numbers))
            self.bytes += len(numbers)
            self.array(f"{name}_scales", scales)
            members += f", NAME_{name}_scales"
        else:
            self.array(f"{name}_weights", values)
        self.lines.append(
            f"static const NAME_matrix NAME_{name} = {{{members}, {values.shape[1]}}};"
        )

    def _add(self, kind: str, name: str, values: Iterable[str], count: int) -> None:
        self.lines.append(f"static const {kind} NAME_{name}[{count}] = {{")
        self.lines += _wrapped(values)
        self.lines.append("};")


def _wrapped(values: Iterable[str]) -> Iterator[str]:
    """Numbers in lines of at most about 100 characters."""
    line = "   "
    for value in values:
        if len(line) + len(value) > 98:
            yield line
            line = "   "
        line += f" {value},"
    yield line


def to_c(model: PlainModel, name: str, description: Description, int8: bool = False) -> Header:
    """The header of `model`, whose names begin with `name`; with `int8` its matrices are int8."""
    constants = Constants(int8)
    states, body = _layers(model, constants)
    weight, bias = read_out_of(model)
    constants.matrix("output", weight)
    constants.array("output_bias", bias)
    _preparation(model, constants)
    inputs, scratch = len(model.mean), _scratch(model)
    counter = ["int waiting"] if model.pool > 1 else []
    stack = 4 * (sum(scratch.values()) + inputs)
    header = Header("", constants.bytes, 4 * (sum(states.values()) + len(counter)), stack)
    parts = [
        "#ifndef NAME_DIGEST_H\n#define NAME_DIGEST_H\n\n#include <math.h>",
        c_code.NEEDS_NAN if model.missing_filled else "",
        f"enum {{ NAME_inputs = {inputs}, NAME_outputs = {len(bias)} }};",
        _block("typedef struct ", [*_arrays(states), *(f"{one};" for one in counter)])
        + " NAME_state;",
        c_code.INT8_ROW if int8 else c_code.FLOAT_ROW,
        "\n".join(constants.lines),
        *_functions(model),
        "/* Begins a new series. */\n"
        + _block("static inline void NAME_reset(NAME_state *state)\n", _reset(states, model.pool)),
        _block(
            "static inline void NAME_network(const float *in, NAME_state *state, float *y)\n",
            [*_arrays(scratch), "int i;", *body],
        ),
        c_code.STEP if model.pool == 1 else c_code.POOLED_STEP,
        "#endif",
    ]
    code = "\n\n".join(part.strip() for part in parts if part)
    # With a digest two networks of one name do not compile together: the guard would hide one.
    digest = f"{zlib.crc32(code.encode()):08x}"
    written = {"NAME": name, "WIDTH": str(model.pool), "DIGEST": digest}
    # All at once: a name may have WIDTH in it.
    code = re.sub("|".join(written), lambda found: written[found[0]], code)
    text = f"{comment(name, _kind(model), model.pool, description, _memory(header))}\n{code}\n"
    return replace(header, text=text)


def _scratch(model: PlainModel) -> dict[str, int]:
    """The arrays of a step, name and width."""
    layers, norms = list(model.network.recurrent), model.network.norms
    normal = any(isinstance(norm, nn.BatchNorm1d) for norm in norms)
    names = ["values"] if normal or model.network.readout == "mean" else []
    names += [] if isinstance(layers[0], PlainIndRNN) else ["next"]
    return dict.fromkeys(names, max(map(hidden_of, layers)))


def _reset(states: Mapping[str, int], pool: int) -> list[str]:
    lines = [f"for (i = 0; i < {width}; i++) state->{one}[i] = 0;" for one, width in states.items()]
    return ["int i;", *lines, *(["state->waiting = 0;"] if pool > 1 else [])]


def _kind(model: PlainModel) -> str:
    """What network it is."""
    layers = list(model.network.recurrent)
    units = ", ".join(str(hidden_of(layer)) for layer in layers)
    return f"recurrent network, {_mode(layers[0])} layers, units: {units}"


def _memory(header: Header) -> str:
    return (
        f"Bytes: {header.weights} of weights, {header.state} of state, {header.stack} of arrays on"
        " the stack in a step. Nothing is allocated."
    )


def _layers(model: PlainModel, constants: Constants) -> tuple[dict[str, int], list[str]]:
    """The states, name and width, and the statements of a step of the network."""
    network, states, body, values = model.network, dict[str, int](), list[str](), "in"
    for k, (layer, norm) in enumerate(zip(network.recurrent, network.norms, strict=True), 1):
        width = hidden_of(layer)
        states[f"h{k}"] = width
        given = f"NAME_b{k}, {values}, state->h{k}"
        if isinstance(layer, PlainIndRNN):
            _indrnn(layer, k, constants)
            body.append(f"NAME_layer(&NAME_w{k}, NAME_u{k}, {given}, {width});")
        else:
            if _mode(layer) == "LSTM":
                states[f"c{k}"] = width
                given += f", state->c{k}"
            _torch_layer(layer, k, constants)
            body.append(f"NAME_layer(&NAME_w{k}, &NAME_u{k}, {given}, next, {width});")
        values = f"state->h{k}"
        if isinstance(norm, nn.BatchNorm1d):
            scale, shift = affine(norm)
            constants.array(f"scale{k}", scale)
            constants.array(f"shift{k}", shift)
            product = f"{values}[i] * NAME_scale{k}[i] + NAME_shift{k}[i]"
            body.append(f"for (i = 0; i < {width}; i++) values[i] = {product};")
            values = "values"
    if network.readout == "mean":
        # A float32 sum of many steps would lose its last digits.
        states |= {"mean": width, "steps": 1}
        body += [
            "state->steps[0] += 1;",
            f"for (i = 0; i < {width}; i++) {{",
            f"    state->mean[i] += ({values}[i] - state->mean[i]) / state->steps[0];",
            "    values[i] = state->mean[i];",
            "}",
        ]
        values = "values"
    if model.pool > 1:
        states["group"] = len(model.mean)
    body += [
        "for (i = 0; i < NAME_outputs; i++)",
        f"    y[i] = NAME_row(&NAME_output, i, {values}) + NAME_output_bias[i];",
        "NAME_answers(y);",
    ]
    return states, body


def _mode(layer: nn.Module) -> str:
    if isinstance(layer, PlainIndRNN):
        return "IndRNN"
    return str(getattr(layer, "mode", "")).split("_")[0]


def _indrnn(layer: PlainIndRNN, k: int, constants: Constants) -> None:
    (one,) = layer.layers
    assert isinstance(one, PlainIndRNNLayer)
    constants.matrix(f"w{k}", one.input.weight)
    constants.array(f"u{k}", one.bounded())
    constants.array(f"b{k}", one.input.bias)


def _torch_layer(layer: Any, k: int, constants: Constants) -> None:
    constants.matrix(f"w{k}", layer.weight_ih_l0)
    constants.matrix(f"u{k}", layer.weight_hh_l0)
    b_w, b_u, units = layer.bias_ih_l0.double(), layer.bias_hh_l0.double(), layer.hidden_size
    both = b_w + b_u
    if _mode(layer) == "GRU":  # the last gate's are multiplied apart
        both = torch.cat((both[: 2 * units], b_w[2 * units :], b_u[2 * units :]))
    constants.array(f"b{k}", both)


def _preparation(model: PlainModel, constants: Constants) -> None:
    """The constants that come before and after the network."""
    if model.prepares:
        for name in ("mean", "mean_rest", "deviation"):
            constants.array(name, model.get_buffer(name))
        if model.missing_filled:
            constants.array("fill", model.fill)
    if model.answer == "numbers":
        constants.array("target_mean", model.target_mean)


def _functions(model: PlainModel) -> list[str]:
    """The functions that the network's kind needs."""
    layer = model.network.recurrent[0]
    mode = _mode(layer)
    found = []
    if mode in ("GRU", "LSTM") or model.answer == "sigmoid":
        found.append(c_code.SIGMOID)
    if mode in ("RNN", "IndRNN"):
        one: Any = layer
        relu = one.layers[0].relu if mode == "IndRNN" else one.nonlinearity == "relu"
        found.append(c_code.RELU if relu else c_code.TANH)
    filled = c_code.PREPARE_FILLED if model.missing_filled else c_code.PREPARE
    found.append(c_code.CELLS[mode])
    found.append(filled if model.prepares else c_code.PLAIN)
    found.append(c_code.ANSWERS[model.answer])
    return found


def _arrays(widths: Mapping[str, int]) -> list[str]:
    return [f"float {name}[{width}];" for name, width in widths.items()]


def _block(head: str, lines: Iterable[str]) -> str:
    """Lines in braces."""
    inner = "\n".join(f"    {line}" for line in lines)
    return f"{head}{{\n{inner}\n}}"
