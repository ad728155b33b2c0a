"""What does a step of FrankWolfe cost compared with others, and with the gradient?

The first table has Adam. Both update the same tensors with given gradients, without the time of a
model. A cycle of FrankWolfe is K inner steps, the last of which commits with Adam as the outer
optimizer; its time divided by K is compared with one step of Adam(foreach=True). The two alternate,
and the ratio is that of the medians.

The second table has norm="learnt" on networks of the comparisons: a step compared with one of the
spectral norm, with forward and backward of a batch, and while its bases turn at every step also
with one of SOAP (extra: baselines), all in turn. A time is the 10 % quantile, because what else the
machine does only adds to it.

The third table has matrices of 768 x 768 beside SOAP: a step while the bases turn at every step, a
later one, and the numbers that each optimizer keeps per weight.

    python benchmarks/step_cost.py
    python benchmarks/step_cost.py --quick
"""

import argparse
import importlib.util
import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from rnnopt import FrankWolfe, SequenceModel
from rnnopt.config.options import call_flat
from rnnopt.optimizers import baselines
from rnnopt.runs.environment import processor_name
from rnnopt.tasks import Batches, build_task

CONTENDERS: dict[str, dict] = {
    "p = 2, K = 5, Adam outside": dict(norm=2, inner_steps=5, outer="adam", momentum=0),
    "p = inf, K = 5, Adam outside": dict(
        norm=float("inf"), inner_steps=5, outer="adam", momentum=0
    ),
    "spectral, K = 5, Adam outside": dict(norm="spectral", inner_steps=5, outer="adam", momentum=0),
    "p = 2, K = 1, plain": dict(norm=2, inner_steps=1, outer="plain", momentum=0),
    "spectral, K = 1, plain": dict(norm="spectral"),
    "defaults (learnt)": dict(),
}


# task, cell, units, batch
NETWORKS: tuple[tuple[str, Any, int, int], ...] = (
    ("digits-pixels", "rnn", 64, 64),
    ("hapt2", "rnn", 80, 64),
    ("mnist-rows", "rnn", 100, 128),
    ("adding:length=100", "rnn", 128, 50),
    ("mnist-rows", "gru", 100, 128),
    ("mnist-rows", "lstm", 100, 128),
)
SOAP_CYCLE = 10  # steps between its searches of a basis
WIDE = {"10^6 parameters": 2, "10^7 parameters": 17}  # matrices of 768 x 768


def cases(quick: bool) -> dict[str, list[tuple[int, ...]]]:
    """Shapes of the tensors of each case."""
    if quick:
        return {"10^4 parameters": [(50, 50)] * 4, "20 tensors of 40 x 40": [(40, 40)] * 20}
    # As many square matrices of a usual size of recurrent networks as needed.
    squares: dict[int, tuple[int, int]] = {5: (100, 10), 6: (316, 10), 7: (1000, 10), 8: (2000, 25)}
    result: dict[str, list[tuple[int, ...]]] = {
        f"10^{e} parameters": [(side, side)] * n for e, (side, n) in squares.items()
    }
    return result | {"200 tensors of 40 x 40": [(40, 40)] * 200}


