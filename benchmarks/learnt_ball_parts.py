"""What is each part of FrankWolfe's learnt ball worth? The default with one part off at a time.

The races are those of gradients_to_target.py: networks, budgets, targets and the cosine schedule.
A cell is the median of the gradient evaluations to the target and the mean test metric over the
seeds. Finished runs are appended to the output file and not repeated.

    python benchmarks/learnt_ball_parts.py --out runs/parts.jsonl
    python benchmarks/learnt_ball_parts.py --quick
"""

import argparse
import math
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import torch

sys.path.insert(0, str(Path(__file__).parent))
from gradients_to_target import ALL, Runs, task_of

from rnnopt.optimizers.frank_wolfe import blocks, learnt_ball, learnt_search

RACES = ("digits-pixels", "mnist-rows", "counting", "hapt2", "text")
LR = 1e-2


@dataclass(frozen=True)
class Variant:
    """Options of the optimizer, and names of a module that have other values meanwhile."""

    options: str = ""
    module: Any = None
    values: dict[str, Any] = field(default_factory=dict)

    @contextmanager
    def in_force(self) -> Iterator[None]:
        """The module's values, inside the `with` block."""
        find_blocks.cache_clear()
        if self.module is None:
            yield
        else:
            with mock.patch.multiple(self.module, **self.values):
                yield
        find_blocks.cache_clear()


find_blocks, create_ball = blocks.find_blocks, learnt_ball.create_ball


def each_alone(shapes: tuple, gates: Any, *others: Any) -> tuple[blocks.Block, ...]:
    """Every tensor is a block; the read-out keeps its factor."""
    scale = {block.members[0]: block.scale for block in find_blocks(shapes, gates, *others)}
    return tuple(blocks.Block((i,), scale=scale.get(i, 1.0)) for i in range(len(shapes)))


VARIANTS = {
    "default": Variant(),
    "radius does not adapt": Variant("adapt=0"),
    "no growth decay": Variant("growth_decay=0"),
    "momentum without Nesterov": Variant("nesterov=false"),
    "no momentum": Variant("momentum=0"),
    "no mean of the weights": Variant("average=none"),
    "no bases (Adam's box)": Variant(
        module=learnt_search, values=dict(create_ball=lambda g, bases: create_ball(g, False))
    ),
    "bases turn every 4th time from the start": Variant(module=learnt_ball, values=dict(FRESH=0)),
    "each tensor a block": Variant(module=learnt_search, values=dict(find_blocks=each_alone)),
    "read-out's step as the others'": Variant(module=blocks, values=dict(READOUT=1.0)),
    "no bound of the half-axes": Variant(module=learnt_ball, values=dict(CLIP=1e9)),
    "weight decay 0.05": Variant("weight_decay=0.05"),
    "weight decay 0.1": Variant("weight_decay=0.1"),
}


def cell(records: list[dict]) -> str:
    """The runs of a variant in one race."""
    every = [record["own"] for record in records]
    hits = [math.inf if r["to_target"] is None else r["to_target"] for r in every]
    hit = statistics.median(hits)
    tests = [math.nan if r["test"] is None else r["test"] for r in every]
    return f"{'never' if hit == math.inf else f'{hit:g}'}; {statistics.mean(tests):.3g}"


def main() -> None:
    """Reads the arguments, runs what is missing, prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", nargs="+", default=RACES, choices=list(ALL))
    parser.add_argument("--variant", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=10)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("RNNOPT_DATA", "data")))
    parser.add_argument("--out", type=Path, default=None, help="file of finished runs")
    parser.add_argument("--quick", action="store_true", help="a few seconds, to see it work")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.quick:
        args.task, args.seeds = ["quick"], 1
    with tempfile.TemporaryDirectory() as temporary:
        out = args.out or Path(temporary) / "runs.jsonl"
        out.parent.mkdir(parents=True, exist_ok=True)
        runs = Runs(out)
        tasks = {race: task_of(ALL[race], args.data) for race in args.task}
        print(f"| one part off | {' | '.join(args.task)} |")
        print("|---|" + "---|" * len(args.task))
        for name in args.variant:
            variant, cells = VARIANTS[name], []
            for race, task in tasks.items():
                with variant.in_force():
                    seeds = range(args.first_seed, args.first_seed + args.seeds)
                    cells.append(cell([
                        runs.get(task, race, "frank-wolfe", variant.options, LR, seed, name)
                        for seed in seeds
                    ]))  # fmt: skip
            print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
