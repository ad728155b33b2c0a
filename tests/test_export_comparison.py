"""What `rnnopt export --compare` promises: all formats of a run, on its test data, in a table."""

from pathlib import Path

import pytest
import torch
from export_cases import short_run, source_and_series

from rnnopt.runs.export import runners
from rnnopt.runs.export.comparison import VARIANTS, Comparison, Row, cells
from rnnopt.runs.export.export import stepwise_reference
from rnnopt.runs.export.plain_model import PlainModel
from rnnopt.runs.export.runners import Exported, median_seconds
from rnnopt.runs.folder import RunFolder
from rnnopt.tasks.user_data.recordings import Recordings

NEEDED = ("onnx", "onnxruntime", "safetensors")


@pytest.fixture
def short(monkeypatch):
    """Measurements that are over at once."""
    monkeypatch.setattr(runners, "LONGEST", 0.0)
    monkeypatch.setattr(runners, "LEAST", 1)


@pytest.mark.parametrize("readout", ["last", "mean", "every"])
@pytest.mark.parametrize(("subsample", "regression"), [(1, False), (3, True)])
@pytest.mark.parametrize("steps", [False, True])
def test_a_file_gives_the_outputs_of_the_network_for_prepared_series(
    readout, subsample, regression, steps
):
    source, (inputs, lengths) = source_and_series("gru", readout, subsample, regression)
    p, plain = source.preparation, PlainModel(source.model, source.preparation, source.loss)
    series = [one[:n].double().numpy() for one, n in zip(inputs, lengths.tolist(), strict=True)]
    prepared, given = p.inputs(Recordings(tuple(series), None, p.channels, shaped=True))
    prepared = prepared.transpose(0, 1)

    def at_each_step(raw, count):  # as a file of one step answers
        answers = stepwise_reference(source, (raw, count))
        if not regression:
            return answers
        return answers * torch.tensor(p.target_deviation) + torch.tensor(p.target_mean)

    with torch.no_grad():
        expected = source.model(prepared, given)
    found = Exported(at_each_step if steps else plain, plain)(prepared, given)
    if not regression:
        expected = expected.log_softmax(-1)
    if expected.ndim == 3:
        valid = torch.arange(len(expected))[:, None] < given
        expected, found = expected[valid], found[valid]
    torch.testing.assert_close(found.float(), expected, rtol=1e-4, atol=2e-5)


def test_labels_come_back_as_logits():
    source, _ = source_and_series("rnn")
    plain = PlainModel(source.model, None, "binary-cross-entropy")
    prepared = torch.randn(4, 5, 2)
    with torch.no_grad():
        expected = source.model(prepared, torch.full((5,), 4))
    torch.testing.assert_close(Exported(plain, plain)(prepared), expected, rtol=1e-4, atol=1e-5)


def test_every_format_has_a_row_and_the_metric_of_the_test_series(
    tmp_path, monkeypatch, command, short
):
    for package in NEEDED:
        pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    short_run()
    code, out, error = command("export", "run", "--compare")
    assert code == 0, error
    card = Path("run/model.onnx.md").read_text()
    part = card.partition("## Formats\n\n")[2].partition("\n\n")[0]
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in part.splitlines()]
    assert [line[0] for line in lines[2:]] == ["torch", *(one.name for one in VARIANTS)]
    assert lines[0][2:4] == ["9 steps, µs", "a step, µs"]
    accuracy = RunFolder.open(Path("run")).read_result()["test_metric"]
    for name, size, series, step, metric, change in lines[2:]:
        assert name in out
        assert float(metric) == pytest.approx(accuracy, abs=0 if "int8" not in name else 0.3)
        assert float(change) == pytest.approx(float(metric) - accuracy, abs=1e-3)
        assert float(series) > 0
        assert (step == "–") == (name in ("torchscript", "onnx", "onnx int8", "openvino"))
        assert (size == "–") == (name == "torch")
    sizes = {line[0]: int(line[1]) for line in lines[3:]}
    assert sizes["onnx"] == Path("run/model.onnx").stat().st_size
    assert sizes["c int8"] < sizes["c"]


def test_formats_that_a_run_cannot_have_are_named_with_the_reason(
    tmp_path, monkeypatch, command, short
):
    for package in NEEDED:
        pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    short_run(bidirectional=True)
    Path("own.npz").unlink()  # then there is no test metric either
    code, out, error = command("export", "run", "--format", "torchscript", "--compare")
    assert code == 0, error
    assert "not c, c int8: --format c needs a network of one direction" in out
    assert "not onnx step, onnx step int8: --streaming needs" in out
    card = Path("run/model.pt.md").read_text()
    assert "\n\nNot c, c int8: --format c needs a network of one direction" in card
    rows = [line for line in card.splitlines() if line.startswith("| torchscript |")]
    assert [row.split("|")[-3:-1] for row in rows] == [[" – ", " – "]]


def test_what_cannot_be_exported_at_all_is_not_measured(tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    short_run()
    code, _, error = command("export", "run", "--compare", "--out", "own.npz")
    assert code == 2
    assert "must end in .onnx" in error
    assert "measuring" not in error


def test_cells_by_hand():
    rows = (
        Row("torch", None, 1.234e-4, 2.5e-6, 0.75),
        Row("c", 1000, 0.0123456, None, 0.745),
        Row("onnx", 99, None, None, 0.75),
    )
    headings, lines = cells(Comparison(rows, (), 20, "accuracy"))
    assert headings == ["format", "bytes", "20 steps, µs", "a step, µs", "test accuracy", "change"]
    assert lines == [
        ["torch", "–", "123", "2.5", "0.75", "0"],
        ["c", "1000", "12346", "–", "0.745", "-0.005"],
        ["onnx", "99", "–", "–", "0.75", "0"],
    ]


def test_a_time_is_the_median_of_calls_after_the_first(monkeypatch):
    clock = iter([0.0, *(t for one in (1, 9, 2, 3, 2) for t in (0.0, float(one)))])
    monkeypatch.setattr(runners.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(runners, "LEAST", 5)
    monkeypatch.setattr(runners, "MOST", 5)
    called = []
    assert median_seconds(lambda: called.append(1)) == 2.0
    assert len(called) == 10
