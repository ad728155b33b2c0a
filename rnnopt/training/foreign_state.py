"""The state of an optimizer of others: saved as plain values, and loaded as it was saved.

torch's `Optimizer.load_state_dict` casts a state to the type of its weight, so that a sum in
float64 goes on rounded, and makes a generator of a text. And an optimizer may unpickle bytes of its
own state, which a forged checkpoint could hold. Neither is known of an optimizer of another
package, so both are seen to here.
"""

import io
from collections import OrderedDict
from collections.abc import Iterator
from enum import IntEnum
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from rnnopt.config.errors import UserError

PLAIN = (Tensor, bool, int, float, str, bytes, type(None), torch.dtype, torch.device, torch.Size)


def plain(state: Any) -> Any:
    """The same state, with whole numbers in place of members of an IntEnum."""
    if isinstance(state, IntEnum):
        return int(state)
    if type(state) in (dict, OrderedDict):
        return type(state)((key, plain(value)) for key, value in state.items())
    if type(state) in (list, tuple):
        return type(state)(map(plain, state))
    return state


def check_readable(state: dict[str, Any], name: str) -> None:
    """Raises UserError if what is saved of a state could not be loaded again.

    Args:
        state: of the optimizer.
        name: of its class.
    """
    file = io.BytesIO()
    try:
        torch.save(state, file)
        file.seek(0)
        torch.load(file, weights_only=True)
    except Exception as error:  # many kinds: pickle calls code of the objects
        kinds = (type(one) for _, one in _values(state) if not isinstance(one, PLAIN))
        found = next((f", got {kind.__module__}.{kind.__qualname__}" for kind in kinds), "")
        raise UserError(
            f"the state of {name} must be of tensors, numbers, texts, lists and dicts, to be loaded"
            f" again without unpickling objects{found}."
        ) from error


def load_as_saved(optimizer: Optimizer, state: dict[str, Any], name: str) -> None:
    """Loads a state with the types of its tensors.

    Args:
        optimizer: the one that loads.
        state: what its `state_dict` returned.
        name: of its class.

    Raises:
        UserError: it holds bytes that a state of this optimizer does not hold.
    """
    own = dict(_values(optimizer.state_dict()))
    for place, found in _values(state):
        if isinstance(found, bytes | bytearray) and own.get(place) != found:
            raise UserError(
                f"the state of {name} must hold no other bytes than a new one, for its code may"
                f" unpickle them, got others in {'/'.join(place)}."
            )
    optimizer.load_state_dict(dict(state))  # some take out what is theirs
    _restore_types(state.get("state"), optimizer.state_dict().get("state"))


def _values(
    state: Any, place: tuple[str, ...] = (), seen: set[int] | None = None
) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The keys and values in nested dicts, lists, tuples and sets, with their places.

    What stands in several places is visited in the first of them: a small file may nest it so that
    there is no end to the places.
    """
    seen = set() if seen is None else seen
    if not isinstance(state, dict | list | tuple | set | frozenset):
        yield place, state
        return
    if id(state) in seen:
        return
    seen.add(id(state))
    pairs = state.items() if isinstance(state, dict) else enumerate(state)
    for key, value in pairs:
        yield from _values(key, (*place, "key"), seen)
        yield from _values(value, (*place, str(key)), seen)


def _restore_types(saved: Any, loaded: Any) -> Any:
    """What was loaded, with the saved values in place of those that were cast, texts among them."""
    if isinstance(saved, str | int | float):
        return saved
    if isinstance(saved, Tensor) and isinstance(loaded, Tensor):
        same = saved.dtype == loaded.dtype
        return loaded if same else saved.detach().to(loaded.device, copy=True)
    if isinstance(saved, dict) and isinstance(loaded, dict):
        for key in saved.keys() & loaded.keys():
            loaded[key] = _restore_types(saved[key], loaded[key])
    elif type(saved) is type(loaded) in (list, tuple) and len(saved) == len(loaded):
        return type(loaded)(map(_restore_types, saved, loaded))
    return loaded
