"""What a bidirectional `SequenceModel` promises: a layer each way, padding, export, errors.

The plain twin is two layers of one direction; the second reads each sequence from its end.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from cases import crossed
from export_cases import CELLS, source_and_series

from rnnopt import SequenceModel
from rnnopt.config.errors import UserError
from rnnopt.layers.sequence_model import CELLS as LAYERS
from rnnopt.runs.export.export import export

LENGTHS = torch.tensor([3, 7, 1, 5])  # of four sequences padded to 7 steps
READOUTS = ("last", "every", "mean")


def build(**options):
    """A bidirectional model in double precision, the same at every call."""
    torch.manual_seed(1)
    sizes = {"input_size": 3, "hidden_size": 5, "output_size": 2}
    return SequenceModel(**sizes | {"bidirectional": True} | options).double()


def one_way(layer, cell, end):
    """A layer of one direction with the weights of one of a bidirectional layer's."""
    twin = LAYERS[cell](layer.input_size, layer.hidden_size).double()
    if cell == "indrnn":
        twin.recurrent_bound = layer.recurrent_bound
    for name, weight in twin.named_parameters():
        weight.data.copy_(layer.get_parameter(f"{name}{end}"))
    return twin


def by_two_layers(model, cell, inputs):
    """The answer to one sequence (time, 1, feature), and where its states end."""
    states = inputs
    for layer in model.recurrent:
        forwards = one_way(layer, cell, "")(states)[0]
        backwards = one_way(layer, cell, "_reverse")(states.flip(0))[0].flip(0)
        states = torch.cat([forwards, backwards], 2)
    ends = torch.cat([forwards[-1], backwards[0]], 1)
    read = {"every": states, "mean": states.mean(0), "last": ends}[model.readout]
    return model.output(read)


@pytest.fixture
def inputs(rng):
    return torch.randn(7, 4, 3, generator=rng, dtype=torch.float64)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("readout", READOUTS)
def test_each_layer_is_two_and_the_second_begins_at_the_last_true_step(cell, readout, inputs):
    model = build(cell=cell, layers=2, readout=readout)
    answers = model(inputs, LENGTHS)
    for i, length in enumerate(LENGTHS.tolist()):
        expected = by_two_layers(model, cell, inputs[:length, i : i + 1])
        found = answers[:length, i] if readout == "every" else answers[i]
        torch.testing.assert_close(found, expected[:, 0] if readout == "every" else expected[0])


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("readout", READOUTS)
def test_a_padded_sequence_is_answered_as_if_alone_after_normalisation_too(cell, readout, inputs):
    model = build(cell=cell, readout=readout, layers=2, batch_norm=True, dropout=0.2)
    model(inputs, LENGTHS)  # moves the batch statistics
    model.eval()
    answers = model(inputs, LENGTHS)
    for i, length in enumerate(LENGTHS.tolist()):
        alone = model(inputs[:length, i : i + 1])
        found = answers[:length, i] if readout == "every" else answers[i]
        torch.testing.assert_close(found, alone[:, 0] if readout == "every" else alone[0])


@pytest.mark.parametrize("cell", CELLS)
def test_what_stands_in_the_padding_does_not_matter_in_training(cell, inputs):
    padding = torch.arange(7)[:, None] >= LENGTHS
    results = []
    for given in (inputs, torch.where(padding[..., None], torch.nan, inputs)):
        model = build(cell=cell, readout="mean", batch_norm=True, layers=2)
        model(given, LENGTHS).square().sum().backward()
        results.append([*(p.grad for p in model.parameters()), *model.buffers()])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other)


def test_orthogonal_matrices_are_so_in_both_directions():
    layer = build(cell="gru", initialization="orthogonal").recurrent[0]
    for name in ("weight_hh_l0", "weight_hh_l0_reverse"):
        for gate in layer.get_parameter(name).chunk(3):
            torch.testing.assert_close((gate @ gate.T).float(), torch.eye(5))


@pytest.mark.parametrize("cell", CELLS)
def test_a_network_that_runs_backwards_continues_from_no_state(cell, inputs):
    model = build(cell=cell)
    _, state = model.advance(inputs)
    with pytest.raises(ValueError, match="bidirectional network needs whole sequences"):
        model.advance(inputs, state)
    with pytest.raises(ValueError, match="bidirectional"):
        model.stream()


# -- export ---------------------------------------------------------------------------------------


@crossed(("cell", CELLS), ("readout", READOUTS), ("form", ["onnx", "torchscript", "safetensors"]))
def test_it_answers_the_same_when_exported(cell, readout, form):
    pytest.importorskip("onnxruntime")
    options = dict(layers=2, batch_norm=True, bidirectional=True)
    source, raw = source_and_series(cell, readout, **options)
    assert export(source, form, raw, "series").difference < 1e-5


def test_it_is_not_exported_step_by_step():
    source, raw = source_and_series("gru", bidirectional=True)
    with pytest.raises(UserError, match="--streaming needs a network of one direction"):
        export(source, "onnx", raw, "series", streaming=True)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*deprecated")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("cell", ["gru", "indrnn"])
def test_traced_it_takes_other_sequences_and_lengths(cell, inputs):
    model = build(cell=cell, layers=2, readout="last").eval()
    traced = torch.jit.trace(model, (inputs, LENGTHS), check_trace=False)
    others, lengths = inputs.flip(1), torch.tensor([7, 2, 4, 6])
    torch.testing.assert_close(traced(others, lengths), model(others, lengths))


# -- the command line -----------------------------------------------------------------------------


def test_a_bidirectional_run_is_kept_and_predicts(tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(0)
    lines = [f"{'ab'[i % 2]},{i % 2},{generator.normal():.3f},1" for i in range(40)]
    Path("data.csv").write_text("\n".join(lines))
    options = ["--bidirectional", "--hidden", "4", "--budget", "20gradients", "--quiet"]
    code, _, error = command(
        "train", "--data", "data.csv", "--model", "gru", *options, "--out", "r"
    )
    assert code == 0, error
    assert json.loads(Path("r/config.json").read_text())["bidirectional"] is True
    assert json.loads(Path("r/data.json").read_text())["model"]["bidirectional"] is True
    code, _, error = command("predict", "r", "--data", "data.csv", "--out", "p.csv")
    assert code == 0, error
    for more in (["--tbptt", "2"], ["--optimizer", "admm"]):
        code, out, error = command("train", "--data", "data.csv", "--model", "gru", *options, *more)
        assert code == 2
        assert "direction" in error
        assert "Traceback" not in out + error
