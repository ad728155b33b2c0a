"""Options of FrankWolfe: presets of the paper and its authors' code, and the allowed values."""

import math
from typing import Any

from torch import Tensor

from rnnopt.optimizers.frank_wolfe.lmo import SPECTRAL_METHODS, check_norm

# The algorithm as printed, without this library's additions.
PLAIN: dict[str, Any] = dict(
    norm=2,
    scale="norm",
    outer="adam",
    momentum=0.0,
    normalize=False,
    adapt=0.0,
    vertex_momentum=0.0,
    nesterov=False,
    average=None,
)
# `authors_code` is https://github.com/YunYunY/FW_RNN_optimizer: K = 10, and every partial mean is
# added to the weights, instead of the latest one to the anchor.
PRESETS: dict[str, dict[str, Any]] = {
    "paper": PLAIN | dict(ball="global", inner_steps=5),
    "authors_code": PLAIN | dict(ball="tensor", inner_steps=10, inner_iterate="cumulative"),
}
# For long sequences with rare events to remember, such as the adding problem: averages vertices
# instead of gradients, and moves input weights faster than recurrent ones.
PRESETS["long_memory"] = dict(
    norm="spectral",
    momentum=0.0,
    adapt=0.0,
    vertex_momentum=0.97,
    nesterov=True,
    scale="muon",
    average=8.0,
)
CHOICES = {
    "ball": ("tensor", "gate", "global"),
    "scale": ("norm", "entry", "muon"),
    "inner_weights": ("uniform", "increasing"),
    "inner_iterate": ("paper", "cumulative"),
    "spectral": tuple(SPECTRAL_METHODS),
}


def check_group(group: dict[str, Any], first: dict[str, Any]) -> None:
    """Raises a ValueError that names the first option outside its range."""
    check_norm(group["norm"])
    for name, allowed in CHOICES.items():
        if group[name] not in allowed:
            wanted = ", ".join(repr(choice) for choice in allowed)
            raise ValueError(f"{name} must be one of {wanted}, got {name}={group[name]!r}.")
    at_least_zero = ["lr", "radius", "eta", "weight_decay", "radius_scale", "average", "adapt"]
    for name in at_least_zero:
        value = group[name]
        if isinstance(value, bool | str):
            raise ValueError(f"FrankWolfe needs a finite {name} >= 0, got {name}={value!r}.")
        if isinstance(value, Tensor) and value.numel() != 1:
            raise ValueError(f"Tensor {name} must be 1-element, got {name}={value}.")
        if value is None and name not in ("radius", "eta", "average"):
            raise ValueError(f"FrankWolfe needs a finite {name} >= 0, got {name}=None.")
        if value is not None and not 0 <= float(value) < math.inf:
            raise ValueError(f"FrankWolfe needs a finite {name} >= 0, got {name}={value}.")
    for name in ("momentum", "vertex_momentum"):
        if not isinstance(group[name], int | float) or not 0 <= group[name] < 1:
            raise ValueError(f"FrankWolfe needs 0 <= {name} < 1, got {name}={group[name]}.")
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
    if group["ball"] == "global" and group["norm"] == "spectral" and group["scale"] != "norm":
        raise ValueError('ball="global" with norm="spectral" needs scale="norm".')
    if group["scale"] == "muon" and group["norm"] != "spectral":
        raise ValueError('scale="muon" needs norm="spectral".')
    if any(p.is_complex() for p in group["params"]):
        raise ValueError("FrankWolfe needs real tensors, got a complex one.")
