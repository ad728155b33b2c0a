"""What `rnnopt export --weights int8` promises of ONNX: a quarter of the size, float32's speed.

The rounding of the weights itself is promised in test_export_c.py.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from cases import crossed
from export_cases import CELLS, short_run, source_and_series

from rnnopt.runs.export.export import export
from rnnopt.runs.export.int8 import with_int8_weights
from rnnopt.runs.export.plain_model import PlainModel

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")


def entries(graph, kind):
    """How many numbers there are in the constants of a type that have more than one column."""
    constants = [one for one in graph.initializer if one.data_type == kind]
    return sum(
        int(np.prod(one.dims)) for one in constants if len(one.dims) > 1 and one.dims[-1] > 1
    )


@crossed(("cell", CELLS), ("streaming", [False, True]), ("regression", [False, True]))
def test_every_network_answers_with_the_rounded_weights(cell, streaming, regression):
    source, raw = source_and_series(cell, "mean", regression=regression, layers=2, batch_norm=True)
    checked = export(source, "onnx", raw, "series", streaming, "int8")
    assert checked.difference < 1e-5
    # Not by the export's own check, and not by the rounding of the network as a whole.
    if not streaming:
        plain = PlainModel(with_int8_weights(source.model), source.preparation, source.loss)
        session = onnxruntime.InferenceSession(checked.content)
        given = {"inputs": raw[0].numpy(), "lengths": raw[1].numpy()}
        found = session.run(None, given)[0]
        np.testing.assert_allclose(found, plain(*raw).numpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("cell", CELLS)
def test_two_directions_and_a_stem_have_int8_weights_too(cell):
    source, raw = source_and_series(cell, bidirectional=True, stem=[(4, 2)])
    checked = export(source, "onnx", raw, "series", weights="int8")
    assert checked.difference < 1e-5


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("streaming", [False, True])
def test_all_matrices_are_int8_by_standard_operators_that_are_computed_once(
    cell, streaming, tmp_path
):
    source, raw = source_and_series(cell, layers=2)
    content = export(source, "onnx", raw, "series", streaming, "int8").content
    graph = onnx.load_from_string(content).graph
    assert {node.domain for node in graph.node} == {""}
    # 6 units, 2 inputs, 3 classes: of the first layer, the second and the read-out; IndRNN has no
    # recurrent matrices. Float are biases alone, and the scales of MatMul, which are rows.
    gates = {"rnn": 1, "gru": 3, "lstm": 4, "indrnn": 1}[cell]
    recurrent = 0 if cell == "indrnn" else 2 * 36 * gates
    assert entries(graph, onnx.TensorProto.INT8) == gates * (12 + 36) + recurrent + 18
    biases = 0 if cell == "indrnn" else 2 * 2 * 6 * gates
    scales = 3 + (12 if cell == "indrnn" else 0)
    assert entries(graph, onnx.TensorProto.FLOAT) == biases + scales
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "loaded.onnx")
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    loaded = onnx.load(tmp_path / "loaded.onnx").graph
    assert not [one for one in loaded.initializer if one.data_type == onnx.TensorProto.INT8]


def test_the_file_is_about_a_quarter_and_the_card_says_what_it_costs(
    tmp_path, monkeypatch, command
):
    monkeypatch.chdir(tmp_path)
    short_run()
    for name, options in (("whole", ()), ("small", ("--weights", "int8"))):
        arguments = ("export", "run", *options, "--out", f"{name}.onnx")
        code, out, error = command(*arguments)
        assert code == 0, error
    assert "test accuracy with int8 weights: " in out
    card = Path("small.onnx.md").read_text()
    for words in ("(onnx, weights in int8)", "| test accuracy with int8 weights | "):
        assert words in card
    assert "with weights rounded to int8 by" in card


def test_a_wide_network_takes_little_more_than_a_byte_a_weight():
    torch.manual_seed(0)
    source, raw = source_and_series("lstm")
    wide = type(source.model)(**source.settings | dict(hidden_size=96)).eval()
    object.__setattr__(source, "model", wide)
    content = export(source, "onnx", raw, "series", weights="int8").content
    count = sum(p.numel() for p in wide.parameters())
    assert count < len(content) < 1.3 * count
