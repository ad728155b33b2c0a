"""What `rnnopt predict --stream` promises: the numbers of `predict --data`, row by row, at once.

The steps of a network are promised in test_stream.py, the preparation in test_own_data_forms.py.
"""

import csv
import io
import signal
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rnnopt import SequenceModel
from rnnopt.cli.main import main
from rnnopt.cli.streaming import answer_rows
from rnnopt.config.errors import UserError
from rnnopt.config.run_config import RunConfig
from rnnopt.runs.prediction import TrainedModel
from rnnopt.runs.row_stream import row_stream
from rnnopt.tasks import from_arrays
from rnnopt.tasks.user_data.preparation import Preparation
from rnnopt.tasks.user_data.readers.rows import RowReader
from rnnopt.tasks.user_data.recordings import TableSchema, recordings

TINY = ["--hidden", "4", "--budget", "4gradients", "--optimizer", "adam", "--quiet"]


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def stepwise(data, cell="gru", readout="last", missing="error", **options):
    """A network of random weights on arrays or Recordings of the task's own, not trained."""
    task = from_arrays(*data, missing=missing, **options)
    torch.manual_seed(0)
    every = task.data.preparation.each_step
    model = SequenceModel(
        task.input_size, 5, task.output_size, cell=cell, readout="every" if every else readout
    )
    return TrainedModel(model.eval(), task.data.preparation, RunConfig(), {})


def ragged(count=12, width=2, gaps=False, seed=0):
    rng = np.random.default_rng(seed)
    series = [1e5 + 3 * rng.normal(size=(n, width)) for n in rng.integers(4, 9, count)]
    for one in series[::3] if gaps else ():
        one[2, 0] = np.nan
    return series


def streamed(trained, series):
    """The answers (time, …) to the rows of each series, as tables of words."""
    stream = row_stream(trained)
    found = []
    for i, one in enumerate(series):
        stream.restart(str(i + 1))
        found.append([line for row in one for line in stream.take(row)])
    return stream.headings, found


def numbers(lines, columns):
    return np.array([[float(line[i]) for i in columns] for line in lines])


@pytest.mark.parametrize("readout", ["last", "mean"])
@pytest.mark.parametrize("kind", ["classification", "multilabel", "regression"])
def test_each_row_has_the_prediction_for_the_series_so_far(kind, readout):
    series = ragged(gaps=True)
    targets = {
        "classification": ["a", "b", "c"] * 4,
        "multilabel": np.arange(36).reshape(12, 3) % 2,
        "regression": 1000 + np.random.default_rng(0).normal(size=12),
    }[kind]
    trained = stepwise((series, targets), "lstm", readout, missing="mean", kind=kind)
    headings, found = streamed(trained, series[:3])
    chances = [i for i, name in enumerate(headings) if name.startswith("probability")]
    columns = chances or [headings.index("predicted")]
    for i, lines in enumerate(found):
        assert [line[:2] for line in lines] == [[str(i + 1), str(t + 1)] for t in range(len(lines))]
        parts = [series[i][: t + 1] for t in range(len(series[i]))]
        expected = trained.answer(recordings(parts))
        np.testing.assert_allclose(numbers(lines, columns), expected, rtol=2e-6, atol=1e-6)
        if kind == "classification":
            best = [trained.preparation.classes[k] for k in expected.argmax(1)]
            assert [line[headings.index("predicted")] for line in lines] == best


@pytest.mark.parametrize("words", [True, False])
def test_each_row_has_the_target_of_its_step(words):
    series = ragged()
    targets = [["up" if v > 1e5 else "down" for v in one[:, 0]] for one in series]
    if not words:
        targets = [one[:, :1] * 2 for one in series]
    trained = stepwise((series, targets), each_step=True)
    headings, found = streamed(trained, series[:3])
    first = 3 if words else 2
    for one, lines in zip(series, found, strict=False):
        expected = trained.answer_steps(recordings([one]))[0][0]
        columns = range(first, len(headings))
        np.testing.assert_allclose(numbers(lines, columns), expected, rtol=2e-6, atol=1e-6)


