"""Learning-rate schedules: by the fraction of the budget spent, or by validation results."""

import math
from copy import deepcopy
from typing import Any

from torch import nn

from rnnopt.config.run_config import Schedule


def rate_factor(schedule: Schedule, fraction: float) -> float:
    """Factor of the learning rate when `fraction` of the budget is spent."""
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * fraction))
    return 1 - fraction if schedule == "linear" else 1.0


class Plateau:
    """Multiplies the rate by `decay` if no evaluation was the best so far for `patience` epochs.

    Args:
        decay: factor in (0, 1).
        patience: epochs to wait.
        restart: as in the code released with IndRNN: each decay also restores weights and optimizer
            of the best evaluation, and halves the wait: int(patience / 2^n + 1/2) epochs after n
            decays. Unlike there, at the same metric a lower loss is an improvement, and the budget
            ends a run, not a tiny rate.
    """

    def __init__(self, decay: float, patience: float, restart: bool = False):
        self.decay, self.patience, self.restart = decay, patience, restart
        self.factor = 1.0
        self.decays = 0
        self.waiting_since = 0.0  # in epochs
        self.best: dict[str, Any] = {}  # model and optimizer, with `restart`

    def after_evaluation(
        self, epochs: float, improved: bool, model: nn.Module, optimizer: Any
    ) -> None:
        """Updates the rate after an evaluation; `improved` if it was the best so far."""
        if improved:
            self.waiting_since = epochs
            if self.restart:
                self.best = deepcopy(
                    dict(model=model.state_dict(), optimizer=optimizer.state_dict())
                )
        patience = self.patience
        if self.restart:
            patience = max(1, int(self.patience / 2**self.decays + 0.5))
        if epochs - self.waiting_since >= patience - 1e-9:  # epochs are fractions, rounded
            self.factor *= self.decay
            self.decays += 1
            self.waiting_since = epochs
            if self.best:
                model.load_state_dict(self.best["model"])
                optimizer.load_state_dict(deepcopy(self.best["optimizer"]))

    SAVED = ("factor", "decays", "waiting_since", "best")

    def state_dict(self) -> dict[str, Any]:
        """Everything `load_state_dict` needs."""
        return {name: getattr(self, name) for name in self.SAVED}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from a saved `state`."""
        for name in self.SAVED:
            setattr(self, name, state[name])
