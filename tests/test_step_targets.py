"""What targets at every step promise: masks in loss, metric and scores, washout, units, sentences.

Truncation is compared with a plain walk here as far as its targets are concerned; its cuts are in
test_truncation.py. Forecasts are in test_forecasts.py.
"""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from messages import naming
from torch.nn import functional

from rnnopt import SequenceModel
from rnnopt.runs.folder import RunFolder
from rnnopt.runs.prediction import TrainedModel, step_rows
from rnnopt.runs.step_scores import number_scores, scores_of
from rnnopt.tasks import from_arrays
from rnnopt.tasks.batches import Batches
from rnnopt.tasks.examples import Batch, Examples
from rnnopt.tasks.task import Task
from rnnopt.tasks.user_data.preparation import Preparation
from rnnopt.tasks.user_data.recordings import recordings
from rnnopt.training.closure import Closure
from rnnopt.training.tbptt import Truncation

CPU = torch.device("cpu")
NAN = float("nan")


def a_task(targets, lengths=None, inputs=None, classes=3):
    """A task of these targets (count, time) or (count, time, output), in double precision."""
    count, time = targets.shape[:2]
    if inputs is None:
        inputs = torch.randn(
            count, time, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64
        )
    loss = "mse" if targets.is_floating_point() else "cross-entropy"
    size = targets.shape[2] if loss == "mse" else classes
    lengths = None if lengths is None else torch.tensor(lengths)
    examples = Examples(inputs, targets, lengths)
    return Task("t", "", 2, size, loss, 0.0, examples, examples, examples, count, 3, count)


def a_model(outputs, seed=0, **options):
    torch.manual_seed(seed)
    return SequenceModel(2, 3, outputs, readout="every", **options).double()


def systems(count=12, seed=0):
    """Inputs (time, 2) and outputs (time, 2) of a low-pass filter, of several lengths."""
    rng = np.random.default_rng(seed)
    inputs, outputs = [], []
    for n in rng.integers(20, 40, count):
        u = rng.normal(size=(n, 2))
        y = np.zeros((n, 2))
        for t in range(1, n):
            y[t] = 0.7 * y[t - 1] + u[t]
        inputs.append(u)
        outputs.append([1000.0, -3.0] + y * [50.0, 0.01])
    return inputs, outputs


# -- loss and metric ------------------------------------------------------------------------------

SHAPES = st.tuples(st.integers(1, 4), st.integers(1, 6), st.integers(1, 3))


@given(SHAPES, st.integers(0, 2**31), st.booleans())
@settings(max_examples=15, deadline=None)
def test_the_masked_loss_is_a_loop_over_the_targets_there_are(shape, seed, ragged):
    count, time, size = shape
    rng = np.random.default_rng(seed)
    targets = torch.tensor(np.where(rng.random(shape) < 0.4, NAN, rng.normal(size=shape)))
    lengths = rng.integers(1, time + 1, count).tolist() if ragged else None
    batch = Batch(torch.zeros(time, count, 2), targets, lengths and torch.tensor(lengths))
    outputs = torch.tensor(rng.normal(size=(time, count, size)), requires_grad=True)
    errors = [
        (outputs[t, i, k] - targets[i, t, k]) ** 2
        for i in range(count)
        for t in range(time if lengths is None else lengths[i])
        for k in range(size)
        if not targets[i, t, k].isnan()
    ]
    expected = sum(errors) / len(errors) if errors else 0.0 * outputs.sum()
    loss = a_task(targets).loss_of(outputs, batch)
    torch.testing.assert_close(loss, expected)
    found, wanted = (torch.autograd.grad(one, outputs)[0] for one in (loss, expected))
    torch.testing.assert_close(found, wanted)


