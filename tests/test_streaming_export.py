"""What `rnnopt export --streaming` promises: one step a call, the answers of the run's network.

Every cell, read-out and preparation is exported, run step by step and compared with whole series.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from cases import crossed
from export_cases import CELLS, chains_of_constants, offset_source, short_run, source_and_series

from rnnopt.config.errors import UserError
from rnnopt.config.run_config import RunConfig
from rnnopt.runs.export import export as exporting
from rnnopt.runs.export.export import ALLOWED, export, reference
from rnnopt.runs.runner import run

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")


def step_by_step(content, series):
    """Answers (time, batch, output) of an exported graph to series (batch, time, channel)."""
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    batch = len(series)
    states = {
        state.name: np.zeros((batch, state.shape[1]), np.float32)
        for state in session.get_inputs()[1:]
    }
    assert list(states) == [f"state_{i}" for i in range(len(states))]
    outputs = [one.name for one in session.get_outputs()]
    assert outputs == ["answers", *(f"next_{name}" for name in states)]
    answers = []
    for t in range(series.shape[1]):
        found = session.run(None, {"inputs": series[:, t].astype(np.float32), **states})
        answers.append(found[0])
        states = dict(zip(states, found[1:], strict=True))
    return np.stack(answers)


@crossed(("cell", CELLS), ("readout", ["last", "mean", "every"]), ("regression", [False, True]))
def test_every_network_answers_step_by_step_as_the_whole_series(cell, readout, regression):
    for options in ({}, dict(layers=2, batch_norm=True)):
        source, raw = source_and_series(cell, readout, regression=regression, **options)
        checked = export(source, "onnx", raw, "series", streaming=True)
        assert checked.difference < 1e-5
        # Not by the export's own check: each series by itself, up to some of its steps.
        p = source.preparation
        for i, n in ((0, 1), (3, 4), (29, 34)):
            part = raw[0][i : i + 1, :n]
            expected = reference(source, (part, torch.tensor([n])))
            expected = expected[:, -1] if readout == "every" else expected
            if regression:
                expected = expected * p.target_deviation[0] + p.target_mean[0]
            found = step_by_step(checked.content, part.numpy())[-1]
            scale = p.target_deviation[0] if regression else 1
            np.testing.assert_allclose(found, expected.numpy(), rtol=1e-6, atol=1e-5 * scale)


def test_missing_values_are_filled_at_their_step():
    source, raw = source_and_series("gru")
    assert torch.isnan(raw[0][0, 2, 1])
    content = export(source, "onnx", raw, "series", streaming=True).content
    assert not np.isnan(step_by_step(content, raw[0][:1, :5].numpy())).any()
    filled = raw[0][:1, :5].clone()
    filled[0, 2, 1] = source.preparation.fill[1]
    np.testing.assert_allclose(
        step_by_step(content, raw[0][:1, :5].numpy()),
        step_by_step(content, filled.numpy()),
        atol=1e-6,
    )


@pytest.mark.parametrize("data", [dict(offset=1e6, deviation=0.5), dict(offset=1e6, deviation=0.5,
                         missing="mean"), dict(offset=0, deviation=1, target=2020.3)])  # fmt: skip
def test_series_and_targets_far_from_zero_are_answered_the_same(data):
    source, raw = offset_source(**data)
    checked = export(source, "onnx", raw, "series", streaming=True)
    assert checked.difference < (4e-4 if "target" in data else 1e-5)  # as in test_export.py
    assert ALLOWED < checked.rounding < 1e-2


def test_data_that_float32_cannot_hold_are_refused():
    source, raw = offset_source(1e9, 0.5)
    with pytest.raises(UserError, match=r"float32.*too coarse"):
        export(source, "onnx", raw, "series", streaming=True)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("regression", [False, True])
def test_no_program_can_make_one_of_two_constants(cell, regression):
    source, raw = source_and_series(cell, "mean", 1, regression, layers=2, batch_norm=True)
    content = export(source, "onnx", raw, "series", streaming=True).content
    graph = onnx.load_from_string(content).graph
    chains = chains_of_constants(graph)
    assert len(chains) >= 4
    assert set(chains) == {0}
    assert {node.domain for node in graph.node} == {""}


def test_a_graph_that_answers_otherwise_is_refused(monkeypatch):
    source, raw = source_and_series("gru")
    right = exporting.stepwise_reference

    def wrong_at_the_second_step(*arguments):
        answers = right(*arguments).clone()
        answers[0, 1] += 2 * ALLOWED
        return answers

    monkeypatch.setattr(exporting, "stepwise_reference", wrong_at_the_second_step)
    with pytest.raises(UserError, match="differ from the run's by 0.0002.*nothing was written"):
        export(source, "onnx", raw, "series", streaming=True)


# -- the command ----------------------------------------------------------------------------------


@pytest.fixture
def run_folder(tmp_path, monkeypatch):
    """A short run on arrays of our own."""
    monkeypatch.chdir(tmp_path)
    short_run()
    return tmp_path / "run"


@pytest.mark.parametrize(
    ("model", "readout", "count"), [("lstm", "last", 2), ("gru", "mean", 3), ("indrnn-6", None, 6)]
)
def test_the_example_of_the_card_runs(run_folder, command, model, readout, count):
    config = dict(data="own.npz", model=model, hidden=4, budget="4evaluations")
    run(RunConfig(**config, readout=readout), Path("another"))
    code, out, error = command("export", "another", "--streaming")
    assert code == 0, error
    assert "checked on 40 series of the run's file, step by step: answers differ by" in out
    session = onnxruntime.InferenceSession("another/stream.onnx")
    note = session.get_modelmeta().custom_metadata_map
    assert json.loads(note["preparation"])["classes"] == ["high", "low"]
    states = json.loads(note["states"])
    assert [one["name"] for one in states] == [f"state_{i}" for i in range(count)]
    card = Path("another/stream.onnx.md").read_text()
    for one in states:
        assert one["meaning"] in card
        assert one["name"] in card.replace("\\", "")
    example = card.partition("```python\n")[2].partition("```")[0]
    names: dict = {}
    exec(example.replace('"stream.onnx"', '"another/stream.onnx"'), names)
    assert names["answers"].shape == (1, 2)
    assert len(names["states"]) == count


def test_a_run_on_a_task_on_board_streams(tmp_path, command):
    run(RunConfig(task="digits-rows", hidden=4, budget="3gradients"), tmp_path / "run")
    code, out, error = command("export", tmp_path / "run", "--streaming")
    assert code == 0, error
    assert "checked on 256 test series of the run, step by step" in out


@pytest.mark.parametrize(
    ("options", "arguments", "words"),
    [
        ({}, ("--format", "torchscript"), "--format onnx or c, got --format torchscript"),
        ({}, ("--format", "safetensors"), "--format onnx or c, got --format safetensors"),
        (dict(model="rnn", subsample=3), (), "--subsample 3"),
        (dict(model="rnn", missing="interpolate"), (), "got interpolate"),
        (dict(model="auto"), (), "needs a network of one direction"),
        ({}, ("--out", "step.pt"), "must end in .onnx"),
    ],
)
def test_what_cannot_be_done_is_refused_and_nothing_written(
    run_folder, command, options, arguments, words
):
    folder = "run"
    if options:
        folder = "another"
        run(RunConfig(data="own.npz", hidden=4, budget="3gradients", **options), Path(folder))
    before = set(Path().rglob("*"))
    code, _, error = command("export", folder, "--streaming", *arguments)
    assert code == 2
    assert words in error
    assert "Traceback" not in error
    assert set(Path().rglob("*")) == before
