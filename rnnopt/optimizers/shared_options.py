"""What every torch optimizer may be asked for, in its constructor and in a parameter group alike.

`maximize` is an option of every group. How a step is computed is no choice here: a step works on
whole lists of tensors, so `foreach` is taken and changes nothing. `capturable`, `differentiable`
and `fused` promise what no optimizer here can do, so they are taken while they ask for nothing.
"""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, TypedDict

from rnnopt.config.options import Options


class StepOptions(TypedDict, total=False):
    """How a step is computed, as torch's optimizers have it; nothing of it is stored."""

    foreach: bool | None
    capturable: bool | None
    differentiable: bool | None
    fused: bool | None


STEP_OPTIONS = ("foreach", "capturable", "differentiable", "fused")
ALIKE, SHORTEST = 0.85, 5  # of two names, and letters, from which one is the other misspelt


def check_step_options(who: str, options: Iterable[tuple[str, Any]]) -> None:
    """Raises an error for a step option that asks for what `who` has not.

    Args:
        who: the optimizer's name.
        options: names and values; others than step options are passed over.

    Raises:
        ValueError: for one that is true, `foreach` apart, or neither true, false nor None.
    """
    for name, value in options:
        if name not in STEP_OPTIONS or value is None or value is False:
            continue
        if name != "foreach":
            raise ValueError(f"{who} has no {name} step: {name} must be False, got {value!r}.")
        if value is not True:
            raise ValueError(f"foreach must be true, false or None, got foreach={value!r}.")


def check_keywords(who: str, options: Mapping[str, Any]) -> None:
    """As `check_step_options`, for what a constructor got besides its own arguments.

    Raises:
        TypeError: for any other keyword, as Python does.
    """
    for name in options:
        if name not in STEP_OPTIONS:
            raise TypeError(f"{who}.__init__() got an unexpected keyword argument {name!r}")
    check_step_options(who, options.items())


def settle_group(who: str, group: dict[str, Any], options: Iterable[str]) -> None:
    """Checks what a new parameter group holds besides its options, and drops the step options.

    Other keys stay, as torch keeps them, but for one that reads like an option misspelt.

    Args:
        who: the optimizer's name.
        group: the group, which has got its defaults.
        options: names of the optimizer's options.

    Raises:
        ValueError: for `maximize` other than true or false, a step option that asks for what `who`
            has not, an options object, a key that is nearly an option.
    """
    if not isinstance(group["maximize"], bool):
        raise ValueError(f"maximize must be true or false, got maximize={group['maximize']!r}.")
    check_step_options(who, group.items())
    if isinstance(group.get("options"), Options):
        raise ValueError(
            f"a parameter group of {who} takes its options one by one, got"
            f" options={group['options']!r}."
        )
    known = [*options, *STEP_OPTIONS]
    for name in [name for name in group if name not in ("params", "param_names", *known)]:
        meant = _misspelt(name, known)
        if meant is not None:
            raise ValueError(
                f"a parameter group of {who} has no option {name!r}: did you mean {meant!r}?"
            )
    for name in STEP_OPTIONS:
        group.pop(name, None)


def _misspelt(name: Any, known: list[str]) -> str | None:
    """The option that a name is but for capitals, underscores or a letter or two; else None."""
    letters = str(name).lower().replace("_", "")
    plain = {option.replace("_", ""): option for option in known}
    if letters in plain:
        return plain[letters]
    long = [option for option in plain if len(option) >= SHORTEST <= len(letters)]
    near = difflib.get_close_matches(letters, long, 1, ALIKE)
    return plain[near[0]] if near else None
