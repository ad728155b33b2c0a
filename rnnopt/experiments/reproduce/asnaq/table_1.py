"""Table 1: cost of a step, as printed and as counted in torch. Nothing is trained.

It counts multiplications and additions, one each, and the numbers read and written by every tensor
operation of a step, without the gradients themselves, over whole cycles of L steps once the
memories are full.
"""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from rnnopt.config.options import call_flat
from rnnopt.experiments.reproduce.engine import Tell
from rnnopt.experiments.reproduce.results import Table, write_table
from rnnopt.optimizers.quasi_newton.adaqn import AdaQN
from rnnopt.optimizers.quasi_newton.asnaq import ASNAQ
from rnnopt.optimizers.quasi_newton.bfgs import BFGS
from rnnopt.optimizers.quasi_newton.naq import NAQ

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAME, TITLE = "asnaq/table-1", "cost of a step, without the gradients"
SIZES = {"cpu": (10**2, 10**3, 10**4, 10**5), "full": (10**3, 10**4, 10**5, 10**6), "quick": (100,)}
MIDDLE = (10, 100, 5)  # m_L, m_F, L as in the paper
SWEEPS = {"m_L": (2, 5, 10, 20), "m_F": (20, 50, 100, 200), "L": (2, 5, 10, 20)}
LARGEST_MATRIX = 2000  # most weights for BFGS and NAQ, which store a square matrix
GRADIENTS = {"BFGS": 2, "NAQ": 2, "adaQN": 1, "aSNAQ": 2}  # gradients per step
METHODS = tuple(GRADIENTS)
HEADINGS = (
    "method", "weights d", "m_L, m_F, L", "printed, multiply-adds / d",
    "counted, multiply-adds / d", "counted, numbers moved / d", "printed storage / d",
    "kept / d", "gradients a step",
)  # fmt: skip
# These count a multiplication and an addition; other operations count one per result.
MULTIPLY = dict.fromkeys(("mv", "addmv", "mm", "dot", "addcmul", "addr", "linalg_vector_norm"), 2)
FREE = ("view", "slice", "select", "detach", "split", "t", "alias", "as_strided", "unsqueeze",
        "_unsafe_view", "expand", "empty", "empty_like", "_local_scalar_dense", "transpose",
        "new_empty_strided", "empty_strided", "lift_fresh")  # fmt: skip


class Counter(TorchDispatchMode):
    """Counts arithmetic and traffic of the tensor operations inside a `with` block."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = 0.0
        self.numbers = 0.0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Runs the operation and adds its cost."""
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__.removeprefix("_foreach_").rstrip("_")
        if name in FREE:
            return result
        read = [t for t in tree_leaves(args) if isinstance(t, Tensor)]
        written = [t for t in tree_leaves(result) if isinstance(t, Tensor)] or read[:1]
        self.numbers += sum(t.numel() for t in read) + sum(t.numel() for t in written)
        if name not in ("copy", "clone", "cat", "fill", "zero", "zeros_like", "_to_copy"):
            largest = max((t.numel() for t in [*read, *written]), default=0)
            self.operations += MULTIPLY.get(name, 1) * largest
        return result


