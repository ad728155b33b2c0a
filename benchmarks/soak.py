"""Does a long run leak memory, open files, threads or disk space?

Each optimizer trains a small network with an evaluation, a line of metrics and a checkpoint every
few gradients, in a temporary run folder. Samples are spread evenly over its share of the time. The
slope is that of the least-squares line through the memory of the last two thirds; the first third
is the warm-up. A run is "steady" if its memory grew by less than 1 % along that line, and if open
files, threads and the size of the checkpoint at the end are the same as after the first third.
metrics.jsonl grows by one line per evaluation, as intended.

    python benchmarks/soak.py --quick
    nice -n 10 python benchmarks/soak.py --minutes 120
"""

import argparse
import math
import os
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from rnnopt.config.run_config import RunConfig
from rnnopt.runs.environment import processor_name
from rnnopt.runs.runner import run
from rnnopt.training.loop import Progress
from rnnopt.training.malloc import keep_freed_memory

OPTIMIZERS = ("frank-wolfe", "adam", "asnaq", "admm")
EVERY = 10  # gradients between evaluations


@dataclass(frozen=True)
class Sample:
    """Resources of a process after some steps: memory, files, threads, sizes of two files."""

    minutes: float
    steps: int
    memory: int
    files: int
    threads: int
    checkpoint: int
    metrics: int

    def row(self, name: str) -> str:
        """A row of the table of samples."""
        return (
            f"| {name} | {self.minutes:.2f} | {self.steps} | {self.memory / 2**20:.1f} |"
            f" {self.files} | {self.threads} | {self.checkpoint / 1024:.1f} |"
            f" {self.metrics / 1024:.1f} |"
        )


class Watch:
    """Takes samples of this process during a run, and prints them.

    Args:
        name: name of the run.
        path: folder of the run.
        seconds: duration of the run.
        count: number of samples.
    """

    def __init__(self, name: str, path: Path, seconds: float, count: int):
        self.name, self.path = name, path
        self.seconds, self.interval = seconds, seconds / count
        self.started = math.inf  # time of the first step
        self.steps = 0
        self.samples: list[Sample] = []

    def __call__(self, progress: Progress) -> None:
        """Called after each step."""
        self.steps += 1
        self.started = min(self.started, time.perf_counter())
        spent = time.perf_counter() - self.started
        if spent >= self.interval * len(self.samples):
            self.samples.append(self._sample(spent / 60))
            print(self.samples[-1].row(self.name), flush=True)

    def over(self) -> bool:
        """Whether its time, including evaluation and files, is over."""
        return time.perf_counter() - self.started >= self.seconds

    def _sample(self, minutes: float) -> Sample:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        sizes = [
            path.stat().st_size if path.exists() else 0
            for path in (self.path / "checkpoint.pt", self.path / "metrics.jsonl")
        ]
        return Sample(
            minutes,
            self.steps,
            pages * os.sysconf("SC_PAGE_SIZE"),
            len(os.listdir("/proc/self/fd")),
            len(os.listdir("/proc/self/task")),
            *sizes,
        )


def soak(name: str, seconds: float, count: int) -> list[Sample]:
    """Trains with one optimizer for `seconds`; returns the samples."""
    with tempfile.TemporaryDirectory() as folder:
        config = RunConfig(
            "digits-rows", hidden=16, optimizer=name, schedule="constant", evaluate_every=EVERY,
            budget="1000000000gradients", on_nonfinite="restore", batch_size=32,
        )  # fmt: skip
        watch = Watch(name, Path(folder) / "run", seconds, count)
        run(config, watch.path, listener=watch, stop_requested=watch.over)
        return watch.samples


def verdict(name: str, samples: list[Sample]) -> str:
    """A row of the table of verdicts."""
    settled = samples[len(samples) // 3 :]
    first, last = settled[0], settled[-1]
    steps = [float(sample.steps) for sample in settled]
    memory = [float(sample.memory) for sample in settled]
    slope = statistics.linear_regression(steps, memory).slope
    grown = slope * (last.steps - first.steps) / first.memory
    changes = {
        "memory": grown > 0.01,
        "open files": last.files > first.files,
        "threads": last.threads > first.threads,
        # Counters in a checkpoint gain digits.
        "checkpoint": last.checkpoint > 1.02 * first.checkpoint,
    }
    growing = [what for what, grows in changes.items() if grows]
    return (
        f"| {name} | {last.steps} | {first.memory / 2**20:.1f} | {last.memory / 2**20:.1f} |"
        f" {1000 * slope / 1024:+.2f} | {first.files} → {last.files} |"
        f" {first.threads} → {last.threads} |"
        f" {first.checkpoint / 1024:.1f} → {last.checkpoint / 1024:.1f} |"
        f" {'grows: ' + ', '.join(growing) if growing else 'steady'} |"
    )


def main() -> None:
    """Reads the arguments, prints a Markdown table of samples and one of verdicts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a few seconds, to see it work")
    parser.add_argument("--minutes", type=float, default=20, help="total, shared evenly")
    parser.add_argument("--optimizers", nargs="+", default=OPTIMIZERS)
    args = parser.parse_args()
    if not Path("/proc/self/statm").exists():
        sys.exit("soak.py reads /proc, which only Linux has.")
    torch.set_num_threads(1)
    keep_freed_memory()  # as the command line does
    seconds = 1.5 if args.quick else 60 * args.minutes / len(args.optimizers)
    count = 6 if args.quick else 24
    print(f"torch {torch.__version__}, {processor_name()}, 1 thread\n")
    heads = "optimizer|minutes|steps|memory, MB|open files|threads|checkpoint, KB|metrics, KB"
    print(f"| {heads.replace('|', ' | ')} |\n|{'---|' * 8}", flush=True)
    found = {name: soak(name, seconds, count) for name in args.optimizers}
    heads = "optimizer|steps|memory after a third, MB|at the end|KB per 1000 steps"
    heads += "|open files|threads|checkpoint, KB|verdict"
    print(f"\n| {heads.replace('|', ' | ')} |\n|{'---|' * 9}")
    for name, samples in found.items():
        print(verdict(name, samples))


if __name__ == "__main__":
    main()
