"""How fast are the recurrent layers compared with their alternatives?

Every time is that of one forward and one backward pass. The contenders alternate in one process,
five consecutive passes each as in a training loop, and the best time counts, because other work on
a machine only adds time. The rate of large matrix products is measured in the same run, between the
others. With --keep-memory every contender keeps freed memory, as in `rnnopt train`.

    python benchmarks/recurrent_layers.py                        on the CPU, about 20 minutes
    python benchmarks/recurrent_layers.py --threads 2 --out results
    python benchmarks/recurrent_layers.py --device cuda          IndRNN on a GPU
    python benchmarks/recurrent_layers.py --quick

If JAX is installed, a jitted scan over the steps stands beside GRU and LSTM; with one thread the
process then keeps to one processor.

With --out, table.md, figure.png and rows.jsonl are written there.
"""

import argparse
import importlib
import importlib.util
import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import matplotlib
import torch
from torch import Tensor, nn

from rnnopt import GRU, LSTM, ElmanRNN, IndRNN
from rnnopt.layers.kernels import cpu, half_linear
from rnnopt.runs.environment import processor_name
from rnnopt.training.malloc import keep_freed_memory

matplotlib.use("Agg")
from matplotlib import pyplot as plt

Row = dict[str, str | float]
# (time, batch, input, hidden): pixel MNIST, activity windows, adding, MNIST row by row.
NAMED = [(784, 128, 1, 128), (128, 64, 9, 80), (100, 50, 2, 128), (28, 128, 28, 100)]
GRID_TIME, GRID_BATCH, GRID_HIDDEN = (10, 100, 784, 2000), (1, 8, 32, 128, 512), (16, 64, 128, 512)
# Of GRU and LSTM: (time, batch, input, hidden) for training, and of one layer for inference.
GATED = [(128, 64, 9, 80), (28, 128, 28, 100), (100, 50, 2, 128), (784, 32, 1, 128)]
INFERENCE = [(t, b, i, h) for t, _, i, h in GATED for b in (1, 64)]
GATED_TIME, GATED_BATCH, GATED_HIDDEN = (10, 100, 2000), (1, 8, 64, 512), (16, 64, 128, 512)
LARGE = 2048  # rows and columns of the matrices whose product is the reference rate


def best_times(
    works: Mapping[str, Callable[[], object]], limit: float, rounds: int = 200
) -> dict[str, float]:
    """Best seconds of each contender; they alternate for `limit` seconds.

    A turn is five passes, fewer if they take over a second; the first turn does not count.
    """
    best = dict.fromkeys(works, float("inf"))
    started = time.perf_counter()
    for _ in range(rounds):
        for name, work in works.items():
            turn = time.perf_counter()
            for repetition in range(6):
                begun = time.perf_counter()
                work()
                ended = time.perf_counter()
                if repetition:
                    best[name] = min(best[name], ended - begun)
                if repetition and ended - turn > 1:
                    break
        if time.perf_counter() - started > limit:
            break
    return best


def elman(shapes: list[tuple[int, int, int, int]], limit: float) -> list[Row]:
    """Elman layers against torch.nn.RNN; the loss reads the last state, as classifiers do."""
    rows: list[Row] = []
    a = torch.randn(LARGE, LARGE)
    product = torch.empty_like(a)
    for steps, batch, size, hidden in shapes:
        torchs = nn.RNN(size, hidden)
        ours = ElmanRNN.from_torch(torchs)
        inputs = torch.randn(steps, batch, size)
        works = {
            "ours": training_step(ours, inputs),
            "torch": training_step(torchs, inputs),
            "matrix": lambda: torch.mm(a, a, out=product),
        }
        if half_linear.kind():
            works["bf16"] = training_step(ElmanRNN(size, hidden, precision="bf16"), inputs)
        best = best_times(works, limit)
        # Forward, and backward through the states and to the weights; no gradient of the inputs.
        flops = 2 * steps * batch * hidden * (3 * hidden + 2 * size)
        large = 2 * LARGE**3 / best["matrix"]
        row: Row = {
            "time, batch, input, hidden": f"{steps}, {batch}, {size}, {hidden}",
            "torch.nn.RNN, ms": best["torch"] * 1e3,
            "ElmanRNN, ms": best["ours"] * 1e3,
            "times as fast": best["torch"] / best["ours"],
            "Gflop/s": flops / best["ours"] / 1e9,
            "of the large-matrix rate": flops / best["ours"] / large,
        }
        rows.append(row | in_bfloat16(best))
    return rows


