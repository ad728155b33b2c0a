"""What `--calibrate` promises: the best temperature of the validation data, in whatever answers.

The formats of exports are promised in test_export.py, metrics in test_metrics.py.
"""

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from rnnopt import RNNClassifier
from rnnopt.runs.calibration import (
    MOST,
    calibration_error,
    line_of,
    log_loss,
    outputs_and_targets,
    temperature_of,
)
from rnnopt.runs.export import runners
from rnnopt.runs.export.comparison import compare_formats
from rnnopt.runs.export.export import export, open_run
from rnnopt.runs.export.int8 import metric_of_int8
from rnnopt.runs.folder import RunFolder
from rnnopt.runs.prediction import TrainedModel
from rnnopt.tasks.user_data.preparation import Preparation
from rnnopt.tasks.user_data.recordings import recordings
from rnnopt.training.build import task_of

TINY = ["--hidden", "4", "--budget", "60gradients", "--optimizer", "adam:lr=0.03", "--quiet"]


def drawn(factor, labels=False, count=4000, seed=0):
    """Outputs and targets drawn from their probabilities; the outputs are then `factor` times."""
    generator = torch.Generator().manual_seed(seed)
    outputs = 2 * torch.randn(count, 3, generator=generator, dtype=torch.float64)
    if labels:
        targets = torch.bernoulli(outputs.sigmoid(), generator=generator)
    else:
        targets = torch.multinomial(outputs.softmax(1), 1, generator=generator).squeeze(1)
    return factor * outputs, targets


@pytest.mark.parametrize("labels", [False, True])
@pytest.mark.parametrize("factor", [0.3, 1.0, 5.0])
def test_the_temperature_undoes_a_factor(labels, factor):
    outputs, targets = drawn(factor, labels)
    found = temperature_of(outputs, targets)
    assert found == pytest.approx(factor, rel=0.06)  # of 4000 draws
    scaled = outputs / found
    assert calibration_error(scaled, targets) < 0.02
    if factor != 1:
        assert calibration_error(outputs, targets) > 0.1


@given(
    st.integers(1, 40), st.integers(2, 5), st.floats(0.1, 10), st.integers(0, 100), st.booleans()
)
def test_the_temperature_minimises_the_loss_with_one_more_target_of_a_random_class(
    count, classes, size, seed, right
):
    rng = np.random.default_rng(seed)
    z = size * rng.normal(size=(count, classes))
    y = z.argmax(1) if right else rng.integers(0, classes, count)
    share = 1 / (count + 1)

    def loss(log_temperature):
        logs = log_softmax(z / math.exp(log_temperature), axis=1)
        return -((1 - share) * logs[np.arange(count), y].mean() + share * logs.mean())

    found = temperature_of(torch.from_numpy(z), torch.from_numpy(y))
    assert 0.01 <= found <= 100
    best = minimize_scalar(loss, bounds=(math.log(0.01), math.log(100)), method="bounded")
    assert loss(math.log(found)) <= best.fun + 1e-9


def test_a_network_that_is_always_right_does_not_become_certain():
    outputs = 10 * torch.eye(3, dtype=torch.float64).repeat(10, 1)
    found = temperature_of(outputs, outputs.argmax(1))
    sure = (outputs / found).softmax(1).max(1).values
    # By hand: 1 - ε + ε / 3 with ε = 1 / 31, the mean of the smoothed target.
    torch.testing.assert_close(sure, torch.full((30,), 1 - 2 / 93, dtype=torch.float64))


@pytest.mark.parametrize("outputs", [torch.full((4, 2), math.nan), torch.zeros(0, 2)])
def test_useless_outputs_are_left_alone(outputs):
    assert temperature_of(outputs.double(), torch.zeros(len(outputs), dtype=torch.int64)) == 1


def test_a_temperature_at_the_end_of_the_scale_is_said():
    outputs = torch.tensor([[0.0, 1.0], [0.0, 1.0]], dtype=torch.float64)
    scores = {"log loss": 0.5, "ECE": 0.1}
    for targets, at_end in (([0, 0], True), ([1, 1], False)):
        found = temperature_of(outputs, torch.tensor(targets))
        assert (found == pytest.approx(MOST)) == at_end
        note = dict(temperature=found, validation=2, before=scores, after=scores)
        assert ("the largest allowed" in line_of(note)) == at_end


def test_expected_calibration_error_by_hand():
    # Confidences 0.8, 0.8 (one right) and 0.6 (right), in different bins: |1.6 - 1| and |0.6 - 1|.
    likely = torch.tensor([[0.8, 0.2], [0.2, 0.8], [0.6, 0.4]], dtype=torch.float64)
    targets = torch.tensor([0, 0, 0])
    assert calibration_error(likely.log(), targets) == pytest.approx((0.6 + 0.4) / 3)
    # Of labels: 0.9 for a yes that is there and 0.7 for a no that is wrong.
    outputs = torch.tensor([[0.9, 0.3]], dtype=torch.float64).logit()
    assert calibration_error(outputs, torch.tensor([[1.0, 1.0]])) == pytest.approx(0.8 / 2)


