"""Several labels a series promise: a loss for each, right only if all are, and predictions with the
names of their columns.
"""

import csv
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score

from rnnopt import SequenceModel
from rnnopt.tasks import from_arrays
from rnnopt.tasks.choices import with_choices
from rnnopt.tasks.constant import constant_metric
from rnnopt.tasks.metrics import metric_of
from rnnopt.tasks.user_data.labels import macro_f1

CPU = torch.device("cpu")


def data(count=60):
    """Series of two waves; the labels are "fast", "high" and one that is seldom there."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, (count, 2))
    labels = np.column_stack([labels, rng.random(count) < 0.2]).astype(int)
    phase = rng.uniform(0, 6, (count, 1))
    X = np.sin((0.5 + labels[:, :1]) * np.arange(15) + phase) + labels[:, 1:2] - labels[:, 2:]
    return X, labels


def test_the_loss_is_the_binary_cross_entropy_of_each_label():
    X, labels = data()
    task = from_arrays(X, labels, kind="multilabel", name="waves")
    assert (task.output_size, task.labels, task.metric, task.target) == (3, True, "accuracy", 1.0)
    assert task.data.preparation.classes == ("label 1", "label 2", "label 3")
    model = SequenceModel(1, 4, 3)
    batch = task.test.batch(slice(None))
    outputs = model(batch.inputs).detach()
    expected = torch.nn.functional.binary_cross_entropy_with_logits(outputs, batch.targets)
    torch.testing.assert_close(task.loss_of(outputs, batch), expected)
    loss, accuracy = task.evaluate(model, task.test, CPU)
    right = accuracy_score(batch.targets.numpy(), outputs.numpy() > 0)  # all labels of a series
    assert (loss, accuracy) == pytest.approx((float(expected), right))
    f1 = with_choices(task, "f1").evaluate(model, task.test, CPU)[1]
    macro = f1_score(batch.targets.numpy(), outputs.numpy() > 0, average="macro", zero_division=0)
    assert f1 == pytest.approx(macro)
    assert 0 <= constant_metric(task, task.test) < 1


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_macro_f1_is_scikit_learns(seed):
    rng = np.random.default_rng(seed)
    true, found = rng.random((2, 12, 3)) < 0.3
    expected = f1_score(true, found, average="macro", zero_division=0)
    assert macro_f1(true, found) == pytest.approx(expected)
    logits = torch.tensor(np.where(found, 1.0, -1.0))
    labels = torch.tensor(true * 1.0)
    assert metric_of("f1", logits, labels, None) == pytest.approx(expected)
    assert metric_of("accuracy", logits, labels, None) == pytest.approx(accuracy_score(true, found))


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (np.array([[0, 1], [2, 0]] * 20), "labels must be 0 or 1, got 2 in series 2, label 1"),
        (np.arange(40) % 2, "rows of at least two labels"),
        (np.array(["a", "b"] * 20), "rows of at least two labels"),
    ],
)
def test_other_labels_are_refused(labels, words):
    with pytest.raises(ValueError, match=words):
        from_arrays(np.random.default_rng(0).normal(size=(40, 5)), labels, kind="multilabel")


def test_what_goes_with_one_class_alone_is_refused():
    task = from_arrays(*data(), kind="multilabel")
    for metric in ("balanced-accuracy", "matthews-corrcoef"):
        with pytest.raises(Exception, match="one class a sequence: take f1"):
            with_choices(task, metric)
    with pytest.raises(Exception, match="--class-weight is for one class a sequence"):
        with_choices(task, class_weight="balanced")
    with pytest.raises(ValueError, match="pass kind multilabel"):
        from_arrays(*data())


def write(path, layout):
    """A table of series with the columns fast, high and odd, which are their labels."""
    X, labels = data()
    names = ["fast", "high", "odd"]
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        if layout == "wide":
            table.writerow([*names, *(f"t{i}" for i in range(15))])
            table.writerows([*its, *row] for its, row in zip(labels, X, strict=True))
        else:
            table.writerow(["id", "time", "value", *names])
            for i, (its, row) in enumerate(zip(labels, X, strict=True)):
                table.writerows([f"s{i}", step, value, *its] for step, value in enumerate(row))


@pytest.mark.parametrize("layout", ["wide", pytest.param("long", marks=pytest.mark.full)])
def test_a_table_with_several_label_columns_goes_through_the_commands(
    command, tmp_path, monkeypatch, layout
):
    monkeypatch.chdir(tmp_path)  # inspect draws a picture there
    file, run, out = tmp_path / "waves.csv", tmp_path / "run", tmp_path / "answers.csv"
    write(file, layout)
    options = ["--label", "fast,high,odd", "--kind", "multilabel"]
    short = ["--model", "gru", "--hidden", 8, "--budget", "200gradients", "--metric", "f1"]
    code, printed, error = command("train", "--data", file, *options, *short, "--out", run)
    assert (code, "3 labels, each 0 or 1" in printed) == (0, True), error
    result = json.loads((run / "result.json").read_text())
    assert (result["metric"], result["loss"]) == ("f1", "binary-cross-entropy")
    code, printed, error = command("predict", run, "--data", file, "--out", out)
    assert code == 0, error
    assert "subset accuracy" in printed
    assert "macro F1" in printed
    with out.open() as lines:
        rows = list(csv.DictReader(lines))
    assert len(rows) == 60
    for name in ("fast", "high", "odd"):
        for row in rows:
            assert int(row[f"predicted {name}"]) == (float(row[f"probability of {name}"]) > 0.5)
    hits = np.mean([row["predicted high"] == row["label high"] for row in rows])
    assert hits > 0.7
    code, printed, error = command("inspect", file, *options)
    assert (code, "3 labels, each 0 or 1" in printed) == (0, True), error
    if layout == "wide":
        code, _, error = command("export", run, "--out", tmp_path / "network.onnx")
        assert code == 0, error
        card = (tmp_path / "network.onnx.md").read_text()
        assert "A probability for each label, in this order: fast, high, odd." in card


def test_a_label_that_changes_in_a_series_is_told(command, tmp_path):
    file = tmp_path / "waves.csv"
    write(file, "long")
    lines = file.read_text().splitlines()
    lines[3] = lines[3][:-1] + ("1" if lines[3][-1] == "0" else "0")
    file.write_text("\n".join(lines) + "\n")
    options = ["--label", "fast,high,odd", "--kind", "multilabel"]
    code, _, error = command("train", "--data", file, *options, "--out", tmp_path / "run")
    assert code == 2
    assert "series 's0' needs one label in the column 'odd'" in error
