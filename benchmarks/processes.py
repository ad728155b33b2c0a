"""What does a gradient cost in 1, 2, 4 processes on this machine, and how many bytes does it send?

The minibatch is the same for any number of processes, each takes its share. Processes talk by gloo
on the loopback and share this machine's cores: with more processes than free cores nothing gets
faster. Bytes are what each process hands to all-reduces, per gradient; a ring sends and receives
2 (n-1)/n times as many.

    python benchmarks/processes.py
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
from typing import Any

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from rnnopt import ADMM, ASNAQ, FrankWolfe, SequenceModel
from rnnopt.distributed import copy_from_first
from rnnopt.run_folder import processor_name

LEARNERS: dict[str, tuple[Callable[..., Any], bool]] = {  # and whether DDP averages gradients
    "FrankWolfe": (partial(FrankWolfe, lr=1e-3), True),
    "FrankWolfe, K = 5": (partial(FrankWolfe, lr=1e-3, inner_steps=5), True),
    'FrankWolfe, K = 5, "commit"': (
        partial(FrankWolfe, lr=1e-3, inner_steps=5, communicate="commit"),
        False,
    ),
    "ASNAQ": (ASNAQ, True),
    "ADMM": (ADMM, False),
}


class Measured:
    """One learner on this process's share of the minibatch."""

    def __init__(self, name: str, hidden: int, steps: int, rank: int, count: int):
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
        inputs, targets = torch.randn(steps, 64, 9), torch.randint(10, (64,))
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
        """One gradient, or what takes its place, and its step."""
        if isinstance(self.learner, ADMM):
            self.learner.step(self.batch)
        elif isinstance(self.learner, ASNAQ):
            self.learner.step(self._closure)
        else:
            self._closure()
            self.learner.step()


@contextlib.contextmanager
def counting(measured: Measured) -> Any:
    """Adds to `sent` what is given to all-reduces other than DDP's."""
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


def work(rank: int, count: int, folder: str, hidden: int, steps: int, repeats: int) -> None:
    """What each process does; the first writes a line a learner."""
    warnings.simplefilter("error")
    torch.set_num_threads(1)
    if count > 1:
        store = distributed.FileStore(f"{folder}/store", count)
        distributed.init_process_group("gloo", store=store, rank=rank, world_size=count)
    lines = []
    for name in LEARNERS:
        measured = Measured(name, hidden, steps, rank, count)
        for _ in range(5):
            measured.gradient()
        measured.sent, times = 0, []
        with counting(measured):
            for _ in range(repeats):
                started = time.perf_counter()
                for _ in range(20):  # four cycles of K = 5, and once aSNAQ's loss test
                    measured.gradient()
                times.append((time.perf_counter() - started) / 20)
        lines.append(f"{1e3 * statistics.median(times):.2f} {measured.sent / 20 / repeats:.0f}")
    if rank == 0:
        Path(folder, "lines").write_text("\n".join(lines))
    if count > 1:
        distributed.destroy_process_group()


def measure(count: int, hidden: int, steps: int, repeats: int) -> list[list[str]]:
    """Milliseconds and bytes a gradient of each learner."""
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(
            work, (count, folder, hidden, steps, repeats), nprocs=count, join=True
        )
        return [line.split() for line in Path(folder, "lines").read_text().splitlines()]


def main() -> None:
    """Reads the arguments, prints a Markdown table of bytes and times by number of processes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a few steps, to see that it runs")
    quick = parser.parse_args().quick
    counts = [1, 2] if quick else [1, 2, 4]
    print(f"{processor_name()}, {os.cpu_count()} cores, torch {torch.__version__}\n")
    for hidden, steps in [(8, 4)] if quick else [(128, 64)]:
        every = [measure(count, hidden, steps, 1 if quick else 3) for count in counts]
        print(f"64 sequences of {steps} steps, {hidden} units, ms a gradient\n")
        heading = " | ".join(f"{count} processes" for count in counts)
        print(f"| learner | {heading} | bytes a gradient |")
        print("|---|" + "---|" * (len(counts) + 1))
        for i, name in enumerate(LEARNERS):
            cells = " | ".join(found[i][0] for found in every)
            print(f"| {name} | {cells} | {int(every[-1][i][1]):,} |")
        print(flush=True)


if __name__ == "__main__":
    main()
