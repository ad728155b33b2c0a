"""Optimizer state of many tensors in few flat buffers, so that a step takes few kernel calls.

`state[p][name]` of every tensor is a view into one buffer a (group, device, working type), a
*bucket*: sums and products run over a bucket's buffer at once, while checkpoints see the usual
state, one entry a tensor. Half-precision weights have their state in float32. Of DTensors a bucket
holds the parts of this process, see shards.py, and the state is DTensors, too.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rnnopt.optimizers.sharding import groups_of, is_sharded, join, local, local_like, wrap

HALF = (torch.float16, torch.bfloat16)
Initial = Callable[[Tensor], Tensor]


def working_type(p: Tensor) -> torch.dtype:
    """The type of a weight's state."""
    return torch.float32 if p.dtype in HALF else p.dtype


@dataclass(frozen=True)
class Entry:
    """A tensor of the state.

    Args:
        rows: of a buffer (rows, *p.shape), or None for one of the weight's own shape.
        dtype: its type, or None for the working type.
        initial: what a new weight starts with; zero unless given.
    """

    rows: int | None = None
    dtype: torch.dtype | None = None
    initial: Initial | None = None


class Bucket:
    """Weights of one group, device and working type, and their state.

    Args:
        group: the param group.
        params: its weights.
        spread: the process groups that hold parts of them, the same for all.
    """

    def __init__(
        self, group: dict[str, Any], params: list[Tensor], spread: tuple[Any, ...] | None = None
    ):
        self.group, self.owners, self.spread = group, params, spread
        self.params = params if spread is None else [local(p.detach()) for p in params]
        self.sizes = [p.numel() for p in self.params]
        self.size = sum(self.sizes)
        self.device, self.dtype = params[0].device, working_type(params[0])
        self.buffers: dict[str, Tensor] = {}
        self.views: dict[str, list[Tensor]] = {}
        self._scratch: dict[str, Tensor] = {}

    def allocate(self, name: str, entry: Entry, states: list[dict[str, Any]]) -> None:
        """Makes the buffer `name`, filled from `states`, which then hold views into it."""
        dtype = entry.dtype or self.dtype
        shape = (self.size,) if entry.rows is None else (entry.rows, self.size)
        buffer = torch.zeros(shape, dtype=dtype, device=self.device)
        views = self._views(buffer)
        for i, (state, view) in enumerate(zip(states, views, strict=True)):
            if name in state:
                view.copy_(local(state[name]))
            elif entry.initial is not None:
                view.copy_(entry.initial(self.params[i]))
            state[name] = view if self.spread is None else wrap(view, self.owners[i])
        self.buffers[name], self.views[name] = buffer, views

    def _views(self, buffer: Tensor) -> list[Tensor]:
        """One view a weight: (*shape) of a vector, (rows, *shape) of a matrix."""
        parts = buffer.split(self.sizes, dim=-1)
        return [
            part.view((*buffer.shape[:-1], *p.shape))
            for part, p in zip(parts, self.params, strict=True)
        ]

    def weights(self, into: str | None = None) -> Tensor:
        """A copy of the weights, (size,); `into` names a scratch vector to use again."""
        return self._flat([p.detach() for p in self.params], into)

    def gradients(self, into: str | None = None) -> Tensor:
        """A copy of the gradients, (size,), zero where there is none; negated to maximize."""
        if any(p.grad is not None and p.grad.layout != torch.strided for p in self.owners):
            raise ValueError("gradients must be dense, got a sparse one.")
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.owners]
        if self.spread is not None:
            gradients = [local_like(g, p) for g, p in zip(gradients, self.owners, strict=True)]
        flat = self._flat(gradients, into)
        return flat.neg_() if self.group["maximize"] else flat

    def scratch(self, name: str) -> Tensor:
        """A vector (size,) that is no state: fresh memory costs more than what is done with it."""
        if name not in self._scratch:
            self._scratch[name] = torch.empty(self.size, dtype=self.dtype, device=self.device)
        return self._scratch[name]

    def _flat(self, tensors: list[Tensor], into: str | None) -> Tensor:
        flat = [t.reshape(-1) for t in tensors]
        if into is None or any(t.dtype != self.dtype for t in flat):
            return torch.cat(flat).to(self.dtype)
        return torch.cat(flat, out=self.scratch(into))

    def set_weights(self, values: Tensor) -> None:
        """Copies a vector (size,) into the weights."""
        torch._foreach_copy_(self.params, self._views(values))

    def add_to_weights(self, name: str, factor: float) -> None:
        """weights += factor · the vector `name` of the state."""
        if all(p.dtype == self.dtype for p in self.params):
            torch._foreach_add_(self.params, self.views[name], alpha=factor)
        else:
            self.set_weights(self.weights().add_(self.buffers[name], alpha=factor))


