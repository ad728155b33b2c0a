"""The compiled CPU kernels: finds the library for this processor and calls it.

The library is not loaded on import, but when a layer first runs or a run records its environment.
The environment variable RNNOPT_KERNELS=plain turns it off, for comparison; see `rnnopt doctor`.
"""

import ctypes
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.modules.module import _has_any_global_hook

from rnnopt.layers.kernels.build import (
    ANY_VARIANT,
    library_name,
    read_record,
    source_hash,
)

FOLDER = Path(__file__).parent
SWITCH = "RNNOPT_KERNELS"
UNSUITABLE = "none was built for this processor"
REBUILD = "python -m rnnopt.layers.kernels"
DTYPES = {torch.float32: "float32", torch.float64: "float64"}
PLAIN = (Tensor, torch.nn.Parameter)
# Multiplications below which a thread costs more than it saves: about 10 microseconds of work.
WORK_OF_A_THREAD = 1_000_000


@dataclass(frozen=True)
class Kernels:
    """The kernels found for this processor.

    Args:
        variant: kind of processor of the loaded library, or None for the plain path.
        reason: why this path is in use.
        library: the loaded library, or None.
    """

    variant: str | None
    reason: str
    library: ctypes.CDLL | None = None


def switched_off() -> bool:
    """Whether the environment selects the plain path.

    Raises:
        ValueError: the variable has an unknown value.
    """
    switch = os.environ.get(SWITCH, "")
    if switch not in ("", "plain"):
        raise ValueError(f"{SWITCH} must be plain or unset, got {switch!r}.")
    return switch == "plain"


@cache
def kernels() -> Kernels:
    """The kernels of this process, searched once."""
    if switched_off():
        return Kernels(None, f"{SWITCH}=plain is set")
    try:
        record = read_record(FOLDER)
    except (OSError, ValueError) as error:
        return Kernels(None, f"the record of the build cannot be read: {error}")
    if record is None:
        return Kernels(None, "they have not been built")
    if not record["built"]:
        return Kernels(None, f"the build failed: {record['error']}")
    if record["source"] != source_hash():
        return Kernels(None, "they were built from another version of the source")
    able = torch.backends.cpu.get_cpu_capability()
    # A processor with AVX512 has AVX2. For a processor that is not x86, torch reports "default".
    order = ["AVX512", "AVX2"]
    suitable = order[order.index(able) :] if able in order else [ANY_VARIANT]
    problem = f"{UNSUITABLE} ({able})"
    for variant in suitable:
        if variant in record["built"]:
            path = FOLDER / library_name(variant)
            try:
                # Loading a truncated library would crash the process.
                if path.stat().st_size != record["built"][variant]:
                    problem = f"{path.name} is not as it was built"
                    continue
                library = ctypes.CDLL(str(path))
            except OSError as error:
                problem = f"{library_name(variant)} cannot be loaded: {error}"
                continue
            return Kernels(variant, f"this processor can do {able}", library)
    return Kernels(None, problem)


def available() -> bool:
    """Whether this process has compiled kernels."""
    return kernels().library is not None


# Same as torch.compiler.assume_constant_result, which would load torch's compiler on every import
# of rnnopt and take over a second.
available._dynamo_marked_constant = True  # type: ignore[attr-defined]


def ordinary_autograd() -> bool:
    """Whether gradients, if any, flow backward through the ordinary graph.

    The transforms of torch.func and forward-mode derivatives need torch's own operators.
    """
    return (
        not torch._C._are_functorch_transforms_active()
        and torch.autograd.forward_ad._current_level < 0
    )


def in_batches(*grads: Tensor | None) -> bool:
    """Whether a backward pass runs for several gradients at once, as `is_grads_batched` asks.

    torch takes an operator apart for it, but none that has lists of tensors.
    """
    batched = torch._C._functorch.is_legacy_batchedtensor
    return not ordinary_autograd() or any(one is not None and batched(one) for one in grads)


def exporting() -> bool:
    """Whether torch.export is running, directly or in torch.onnx.export."""
    return torch.compiler.is_exporting()


# A constant too: traced by torch.compile, torch 2.10 would always answer yes.
exporting._dynamo_marked_constant = True  # type: ignore[attr-defined]


