"""Cross-validation: which series are in which fold, the runs of all folds, and their table.

Splits into three parts are promised in test_groups.py and test_windows.py.
"""

import json
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rnnopt.report.statistics import mean_and_width
from rnnopt.runs.folder import RunFolder
from rnnopt.tasks import from_arrays
from rnnopt.tasks.user_data.folds import fold_of


@settings(max_examples=25, deadline=None)
@given(
    st.integers(2, 5), st.integers(2, 8), st.integers(1, 4), st.booleans(), st.booleans(),
    st.integers(0, 3),
)  # fmt: skip
def test_every_series_is_in_one_fold_and_a_group_too(
    folds, units, each, with_classes, grouped, seed
):
    units = max(units, folds)
    groups = np.repeat(np.arange(units), 2 * each)
    count = len(groups)
    classes = np.arange(count) % 2 if with_classes else None
    parts = [
        fold_of(classes, groups if grouped else None, count, folds, fold + 1, seed)
        for fold in range(folds)
    ]
    assert sorted(np.concatenate(parts)) == list(range(count))
    if grouped:
        assert sum(len(set(groups[part])) for part in parts) == units
    elif with_classes:  # within one of the same share
        assert max(len(one) for one in parts) - min(len(one) for one in parts) <= 2
        assert all(abs((classes[part] == 0).sum() - count / 2 / folds) < 1 for part in parts)


@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_the_test_parts_of_all_folds_are_all_series(kind):
    X = np.random.default_rng(0).normal(size=(24, 4, 1))
    X[:, 0, 0] = np.arange(24)
    y = np.arange(24) % 2 if kind == "classification" else X[:, 1, 0]
    options = dict(kind=kind, folds=4, normalize=False, groups=np.arange(24) // 2)
    tests = []
    for fold in range(4):
        task = from_arrays(X, y, fold=fold + 1, **options)
        parts = [
            set((p.inputs[:, 0, 0] // 2).tolist()) for p in (task.train, task.validation, task.test)
        ]
        assert sum(map(len, parts)) == len(set.union(*parts)) == 12  # no group on two sides
        tests += task.test.inputs[:, 0, 0].tolist()
    assert sorted(tests) == list(range(24))


def test_folds_of_one_recording_share_no_step():
    X = np.arange(600.0)[None, :, None]
    y = [np.where(np.arange(600) % 40 < 20, "a", "b")]
    for fold in (1, 2, 3):
        task = from_arrays(X, y, window=10, stride=4, folds=3, fold=fold, normalize=False)
        steps = [set(p.inputs.flatten().tolist()) for p in (task.train, task.validation, task.test)]
        assert sum(map(len, steps)) == len(set.union(*steps))


@pytest.mark.parametrize(
    ("series", "options", "told"),
    [
        (4, dict(folds=5, fold=1), "5 folds need 5 series at least, got 4"),
        (24, dict(folds=3, fold=1, groups=[0, 1] * 12), "3 folds need 3 groups at least, got 2"),
    ],
)
def test_too_few_series_for_folds_are_refused(series, options, told):
    with pytest.raises(ValueError, match=told):
        from_arrays(np.zeros((series, 3)), np.arange(series) // 2 % 2, **options)


# -- on the command line --------------------------------------------------------------------------


@pytest.fixture
def table(tmp_path):
    """Thirty series of two classes, without names."""
    rng = np.random.default_rng(0)
    rows = [[i % 2, *(rng.normal(size=8) + i % 2).round(3)] for i in range(30)]
    path = tmp_path / "waves.csv"
    np.savetxt(path, rows, fmt="%g", delimiter=",")
    return path


def test_folds_are_runs_with_a_table_and_can_be_resumed(table, tmp_path, command):
    out = tmp_path / "cv"
    line = ["train", "--data", table, "--folds", "3", "--budget", "5gradients", "--hidden", "4"]
    code, printed, error = command(*line, "--model", "rnn", "--quiet", "--out", out)
    assert code == 0, error
    folders = [out / f"fold-{i}" for i in (1, 2, 3)]
    results = [RunFolder.open(folder).read_result() for folder in folders]
    mean, width = mean_and_width([result["test_metric"] for result in results])
    written = (out / "folds.md").read_text()
    assert f"{mean:.4f} ± {width:.4f}" in written
    assert len(written.splitlines()) == 2 + 3 + 1
    assert [RunFolder.open(folder).read_config().fold for folder in folders] == [1, 2, 3]
    # Begun anew it is refused; resumed, only what is missing is trained, to the same end.
    code, _, error = command(*line, "--out", out)
    assert code == 2
    assert "--resume" in error
    shutil.rmtree(folders[2])
    code, printed, error = command("train", "--out", out, "--resume", "--json")
    assert code == 0, error
    told = json.loads(printed)
    assert told["test_metric"] == pytest.approx(mean)
    again = RunFolder.open(folders[2]).read_result()
    assert again["test_metric"] == results[2]["test_metric"]
    code, _, error = command("train", "--out", out, "--resume", "--lr", "0.5")
    assert code == 2
    assert "--lr" in error
    # The report takes the folds as one group, with a row for each.
    code, printed, error = command("report", out, "--no-scores")
    assert code == 0, error
    assert "3 of 3" in (out / "report.md").read_text()
    assert "<h3>Folds of" in (out / "report.html").read_text()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--folds", "1"], "--folds must be at least 2, got 1"),
        (["--folds", "3", "--fold", "4"], "--fold must be in 1 … 3, got 4"),
        (["--fold", "2"], "--fold needs --folds"),
        (["--folds", "3", "--test-fraction", "0.3"], "leave out --test-fraction"),
    ],
)
def test_impossible_folds_are_refused(table, command, options, told):
    code, _, error = command("train", "--data", table, *options)
    assert code == 2
    assert told in error


def test_a_comparison_takes_one_fold_and_folds_need_data(table, command):
    code, _, error = command("compare", "--data", table, "--folds", "3")
    assert code == 2
    assert "--fold" in error
    code, _, error = command("train", "--folds", "3")
    assert code == 2
    assert "--folds needs --data" in error


def test_folds_that_are_refused_leave_no_folder(table, tmp_path, command):
    out = tmp_path / "cv"
    code, _, error = command("train", "--data", table, "--folds", "31", "--out", out)
    assert code == 2
    assert "31 folds need 31 series at least, got 30" in error
    assert not out.exists()
