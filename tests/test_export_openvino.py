"""What `rnnopt export --format openvino` promises: the run's answers in OpenVINO."""

from pathlib import Path

import numpy as np
import pytest
from export_cases import CELLS, offset_source, short_run, source_and_series

from rnnopt.runs.export import export as exporting
from rnnopt.runs.export.export import ALLOWED, export, open_run, reference
from rnnopt.runs.export.onnx_graph import to_onnx
from rnnopt.runs.export.plain_model import PlainModel

pytest.importorskip("onnx")
openvino = pytest.importorskip("openvino")
FLOAT32 = {"INFERENCE_PRECISION_HINT": "f32"}


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize(
    ("readout", "subsample", "options"),
    [
        ("last", 3, dict(layers=2, batch_norm=True)),
        ("every", 1, {}),
        ("mean", 1, dict(bidirectional=True)),
    ],
)
def test_every_network_answers_the_same_in_openvino(cell, readout, subsample, options):
    source, raw = source_and_series(cell, readout, subsample, **options)
    checked = export(source, "openvino", raw, "series")
    assert checked.difference < 1e-5
    assert checked.content.startswith(b"<?xml")


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_onnx_files_read_by_openvino_begin_the_second_direction_at_the_last_true_step(cell):
    # OpenVINO 2026.4.1 begins the second direction of ONNX's own operators at the padding.
    source, raw = source_and_series(cell, "mean", bidirectional=True, layers=2)
    core = openvino.Core()
    content = to_onnx(PlainModel(source.model, source.preparation, source.loss))
    model = core.compile_model(core.read_model(content.SerializeToString()), "CPU", FLOAT32)
    narrow = (raw[0].float(), raw[1])
    found = model({"inputs": narrow[0].numpy(), "lengths": raw[1].numpy()})["answers"]
    np.testing.assert_allclose(found, reference(source, narrow).numpy(), atol=1e-6)


@pytest.mark.parametrize(
    "data", [dict(offset=1e6, deviation=0.5), dict(offset=0, deviation=1, target=2020.3)]
)
def test_series_and_targets_far_from_zero_are_answered_the_same(data):
    source, raw = offset_source(**data)
    assert export(source, "openvino", raw, "series").difference < (
        2e-3 if "target" in data else 1e-5
    )


def test_the_files_are_a_pair_that_openvino_loads(tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    short_run()
    Path("net.bin").write_text("mine")
    code, _, error = command("export", "run", "--format", "openvino", "--out", "net.xml")
    assert (code, error.count("\n")) == (2, 1)
    assert "net.bin" in error
    assert Path("net.bin").read_text() == "mine"
    Path("net.bin").unlink()
    for _ in range(2):  # a second export takes the place of the first
        code, out, error = command("export", "run", "--format", "openvino", "--out", "net.xml")
        assert code == 0, error
    assert out.count("wrote net.") == 3
    source, raw, _ = open_run(Path("run"))
    card = Path("net.xml.md").read_text()
    code = card.partition("```python\n")[2].partition("```")[0]
    names: dict = {}
    exec(code, names)  # as the card says
    assert names["answers"].shape[1] == source.settings["output_size"]
    # Weights are not rounded to float16, and the note is there.
    narrow = (raw[0].float(), raw[1])
    found = names["model"]({"inputs": narrow[0].numpy(), "lengths": raw[1].numpy()})["answers"]
    np.testing.assert_allclose(found, reference(source, narrow).numpy(), atol=1e-6)
    graph = names["core"].read_model("net.xml")
    assert graph.get_rt_info(["rnnopt", "task"]).astype(str) == f'"{source.config.task}"'


def test_a_wrong_answer_is_not_written_and_a_missing_package_is_named(
    tmp_path, monkeypatch, command
):
    monkeypatch.chdir(tmp_path)
    short_run()
    wrong = exporting.openvino_file

    def spoilt(model, note):
        content, weights, answer = wrong(model, note)
        return content, weights, lambda *raw: answer(*raw) + 2 * ALLOWED

    monkeypatch.setattr(exporting, "openvino_file", spoilt)
    code, _, error = command("export", "run", "--format", "openvino")
    assert (code, error.count("\n")) == (2, 1)
    assert "nothing was written" in error

    def missing(model, note):
        raise ModuleNotFoundError("No module named 'openvino'", name="openvino")

    monkeypatch.setattr(exporting, "openvino_file", missing)
    code, _, error = command("export", "run", "--format", "openvino")
    assert (code, error.count("\n")) == (2, 1)
    assert "rnnopt[openvino]" in error
    assert not list(Path("run").glob("model.*"))
