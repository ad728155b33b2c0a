"""What `rnnopt export` promises: the same answers from raw series, none of our kernels, a card.

Every kind of layer, read-out and preparation is exported in every format and run again.
"""

import io
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
from rnnopt.runs.export.export import ALLOWED, export, open_run
from rnnopt.runs.export.formats import ENDINGS
from rnnopt.runs.export.plain_model import PlainModel
from rnnopt.runs.folder import RunFolder
from rnnopt.runs.prediction import TrainedModel
from rnnopt.runs.runner import run

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("safetensors")
# Loading TorchScript warns, whoever does it.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.load`")


@crossed(
    ("form", ["onnx", "torchscript", "safetensors"]),
    ("readout", ["last", "mean", "every"]),
    ("cell", CELLS),
)
def test_every_network_answers_the_same_when_exported(cell, readout, form):
    for subsample, options in ((1, {}), (3, dict(layers=2, batch_norm=True))):
        source, raw = source_and_series(cell, readout, subsample, **options)
        assert export(source, form, raw, "series").difference < 1e-5


@pytest.mark.parametrize("form", ["onnx", "torchscript"])
def test_regression_answers_at_the_scale_of_its_targets(form):
    source, raw = source_and_series("gru", regression=True)
    assert export(source, form, raw, "series").difference < 1e-5
    plain = PlainModel(source.model, source.preparation, source.loss)
    found = plain(*raw)
    assert float(found.mean()) == pytest.approx(source.preparation.target_mean[0], rel=0.5)


@pytest.mark.parametrize("form", ["onnx", "torchscript"])
@pytest.mark.parametrize("missing", ["error", "mean"])
def test_series_far_from_zero_are_answered_the_same(form, missing):
    source, raw = offset_source(1e6, 0.5, missing=missing)
    checked = export(source, form, raw, "series")
    assert checked.difference < 1e-5
    # float32 knows 1e6 to 1/16: that moves the input, and the user is told.
    assert ALLOWED < checked.rounding < 1e-2


@pytest.mark.parametrize("form", ["onnx", "torchscript"])
def test_targets_far_from_zero_are_answered_the_same(form):
    source, raw = offset_source(0, 1, target=2020.3)
    checked = export(source, form, raw, "series")
    # The last place of float32 at 2020 is 2^-13, half of which rounding takes: 2^-14 / 0.2 = 3e-4
    # in units of the targets' deviation, more than is allowed of numbers near zero.
    assert checked.difference < 4e-4
    assert 1e-3 < checked.rounding < 2e-3


@pytest.mark.parametrize("readout", ["last", "mean", "every"])
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("regression", [False, True])
def test_no_program_can_make_one_of_two_constants(cell, readout, regression):
    source, raw = source_and_series(cell, readout, 3, regression, layers=2, batch_norm=True)
    graph = onnx.load_from_string(export(source, "onnx", raw, "series").content).graph
    chains = chains_of_constants(graph)
    assert len(chains) >= 4  # two of the mean, two of batch normalisation
    assert set(chains) == {0}


@pytest.mark.parametrize("data", [dict(offset=1e6, deviation=0.5), dict(offset=1e6, deviation=0.5,
                         missing="mean"), dict(offset=0, deviation=1, target=2020.3)])  # fmt: skip
def test_openvino_answers_the_same_far_from_zero(data, tmp_path):
    openvino = pytest.importorskip("openvino")
    source, (inputs, lengths) = offset_source(**data)
    path = tmp_path / "model.onnx"
    path.write_bytes(export(source, "onnx", (inputs, lengths), "series").content)
    given = {"inputs": inputs.float().numpy(), "lengths": lengths.numpy()}
    wanted = onnxruntime.InferenceSession(str(path)).run(None, given)[0]
    # bf16, of two to three digits, would be taken where the processor has it.
    precise = {"INFERENCE_PRECISION_HINT": "f32"}
    found = openvino.Core().compile_model(path, "CPU", precise)(given)[0]
    np.testing.assert_allclose(found, wanted, rtol=1.2e-7, atol=2e-6)


@pytest.mark.parametrize("options", [dict(offset=1e9, deviation=0.5), dict(offset=0, deviation=1,
                         target=1e8)])  # fmt: skip
def test_data_that_float32_cannot_hold_are_refused_with_the_cause(options):
    source, raw = offset_source(**options)
    with pytest.raises(UserError, match=r"float32.*too coarse.*offset.*safetensors"):
        export(source, "onnx", raw, "series")
    assert export(source, "safetensors", raw, "series").difference < 1e-6


@pytest.mark.parametrize("cell", CELLS)
def test_a_graph_has_one_operator_a_layer_and_none_of_our_own(cell):
    source, raw = source_and_series(cell, layers=2)
    graph = onnx.load_from_string(export(source, "onnx", raw, "series").content).graph
    used = [node.op_type for node in graph.node]
    wanted = {"rnn": "RNN", "lstm": "LSTM", "gru": "GRU", "indrnn": "Scan"}[cell]
    assert used.count(wanted) == 2
    assert {node.domain for node in graph.node} == {""}
    content = export(source, "torchscript", raw, "series").content
    loaded = torch.jit.load(io.BytesIO(content))
    assert "rnnopt::" not in str(loaded.inlined_graph)


