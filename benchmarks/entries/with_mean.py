"""Optimizers that are evaluated with the running mean of their weights, as FrankWolfe's are.

FrankWolfe shows a mean of its weights in eval mode. These entries of the benchmark show how much of
its lead that is worth: SOAP, Muon and Adam with the same mean.

    rnnopt benchmark --optimizer benchmarks/entries/with_mean.py:Soap --name soap-mean --quick
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from rnnopt.optimizers.baselines import MuonWithAdamW, soap

DECAY = 8.0  # r: the weight of a step's weights in the mean is (r + 1) / (steps + r)


class WithMean(torch.optim.Optimizer):
    """Another optimizer, and the running mean of its weights, which `eval` puts in place.

    The mean gives the weights of a step the weight (r + 1) / (t + r) times the largest lr so far
    over that of the step, at most 1.

    Args:
        params: tensors to train.
        lr: learning rate.
        options: of the other optimizer.
    """

    make: Callable[..., Any]

    def __init__(self, params: Iterable[Tensor], lr: float, **options: Any):
        params = list(params)
        super().__init__(params, dict(lr=lr, steps=0, peak=0.0, shown=False))
        self.inner = type(self).make(params, lr=lr, **options)
        for p in params:
            self.state[p]["mean"] = p.detach().clone()

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of the other optimizer; takes the new weights into the mean."""
        (group,) = self.param_groups
        for one in self.inner.param_groups:
            one["lr"] = group["lr"]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self.inner.step()
        group["steps"] += 1
        group["peak"] = max(group["peak"], group["lr"])
        weight = (DECAY + 1) / (group["steps"] + DECAY) * group["peak"] / max(group["lr"], 1e-12)
        with torch.no_grad():
            for p in group["params"]:
                self.state[p]["mean"].lerp_(p, min(1.0, weight))
        return loss

    def train(self) -> None:
        """Puts the training weights in place."""
        self._show(False)

    def eval(self) -> None:
        """Puts the mean in place."""
        self._show(True)

    @torch.no_grad()
    def _show(self, mean: bool) -> None:
        (group,) = self.param_groups
        if group["shown"] != mean:
            for p in group["params"]:
                kept = p.detach().clone()
                p.copy_(self.state[p]["mean"])
                self.state[p]["mean"].copy_(kept)
            group["shown"] = mean

    def state_dict(self) -> dict[str, Any]:
        """Also that of the other optimizer."""
        return super().state_dict() | {"inner": self.inner.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads what `state_dict` gave."""
        own = {name: part for name, part in state_dict.items() if name != "inner"}
        super().load_state_dict(own)
        self.inner.load_state_dict(state_dict["inner"])


class Soap(WithMean):
    """SOAP with the mean of its weights."""

    make = staticmethod(soap)

    def __init__(self, params: Iterable[Tensor], lr: float = 3e-3):
        super().__init__(params, lr)


class Muon(WithMean):
    """Muon for matrices, AdamW for the rest, with the mean of their weights."""

    make = MuonWithAdamW

    def __init__(self, params: Iterable[Tensor], lr: float = 3e-3):
        super().__init__(params, lr)


class Adam(WithMean):
    """Adam with the mean of its weights."""

    make = torch.optim.Adam

    def __init__(self, params: Iterable[Tensor], lr: float = 3e-3):
        super().__init__(params, lr)
