"""Every optimizer by name: ours, and those of torch.optim to compare with."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from rnnopt.errors import unknown_name
from rnnopt.optimizers.frank_wolfe import FrankWolfe
from rnnopt.specification import call_with, parse


class MuonWithAdamW:
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
        lr: float = 1e-3,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
    ):
        params = list(params)
        shared: dict[str, Any] = dict(lr=lr, weight_decay=weight_decay)
        matrices = [p for p in params if p.ndim == 2]
        others = [p for p in params if p.ndim != 2]
        self.parts: list[torch.optim.Optimizer] = []
        if matrices:
            self.parts += [
                torch.optim.Muon(
                    matrices, momentum=momentum, adjust_lr_fn="match_rms_adamw", **shared
                )
            ]
        if others:
            self.parts += [torch.optim.AdamW(others, **shared)]

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The groups of both, to set the lr in."""
        return [group for part in self.parts for group in part.param_groups]

    def step(self) -> None:
        """One step of both."""
        for part in self.parts:
            part.step()

    def zero_grad(self) -> None:
        """Forgets the gradients of both."""
        for part in self.parts:
            part.zero_grad()

    def state_dict(self) -> dict[str, Any]:
        """State of both."""
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads what `state_dict` gave."""
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)


@dataclass(frozen=True)
class Choice:
    """An optimizer by name.

    Args:
        build: (params, lr=…, options) → optimizer.
        lr: learning rate unless told otherwise.
        summary: one line for people.
    """

    build: Callable[..., Any]
    lr: float
    summary: str


# The learning rates of frank-wolfe, adam and muon are those that learnt best in
# benchmarks/choose_defaults.py; Adam's relatives share its own.
OPTIMIZERS: dict[str, Choice] = {
    "frank-wolfe": Choice(
        FrankWolfe, 1e-3, "Frank-Wolfe steps inside a small ball, then one step along their mean"
    ),
    "sgd": Choice(torch.optim.SGD, 1e-1, "stochastic gradient descent"),
    "momentum": Choice(
        partial(torch.optim.SGD, momentum=0.9), 1e-2, "gradient descent with momentum 0.9"
    ),
    "adagrad": Choice(torch.optim.Adagrad, 1e-2, "rates from the sum of squared gradients"),
    "rmsprop": Choice(torch.optim.RMSprop, 1e-3, "rates from the mean of squared gradients"),
    "adam": Choice(torch.optim.Adam, 3e-3, "adaptive moments; the paper's baseline"),
    "adamw": Choice(torch.optim.AdamW, 3e-3, "Adam with decoupled weight decay"),
    "nadam": Choice(torch.optim.NAdam, 3e-3, "Adam with Nesterov momentum"),
    "muon": Choice(MuonWithAdamW, 3e-3, "orthogonalised momentum for matrices, AdamW for the rest"),
}


def build_optimizer(specification: str, params: list[Tensor], lr: float | None = None) -> Any:
    """The optimizer of "name" or "name:option=value,…".

    Args:
        specification: such as "frank-wolfe:norm=spectral,inner_steps=1".
        params: tensors to train.
        lr: learning rate; None means the optimizer's default here.
    """
    name, options = parse(specification)
    choice = OPTIMIZERS.get(name)
    if choice is None:
        raise unknown_name("optimizer", name, OPTIMIZERS)
    options.setdefault("lr", choice.lr if lr is None else lr)
    return call_with("optimizer", name, choice.build, options, params)