@given(SHAPES, st.integers(0, 2**31), st.booleans())
@settings(max_examples=15, deadline=None)
def test_evaluation_is_a_loop_over_the_classes_there_are(shape, seed, ragged):
    count, time, _ = shape
    rng = np.random.default_rng(seed)
    targets = torch.tensor(rng.integers(-1, 3, (count, time)))
    targets[0, 0] = 1  # at least one
    lengths = rng.integers(1, time + 1, count).tolist() if ragged else None
    task, model = a_task(targets, lengths), a_model(3)
    with torch.no_grad():
        outputs = model(task.test.inputs.transpose(0, 1))
    losses, right = [], []
    for i in range(count):
        for t in range(time if lengths is None else lengths[i]):
            if targets[i, t] >= 0:
                losses.append(float(functional.cross_entropy(outputs[t, i], targets[i, t])))
                right.append(int(outputs[t, i].argmax()) == int(targets[i, t]))
    loss, accuracy = task.evaluate(model, task.test, CPU)
    assert loss == pytest.approx(np.mean(losses), rel=1e-9)
    assert accuracy == pytest.approx(np.mean(right))
    found, true = task.classify(model, task.test, CPU)
    assert len(found) == len(true) == len(right)
    assert float((found == true).double().mean()) == pytest.approx(np.mean(right))


