"""The closure that gives a learner loss and gradient: minibatch by minibatch or chunk by chunk."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from rnnopt.config import seeds
from rnnopt.distributed import average_gradients, mean_numbers
from rnnopt.layers.minibatch_part import taking
from rnnopt.tasks.batches import Batches
from rnnopt.tasks.examples import Batch, Examples
from rnnopt.training.tbptt import Chunks, Truncation


class Closure:
    """Loss and gradient on the current minibatch, or chunk of one; `advance` moves to the next.

    Args:
        model: model to train.
        batches: source of the minibatches.
        device: device of the model.
        clip: largest norm of the gradient of all weights, or None.
        clip_value: largest absolute value of an entry of the gradient, or None.
        truncation: how to cut sequences into chunks, or None for whole sequences.
        full_batch: whether to use the first batch, which holds all data, throughout; one pass over
            it costs as many gradient evaluations as it has minibatches of the task's size.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Batches,
        device: torch.device,
        clip: float | None = None,
        clip_value: float | None = None,
        truncation: Truncation | None = None,
        full_batch: bool = False,
    ):
        self.model, self.batches, self.device = model, batches, device
        self.full_batch = full_batch
        size = batches.batch_size
        if isinstance(batches.task.train, Examples):  # the batch size may exceed the data
            size = min(size, len(batches.task.train))
        self.weight = size / batches.task.batch_size if full_batch else 1.0
        self._drawn_from: dict[str, Any] | None = None
        self.clip, self.clip_value = clip, clip_value
        self.chunks = None if truncation is None else Chunks(model, batches, truncation, device)
        self.averages = batches.shared  # whether to average gradients over the processes
        self.calls = 0
        self.finished = 0  # minibatches finished
        self.watched = False  # whether each call checks that loss and gradient are finite
        self.judged_by_first = False  # whether only the first call on a minibatch checks
        self.trouble = ""  # what was not finite on this minibatch
        self.losses_alone = 0.0  # losses without gradients, in minibatches
        self._random: list[Tensor] | None = None  # generators before this minibatch's first call
        self._monitored: Batch | None = None
        # Gradient evaluations per minibatch.
        self.price = self.weight if truncation is None else truncation.price(batches.task.steps)
        self._batch: Batch | None = None

    @property
    def gradient_evaluations(self) -> float:
        """Gradient evaluations spent: forward and backward passes; a forward pass is a third."""
        if self.chunks is not None:
            return self.chunks.gradient_evaluations
        if self.full_batch:
            return self.weight * self.calls
        return self.calls + self.losses_alone / 3 if self.losses_alone else self.calls

    @property
    def minibatches(self) -> float:
        """Minibatches spent; the current one counts by its finished chunks."""
        if self.full_batch:
            return self.calls
        return self.finished if self.chunks is None else self.chunks.minibatches

    @property
    def epochs(self) -> float:
        """Passes through the training data."""
        return self.minibatches / self.batches.per_epoch

    @property
    def batch(self) -> Batch:
        """The current minibatch."""
        if self.chunks is not None:
            return self.chunks.batch
        if self._batch is None:
            self._drawn_from = self.batches.state_dict() if self.full_batch else None
            self._batch = self.batches.draw().to(self.device)
        return self._batch

    def __call__(self) -> Tensor:
        """Computes the gradient into the weights' .grad and returns the loss.

        All calls on one minibatch draw the same dropout masks.
        """
        self.model.zero_grad()
        first = self._random is None
        self.rewind()
        loss = self._own_loss() if self.chunks is None else self.chunks.loss()
        loss.backward()
        if self.averages:
            average_gradients(self.model.parameters())
        if self.clip_value is not None:
            nn.utils.clip_grad_value_(self.model.parameters(), self.clip_value)
        if self.clip is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        self.calls += 1
        if self.watched and not self.trouble and (first or not self.judged_by_first):
            self.trouble = self._find_nonfinite(loss.detach())
        return loss.detach()

    def _find_nonfinite(self, loss: Tensor) -> str:
        number = self.number(loss)
        if not math.isfinite(number):
            return f"the loss is {number}"
        gradients = ((n, p.grad) for n, p in self.model.named_parameters() if p.grad is not None)
        name = first_nonfinite(gradients)
        return f"the gradient of {name} is not finite" if name else ""

    @torch.no_grad()
    def loss(self) -> Tensor:
        """The loss of the current minibatch or chunk, without gradients."""
        self.rewind()
        if self.chunks is not None:
            return self.chunks.loss_alone()
        self.losses_alone += 1
        return self._own_loss()

    @torch.no_grad()
    def monitored_loss(self) -> Tensor:
        """The loss of a fixed minibatch of training sequences."""
        if self._monitored is None:
            fixed = Batches(self.batches.task, self.batches.batch_size, seeds.MONITOR)
            self._monitored = fixed.draw().to(self.device)
        self.rewind()
        self.losses_alone += 1
        return self._loss(self._monitored)

    def _own_loss(self) -> Tensor:
        """The minibatch's loss, weighted by this process's share if several processes share it."""
        batch, part = self.batch, self.batches.part
        with taking(self.model, part):
            loss = self._loss(batch)
        return loss if part is None else loss * self.batches.share(part)

    def number(self, loss: Tensor) -> float:
        """A loss, averaged over the processes if they share the minibatch."""
        return mean_numbers([float(loss)])[0] if self.batches.shared else float(loss)

    def _loss(self, batch: Batch) -> Tensor:
        return self.batches.task.loss_of(self.model(batch.inputs, batch.lengths), batch)

    def rewind(self) -> None:
        """Resets torch's generators to their state at the first call on this minibatch."""
        on_gpu = self.device.type == "cuda"
        if self._random is None:
            self._random = [torch.get_rng_state()]
            if on_gpu:
                self._random.append(torch.cuda.get_rng_state(self.device))
            return
        torch.set_rng_state(self._random[0])
        if on_gpu:
            torch.cuda.set_rng_state(self._random[1], self.device)

    def advance(self) -> None:
        """Moves to the next chunk or minibatch; a minibatch is drawn when first needed."""
        self._random, self.trouble = None, ""
        if not self.full_batch:
            self._batch = None
        self.finished += 1
        if self.chunks is not None:
            self.chunks.advance()

    def leave_out(self) -> None:
        """Moves to the next minibatch and skips the remaining chunks of this one."""
        if self.chunks is not None:
            self.chunks.leave_out()
        self.advance()

    def state_dict(self) -> dict[str, Any]:
        """Everything `load_state_dict` needs; call it between two calls of the closure."""
        counts = {name: getattr(self, name) for name in ("calls", "finished", "losses_alone")}
        if self.chunks is None:
            # For a kept batch, the state before it was drawn, so that it is drawn again.
            return counts | dict(batches=self._drawn_from or self.batches.state_dict())
        return counts | dict(chunks=self.chunks.state_dict())

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from a saved `state`."""
        for name in ("calls", "finished", "losses_alone"):
            setattr(self, name, state[name])
        if self.chunks is None:
            self.batches.load_state_dict(state["batches"])
        else:
            self.chunks.load_state_dict(state["chunks"])


def first_nonfinite(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """Name of the first tensor that is not finite; "" if all are finite."""
    named = dict(tensors)
    # The largest entry stays finite where the Euclidean norm would overflow.
    if not named or math.isfinite(float(nn.utils.get_total_norm(named.values(), math.inf))):
        return ""
    return next(name for name, tensor in named.items() if not bool(tensor.isfinite().all()))
