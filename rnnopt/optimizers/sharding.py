"""Tensors of which each process holds a part: DTensor parameters, as FSDP2's fully_shard makes.

Optimizers work on the parts, which are plain tensors, and join the few numbers that belong to a
whole tensor, norms and products, by one all-reduce for all tensors that lie alike. Their state is
DTensors again, so that distributed checkpoints can cut it anew.

Any mesh whose placements are `Shard` and `Replicate` will do, with parts of different sizes or
none; tensors that are no DTensor are whole in every process.
"""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.distributed
from torch import Size, Tensor

Tensors = list[Tensor] | tuple[Tensor, ...]


def is_sharded(tensor: Any) -> bool:
    """Whether it is a DTensor, replicated ones included."""
    module = sys.modules.get("torch.distributed.tensor")  # whoever made one has imported it
    return module is not None and isinstance(tensor, module.DTensor)


def local(tensor: Tensor) -> Tensor:
    """This process's part, which shares its memory; a plain tensor itself."""
    return tensor.to_local() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]


def local_like(tensor: Tensor, owner: Tensor) -> Tensor:
    """The part of `tensor` that lies where this process's part of `owner` does."""
    if not is_sharded(tensor):
        return tensor
    dtensor: Any = tensor
    if dtensor.placements != owner.placements:  # type: ignore[attr-defined]
        dtensor = dtensor.redistribute(placements=owner.placements)  # type: ignore[attr-defined]
    return dtensor.to_local()


def wrap(part: Tensor, owner: Tensor) -> Tensor:
    """A tensor of the parts that lie where the owner's do: a DTensor where the owner is one.

    Args:
        part: (*shape), or (rows, *shape) with `shape` that of this process's part of the owner.
        owner: a parameter.
    """
    if not is_sharded(owner):
        return part
    from torch.distributed.tensor import DTensor, Shard

    like: Any = owner
    shape, placements = tuple(like.shape), like.placements
    if part.ndim > like.ndim:
        shape = (part.shape[0], *shape)
        placements = [Shard(p.dim + 1) if p.is_shard() else p for p in placements]
    stride = torch.empty(shape, device="meta").stride()
    return DTensor.from_local(
        part, like.device_mesh, placements, run_check=False, shape=Size(shape), stride=stride
    )


def gather(part: Tensor, owner: Tensor) -> Tensor:
    """The whole tensor, of which every process gives the part that lies as the owner's does."""
    return wrap(part, owner).full_tensor() if is_sharded(owner) else part  # type: ignore[attr-defined]


def groups_of(tensor: Tensor) -> tuple[Any, ...]:
    """The process groups over which a tensor's parts are spread; () where this process has all.

    Raises:
        ValueError: for placements other than Shard and Replicate.
    """
    if not is_sharded(tensor):
        return ()
    from torch.distributed.tensor import Replicate, Shard

    mesh, placements = tensor.device_mesh, tensor.placements  # type: ignore[attr-defined]
    if any(type(placement) not in (Shard, Replicate) for placement in placements):
        raise ValueError(
            f"DTensor parameters must be placed by Shard or Replicate, got {placements}."
        )
    sharded = [i for i, placement in enumerate(placements) if placement.is_shard()]
    return tuple(mesh.get_group(i) for i in sharded if mesh.size(i) > 1)


