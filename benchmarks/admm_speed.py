"""How long does a step of ADMM take compared with a step of Adam on the same minibatches?

Both train one layer of tanh units, Adam with the fused layer and back-propagation. They alternate
on the same minibatches; the ratio is that of the medians.

    python benchmarks/admm_speed.py
    python benchmarks/admm_speed.py --quick
"""

import argparse
import statistics
import time
from typing import Any

import torch

from rnnopt import ADMM, SequenceModel
from rnnopt.runs.environment import processor_name
from rnnopt.tasks import Batches, build_task

TASKS = ("mnist-rows", "counting", "digits-rows", "metamorphosis")
VARIANTS: dict[str, dict[str, Any]] = {
    "exact": {},
    "blocks": dict(variant="blocks"),
    "paper": dict(variant="paper"),
}


def seconds(task_name: str, options: dict[str, Any], limit: float) -> tuple[float, float]:
    """Median seconds per step of Adam and of ADMM."""
    task = build_task(task_name)
    batches = Batches(task, task.batch_size, seed=0)
    torch.manual_seed(0)
    shape = (task.input_size, task.hidden_size, task.output_size)
    mine, other = (SequenceModel(*shape, readout=task.readout) for _ in range(2))
    trainer = ADMM(mine, task.loss, **options)
    adam = torch.optim.Adam(other.parameters(), lr=3e-3, foreach=True)
    times: tuple[list[float], list[float]] = ([], [])
    began = time.perf_counter()
    while len(times[0]) < 3 or time.perf_counter() - began < limit:
        batch = batches.draw()
        started = time.perf_counter()
        adam.zero_grad()
        task.loss_of(other(batch.inputs), batch).backward()
        adam.step()
        between = time.perf_counter()
        trainer.step(batch)
        times[0].append(between - started)
        times[1].append(time.perf_counter() - between)
    return statistics.median(times[0]), statistics.median(times[1])


def main() -> None:
    """Reads the arguments, prints a Markdown table of ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a few seconds, to see it work")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(f"torch {torch.__version__}, {processor_name()}, {args.threads} thread(s)\n")
    print(
        "| task | Adam, ms per step | " + " | ".join(f"{name}, ratio" for name in VARIANTS) + " |"
    )
    print("|---|---|" + "---|" * len(VARIANTS))
    for task in TASKS[1:3] if args.quick else TASKS:
        adam, cells = 0.0, []
        for options in VARIANTS.values():
            adam, ours = seconds(task, options, 0.1 if args.quick else 4.0)
            cells.append(f"{ours / adam:.1f}")
        print(f"| {task} | {1e3 * adam:.2f} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
