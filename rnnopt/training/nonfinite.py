"""Policies for a loss or a gradient that is not finite.

    stop      the run continues and ends as "diverged" within ten gradient evaluations
    raise     an error names the step and what to try
    skip      the minibatch is skipped: weights, optimizer, running statistics and generators return
              to their state before it
    restore   weights and optimizer return to the last evaluation on the validation set, where the
              last checkpoint was written; minibatches, generators, counters and the learning-rate
              schedule continue

A run also counts as diverged if no step was taken, or if its last steps were skipped and its loss
on the validation set is not finite.

A skipped step still counts in gradient evaluations, minibatches and seconds. A skipped chunk skips
the rest of its minibatch. If a learner calls the closure itself, all its gradients are checked; for
a line search only the first one, because there an infinite loss further along only rejects a step
length.
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

MOST_CONSECUTIVE = 20  # consecutive skipped steps; after more, the weights must be the cause
MOST_RESTORES = 10


class NonFinite:
    """Checks every step of a run for values that are not finite, and applies the policy.

    Args:
        policy: what to do; with "stop" nothing is checked and no time is spent.
        model, learner, closure: parts of the run.
    """

    def __init__(self, policy: OnNonfinite, model: nn.Module, learner: Learner, closure: Closure):
        self.policy, self.model, self.learner, self.closure = policy, model, learner, closure
        closure.watched = policy != "stop"
        closure.judged_by_first = learner.full_batch
        self.skipped = 0
        self.consecutive = 0
        self.taken = 0
        self.last_loss = math.nan  # last loss on the validation set
        self.point: dict[str, Any] = {}  # model and optimizer at the last evaluation, to restore
        self._before: dict[str, Any] | list[Tensor] = []

    @property
    def gave_up(self) -> bool:
        """Whether too many steps were skipped or restored, so that the run has diverged."""
        too_often = self.policy == "restore" and self.skipped > MOST_RESTORES
        return too_often or self.consecutive > MOST_CONSECUTIVE

    @property
    def lost(self) -> bool:
        """Whether a finished run has diverged although its budget was too short to give up.

        That is so if no step was taken, or if the last steps were skipped and the last validation
        loss is not finite.
        """
        return self.skipped > 0 and (
            self.taken == 0 or (self.consecutive > 0 and not math.isfinite(self.last_loss))
        )

    def counts(self) -> dict[str, int]:
        """The number of skipped steps, for records and result; empty if the first ends the run."""
        return {"nonfinite": self.skipped} if self.policy in ("skip", "restore") else {}

    def before_step(self) -> None:
        """Saves what a step changes before it can be checked, if it may be skipped."""
        if self.policy == "skip":
            of_norms = [buffer.clone() for buffer in self.model.buffers()]
            self._before = self._state() if self.learner.needs_closure else of_norms

    def refuses(self, loss: Tensor) -> bool:
        """Checks a step and undoes it if something is not finite; returns whether it is skipped.

        Args:
            loss: loss of the step.

        Raises:
            FloatingPointError: something is not finite, and the policy is "raise".
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
        """Saves the point to restore, if the validation loss is finite."""
        self.last_loss = validation_loss
        if self.policy == "restore" and (not self.point or math.isfinite(validation_loss)):
            self.point = self._state()

    def _trouble(self, loss: Tensor) -> str:
        """What is not finite, in words; "" if everything is finite."""
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
            " the gradient (clip=1), or skip such steps (--on-nonfinite skip or restore)."
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
        """Continues from a saved `state`."""
        before = dict(taken=1, last_loss=0.0)  # missing in older files; means no trouble
        for name in self.SAVED:
            setattr(self, name, (before | renamed(state, NONFINITE))[name])
