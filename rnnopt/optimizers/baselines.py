"""The strongest optimizers of today under one interface, to compare with; extra `baselines`.

SOAP (Vyas et al., https://arxiv.org/abs/2409.11321), PSGD with Kronecker factors (Li,
https://arxiv.org/abs/1512.04202) and schedule-free AdamW (Defazio et al.,
https://arxiv.org/abs/2405.15682) are those of the library pytorch_optimizer, with its own defaults
but for weight decay, which is off as everywhere else here. Muon is torch's.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from rnnopt.config.errors import UserError
from rnnopt.optimizers.frank_wolfe.eval_weights import differ


class MultiOptimizer:
    """Several optimizers as one: what training needs of them, step for step.

    Args:
        parts: the optimizers, each with tensors of its own.
    """

    def __init__(self, parts: list[torch.optim.Optimizer]):
        self.parts = parts

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The groups of all, to set the lr in."""
        return [group for part in self.parts for group in part.param_groups]

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of each, on the gradients in place or those that the closure leaves.

        Args:
            closure: clears the gradients, leaves new ones, returns the loss; called once.

        Returns:
            The closure's loss.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self.parts:
            part.step()
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forgets the gradients of all."""
        for part in self.parts:
            part.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """State of all."""
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads what `state_dict` gave."""
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)


class MuonWithAdamW(MultiOptimizer):
    """torch.optim.Muon for matrices, AdamW for everything else, as Muon's author prescribes.

    Both share one lr: Muon's step is scaled to AdamW's root-mean-square size ("match_rms_adamw").

    Args:
        params: tensors to train.
        lr: learning rate of both.
        momentum: Muon's.
        weight_decay: decoupled, of both.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 3e-3,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
    ):
        params = list(params)
        shared: dict[str, Any] = dict(lr=lr, weight_decay=weight_decay)
        matrices = [p for p in params if p.ndim == 2]
        others = [p for p in params if p.ndim != 2]
        parts: list[torch.optim.Optimizer] = []
        if matrices:
            muon = torch.optim.Muon
            parts += [muon(matrices, momentum=momentum, adjust_lr_fn="match_rms_adamw", **shared)]
        if others:
            parts += [torch.optim.AdamW(others, **shared)]
        super().__init__(parts)


class ScheduleFreeAdamW(MultiOptimizer):
    """Schedule-free AdamW; `committed()` puts its averaged weights in place, for evaluation.

    Args:
        params: tensors to train.
        lr: learning rate; meant to stay constant after `warmup_steps`.
        beta: how far the gradient's point lies from the average (0) towards the newest weights (1).
        warmup_steps: steps over which lr rises from 0.
        weight_decay: decoupled.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 3e-3,
        beta: float = 0.9,
        warmup_steps: int = 0,
        weight_decay: float = 0.0,
    ):
        self.optimizer = _library().ScheduleFreeAdamW(
            list(params),
            lr=lr,
            betas=(beta, 0.999),
            warmup_steps=warmup_steps,
            weight_decay=weight_decay,
        )
        self.optimizer.train()
        self._written: list[Tensor] | None = None  # the weights as the last step left them
        super().__init__([self.optimizer])

    def _params(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"]]

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """As `MultiOptimizer`; notes what it writes."""
        loss = super().step(closure)
        self._written = [p.detach().clone() for p in self._params()]
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads what `state_dict` gave; the weights are taken to be those that belong to it."""
        super().load_state_dict(state_dict)
        self._written = None

    @contextmanager
    def committed(self) -> Iterator[None]:
        """Puts the averaged weights in place inside the `with`, bit for bit undone after it.

        A tensor that was changed since the last step of this process, loaded say, stays as it is.
        """
        with evaluation_mode(self.optimizer, self._written):
            yield


@contextmanager
def evaluation_mode(optimizer: Any, written: list[Tensor] | None = None) -> Iterator[None]:
    """Puts the weights to evaluate in place inside the `with`, bit for bit undone after it.

    Args:
        optimizer: optimizer with `train()` and `eval()`, as schedule-free ones have; in the first.
        written: its weights after the last step. Where they were changed since, they stay.
    """
    params = [p for group in optimizer.param_groups for p in group["params"]]
    before = [p.detach().clone() for p in params]
    optimizer.eval()
    for p, value, known in zip(params, before, written or before, strict=True):
        if differ(value, known):
            p.detach().copy_(value)
    try:
        yield
    finally:
        optimizer.train()
        with torch.no_grad():
            for p, value in zip(params, before, strict=True):
                p.copy_(value)


def soap(
    params: Iterable[Tensor],
    lr: float = 3e-3,
    precondition_frequency: int = 10,
    weight_decay: float = 0.0,
) -> torch.optim.Optimizer:
    """SOAP: Adam in the eigenbasis of Shampoo's two matrices, found anew every so many steps.

    Args:
        params: tensors to train.
        lr: learning rate.
        precondition_frequency: steps after which the eigenbasis is found anew.
        weight_decay: decoupled.
    """
    return _library().SOAP(
        list(params),
        lr=lr,
        precondition_frequency=precondition_frequency,
        weight_decay=weight_decay,
    )


def psgd_kron(
    params: Iterable[Tensor], lr: float = 1e-3, momentum: float = 0.9, weight_decay: float = 0.0
) -> torch.optim.Optimizer:
    """PSGD: a Kronecker-factored whitening of the gradient, itself learnt by gradient descent.

    Args:
        params: tensors to train.
        lr: learning rate.
        momentum: weight of the past in the mean of gradients.
        weight_decay: decoupled.
    """
    return _library().Kron(list(params), lr=lr, momentum=momentum, weight_decay=weight_decay)


def _library() -> Any:
    try:
        import pytorch_optimizer
    except ModuleNotFoundError as error:
        raise UserError(
            f"this optimizer needs the package {error.name!r}, which is not installed: install"
            ' rnnopt with its extra, pip install "rnnopt[baselines]".'
        ) from error
    return pytorch_optimizer
