"""The paper's methods and their competitors as settings of runs.

"Adam is used as the optimizer for all the methods": so the paper's "SGD" is Adam on full
back-propagation here, and its own method is Adam on the pseudo-gradient of K steps with p = 2, one
ball per tensor and the radius tied to the learning rate, as in the authors' code.
"""

from typing import Any

from rnnopt.experiments.reproduce.study import Row


def ours(inner_steps: int | None, norm: str = "2") -> str:
    """The paper's optimizer with K inner steps; None leaves K to the chunks of truncation."""
    steps = "" if inner_steps is None else f",inner_steps={inner_steps}"
    return (
        f"frank-wolfe:norm={norm}{steps},outer=adam,ball=tensor,scale=norm,momentum=0,"
        "normalize=false,adapt=0,nesterov=false,average=none"
    )


def row(
    label: str,
    optimizer: str,
    published: dict[str, float] | None = None,
    rate_unit: float = 1.0,
    shown: bool = False,
    **settings: Any,
) -> Row:
    """A row from an optimizer and fields of RunConfig."""
    return Row(label, dict(optimizer=optimizer, **settings), published or {}, rate_unit, shown)


def literature(label: str, column: str, published: float) -> Row:
    """A number from elsewhere, printed beside ours."""
    return Row(f"{label} (literature)", None, {column: published})


def rnnopts(**settings: Any) -> Row:
    """The row of this library's FrankWolfe, with its default options."""
    return row("rnnopt FrankWolfe", "frank-wolfe", shown=True, **settings)


# Not in the paper: today's strongest methods, with the same budget and number of trials.
STRONGEST = (
    row("Muon", "muon", shown=True),
    row("SOAP", "soap", shown=True),
    row("PSGD-Kron", "psgd-kron"),
    row("Schedule-Free AdamW", "schedule-free", schedule="constant"),
)