def test_past_outputs_are_the_networks_own():
    # From the first step, as predict's for series without outputs, whose past is then the mean.
    series = ragged()
    targets = [5 + np.cumsum(one - 1e5, 0) for one in series]
    trained = stepwise((series, targets), each_step=True, feedback=2)
    _, found = streamed(trained, series[:3])
    for one, lines in zip(series, found, strict=False):
        expected = trained.answer_steps(trained.preparation.shaped(recordings([one])))[0][0]
        np.testing.assert_allclose(numbers(lines, (2, 3)), expected, rtol=1e-5, atol=1e-5)


def test_forecasts_from_each_row():
    series = ragged()
    trained = stepwise((series, None), horizon=2)
    headings, found = streamed(trained, series[:2])
    expected = trained.answer_steps(recordings([series[1]]))[0][0]
    assert len(headings) == 2 + 4
    np.testing.assert_allclose(numbers(found[1], range(2, 6)), expected, rtol=1e-6)


@cache
def on_windows():
    series = [np.random.default_rng(i).normal(size=(30, 1)) for i in range(2)]
    return stepwise(
        (series, [["a"] * 10 + ["b"] * 20] * 2), window=5, test_fraction=0, validation=0
    )


@given(
    width=st.integers(2, 6),
    stride=st.integers(1, 8),
    lengths=st.lists(st.integers(1, 20), min_size=1, max_size=3),
)
def test_windows_are_those_of_predict(width, stride, lengths):
    rng, trained = np.random.default_rng(0), on_windows()
    p = trained.preparation
    sampling = replace(p.sampling, window=width, stride=stride)
    trained = replace(trained, preparation=replace(p, sampling=sampling))
    new = [rng.normal(size=(n, 1)) for n in lengths]
    _, found = streamed(trained, new)
    ends = [[] if n < width else list(range(width, n + 1, stride)) for n in lengths]
    assert [[int(line[2]) for line in lines] for lines in found] == ends
    if any(ends):
        expected = trained.answer(recordings(new))
        lines = [line for lines in found for line in lines]
        np.testing.assert_allclose(numbers(lines, (4, 5)), expected, atol=1e-6)


# -- lines ----------------------------------------------------------------------------------------


def all_rows(reader, *lines):
    found = [reader.read(line, number) for number, line in enumerate(lines, 1)]
    return [(None if one is None else (one[0].tolist(), one[1])) for one in found]


def test_columns_are_found_by_name_and_others_of_the_training_data_passed_over():
    table = TableSchema("long", label="y", id="who", group="g", unused=("battery",))
    reader = RowReader(("b", "a"), table)
    found = all_rows(reader, "who,a,y,b,battery\n", "x,1,up,2,full\n", "z,3,,4,\n")
    assert found == [None, ([2, 1], "x"), ([4, 3], "z")]


def test_without_names_positions_count_with_any_separator():
    for lines in (["1,2"], ["1;2"], ["1\t2"], ["1 2"], ["u,v", "1,2"]):
        assert all_rows(RowReader(("channel 1", "channel 2")), *lines)[-1] == ([1, 2], None)
    assert all_rows(RowReader(("channel 1",), decimal=","), "1,5") == [([1.5], None)]
    # Names that are numbers are names where they are those of the channels.
    assert all_rows(RowReader(("0", "1")), "1,0", "5,6") == [None, ([6, 5], None)]


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["1,2", "1"], ("line 2", "2 cells (a, b)", "got 1")),
        (["1,2", "1,2,3"], ("line 2", "2 cells", "got 3")),
        (["1,2", "1,x"], ("line 2", "'x'")),
        (["1,2", "1,inf"], ("line 2", "finite", "inf for b")),
        (["1,2", "-1e101,2"], ("line 2", "finite", "-1e101 for a")),
        (["1,2", "1,"], ("line 2", "no value for b", "--missing error")),
        (["a,c"], ("line 1", "lacks 'b'", "has 'c' besides")),
        (["a,b,b"], ("line 1", "twice")),
        (["a,b", '1,"2'], ("line 2",)),
        (["1,5;2,5"], ("line 1", "'1,5'", "--decimal ,")),  # no line of names
    ],
)
def test_a_wrong_row_is_named_by_its_line(lines, words):
    with pytest.raises(UserError) as error:
        all_rows(RowReader(("a", "b")), *lines)
    for word in ("standard input", *words):
        assert word in str(error.value)


