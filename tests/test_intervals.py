"""What labels by intervals promise: each step has its interval's, and wrong tables a sentence."""

import csv
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from messages import naming

from rnnopt.config.errors import UserError
from rnnopt.tasks.user_data.readers.intervals import with_interval_labels
from rnnopt.tasks.user_data.recordings import recordings
from rnnopt.tasks.user_data.windows import Windows, cut

NAN = float("nan")


def some(lengths=(6, 8), stamps=None, names=None):
    """Recordings of these lengths, named r0, r1, …, with times as written."""
    names = names or [f"r{i}" for i in range(len(lengths))]
    data = recordings([np.zeros((n, 1)) for n in lengths], names=names)
    return replace(data, stamps=stamps)


def table(folder, text):
    path = folder / "labels.csv"
    path.write_text(text)
    return path


def words(data):
    return [data.steps.labels(one[:, 0]) for one in data.steps.values]


# -- labels of steps ------------------------------------------------------------------------------


def test_steps_are_counted_from_zero_without_times_and_the_end_is_not_included(tmp_path):
    path = table(tmp_path, "file,start,end,label\nr1,0,3,a\nr0,2,6,b\nr1,5,8,b\n")
    found, test = with_interval_labels(path, some(), None)
    assert test is None
    assert words(found) == [["", "", "b", "b", "b", "b"], [*"aaa", "", "", *"bbb"]]


def test_times_are_those_of_the_recordings_own_column(tmp_path):
    stamps = (np.array([10.0, 10.5, 11.0, 11.5]), np.array([7, 8, 9]))
    path = table(tmp_path, "recording;start;end;label\nr0;10,2;11,1;1\nr1;8;10;2\n")
    found, _ = with_interval_labels(path, some((4, 3), stamps), None)
    assert words(found) == [["", "1", "1", ""], ["", "2", "2"]]
    assert found.steps.words == ()  # numbers
    assert found.stamps is None


def test_dates_are_dates(tmp_path):
    stamps = (np.array(["2024-01-01T00:00", "2024-01-01T00:01", "2024-01-01T00:02"], "M8[m]"),)
    path = table(tmp_path, "start,end,label\n2024-01-01T00:00:30,2024-01-01T00:02,walk\n")
    found, _ = with_interval_labels(path, some((3,), stamps), None)
    assert words(found) == [["", "walk", ""]]
    assert found.lines[-1][1].endswith("time of the recordings (dates without a zone count as UTC)")


@given(st.lists(st.integers(1, 4), min_size=1, max_size=6), st.integers(0, 2**31))
@settings(max_examples=20, deadline=None)
def test_it_is_a_loop_over_steps(tmp_path_factory, widths, seed):
    rng = np.random.default_rng(seed)
    edges = np.concatenate([[0], np.cumsum(widths)])
    times = np.sort(rng.choice(200, 12, replace=False)) / 200 * edges[-1]
    rows, expected = ["start,end,label"], [""] * 12
    for i, (start, end) in enumerate(pairwise(edges)):
        if rng.random() < 0.5 and ((times >= start) & (times < end)).any():
            rows.append(f"{start},{end},c{i}")
            expected = [
                f"c{i}" if start <= t < end else one for t, one in zip(times, expected, strict=True)
            ]
    if len(rows) == 1:
        return
    path = table(tmp_path_factory.mktemp("any"), "\n".join(rows))
    times = (np.append(times, [edges[-1] + 9]),)  # nothing is outside
    found, _ = with_interval_labels(path, some((13,), times), None)
    assert words(found) == [[*expected, ""]]


def test_names_go_with_or_without_ending_and_those_without_interval_are_left_out(tmp_path):
    names = ("day/a.csv", "day/b.csv", "day/c.csv")
    path = table(tmp_path, "file,start,end,label\na,0,1,x\nday/c.csv,0,2,y\n")
    found, _ = with_interval_labels(path, some((2, 2, 2), names=names), None)
    assert found.names == ("day/a.csv", "day/c.csv")
    assert ("left out", "1 of 3 recordings without an interval") in found.lines
    kept, _ = with_interval_labels(path, some((2, 2, 2), names=names), None, keep=True)
    assert words(kept) == [["x", ""], ["", ""], ["y", "y"]]