def build(method: str, size: int, memory: int, history: int, every: int) -> Any:
    """The optimizer with `size` weights in four tensors, and its weights."""
    generator = torch.Generator().manual_seed(0)
    params = [nn.Parameter(torch.randn(size // 4, generator=generator)) for _ in range(4)]
    if method in ("aSNAQ", "adaQN"):
        kind: Any = ASNAQ if method == "aSNAQ" else AdaQN
        options: dict[str, Any] = dict(memory=memory, fisher_memory=history, update_every=every)
        if kind is ASNAQ:
            options["second_gradient"] = True
        return call_flat(kind, params, lr=1e-3, **options), params
    whole: Any = BFGS if method == "BFGS" else NAQ
    return whole(params, lr=1e-3, line_search="fixed"), params


def cost(
    method: str, size: int, memory: int, history: int, every: int
) -> tuple[float, float, float]:
    """Multiply-adds and numbers moved per step, and numbers stored, all per weight."""
    optimizer, params = build(method, size, memory, history, every)
    size = sum(p.numel() for p in params)

    def closure() -> Tensor:
        for p in params:  # gradients of a quadratic, so that every pair is kept
            p.grad = 1e-3 * p.detach()
        return torch.zeros(())

    arguments: tuple[Callable[[], Tensor], ...] = (closure,)
    if method in ("aSNAQ", "adaQN"):
        arguments = (closure, lambda: torch.zeros(()))
    steps = every * (memory + 2) + history if len(arguments) == 2 else 5
    for _ in range(steps):
        optimizer.step(*arguments)
    with Counter() as counter:
        for _ in range(every):
            optimizer.step(*arguments)
    gradients = GRADIENTS[method]
    kept = sum(t.numel() for s in optimizer.state.values() for t in s.values())
    operations, numbers = counter.operations / every, counter.numbers / every
    # An operation is half of a multiply-add; the quadratic's gradients are not part of the step.
    own = (operations / size - gradients) / 2
    return own, numbers / size - 2 * gradients, kept / size


def printed(method: str, size: int, memory: int, history: int, every: int) -> tuple[float, float]:
    """Multiply-adds without gradients and losses, and numbers stored, per weight, as printed."""
    if method in ("BFGS", "NAQ"):
        return float(size), float(size)
    more = 2 if method == "adaQN" else 3
    return 4 * memory + history + more + 4 / every, 2 * memory + history


def settings_of(form: str) -> list[tuple[int, int, int, int]]:
    """(d, m_L, m_F, L) of every case; one number varies at a time."""
    sizes = SIZES[form]
    cases = [(size, *MIDDLE) for size in sizes]
    if form == "quick":
        return cases
    middle = sizes[len(sizes) // 2]
    for place, values in enumerate(SWEEPS.values()):
        for value in values:
            setting = [middle, *MIDDLE]
            setting[place + 1] = value
            cases.append(tuple(setting))  # type: ignore[arg-type]
    return list(dict.fromkeys(cases))


def run(form: str, out: Path, tell: Tell, stop: threading.Event) -> tuple[list[Table], list[str]]:
    """Writes the table, and a figure over d, m_L, m_F and L."""
    rows, points = [], {}
    for method in METHODS:
        whole = method in ("BFGS", "NAQ")
        for case in settings_of(form):
            if stop.is_set():
                return [], []
            if whole and (case[0] > LARGEST_MATRIX or case[1:] != MIDDLE):
                continue
            published, room = printed(method, *case)
            counted, moved, kept = cost(method, *case)
            points[(method, *case)] = (published, counted)
            setting = "–" if whole else ", ".join(map(str, case[1:]))
            rows.append(
                [method, f"{case[0]:,}", setting, f"{published:,.1f}", f"{counted:,.1f}",
                 f"{moved:,.1f}", f"{room:,.0f}", f"{kept:,.1f}", str(GRADIENTS[method])]
            )  # fmt: skip
    remarks = [
        "Printed: the cost beside the gradients in Table 1, BFGS and NAQ d² without their line"
        " search, adaQN (4m_L + m_F + 2)d + 4d/L, aSNAQ (4m_L + m_F + 3)d + 4d/L. It counts m_F"
        " d at every step; the method reads the history only at every L-th step, twice.",
        "BFGS has no line search here either: one gradient before and one after the step."
        " Storage excludes the weights themselves. aSNAQ has both its gradients.",
    ]
    return write_table(out, f"{NAME}: {TITLE}", HEADINGS, rows, remarks, _figure(points)), []


def _figure(points: dict[tuple[Any, ...], tuple[float, float]]) -> "Figure":
    """Multiply-adds over d, m_L, m_F and L: counted (points), printed (dotted)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 7.5), layout="constrained")
    figure.suptitle(f"{NAME}: multiply-adds a step; points counted, dotted printed")
    names = ("weights d", *SWEEPS)
    middle = {case[1] for case in points if case[2:] != MIDDLE}
    for place, (axis, name) in enumerate(zip(figure.subplots(2, 2).flat, names, strict=True)):
        for i, method in enumerate(METHODS):
            known = {
                case[place + 1]: value
                for case, value in points.items()
                if case[0] == method and _varies(case[1:], place, middle)
            }
            if len(known) < 2:
                continue
            values = sorted(known)
            unit = values if place == 0 else [1] * len(values)
            for part, style in ((1, "o-"), (0, ":")):
                line = [known[v][part] * u for v, u in zip(values, unit, strict=True)]
                label = method if part else None
                axis.plot(values, line, style, color=f"C{i}", label=label)
        axis.set_xlabel(name)
        axis.set_ylabel("multiply-adds" if place == 0 else "multiply-adds / d")
        axis.grid(alpha=0.3)
        if place == 0:
            axis.set_xscale("log")
            axis.set_yscale("log")
        else:
            axis.set_ylim(bottom=0)
        if axis.get_legend_handles_labels()[0]:
            axis.legend()
    return figure


def _varies(case: tuple[int, ...], place: int, middle: set[int]) -> bool:
    """Whether a case belongs to the panel in which number `place` of (d, m_L, m_F, L) varies."""
    if place == 0:
        return case[1:] == MIDDLE
    others = [value for i, value in enumerate(case[1:], start=1) if i != place]
    wanted = [value for i, value in enumerate(MIDDLE, start=1) if i != place]
    return case[0] in middle and others == wanted