def test_points_beside_decimal_commas_are_refused_as_in_a_file():
    reader = RowReader(("a", "b"), decimal=",")
    assert all_rows(reader, "1,5;2") == [([1.5, 2], None)]
    with pytest.raises(UserError, match=r"line 1, value 1: '1.234' has a point"):
        all_rows(reader, "1.234;5,6")


def test_a_row_needs_its_id_where_there_is_a_column_of_them():
    reader = RowReader(("a", "b"), TableSchema("long", id="who"), gaps=True)
    with pytest.raises(UserError, match=r"line 3 has no value in the column of ids"):
        all_rows(reader, "who,a,b", "x,1,2", " ,3,4")


@given(st.lists(st.text(max_size=12), min_size=1, max_size=4))
def test_any_text_is_read_or_refused(lines):
    reader = RowReader(("a", "b"), gaps=True)
    for number, line in enumerate(lines, 1):
        try:
            found = reader.read(line, number)
        except UserError as error:
            assert "\n" not in str(error)  # noqa: PT017
            return
        assert found is None or found[0].shape == (2,)


# -- the command ----------------------------------------------------------------------------------


def long_table(path, names="id,x,y,label", count=8):
    rng = np.random.default_rng(0)
    lines = [names]
    for i in range(count):
        for _ in range(6):
            x, y = rng.normal(size=2) + [0, i % 2]
            lines.append(f"r{i},{x:.5f},{y:.5f},{'ab'[i % 2]}")
    Path(path).write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stream")
    long_table(folder / "long.csv")
    given = ["--data", str(folder / "long.csv"), "--model", "gru", "--out", str(folder / "run")]
    with pytest.raises(SystemExit) as ended:
        main(["train", *given, *TINY])
    assert ended.value.code == 0
    return folder / "run"


@pytest.fixture
def pipe(command, monkeypatch):
    """`rnnopt predict RUN --stream` on a text."""

    def call(run, text, *more):
        monkeypatch.setattr(sys, "stdin", io.StringIO(text))
        return command("predict", run, "--stream", *more)

    return call


def test_a_table_piped_in_is_answered_as_the_file_is(run, pipe, command):
    table = (run.parent / "long.csv").read_text()
    code, out, error = pipe(run, table)
    assert (code, error) == (0, "")
    answers = {line["series"]: line for line in csv.DictReader(io.StringIO(out))}  # the last ones
    assert command("predict", run, "--data", run.parent / "long.csv", "--out", "all.csv")[0] == 0
    whole = list(csv.DictReader(Path("all.csv").read_text().splitlines()))
    assert len(whole) == len(answers) == 8
    for line in whole:
        there = answers[line["series"]]
        assert (there["predicted"], there["step"]) == (line["predicted"], "6")
        name = "probability of a"
        assert float(there[name]) == pytest.approx(float(line[name]), abs=2e-6)


@pytest.mark.parametrize("between", ["\n", "reset\n", "\n\nRESET\n"])
def test_a_blank_line_or_reset_begins_a_new_series(run, pipe, between):
    code, out, _ = pipe(run, f"{between}1,2\n3,4\n{between}1,2\n{between}")
    lines = [line.split(",") for line in out.splitlines()]
    assert (code, len(lines)) == (0, 4)
    assert [line[:2] for line in lines[1:]] == [["1", "1"], ["1", "2"], ["2", "1"]]
    assert lines[1][2:] == lines[3][2:] != lines[2][2:]


def test_a_line_of_tabs_is_a_row_without_values_where_tabs_separate(run, pipe, command):
    given = ["--data", run.parent / "long.csv", "--model", "gru", "--missing", "mean"]
    assert command("train", *given, "--out", "gaps", *TINY)[0] == 0
    answers = [pipe("gaps", f"1{sep}2\n{sep}\n3{sep}4\n") for sep in "\t,"]
    assert answers[0] == answers[1]
    assert [line.split(",")[1] for line in answers[0][1].splitlines()[1:]] == ["1", "2", "3"]


