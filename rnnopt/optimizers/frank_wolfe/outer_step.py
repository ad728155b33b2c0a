"""FrankWolfe's outer step: plain, or by another torch optimizer with -displacement as gradient."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer

from rnnopt.optimizers.frank_wolfe.inner_loop import Search
from rnnopt.optimizers.sharding import is_sharded

Outer = Literal["adam", "plain"] | Callable[..., Optimizer]
Groups = list[dict[str, Any]]


def check_outer(outer: Any) -> None:
    """Raises ValueError unless it is an `Outer`."""
    if not (callable(outer) or outer in ("adam", "plain")):
        raise ValueError(f'outer must be "adam", "plain" or a callable, got outer={outer!r}.')


class OuterStep:
    """Takes the outer steps; another optimizer is built at first use, its state in FrankWolfe's.

    Args:
        outer: "plain", "adam" or a callable (groups, lr=…) → torch optimizer.
        groups: FrankWolfe's parameter groups.
    """

    def __init__(self, outer: Outer, groups: Groups):
        self.outer, self.groups = outer, groups
        self._optimizer: Optimizer | None = None
        self._made: dict[Any, Any] = {}

    @property
    def optimizer(self) -> Optimizer:
        """The torch optimizer that takes the outer steps."""
        if self._optimizer is None:
            if self.outer == "plain":
                raise ValueError('FrankWolfe(outer="plain") has no outer optimizer.')
            groups = [{"params": g["params"], "lr": float(g["lr"])} for g in self.groups]
            lr = groups[0]["lr"]
            if callable(self.outer):
                self._optimizer = self.outer(groups, lr=lr)
            else:
                kinds = {is_sharded(p) for group in groups for p in group["params"]}
                # foreach operations reject lists that mix plain tensors and DTensors.
                self._optimizer = torch.optim.Adam(groups, lr=lr, foreach=len(kinds) == 1)
            # Some create their state in the constructor, as Adagrad did before torch 2.13.
            self._made = dict(self._optimizer.state)
        return self._optimizer

    def step(self, searches: list[Search]) -> None:
        """One step along the displacements of the tensors that had a gradient."""
        if self.outer == "plain":
            for search in searches:
                search.plain_step()
            return
        outer = self.optimizer
        every = [p for group in self.groups for p in group["params"]]
        gradients = [p.grad for p in every]
        moving = [(search, i) for search in searches for i in search.with_gradient()]
        try:
            for p in every:
                p.grad = None
            outer.state.clear()
            stepped = self._hand_over(searches, outer)
            for group, own in zip(outer.param_groups, self.groups, strict=True):
                group["lr"] = float(own["lr"])
                # Set at every step: torch may have swapped them.
                group["params"] = [stepped.get(p, p) for p in own["params"]]
            outer.step()
            for search, i in moving:
                p = search.owners[i]
                search.states[i]["outer"] = outer.state[stepped[p]]
                if stepped[p] is not p:
                    p.copy_(stepped[p])
        finally:
            for group, own in zip(outer.param_groups, self.groups, strict=True):
                group["params"] = own["params"]
            for p, gradient in zip(every, gradients, strict=True):
                p.grad = gradient

    def _hand_over(self, searches: list[Search], outer: Optimizer) -> dict[Tensor, Tensor]:
        """Sets gradients and state of the tensors that the outer optimizer updates."""
        stepped = {}
        for search in searches:
            indices = search.with_gradient()
            pseudo_gradients = search.pseudo_gradients(indices) if indices else []
            for i, gradient in zip(indices, pseudo_gradients, strict=True):
                p = search.owners[i]
                wide = working_type(p)
                stepped[p] = p if wide == p.dtype else p.detach().to(wide)
                stepped[p].grad = gradient.to(wide)
                own = search.states[i]["outer"]
                outer.state[stepped[p]] = own or fitted(p, deepcopy(self._made.get(p, {})))
        return stepped

    def create_state(self, searches: list[Search]) -> None:
        """Creates the outer optimizer's state by a step with zero gradients, if there is none.

        torch's distributed checkpoints take such a step at lr = 0 to create a fresh optimizer's
        whole state.
        """
        states = [state for search in searches for state in search.states]
        if self.outer == "plain" or not states or any(state["outer"] for state in states):
            return
        if any(search.has_direction() for search in searches):
            return
        for search in searches:
            search.displacements = [torch.zeros_like(p) for p in search.params]
            for state in search.states:
                state["has_gradient"] = True
        self.step(searches)


def working_type(p: Tensor) -> torch.dtype:
    """The type in which the outer optimizer computes and keeps its state.

    In half precision the squares of small entries are zero, and Adam divides by them.
    """
    return torch.promote_types(p.dtype, torch.float32)


def fitted(p: Tensor, state: dict[str, Any]) -> dict[str, Any]:
    """Converts a tensor's state to its working type; it may have been saved in another type."""
    return {
        name: value.to(working_type(p))
        if name != "step" and isinstance(value, Tensor) and value.is_floating_point()
        else value
        for name, value in state.items()
    }


def fit_entries_(p: Tensor, entries: dict[str, Any]) -> None:
    """The same for the entries of FrankWolfe's state of a tensor that outlast a cycle."""
    entries["outer"] = fitted(p, entries.get("outer", {}))
    kept: dict[str, Any] = {
        name: entries[name] for name in ("average", "start_size") if name in entries
    }
    entries.update(fitted(p, kept))
    if "ball" in entries:
        entries["ball"] = fitted(p, entries["ball"])
