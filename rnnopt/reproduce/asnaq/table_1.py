"""Table 1: what a step costs, printed and counted as torch runs it. Nothing is trained.

Counted are multiplications and additions, one each, and bytes read and written by every tensor
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

from rnnopt.optimizers.adaqn import AdaQN
from rnnopt.optimizers.asnaq import ASNAQ
from rnnopt.optimizers.bfgs import BFGS
from rnnopt.optimizers.naq import NAQ
from rnnopt.reproduce.engine import Tell
from rnnopt.reproduce.results import Table, write_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAME, TITLE = "asnaq/table-1", "cost of a step, without the gradients"
SIZES = {"cpu": (10**3, 10**4, 10**5), "full": (10**3, 10**4, 10**5, 10**6), "quick": (100, 400)}
SETTINGS = ((10, 100, 5), (5, 100, 5), (10, 20, 5), (10, 100, 20))  # m_L, m_F, L
LARGEST_MATRIX = 2000  # weights of BFGS and NAQ, which keep their square
HEADINGS = (
    "method", "weights d", "m_L, m_F, L", "printed, multiply-adds / d",
    "counted, multiply-adds / d", "counted, numbers moved / d", "printed storage / d",
    "kept / d", "gradients a step",
)  # fmt: skip
# A multiplication and an addition each; other operations count one for each number they give.
MULTIPLY = dict.fromkeys(("mv", "addmv", "mm", "dot", "addcmul", "addr", "linalg_vector_norm"), 2)
FREE = ("view", "slice", "select", "detach", "split", "t", "alias", "as_strided", "unsqueeze",
        "_unsafe_view", "expand", "empty", "empty_like", "_local_scalar_dense", "transpose",
        "new_empty_strided", "empty_strided", "lift_fresh")  # fmt: skip


class Counter(TorchDispatchMode):
    """Counts arithmetic and traffic of the tensor operations inside its `with`."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = 0.0
        self.numbers = 0.0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Runs the operation and adds what it costs."""
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
        options = dict(memory=memory, fisher_memory=history, update_every=every)
        return kind(params, lr=1e-3, **options), params
    whole: Any = BFGS if method == "BFGS" else NAQ
    return whole(params, lr=1e-3, line_search="fixed"), params


def cost(
    method: str, size: int, memory: int, history: int, every: int
) -> tuple[float, float, float]:
    """Multiply-adds and numbers moved a step, and numbers kept, all divided by the weights."""
    optimizer, params = build(method, size, memory, history, every)
    size = sum(p.numel() for p in params)

    def closure() -> Tensor:
        for p in params:  # of a quadratic, so that every pair is kept
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
    gradients = 1 if method == "adaQN" else 2
    kept = sum(t.numel() for s in optimizer.state.values() for t in s.values())
    operations, numbers = counter.operations / every, counter.numbers / every
    # An operation is half of a multiply-add; the gradients of the quadratic are not the step's.
    own = (operations / size - gradients) / 2
    return own, numbers / size - 2 * gradients, kept / size


def printed(method: str, size: int, memory: int, history: int, every: int) -> tuple[float, float]:
    """Multiply-adds without gradients and losses, and numbers kept, as printed, by weight."""
    if method in ("BFGS", "NAQ"):
        return float(size), float(size)
    more = 2 if method == "adaQN" else 3
    return 4 * memory + history + more + 4 / every, 2 * memory + history


def run(
    form: str, out: Path, workers: int, tell: Tell, stop: threading.Event
) -> tuple[list[Table], list[str]]:
    """Writes the table and a figure over d and over m_F."""
    rows, points = [], {}
    sizes = SIZES[form]
    cases = [(size, *SETTINGS[0]) for size in sizes]
    cases += [(sizes[-1], *setting) for setting in SETTINGS[1:]]
    for method in ("BFGS", "NAQ", "adaQN", "aSNAQ"):
        whole = method in ("BFGS", "NAQ")
        for size, memory, history, every in cases:
            if stop.is_set():
                return [], []
            if whole and (size > LARGEST_MATRIX or (memory, history, every) != SETTINGS[0]):
                continue
            told, room = printed(method, size, memory, history, every)
            counted, moved, kept = cost(method, size, memory, history, every)
            points[(method, size, memory, history, every)] = (told, counted)
            rows.append(
                [method, f"{size:,}", "–" if whole else f"{memory}, {history}, {every}",
                 f"{told:,.1f}", f"{counted:,.1f}", f"{moved:,.1f}", f"{room:,.0f}",
                 f"{kept:,.1f}", "1" if method == "adaQN" else "2"]
            )  # fmt: skip
    remarks = [
        "Printed: what Table 1 adds to the gradients, BFGS and NAQ d² without their line search,"
        " adaQN (4m_L + m_F + 2)d + 4d/L, aSNAQ (4m_L + m_F + 3)d + 4d/L. It counts m_F d at every"
        " step; the history is passed through only every L-th, twice.",
        "BFGS here has no line search either: one gradient before and one after the step. Storage"
        " of the weights themselves is left out.",
    ]
    figure = _figure(points) if points else None
    return write_table(out, f"{NAME}: {TITLE}", HEADINGS, rows, remarks, figure), []


def _figure(points: dict[tuple[Any, ...], tuple[float, float]]) -> "Figure":
    """Multiply-adds a weight over the number of weights, printed and counted."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.8), layout="constrained")
    axis = figure.subplots()
    figure.suptitle(f"{NAME}: multiply-adds a weight and step (m_L 10, m_F 100, L 5)")
    for i, method in enumerate(("BFGS", "NAQ", "adaQN", "aSNAQ")):
        known = [(k[1], v) for k, v in points.items() if k[0] == method and k[2:] == SETTINGS[0]]
        if not known:
            continue
        sizes = [size for size, _ in known]
        axis.plot(sizes, [v[1] for _, v in known], "o-", color=f"C{i}", label=f"{method}, counted")
        axis.plot(sizes, [v[0] for _, v in known], ":", color=f"C{i}", label=f"{method}, printed")
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xlabel("weights d")
    axis.set_ylabel("multiply-adds / d")
    axis.grid(alpha=0.3)
    axis.legend()
    return figure