# -- runs -----------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(kind):
    """Noisy series that a small network does not get all right; returns options of `train`."""
    rng = np.random.default_rng(0)
    y = np.arange(120) % 3
    X = rng.normal(size=(120, 8, 2)) + 0.4 * y[:, None, None]
    if kind == "multilabel":
        np.savez("d.npz", X=X, y=np.stack([y > 0, y > 1], 1).astype(int))
        return ["--data", "d.npz", "--kind", "multilabel", "--model", "gru"]
    if kind == "steps":
        np.savez("d.npz", X=X, y=np.repeat(y[:, None], 8, 1))
        return ["--data", "d.npz", "--each-step", "--model", "gru"]
    np.savez("d.npz", X=X, y=np.array(["a", "b", "c"])[y])
    return ["--data", "d.npz", "--model", "gru", *(["--refit"] if kind == "refit" else [])]


def result_of(run):
    return json.loads(Path(run, "result.json").read_text())


def temperature_in(run):
    return json.loads(Path(run, "data.json").read_text())["preparation"]["temperature"]


@pytest.mark.parametrize("kind", ["series", "refit", "multilabel", "steps"])
def test_a_calibrated_run_differs_in_its_probabilities_alone(kind, command):
    given = [*write(kind), *TINY]
    assert command("train", *given, "--out", "plain")[0] == 0
    code, out, error = command("train", *given, "--out", "run", "--calibrate")
    assert code == 0, error
    assert "calibrated by temperature" in out
    plain, found = result_of("plain"), result_of("run")
    note = found["calibration"]
    assert (found["test_metric"], found["test_loss"]) == (plain["test_metric"], plain["test_loss"])
    assert Path("run/best.pt").read_bytes() == Path("plain/best.pt").read_bytes()
    assert temperature_in("run") == note["temperature"] != 1
    assert "calibration" not in plain
    assert temperature_in("plain") == 1
    assert note["before"]["log loss"] == pytest.approx(plain["test_loss"], rel=1e-5)
    # What predict answers is what it says.
    one, other = (TrainedModel.open(Path(run)) for run in ("plain", "run"))
    X = np.load("d.npz")["X"][:5]
    if kind == "steps":
        first, second = (t.answer_steps(recordings(X))[0][0] for t in (one, other))
    else:
        first, second = one.answer(recordings(X)), other.answer(recordings(X))
    odds = np.log(first / (1 - first)) if kind == "multilabel" else np.log(first)
    scaled = torch.from_numpy(odds / note["temperature"])
    expected = scaled.sigmoid() if kind == "multilabel" else scaled.softmax(-1)
    np.testing.assert_allclose(second, expected.numpy(), atol=1e-5)


def test_a_refit_gets_the_temperature_of_weights_trained_as_long_as_its_own(command):
    # Those of the last evaluation, in the checkpoint, not the best ones, which were trained less.
    assert command("train", *write("refit"), *TINY, "--out", "run", "--calibrate")[0] == 0
    folder = RunFolder.open(Path("run"))
    task = task_of(folder.read_config())
    last = TrainedModel.open(Path("run")).model
    found = {}
    checkpoint = folder.read_checkpoint()
    for name in ("model", "best_weights"):
        last.load_state_dict(checkpoint[name])
        pair = outputs_and_targets(task, last, task.validation, torch.device("cpu"))
        found[name] = temperature_of(*pair)
    assert temperature_in("run") == pytest.approx(found["model"], rel=1e-9)
    assert found["model"] != pytest.approx(found["best_weights"], rel=1e-3)


def test_scores_are_those_of_the_predictions(command):
    assert command("train", *write("series"), *TINY, "--out", "run", "--calibrate")[0] == 0
    note = result_of("run")["calibration"]
    data = np.load("d.npz")
    task = task_of(RunFolder.open(Path("run")).read_config())
    p = task.data.preparation
    trained = TrainedModel.open(Path("run"))
    raw = task.test.inputs.numpy() * np.array(p.deviation) + np.array(p.mean)
    likely = torch.from_numpy(trained.answer(recordings(raw))).double()
    assert len(data["X"]) > note["test"] == len(likely)
    assert log_loss(likely.log(), task.test.targets) == pytest.approx(
        note["after"]["log loss"], rel=1e-4
    )
    assert calibration_error(likely.log(), task.test.targets) == pytest.approx(
        note["after"]["ECE"], abs=1e-4
    )


def test_scores_of_steps_are_those_of_the_calibrated_answers(command):
    assert command("train", *write("steps"), *TINY, "--out", "run", "--calibrate")[0] == 0
    result = result_of("run")
    after = result["calibration"]["after"]["log loss"]
    assert after != pytest.approx(result["calibration"]["before"]["log loss"], rel=1e-3)
    assert result["test_scores"]["all steps"]["log loss"] == pytest.approx(after, rel=1e-5)


