"""Options of ASNAQ and AdaQN: the presets of the paper and of the authors' code, what is allowed.

The authors' code is `_minimize_adaNAQ` of https://github.com/indra-ipd/scipy.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor

from rnnopt.config.options import Options

# Numbers that every group holds, all groups the same.
COUNTERS: dict[str, Any] = dict(
    count=0,  # iterates in the sum
    averages=0,
    gradients=0,  # in the history
    next_gradient=0,  # row of the history that is written next
    gradients_seen=0,  # in the sum of squares
    pairs=0,
    next_pair=0,
    pair_products=None,  # s_i · y_j row by row, a list of memory² numbers
    rejections=0,
    skipped=0,  # steps with a gradient that was not finite
    skipped_in_a_row=0,
)
DIFFERENCE_SHIFT = 1.0  # λ of curvature="difference", as in the authors' oLNAQ


@dataclass(frozen=True, kw_only=True)
class AdaQNOptions(Options):
    """What few users set of `AdaQN`.

    Args:
        update_every: L, steps between averages.
        normalize: divide the direction by its length, so that lr is the length of a step.
        error_control: test the loss of each average, and go back if it is worse.
        scaling: H0 from "history", all squares, or "window", those of the stored gradients.
        average_of: whether w_s sums the weights "before" or "after" each update.
        anchor_moves: w_o becomes w_n "always", or only "on_pair", with a pair that was kept.
        fisher_mean: divide y by |F|.
        curvature_epsilon: ε of the test s·y > ε y·y.
        scaling_epsilon: ε in H0.
        fisher_dtype: "same" as the weights, or "bfloat16", which halves the memory of F.
    """

    removed: ClassVar[Mapping[str, Any]] = {"clear": "all"}

    update_every: int = 5
    normalize: bool = False
    error_control: bool = True
    scaling: Literal["history", "window"] = "history"
    average_of: Literal["before", "after"] = "before"
    anchor_moves: Literal["always", "on_pair"] = "always"
    fisher_mean: bool = True
    curvature_epsilon: float = 1e-4
    scaling_epsilon: float = 1e-4
    fisher_dtype: Literal["same", "bfloat16"] = "same"


@dataclass(frozen=True, kw_only=True)
class ASNAQOptions(AdaQNOptions):
    """What few users set of `ASNAQ`: that of `AdaQNOptions` with other defaults, and more.

    Args:
        update_every: L, steps between averages.
        normalize: divide the direction by its length.
        momentum_factor: φ ≥ 1, by which momentum grows and shrinks.
        momentum_range: (μ_min, μ_max), each in [0, 1); it starts at μ_min.
        lookahead: take the first gradient at w + μ v rather than at w.
        second_gradient: ask for g⁺ at the new weights, as in the paper; without, g takes its place
            and a step costs one gradient.
        curvature: "fisher", y = Σ F_i (F_i·s) / |F| every L steps; "difference", y = g⁺ - g + s
            with s = α d at every step, as in the authors' oLNAQ.

    Example:
        >>> optimizer = ASNAQ(model.parameters(), options=ASNAQOptions(update_every=50))
    """

    removed: ClassVar[Mapping[str, Any]] = {
        **AdaQNOptions.removed,
        "difference_shift": DIFFERENCE_SHIFT,
    }

    update_every: int = 20
    normalize: bool = True
    momentum_factor: float = 1.1
    momentum_range: tuple[float, float] = (0.1, 0.99)
    lookahead: bool = True
    second_gradient: bool = False
    curvature: Literal["fisher", "difference"] = "fisher"


# Published settings; both were run at lr=0.01.
PRESETS = {
    "paper": ASNAQOptions(update_every=5, second_gradient=True),
    "authors_code": ASNAQOptions(
        update_every=5,
        second_gradient=True,
        momentum_factor=1.01,
        scaling="window",
        average_of="after",
        anchor_moves="on_pair",
        fisher_mean=False,
    ),
}
CHOICES = {
    "scaling": ("history", "window"),
    "curvature": ("fisher", "difference"),
    "average_of": ("before", "after"),
    "anchor_moves": ("always", "on_pair"),
    "fisher_dtype": ("same", "bfloat16"),
}
FLAGS = ("normalize", "lookahead", "second_gradient", "error_control", "fisher_mean")
FREE = ("lr", "weight_decay")  # may differ between groups


def check_group(
    who: str, group: dict[str, Any], first: dict[str, Any], options: Iterable[str]
) -> None:
    """Raises ValueError that names the first of `options` outside its range."""
    for name in FLAGS:
        if name in group and not isinstance(group[name], bool):
            raise ValueError(f"{name} must be true or false, got {name}={group[name]!r}.")
    for name, allowed in CHOICES.items():
        if name in group and group[name] not in allowed:
            wanted = ", ".join(repr(choice) for choice in allowed)
            raise ValueError(f"{name} must be one of {wanted}, got {name}={group[name]!r}.")
    for name in ("lr", "weight_decay", "curvature_epsilon", "scaling_epsilon"):
        if name in group:
            check_number(who, name, group[name])
    for name in ("tolerance", "momentum_factor"):
        if name in group:
            check_number(who, name, group[name], least=1)
    for name, least in (("memory", 0), ("fisher_memory", 0), ("update_every", 1)):
        if name in group:
            check_count(who, name, group[name], least)
    if "momentum_range" in group:
        _check_range(who, group["momentum_range"])
    if group["scaling"] == "window" and not group["fisher_memory"]:
        raise ValueError('scaling="window" needs fisher_memory >= 1, got fisher_memory=0.')
    if any(p.is_complex() for p in group["params"]):
        raise ValueError(f"{who} needs real tensors, got a complex one.")
    if group["curvature"] == "difference" and not group["second_gradient"]:
        raise ValueError(
            'curvature="difference" needs second_gradient=True, got second_gradient=False.'
        )
    for name in options:
        if name not in FREE and group[name] != first[name]:
            raise ValueError(
                f"all groups must share {name}, got {name}={first[name]!r} and {group[name]!r}."
            )


def check_number(who: str, name: str, value: Any, least: float = 0) -> None:
    """Raises ValueError unless `value` is one finite number, at least `least`."""
    if isinstance(value, Tensor) and value.numel() != 1:
        raise ValueError(f"Tensor {name} must be 1-element, got {name}={value}.")
    number = isinstance(value, int | float | Tensor) and not isinstance(value, bool)
    if not number or not least <= float(value) < math.inf:
        raise ValueError(f"{who} needs a finite {name} >= {least}, got {name}={value!r}.")


def check_count(who: str, name: str, value: Any, least: int) -> None:
    """Raises ValueError unless `value` is a whole number, at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{who} needs an integer {name} >= {least}, got {name}={value!r}.")


def _check_range(who: str, bounds: Any) -> None:
    try:
        low, high = (float(bound) for bound in bounds)
    except (TypeError, ValueError):
        low = high = math.nan
    if not 0 <= low <= high < 1:
        raise ValueError(
            f"{who} needs momentum_range=(low, high) with 0 <= low <= high < 1,"
            f" got momentum_range={bounds!r}."
        )
