"""Truncated back-propagation through time: an update every k1 steps, gradients k2 steps back.

A sequence of T steps is cut at e_1 = k1, e_2 = 2 k1, …, e_n = T. Chunk j compares the output at e_j
with the sequence's target and takes the gradient k2 steps back, where the state enters as a
constant. With k1 = k2, the usual form, the chunks lie end to end and the states are carried over.
With k2 > k1 the chunks overlap: each reaches k2 - k1 steps behind the last update, and the states
between are computed again, without gradients, with the newest weights and in evaluation mode. With
k2 < k1 the first steps of a chunk run that way. The last chunk is shorter if k1 does not divide T.
With readout "every" a chunk uses all outputs after the last update, and with targets at every step
their own targets. A chunk in which no step has a target needs no update: it only runs the state.

Williams and Peng, "An efficient gradient-based algorithm for on-line training of recurrent network
trajectories", Neural Computation 1990. The Frank-Wolfe RNN paper does not define the targets of the
first chunks of a classified sequence; here every chunk has the label at its end.

One gradient evaluation is one minibatch forward and backward over all its T steps, those of its
longest sequence. So a chunk counts the fraction of these steps that it runs; steps without
gradients count a third.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from rnnopt.config.errors import UserError
from rnnopt.layers.minibatch_part import MinibatchPart, taking
from rnnopt.layers.sequence_model import SequenceModel, State
from rnnopt.tasks.batches import Batches
from rnnopt.tasks.examples import Batch, are_present, each_step


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
        behind = self.backward - self.forward
        return [
            (max(0, start - behind) if behind >= 0 else max(start, end - self.backward), start, end)
            for start, end in pairwise([0, *ends])
        ]

    def check_reach(self) -> None:
        """Raises UserError if sequences that end early could have no gradient at their end."""
        if self.backward < self.forward:
            raise UserError(
                "sequences of different lengths need gradients that reach as far back as the last"
                f" update: tbptt-backward at least {self.forward}, got {self.backward}."
            )

    def price(self, steps: int) -> float:
        """Gradient evaluations per minibatch of sequences of `steps` steps."""
        chunks = self.chunks(steps)
        with_gradient = sum(end - start for start, _, end in chunks)
        without = chunks[0][0]
        for (before, _, end), (start, _, _) in pairwise(chunks):
            without += start - (end if start >= end else before)
        return (with_gradient + without / 3) / steps


class Chunks:
    """Minibatches chunk by chunk: the loss of the current chunk and the states between chunks.

    Args:
        model: model to train.
        batches: source of the minibatches; its task has the loss.
        truncation: how to cut the sequences.
        device: device of the model.
    """

    def __init__(
        self, model: nn.Module, batches: Batches, truncation: Truncation, device: torch.device
    ):
        if not isinstance(model, SequenceModel):
            raise TypeError(f"truncation needs a SequenceModel, got {type(model).__name__}.")
        self.model, self.batches, self.device = model, batches, device
        self.truncation = truncation
        self._batch: Batch | None = None
        self._cuts: list[tuple[int, int, int]] | None = None  # the chunks of this minibatch
        self._drawn_from = batches.state_dict()
        self.chunk = 0  # number of the chunk in the current minibatch
        self.position = 0  # the step that follows `state`
        self.state: list[State] | None = None
        self.finished = 0  # minibatches finished
        # Steps run, by the length of their minibatch; a step with a gradient counts three.
        self.spent: dict[int, int] = {}
        self._after: tuple[int, list[State]] | None = None  # position and state after this chunk

    @property
    def batch(self) -> Batch:
        """The current minibatch, whole."""
        if self._batch is None:
            self._drawn_from = self.batches.state_dict()
            self._batch, self._cuts = self.batches.draw().to(self.device), None
        return self._batch

    @property
    def gradient_evaluations(self) -> float:
        """Gradient evaluations spent; a step without gradients counts a third."""
        return math.fsum(thirds / (3 * steps) for steps, thirds in self.spent.items())

    @property
    def minibatches(self) -> float:
        """Minibatches finished, plus the fraction of the current one's chunks."""
        if not self.chunk:
            return self.finished
        return self.finished + self.chunk / len(self._chunks())

    @torch.no_grad()
    def loss_alone(self) -> Tensor:
        """The current chunk's loss; keeps the state that `loss` stored for the next chunk."""
        after = self._after
        loss = self._loss(1)
        self._after = after
        return loss

    def loss(self) -> Tensor:
        """The current chunk's loss, with a graph that goes back k2 steps."""
        return self._loss(3)

    def _loss(self, thirds: int) -> Tensor:
        """The current chunk's loss; each step counts `thirds` thirds."""
        batch, chunks = self.batch, self._chunks()
        start, scored_from, end = chunks[self.chunk]
        scored_from = max(start, scored_from)
        if batch.lengths is not None:
            self.truncation.check_reach()
        whole, alive = self._alive(scored_from)
        self._run_to(start)
        part = _part(batch, start, end, alive)
        mine = None if whole is None else whole.between(start, end)
        # Batch statistics need two values: a single last step uses the running statistics.
        if mine is not None:
            values = mine.steps(end - start)
        else:
            values = len(part) * (end - start) if part.lengths is None else int(part.lengths.sum())
        norms = self.model.norms if values == 1 else None
        with _evaluation_mode(norms), taking(self.model, mine):
            outputs, ends = self.model.advance(
                part.inputs, _chosen(self.state, alive), part.lengths
            )
        self._spend(thirds * (end - start))
        if outputs.ndim == 3:  # an output at every step: earlier chunks used the earlier ones
            part, outputs = _part(batch, scored_from, end, alive), outputs[scored_from - start :]
        following = chunks[self.chunk + 1 :]
        self._after = None
        if following and following[0][0] >= end:
            self._after = end, _placed(ends, alive, len(batch))
        loss = self.batches.task.loss_of(outputs, part)
        return loss if whole is None else loss * self.batches.share(whole.between(scored_from, end))

    def advance(self) -> None:
        """Moves to the next chunk, or to the next minibatch if all sequences have ended."""
        if self._after is not None:
            self.position, self.state = self._after
        self.chunk, self._after = self.chunk + 1, None
        chunks, lengths = self._chunks(), self.batch.lengths
        if self.batches.part is not None:  # the sequences of all processes end together
            lengths = self.batches.part.lengths
        over = self.chunk == len(chunks)
        if not over and lengths is not None:
            over = not bool((lengths > chunks[self.chunk][1]).any())
        if over:
            self.chunk, self.position, self.state, self._batch = 0, 0, None, None
            self.finished += 1

    def leave_out(self) -> None:
        """Makes the current chunk the last of its minibatch; its states are not used."""
        self.chunk, self._after = len(self._chunks()) - 1, None

    def _chunks(self) -> list[tuple[int, int, int]]:
        """The chunks of the current minibatch in which a step has a target."""
        batch = self.batch
        if self._cuts is None:
            chunks = self.truncation.chunks(len(batch.inputs))
            self._cuts = chunks
            if each_step(batch.targets):
                present = are_present(batch.targets)
                there = (present if present.ndim == 2 else present.any(2)).any(0).tolist()
                kept = [cut for cut in chunks if any(there[max(cut[:2]) : cut[2]])]
                self._cuts = kept or chunks[-1:]
        return self._cuts

    def _alive(self, step: int) -> tuple[MinibatchPart | None, Tensor | None]:
        """Which sequences reach a step: of all processes, and (batch,) of this one; None is all."""
        lengths, part = self.batch.lengths, self.batches.part
        if part is not None:
            part, here = part.alive(step)
            return part, None if lengths is None else here.to(lengths.device)
        return None, None if lengths is None else lengths > step

    @torch.no_grad()
    def _run_to(self, step: int) -> None:
        """Runs the state to the start of the gradient, with the current weights."""
        if step <= self.position:
            return
        batch, (_, alive) = self.batch, self._alive(step)
        inputs = batch.inputs[self.position : step]
        with _evaluation_mode(self.model):  # no step enters the batch statistics twice
            _, ends = self.model.advance(
                inputs if alive is None else inputs[:, alive], _chosen(self.state, alive)
            )
        self._spend(step - self.position)
        self.position, self.state = step, _placed(ends, alive, len(batch))

    def _spend(self, thirds: int) -> None:
        time = len(self.batch.inputs)
        self.spent[time] = self.spent.get(time, 0) + thirds

    def state_dict(self) -> dict[str, Any]:
        """Everything `load_state_dict` needs to resume at this chunk."""
        counts = {"finished": self.finished, "spent": dict(self.spent)}
        if self._batch is None:
            return dict(
                batches=self.batches.state_dict(), chunk=0, position=0, state=None, **counts
            )
        return dict(
            batches=self._drawn_from,
            chunk=self.chunk,
            position=self.position,
            state=self.state,
            **counts,
        )

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from a saved `state`; the minibatch is drawn again."""
        self.batches.load_state_dict(state["batches"])
        self._batch = self._after = None
        if state["chunk"]:
            _ = self.batch
        for name in ("finished", "chunk", "position"):
            setattr(self, name, state[name])
        self.spent = dict(state["spent"])
        carried = state["state"]
        self.state = None if carried is None else [_moved(one, self.device) for one in carried]


@contextmanager
def _evaluation_mode(module: nn.Module | None) -> Iterator[None]:
    """Puts a module and its parts in evaluation mode, and restores their modes afterwards."""
    modes = [] if module is None else [(part, part.training) for part in module.modules()]
    for part, _ in modes:
        part.training = False
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


def _moved(state: State, device: torch.device) -> State:
    """The state on a device."""
    if isinstance(state, tuple):
        return state[0].to(device), state[1].to(device)
    return state.to(device)


def _part(batch: Batch, start: int, end: int, alive: Tensor | None) -> Batch:
    """Steps start … end of the sequences that have not ended earlier."""
    targets = batch.targets[:, start:end] if each_step(batch.targets) else batch.targets
    if alive is None or batch.lengths is None:
        return Batch(batch.inputs[start:end], targets, weights=batch.weights)
    # If all sequences of a process have ended, the one that stays has no step left.
    lengths = (batch.lengths[alive].clamp(max=end) - start).clamp(min=1)
    weights = None if batch.weights is None else batch.weights[alive]
    return Batch(batch.inputs[start:end, alive], targets[alive], lengths, weights)


def _chosen(state: list[State] | None, alive: Tensor | None) -> list[State] | None:
    """The states of the sequences that continue."""
    if state is None or alive is None:
        return state
    return [
        (s[0][:, alive], s[1][:, alive]) if isinstance(s, tuple) else s[:, alive] for s in state
    ]


def _placed(state: list[State], alive: Tensor | None, count: int) -> list[State]:
    """The detached states at their sequences' places; zeros for sequences that have ended."""

    def place(value: Tensor) -> Tensor:
        if alive is None:
            return value.detach()
        whole = value.new_zeros(value.shape[0], count, value.shape[2])
        whole[:, alive] = value.detach()
        return whole

    return [(place(s[0]), place(s[1])) if isinstance(s, tuple) else place(s) for s in state]
