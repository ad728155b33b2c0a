"""Options of FrankWolfe: what few users set, presets of the paper and its code, what is allowed."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor

from rnnopt.config.options import Options
from rnnopt.optimizers.frank_wolfe.lmo import SPECTRAL_METHODS, check_norm


@dataclass(frozen=True, kw_only=True)
class FrankWolfeOptions(Options):
    """What few users set of `FrankWolfe`.

    Args:
        radius: radius of the ball, read at the first inner step. None means lr, so that a
            learning-rate schedule shrinks the ball.
        momentum: μ of the average m ← μ m + (1-μ) g that the oracle sees instead of g. 0 is off.
        nesterov: whether the oracle sees μ m + (1-μ) g instead of m. No effect without momentum.
        adapt: κ, by which the factor ρ of each ball's radius follows the agreement of gradients: it
            grows while they agree and shrinks where steps overshoot. 0 is off. Learnt balls:
            log ρ ← log ρ + κ min(1, 100/t) cos(g, m)³ at gradient t, m the average before g. Fixed
            norms: log ρ ← log ρ + κ cos(g, m), within 1/16 … 16; no effect without momentum or in a
            global ball.
        growth_decay: c ≥ 0, part of the growth of a matrix by noise that is taken back. The noise
            of steps of length d adds about ½ (1+μ)/(1-μ) d² / ‖W‖ to the norm of W at each step.
            Each commit shrinks W by c times that, times 1 - ‖W_0‖²/‖W‖², so that it never shrinks
            below its first norm. 0 is off. No effect with fixed norms or another outer optimizer.
        normalize: whether to divide each tensor's gradient by its Euclidean norm before it enters
            m, so that a rare large gradient counts no more than others. No effect in a learnt ball,
            which has a unit of its own, or without momentum.
        scale: unit of a fixed norm's radius, and of lr with outer="plain": "norm", the norm itself,
            as in the paper; "entry", the size of a typical entry, n^{1/p} norms (spectral norm:
            √max(rows, columns)), so that a radius means the same for every norm and shape.
        eta: step length of outer="plain" in radii; None means lr/radius, a step of length lr.
        inner_weights: "uniform" 1/k, or "increasing" 2/(k+1), which favours later vertices.
        inner_iterate: "paper", probe at anchor + displacement; "cumulative" (the authors' code),
            each displacement is added to the last probe, up to K radii from the anchor.
        decoupled_weight_decay: whether weight_decay shrinks the weights at each commit; false adds
            it to each inner gradient instead (L2).
        spectral: "polar-express", "svd" (exact) or "newton-schulz" (Muon's, which may leave the
            ball by 20 %).
        communicate: "gradient", whoever computes gradients averages them, or "commit". This and the
            next two hold for all groups.
        compression: what a commit sends: "none", the displacements; "int8", a byte per weight, for
            at most 128 processes; "sign", a bit per weight and process and a byte of the mean,
            where entries of 0 move to and fro. The next commit adds the rounding errors. The mean
            is shortened into the ball, and the part cut off is lost. Always float32.
        overlap: whether a commit sends its displacements while it applies the mean of the previous
            ones, which has arrived meanwhile. The first commit moves nothing.

    Example:
        >>> options = FrankWolfeOptions(radius=0.01, momentum=0.95)
        >>> optimizer = FrankWolfe(model.parameters(), options=options)
    """

    removed: ClassVar[Mapping[str, Any]] = {"vertex_momentum": 0.0, "radius_scale": 1.0}
    instead: ClassVar[Mapping[str, str]] = {
        "vertex_momentum": "use the defaults of frank-wolfe",
        "radius_scale": "set radius",
    }

    radius: float | None = None
    momentum: float = 0.85
    nesterov: bool = True
    adapt: float = 0.03
    growth_decay: float = 0.5
    normalize: bool = True
    scale: Literal["entry", "norm"] = "entry"
    eta: float | None = None
    inner_weights: Literal["uniform", "increasing"] = "uniform"
    inner_iterate: Literal["paper", "cumulative"] = "paper"
    decoupled_weight_decay: bool = True
    spectral: Literal["polar-express", "svd", "newton-schulz"] = "polar-express"
    communicate: Literal["gradient", "commit"] = "gradient"
    compression: Literal["none", "int8", "sign"] = "none"
    overlap: bool = False

    def of_groups(self) -> dict[str, Any]:
        """The fields that a parameter group holds, and may override."""
        return {name: value for name, value in dict(**self).items() if name not in OF_ALL_GROUPS}


class Presets(dict[str, dict[str, Any]]):
    """Presets by name, which say what to use in place of one that is gone."""

    def __missing__(self, name: str) -> dict[str, Any]:
        if name == "long_memory":
            raise KeyError(f"{name} is gone: use the defaults, FrankWolfe(params)")
        raise KeyError(name)


OF_ALL_GROUPS = ("communicate", "compression", "overlap")  # attributes of the optimizer
# What every group holds besides options.
COUNTERS: dict[str, Any] = dict(
    train_mode=True,  # whether the model holds the training weights
    inner_step=0,  # inner gradients taken since the last commit
    commits=0,  # commits that moved the group's weights
    peak_lr=0.0,  # the largest learning rate of a commit
    probe_radius=0.0,  # radius of this cycle, fixed at its first inner step
)
# The algorithm as printed, without this library's additions.
PLAIN: dict[str, Any] = dict(momentum=0.0, normalize=False, adapt=0.0, nesterov=False, scale="norm")
# Arguments of FrankWolfe. `authors_code` is https://github.com/YunYunY/FW_RNN_optimizer: K = 10,
# and every partial mean is added to the weights, instead of the latest one to the anchor.
PRESETS = Presets(
    paper=dict(
        norm=2,
        outer="adam",
        average=None,
        ball="global",
        inner_steps=5,
        options=FrankWolfeOptions(**PLAIN),
    ),
    authors_code=dict(
        norm=2,
        outer="adam",
        average=None,
        ball="tensor",
        inner_steps=10,
        options=FrankWolfeOptions(**PLAIN, inner_iterate="cumulative"),
    ),
)
CHOICES = {
    "ball": ("tensor", "gate", "global"),
    "scale": ("norm", "entry"),
    "inner_weights": ("uniform", "increasing"),
    "inner_iterate": ("paper", "cumulative"),
    "spectral": tuple(SPECTRAL_METHODS),
}


def check_group(group: dict[str, Any], first: dict[str, Any]) -> None:
    """Raises a ValueError that names the first option outside its range."""
    refuse_removed(group)
    check_norm(group["norm"])
    for name, allowed in CHOICES.items():
        if group[name] not in allowed:
            wanted = ", ".join(repr(choice) for choice in allowed)
            raise ValueError(f"{name} must be one of {wanted}, got {name}={group[name]!r}.")
    for name in ("lr", "radius", "eta", "weight_decay", "average", "adapt", "growth_decay"):
        value = group[name]
        if isinstance(value, bool | str):
            raise ValueError(f"FrankWolfe needs a finite {name} >= 0, got {name}={value!r}.")
        if isinstance(value, Tensor) and value.numel() != 1:
            raise ValueError(f"Tensor {name} must be 1-element, got {name}={value}.")
        if value is None and name not in ("radius", "eta", "average"):
            raise ValueError(f"FrankWolfe needs a finite {name} >= 0, got {name}=None.")
        if value is not None and not 0 <= float(value) < math.inf:
            raise ValueError(f"FrankWolfe needs a finite {name} >= 0, got {name}={value}.")
    momentum = group["momentum"]
    if not isinstance(momentum, int | float) or not 0 <= momentum < 1:
        raise ValueError(f"FrankWolfe needs 0 <= momentum < 1, got momentum={momentum}.")
    steps = group["inner_steps"]
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ValueError(f"FrankWolfe needs an integer inner_steps >= 1, got inner_steps={steps}.")
    gates = group["gates"]
    if gates != "auto" and (not isinstance(gates, int) or isinstance(gates, bool) or gates < 1):
        raise ValueError(f'gates must be "auto" or an integer >= 1, got gates={gates!r}.')
    shared = ["inner_steps"]
    if "global" in (group["ball"], first["ball"]):
        shared += ["ball", "norm", "scale"]
    for name in shared:
        if group[name] != first[name]:
            raise ValueError(
                f"all groups must share {name}, got {name}={first[name]!r} and {group[name]!r}."
            )
    if group["ball"] == "global" and group["norm"] == "learnt":
        raise ValueError('ball="global" needs a fixed norm, got norm="learnt".')
    if group["ball"] == "global" and group["norm"] == "spectral" and group["scale"] != "norm":
        raise ValueError('ball="global" with norm="spectral" needs scale="norm".')
    if any(p.is_complex() for p in group["params"]):
        raise ValueError("FrankWolfe needs real tensors, got a complex one.")


def check_saved(groups: list[dict[str, Any]], outer: str) -> None:
    """Raises ValueError for groups of a saved state that `outer` and today's options cannot go on.

    Args:
        groups: of the state, also of one that an earlier version saved.
        outer: what the groups have as `outer` here.
    """
    for group in groups:
        refuse_removed(group)
        theirs = group.get("outer", outer)
        if theirs != outer:
            raise ValueError(f"the state was saved with outer={theirs!r}, got outer={outer!r}.")


def complete_groups_(groups: list[dict[str, Any]], defaults: dict[str, Any]) -> None:
    """Fits groups and defaults that an earlier version saved to the options of this one."""
    for options in (defaults, *groups):
        FrankWolfeOptions.drop_removed(options)
    for group in groups:
        for name, default in defaults.items():
            if name != "differentiable":  # torch's own option, unused here
                group.setdefault(name, default)


def refuse_removed(group: dict[str, Any]) -> None:
    """Raises ValueError for options that are gone, unless they have the value that all have now."""
    FrankWolfeOptions.drop_removed(dict(group))
    if group.get("scale") == "muon":
        raise ValueError('FrankWolfe no longer has scale="muon": use scale="entry", the default.')