@pytest.mark.parametrize(
    ("name", "written", "same"),
    [
        ("a.csv", "a", True),
        ("a", "a.csv", True),
        ("day/a.csv", "a", True),
        ("day/a.csv", "day\\a.csv", True),
        ("a", r"C:\data\a.csv", True),
        ("day/a.csv", "night/a.csv", False),
        ("a.csv", "a.txt", False),
        ("1.5", "1.7", False),  # a point alone makes no ending
        ("run.1", "run", False),
    ],
)
def test_names_are_the_same_without_folder_or_ending_alone(tmp_path, name, written, same):
    path = table(tmp_path, f"file,start,end,label\n{written},0,1,x\n")
    if same:
        assert words(with_interval_labels(path, some((2,), names=(name,)), None)[0]) == [["x", ""]]
    else:
        with pytest.raises(UserError, match="no recording has that name"):
            with_interval_labels(path, some((2,), names=(name,)), None)


@pytest.mark.parametrize("times", [None, (np.arange(3.0),)])
def test_it_is_said_what_counts_the_time(tmp_path, times):
    found, _ = with_interval_labels(
        table(tmp_path, "start,end,label\n0,2,x\n"), some((3,), times), None
    )
    unit = "the time of the recordings" if times else "steps counted from 0"
    assert ("labels", f"1 intervals, in {unit}") in found.lines


def test_test_recordings_have_theirs(tmp_path):
    path = table(tmp_path, "file,start,end,label\nt0,0,1,x\nr0,0,2,y\nr1,0,2,y\n")
    found, test = with_interval_labels(path, some(), some((3,), names=("t0",)))
    assert words(test) == [["x", "", ""]]
    assert len(found) == 2


def test_a_window_has_the_label_that_covers_most_of_it(tmp_path):
    path = table(tmp_path, "start,end,label\n0,5,a\n5,9,b\n12,13,a\n")
    found, _ = with_interval_labels(path, some((16,)), None)
    windows = cut(found, Windows(4, 4), "classification", False)
    assert windows.targets.tolist() == ["a", "b"]  # the last two are mostly unlabelled
    assert any("left out: 2 windows" in line for _, line in windows.lines)


# -- bad tables -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("file,start,end\nr0,0,1\n", ["'label'", "start, end and label"]),
        ("file,start,end,label\n", ["a row at least"]),
        ("file,start,end,label\nr0,0,1\n", ["line 2", "4 cells", "3"]),
        ("file,start,end,label\nr0,3,3,a\n", ["line 2", "after the start", "3 and 3"]),
        ("file,start,end,label\nr0,0,1,\n", ["line 2", "a label"]),
        ("file,start,end,label\nr0,,1,a\n", ["line 2", "a start"]),
        ("file,start,end,label\nr0,0,nan,a\n", ["line 2", "an end", "'nan'"]),
        ("file,start,end,label\nr0,0,1,a\n\n\nr0,1,x,a\n", ["line 5", "number", "'x'"]),
        ("sep=;\nfile;start;end;label\n\nr0;3;2;a\n", ["line 4", "after the start"]),
        ("file,start,end,label\nr0,0,2024-01-01,a\n", ["all numbers or all dates"]),
        ("label,start,end,Label\na,0,1,b\n", ["several columns", "'label'"]),
        (" \n", ["start, end and label", "empty"]),
        ("file,start,end,label\nr0,0,two,a\n", ["line 2", "number", "'two'"]),
        ("file,start,end,label\nr7,0,1,a\n", ["line 2", "no recording", "'r7'", "r0, r1"]),
        ("start,end,label\n0,1,a\n", ["'file'", "one recording, got 2"]),
        ("file,start,end,label\nr0,0,3,a\nr1,0,1,a\nr0,2,4,b\n", ["lines 2 and 4", "'r0'"]),
        ("file,start,end,label\nr0,4,9,a\n", ["line 2", "from 4 to 9", "'r0'", "from 0 to 5"]),
        ("file,start,end,label\nr0,-3,2,a\n", ["line 2", "from -3 to 2", "'r0'"]),
        ("file,start,end,label\nr0,1.2,1.8,a\n", ["line 2", "no step", "'r0'"]),
        ("file,start,end,label\nr0,2024-01-01,2024-01-02,a\n", ["line 2", "dates", "numbers"]),
    ],
)
def test_a_wrong_table_is_named_with_its_line(tmp_path, text, says):
    with pytest.raises(UserError, match=naming("labels.csv", *says)):
        with_interval_labels(table(tmp_path, text), some(), None)


