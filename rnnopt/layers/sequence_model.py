"""The sequence model: recurrent layers, batch normalisation between them and a linear read-out.

Shapes are (time, batch, feature) throughout. Sequences of different lengths are padded at the end.
In a network that runs forward in time, padding does not change the states on the true steps, so it
only has to stay out of the read-out and the batch statistics. That costs less than packing.
"""

from collections.abc import Callable
from typing import Literal, Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional

from rnnopt.layers.elman import ElmanRNN
from rnnopt.layers.gru import GRU
from rnnopt.layers.indrnn import IndRNN
from rnnopt.layers.kernels import cpu, indrnn_stack
from rnnopt.layers.kernels.batch_norm import normalize
from rnnopt.layers.kernels.half_linear import check_precision
from rnnopt.layers.kernels.portable import final_states, true_steps
from rnnopt.layers.lstm import LSTM
from rnnopt.layers.minibatch_part import MinibatchPart, normalize_part
from rnnopt.layers.network_options import (
    Cell,
    Initialization,
    Keywords,
    Readout,
    check_choices,
    check_sizes,
    initialize,
    last_layer_remembers,
    layer_options,
    remembering,
)
from rnnopt.layers.plain import PlainSequenceModel, script_refused
from rnnopt.layers.recurrent import TorchRecurrent, check_lengths
from rnnopt.layers.stem import ConvolutionalStem, steps_after
from rnnopt.layers.stream import Stream

# State of one layer between steps: (1, batch, hidden), for LSTM a pair of them.
State = Tensor | tuple[Tensor, Tensor]
CELLS: dict[str, Callable[..., nn.Module]] = {
    "rnn": ElmanRNN,
    "lstm": LSTM,
    "gru": GRU,
    "indrnn": IndRNN,
}


