"""Options of ADMM: what is allowed."""

from math import inf
from numbers import Real
from typing import Any, Literal

from torch import Tensor

Variant = Literal["exact", "blocks", "paper"]
VARIANTS = ("exact", "blocks", "paper")
LOSSES = {
    "cross-entropy": "cross_entropy",
    "mse": "squared_error",
    "binary-mse": "squared_error",
}


# What each variant looks at, besides lr, whose zero stops them all.
_BLOCKS = {
    "sweeps", "penalty_a", "penalty_s", "penalty_o", "inner_penalty", "multipliers", "coupling",
    "recurrent_decay", "relaxation", "balance", "keep_batch",
}  # fmt: skip
USED = {
    "exact": {"proximal_weight", "penalty", "max_change", "memory", "limit", "keep_batch"},
    "blocks": _BLOCKS | {"proximal_weight", "order"},
    "paper": _BLOCKS | {"proximal_weight", "identity_for_tanh"},
}


def check_use(variant: str, options: dict[str, Any], defaults: dict[str, Any]) -> None:
    """Raises ValueError for an option that was set and that the variant does not look at."""
    for name, value in options.items():
        if name in defaults and name not in USED[variant] and value != defaults[name]:
            users = " and ".join(repr(one) for one, used in USED.items() if name in used)
            raise ValueError(
                f"variant={variant!r} has no use for {name}, got {name}={value!r}: it is an option"
                f" of {users}."
            )


def check_options(group: dict[str, Any]) -> None:
    """Raises ValueError that names the first option outside its range."""
    for name, allowed in (
        ("variant", VARIANTS),
        ("multipliers", ("last", "all")),
        ("order", ("parallel", "backward")),
    ):
        if group[name] not in allowed:
            wanted = ", ".join(repr(choice) for choice in allowed)
            raise ValueError(f"{name} must be one of {wanted}, got {name}={group[name]!r}.")
    for name in ("coupling", "identity_for_tanh", "balance", "keep_batch"):
        if not isinstance(group[name], bool):
            raise ValueError(f"{name} must be true or false, got {name}={group[name]!r}.")
    positive = ("proximal_weight", "penalty", "max_change", "inner_penalty", "relaxation",
                "penalty_a", "penalty_s", "penalty_o")  # fmt: skip
    for name in (*positive, "lr", "recurrent_decay", "memory", "limit"):
        value = group[name]
        if value is None and name == "proximal_weight":
            continue
        if isinstance(value, bool) or not isinstance(value, Real | Tensor):
            raise ValueError(f"ADMM needs a number for {name}, got {name}={value!r}.")
        value, least = float(value), ">" if name in positive else ">="
        if name == "max_change" and value == inf:
            continue  # no trust region
        if not 0 <= value < inf or (value == 0 and name in positive):
            raise ValueError(f"ADMM needs a finite {name} {least} 0, got {name}={value}.")
        high = dict(memory=1, relaxation=2).get(name, inf)
        if value >= high:
            raise ValueError(f"ADMM needs {name} < {high}, got {name}={value}.")
    sweeps = group["sweeps"]
    if isinstance(sweeps, bool) or not isinstance(sweeps, int) or sweeps < 1:
        raise ValueError(f"ADMM needs an integer sweeps >= 1, got sweeps={sweeps!r}.")
