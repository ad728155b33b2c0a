"""How well does local Frank-Wolfe learn with up to 256 workers?

n workers with minibatches of 16 learn digits-pixels by local steps, K = 5: one mean of
displacements every 5 minibatches. Two questions:

- equal gradients: all workers together spend the same number of minibatches, so that n workers need
  1/n of the time and have 1/n of the commits. For comparison: synchronous steps with K = 5, whose
  minibatch is that of all workers, with 5 times the traffic;
- equal cycles: every worker spends the same number of minibatches, so that n workers see n times
  the sequences in the same time.

Workers are simulated in one process, as in local_steps.py, which is exact for plain outer steps.
The learning rate of each row is the best of a grid on a separate seed, by validation accuracy; the
tables have the test accuracy of other seeds.

    python benchmarks/many_workers.py
    python benchmarks/many_workers.py --quick
"""

import argparse
import statistics
from functools import partial

import torch
from local_steps import BATCH, CONTENDERS, TUNING_SEED, Contender, accuracies

from rnnopt.tasks import build_task
from rnnopt.tasks.task import Task


def row(
    task: Task, contender: Contender, workers: int, sequences: int, rates: list[float], seeds: int
) -> str:
    """Cells of a row: best rate, its commits and its test accuracy."""

    def validation(lr: float) -> float:
        return accuracies(task, contender, workers, lr, TUNING_SEED, sequences)[0]

    lr = max(rates, key=validation) if len(rates) > 1 else rates[0]
    found = [accuracies(task, contender, workers, lr, s, sequences)[1] for s in range(seeds)]
    commits = sequences // (BATCH * workers * contender.inner_steps)
    numbers = (statistics.mean(found), min(found), max(found))
    return f"{lr:g} | {commits} | {sequences:,} | " + " | ".join(f"{n:.3f}" for n in numbers)


def main() -> None:
    """Reads the arguments, prints one Markdown table per question."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a few steps, to see that it runs")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 4, 16, 64, 256])
    parser.add_argument("--minibatches", type=int, default=7680, help="total, at equal gradients")
    parser.add_argument("--cycles", type=int, default=40, help="per worker, at equal cycles")
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    quick = arguments.quick
    workers = [1, 256] if quick else arguments.workers
    minibatches, cycles = (1280, 1) if quick else (arguments.minibatches, arguments.cycles)
    rates = [4e-3] if quick else [2e-3, 8e-3, 3.2e-2]
    seeds = 1 if quick else arguments.seeds
    torch.set_num_threads(1)
    task = build_task("digits-pixels")
    line = partial(row, task, rates=rates, seeds=seeds)
    local = CONTENDERS["each commit"]
    for title, contender, equal in (
        ("equal gradients, local", local, True),
        ("equal cycles, local", local, False),
        ("equal gradients, synchronous", CONTENDERS["inner steps"], True),
    ):
        if quick and not contender.local:
            continue
        print(f"{title}: test accuracy of {seeds} seeds\n")
        print("| workers | lr | commits | sequences | mean | lowest | highest |")
        print("|---|---|---|---|---|---|---|")
        for n in workers:
            each = cycles * contender.inner_steps
            spent = BATCH * (minibatches if equal else each * n)
            print(f"| {n} | {line(contender=contender, workers=n, sequences=spent)} |", flush=True)
        print(flush=True)


if __name__ == "__main__":
    main()
