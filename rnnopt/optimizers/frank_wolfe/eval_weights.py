"""Which weights a model shows: the ones that are trained, or the ones to evaluate.

A step leaves those in the model from which training goes on. The ones to evaluate lie in the
optimizer's state: the mean of the committed weights, or between two commits the weights of the last
one. `show` puts them in place, and `take_away` undoes that. Neither touches what somebody else has
put into the model meanwhile: weights that were loaded are evaluated, and trained on, as they are.

In the state of a tensor: `written` is what the last step left in it, by which a change since is
told, and what to go back to after `show`; `shown` is whether `show` has replaced it. Both exist
from the first step on, as torch's distributed checkpoints load no entry that is not there.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer

from rnnopt.distributed import sums
from rnnopt.optimizers.sharding import groups_of, local

State = dict[str, Any]


def best_known(state: State, group: dict[str, Any]) -> Tensor | None:
    """The value to evaluate of a tensor that nobody changed since the last step; None is its own.

    One that got no gradient there was left alone, and shows its own value, as a frozen one should.
    """
    if state.get("at_rest"):
        return None
    if group["average"] is not None and group["commits"] and "average" in state:
        return state["average"]
    return state.get("anchor") if group["inner_step"] else None


def show(p: Tensor, state: State, group: dict[str, Any]) -> bool:
    """Puts the value to evaluate in place; returns whether p was changed since the last step."""
    changed = "written" in state and differ(p, state["written"])
    value = None if changed else best_known(state, group)
    state["shown"] = value is not None
    if value is not None:
        if "written" not in state:  # of a state saved before there was one
            state["written"] = p.detach().clone(memory_format=torch.preserve_format)
        p.copy_(value)
    return changed


def take_away(p: Tensor, state: State, group: dict[str, Any]) -> bool:
    """Puts back what `show` replaced, unless p was changed since; returns whether it was."""
    value = best_known(state, group) if state.get("shown") else state.get("written")
    changed = value is not None and differ(p, value)
    if state.get("shown") and not changed:
        p.copy_(state["written"])
    state["shown"] = False
    return changed


def differ(one: Tensor, other: Tensor) -> bool:
    """Whether some entry of two tensors that lie alike is not the same; waits for a GPU.

    `other` is compared as `one` would hold it: a model that was moved to another device or type
    since has not been changed. All processes that hold a part of them must ask.
    """
    part = local(one.detach())
    count = (part != local(other).to(part)).sum()
    for group in groups_of(one):
        (count,) = sums([count], group)
    return bool(count)


class EvalMode(Optimizer):
    """An optimizer with a mode, `train_mode` of its groups, in which the weights to evaluate stand.

    The names are those of schedule-free optimizers, which other people's loops call.
    """

    _versions: "Versions"  # noted after each step

    @torch.no_grad()
    def eval(self) -> None:
        """Puts the weights to evaluate in place, until `train()`; a second call changes nothing.

        With `average` these are the mean of the committed weights, else the committed weights
        themselves; a tensor that was changed since the last step, loaded say, stays as it is. The
        running statistics of batch normalisation are those of the weights trained with.
        """
        self._switch(show, train_mode=False)

    @torch.no_grad()
    def train(self) -> None:
        """Puts the weights back that are trained; a second call changes nothing.

        A tensor that was changed since `eval()` stays as it is: training goes on from there.
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
        """Eval mode inside the `with`, and the mode of before after it."""
        before = self.param_groups[0]["train_mode"]
        self.eval()
        try:
            yield
        finally:
            if before:
                self.train()

    def check_train_mode(self) -> None:
        """Raises RuntimeError in eval mode, where no step can be taken."""
        if not self.param_groups[0]["train_mode"]:
            raise RuntimeError(
                "step() in eval mode, where gradients are not those of the weights that are"
                " trained: call optimizer.train() before the forward pass."
            )


class Versions:
    """Tells which tensors may have been changed since they were noted, without looking at them.

    In-place operations and rebinding of `.data` are seen, writes through `.data` are not: layers
    use those to keep weights in bounds, which is no change of what is trained. Who compares values
    and sees such a write says `forget`.
    """

    def __init__(self) -> None:
        self._noted: dict[Tensor, tuple[int, ...]] = {}

    def note(self, params: Iterable[Tensor]) -> None:
        """Takes these tensors as they are."""
        self._noted.update((p, _version(p)) for p in params)

    def forget(self, p: Tensor) -> None:
        """Takes this one to be changed."""
        self._noted.pop(p, None)

    def changed(self, p: Tensor) -> bool:
        """Whether it may differ from what was noted; true of a tensor never noted."""
        return self._noted.get(p) != _version(p)


def _version(p: Tensor) -> tuple[int, ...]:
    part = local(p.detach())
    return p._version, part._version, part.data_ptr()
