"""A torch optimizer whose state lies in flat buffers and whose counters lie in its groups."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import nullcontext
from copy import deepcopy
from typing import Any

from torch import Tensor
from torch.optim.optimizer import Optimizer, ParamsT

from rnnopt.distributed import Group, check_group
from rnnopt.optimizers.loaded_state import types_kept, unwrap_
from rnnopt.optimizers.quasi_newton.flat_state import FlatState
from rnnopt.optimizers.sharding import groups_of, is_sharded
from rnnopt.optimizers.shared_options import check_keywords, settle_group


class FlatOptimizer(Optimizer, ABC):
    """What torch asks of an optimizer, for state kept in a `FlatState`.

    Args:
        params: tensors to train, or torch parameter groups.
        defaults: every option of a group; counters are added.
        process_group: the processes whose losses are averaged.
        keywords: what the constructor got besides.
    """

    # What the training loop asks (rnnopt.training.learner.Learner).
    needs_closure = True
    full_batch = needs_own_sequences = False
    evaluations_per_step = 1
    refuses_gradient_options = ""
    local_steps = None
    committed = staticmethod(nullcontext)

    counters: Mapping[str, Any]  # numbers that every group holds, all groups the same

    def __init__(
        self,
        params: ParamsT,
        defaults: dict[str, Any],
        process_group: Group = None,
        keywords: Mapping[str, Any] | None = None,
    ):
        check_group(process_group)
        check_keywords(type(self).__name__, keywords or {})
        self.process_group = process_group
        self._flat: FlatState | None = None
        super().__init__(params, defaults | dict(self.counters))

    @abstractmethod
    def check_group(self, group: dict[str, Any], first: dict[str, Any]) -> None:
        """Raises ValueError that names the first option outside its range."""

    @abstractmethod
    def make_state(self) -> FlatState:
        """The state of all weights that need one, in new buffers."""

    def starting_counters(self, group: dict[str, Any]) -> Mapping[str, Any]:
        """The counters of the first group, whose options are these."""
        return self.counters

    def metrics(self) -> dict[str, float]:
        """No figures of its own for the history of a run."""
        return {}

    def flat(self) -> FlatState:
        """The state, in new buffers when a weight joined or the state was loaded or swapped."""
        if self._flat is None or not self._flat.is_current(self.state, self.param_groups):
            self._flat = self.make_state()
        return self._flat

    def count(self, **counters: Any) -> None:
        """Sets counters, in all groups."""
        for group in self.param_groups:
            group.update(counters)

    def loss_of(self, loss: Any) -> float:
        """What is minimised: a closure's loss as a number of the host, negated to maximize it."""
        number = number_of(loss)
        return -number if self.param_groups[0]["maximize"] else number

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group; it joins the cycle under way, its missing gradients counting as zero."""
        super().add_param_group(param_group)
        first, group = self.param_groups[0], self.param_groups[-1]
        try:
            settle_group(type(self).__name__, group, self.defaults)
            self.check_group(group, first)
            for p in group["params"]:
                groups_of(p)
        except ValueError:
            self.param_groups.pop()
            raise
        # Those of a group that another optimizer had would belong to a state that is not here.
        counters = self.starting_counters(group) if group is first else first
        group.update({name: counters[name] for name in self.counters})
        self._flat = None

    def __getstate__(self) -> dict[str, Any]:
        # Views into one buffer would each be pickled with the whole of it.
        whole = super().__getstate__()
        state = whole["state"].copy()
        for p, entries in state.items():
            state[p] = {name: _own(value) for name, value in entries.items()}
        return {**whole, "state": state}

    def __setstate__(self, state: dict[str, Any]) -> None:
        unwrap_(state)
        super().__setstate__(state)
        self.__dict__.setdefault("process_group", None)  # of a copy: a group cannot be pickled
        self._flat = None
        for group in self.param_groups:
            for name, default in self.defaults.items():
                if name != "differentiable":  # torch's own, which is in no group of ours
                    group.setdefault(name, default)

    def state_dict(self) -> dict[str, Any]:
        """The whole state; of DTensors copies, for torch saves none that are views."""
        whole = super().state_dict()
        if any(is_sharded(p) for group in self.param_groups for p in group["params"]):
            state = whole["state"].items()
            whole["state"] = {key: {n: _own(v) for n, v in own.items()} for key, own in state}
        return whole

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads a copy of `state_dict`; later steps never write into the caller's tensors.

        Tensors keep the types they were saved in, which may be wider than the weights' or narrower
        on purpose. What the caller's hooks make of the state is loaded and stays.
        """
        state_dict = deepcopy(state_dict)  # hooks may write into it
        with types_kept(self):
            super().load_state_dict(state_dict)


def number_of(loss: Any) -> float:
    """A closure's loss as a number of the host."""
    if loss is None:
        raise ValueError("the closure must return the loss, got None.")
    return float(loss.detach() if isinstance(loss, Tensor) else loss)


def _own(value: Any) -> Any:
    """A tensor with memory of its own; anything else as it is."""
    return value.clone() if isinstance(value, Tensor) else value