def test_series_padded_and_in_a_list_are_the_same_task():
    inputs, outputs = systems()
    lengths = np.array([len(one) for one in inputs])
    most = lengths.max()

    def padded(rows):
        return np.stack([np.pad(one, ((0, most - len(one)), (0, 0))) for one in rows])

    one = from_arrays(inputs, outputs, ignore_first=3)
    other = from_arrays(
        padded(inputs), padded(outputs), lengths=lengths, each_step=True, ignore_first=3
    )
    for part in ("train", "validation", "test"):
        mine, its = getattr(one, part), getattr(other, part)
        assert torch.equal(mine.inputs, its.inputs)
        assert (mine.lengths is None) == (its.lengths is None)
        assert mine.lengths is None or torch.equal(mine.lengths, its.lengths)
        torch.testing.assert_close(mine.targets, its.targets, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("words", [False, True])
def test_the_first_steps_count_in_nothing(words):
    inputs, outputs = systems()
    targets = [np.where(one[:, 0] > 1000, "high", "low") for one in outputs] if words else outputs
    spoilt = []
    for one in targets:
        spoilt.append(one.copy())
        spoilt[-1][:4] = "" if words else NAN
    tasks = [
        from_arrays(inputs, targets, ignore_first=4),
        from_arrays(inputs, spoilt, ignore_first=4),
        from_arrays(inputs, spoilt),
    ]
    model = SequenceModel(2, 3, 2, readout="every")
    found = [task.evaluate(model, task.test, CPU) for task in tasks]
    assert tasks[0].train.lacks_targets
    if words:  # the mean and deviation of numbers are those of all targets
        assert found[0] == found[1] == found[2]
    else:
        assert found[1] == found[2]
        assert bool(tasks[0].train.targets[:, :4].isnan().all())


# -- truncation -----------------------------------------------------------------------------------


def masked(lengths=None):
    """Targets at some of 6 steps of 4 sequences; none of the first two and of the fifth."""
    rng = torch.Generator().manual_seed(5)
    targets = torch.randn(4, 6, 2, generator=rng, dtype=torch.float64)
    targets[:, :2] = NAN
    targets[:, 4] = NAN
    targets[1, 3, 0] = NAN
    return a_task(targets, lengths)


@pytest.mark.parametrize("lengths", [None, [6, 3, 4, 6]])
@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru", "indrnn"])
def test_one_chunk_has_the_gradient_of_whole_sequences(cell, lengths):
    gradients = []
    for truncation in (None, Truncation(6, 6)):
        task, model = masked(lengths), a_model(2, cell=cell)
        closure = Closure(model, Batches(task, 4, 0), CPU, truncation=truncation)
        gradients.append([closure(), *(p.grad.clone() for p in model.parameters())])
    for one, other in zip(*gradients, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("lengths", [None, [6, 3, 4, 6]])
def test_chunks_have_their_own_targets_and_those_without_any_are_only_run(lengths):
    # Chunks of two steps: the first has no target and takes no update; the state is carried on.
    task, model = masked(lengths), a_model(2)
    closure = Closure(model, Batches(task, 4, 0), CPU, truncation=Truncation(2, 2))
    batch = closure.batch
    state = None
    for start in (0, 2, 4):
        with torch.set_grad_enabled(start > 0):
            part = batch.inputs[start : start + 2]
            outputs, after = model.advance(part, state)
        its = None if batch.lengths is None else (batch.lengths - start).clamp(0, 2)
        if start:
            piece = Batch(part, batch.targets[:, start : start + 2], its)
            expected = task.loss_of(outputs, piece)
            wanted = torch.autograd.grad(expected, list(model.parameters()))
            assert closure.finished + closure.minibatches < 3
            torch.testing.assert_close(closure(), expected.detach())
            for p, gradient in zip(model.parameters(), wanted, strict=True):
                torch.testing.assert_close(p.grad, gradient)
            closure.advance()
        state = [one.detach() for one in after]
    assert closure.minibatches == 1


# -- data -----------------------------------------------------------------------------------------


def test_which_targets_are_taken_for_one_a_step_unasked():
    series = [np.zeros((n, 1)) for n in (3, 4)]
    assert recordings(series, [np.zeros(3), np.zeros(4)]).steps is not None
    assert recordings(series, [["a", "b", "a"], ["a", "b", "b", "b"]]).steps is not None
    assert recordings(np.zeros((2, 3, 1)), np.zeros((2, 3, 2))).steps is not None
    # These may also be three numbers a series.
    assert recordings(np.zeros((2, 3, 1)), np.zeros((2, 3))).steps is None
    assert recordings(np.zeros((2, 3, 1)), np.zeros((2, 3)), each_step=True).steps is not None
    with pytest.raises(ValueError, match="look like one for each of the 5 steps: pass each_step"):
        from_arrays(np.ones((20, 5)), np.linspace(0, 1, 100).reshape(20, 5))


def test_the_kind_of_targets():
    inputs, _ = systems(6)
    few = [np.arange(len(one)) % 3 for one in inputs]
    many = [np.arange(len(one)) for one in inputs]
    assert from_arrays(inputs, few).data.preparation.classes == ("0", "1", "2")
    assert from_arrays(inputs, few, kind="regression").loss == "mse"
    assert from_arrays(inputs, many).loss == "mse"
    words = [[None if t == 2 else "on" for t in range(len(one))] for one in inputs]
    with pytest.raises(ValueError, match="two classes at least, got 'on'"):
        from_arrays(inputs, words)


def test_answers_are_in_the_units_of_the_data_and_the_scores_those_of_a_plain_formula():
    inputs, outputs = systems()
    outputs[2][5:9, 0] = NAN
    task = from_arrays(inputs, outputs, ignore_first=2, split="series")
    p = task.data.preparation
    assert Preparation.from_dict(p.to_dict()) == p
    data = recordings(inputs, outputs)
    stored, lengths = p.stored(data)
    # A network that answers the standardised targets themselves is right in every unit.
    examples = Examples(stored, p.targets(data), lengths)

    class Oracle(torch.nn.Module):
        def forward(self, batch, lengths):
            return self.answers.transpose(0, 1)[: len(batch)]

    oracle = Oracle()
    order = lengths.sort(stable=True).indices  # as pieces ask for them
    oracle.answers = examples.targets[order].nan_to_num(7.0)
    answers, rows = scores_of(p, oracle, examples, CPU)
    for one, true in zip(answers, outputs, strict=True):
        there = ~np.isnan(true)
        there[:2] = False
        np.testing.assert_allclose(one[there], true[there], rtol=1e-6)
    assert list(rows) == ["output 1", "output 2"]
    assert rows["output 1"]["fit %"] == pytest.approx(100, abs=1e-3)
    true, given_ = np.array([1.0, 2.0, 6.0]), np.array([1.0, 4.0, 4.0])
    found = number_scores(given_, true)
    assert found["RMSE"] == pytest.approx(np.sqrt(8 / 3))
    assert found["NRMSE"] == pytest.approx(np.sqrt(8 / 3) / 5)
    norms = np.linalg.norm(true - given_), np.linalg.norm(true - true.mean())
    assert found["fit %"] == pytest.approx(100 * (1 - norms[0] / norms[1]))
    constant = number_scores(np.arange(3.0), np.full(3, 0.1))  # whose mean is not 0.1 in float64
    assert np.isnan([constant["NRMSE"], constant["fit %"]]).all()


# -- bad input ------------------------------------------------------------------------------------


def spoilt(name):
    """Arguments of `from_arrays` with one thing wrong."""
    inputs, outputs = systems(6)
    more = {}
    if name == "short":
        outputs[1] = outputs[1][:-1]
        more["each_step"] = True
    elif name == "none":
        outputs[3][:] = NAN
    elif name == "late":
        more["ignore_first"] = 30
    elif name == "infinite":
        outputs[2][4] = np.inf
    elif name == "averaged":
        more["subsample"] = 2
    elif name == "classes":
        more["kind"] = "classification"
    elif name == "words":
        outputs = [np.full(one.shape, "on") for one in outputs]
    elif name == "one":
        outputs, more["ignore_first"] = [0, 1] * 3, 3
    elif name == "time":
        outputs, more["split"] = [0, 1] * 3, "time"
    return (inputs, outputs), more


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("short", ["series 2 has", "steps and", "targets"]),
        ("none", ["series 4 has none"]),
        ("late", ["after the first 30 of its"]),
        ("infinite", ["finite", "series 3, step 5"]),
        ("averaged", ["leave out subsample=2"]),
        ("classes", ["a step has one class, got 2 targets"]),
        ("words", ["several outputs at every step must be numbers", "'on'"]),
        ("one", ["ignore_first=3 needs a target at every step"]),
        ("time", ["a split in time needs targets at every step"]),
    ],
)
def test_wrong_targets_are_named(name, words):
    arguments, more = spoilt(name)
    with pytest.raises(ValueError, match=naming(*words)):
        from_arrays(*arguments, **more)


