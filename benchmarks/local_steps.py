"""Do local Frank-Wolfe steps learn as much as synchronous ones, from the same number of sequences?

n workers with minibatches of 16 learn digits-pixels. Contenders, all with plain outer steps:

- each gradient: synchronous, K = 1, the workers' mean gradient at every step;
- each commit: local, K = 5, one mean of displacements every 5 minibatches;
- large batch: synchronous, K = 1, 5 minibatches accumulated: as much traffic as local steps;
- inner steps: synchronous, K = 5: the local steps' algorithm with 5 times their traffic.

Workers are simulated in one process: synchronous ones by one minibatch of all, local ones by
copies whose weights, and means of weights, are averaged after each commit, which is the same as to
average displacements. The learning rate of each contender and n is the best of a grid on a seed of
its own, by validation accuracy; the table has the test accuracy of other seeds.

    python benchmarks/local_steps.py
    python benchmarks/local_steps.py --quick
"""

import argparse
import statistics
from typing import NamedTuple

import torch

from rnnopt import FrankWolfe, SequenceModel
from rnnopt.tasks import Batches, build_task
from rnnopt.tasks.task import Task

BATCH, TUNING_SEED = 16, 1000
CPU = torch.device("cpu")


class Contender(NamedTuple):
    """How n workers use their minibatches."""

    inner_steps: int
    accumulated: int
    local: bool


CONTENDERS = {
    "each gradient": Contender(1, 1, local=False),
    "each commit": Contender(5, 1, local=True),
    "large batch": Contender(1, 5, local=False),
    "inner steps": Contender(5, 1, local=False),
}


def average(models: list[SequenceModel], optimizers: list[FrankWolfe]) -> None:
    """Weights and running means of weights ← their means over the workers."""
    for same in zip(*(model.parameters() for model in models), strict=True):
        mean = torch.stack([p.detach() for p in same]).mean(0)
        states = [o.state[p]["average"] for o, p in zip(optimizers, same, strict=True)]
        mean_of_means = torch.stack(states).mean(0)
        for p, state in zip(same, states, strict=True):
            p.detach().copy_(mean)
            state.copy_(mean_of_means)


def accuracies(
    task: Task, contender: Contender, workers: int, lr: float, seed: int, sequences: int
) -> tuple[float, float]:
    """Accuracy on validation and test data after so many sequences."""
    copies = workers if contender.local else 1
    size = BATCH * workers * contender.accumulated // copies
    torch.manual_seed(seed)
    first = SequenceModel(task.input_size, 64, task.output_size)
    models = [first]
    for _ in range(copies - 1):
        models.append(SequenceModel(task.input_size, 64, task.output_size))
        models[-1].load_state_dict(first.state_dict())
    optimizers = [
        FrankWolfe(m.parameters(), lr=lr, inner_steps=contender.inner_steps) for m in models
    ]
    batches = Batches(task, size, seed)
    steps = max(1, sequences // (size * copies * contender.inner_steps)) * contender.inner_steps
    for step in range(steps):
        for model, optimizer in zip(models, optimizers, strict=True):
            optimizer.param_groups[0]["lr"] = lr * (1 - step / steps)
            batch = batches.draw()
            optimizer.zero_grad()
            task.loss_of(model(batch.inputs), batch).backward()
            optimizer.step()
        if contender.local and optimizers[0].inner_step == 0:
            average(models, optimizers)
    with optimizers[0].committed():
        return tuple(  # type: ignore[return-value]
            task.evaluate(first, examples, CPU)[1] for examples in (task.validation, task.test)
        )


def main() -> None:
    """Reads the arguments, prints a Markdown table of accuracies by contender and workers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a few steps, to see that it runs")
    parser.add_argument("--workers", type=int, nargs="+", default=[2, 4, 16])
    parser.add_argument("--sequences", type=int, default=48_000)
    quick = parser.parse_args().quick
    workers = [2] if quick else parser.parse_args().workers
    sequences = 320 if quick else parser.parse_args().sequences
    rates = [1e-3, 3e-3] if quick else [1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2]
    seeds = [0] if quick else [0, 1, 2, 3, 4]
    torch.set_num_threads(1)
    task = build_task("digits-pixels")
    print(f"{sequences} sequences altogether, test accuracy of {len(seeds)} seeds\n")
    print("| workers | contender | lr | commits | mean | lowest | highest |")
    print("|---|---|---|---|---|---|---|")
    for n in workers:
        for name, contender in CONTENDERS.items():

            def validation(lr: float, n: int = n, contender: Contender = contender) -> float:
                return accuracies(task, contender, n, lr, TUNING_SEED, sequences)[0]

            lr = max(rates, key=validation)
            found = [accuracies(task, contender, n, lr, seed, sequences)[1] for seed in seeds]
            used = BATCH * n * contender.accumulated * contender.inner_steps
            numbers = (statistics.mean(found), min(found), max(found))
            cells = " | ".join(f"{number:.3f}" for number in numbers)
            print(f"| {n} | {name} | {lr:g} | {sequences // used} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