def gated(
    shapes: list[tuple[int, int, int, int]], limit: float, backward: bool = True
) -> list[Row]:
    """GRU and LSTM layers against torch's, beside the rate of a product of 1024 x 1024 matrices.

    Args:
        backward: a training step as of `training_step`, else inference without gradients.
    """
    rows: list[Row] = []
    a = torch.randn(1024, 1024)
    product = torch.empty_like(a)
    for steps, batch, size, hidden in shapes:
        for ours_kind, torchs_kind, gates in ((GRU, nn.GRU, 3), (LSTM, nn.LSTM, 4)):
            torchs = torchs_kind(size, hidden)
            ours = ours_kind.from_torch(torchs)
            inputs = torch.randn(steps, batch, size)
            work = training_step if backward else inference
            works: dict[str, Callable[[], object]] = {
                "ours": work(ours, inputs),
                "torch": work(torchs, inputs),
                "matrix": lambda: torch.mm(a, a, out=product),
            }
            if backward and importlib.util.find_spec("jax"):
                works["JAX"] = jax_step(torchs, inputs)
            if half_linear.kind():
                works["bf16"] = work(ours_kind(size, hidden, precision="bf16"), inputs)
            best = best_times(works, limit)
            # The products alone: a forward pass, and backward those of states, inputs and weights.
            flops = 2 * steps * batch * gates * hidden * (size + hidden) * (3 if backward else 1)
            rate = 2 * 1024**3 / best["matrix"]
            row: Row = {
                "layer": ours_kind.__name__,
                "time, batch, input, hidden": f"{steps}, {batch}, {size}, {hidden}",
                "torch, ms": best["torch"] * 1e3,
                "ours, ms": best["ours"] * 1e3,
                "times as fast": best["torch"] / best["ours"],
                "Gflop/s": flops / best["ours"] / 1e9,
                "of the matrix rate": flops / best["ours"] / rate,
            }
            if "JAX" in best:
                row |= {"JAX, ms": best["JAX"] * 1e3}
            rows.append(row | in_bfloat16(best))
    return rows


