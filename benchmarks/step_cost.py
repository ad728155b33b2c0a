"""What does a step of FrankWolfe cost compared with a step of torch.optim.Adam?

Both update the same tensors with given gradients, without the time of a model. A cycle of
FrankWolfe is K inner steps, the last of which commits with Adam as the outer optimizer; its time
divided by K is compared with one step of Adam(foreach=True). The two alternate, and the ratio is
that of the medians.

    python benchmarks/step_cost.py
    python benchmarks/step_cost.py --quick
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

from rnnopt import FrankWolfe
from rnnopt.config.options import call_flat
from rnnopt.runs.environment import processor_name

CONTENDERS: dict[str, dict] = {
    "p = 2, K = 5, Adam outside": dict(norm=2, inner_steps=5, outer="adam", momentum=0),
    "p = inf, K = 5, Adam outside": dict(
        norm=float("inf"), inner_steps=5, outer="adam", momentum=0
    ),
    "spectral, K = 5, Adam outside": dict(norm="spectral", inner_steps=5, outer="adam", momentum=0),
    "p = 2, K = 1, plain": dict(norm=2, inner_steps=1, outer="plain", momentum=0),
    "defaults (spectral)": dict(),
}


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


if __name__ == "__main__":
    main()
