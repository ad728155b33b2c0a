"""Do local Frank-Wolfe steps learn as much as synchronous ones, from the same number of sequences?

n workers with minibatches of 16 learn digits-pixels. Contenders, all with plain outer steps:

- each gradient: synchronous, K = 1, the workers' mean gradient at every step;
- each commit: local, K = 5, one mean of displacements every 5 minibatches;
- large batch: synchronous, K = 1, 5 minibatches accumulated: as much traffic as local steps;
- inner steps: synchronous, K = 5: the local steps' algorithm with 5 times their traffic.

With --compression only the local contenders run: they send floats, bytes or bits (the rounding
error of a commit is added to the next, and the mean is shrunk into the ball), or apply each mean
one commit late.

Workers are simulated in one process: synchronous ones by one minibatch of all workers, local ones
by copies whose weights, and means of weights, are averaged after each commit. That is the same as
averaging displacements; with compression only the unit of the rounding error differs. The learning
rate of each contender and n is the best of a grid on a separate seed, by validation accuracy; the
table has the test accuracy of other seeds.

    python benchmarks/local_steps.py
    python benchmarks/local_steps.py --compression
    python benchmarks/local_steps.py --quick
"""

import argparse
import statistics
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils import parameters_to_vector

from rnnopt import FrankWolfe, SequenceModel
from rnnopt.optimizers.frank_wolfe.compression import (
    chunk_size,
    decode,
    encode,
    mean_scales,
    of_entries,
    round_mean,
)
from rnnopt.tasks import Batches, build_task
from rnnopt.tasks.task import Task

BATCH, TUNING_SEED = 16, 1000
CPU = torch.device("cpu")


class Contender(NamedTuple):
    """A way in which n workers use their minibatches."""

    inner_steps: int
    accumulated: int
    local: bool
    sends: str = "none"  # a compression, or "late"


CONTENDERS = {
    "each gradient": Contender(1, 1, local=False),
    "each commit": Contender(5, 1, local=True),
    "large batch": Contender(1, 5, local=False),
    "inner steps": Contender(5, 1, local=False),
}

COMPRESSED = {
    f"each commit, {sends}": Contender(5, 1, local=True, sends=sends)
    for sends in ("none", "int8", "sign", "late")
}


class Exchange:
    """The commits of local contenders, as moves from the last committed weights.

    Args:
        models: models of the workers, with the same weights.
        sends: as in `Contender`.
    """

    def __init__(self, models: list[SequenceModel], sends: str):
        self.models, self.sends = models, sends
        self.weights = parameters_to_vector(models[0].parameters()).detach().clone()
        self.sizes = [p.numel() for p in models[0].parameters()]
        self.before = torch.zeros_like(self.weights)  # the last mean, for "late"
        self.lost = [torch.zeros_like(self.weights) for _ in models]

    def commit(self, optimizers: list[FrankWolfe]) -> None:
        """Weights, and running means of weights ← their averages over the workers."""
        vectors = [parameters_to_vector(m.parameters()).detach() for m in self.models]
        changes = [vector - self.weights for vector in vectors]
        mean = move = torch.stack(changes).mean(0)
        if self.sends == "late":
            move, self.before = self.before, mean
        elif self.sends != "none":
            sent = [change + lost for change, lost in zip(changes, self.lost, strict=True)]
            move, self.lost = mean_in_one_process(sent, self.sizes, self.sends)
            move = self._shrunk(move, changes)
        self.weights = self.weights + move
        average(self.models, optimizers)
        group = optimizers[0].param_groups[0]
        if self.sends == "late" and not move.any():  # the first commit, which does not count
            for optimizer in optimizers:
                optimizer.param_groups[0]["commits"] = 0
        factor = min(1.0, (group["average"] + 1) / (group["commits"] + group["average"]))
        corrections = (move - mean).split(self.sizes)
        for model, optimizer in zip(self.models, optimizers, strict=True):
            parts = zip(
                model.parameters(), self.weights.split(self.sizes), corrections, strict=True
            )
            for p, value, correction in parts:
                p.detach().copy_(value.view_as(p))
                optimizer.state[p]["average"].add_(correction.view_as(p), alpha=factor)

    def _shrunk(self, move: Tensor, changes: list[Tensor]) -> Tensor:
        """Shortens each tensor's move to the mean length of the workers' moves."""
        parts = []
        own = zip(*(change.split(self.sizes) for change in changes), strict=True)
        for p, part, each in zip(
            self.models[0].parameters(), move.split(self.sizes), own, strict=True
        ):
            norms = [torch.linalg.norm(e.view_as(p), 2) for e in (part, *each)]
            limit = torch.stack(norms[1:]).mean()
            parts.append(part * torch.where(norms[0] > limit, limit / norms[0], 1.0))
        return torch.cat(parts)


def mean_in_one_process(
    vectors: list[Tensor], sizes: list[int], kind: str
) -> tuple[Tensor, list[Tensor]]:
    """The mean of processes with these vectors, and the error that each sends later."""
    coded = [encode(vector, sizes, kind) for vector in vectors]
    sent = [decode(codes, scales, sizes) for codes, scales in coded]
    scales = of_entries(mean_scales(torch.stack([scale for _, scale in coded]), kind), sizes)
    mean, count = torch.stack(sent).mean(0), len(vectors)
    rounded = round_mean(mean, scales).to(scales.dtype) * scales
    lost = [vector - s for vector, s in zip(vectors, sent, strict=True)]
    chunk = chunk_size(len(mean), count)
    for process, of_mean in enumerate((count * (mean - rounded)).split(chunk)):
        place = process * chunk
        lost[process][place : place + chunk] += of_mean
    return rounded, lost


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
    """Accuracy on validation and test data after the given number of sequences."""
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
    batches, exchange = Batches(task, size, seed), Exchange(models, contender.sends)
    steps = max(1, sequences // (size * copies * contender.inner_steps)) * contender.inner_steps
    for step in range(steps):
        for model, optimizer in zip(models, optimizers, strict=True):
            optimizer.param_groups[0]["lr"] = lr * (1 - step / steps)
            batch = batches.draw()
            optimizer.zero_grad()
            task.loss_of(model(batch.inputs), batch).backward()
            optimizer.step()
        if contender.local and optimizers[0].inner_step == 0:
            exchange.commit(optimizers)
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
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2])
    parser.add_argument("--compression", action="store_true", help="run only the local contenders")
    arguments = parser.parse_args()
    quick = arguments.quick
    workers = [2] if quick else arguments.workers
    sequences = 320 if quick else arguments.sequences
    contenders = COMPRESSED if arguments.compression else CONTENDERS
    if quick:
        contenders = contenders | COMPRESSED
    rates = [1e-3, 3e-3] if quick else arguments.rates
    seeds = [0] if quick else list(range(arguments.seeds))
    torch.set_num_threads(1)
    task = build_task("digits-pixels")
    print(f"{sequences} sequences in total, test accuracy of {len(seeds)} seeds\n")
    print("| workers | contender | lr | commits | mean | lowest | highest |")
    print("|---|---|---|---|---|---|---|")
    for n in workers:
        for name, contender in contenders.items():

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