def jax_step(layer: nn.RNNBase, inputs: Tensor) -> Callable[[], object]:
    """`training_step` by a jitted scan in JAX, with the layer's weights."""
    jax: Any = importlib.import_module("jax")
    numpy = jax.numpy
    weights = [jax.device_put(p.detach().numpy()) for p in layer.parameters()]
    x = jax.device_put(inputs.numpy())
    zeros = numpy.zeros((inputs.shape[1], layer.hidden_size))

    def lstm(state: Any, z: Any, u: Any, d: Any) -> tuple[Any, None]:
        h, c = state
        i, f, g, o = numpy.split(z + h @ u.T + d, 4, 1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * numpy.tanh(g)
        return (jax.nn.sigmoid(o) * numpy.tanh(c), c), None

    def gru(state: Any, z: Any, u: Any, d: Any) -> tuple[Any, None]:
        of_r, of_z, of_n = numpy.split(z, 3, 1)
        r, gate, n = numpy.split(state[0] @ u.T + d, 3, 1)
        n = numpy.tanh(of_n + jax.nn.sigmoid(of_r + r) * n)
        gate = jax.nn.sigmoid(of_z + gate)
        return (n + gate * (state[0] - n),), None

    def loss(weights: Any, x: Any) -> Any:
        w, u, b, d = weights
        step = lstm if layer.mode == "LSTM" else gru
        first = (zeros, zeros) if layer.mode == "LSTM" else (zeros,)
        last, _ = jax.lax.scan(lambda state, z: step(state, z, u, d), first, x @ w.T + b)
        return last[0].sum()

    gradient = jax.jit(jax.grad(loss))
    return lambda: jax.block_until_ready(gradient(weights, x))


def in_bfloat16(best: dict[str, float]) -> Row:
    """The columns of a layer with precision="bf16", where this processor has such products."""
    if "bf16" not in best:
        return {}
    return {
        f"bf16 ({half_linear.kind()}), ms": best["bf16"] * 1e3,
        "bf16 times as fast": best["torch"] / best["bf16"],
    }


def inference(layer: nn.Module, inputs: Tensor) -> Callable[[], None]:
    """Forward pass without gradients."""

    def work() -> None:
        with torch.no_grad():
            layer(inputs)

    return work


def training_step(layer: nn.Module, inputs: Tensor) -> Callable[[], None]:
    """Forward and backward pass; the loss is the sum of the last states."""

    def work() -> None:
        for p in layer.parameters():
            p.grad = None
        last = layer(inputs)[1]
        (last[0] if isinstance(last, tuple) else last).sum().backward()

    return work


def loop(z: Tensor, u: Tensor) -> Tensor:
    """The fastest per-step IndRNN in torch's operators: unbind, never z[t]."""
    h = torch.zeros_like(z[0])
    states = []
    for step in z.unbind(0):
        h = torch.relu(torch.addcmul(step, u, h))
        states.append(h)
    return torch.stack(states)


def indrnn(shapes: list[tuple[int, int, int]], limit: float, device: str) -> list[Row]:
    """The IndRNN recurrence against the loop, and against a copy of the memory it must move."""
    rows: list[Row] = []
    for steps, batch, hidden in shapes:
        z = torch.randn(steps, batch, hidden, device=device, requires_grad=True)
        u = torch.rand(hidden, device=device, requires_grad=True)
        grad = torch.randn(steps, batch, hidden, device=device)
        there = torch.empty_like(grad)

        def run(
            function: Callable, z: Tensor = z, u: Tensor = u, grad: Tensor = grad
        ) -> Callable[[], None]:
            def work() -> None:
                z.grad = u.grad = None
                function(z, u).backward(grad)
                synchronize(device)

            return work

        def copy(to: Tensor = there, source: Tensor = grad) -> None:
            to.copy_(source)
            synchronize(device)

        works = {
            "ours": run(lambda z, u: torch.ops.rnnopt.indrnn(z, u, None, None, True)[0]),
            "loop": run(loop),
            "copy": copy,
        }
        best = best_times(works, limit)
        # Forward reads z and writes h; backward reads the gradient and h and writes that of z. A
        # copy reads and writes once.
        floor = best["copy"] * 5 / 2
        rows.append(
            {
                "time, batch, hidden": f"{steps}, {batch}, {hidden}",
                "loop, ms": best["loop"] * 1e3,
                "IndRNN, ms": best["ours"] * 1e3,
                "times as fast": best["loop"] / best["ours"],
                "memory floor, ms": floor * 1e3,
            }
        )
    return rows


def six_layers(batch: int, steps: int, limit: float, device: str) -> list[Row]:
    """A training step of six IndRNN layers of 128 units, and the time of its matrix products.

    Also one with products in bfloat16, where this processor has them.
    """
    inputs = torch.randn(steps, batch, 1, device=device)
    states = torch.randn(steps * batch, 128, device=device)
    grads = torch.randn(steps * batch, 128, device=device)
    weight = torch.randn(128, 128, device=device)

    def step(precision: half_linear.Precision) -> Callable[[], None]:
        bound = IndRNN.bound_for(steps)
        layer = IndRNN(
            1, 128, 6, batch_norm="after", dropout=0.1, recurrent_bound=bound, precision=precision
        ).to(device)

        def work() -> None:
            for p in layer.parameters():
                p.grad = None
            layer(inputs)[0][-1].sum().backward()
            synchronize(device)

        return work

    def products() -> None:
        for _ in range(5):  # the first layer's input has one feature
            states @ weight.t()
            grads @ weight
            grads.t() @ states
        synchronize(device)

    works = {"step": step("float32"), "products": products}
    if device == "cpu" and half_linear.kind():
        works["bf16"] = step("bf16")
    best = best_times(works, limit)
    row: Row = {
        "time, batch": f"{steps}, {batch}",
        "step, ms": best["step"] * 1e3,
        "torch's matrix products alone, ms": best["products"] * 1e3,
        "part of the step": best["products"] / best["step"],
    }
    if "bf16" in best:
        row[f"step in bf16 ({half_linear.kind()}), ms"] = best["bf16"] * 1e3
    return [row]


def others(shapes: list[tuple[int, int, int, int]], limit: float, device: str) -> list[Row]:
    """Times of the other cells beside an Elman layer of the same size."""
    rows: list[Row] = []
    for steps, batch, size, hidden in shapes:
        inputs = torch.randn(steps, batch, size, device=device)
        layers = {
            "ElmanRNN": ElmanRNN(size, hidden),
            "IndRNN": IndRNN(size, hidden),
            "LSTM": LSTM(size, hidden),
            "GRU": GRU(size, hidden),
            "torch.nn.RNN": nn.RNN(size, hidden),
            "torch.nn.LSTM": nn.LSTM(size, hidden),
            "torch.nn.GRU": nn.GRU(size, hidden),
        }

        def timed(layer: nn.Module, inputs: Tensor = inputs) -> Callable[[], None]:
            def work() -> None:
                for p in layer.parameters():
                    p.grad = None
                ends = layer(inputs)[1]
                (ends[0] if isinstance(ends, tuple) else ends).sum().backward()
                synchronize(device)

            return work

        works = {name: timed(layer.to(device)) for name, layer in layers.items()}
        best = best_times(works, limit)
        shape = {"time, batch, input, hidden": f"{steps}, {batch}, {size}, {hidden}"}
        rows.append(shape | {f"{name}, ms": seconds * 1e3 for name, seconds in best.items()})
    return rows


def synchronize(device: str) -> None:
    """Waits for a GPU."""
    if device == "cuda":
        torch.cuda.synchronize()


def grid(quick: bool) -> list[tuple[int, int, int, int]]:
    """Shapes from the smallest to the largest; inputs of 16 features."""
    if quick:
        return [(10, 1, 16, 16), (20, 8, 16, 64)]
    return [(t, b, 16, h) for t in GRID_TIME for b in GRID_BATCH for h in GRID_HIDDEN]


def gated_grid(quick: bool) -> list[tuple[int, int, int, int]]:
    """The same for GRU and LSTM, which cost more."""
    if quick:
        return [(10, 1, 16, 16)]
    return [(t, b, 16, h) for t in GATED_TIME for b in GATED_BATCH for h in GATED_HIDDEN]


def table(rows: list[Row]) -> str:
    """Markdown, numbers to three figures."""
    names = list(rows[0])
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    for row in rows:
        cells = [v if isinstance(v, str) else f"{v:.3g}" for v in row.values()]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def figure(rows: list[Row], title: str, path: Path) -> None:
    """Speed-up over torch.nn.RNN against the work of a step, one line per length."""
    fig, axis = plt.subplots(figsize=(7.5, 4.5), layout="constrained")
    shapes = [[int(n) for n in str(row["time, batch, input, hidden"]).split(", ")] for row in rows]
    for steps in sorted({shape[0] for shape in shapes}):
        chosen = [
            (batch * hidden * (hidden + size), float(row["times as fast"]))
            for row, (time_, batch, size, hidden) in zip(rows, shapes, strict=True)
            if time_ == steps
        ]
        x, y = zip(*sorted(chosen), strict=True)
        axis.plot(x, y, "o", markersize=5, label=f"{steps} steps")
    axis.axhline(1, color="gray", linewidth=1)
    axis.set(
        xscale="log",
        yscale="log",
        xlabel="multiplications per step (batch x hidden x (hidden + input))",
    )
    axis.set_ylabel("times as fast as torch.nn.RNN")
    ticks = [1, 2, 3, 5, 10, 20, 50, 100]
    axis.set_yticks(ticks, [str(tick) for tick in ticks])
    axis.minorticks_off()
    axis.set_title(title, fontsize=10)
    axis.legend(frameon=False)
    axis.spines[["top", "right"]].set_visible(False)
    fig.savefig(path, dpi=150)
    plt.close(fig)


def main() -> None:
    """Reads the arguments, prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a few seconds, to see it work")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--keep-memory", action="store_true", help="as `rnnopt train` does")
    parser.add_argument("--only-gated", action="store_true", help="only these two of GRU and LSTM")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--out", type=Path, help="folder for table.md, figure.png and rows.jsonl")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.threads == 1 and importlib.util.find_spec("jax") and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    if args.keep_memory:
        keep_freed_memory()
    limit = 0.05 if args.quick else 4.0
    if args.device == "cuda":
        where = torch.cuda.get_device_name()
    else:
        where = f"{processor_name()}, {args.threads} thread(s), kernels {cpu.kernels().variant}"
    memory = ", freed memory kept" if args.keep_memory else ""
    title = f"torch {torch.__version__}, {where}{memory}"
    named = [(20, 8, 3, 20)] if args.quick else NAMED
    sections: dict[str, list[Row]] = {}
    texts = [title]

    def section(heading: str, rows: list[Row]) -> None:
        sections[heading] = rows
        texts.append(f"## {heading}\n\n{table(rows)}")
        print(f"\n{texts[-1]}", flush=True)

    print(title)
    if args.device == "cpu":
        section("Elman, forward and backward", elman(named, limit))
        gated_shapes = named if args.quick else GATED
        section("GRU and LSTM, forward and backward", gated(gated_shapes, limit))
        shapes = named if args.quick else INFERENCE
        section("GRU and LSTM, inference", gated(shapes, limit / 2, backward=False))
        if args.only_gated:
            return
    large = [(784, 32, 128), (784, 128, 128)]
    section(
        "IndRNN recurrence, forward and backward",
        indrnn([(30, 4, 16)] if args.quick else large, limit, args.device),
    )
    sizes = [(4, 20)] if args.quick else [(32, 784), (128, 784)]
    section(
        "Six IndRNN layers, batch normalisation, dropout: a training step",
        [row for batch, steps in sizes for row in six_layers(batch, steps, limit, args.device)],
    )
    section("All cells", others(named, limit, args.device))
    if args.device == "cpu":
        section("Elman over a grid of shapes", elman(grid(args.quick), limit / 8))
        section("GRU and LSTM over a grid of shapes", gated(gated_grid(args.quick), limit / 8))
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "table.md").write_text("\n\n".join(texts) + "\n", encoding="utf-8")
        lines = [
            json.dumps({"section": heading, "where": title} | row)
            for heading, rows in sections.items()
            for row in rows
        ]
        (args.out / "rows.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        if args.device == "cpu":
            figure(sections["Elman over a grid of shapes"], title, args.out / "figure.png")


if __name__ == "__main__":
    main()