def ratio(shapes: list[tuple[int, ...]], options: dict, limit: float) -> tuple[float, float]:
    """Seconds of one Adam step, and FrankWolfe's mean step over a cycle divided by it.

    Repeats for `limit` seconds, but at least three times.
    """
    generator = torch.Generator().manual_seed(0)
    params = [nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
    for p in params:
        p.grad = torch.randn(p.shape, generator=generator)
    adam = torch.optim.Adam(params, foreach=True)
    ours = call_flat(FrankWolfe, params, **options)
    steps = ours.param_groups[0]["inner_steps"]

    def cycle() -> None:
        for _ in range(steps):
            ours.step()

    times: tuple[list[float], list[float]] = ([], [])
    adam.step()  # the first steps allocate and do not count
    cycle()
    started = time.perf_counter()
    while len(times[0]) < 3 or time.perf_counter() - started < limit:
        for kept, work in zip(times, (adam.step, cycle), strict=True):
            kept.append(clock(work))
    adam_seconds = statistics.median(times[0])
    return adam_seconds, statistics.median(times[1]) / steps / adam_seconds


class Network:
    """A network with a batch, and optimizers of copies of it with the batch's gradients.

    Args:
        task: name of the task.
        cell: kind of layer.
        units: its size.
        size: sequences of the batch.
    """

    def __init__(self, task: str, cell: Any, units: int, size: int):
        self.task = build_task(task)
        self.shape = (self.task.input_size, units, self.task.output_size)
        self.cell, self.batch = cell, Batches(self.task, size, seed=0).draw()
        self.model = self._model()

    def _model(self) -> SequenceModel:
        torch.manual_seed(0)
        return SequenceModel(*self.shape, cell=self.cell, readout=self.task.readout)

    def differentiate(self, model: SequenceModel | None = None) -> None:
        """Forward and backward."""
        model = model or self.model
        model.zero_grad()
        outputs = model(self.batch.inputs, self.batch.lengths)
        self.task.loss_of(outputs, self.batch).backward()

    def weights(self) -> list[Tensor]:
        """The weights of a copy, with gradients."""
        model = self._model()
        self.differentiate(model)
        return list(model.parameters())


def learnt_ratios(network: Network, limit: float) -> list[float]:
    """Milliseconds of a step, it over a spectral one and the gradient, a fresh one over SOAP's."""
    learnt, fresh = (FrankWolfe(network.weights(), norm="learnt", lr=1e-4) for _ in range(2))
    spectral = FrankWolfe(network.weights(), norm="spectral", lr=1e-4)
    works: list[Callable[[], Any]] = [
        steps(learnt, 8, 10**4),
        spectral.step,
        network.differentiate,
        steps(fresh, 2, 100),
    ]
    counts = [8, 1, 1, 2]
    if importlib.util.find_spec("pytorch_optimizer"):
        works.append(steps(baselines.soap(network.weights(), 1e-4, SOAP_CYCLE), SOAP_CYCLE))
        counts.append(SOAP_CYCLE)
    kept: list[list[float]] = [[] for _ in works]
    for work in works:
        work()
    started = time.perf_counter()
    while len(kept[0]) < 3 or time.perf_counter() - started < limit:
        for times, work, count in zip(kept, works, counts, strict=True):
            times.append(clock(work) / count)
    low = [sorted(times)[len(times) // 10] for times in kept]
    soap = low[4] if len(low) > 4 else math.nan
    return [1e3 * low[0], low[0] / low[1], low[0] / low[2], low[3] / soap]


def wide_ratios(count: int, side: int, limit: float) -> list[float]:
    """A fresh and a later step over one of SOAP; numbers per weight, ours and SOAP's."""

    def weights() -> list[nn.Parameter]:
        generator = torch.Generator().manual_seed(0)
        made = [nn.Parameter(torch.randn(side, side, generator=generator)) for _ in range(count)]
        for p in made:
            p.grad = torch.randn(p.shape, generator=generator)
        return made

    ours, soap = FrankWolfe(weights(), lr=1e-4), baselines.soap(weights(), 1e-4, SOAP_CYCLE)
    works = [steps(ours, 2, 100), steps(ours, 8, 10**4), steps(soap, SOAP_CYCLE)]
    kept: list[list[float]] = [[] for _ in works]
    for work in works:
        work()
    started = time.perf_counter()
    while len(kept[0]) < 1 or time.perf_counter() - started < limit:
        for times, work, size in zip(kept, works, (2, 8, SOAP_CYCLE), strict=True):
            times.append(clock(work) / size)
    fresh, later, rival = (min(times) for times in kept)
    return [fresh / rival, later / rival, numbers_per_weight(ours), numbers_per_weight(soap)]


def numbers_per_weight(optimizer: torch.optim.Optimizer) -> float:
    """How many numbers the optimizer's state has for each weight."""
    weights = sum(p.numel() for p in optimizer.state)
    return sum(map(numbers_of, optimizer.state.values())) / weights


def numbers_of(value: Any) -> int:
    """How many numbers the tensors in a state have."""
    if isinstance(value, Tensor):
        return value.numel()
    inside = value.values() if isinstance(value, dict) else value
    return sum(map(numbers_of, inside)) if isinstance(value, dict | list | tuple) else 0


def steps(optimizer: torch.optim.Optimizer, count: int, at: int = 0) -> Callable[[], None]:
    """A call of `count` steps, with learnt balls as after `at` steps."""

    def work() -> None:
        for state in optimizer.state.values():
            if "ball" in state:
                state["ball"]["t"] = at
        for _ in range(count):
            optimizer.step()

    return work


def clock(work: Callable) -> float:
    """Seconds of one call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main() -> None:
    """Reads the arguments, prints a Markdown table of ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a few seconds, to see it work")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(f"torch {torch.__version__}, {processor_name()}, {args.threads} thread(s)\n")
    print(f"| parameters | Adam, ms | {' | '.join(CONTENDERS)} |")
    print("|---|---|" + "---|" * len(CONTENDERS))
    for name, shapes in cases(args.quick).items():
        size = sum(rows * columns for rows, columns in shapes)
        cells, adam_times = [], []
        for contender, options in CONTENDERS.items():
            if size > 10**6 * 1.1 and "spectral" in contender:
                cells.append("–")  # its matrix products take minutes there
                continue
            seconds, relative = ratio(shapes, options, 0.1 if args.quick else 6.0)
            adam_times.append(seconds)
            cells.append(f"{relative:.2f}")
        adam = 1e3 * statistics.median(adam_times)
        print(f"| {name} | {adam:.2f} | {' | '.join(cells)} |", flush=True)
    print('\n| norm="learnt" | ms | / spectral | / forward and backward | turning / SOAP |')
    print("|---|---|---|---|---|")
    for task, cell, units, size in NETWORKS[:1] if args.quick else NETWORKS:
        ratios = learnt_ratios(Network(task, cell, units, size), 0.1 if args.quick else 6.0)
        cells = [f"{number:.2f}" for number in ratios]
        print(f"| {task}, {cell} {units} | {' | '.join(cells)} |", flush=True)
    if not importlib.util.find_spec("pytorch_optimizer"):
        return
    print("\n| 768 x 768 | turning / SOAP | later / SOAP | numbers per weight | SOAP's |")
    print("|---|---|---|---|---|")
    for name, count in WIDE.items():
        few = (1, 16, 0.1) if args.quick else (count, 768, 10.0)
        cells = [f"{number:.2f}" for number in wide_ratios(*few)]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