def test_a_graph_takes_other_lengths_and_batches_than_it_was_checked_on():
    source, raw = source_and_series("indrnn", "mean", 3)
    content = export(source, "onnx", raw, "series").content
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    generator = torch.Generator().manual_seed(1)
    for batch, time in ((1, 2), (3, 50)):
        inputs = torch.randn(batch, time, 2, generator=generator)
        lengths = torch.full((batch,), time)
        (found,) = session.run(None, {"inputs": inputs.numpy(), "lengths": lengths.numpy()})
        expected = exporting.reference(source, (inputs, lengths))
        np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)


def test_an_exported_network_that_answers_otherwise_is_refused(monkeypatch):
    source, raw = source_and_series("gru")
    reference = exporting.reference
    monkeypatch.setattr(exporting, "reference", lambda *a: reference(*a) + 2 * ALLOWED)
    with pytest.raises(UserError, match="differ from the run's by 0.0002.*nothing was written"):
        export(source, "onnx", raw, "series")


# -- the command ----------------------------------------------------------------------------------


@pytest.fixture
def run_folder(tmp_path, monkeypatch):
    """A short run on arrays of our own."""
    monkeypatch.chdir(tmp_path)
    short_run()
    return tmp_path / "run"


@pytest.mark.parametrize("form", ["onnx", "torchscript", "safetensors"])
def test_a_card_stands_beside_the_file_and_its_example_runs(run_folder, command, form):
    file = f"own{ENDINGS[form]}"
    code, out, error = command("export", run_folder, "--format", form, "--out", f"out/{file}")
    assert code == 0, error
    assert "checked on 40 series of the run's file: answers differ by" in out
    card = Path(f"out/{file}.md").read_text()
    for words in ("own.npz, sha256", "test accuracy", "its default", "## Limits", f"`{file}`"):
        assert words in card
    for row in ("| hidden | ", "| layers | 1 |", "| lr | 0"):
        assert f"\n{row}" in card
    assert "| lr | its default |" not in card
    assert ("INFERENCE_PRECISION_HINT=f32" in card) == (form == "onnx")
    example = card.partition("```python\n")[2].partition("```")[0]
    names: dict = {}
    exec(example.replace(f'"{file}"', f'"out/{file}"'), names)
    answers = names["outputs"] if form == "safetensors" else names["answers"]
    assert tuple(answers.shape) == (1, 2)


def test_names_of_the_classes_travel_with_the_file(run_folder, command):
    command("export", run_folder)
    session = onnxruntime.InferenceSession(str(run_folder / "model.onnx"))
    note = session.get_modelmeta().custom_metadata_map
    assert json.loads(note["preparation"])["classes"] == ["high", "low"]


def test_a_network_that_an_earlier_version_saved_is_read(run_folder, monkeypatch):
    run(
        RunConfig(data="own.npz", model="indrnn-6-paper", hidden=4, budget="4evaluations"),
        Path("six"),
    )

    def as_before(folder, read=RunFolder.read_data):
        data = read(folder)
        assert data["model"]["initialization"] == "indrnn-paper"
        data["model"] |= dict(initialization="indrnn", last_layer_remembers=True)
        return data

    settings = TrainedModel.open(Path("six")).settings
    monkeypatch.setattr(RunFolder, "read_data", as_before)
    assert TrainedModel.open(Path("six")).settings == settings


def test_a_run_whose_data_have_gone_is_checked_on_random_series(run_folder, command):
    Path("own.npz").unlink()
    code, out, error = command("export", run_folder)
    assert code == 0, error
    assert "64 random series, for the run's files have gone" in out
    assert TrainedModel.open(run_folder).preparation.classes == ("high", "low")


def test_a_run_whose_data_have_changed_is_not_said_to_be_checked_on_them(run_folder, command):
    np.savez("own.npz", X=np.ones((40, 9, 2)), y=np.repeat(["low", "high"], 20))
    code, out, error = command("export", run_folder)
    assert code == 0, error
    assert "64 random series, for the run's files have changed" in out


@pytest.mark.parametrize(
    ("out", "words"),
    [
        ("own.npz", "must end in .pt, got own.npz"),
        ("run/best.pt", "must not be or lie in"),
        ("run/checkpoint.pt", "must not be or lie in"),
        ("folder.pt", "must be a file, got the folder"),
    ],
)
def test_export_writes_over_nothing_that_is_read(run_folder, command, out, words):
    Path("folder.pt").mkdir()
    before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    code, _, error = command("export", run_folder, "--format", "torchscript", "--out", out)
    assert code == 2
    assert words in error
    assert {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()} == before


def test_two_exports_into_one_folder_have_a_card_each(run_folder, command):
    for form in ("onnx", "torchscript"):
        assert command("export", run_folder, "--format", form)[0] == 0
    for name in ("model.onnx", "model.pt"):
        assert f"`{name}`" in (run_folder / f"{name}.md").read_text()


def test_a_run_on_a_task_on_board_can_be_exported(tmp_path, command):
    run(RunConfig(task="digits-rows", hidden=4, budget="3gradients"), tmp_path / "run")
    code, out, error = command("export", tmp_path / "run")
    assert code == 0, error
    assert "checked on 256 test series" in out
    assert open_run(tmp_path / "run")[0].preparation is None


def test_a_run_that_is_not_over_is_refused(run_folder, command):
    (run_folder / "best.pt").unlink()
    RunFolder(run_folder).write_result({"status": "interrupted"})
    code, _, error = command("export", run_folder)
    assert code == 2
    assert "must hold a run that is over" in error
    assert "train --resume --out" in error
    assert not (run_folder / "model.onnx").exists()
