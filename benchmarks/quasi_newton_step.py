"""How close is a step of ASNAQ and AdaQN to the limit of the memory bandwidth?

The gradients are given and the closure does nothing, so that only the optimizer's own work is
timed, after its memories are full and over whole cycles of L steps. The lower bound is the time to
move the numbers of a step through memory: the bytes below, divided by the rate at which one large
tensor is copied into another in the same run. Each number counts once for each time that it must be
read or written:

- the pairs, 4 memory · d: S and Y, each once for the products and once for the sums;
- the history, (2 fisher_memory / L + 1) d: twice every L steps, and one row written;
- vectors: weights, velocity, sums, squares, gradients and direction, read and written as the
  algorithm needs them, 22 d for ASNAQ and 12 d for AdaQN.

    python benchmarks/quasi_newton_step.py
    python benchmarks/quasi_newton_step.py --quick
"""

import argparse
import statistics
import time
from typing import Any

import torch
from torch import Tensor, nn

from rnnopt import ASNAQ, AdaQN
from rnnopt.config.options import call_flat
from rnnopt.runs.environment import processor_name

VECTORS: dict[Any, int] = {ASNAQ: 22, AdaQN: 12}
BYTES = 4  # of a float32


def bytes_per_step(kind: Any, size: int, options: dict[str, int]) -> float:
    """Least number of bytes that a step reads and writes, averaged over L steps."""
    pairs = 4 * options["memory"]
    history = 2 * options["fisher_memory"] / options["update_every"] + 1
    return BYTES * size * (pairs + history + VECTORS[kind])


def measure(kind: Any, size: int, options: dict[str, int], limit: float) -> tuple[float, float]:
    """Seconds per step over cycles of L steps, memories full, and bytes per second of a copy.

    Cycles and copies alternate; both are medians.
    """
    source = torch.randn(max(10**6, size * options["fisher_memory"]))
    target = torch.zeros_like(source)
    generator = torch.Generator().manual_seed(0)
    side = int((size // 4) ** 0.5)
    params = [nn.Parameter(torch.randn(side, side, generator=generator)) for _ in range(4)]
    # Gradients of a quadratic, so that every pair has positive curvature and is kept.
    optimizer = call_flat(kind, params, lr=1e-3, **options)
    every = options["update_every"]

    def closure() -> Tensor:
        for p in params:
            p.grad = 1e-3 * p.detach()
        return torch.zeros(())

    def loss() -> Tensor:
        return torch.zeros(())

    for _ in range(every * (options["memory"] + 2) + options["fisher_memory"]):
        optimizer.step(closure, loss)
    assert optimizer.param_groups[0]["pairs"] == options["memory"]
    steps: list[float] = []
    copies: list[float] = []
    began = time.perf_counter()
    while len(steps) < 5 or time.perf_counter() - began < limit:
        started = time.perf_counter()
        for _ in range(every):
            optimizer.step(closure, loss)
        between = time.perf_counter()
        target.copy_(source)
        steps.append((between - started) / every)
        copies.append(time.perf_counter() - between)
    rate = 2 * BYTES * len(source) / statistics.median(copies)
    return statistics.median(steps), rate


def main() -> None:
    """Reads the arguments, prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a few seconds, to see it work")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(f"torch {torch.__version__}, {processor_name()}, {args.threads} thread(s)\n")
    print(
        "| optimizer | weights | memory, history, L | step, ms | floor, ms | share of the floor |"
    )
    print("|---|---|---|---|---|---|")
    sizes = (10**4,) if args.quick else (10**4, 10**5, 10**6)
    for kind in (ASNAQ, AdaQN):
        for size in sizes:
            for memory, history, every in ((10, 100, 5), (20, 100, 5), (10, 20, 10)):
                options = dict(memory=memory, fisher_memory=history, update_every=every)
                seconds, rate = measure(kind, size, options, 0.1 if args.quick else 5.0)
                floor = bytes_per_step(kind, size, options) / rate
                print(
                    f"| {kind.__name__} | 10^{len(str(size)) - 1} | {memory}, {history}, {every} |"
                    f" {1e3 * seconds:.2f} | {1e3 * floor:.2f} | {floor / seconds:.2f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