def test_formats_and_int8_are_compared_with_the_calibrated_network(command, monkeypatch):
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr(runners, "LONGEST", 0)  # seconds of a measurement
    given = [*write("series"), "--metric", "log-loss", "--calibrate", "--out", "run"]
    assert command("train", *given, *TINY)[0] == 0
    source, raw, on = open_run(Path("run"))
    after = result_of("run")["calibration"]["after"]["log loss"]
    (_, before), _ = metric_of_int8(source)
    assert float(before) == pytest.approx(after, rel=1e-5)
    rows = compare_formats(source, raw, on, lambda name: None).rows
    for row in rows:
        assert row.metric == pytest.approx(after, rel=1e-2 if "int8" in row.name else 1e-4)


def test_exports_and_streams_answer_with_calibrated_probabilities(command, monkeypatch):
    pytest.importorskip("onnxruntime")
    import io
    import sys

    assert command("train", *write("series"), *TINY, "--out", "run", "--calibrate")[0] == 0
    source, raw, on = open_run(Path("run"))
    assert source.preparation.temperature != 1
    for form, streaming in (("onnx", False), ("onnx", True), ("torchscript", False)):
        assert export(source, form, raw, on, streaming).difference < 1e-5
    export(source, "safetensors", raw, on)
    assert command("export", "run", "--format", "safetensors", "--out", "w.safetensors")[0] == 0
    card = Path("w.safetensors.md").read_text()
    assert "calibrated by temperature" in card
    assert f"divide outputs by {source.preparation.temperature:.9g}" in card
    X = np.load("d.npz")["X"][0]
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(f"{a},{b}" for a, b in X)))
    last = list(csv.reader(command("predict", "run", "--stream")[1].splitlines()))[-1]
    expected = TrainedModel.open(Path("run")).answer(recordings(X[None]))[0]
    (estimated,) = RNNClassifier.from_pretrained("run").predict_proba(X[None])
    np.testing.assert_allclose(estimated, expected, atol=1e-6)
    np.testing.assert_allclose([float(one) for one in last[3:]], expected, atol=2e-6)


def test_the_report_and_runs_before_this_one(command):
    assert command("train", *write("series"), *TINY, "--out", "run", "--calibrate")[0] == 0
    assert command("report", "run")[0] == 0
    page = Path("run/report.html").read_text()
    assert "calibrated by temperature" in page
    saved = json.loads(Path("run/data.json").read_text())["preparation"]
    del saved["temperature"]  # as an older version wrote it
    assert Preparation.from_dict(saved).temperature == 1


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--task", "digits-rows"], "--data"),
        (["--data", "d.npz", "--kind", "regression"], "numbers to predict"),
    ],
)
def test_what_cannot_be_calibrated_is_refused_before_training(given, words, command):
    rng = np.random.default_rng(0)
    np.savez("d.npz", X=rng.normal(size=(20, 4, 1)), y=np.arange(20) % 2)
    code, _, error = command("train", *given, "--calibrate", "--out", "run", *TINY)
    assert (code, error.count("\n")) == (2, 1)
    assert "--calibrate" in error
    assert words in error
    assert not Path("run").exists()


def test_the_estimator_is_calibrated_by_scikit_learns_own_class():
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.frozen import FrozenEstimator

    rng = np.random.default_rng(0)
    y = np.arange(90) % 3
    X = rng.normal(size=(90, 8, 2)) + 0.4 * y[:, None, None]
    network = RNNClassifier(
        model="gru", hidden=4, epochs=8, optimizer="adam:lr=0.03", random_state=0
    )
    network.fit(X[:60], y[:60])
    whole = CalibratedClassifierCV(FrozenEstimator(network), method="temperature")
    whole.fit(X[60:], y[60:])
    plain, found = (torch.from_numpy(one.predict_proba(X)).double() for one in (network, whole))
    # One temperature for all, with the least log loss: the same classes, other odds.
    assert torch.equal(plain.argmax(1), found.argmax(1))
    ratio = (found.log() - found.log()[:, :1])[:, 1:] / (plain.log() - plain.log()[:, :1])[:, 1:]
    torch.testing.assert_close(ratio, ratio.mean().expand_as(ratio), rtol=1e-3, atol=1e-3)
    logs, targets = plain[60:].log(), torch.from_numpy(y[60:])
    lost = [
        torch.nn.functional.cross_entropy(logs * beta, targets)
        for beta in ratio.mean() * torch.tensor([0.95, 1, 1.05])
    ]
    assert lost[1] < min(lost[0], lost[2])
    # Without a network at hand it trains one on each fold.
    two = CalibratedClassifierCV(network, method="sigmoid", cv=2).fit(X, y)
    assert two.predict_proba(X).shape == (90, 3)