def test_a_class_of_the_held_out_series_alone_is_named():
    inputs = [np.ones((8, 1))] * 6
    targets = [["a", "b"] * 4] * 5 + [["a", "b", "c", "a"] * 2]
    seeds = [s for s in range(20) if 5 in np.random.default_rng(s).permutation(6)[:1]]
    with pytest.raises(ValueError, match="class 'c' is not in the training data, which has a, b"):
        from_arrays(inputs, targets, each_step=True, seed=seeds[0])


# -- the command line -----------------------------------------------------------------------------

TINY = ["--hidden", "4", "--budget", "10gradients", "--optimizer", "adam:lr=0.02", "--quiet"]


@pytest.fixture
def tables(tmp_path, monkeypatch):
    """A long table of two outputs, and one of words; some cells are empty."""
    monkeypatch.chdir(tmp_path)
    inputs, outputs = systems()
    with open("numbers.csv", "w") as numbers, open("words.csv", "w") as words:
        numbers.write("run,time,u,v,y1,y2\n")
        words.write("run,time,u,v,state\n")
        for i, (u, y) in enumerate(zip(inputs, outputs, strict=True)):
            for t in range(len(u)):
                start = f"r{i},{t},{u[t, 0]},{u[t, 1]}"
                first = "" if t % 5 == 2 else f"{y[t, 0]}"
                numbers.write(f"{start},{first},{y[t, 1]}\n")
                state = "" if t % 5 == 2 else "high" if y[t, 0] > 1000 else "low"
                words.write(f"{start},{state}\n")
    return inputs, outputs


