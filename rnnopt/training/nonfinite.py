"""What a run does when a loss or a gradient is not finite.

    stop      nothing by itself: the run goes on and ends as "diverged" within ten gradients
    raise     an error that names the step and says what to try
    skip      the minibatch is left out: weights, optimizer, running statistics and generators are
              put back where they stood before it
    restore   weights and optimizer go back to the last evaluation on validation data, where the
              last checkpoint was written; minibatches, generators, counters and the course of
              the learning rate go on

A run that ends before it is given up has diverged all the same if not one step was taken, or if its
last steps were left out and its loss on the validation set is not finite.

A step that is left out has been paid for: it counts in gradients, minibatches and seconds. The rest
of a minibatch in chunks is left out with the chunk. A learner that asks for its gradients
itself is judged by all of them, one that searches a line by the first alone: there an infinite loss
further along is a length that is refused.
"""

import math
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from rnnopt.config.old_names import NONFINITE, renamed
from rnnopt.config.run_config import OnNonfinite
from rnnopt.training.closure import Closure, first_nonfinite
from rnnopt.training.learner import Learner

MOST_CONSECUTIVE = 20  # steps left out one after the other: the weights themselves are the trouble
MOST_RESTORES = 10


class NonFinite:
    """Looks at every step of a run for numbers that are not finite, and acts.

    Args:
        policy: what to do; with "stop" nothing is looked at, and nothing costs anything.
        model, learner, closure: of the run.
    """

    def __init__(self, policy: OnNonfinite, model: nn.Module, learner: Learner, closure: Closure):
        self.policy, self.model, self.learner, self.closure = policy, model, learner, closure
        closure.watched = policy != "stop"
        closure.judged_by_first = learner.full_batch
        self.skipped = 0
        self.consecutive = 0
        self.taken = 0
        self.last_loss = math.nan  # on the validation set
        self.point: dict[str, Any] = {}  # model and optimizer at the last evaluation, to restore
        self._before: dict[str, Any] | list[Tensor] = []

    @property
    def gave_up(self) -> bool:
        """Whether it was too often, so that the run has diverged."""
        too_often = self.policy == "restore" and self.skipped > MOST_RESTORES
        return too_often or self.consecutive > MOST_CONSECUTIVE

    @property
    def lost(self) -> bool:
        """Whether a run that is over now has diverged, though its budget was too short to give up.

        No step was taken, or the last ones were left out and the weights are no better than that.
        """
        return self.skipped > 0 and (
            self.taken == 0 or (self.consecutive > 0 and not math.isfinite(self.last_loss))
        )

    def counts(self) -> dict[str, int]:
        """For records and result: the steps met; nothing where they end the run."""
        return {"nonfinite": self.skipped} if self.policy in ("skip", "restore") else {}

    def before_step(self) -> None:
        """Keeps what a step changes before it can be judged, if it might have to be left out."""
        if self.policy == "skip":
            of_norms = [buffer.clone() for buffer in self.model.buffers()]
            self._before = self._state() if self.learner.needs_closure else of_norms

    def refuses(self, loss: Tensor) -> bool:
        """Whether the step just taken is left out, or the one about to be taken on its gradient.

        Args:
            loss: of the step.

        Raises:
            FloatingPointError: it would be, and the policy is "raise".
        """
        if self.policy == "stop":
            return False
        trouble = self._trouble(loss)
        if not trouble:
            self.consecutive = 0
            self.taken += 1
            return False
        if self.policy == "raise":
            raise FloatingPointError(self._advice(trouble))
        self.skipped += 1
        self.consecutive += 1
        if self.policy == "restore":
            self._load(deepcopy(self.point))
        else:
            self.closure.rewind()
            self._put_back()
        return True

    def after_evaluation(self, validation_loss: float) -> None:
        """Keeps a point to go back to, if the validation loss is finite."""
        self.last_loss = validation_loss
        if self.policy == "restore" and (not self.point or math.isfinite(validation_loss)):
            self.point = self._state()

    def _trouble(self, loss: Tensor) -> str:
        """What is not finite, in words; "" where all is."""
        if self.closure.trouble:
            return self.closure.trouble
        number = self.closure.number(loss)
        if not math.isfinite(number):
            return f"the loss is {number}"
        if not self.learner.needs_closure:
            return ""
        name = first_nonfinite((n, p.detach()) for n, p in self.model.named_parameters())
        return f"the weights {name} are not finite after it" if name else ""

    def _advice(self, trouble: str) -> str:
        step, spent = self.closure.finished + 1, self.closure.gradient_evaluations
        lr = float(self.learner.param_groups[0]["lr"])
        return (
            f"step {step} ({spent:g} gradients): {trouble}. Take a smaller lr than {lr:g}, clip"
            " the gradient (clip=1), or leave such steps out (--on-nonfinite skip or restore)."
        )

    def _state(self) -> dict[str, Any]:
        return deepcopy(dict(model=self.model.state_dict(), optimizer=self.learner.state_dict()))

    def _load(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.learner.load_state_dict(state["optimizer"])

    def _put_back(self) -> None:
        if isinstance(self._before, dict):
            self._load(self._before)
            return
        with torch.no_grad():
            for buffer, before in zip(self.model.buffers(), self._before, strict=True):
                buffer.copy_(before)

    def state_dict(self) -> dict[str, Any]:
        """Everything `load_state_dict` needs."""
        return {name: getattr(self, name) for name in self.SAVED}

    SAVED = ("skipped", "consecutive", "taken", "last_loss", "point")

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on where `state` was taken."""
        before = dict(taken=1, last_loss=0.0)  # what files of before lack: all is well
        for name in self.SAVED:
            setattr(self, name, (before | renamed(state, NONFINITE))[name])
