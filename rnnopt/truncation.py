"""Truncated back-propagation through time: an update every k1 steps, gradients k2 steps back.

A sequence of T steps is cut at e_1 = k1, e_2 = 2 k1, …, e_n = T. Chunk j scores the answer at e_j
against the sequence's target and takes the gradient back to step max(0, e_j - k2), where the state
enters as a constant:

    state_j = recurrence from 0 to e_j - k2, detached      loss_j = loss(answer at e_j, target)

With k1 = k2, the usual form, the chunks lie end to end and the states are carried on. With k2 > k1
they overlap, and the states between are run once more, without gradients and with the newest
weights; with k2 < k1 the first steps of a chunk are run without gradients. With readout "every" a
chunk scores all its answers after the last update.

Williams and Peng, "An efficient gradient-based algorithm for on-line training of recurrent network
trajectories", Neural Computation 1990. What the first chunks of a classified sequence are scored
against is left open by the Frank-Wolfe RNN paper; here it is the label, at the end of each chunk.

One gradient evaluation is one minibatch forward and backward over all T steps, so a chunk counts
the share of these that it runs, and a third of it for steps that are run without gradients.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from rnnopt.errors import UserError
from rnnopt.layers.sequence_model import SequenceModel, State
from rnnopt.tasks.task import Batch, Batches


@dataclass(frozen=True)
class Truncation:
    """How sequences are cut.

    Args:
        forward: k1 ≥ 1, steps between updates.
        backward: k2 ≥ 1, steps that each gradient goes back.
    """

    forward: int
    backward: int

    def chunks(self, steps: int) -> list[tuple[int, int, int]]:
        """(start of the gradient, start of the chunk, end) of each chunk of `steps` steps."""
        ends = [*range(self.forward, steps, self.forward), steps]
        return [(max(0, end - self.backward), start, end) for start, end in pairwise([0, *ends])]

    def price(self, steps: int) -> float:
        """Gradient evaluations that a whole sequence of `steps` steps costs."""
        chunks = self.chunks(steps)
        with_gradient = sum(end - start for start, _, end in chunks)
        without = chunks[0][0]
        for (before, _, end), (start, _, _) in pairwise(chunks):
            without += start - (end if start >= end else before)
        return (with_gradient + without / 3) / steps


class Chunks:
    """A minibatch chunk by chunk: the loss of the current one, the states carried between.

    Args:
        model: what is trained.
        batches: where the minibatches come from; its task has the loss.
        truncation: how sequences are cut.
        device: where the model is.
    """

    def __init__(
        self, model: nn.Module, batches: Batches, truncation: Truncation, device: torch.device
    ):
        if not isinstance(model, SequenceModel):
            raise TypeError(f"truncation needs a SequenceModel, got {type(model).__name__}.")
        self.model, self.batches, self.device = model, batches, device
        self.truncation = truncation
        self._batch: Batch | None = None
        self._drawn_from = batches.state_dict()
        self.chunk = 0  # of the current minibatch
        self.position = 0  # the step before which `state` is
        self.state: list[State] | None = None

    @property
    def batch(self) -> Batch:
        """The current minibatch, whole."""
        if self._batch is None:
            self._drawn_from = self.batches.state_dict()
            self._batch = self.batches.draw().to(self.device)
        return self._batch

    def loss(self) -> Tensor:
        """The current chunk's loss, with a graph that goes back k2 steps."""
        batch = self.batch
        start, scored_from, end = self.truncation.chunks(len(batch.inputs))[self.chunk]
        scored_from, alive = max(start, scored_from), None
        if batch.lengths is not None:
            if self.truncation.backward < self.truncation.forward:
                raise UserError(
                    "sequences of different lengths need gradients that reach as far back as the"
                    f" last update: tbptt-backward at least {self.truncation.forward}, got"
                    f" {self.truncation.backward}."
                )
            alive = batch.lengths > scored_from
            if not bool(alive.any()):
                return 0 * self.model.output.weight.sum()  # all have ended: no gradient
        self._run_to(start)
        part = _part(batch, start, end, alive)
        outputs, ends = self.model.advance(part.inputs, _chosen(self.state, alive), part.lengths)
        if outputs.ndim == 3:  # an answer at every step: those before are scored already
            part, outputs = _part(batch, scored_from, end, alive), outputs[scored_from - start :]
        loss = self.batches.task.loss_of(outputs, part)
        following = self.truncation.chunks(len(batch.inputs))[self.chunk + 1 :]
        if following and following[0][0] >= end:
            self.position, self.state = end, _placed(ends, alive, len(batch))
        return loss

    def advance(self) -> None:
        """Moves to the next chunk, of the next minibatch where this one is at its end."""
        steps = self.batches.task.steps if self._batch is None else len(self._batch.inputs)
        self.chunk += 1
        if self.chunk == len(self.truncation.chunks(steps)):
            self.chunk, self.position, self.state, self._batch = 0, 0, None, None

    @torch.no_grad()
    def _run_to(self, step: int) -> None:
        """Brings the state to where the gradient starts, with the weights of this moment."""
        if step > self.position:
            part = self.batch.inputs[self.position : step]
            _, ends = self.model.advance(part, self.state)
            self.position, self.state = step, _placed(ends, None, len(self.batch))

    def state_dict(self) -> dict[str, Any]:
        """Everything `load_state_dict` needs to go on at this chunk."""
        if self._batch is None:
            return dict(batches=self.batches.state_dict(), chunk=0, position=0, state=None)
        return dict(
            batches=self._drawn_from, chunk=self.chunk, position=self.position, state=self.state
        )

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on where `state` was taken; the minibatch is drawn again."""
        self.batches.load_state_dict(state["batches"])
        self._batch = None
        if state["chunk"]:
            _ = self.batch
        self.chunk, self.position, self.state = state["chunk"], state["position"], state["state"]


def _part(batch: Batch, start: int, end: int, alive: Tensor | None) -> Batch:
    """Steps start … end of the sequences that have not ended before."""
    if alive is None or batch.lengths is None:
        return Batch(batch.inputs[start:end], batch.targets)
    lengths = batch.lengths[alive].clamp(max=end) - start
    return Batch(batch.inputs[start:end, alive], batch.targets[alive], lengths)


def _chosen(state: list[State] | None, alive: Tensor | None) -> list[State] | None:
    """The states of the sequences that go on."""
    if state is None or alive is None:
        return state
    return [
        (s[0][:, alive], s[1][:, alive]) if isinstance(s, tuple) else s[:, alive] for s in state
    ]


def _placed(state: list[State], alive: Tensor | None, count: int) -> list[State]:
    """The states, detached, each at its sequence's place; those that have ended have zeros."""

    def place(value: Tensor) -> Tensor:
        if alive is None:
            return value.detach()
        whole = value.new_zeros(value.shape[0], count, value.shape[2])
        whole[:, alive] = value.detach()
        return whole

    return [(place(s[0]), place(s[1])) if isinstance(s, tuple) else place(s) for s in state]
