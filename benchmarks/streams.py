"""How long does one step of a recurrent network take, if the next one waits for its answer?

A network of one recurrent layer and a linear read-out gets one step of one sequence at a time. The
contenders alternate; each figure is the median of single calls in microseconds, the last column
the time that 99 of 100 calls of the stream with a list keep to.

    python benchmarks/streams.py
    python benchmarks/streams.py --compile     also torch.compile of a cell, which takes minutes
    python benchmarks/streams.py --quick
"""

import argparse
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from rnnopt import SequenceModel
from rnnopt.layers.kernels import cpu
from rnnopt.runs.environment import processor_name

INPUT, OUTPUT = 9, 6
Work = Callable[[], object]
CELLS: dict[str, tuple[Any, Any]] = {
    "rnn": (nn.RNN, nn.RNNCell),
    "gru": (nn.GRU, nn.GRUCell),
    "lstm": (nn.LSTM, nn.LSTMCell),
}


class OneStep(nn.Module):
    """A cell of torch's and a read-out, as one writes it for a control loop."""

    def __init__(self, kind: Any, hidden: int):
        super().__init__()
        self.cell, self.output = kind(INPUT, hidden), nn.Linear(hidden, OUTPUT)

    def forward(self, x: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """The answer and the next state."""
        if len(state) == 2:
            h, c = self.cell(x, state)
            return self.output(h), h, c
        h = self.cell(x, *state)
        return self.output(h), h


def contenders(cell: str, hidden: int, compiled: bool) -> dict[str, Work]:
    """What takes one step, by name."""
    model = SequenceModel(INPUT, hidden, OUTPUT, cell=cell).eval()  # type: ignore[arg-type]
    x = torch.randn(INPUT)
    numbers, array = x.tolist(), x.numpy()
    streams = [model.stream() for _ in range(3)]
    works: dict[str, Work] = {
        "push, list": lambda: streams[0].push(numbers),
        "push, tensor": lambda: streams[1].push(x),
        "push, numpy": lambda: streams[2].push(array),
    }
    exported = onnx_step(model, hidden)
    if exported is not None:
        works["onnxruntime"] = exported
    if cell in CELLS:
        works |= torchs(cell, hidden, compiled)
    return works


def torchs(cell: str, hidden: int, compiled: bool) -> dict[str, Work]:
    """Torch's own ways."""
    layer, one_cell = CELLS[cell]
    whole, output = layer(INPUT, hidden), nn.Linear(hidden, OUTPUT)
    sequence, row = torch.randn(1, 1, INPUT), torch.randn(1, INPUT)
    kept: dict[str, Any] = {"layer": None}

    def run_layer() -> None:
        states, kept["layer"] = whole(sequence, kept["layer"])
        output(states[-1])

    step = OneStep(one_cell, hidden).eval()
    first = tuple(torch.zeros(1, hidden) for _ in range(2 if cell == "lstm" else 1))

    def run(name: str, function: Any) -> Work:
        kept[name] = first

        def once() -> None:
            kept[name] = function(row, *kept[name])[1:]

        return once

    with warnings.catch_warnings(), torch.no_grad():  # deprecated, but what there is for this
        warnings.simplefilter("ignore")
        traced = torch.jit.freeze(torch.jit.trace(step, (row, *first)))
    works: dict[str, Work] = {
        f"nn.{one_cell.__name__}": run("cell", step),
        f"nn.{layer.__name__}": run_layer,
        "torch.jit": run("jit", traced),
    }
    if compiled:
        works["torch.compile"] = run("compile", torch.compile(step))
    return works


def onnx_step(model: SequenceModel, hidden: int) -> Work | None:
    """The graph of `rnnopt export --streaming` in onnxruntime, if that is there."""
    try:
        import numpy as np
        import onnxruntime

        from rnnopt.runs.export.plain_model import PlainModel
        from rnnopt.runs.export.streaming import streaming_file
    except ImportError:
        return None
    content, _ = streaming_file(PlainModel(model, None, "mse"), {})
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    states = {one.name: np.zeros((1, hidden), np.float32) for one in session.get_inputs()[1:]}
    given = {"inputs": np.zeros((1, INPUT), np.float32), **states}

    def once() -> None:
        found = session.run(None, given)
        given.update(zip(states, found[1:], strict=True))

    return once


def times(works: dict[str, Work], calls: int) -> dict[str, list[float]]:
    """Sorted times of single calls in microseconds; turns of 100 calls alternate."""
    found: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(max(1, calls // 100)):
        for name, work in works.items():
            for repetition in range(110):
                begun = time.perf_counter_ns()
                work()
                ended = time.perf_counter_ns()
                if repetition >= 10:  # the first ones find other things in the caches
                    found[name].append((ended - begun) / 1000)
    return {name: sorted(one) for name, one in found.items()}


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--compile", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{processor_name()}, kernels {cpu.kernels().variant}, torch {torch.__version__}\n")
    columns: list[str] = []
    for hidden in (8,) if given.quick else (64, 256):
        for cell in ("rnn", "gru", "lstm", "indrnn"):
            with torch.inference_mode():
                works = contenders(cell, hidden, given.compile)
                found = times(works, 100 if given.quick else 3000)
            named = {_column(name): one for name, one in found.items()}
            if not columns:
                columns = list(named)
                print(f"| cell, units | {' | '.join(columns)} | 99 % of push, list |")
                print("|---" * (len(columns) + 2) + "|")
            cells = [f"{named[c][len(named[c]) // 2]:.1f}" if c in named else "" for c in columns]
            late = found["push, list"]
            print(f"| {cell}, {hidden} | {' | '.join(cells)} | {late[len(late) * 99 // 100]:.1f} |")


def _column(name: str) -> str:
    if not name.startswith("nn."):
        return name
    return "torch's cell" if name.endswith("Cell") else "torch's layer"


if __name__ == "__main__":
    main()
