"""What the training loop asks of a learner, and plain optimizers made to offer it.

`ADMM` and the quasi-Newton optimizers are learners. Any other optimizer (of torch.optim, of another
library, FrankWolfe) becomes one by `as_learner`.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol, runtime_checkable

from torch import Tensor
from torch.optim import Optimizer

from rnnopt.training.closure import Closure


@runtime_checkable
class Learner(Protocol):
    """What is trained with, whatever it needs of a minibatch.

    Attributes:
        needs_closure: whether it asks for its gradients itself, and is judged after its step.
        full_batch: whether its minibatch should be all the training data.
        evaluations_per_step: gradient evaluations that a step costs, or what takes their place.
        refuses_gradient_options: why gradients cannot be clipped or truncated; "" where they can.
        local_steps: gradient evaluations between two communications of a process; None where
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
        """As of a torch optimizer; the loop sets their lr."""

    def step(self, closure: Closure) -> Tensor:
        """One step; the loss before it.

        The closure leaves the gradient and returns the loss; it offers `batch`, `loss()` of the
        same minibatch without gradient, and `monitored_loss()` of a fixed set of sequences.
        """

    def committed(self) -> AbstractContextManager[None]:
        """The context in which the model has the weights to evaluate and to save."""

    def metrics(self) -> dict[str, float]:
        """Figures of its own for a record of the history."""

    def state_dict(self) -> dict[str, Any]:
        """As of a torch optimizer."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As of a torch optimizer."""


class GradientLearner:
    """An optimizer that takes the gradient it finds, as a `Learner`.

    Args:
        optimizer: of torch's interface; may have `committed()`, and `communicate="commit"`.
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
        """The optimizer's, which loading a state replaces."""
        return self.optimizer.param_groups

    def step(self, closure: Closure) -> Tensor:
        """Nothing but the loss where the closure found trouble, which it looks for if told to."""
        loss = closure()
        if not closure.trouble:
            self.optimizer.step()
        return loss

    def metrics(self) -> dict[str, float]:
        """None."""
        return {}


def as_learner(optimizer: Any) -> Learner:
    """The optimizer itself if it is a learner, else as one."""
    return optimizer if isinstance(optimizer, Learner) else GradientLearner(optimizer)
