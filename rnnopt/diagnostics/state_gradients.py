"""Total derivatives dL/dh_t of a recurrent layer, from a second run of the layer in plain torch.

The same few lines run every cell, one step at a time, so that autograd sees every state. Batch
normalisation does not update its running statistics. gradient_flow.py uses this.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from rnnopt.layers.gru import GRU
from rnnopt.layers.indrnn import IndRNN
from rnnopt.layers.kernels.portable import true_steps
from rnnopt.layers.lstm import LSTM


class Call:
    """One call of a layer, to be repeated.

    Args:
        layer: nn.RNN, nn.LSTM, nn.GRU, ElmanRNN, LSTM, GRU or IndRNN.
        args, kwargs: arguments of the call.
        packed: output of the call if it was packed.

    Raises:
        ValueError: dropout inside the layer, whose mask cannot be repeated.
    """

    def __init__(self, layer: Any, args: tuple, kwargs: dict, packed: PackedSequence | None):
        if layer.training and layer.dropout and (layer.num_layers > 1 or isinstance(layer, IndRNN)):
            raise ValueError(
                f"GradientFlow needs layers without dropout inside, got dropout={layer.dropout} in"
                f" {type(layer).__name__}: its mask cannot be repeated."
            )
        given = dict(zip(("input", "hx", "lengths"), args, strict=False)) | kwargs
        input, hx, self.lengths = given["input"], given.get("hx"), given.get("lengths")
        self.layer, self.packed = layer, packed
        self.batched = packed is not None or input.ndim == 3
        if packed is not None:
            input, self.lengths = pad_packed_sequence(input)
        states = hx if isinstance(hx, tuple) or hx is None else (hx,)
        if states is not None:
            states = tuple((h if self.batched else h.unsqueeze(1)).detach() for h in states)
        self.first = states
        self.input = input.detach() if packed is not None else self._time_first(input.detach())

    def _time_first(self, sequence: Tensor) -> Tensor:
        if not self.batched:
            return sequence.unsqueeze(1)
        return sequence.transpose(0, 1) if self.layer.batch_first else sequence

    @torch.enable_grad()
    def state_gradients(
        self, gradients: Sequence[Tensor | None]
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """(dL/dh_t, h_t), each (time, batch, hidden), of every layer and direction.

        Args:
            gradients: direct gradients of the output and the last states; None for zero.
        """
        direct, *lasts = gradients
        if direct is not None and self.packed is not None:
            direct, _ = pad_packed_sequence(self.packed._replace(data=direct))
        elif direct is not None:
            direct = self._time_first(direct)
        if not self.batched:
            lasts = [None if g is None else g.unsqueeze(1) for g in lasts]
        tracks, ends = self._run()
        pairs = [p for p in zip(ends, (direct, *lasts), strict=True) if p[1] is not None]
        found = torch.autograd.grad(
            [end for end, _ in pairs],
            [h for track in tracks.values() for h in track],
            [g.to(end) for end, g in pairs if g is not None],
            materialize_grads=True,
        )
        steps = len(self.input)
        return {
            place: (torch.stack(found[i * steps : (i + 1) * steps]), torch.stack(track).detach())
            for i, (place, track) in enumerate(tracks.items())
        }

    def _run(self) -> tuple[dict[str, list[Tensor]], tuple[Tensor, ...]]:
        """States by layer and direction; output and last states as the layer returned them."""
        layer = self.layer
        valid = None
        if self.lengths is not None:
            valid = true_steps(len(self.input), self.lengths.to(self.input.device))
        states = self.input.to(layer.weight_ih_l0.dtype)
        tracks: dict[str, list[Tensor]] = {}
        lasts: list[tuple[Tensor, ...]] = []
        for k in range(layer.num_layers):
            states = states if valid is None else torch.where(valid, states, 0)
            outputs = []
            for suffix in ("", "_reverse") if getattr(layer, "bidirectional", False) else ("",):
                track, last = self._recur(k, suffix, states, valid, len(lasts))
                outputs.append(torch.stack(track))
                tracks[f"l{k}{suffix}"] = track
                lasts.append(last)
            states = torch.cat(outputs, 2)
            if getattr(layer, "batch_norm", None) == "after":
                states = _normalized(layer.norms[k], states, valid)
        states = states if valid is None else torch.where(valid, states, 0)
        return tracks, (states, *(torch.stack(kind) for kind in zip(*lasts, strict=True)))

    def _recur(
        self, k: int, suffix: str, inputs: Tensor, valid: Tensor | None, number: int
    ) -> tuple[list[Tensor], tuple[Tensor, ...]]:
        """One layer in one direction: h at every step, and the last state."""
        layer = self.layer

        def weight(name: str) -> Any:
            found = getattr(layer, f"{name}_l{k}{suffix}", None)
            return None if found is None else found.detach()

        reaching = functional.linear(inputs, weight("weight_ih"), weight("bias_ih"))
        w_hh, b_hh = weight("weight_hh"), weight("bias_hh")
        if getattr(layer, "batch_norm", None) == "before":
            reaching = _normalized(layer.norms[k], reaching, valid)
        shape = (inputs.shape[1], layer.hidden_size)
        if self.first is None:
            state = tuple(
                inputs.new_zeros(shape) for _ in range(1 + isinstance(layer, (nn.LSTM, LSTM)))
            )
        else:
            state = tuple(h[number].to(inputs.dtype) for h in self.first)
        # Autograd needs a leaf that requires a gradient.
        state = (state[0].clone().requires_grad_(), *state[1:])
        track: list[Tensor] = [state[0]] * len(inputs)
        for t in reversed(range(len(inputs))) if suffix else range(len(inputs)):
            new = _step(layer, reaching[t], state, w_hh, b_hh)
            if valid is not None:  # the state stays before a sequence's first and after its end
                kept = zip(new, state, strict=True)
                new = tuple(torch.where(valid[t], one, other) for one, other in kept)
            state = new
            track[t] = state[0]
        return track, state


def _step(
    layer: Any, reaching: Tensor, state: tuple[Tensor, ...], w_hh: Any, b_hh: Tensor | None
) -> tuple[Tensor, ...]:
    """One step of any cell; `reaching` is W_ih x_t + b_ih, (batch, gates × hidden)."""
    h = state[0]
    # IndRNN's weights were bounded in its forward pass.
    recurrent = h * w_hh if isinstance(layer, IndRNN) else functional.linear(h, w_hh, b_hh)
    if isinstance(layer, (nn.LSTM, LSTM)):
        i, f, g, o = (reaching + recurrent).chunk(4, 1)
        c = f.sigmoid() * state[1] + i.sigmoid() * g.tanh()
        return o.sigmoid() * c.tanh(), c
    if isinstance(layer, (nn.GRU, GRU)):
        (r, z, n), (hr, hz, hn) = reaching.chunk(3, 1), recurrent.chunk(3, 1)
        r, z = (r + hr).sigmoid(), (z + hz).sigmoid()
        return ((1 - z) * (n + r * hn).tanh() + z * h,)
    inside = reaching + recurrent
    return (inside.relu() if layer.nonlinearity == "relu" else inside.tanh(),)


def _normalized(norm: Any, states: Tensor, valid: Tensor | None) -> Tensor:
    """Batch normalisation that does not update the running statistics."""
    chosen = torch.ones_like(states[..., 0], dtype=torch.bool) if valid is None else valid[..., 0]
    mean, variance = (None, None) if norm.training else (norm.running_mean, norm.running_var)
    rows = functional.batch_norm(
        states[chosen], mean, variance, norm.weight, norm.bias, norm.training, 0.0, norm.eps
    )
    return torch.zeros_like(states).masked_scatter(chosen[..., None], rows)
