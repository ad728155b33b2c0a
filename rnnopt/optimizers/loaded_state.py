"""A state that is loaded with the types it was saved in, and as the caller's hooks left it.

`torch.optim.Optimizer.load_state_dict` casts every tensor of a state to the type of its weight, so
that float32 sums of bfloat16 weights are rounded and integers become fractions. What casts is a
method of `Optimizer` that torch calls by that name, not by the optimizer's own class, so that no
subclass can override it. Here tensors pass through it inside a wrapper that torch does not look
into: a hook wraps them after all hooks of the caller, `__setstate__` unwraps them before any.
"""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer


@dataclass(frozen=True)
class _Kept:
    """A tensor on its way through torch's casts."""

    tensor: Tensor


@contextmanager
def types_kept(optimizer: Optimizer, names: Collection[str] | None = None) -> Iterator[None]:
    """Inside, torch's `load_state_dict` of `optimizer` copies tensors and keeps their types.

    The optimizer's `__setstate__` must call `unwrap_` on what it gets.

    Args:
        optimizer: the one that loads.
        names: of the entries of a weight's state of which this holds, with all that is in them;
            None is every entry. torch casts the others. It is torch, too, that places "step".
    """

    def wrap(_: Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
        return {**state_dict, "state": _wrapped(state_dict["state"], names)}

    handle = optimizer.register_load_state_dict_pre_hook(wrap)  # the last of them
    try:
        yield
    finally:
        handle.remove()


def unwrap_(state: dict[str, Any]) -> None:
    """Puts tensors of its own, each on its weight's device, in place of what `types_kept` wrapped.

    Args:
        state: what `__setstate__` gets, or an optimizer's pickled state, which has nothing wrapped.
    """
    for p, entries in state.get("state", {}).items():
        _unwrap_entries_(entries, p.device if isinstance(p, Tensor) else None)


def _wrapped(state: dict[Any, Any], names: Collection[str] | None) -> dict[Any, Any]:
    """Weight → entries → values, the tensors copied or wrapped."""
    return {
        key: {
            name: _wrap(name, value, names is None or name in names) for name, value in own.items()
        }
        if isinstance(own, dict)
        else own
        for key, own in state.items()
    }


def _wrap(name: str, value: Any, kept: bool) -> Any:
    if isinstance(value, dict):
        return {key: _wrap(key, inner, kept) for key, inner in value.items()}
    if not isinstance(value, Tensor):
        return value
    return _Kept(value) if kept and name != "step" else value.clone()


def _unwrap_entries_(entries: Any, device: torch.device | None) -> None:
    if not isinstance(entries, dict):
        return
    for name, value in entries.items():
        if isinstance(value, _Kept):
            entries[name] = value.tensor.detach().to(device or value.tensor.device, copy=True)
        else:
            _unwrap_entries_(value, device)
