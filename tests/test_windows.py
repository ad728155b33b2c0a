"""Windows of long recordings: where they lie, what they are called, and which part they go to.

Groups and folds are promised in test_groups.py and test_folds.py, rates in test_resampling.py.
"""

import csv

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rnnopt.runs.prediction import TrainedModel
from rnnopt.tasks import from_arrays
from rnnopt.tasks.user_data.recordings import recordings
from rnnopt.tasks.user_data.splits import hold_out_blocks, time_blocks
from rnnopt.tasks.user_data.windows import Windows, commonest, cut, mixed_labels


def plain(series, labels, width, stride, purge):
    """(recording, start, label) of each window, by loops and counting."""
    found = []
    for number, (one, words) in enumerate(zip(series, labels, strict=True)):
        start = 0
        while start + width <= len(one):
            its = words[start : start + width]
            known = [word for word in its if word]
            best = max(known, key=lambda word: (known.count(word), -known.index(word)), default="")
            left_out = 2 * len(known) < width or (
                purge and (len(known) < width or len(set(its)) > 1)
            )
            if not left_out:
                found.append((number, start, best))
            start += stride
    return found


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_windows_are_those_of_the_plain_twin(data):
    lengths = data.draw(st.lists(st.integers(1, 30), min_size=1, max_size=4))
    width, stride = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 12))
    purge = data.draw(st.booleans())
    series = [100.0 * i + np.arange(n) for i, n in enumerate(lengths)]
    word = st.sampled_from(["a", "b", "c", ""])
    labels = [data.draw(st.lists(word, min_size=n, max_size=n)) for n in lengths]
    labels[0][0] = "a"  # one at least
    wanted = plain(series, labels, width, stride, purge)
    read = recordings(series, [np.array(one, dtype=object) for one in labels], each_step=True)
    try:
        found = cut(read, Windows(width, stride, purge), "classification", all_of_them=False)
    except ValueError:
        assert not wanted
        return
    got = list(zip(found.spans[:, 0], found.spans[:, 1], found.targets, strict=True))
    assert got == wanted
    for one, (number, start, _), name in zip(found.series, got, found.names, strict=True):
        # Its steps are consecutive ones of one recording.
        assert one[:, 0].tolist() == [100 * number + start + i for i in range(width)]
        assert name == str(number + 1)


def test_ties_and_missing_labels_by_hand():
    nan = np.nan
    assert commonest(np.array([2.0, 1.0, 1.0, 2.0])) == 2  # as common, and first
    assert commonest(np.array([nan, 1.0, nan])) == 1
    assert np.isnan(commonest(np.array([nan, nan])))


def test_numbers_of_steps_are_averaged_and_a_target_of_the_recording_is_inherited():
    X = np.arange(12.0)[None, :, None]
    steps = recordings(X, X[..., 0] / 8, each_step=True)
    assert cut(steps, Windows(4, 4), "regression", False).targets.tolist() == [
        1.5 / 8,
        0.6875,
        1.1875,
    ]
    whole = recordings([X[0], X[0]], ["a", "b"])
    assert cut(whole, Windows(6, 6), "classification", False).targets.tolist() == [*"aabb"]
    kept = cut(steps, Windows(4, 4, each_step=True), "regression", False)
    assert kept.targets is None
    assert kept.steps.values[1][:, 0].tolist() == [0.5, 0.625, 0.75, 0.875]
    assert mixed_labels(kept.steps).all()


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.integers(20, 200), min_size=1, max_size=3),
    st.integers(1, 10),
    st.integers(1, 10),
    st.booleans(),
    st.floats(0.1, 0.5),
)
def test_parts_in_time_share_no_step(lengths, width, stride, classes, fraction):
    series = [np.zeros(n) for n in lengths]
    spans = cut(recordings(series), Windows(width, stride), None, True).spans
    words = np.array([*"ab" * len(spans)])[: len(spans)] if classes else None
    try:
        kept, held = hold_out_blocks(words, spans, fraction, 0)
    except ValueError:
        assert len(spans) < 20
        return
    steps = [{(r, i) for r, a, b in spans[part] for i in range(a, b)} for part in (kept, held)]
    assert not steps[0] & steps[1]
    # None is left out but those that share a step.
    for r, a, b in spans[np.setdiff1d(np.arange(len(spans)), [*kept, *held])]:
        assert steps[1] & {(r, i) for i in range(a, b)}


def test_blocks_are_windows_that_follow_each_other():
    spans = cut(recordings([np.zeros(400)]), Windows(10, 5), None, True).spans
    blocks = time_blocks(spans)
    assert (np.diff(blocks) >= 0).all()
    assert blocks.max() + 1 == 400 // 40