def test_recordings_of_one_name_and_tables_that_are_not_there_are_named(tmp_path):
    path = table(tmp_path, "file,start,end,label\nr0,0,1,a\n")
    with pytest.raises(UserError, match=naming("several recordings", "'r0'")):
        with_interval_labels(path, some(), some())
    with pytest.raises(UserError, match=naming("none.csv")):
        with_interval_labels(tmp_path / "none.csv", some(), None)
    (tmp_path / "bad.csv").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(UserError, match=naming("bad.csv", "UTF-8")):
        with_interval_labels(tmp_path / "bad.csv", some(), None)
    with pytest.raises(UserError, match=naming("no recording of a part")):
        with_interval_labels(path, some(), some(names=("t0", "t1")))


# -- the command line -----------------------------------------------------------------------------

TINY = ("--budget", "3gradients", "--hidden", "4", "--model", "gru", "--quiet")


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Six recordings, at rest and walking in turn, without labels; a table of intervals."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    rows, intervals = ["id,time,x"], ["file,start,end,label"]
    for i in range(6):
        for step in range(60):
            rows.append(f"day{i},{100 + step / 10:.1f},{rng.normal() + (step // 20) % 2:.3f}")
        intervals += [f"day{i},100,102,rest", f"day{i},102,104,walk", f"day{i},104,105,rest"]
    (tmp_path / "recordings.csv").write_text("\n".join(rows) + "\n")
    (tmp_path / "labels.csv").write_text("\n".join(intervals) + "\n")
    return tmp_path


def test_windows_are_learnt_from_intervals_and_scored_with_them(files, command):
    data = ("--data", "recordings.csv", "--labels", "labels.csv", "--window", "10")
    code, out, error = command("inspect", "recordings.csv", *data[2:])
    assert code == 0, error
    assert "rest" in out
    code, out, error = command("train", *data, *TINY, "--out", "run")
    assert code == 0, error
    code, out, error = command("predict", "run", "--data", "recordings.csv", "--out", "p.csv")
    assert code == 0, error
    assert "accuracy" not in out
    more = ("--labels", "labels.csv", "--out", "q.csv")
    code, out, error = command("predict", "run", "--data", "recordings.csv", *more)
    assert code == 0, error
    assert "accuracy" in out
    rows = list(csv.DictReader((files / "q.csv").read_text().splitlines()))
    assert [row["label"] for row in rows[:6]] == ["rest", "rest", "walk", "walk", "rest", ""]


def test_every_step_is_learnt_from_intervals_and_a_changed_table_is_refused(files, command):
    data = ("--data", "recordings.csv", "--labels", "labels.csv", "--each-step")
    assert command("train", *data, *TINY, "--out", "run")[0] == 0
    more = ("--labels", "labels.csv", "--out", "p.csv")
    code, out, error = command("predict", "run", "--data", "recordings.csv", *more)
    assert code == 0, error
    assert "balanced accuracy" in out
    rows = list(csv.DictReader((files / "p.csv").read_text().splitlines()))
    assert [row["label"] for row in rows[:60]] == ["rest"] * 20 + ["walk"] * 20 + ["rest"] * 10 + [
        ""
    ] * 10
    (files / "run" / "result.json").unlink()
    (files / "labels.csv").write_text("start,end,label\n100,101,rest\n")
    code, _, error = command("train", "--out", "run", "--resume")
    assert (code, "labels.csv" in error) == (2, True)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ((), ["--labels", "--window", "--each-step"]),
        (("--window", "10", "--label", "x"), ["--labels", "--label"]),
        (("--horizon", "3"), ["--labels", "--horizon"]),
    ],
)
def test_options_that_do_not_go_together_are_one_sentence(files, command, options, says):
    data = ("--data", "recordings.csv", "--labels", "labels.csv", *options)
    code, _, error = command("train", *data, *TINY, "--out", "run")
    assert (code, len(error.strip().splitlines())) == (2, 1)
    assert all(word in error for word in says)
    assert not (files / "run").exists()
