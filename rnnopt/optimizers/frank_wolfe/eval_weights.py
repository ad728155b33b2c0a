"""Which weights the model holds: the training weights, or the weights to evaluate.

A step leaves the training weights in the model. The weights to evaluate are in the optimizer's
state: the mean of the committed weights, or between two commits the last committed weights. `show`
puts them into the model, and `take_away` undoes that. Neither changes weights that were written
from outside meanwhile: loaded weights are evaluated, and trained on, as they are.

In the state of a tensor, `written` is its value after the last step: a difference reveals a later
change, and `take_away` restores it. `shown` is whether `show` has replaced it. Both exist from the
first step on, because torch's distributed checkpoints load only existing entries.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer

from rnnopt.distributed import sums
from rnnopt.optimizers.sharding import groups_of, is_sharded, local

State = dict[str, Any]


def best_known(state: State, group: dict[str, Any]) -> Tensor | None:
    """The value to evaluate of a tensor unchanged since the last step; None means its own value.

    A tensor that had no gradient in the last step shows its own value, as a frozen one should.
    """
    if state.get("at_rest"):
        return None
    if group["average"] is not None and group["commits"] and "average" in state:
        return state["average"]
    return state.get("anchor") if group["inner_step"] else None


def show(p: Tensor, state: State, group: dict[str, Any]) -> bool:
    """Puts the value to evaluate into p; returns whether p was changed since the last step."""
    changed = "written" in state and differ(p, state["written"])
    value = None if changed else best_known(state, group)
    state["shown"] = value is not None
    if value is not None:
        if "written" not in state:  # in states saved by older versions
            state["written"] = p.detach().clone(memory_format=torch.preserve_format)
        p.copy_(value)
    return changed


def take_away(p: Tensor, state: State, group: dict[str, Any]) -> bool:
    """Restores what `show` replaced, unless p was changed since; returns whether it was."""
    value = best_known(state, group) if state.get("shown") else state.get("written")
    changed = value is not None and differ(p, value)
    if state.get("shown") and not changed:
        p.copy_(state["written"])
    state["shown"] = False
    return changed


def differ(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors of the same layout differ; synchronises with a GPU.

    `other` is converted to the device and type of `one` first: moving a model is no change. All
    processes that hold a part of the tensors must call this.
    """
    part = local(one.detach())
    count = (part != local(other).to(part)).sum()
    for group in groups_of(one):
        (count,) = sums([count], group)
    return bool(count)


class EvalMode(Optimizer):
    """An optimizer with an eval mode, in which the model holds the weights to evaluate.

    The groups' `train_mode` stores the mode. The method names are those of schedule-free
    optimizers, which existing training loops call.
    """

    _versions: "Versions"  # noted after each step

    @torch.no_grad()
    def eval(self) -> None:
        """Puts the weights to evaluate into the model until `train()`.

        With `average` these are the mean of the committed weights, else the committed weights. A
        tensor that was changed since the last step, by loading for example, stays as it is. The
        running statistics of batch normalisation stay those of the training weights. A second call
        changes nothing.
        """
        self._switch(show, train_mode=False)

    @torch.no_grad()
    def train(self) -> None:
        """Puts the training weights back into the model; a second call changes nothing.

        A tensor that was changed since `eval()` stays as it is: training continues from it.
        """
        self._switch(take_away, train_mode=True)

    def _switch(self, change: Callable[..., bool], train_mode: bool) -> None:
        for group in self.param_groups:
            if group["train_mode"] != train_mode:
                for p in group["params"]:
                    if p in self.state and change(p, self.state[p], group):
                        self._versions.forget(p)
                group["train_mode"] = train_mode

    @contextmanager
    def committed(self) -> Iterator[None]:
        """Eval mode inside the `with` block; the previous mode afterwards."""
        before = self.param_groups[0]["train_mode"]
        self.eval()
        try:
            yield
        finally:
            if before:
                self.train()

    def check_train_mode(self) -> None:
        """Raises RuntimeError in eval mode, in which no step can be taken."""
        if not self.param_groups[0]["train_mode"]:
            raise RuntimeError(
                "step() in eval mode, where gradients are not those of the weights that are"
                " trained: call optimizer.train() before the forward pass."
            )


class Versions:
    """Detects which tensors may have changed since they were noted, without reading their values.

    It detects in-place operations and rebinding of `.data`, but not writes through `.data`: layers
    clip weights that way, which does not count as a change. Code that compares values and finds
    such a write calls `forget`.
    """

    def __init__(self) -> None:
        self._noted: dict[Tensor, tuple[int, ...]] = {}

    def note(self, params: Iterable[Tensor]) -> None:
        """Records the tensors' current versions."""
        self._noted.update((p, _version(p)) for p in params)

    def forget(self, p: Tensor) -> None:
        """Marks a tensor as changed."""
        self._noted.pop(p, None)

    def changed(self, p: Tensor) -> bool:
        """Whether a tensor may have changed since it was noted; true if it never was."""
        return self._noted.get(p) != _version(p)


def _version(p: Tensor) -> tuple[int, ...]:
    if not is_sharded(p):  # a detached tensor has the same counter
        return p._version, p.data_ptr()
    part = local(p.detach())
    return p._version, part._version, part.data_ptr()
