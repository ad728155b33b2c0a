"""What does a gradient cost in 1, 2, 4 processes on this machine, and how many bytes does it send?

The minibatch is the same for any number of processes, and each takes its share. Processes use gloo
on the loopback and share this machine's cores: more processes than free cores bring no speed-up.
The processor time of one process, in brackets, shows how the work is divided even if processes wait
for cores. Bytes are those that each process passes to all-reduces, per gradient; a ring sends and
receives 2 (n-1)/n times as many.

    python benchmarks/processes.py
    python benchmarks/processes.py --minibatch 64 512 4096 --learners ADMM --processes 1 2
    python benchmarks/processes.py --quick
"""

import argparse
import contextlib
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from rnnopt import ADMM, ASNAQ, FrankWolfe, FrankWolfeOptions, SequenceModel
from rnnopt.distributed import copy_from_first
from rnnopt.runs.environment import processor_name

LEARNERS: dict[str, tuple[Callable[..., Any], bool]] = {  # and whether DDP averages them
    "FrankWolfe": (partial(FrankWolfe, lr=1e-3), True),
    "FrankWolfe, K = 5": (partial(FrankWolfe, lr=1e-3, inner_steps=5), True),
    'FrankWolfe, K = 5, "commit"': (
        partial(
            FrankWolfe, lr=1e-3, inner_steps=5, options=FrankWolfeOptions(communicate="commit")
        ),
        False,
    ),
    "ASNAQ": (ASNAQ, True),
    "ADMM": (ADMM, False),
}


class Sizes(NamedTuple):
    """Units, steps per sequence and sequences per minibatch."""

    hidden: int
    steps: int
    minibatch: int


class Measured:
    """One learner on this process's share of the minibatch."""

    def __init__(self, name: str, sizes: Sizes, rank: int, count: int):
        hidden, steps, minibatch = sizes
        build, wrapped = LEARNERS[name]
        torch.manual_seed(0)
        self.sent, self.count = 0, count
        self.model = SequenceModel(9, hidden, 10)
        copy_from_first(self.model)
        self.network: nn.Module = self.model
        if wrapped and count > 1:
            ddp = DistributedDataParallel(self.model)
            ddp.register_comm_hook(None, self._average)
            self.network = ddp
        self.learner = (
            build(self.model, "cross-entropy") if build is ADMM else build(self.model.parameters())
        )
        inputs, targets = torch.randn(steps, minibatch, 9), torch.randint(10, (minibatch,))
        self.batch = SimpleNamespace(
            inputs=inputs[:, rank::count], targets=targets[rank::count], lengths=None
        )

    def _average(
        self, _: object, bucket: distributed.GradBucket
    ) -> torch.futures.Future[torch.Tensor]:
        self.sent += bucket.buffer().nbytes
        work = distributed.all_reduce(bucket.buffer().div_(self.count), async_op=True)
        return work.get_future().then(lambda future: future.value()[0])

    def _closure(self) -> torch.Tensor:
        self.network.zero_grad()
        loss = nn.functional.cross_entropy(self.network(self.batch.inputs), self.batch.targets)
        loss.backward()
        return loss.detach()

    def gradient(self) -> None:
        """Computes one gradient, or its equivalent, and takes the step."""
        if isinstance(self.learner, ADMM):
            self.learner.step(self.batch)
        elif isinstance(self.learner, ASNAQ):
            self.learner.step(self._closure)
        else:
            self._closure()
            self.learner.step()


@contextlib.contextmanager
def counting(measured: Measured) -> Any:
    """Counts in `sent` the bytes passed to all-reduces other than DDP's."""
    original = distributed.all_reduce

    def all_reduce(tensor: torch.Tensor, *arguments: Any, **options: Any) -> Any:
        if not options.get("async_op"):
            measured.sent += tensor.nbytes
        return original(tensor, *arguments, **options)

    distributed.all_reduce = all_reduce
    try:
        yield
    finally:
        distributed.all_reduce = original


def work(
    rank: int, count: int, folder: str, sizes: Sizes, learners: list[str], repeats: int
) -> None:
    """The work of each process; the first process writes one line per learner."""
    warnings.simplefilter("error")
    torch.set_num_threads(1)
    if count > 1:
        store = distributed.FileStore(f"{folder}/store", count)
        distributed.init_process_group("gloo", store=store, rank=rank, world_size=count)
    lines = []
    for name in learners:
        measured = Measured(name, sizes, rank, count)
        for _ in range(5):
            measured.gradient()
        measured.sent, times, processor = 0, [], time.process_time()
        with counting(measured):
            for _ in range(repeats):
                started = time.perf_counter()
                for _ in range(20):  # four cycles of K = 5, and one loss test of aSNAQ
                    measured.gradient()
                times.append((time.perf_counter() - started) / 20)
        processor = (time.process_time() - processor) / 20 / repeats
        sent = measured.sent / 20 / repeats
        lines.append(f"{1e3 * statistics.median(times):.1f} {1e3 * processor:.1f} {sent:.0f}")
    if rank == 0:
        Path(folder, "lines").write_text("\n".join(lines))
    if count > 1:
        distributed.destroy_process_group()


def measure(count: int, sizes: Sizes, learners: list[str], repeats: int) -> list[list[str]]:
    """Milliseconds, processor milliseconds and bytes per gradient of each learner."""
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(
            work, (count, folder, sizes, learners, repeats), nprocs=count, join=True
        )
        return [line.split() for line in Path(folder, "lines").read_text().splitlines()]


def main() -> None:
    """Reads the arguments, prints a Markdown table of bytes and times by number of processes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a few steps, to see that it runs")
    parser.add_argument("--minibatch", nargs="+", type=int, default=[64], help="sequences of each")
    parser.add_argument("--learners", nargs="+", default=list(LEARNERS), choices=LEARNERS)
    parser.add_argument("--processes", nargs="+", type=int, default=[1, 2, 4])
    chosen = parser.parse_args()
    quick, learners = chosen.quick, chosen.learners
    counts = [1, 2] if quick else chosen.processes
    print(f"{processor_name()}, {os.cpu_count()} cores, torch {torch.__version__}\n")
    for minibatch in chosen.minibatch:
        sizes = Sizes(8, 4, minibatch) if quick else Sizes(128, 64, minibatch)
        every = [measure(count, sizes, learners, 1 if quick else 3) for count in counts]
        what = f"{minibatch} sequences of {sizes.steps} steps, {sizes.hidden} units"
        print(f"{what}: ms per gradient (of the processor)\n")
        heading = " | ".join(f"{count} processes" for count in counts)
        print(f"| learner | {heading} | bytes per gradient |")
        print("|---|" + "---|" * (len(counts) + 1))
        for i, name in enumerate(learners):
            cells = " | ".join(f"{found[i][0]} ({found[i][1]})" for found in every)
            print(f"| {name} | {cells} | {int(every[-1][i][2]):,} |")
        print(flush=True)


if __name__ == "__main__":
    main()