def test_a_table_of_numbers_at_every_step_is_learnt_and_predicted(tables, command):
    inputs, _ = tables
    options = ["--data", "numbers.csv", "--id", "run", "--each-step", "--label", "y1,y2"]
    code, out, error = command("train", *options, "--ignore-first", "3", *TINY, "--out", "run")
    assert code == 0, error
    assert "fit %" in out
    result = RunFolder.open(Path("run")).read_result()
    assert set(result["test_scores"]) == {"y1", "y2"}
    code, out, error = command("predict", "run", "--data", "numbers.csv", "--out", "p.csv")
    assert code == 0, error
    with open("p.csv") as file:
        lines = list(csv.reader(file))
    assert lines[0] == ["series", "step", "label y1", "label y2", "predicted y1", "predicted y2"]
    assert len(lines) == 1 + sum(map(len, inputs))
    assert lines[3][:3] == ["r0", "3", ""]
    trained = TrainedModel.open(Path("run"))
    answers, _ = trained.answer_steps(recordings(inputs, channels=("u", "v")))
    predicted = np.array([line[4:] for line in lines[1:]], float)
    np.testing.assert_allclose(predicted, np.concatenate(answers), rtol=1e-5)
    assert predicted[:, 0].mean() == pytest.approx(1000, rel=0.2)
    # RMSE in `predict`, from its own table, without the first three steps of a series.
    counted = np.array([line[2] != "" and int(line[1]) > 3 for line in lines[1:]])
    true = np.array([line[2] or "nan" for line in lines[1:]], float)
    rmse = np.sqrt(np.mean((true - predicted[:, 0])[counted] ** 2))
    row = next(line for line in out.splitlines() if line.startswith("y1"))
    assert float(row.split()[1]) == pytest.approx(rmse, rel=1e-3)


def test_a_table_of_words_at_every_step_is_learnt_and_predicted(tables, command):
    options = ["--data", "words.csv", "--id", "run", "--each-step", "--label", "state"]
    code, _, error = command("train", *options, "--tbptt", "8", *TINY, "--out", "run")
    assert code == 0, error
    code, out, error = command("predict", "run", "--data", "words.csv", "--out", "p.csv")
    assert code == 0, error
    assert "balanced accuracy" in out
    with open("p.csv") as file:
        lines = list(csv.reader(file))
    right = [line[2] == line[3] for line in lines[1:] if line[2]]
    row = next(line for line in out.splitlines() if line.startswith("all steps"))
    assert float(row.split()[2]) == pytest.approx(np.mean(right), abs=1e-3)
    # Without labels there is a row for each step, too.
    Path("new.csv").write_text("run,time,u,v\na,0,1,2\na,1,2,3\n")
    code, _, error = command("predict", "run", "--data", "new.csv", "--out", "new-p.csv")
    assert code == 0, error
    assert len(Path("new-p.csv").read_text().splitlines()) == 3


