"""Options of ADMM, and what is allowed."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from numbers import Real
from typing import Any, ClassVar, Literal

from torch import Tensor

from rnnopt.config.options import Options

Variant = Literal["exact", "blocks", "paper"]
VARIANTS = ("exact", "blocks", "paper")
LOSSES = {
    "cross-entropy": "cross_entropy",
    "mse": "squared_error",
    "binary-mse": "squared_error",
}


@dataclass(frozen=True, kw_only=True)
class ADMMOptions(Options):
    """What few users set of `ADMM`, above all of its variants "blocks" and "paper".

    Args:
        limit: "exact": how many times the length of the farthest possible minimiser the change of
            a sample's trajectory may have.
        sweeps: "blocks", "paper": iterations a step.
        penalty_a: "blocks", "paper": ρ1, the penalty of the equation of a_T, the pre-activation of
            the last step.
        penalty_s: "blocks", "paper": ρ2, the penalty of the equation of s_T, the last state.
        penalty_o: "blocks", "paper": ρ3, the penalty of the equation of o_T, the last output.
        inner_penalty: "blocks", "paper": ν, the penalty of all equations at t < T.
        multipliers: "blocks", "paper": "last" step, as in the paper, or "all" steps; they start at
            zero on each new minibatch, so that they act only with keep_batch or sweeps > 1.
        order: "blocks": all s_t, then all a_t ("parallel"), or t = T … 1, s_t then a_t
            ("backward"), which takes the signal through all steps in one sweep.
        coupling: "blocks", "paper": whether s_t feels a_{t+1}; the paper drops that.
        identity_for_tanh: "paper": the paper's tanh(a) ≈ a in the a-block.
        recurrent_decay: "blocks", "paper": ω of the decay ω/2 ‖w‖² of the recurrent weights.
        relaxation: "blocks", "paper": over-relaxation, the factor of the multiplier steps, in
            (0, 2); 1 is none. With two convex blocks up to 1.618 is known to converge.

    Example:
        >>> options = ADMMOptions(sweeps=3)
        >>> trainer = ADMM(model, "cross-entropy", variant="blocks", options=options)
    """

    removed: ClassVar[Mapping[str, Any]] = {"balance": False}

    limit: float = 100.0
    sweeps: int = 1
    penalty_a: float = 1.0
    penalty_s: float = 1.0
    penalty_o: float = 1.0
    inner_penalty: float = 1.0
    multipliers: Literal["last", "all"] = "last"
    order: Literal["parallel", "backward"] = "backward"
    coupling: bool = True
    identity_for_tanh: bool = False
    recurrent_decay: float = 0.0
    relaxation: float = 1.0


# What each variant looks at, besides lr, whose zero stops them all.
_BLOCKS = {
    "sweeps", "penalty_a", "penalty_s", "penalty_o", "inner_penalty", "multipliers", "coupling",
    "recurrent_decay", "relaxation", "keep_batch",
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
    for name in ("coupling", "identity_for_tanh", "keep_batch"):
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