def leaving_torch() -> bool:
    """Whether a graph is being exported to programs that do not have rnnopt's operators.

    True under torch.jit.trace, torch.export and torch.onnx.export, not under torch.compile.
    """
    return torch.jit.is_tracing() or exporting()


def own_operators() -> bool:
    """Whether rnnopt's operators may replace torch's."""
    return ordinary_autograd() and not leaving_torch()


def only_forward(module: torch.nn.Module) -> bool:
    """Whether a call of a module is its class's `forward` and nothing besides.

    Hooks, of the module or of all modules, and a `forward` put in its place must be called.
    """
    return not (
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or "forward" in module.__dict__
        or _has_any_global_hook()
    )


def usable(*tensors: Tensor | None) -> bool:
    """Whether the kernels accept these: on the CPU, all float32 or all float64, no autocast."""
    given = [one for one in tensors if one is not None]
    dtype = given[0].dtype
    return (
        dtype in DTYPES
        and all(one.device.type == "cpu" and one.dtype == dtype for one in given)
        and not torch.is_autocast_enabled("cpu")
        and own_operators()
        and available()
    )


def all_usable(tensors: Sequence[Tensor]) -> bool:
    """Whether the kernels accept these as they lie in memory; quick for many.

    Besides what `usable` asks, each must be contiguous, and of no class that keeps its numbers
    elsewhere, as torch's fake tensors and DTensors do.
    """
    dtype = tensors[0].dtype
    return usable(tensors[0]) and all(
        [
            type(one) in PLAIN
            and one.is_cpu
            and one.dtype == dtype
            and one.is_contiguous()
            and not one.is_neg()
            for one in tensors
        ]
    )


def threads_for(work: int) -> int:
    """Threads worth starting for `work` multiplications, at most torch.get_num_threads()."""
    return max(1, min(torch.get_num_threads(), work // WORK_OF_A_THREAD))


def call(
    name: str,
    dtype: torch.dtype,
    backward: bool,
    numbers: Sequence[int],
    tensors: Sequence[Tensor | int | None],
) -> None:
    """Runs a kernel with `numbers` and `tensors` in the order of recurrent.cpp.

    Args:
        tensors: tensors, addresses or None.

    Raises:
        MemoryError: the kernel could not get its working memory.
    """
    library = kernels().library
    assert library is not None
    addresses = [one.data_ptr() if isinstance(one, Tensor) else one for one in tensors]
    code = getattr(library, f"rnnopt_{name}_{DTYPES[dtype]}")(
        (ctypes.c_int64 * len(numbers))(*numbers),
        (ctypes.c_void_p * len(addresses))(*addresses),
        int(backward),
    )
    if code:
        raise MemoryError(f"The {name} kernel could not get its working memory.")


def check(operator: str, **arguments: tuple[Tensor | None, tuple[int, ...], torch.dtype]) -> None:
    """Checks shapes and types, so that a kernel never reads beyond a tensor.

    Args:
        operator: name of the operator.
        arguments: for each, the tensor or None, and its required shape and type.

    Raises:
        ValueError: a tensor has another shape or type.
    """
    for name, (tensor, shape, dtype) in arguments.items():
        if tensor is not None and (tuple(tensor.shape) != shape or tensor.dtype != dtype):
            raise ValueError(
                f"{operator} needs {name} of shape {shape} and type {dtype}, got"
                f" {tuple(tensor.shape)} and {tensor.dtype}."
            )


def rows(sequence: Tensor) -> Tensor:
    """`sequence` (time, batch, feature) itself if its features are contiguous, else a copy."""
    sequence = sequence.resolve_neg()
    return sequence if sequence.stride(2) == 1 or sequence.shape[2] == 1 else sequence.contiguous()


def contiguous(tensor: Tensor | None) -> Tensor | None:
    """`tensor` in contiguous memory, or None."""
    return None if tensor is None else tensor.resolve_neg().contiguous()


def place(sequence: Tensor | None, reverse: bool) -> tuple[int | None, int, int]:
    """Address of the first step, and strides over time and batch."""
    if sequence is None:
        return None, 0, 0
    time, batch, _ = sequence.stride()
    start = sequence.data_ptr()
    if reverse:
        start += (len(sequence) - 1) * time * sequence.element_size()
        time = -time
    return start, time, batch