def test_a_wrong_row_ends_it_after_the_answers_before(run, pipe):
    code, out, error = pipe(run, "x,y\n1,2\n\n1,oops\n1,2\n")
    assert (code, len(out.splitlines())) == (2, 2)
    assert error.count("\n") == 1
    assert "line 4" in error
    assert "'oops'" in error
    code, out, error = pipe(run, "1,1e60\n")
    assert (code, error.count("\n")) == (2, 1)
    assert "line 1" in error


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("--stream", "--data", "x.csv"), ("--data",)),
        (("--stream", "--out", "x.csv"), ("--out",)),
        (("--stream", "--unlabelled"), ("--unlabelled",)),
        ((), ("--data", "--stream")),
    ],
)
def test_options_that_do_not_go_together(run, command, given, words):
    code, out, error = command("predict", run, *given)
    assert (code, out, error.count("\n")) == (2, "", 1)
    assert all(word in error for word in words)


@pytest.mark.parametrize(
    ("changes", "model", "word"),
    [
        ({}, dict(bidirectional=True), "bidirectional"),
        ({}, dict(stem=[(4, 2)]), "stem"),
        (dict(subsample=2), {}, "--subsample 2"),
        (dict(missing="interpolate"), {}, "interpolate"),
    ],
)
def test_what_needs_several_steps_is_refused_but_in_windows(changes, model, word):
    series = [np.random.default_rng(0).normal(size=(20, 2)) for _ in range(10)]
    for window in (None, 8):
        task = from_arrays(series, ["a", "b"] * 5, window=window)
        p: Preparation = replace(task.data.preparation, **changes)
        network = SequenceModel(2, 4, 2, cell="gru", **model).eval()
        trained = TrainedModel(network, p, RunConfig(), {})
        if window is None:
            with pytest.raises(UserError, match=word):
                row_stream(trained)
            continue
        lines = streamed(trained, series[:1])[1][0]
        expected = trained.answer(recordings(series[:1]))
        np.testing.assert_allclose(numbers(lines, (4, 5)), expected, atol=1e-6)


class Pipe:
    """Standard input that looks at standard output before each further line."""

    def __init__(self, lines, looked, capsys):
        self.lines, self.looked, self.capsys = lines, looked, capsys

    def __iter__(self):
        for line in self.lines:
            yield line
            self.looked.append(self.capsys.readouterr().out)
        raise KeyboardInterrupt


def test_each_answer_is_there_before_the_next_row_and_ctrl_c_is_quiet(run, monkeypatch, capsys):
    looked = []
    monkeypatch.setattr(sys, "stdin", Pipe(["1,2\n", "3,4\n"], looked, capsys))
    with pytest.raises(SystemExit) as ended:
        main(["predict", str(run), "--stream"])
    assert ended.value.code == 130
    assert [one.count("\n") for one in looked] == [2, 1]  # names, and a row at a time
    assert capsys.readouterr() == ("", "")


@pytest.mark.process
@pytest.mark.full
def test_a_program_gets_answers_at_once_and_may_interrupt_or_hang_up(run):
    def begin():
        return subprocess.Popen(
            [sys.executable, "-m", "rnnopt", "predict", str(run), "--stream"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            # What is started in the background inherits that Ctrl-C is ignored.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )  # fmt: skip

    with begin() as first, begin() as second:
        for process in (first, second):
            process.stdin.write("1,2\n")
            process.stdin.flush()
            assert process.stdout.readline().startswith("series,step,predicted")
            assert process.stdout.readline().startswith("1,1,")
        first.send_signal(signal.SIGINT)
        second.stdout.close()
        second.stdin.write("1,2\n")
        second.stdin.flush()
        assert (first.wait(60), second.wait(60)) == (130, 141)
        assert first.stderr.read() == second.stderr.read() == ""


def test_a_closed_output_is_refused(run, monkeypatch):
    monkeypatch.setattr("sys.stdout", None)
    with pytest.raises(UserError, match="writes to standard output, which is closed"):
        answer_rows(TrainedModel.open(run), None)
