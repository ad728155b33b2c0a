"""Sums, means and decisions over the processes of torch.distributed.

Without an initialized process group, or with a single process, every function returns its argument
at once. Otherwise all processes of the group must call the functions, in the same order: if one
process skips a call, the others wait for it.
"""

from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import torch
import torch.distributed
from torch import Tensor

# None means the default group, if initialized. A group of one process communicates with no other.
Group: TypeAlias = "torch.distributed.ProcessGroup | None"


def check_group(process_group: Any) -> None:
    """Raises ValueError unless `process_group` is a process group or None."""
    if process_group is None:
        return
    kind = getattr(torch.distributed, "ProcessGroup", None)
    if kind is None or not isinstance(process_group, kind):
        raise ValueError(
            "process_group must be a torch.distributed process group that this process is in, or"
            f" None, got process_group={process_group!r}."
        )


def processes(group: Group = None) -> int:
    """Number of processes in the group; 1 without an initialized process group."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return 1
    return max(1, torch.distributed.get_world_size(group))


@torch.no_grad()
def sums(tensors: Sequence[Tensor], group: Group = None) -> list[Tensor]:
    """Each tensor's sum over the processes, with one all-reduce per device and working type.

    Half-precision tensors are summed in float32. All processes need the same shapes and types.
    """
    if processes(group) == 1 or not tensors:
        return list(tensors)
    kinds: dict[tuple[torch.device, torch.dtype], list[int]] = {}
    for i, tensor in enumerate(tensors):
        dtype = torch.promote_types(tensor.dtype, torch.float32)
        kinds.setdefault((tensor.device, dtype), []).append(i)
    result = list(tensors)
    for (_, dtype), indices in kinds.items():
        bucket = torch.cat([tensors[i].reshape(-1).to(dtype) for i in indices])
        torch.distributed.all_reduce(bucket, group=group)
        parts = bucket.split([tensors[i].numel() for i in indices])
        for i, part in zip(indices, parts, strict=True):
            result[i] = part.view(tensors[i].shape).to(tensors[i].dtype)
    return result


def means(tensors: Sequence[Tensor], group: Group = None) -> list[Tensor]:
    """Each tensor's mean over the processes, computed like `sums`."""
    count = processes(group)
    if count == 1:
        return list(tensors)
    return [total / count for total in sums(tensors, group)]


def mean_numbers(numbers: Sequence[float], group: Group = None) -> list[float]:
    """Each number's mean over the processes, bit for bit the same in all processes.

    A NaN or infinity in one process reaches all, so that all take the same decisions.
    """
    if processes(group) == 1:
        return list(numbers)
    values = torch.tensor(numbers, dtype=torch.float64, device=_device(group))
    return means([values], group)[0].tolist()


def any_of(decision: bool, group: Group = None) -> bool:
    """Whether `decision` is true in any process."""
    return decision if processes(group) == 1 else mean_numbers([float(decision)], group)[0] > 0


def share(count: int, group: Group = None) -> float:
    """Factor of a process's mean over `count` sequences: with it, the mean over processes is right.

    It is count · processes / total, 1 if all processes have the same count. A process without data
    left takes any batch, with count 0.

    Example:
        >>> loss = share(len(batch)) * task.loss_of(model(batch.inputs), batch)

    Raises:
        ValueError: no process has a sequence.
    """
    if processes(group) == 1:
        return 1.0
    (mean,) = mean_numbers([float(count)], group)
    if not mean > 0:
        raise ValueError(f"share needs a sequence in some process, got count={count} in all.")
    return count / mean


@torch.no_grad()
def average_gradients(params: Iterable[Tensor], group: Group = None) -> None:
    """Gradients ← their means over the processes, in one all-reduce; for models without DDP.

    A gradient missing in some processes counts as zero there; missing in all, it stays None.
    """
    if processes(group) == 1:
        return
    trained = [p for p in params if p.requires_grad]
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in trained]
    present = torch.tensor([float(p.grad is not None) for p in trained], device=_device(group))
    *averaged, present = means([*gradients, present], group)
    for p, mean, there in zip(trained, averaged, present.tolist(), strict=True):
        if p.grad is not None:
            p.grad.copy_(mean)
        elif there:
            p.grad = mean


@torch.no_grad()
def copy_from_first(model: torch.nn.Module, group: Group = None) -> None:
    """Parameters and buffers ← those of the group's first process, as DDP does at construction."""
    if processes(group) == 1:
        return
    for tensor in (*model.parameters(), *model.buffers()):
        torch.distributed.broadcast(tensor, group=group, group_src=0)


def _device(group: Group) -> torch.device:
    """The device on which Python numbers are reduced."""
    on_gpu = torch.distributed.get_backend(group) == "nccl"
    return torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")