def tracked(
    state: Mapping[Tensor, dict[str, Any]], groups: Sequence[dict[str, Any]], every: bool = False
) -> list[Tensor]:
    """Of the weights that are not frozen those with a state or a gradient, or `every` one."""
    return [
        p
        for group in groups
        for p in group["params"]
        if p.requires_grad and (every or p.grad is not None or state.get(p))
    ]


class FlatState:
    """The buckets of an optimizer's weights that have a state or a gradient.

    Args:
        state: the optimizer's `state`, which gets an entry for weights that have a gradient and
            none yet.
        groups: its `param_groups`.
        layout: what each weight's state holds.
        every: whether all weights that require a gradient get a state, even without one.
    """

    def __init__(
        self,
        state: Mapping[Tensor, dict[str, Any]],
        groups: Sequence[dict[str, Any]],
        layout: dict[str, Entry],
        every: bool = False,
    ):
        self.buckets: list[Bucket] = []
        self._every = every
        for group in groups:
            kinds: dict[Any, list[Tensor]] = {}
            for p in tracked(state, [group], every):
                spread = groups_of(p) if is_sharded(p) else None
                kinds.setdefault((p.device, working_type(p), spread), []).append(p)
            self.buckets += [Bucket(group, params, kind[2]) for kind, params in kinds.items()]
        for bucket in self.buckets:
            states = [state[p] for p in bucket.owners]
            for name, entry in layout.items():
                bucket.allocate(name, entry, states)
        self._first = next(iter(layout))
        self._views = {p: state[p][self._first] for bucket in self.buckets for p in bucket.owners}
        shared = any(bucket.spread for bucket in self.buckets)
        self.joint = self._joint if shared else None  # what sums over buckets and processes

    def _joint(self, parts: list[Tensor]) -> Tensor:
        """The sum of what the buckets give, each over the processes that hold parts of it."""
        sums: dict[tuple[Any, ...], Tensor] = {}
        for bucket, part in zip(self.buckets, parts, strict=True):
            part, spread = part.to(parts[0].device), bucket.spread or ()
            sums[spread] = sums[spread] + part if spread in sums else part
        return torch.stack([join(value, 1, spread) for spread, value in sums.items()]).sum(0)

    def is_current(
        self, state: Mapping[Tensor, dict[str, Any]], groups: Sequence[dict[str, Any]]
    ) -> bool:
        """Whether these are the buffers of all weights that have a state or a gradient now.

        They are not when a weight gets its first gradient, or when a state was loaded or swapped.
        """
        now = tracked(state, groups, self._every)
        return len(now) == len(self._views) and all(
            p in self._views and state.get(p, {}).get(self._first) is self._views[p] for p in now
        )

    def buffers(self, name: str) -> list[Tensor]:
        """The buffer `name` of every bucket."""
        return [bucket.buffers[name] for bucket in self.buckets]

    def rows(self, name: str, count: int) -> list[Tensor]:
        """The first `count` rows of the buffer `name` of every bucket."""
        return [bucket.buffers[name][:count] for bucket in self.buckets]

    def weights(self, into: str | None = None) -> list[Tensor]:
        """A copy of the weights, a vector a bucket; `into` names scratch vectors to use again."""
        return [bucket.weights(into) for bucket in self.buckets]

    def gradients(self, into: str | None = None) -> list[Tensor]:
        """A copy of the gradients, a vector a bucket; `into` names scratch vectors to use again."""
        return [bucket.gradients(into) for bucket in self.buckets]

    def scratch(self, name: str) -> list[Tensor]:
        """Vectors that are no state, to use again, one a bucket."""
        return [bucket.scratch(name) for bucket in self.buckets]

    def set_weights(self, values: Sequence[Tensor]) -> None:
        """Copies vectors, one a bucket, into the weights."""
        for bucket, value in zip(self.buckets, values, strict=True):
            bucket.set_weights(value)

    def rates(self) -> list[float]:
        """The learning rate of every bucket."""
        return [float(bucket.group["lr"]) for bucket in self.buckets]
