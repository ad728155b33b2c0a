"""Options of ADMM: what is allowed."""

from typing import Any, Literal

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
    bounds = dict(
        lr=(0, None), proximal_weight=(0, None), penalty=(0, None), max_change=(0, None),
        inner_penalty=(0, None), recurrent_decay=(0, None), memory=(0, 1), limit=(0, None),
        relaxation=(0, 2), penalty_a=(0, None), penalty_s=(0, None), penalty_o=(0, None),
    )  # fmt: skip
    for name, (low, high) in bounds.items():
        if group[name] is None and name == "proximal_weight":
            continue
        if isinstance(group[name], bool | str) or group[name] is None:
            raise ValueError(f"ADMM needs a number for {name}, got {name}={group[name]!r}.")
        value = float(group[name])
        if name == "max_change" and value == float("inf"):
            continue  # no trust region
        if not value >= low or not value < (float("inf") if high is None else high):
            below = "" if high is None else f" and < {high}"
            raise ValueError(f"ADMM needs {name} >= {low}{below}, got {name}={group[name]}.")
    positive = ("proximal_weight", "penalty", "max_change", "inner_penalty", "relaxation")
    for name in (*positive, "penalty_a", "penalty_s", "penalty_o"):
        if group[name] is not None and float(group[name]) == 0:
            raise ValueError(f"ADMM needs {name} > 0, got {name}={group[name]}.")
    sweeps = group["sweeps"]
    if isinstance(sweeps, bool) or not isinstance(sweeps, int) or sweeps < 1:
        raise ValueError(f"ADMM needs an integer sweeps >= 1, got sweeps={sweeps!r}.")
