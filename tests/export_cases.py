"""Networks and series that the tests of exports share."""

from pathlib import Path

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from rnnopt.config.run_config import RunConfig
from rnnopt.layers.sequence_model import SequenceModel
from rnnopt.runs.export.export import Source
from rnnopt.runs.runner import run
from rnnopt.tasks import from_arrays

CELLS = ["rnn", "lstm", "gru", "indrnn"]


def source_and_series(cell, readout="last", subsample=1, regression=False, **options):
    """A network with random weights over ragged series with gaps, and the raw series."""
    generator = np.random.default_rng(0)
    series = [5 + 3 * generator.normal(size=(n, 2)) for n in range(5, 35)]
    for one in series[::5]:
        one[2, 1] = np.nan
    targets = 1000 * generator.random(30) if regression else ["a", "b", "c"] * 10
    task = from_arrays(series, targets, missing="mean", subsample=subsample)
    settings = dict(
        input_size=2, hidden_size=6, output_size=task.output_size, cell=cell, readout=readout,
        steps=task.steps, **options,
    )  # fmt: skip
    torch.manual_seed(0)
    model = SequenceModel(**settings)
    whole = task.train.batch(slice(None))
    model(whole.inputs, whole.lengths)  # moves the batch statistics
    p = task.data.preparation
    source = Source(model.eval(), settings, p, task.loss, RunConfig(), {}, {})
    inputs = pad_sequence([torch.from_numpy(one).float() for one in series], batch_first=True)
    return source, (inputs, torch.tensor([len(one) for one in series]))


def offset_source(offset, deviation, target=None, missing="error"):
    """A network with random weights over series, or targets, of a small spread around an offset."""
    generator = np.random.default_rng(0)
    series = offset + deviation * generator.normal(size=(40, 20, 2))
    if missing != "error":
        series[::5, 3, 1] = np.nan
    targets = ["a", "b"] * 20 if target is None else target + 0.2 * generator.normal(size=40)
    task = from_arrays(series, targets, missing=missing)
    settings = dict(input_size=2, hidden_size=6, output_size=task.output_size, cell="gru")
    torch.manual_seed(0)
    model = SequenceModel(**settings).eval()
    p = task.data.preparation
    source = Source(model, settings, p, task.loss, RunConfig(), {}, {})
    return source, (torch.from_numpy(series), torch.full((40,), 20))


def chains_of_constants(graph):
    """For each Add or Sub of a constant, how many more there are in what may be merged with it.

    That is everything up to the first operator that is not an elementwise one with a constant.
    """
    import onnx

    constants = {one.name for one in graph.initializer if one.data_type == onnx.TensorProto.FLOAT}
    made_by = {output: node for node in graph.node for output in node.output}

    def linear(name):
        node = made_by.get(name)
        mergeable = node is not None and node.op_type in ("Add", "Sub", "Mul", "Div")
        return node if mergeable and constants & set(node.input) else None

    found = []
    for node in graph.node:
        if linear(node.output[0]) is None or node.op_type not in ("Add", "Sub"):
            continue
        before, count = node, 0
        while before is not None:
            before = next((n for n in map(linear, before.input) if n is not None), None)
            count += before is not None and before.op_type in ("Add", "Sub")
        found.append(count)
    return found


def short_run(**options) -> None:
    """A short run on arrays of our own, in the current folder: own.npz and run."""
    generator = np.random.default_rng(0)
    x = generator.normal(size=(40, 9, 2)) + np.repeat([0, 3], 20)[:, None, None]
    np.savez("own.npz", X=x, y=np.repeat(["low", "high"], 20))
    config = RunConfig(data="own.npz", model="lstm", hidden=4, budget="20gradients", **options)
    run(config, Path("run"))