def walks(rng, count=8, steps=60):
    """Recordings whose second channel is their number."""
    X = [rng.normal(size=(steps + 5 * i, 2)) for i in range(count)]
    for i, one in enumerate(X):
        one[:, 1] = i
    labels = [np.where(np.arange(len(one)) < 30, "rest", "walk") for one in X]
    return X, labels


def test_whole_recordings_are_held_out():
    X, labels = walks(np.random.default_rng(0))
    task = from_arrays(X, labels, window=10, stride=5, normalize=False)
    parts = [set(p.inputs[:, 0, 1].tolist()) for p in (task.train, task.validation, task.test)]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 8
    assert task.train.inputs.shape[1] == 10
    assert dict(task.data.understood)["split"] == "whole recordings"
    # New recordings are cut alike.
    new = task.data.preparation.inputs(recordings([np.zeros((30, 2))]))[0]
    assert new.shape == (5, 10, 2)


def test_one_recording_and_recordings_of_one_class_each_are_split_in_time():
    X, labels = walks(np.random.default_rng(0), 1, 400)
    told = dict(from_arrays(X, labels, window=10).data.understood)
    assert told["split"] == "blocks in time"
    own = [np.random.default_rng(i).normal(size=(200, 1)) for i in range(2)]
    task = from_arrays(own, ["a", "b"], window=10)
    assert {*task.train.targets.tolist()} == {*task.test.targets.tolist()} == {0, 1}


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (dict(window=0), "window must be at least 1, got 0"),
        (dict(stride=4), "stride needs window"),
        (dict(purge=True), "purge needs window"),
        (dict(window=99), "a window has 99 steps, and the longest recording has 95"),
        (dict(window=31, stride=7, purge=True, drop=[5]), "no channel '5' to leave out"),
        (dict(resample="50Hz"), "resample needs the time of each step"),
        (dict(resample="fast"), "resample must be a rate such as 50Hz .* got 'fast'"),
        (dict(rate="1Hz"), "rate needs resample"),
    ],
)
def test_impossible_windows_are_refused(options, told):
    X, labels = walks(np.random.default_rng(0))
    with pytest.raises(ValueError, match=told):
        from_arrays(X, labels, each_step=True, **options)


# -- on the command line --------------------------------------------------------------------------


def write(path, header, rows):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


@pytest.fixture
def long_table(tmp_path):
    """Eight recordings of four people; the label changes within each, the person does not."""
    X, labels = walks(np.random.default_rng(1))
    rows = [
        [f"r{i}", step, f"p{i // 2}", *map("{:.4f}".format, one), label]
        for i, (values, words) in enumerate(zip(X, labels, strict=True))
        for step, (one, label) in enumerate(zip(values, words, strict=True))
    ]
    return write(tmp_path / "steps.csv", ["id", "time", "person", "x", "y", "label"], rows)


def test_a_run_on_windows_predicts_a_row_for_each_window(long_table, tmp_path, command):
    run = tmp_path / "run"
    options = ["--window", "10", "--stride", "5", "--budget", "6gradients", "--hidden", "4"]
    code, out, error = command(
        "train", "--data", long_table, "--group", "person", "--drop", "y", *options, "--out", run
    )
    assert code == 0, error
    preparation = TrainedModel.open(run).preparation
    assert (preparation.sampling.window, preparation.sampling.stride) == (10, 5)
    assert preparation.channels == ("x",)
    rows = [["new", i, 0.1 * i, 1] for i in range(27)]
    new = write(tmp_path / "new.csv", ["id", "time", "x", "y"], rows)
    code, out, error = command("predict", run, "--data", new, "--out", tmp_path / "p.csv")
    assert code == 0, error
    assert "4 windows" in out
    written = list(csv.DictReader((tmp_path / "p.csv").read_text().splitlines()))
    assert [(row["series"], row["start"], row["end"]) for row in written] == [
        ("new", str(start), str(start + 10)) for start in (0, 5, 10, 15)
    ]


def test_a_column_that_looks_like_groups_is_warned_of(long_table, tmp_path, command):
    line = ["inspect", long_table, "--window", "10", "--out", tmp_path / "p.png"]
    code, out, error = command(*line, "--drop", "person")
    assert code == 0, error
    assert "--group person" in error
    assert "windows" in out
    assert "--group" not in command(*line, "--group", "person")[2]
    code, out, error = command(*line)  # words are no channel
    assert code == 2
    assert "'person'" in error
    assert "--drop" in error


def test_a_table_of_one_recording_needs_no_column_that_names_it(tmp_path, command):
    rows = [[f"{np.sin(i):.3f}", "up" if i % 40 < 20 else "down"] for i in range(400)]
    path = write(tmp_path / "one.csv", ["x", "label"], rows)
    code, out, error = command("inspect", path, "--window", "20", "--out", tmp_path / "p.png")
    assert code == 0, error
    assert "20 of 20 steps" in " ".join(out.replace("│", " ").split())