@dataclass(frozen=True)
class Part:
    """Which part of a tensor this process holds: a box of the whole.

    Args:
        groups: the process groups over which the parts are spread.
        shape: of the whole.
        offset: where the box begins, in each dimension.
        size: of the box.
    """

    groups: tuple[Any, ...]
    shape: tuple[int, ...]
    offset: tuple[int, ...]
    size: tuple[int, ...]

    @classmethod
    def of(cls, tensor: Tensor) -> "Part":
        """The part of a parameter."""
        shape, groups = tuple(tensor.shape), groups_of(tensor)
        if not groups:
            return cls((), shape, (0,) * len(shape), shape)
        from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

        size, offset = compute_local_shape_and_global_offset(
            tensor.shape,
            tensor.device_mesh,  # type: ignore[attr-defined]
            tensor.placements,  # type: ignore[attr-defined]
        )
        return cls(groups, shape, tuple(offset), tuple(size))

    @property
    def whole(self) -> Tensor:
        """A tensor of the whole's shape, without memory."""
        return torch.empty(self.shape, device="meta")

    def split(self, gates: int, tensor: Tensor) -> tuple[list["Part"], list[Tensor]]:
        """The parts of the gates stacked along the first dimension, and the views of `tensor`."""
        if gates == 1:
            return [self], [tensor]
        rows = self.shape[0] // gates
        parts, views = [], []
        for first in range(0, self.shape[0], rows):
            begin = min(max(self.offset[0], first), first + rows)
            end = max(min(self.offset[0] + self.size[0], first + rows), begin)
            shape, offset = (rows, *self.shape[1:]), (begin - first, *self.offset[1:])
            parts.append(Part(self.groups, shape, offset, (end - begin, *self.size[1:])))
            start = min(max(begin - self.offset[0], 0), self.size[0])
            views.append(tensor.narrow(0, start, end - begin))
        return parts, views

    def cut(self, whole: Tensor) -> Tensor:
        """This process's part of a whole tensor."""
        for dimension, (start, length) in enumerate(zip(self.offset, self.size, strict=True)):
            whole = whole.narrow(dimension, min(start, whole.shape[dimension]), length)
        return whole


class Shards:
    """Numbers of whole tensors from those of the parts that each process holds.

    Args:
        parts: of the tensors, in order.
    """

    def __init__(self, parts: list[Part]):
        self.parts = parts

    def of(self, indices: Sequence[int]) -> "Shards":
        """Those of some tensors."""
        return Shards([self.parts[i] for i in indices])

    @cached_property
    def _spread(self) -> dict[tuple[Any, ...], list[int]]:
        """Indices of the tensors in parts, by the groups that hold them."""
        spread: dict[tuple[Any, ...], list[int]] = {}
        for i, part in enumerate(self.parts):
            if part.groups:
                spread.setdefault(part.groups, []).append(i)
        return spread

    def join(self, numbers: Tensors, order: float) -> list[Tensor]:
        """The norm of each tensor from the norms of its parts; with order 1 plain sums."""
        joined = list(numbers)
        for groups, indices in self._spread.items():
            values = torch.stack([numbers[i] for i in indices])
            total = join(values.double(), order, groups).to(values.dtype)
            for i, value in zip(indices, total.unbind(), strict=True):
                joined[i] = value
        return joined

    def first(self, sizes: Tensors) -> list[Tensor]:
        """For each tensor 1.0 in the process that holds its largest entry, else 0.0.

        Args:
            sizes: the largest size of an entry in each part. Of equal ones the first part counts.
        """
        chosen = [torch.ones_like(size) for size in sizes]
        for groups, indices in self._spread.items():
            values = torch.stack([sizes[i] for i in indices]).double().nan_to_num(nan=math.inf)
            place = 0  # of this process among all that hold parts
            for group in groups:
                place = place * group.size() + group.rank()
            own = torch.full_like(values, float(place))
            holds = values == join(values, math.inf, groups)
            # The least place, as the greatest of their negatives.
            least = -join(torch.where(holds, -own, -math.inf), math.inf, groups)
            for i, here in zip(indices, (least == own).unbind(), strict=True):
                chosen[i] = here.to(sizes[i].dtype)
        return chosen


def join(values: Tensor, order: float, groups: tuple[Any, ...]) -> Tensor:
    """Norms over processes of `values`, to the bit the same in all; for ∞, NaN is infinite."""
    if order == math.inf:
        values = values.nan_to_num(nan=math.inf, posinf=math.inf, neginf=-math.inf)
        operation = torch.distributed.ReduceOp.MAX
    else:
        values = values.clone() if order == 1 else values**order
        operation = torch.distributed.ReduceOp.SUM
    for group in groups:
        torch.distributed.all_reduce(values, operation, group=group)
    return values if order in (1, math.inf) else values ** (1 / order)