def test_predictions_of_windows_say_where_each_begins():
    X = np.arange(60.0).reshape(6, 10)
    task = from_arrays(X, 2 * X, each_step=True, window=4, stride=3)
    new = task.data.preparation.shaped(recordings(X, 2 * X, each_step=True))
    headings, lines = step_rows(task.data.preparation, [np.zeros((4, 1))] * len(new), new)
    assert headings[:5] == ["series", "start", "end", "step", "label"]
    rows = [[float(cell) for cell in line] for line in lines]
    assert [row[:4] for row in rows[:5]] == [[1, 0, 4, k] for k in (1, 2, 3, 4)] + [[1, 3, 7, 1]]
    assert all(row[4] == 2 * X[int(row[0]) - 1, int(row[1] + row[3]) - 1] for row in rows)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--label", "y1"], ["series 'r0' needs one label", "--each-step"]),
        (["--each-step", "--label", "y1,y9"], ["no column 'y9'"]),
        (["--each-step", "--label", "y1,y1"], ["--label must name each column once"]),
        (["--each-step"], ["targets at every step need --label"]),
        (["--each-step", "--label", "y1", "--ignore-first", "-1"], ["--ignore-first"]),
        (["--each-step", "--label", "y1", "--ignore-first", "50"], ["series 1 has none"]),
        (["--each-step", "--label", "y1", "--layout", "wide"], ["need a long table"]),
        (["--each-step", "--horizon", "3"], ["leave out --each-step"]),
        (["--each-step", "--label", "y1", "--readout", "mean"], ["--readout every, got mean"]),
        (["--each-step", "--label", "y1", "--subsample", "2"], ["leave out subsample=2"]),
        (["--each-step", "--label", "y1", "--optimizer", "admm", "--model", "rnn"], ["admm needs"]),
    ],
)
def test_bad_options_are_one_sentence(tables, command, options, words):
    more = TINY[:4] if "--optimizer" in options else TINY
    code, out, error = command("train", "--data", "numbers.csv", "--id", "run", *options, *more)
    assert (code, out) == (2, ""), error
    assert error.strip().count("\n") == 0
    for word in words:
        assert word in error
    assert not Path("runs").exists()


def test_a_folder_of_recordings_has_its_label_columns(tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    Path("tests").mkdir()
    for i, (u, y) in enumerate(zip(*systems(8), strict=True)):
        rows = "\n".join(f"{a},{b},{c}" for (a, b), c in zip(u, y[:, 0], strict=True))
        Path(f"tests/run{i}.csv").write_text(f"u,v,y\n{rows}\n")
    options = ["--data", "tests", "--each-step", "--label", "y"]
    code, _, error = command("train", *options, *TINY, "--out", "run")
    assert code == 0, error
    assert RunFolder.open(Path("run")).read_result()["test_scores"]["y"]["RMSE"] > 0
    code, _, error = command("predict", "run", "--data", "tests", "--out", "p.csv")
    assert code == 0, error


def test_an_exported_network_answers_every_step(tables, command):
    onnxruntime = pytest.importorskip("onnxruntime")
    inputs, _ = tables
    options = ["--data", "numbers.csv", "--id", "run", "--each-step", "--label", "y1,y2"]
    assert command("train", *options, *TINY, "--out", "run")[0] == 0
    code, _, error = command("export", "run", "--out", "net.onnx")
    assert code == 0, error
    assert "at every step, (batch, time, output), in this order: y1, y2" in Path(
        "net.onnx.md"
    ).read_text(encoding="utf-8")
    one = inputs[0][None].astype(np.float32)
    session = onnxruntime.InferenceSession("net.onnx")
    (answers,) = session.run(None, {"inputs": one, "lengths": np.array([one.shape[1]])})
    expected, _ = TrainedModel.open(Path("run")).answer_steps(
        recordings([inputs[0]], channels=("u", "v"))
    )
    np.testing.assert_allclose(answers[0], expected[0], rtol=1e-4)


def test_a_part_knows_whether_it_lacks_targets():
    inputs, outputs = systems()
    assert not from_arrays(inputs, outputs).train.lacks_targets
    outputs = [np.where(np.arange(len(one))[:, None] == 3, NAN, one) for one in outputs]
    assert from_arrays(inputs, outputs).train.lacks_targets


def test_the_report_has_the_scores_of_each_output(tables, command):
    options = ["--data", "numbers.csv", "--id", "run", "--each-step", "--label", "y1,y2"]
    assert command("train", *options, *TINY, "--out", "run")[0] == 0
    code, _, error = command("report", "run", "--out", "report")
    assert code == 0, error
    page = Path("report/report.html").read_text(encoding="utf-8")
    scores = RunFolder.open(Path("run")).read_result()["test_scores"]
    assert "Scores at every step" in page
    assert f"<td>{scores['y2']['RMSE']:.4g}</td>" in page