class SequenceModel(nn.Module):
    """Recurrent layers and a linear read-out.

    Args:
        input_size: features of each step.
        hidden_size: units of each layer.
        output_size: number of classes, or of values to predict.
        cell: "rnn" (Elman), "lstm", "gru" or "indrnn".
        nonlinearity: "tanh" or, only for "rnn" and "indrnn", "relu"; unset means relu for "indrnn"
            and tanh for the others.
        layers: number of recurrent layers, ≥ 1.
        batch_norm: whether to normalise each layer's states over time and batch.
        dropout: probability in [0, 1) that a unit is zero for a whole sequence, after each layer.
        readout: states that the linear read-out gets: "last", the one at a sequence's last true
            step; "every", those at each step; "mean", their mean over the true steps.
        initialization: "default", torch's, and for IndRNN its authors'; "orthogonal", orthogonal
            recurrent matrices, gate by gate; "identity", identity recurrent matrices (Le et al.,
            https://arxiv.org/abs/1504.00941); "normal", every weight and bias N(0, 0.01²), as in
            the aSNAQ paper; "indrnn", like "default" with He's rule and bias 0 for the read-out, as
            in the code of IndRNN's authors; "indrnn-paper", "indrnn" with the recurrent weights of
            the last layer between magnitude^(-1/steps) and the bound instead of between 0 and
            the bound, as in their paper. IndRNN has no recurrent matrices: it does not take
            "orthogonal" or "identity".
        steps: length of the sequences, which sets IndRNN's recurrent bound; unset means no bound.
        magnitude: factor by which a state may grow over `steps` steps under IndRNN's bound: 5 in
            the authors' released code, 2 in their paper.
        keywords: bidirectional, whether each layer also runs from the last true step to the first,
            with as many units again, and passes on the states of both directions (readout="last"
            reads where each direction ends); stem, convolutions before the recurrent layers as
            pairs (width, stride), such as [(8, 4)], with hidden_size channels each, see
            `rnnopt.layers.stem`; precision, of the products of the recurrent layers on the CPU:
            "float32" or "bf16", see `GRU` and `IndRNN`; and for one release, with a warning,
            last_layer_remembers, which is a part of initialization="indrnn-paper" now.

    Example:
        >>> model = SequenceModel(input_size=9, hidden_size=80, output_size=6)
        >>> model(torch.randn(128, 32, 9)).shape
        torch.Size([32, 6])
    """

    # The part of a minibatch that the inputs are; None for a whole one. Set by `taking`.
    _minibatch_part: MinibatchPart | None = None

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        output_size: int,
        cell: Cell = "rnn",
        nonlinearity: Literal["tanh", "relu"] | None = None,
        layers: int = 1,
        batch_norm: bool = False,
        dropout: float = 0.0,
        readout: Readout = "last",
        initialization: Initialization = "default",
        steps: int | None = None,
        magnitude: float = 5.0,
        **keywords: Unpack[Keywords],
    ):
        super().__init__()
        remembers = last_layer_remembers(initialization, keywords)
        precision, shapes = keywords.get("precision", "float32"), keywords.get("stem") or []
        self.input_size = input_size
        self.bidirectional = keywords.get("bidirectional", False)
        width = hidden_size * (2 if self.bidirectional else 1)  # states that a layer passes on
        if nonlinearity is None:
            nonlinearity = "relu" if cell == "indrnn" else "tanh"
        check_sizes(
            dropout,
            input_size=input_size,
            hidden_size=hidden_size,
            output_size=output_size,
            layers=layers,
        )
        check_choices(cell, nonlinearity, readout, initialization)
        check_precision("SequenceModel", precision)
        if shapes and readout == "every":
            raise ValueError("a stem shortens sequences: it cannot go with readout='every'.")
        options = layer_options(
            cell, nonlinearity, precision, steps and steps_after(steps, shapes), magnitude
        )
        if self.bidirectional:
            options["bidirectional"] = True
        last = remembering(options, cell, steps) if remembers else options
        self.readout, self.dropout = readout, dropout
        self.stem = ConvolutionalStem(input_size, hidden_size, shapes) if shapes else None
        first = hidden_size if shapes else input_size
        self.recurrent = nn.ModuleList(
            CELLS[cell](
                first if i == 0 else width,
                hidden_size,
                **(last if i == layers - 1 else options),
            )
            for i in range(layers)
        )
        self.norms = nn.ModuleList(
            nn.BatchNorm1d(width) for _ in range(layers if batch_norm else 0)
        )
        self.output = nn.Linear(width, output_size)
        initialize(self, initialization)

    def forward(self, inputs: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Outputs (batch, output), or (time, batch, output) with readout="every".

        Args:
            inputs: (time, batch, input).
            lengths: (batch,) true steps of each padded sequence, each in 1 … time; None when all
                are true.
        """
        return self.advance(inputs, None, lengths)[0]

    def advance(
        self, inputs: Tensor, state: list[State] | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor, list[State]]:
        """Like `forward`, continuing from the states after an earlier part of the sequences.

        Args:
            inputs: (time, batch, input), the next steps.
            state: states returned for the previous steps; None at the beginning.
            lengths: (batch,) true steps among these, each in 1 … time; None when all are true.

        Returns:
            Outputs as from `forward`, and the states after these steps, one per layer. The state of
            a sequence that ended among these steps must not be used further.

        Raises:
            ValueError: inputs of another shape; a state for a bidirectional network, or one with a
                stem.
        """
        if inputs.ndim != 3:
            raise ValueError(f"inputs must be (time, batch, feature), got {tuple(inputs.shape)}.")
        if state is not None:
            self._refuse_parts()
        part, valid = self._minibatch_part, None
        states, last = inputs, None
        if lengths is not None:
            lengths = check_lengths(lengths, inputs)
            valid = true_steps(inputs.shape[0], lengths)
            states = torch.where(valid, inputs, 0)
        if self.stem is not None:
            states, lengths = self.stem(states, lengths, self._normalized_after)
            part = part and part.shortened(self.stem.stride)
            valid = None if lengths is None else true_steps(states.shape[0], lengths)
        fused = self._fused(states, state) if valid is None else None
        if fused is not None:
            return fused
        ends: list[State] = []
        for i, layer in enumerate(self.recurrent):
            states, last, end = _run(layer, states, None if state is None else state[i], lengths)
            ends.append(end)
            mask = self._dropout_mask(states)
            if self.norms:
                states, last = _normalized(self.norms[i], states, valid, mask, part), None
            elif mask is not None:
                states, last = states * mask, last * mask
        if self.readout == "last":
            states = final_states(states, lengths, self.bidirectional) if last is None else last
        elif self.readout == "mean":
            if lengths is None or valid is None:
                states = states.mean(0)
            else:
                states = torch.where(valid, states, 0).sum(0) / lengths[:, None]
        return self.output(states), ends

    def _fused(
        self, inputs: Tensor, state: list[State] | None
    ) -> tuple[Tensor, list[State]] | None:
        """The results of `advance` from one operator for all layers; None if there is none."""
        if self._minibatch_part is not None or not self.norms or not cpu.own_operators():
            return None
        if not all(map(_plain_indrnn, self.recurrent)):
            return None
        layers = [
            layer.stacked(0, norm)  # type: ignore[operator]
            for layer, norm in zip(self.recurrent, self.norms, strict=True)
        ]
        first = None if state is None else torch.cat(state)  # type: ignore[arg-type]
        half = self.recurrent[0].precision == "bf16"
        if not indrnn_stack.stackable(inputs, layers, first, half):
            return None
        masks = [self._dropout_mask(inputs) for _ in layers]
        layers = [one._replace(mask=mask) for one, mask in zip(layers, masks, strict=True)]
        relu = self.recurrent[0].nonlinearity == "relu"
        states, last = indrnn_stack.stack(inputs, layers, first, relu, self.readout != "last", half)
        if self.readout != "every":
            states = states.mean(0)
        return self.output(states), list(last.split(1))

    def _normalized_after(
        self, norm: nn.Module, states: Tensor, valid: Tensor | None, stride: int
    ) -> Tensor:
        """Batch normalisation within the stem, of every `stride`-th step."""
        part = self._minibatch_part
        return _normalized(norm, states, valid, None, part and part.shortened(stride))

    def _refuse_parts(self) -> None:
        """Raises ValueError if the network cannot take a sequence part by part."""
        reasons = {
            "a bidirectional network": self.bidirectional,
            "a network with a stem": self.stem is not None,
        }
        for network in (name for name, holds in reasons.items() if holds):
            raise ValueError(
                f"{network} needs whole sequences: it cannot continue from a state, nor take one"
                " step at a time."
            )

    def stream(self, batch_size: int | None = None) -> Stream:
        """The model on sequences that come step by step, see `Stream`.

        Args:
            batch_size: sequences that run side by side; None for one without a batch dimension.

        Raises:
            ValueError: batch_size below 1; a bidirectional network, or one with a stem.
        """
        self._refuse_parts()
        return Stream(self, batch_size)

    def to_torch(self) -> PlainSequenceModel:
        """A copy in torch's own layers and operators, with the same call.

        It takes the same `state_dict`, except for IndRNN and bidirectional layers and the stem.
        """
        return PlainSequenceModel(self)

    def __prepare_scriptable__(self) -> nn.Module:
        raise script_refused(self)

    def _dropout_mask(self, states: Tensor) -> Tensor | None:
        """Factors (batch, hidden) of the states at every step; None without dropout."""
        if not (self.dropout and self.training):
            return None
        part = self._minibatch_part
        count = states.shape[1] if part is None else part.count
        mask = functional.dropout(states.new_ones(count, self.output.in_features), self.dropout)
        return mask if part is None else mask[part.rows.to(mask.device)]


def _normalized(
    norm: nn.Module,
    states: Tensor,
    valid: Tensor | None,
    mask: Tensor | None,
    part: MinibatchPart | None,
) -> Tensor:
    """Batch normalisation over the true steps of the whole minibatch, and dropout."""
    if part is None or not norm.training:
        return normalize(norm, states, valid, mask)
    assert isinstance(norm, nn.BatchNorm1d)
    states = normalize_part(norm, states, valid, part)
    return states if mask is None else states * mask


def _plain_indrnn(layer: nn.Module) -> bool:
    """Whether a call of a layer does nothing but one IndRNN recurrence."""
    return (
        type(layer) is IndRNN
        and layer.num_layers == 1
        and not (layer.batch_norm or layer.dropout or layer.batch_first or layer.bidirectional)
        and cpu.only_forward(layer)
    )


def _run(
    layer: nn.Module, states: Tensor, first: State | None, lengths: Tensor | None
) -> tuple[Tensor, Tensor, State]:
    """States at every step, those at the last true step (a loss that reads only these is cheaper),
    and the state to continue from."""
    both = bool(getattr(layer, "bidirectional", False))
    # Without lengths torch's operator runs an exported layer. What follows leaves the padding out,
    # if nothing runs backwards from there.
    plain = lengths is None or not both
    exported = cpu.leaving_torch() and isinstance(layer, (GRU, LSTM)) and plain
    if isinstance(layer, (TorchRecurrent, IndRNN)) and not exported:
        states, end = layer(states, first, lengths)
        return states, _ends(end, both), end
    # A layer of torch's own, put in place of ours, or an exported one. Nothing continues from that.
    states, end = layer(states, first)
    # torch 2.10 decomposes an exported LSTM so that its last state has a dimension too many.
    if lengths is not None or cpu.leaving_torch():
        return states, final_states(states, lengths, both), end
    return states, _ends(end, both), end


def _ends(end: State, both: bool) -> Tensor:
    """The states where a layer ends (batch, directions × hidden), from those to continue from."""
    found = end[0] if isinstance(end, tuple) else end
    return torch.cat(found.unbind(0), 1) if both else found[0]
