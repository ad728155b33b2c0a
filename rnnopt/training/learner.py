"""The interface `Learner` of the training loop, and an adapter for plain optimizers.

`ADMM` and the quasi-Newton optimizers are learners. `as_learner` adapts any other optimizer (of
torch.optim, of another library, FrankWolfe).
"""

import inspect
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.optim import Optimizer

from rnnopt.config.errors import UserError
from rnnopt.optimizers.baselines import evaluation_mode
from rnnopt.training.closure import Closure
from rnnopt.training.foreign_state import check_readable, load_as_saved, plain
from rnnopt.training.imported import failing

# What torch says where gradients are differentiated that have no graph.
NO_GRAPH = "does not require grad and does not have a grad_fn"


@runtime_checkable
class Learner(Protocol):
    """An algorithm that trains the model, with or without gradients.

    Attributes:
        needs_closure: whether its step calls the closure itself, and is checked afterwards.
        full_batch: whether its minibatch should be all the training data.
        evaluations_per_step: gradient evaluations per step, or their equivalent.
        refuses_gradient_options: why gradients cannot be clipped or truncated; "" if they can.
        local_steps: gradient evaluations between two communications of a process; None if
            gradients are averaged over the processes.
        needs_own_sequences: whether each process must have sequences of every minibatch.
    """

    needs_closure: bool
    full_batch: bool
    evaluations_per_step: int
    refuses_gradient_options: str
    local_steps: int | None
    needs_own_sequences: bool

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Parameter groups as in a torch optimizer; the loop sets their lr."""

    def step(self, closure: Closure) -> Tensor:
        """Takes one step; returns the loss before it.

        The closure computes the gradient and returns the loss. It has `batch`, `loss()` of the same
        minibatch without gradient, and `monitored_loss()` of a fixed set of sequences.
        """

    def committed(self) -> AbstractContextManager[None]:
        """Context in which the model has the weights to evaluate and to save."""

    def metrics(self) -> dict[str, float]:
        """Additional values for a record of the history."""

    def state_dict(self) -> dict[str, Any]:
        """The state, as in a torch optimizer."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads a state, as in a torch optimizer."""


class GradientLearner:
    """Adapts an optimizer that uses the gradients in .grad to `Learner`.

    Args:
        optimizer: torch optimizer; may have `committed()`, and `communicate="commit"`.
    """

    needs_closure = full_batch = needs_own_sequences = False
    evaluations_per_step = 1
    refuses_gradient_options = ""
    local_steps: int | None

    def __init__(self, optimizer: Optimizer):
        self.optimizer = optimizer
        commits = getattr(optimizer, "communicate", "gradient") == "commit"
        self.local_steps = optimizer.param_groups[0]["inner_steps"] if commits else None
        self.committed = getattr(optimizer, "committed", nullcontext)
        self.state_dict, self.load_state_dict = optimizer.state_dict, optimizer.load_state_dict

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The optimizer's groups, which loading a state replaces."""
        return self.optimizer.param_groups

    def step(self, closure: Closure) -> Tensor:
        """Takes one step, unless the closure found a loss or gradient that is not finite."""
        loss = closure()
        if not closure.trouble:
            self.optimizer.step()
        return loss

    def metrics(self) -> dict[str, float]:
        """None."""
        return {}


class ClosureLearner(GradientLearner):
    """Adapts an optimizer of which nothing is known but torch's contract: step(closure).

    So a step may compute several gradients, as that of LBFGS and of sharpness-aware methods. All
    of them count. Where its step takes nothing, the gradient is computed before it. Where it has
    `train()` and `eval()`, as schedule-free optimizers do, it trains in the first mode and is
    evaluated in the second.

    Args:
        optimizer: torch optimizer.
    """

    needs_closure = True

    def __init__(self, optimizer: Optimizer):
        super().__init__(optimizer)
        self.name = type(optimizer).__name__
        self.state_dict, self.load_state_dict = self._readable_state, self._load
        self._groups = len(optimizer.param_groups)
        self._read_back = False
        self._begun = False  # whether there is more to it than what it was built with
        self._takes_closure = any(
            one.kind is not one.KEYWORD_ONLY and one.kind is not one.VAR_KEYWORD
            for one in inspect.signature(optimizer.step).parameters.values()
        )
        modes = (getattr(optimizer, name, None) for name in ("train", "eval"))
        if all(map(callable, modes)) and not hasattr(optimizer, "committed"):
            self.train()
            self.committed = self._evaluated

    def step(self, closure: Closure) -> Tensor:
        """Takes one step; returns the first loss of the closure.

        Where a decomposition of the optimizer fails, as that of a matrix which is not finite, the
        run has diverged, as with a loss that is not finite: NaN is returned.
        """
        losses: list[Tensor] = []
        raised: list[BaseException] = []  # by the closure: these errors are not the optimizer's

        def remembered() -> Tensor:
            try:
                with torch.enable_grad():
                    losses.append(closure())
            except BaseException as error:
                raised.append(error)
                raise
            return losses[-1]

        self._begun = True
        try:
            with failing(f"the step of {self.name}"):
                if self._takes_closure:
                    self.optimizer.step(remembered)  # type: ignore[arg-type]  # a loss is a tensor
                else:
                    remembered()
                    self.optimizer.step()
        except UserError as error:
            if error.__cause__ in raised:
                raise error.__cause__ from None
            if isinstance(error.__cause__, torch.linalg.LinAlgError):
                closure.trouble = closure.trouble or str(error).rstrip(".")
                return torch.tensor(torch.nan)
            if NO_GRAPH in str(error.__cause__):
                raise UserError(
                    f"{str(error).rstrip('.')}: differentiating gradients (create_graph=True), or a"
                    " loss again after the closure, is not supported."
                ) from error
            raise
        if not losses:
            raise UserError(
                f"step(closure) of {self.name} must call the closure, which computes the gradients."
            )
        if len(self.param_groups) != self._groups:
            raise UserError(f"a step of {self.name} must leave the number of its param_groups.")
        return losses[0]

    def train(self) -> None:
        """Puts the optimizer into the mode to train in."""
        with failing(f"train() of {self.name}"):
            self.optimizer.train()  # type: ignore[attr-defined]

    def eval(self) -> None:
        """Puts the optimizer into the mode to evaluate in."""
        with failing(f"eval() of {self.name}"):
            self.optimizer.eval()  # type: ignore[attr-defined]

    @contextmanager
    def _evaluated(self) -> Iterator[None]:
        """The mode to evaluate in; before the first step there is only one."""
        with evaluation_mode(self) if self._begun else nullcontext():
            yield

    def _load(self, state_dict: dict[str, Any]) -> None:
        load_as_saved(self.optimizer, state_dict, self.name)
        self._begun = bool(state_dict.get("state", True))

    def _readable_state(self) -> dict[str, Any]:
        """The optimizer's state; UserError if what is saved of it could not be loaded again."""
        with failing(f"state_dict() of {self.name}"):
            state: dict[str, Any] = plain(self.optimizer.state_dict())
        if not self._read_back:
            check_readable(state, self.name)
            self._read_back = self._begun  # once more after the first step
        return state


def as_learner(optimizer: Any) -> Learner:
    """The optimizer itself if it is a learner, else adapted to one."""
    if isinstance(optimizer, Learner):
        return optimizer
    if not type(optimizer).__module__.startswith(("rnnopt.", "torch.optim.")):
        return ClosureLearner(optimizer)
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    if closure is not None and closure.default is closure.empty:
        return ClosureLearner(optimizer)
    return GradientLearner(optimizer)
