"""Splits that keep groups together: a person or a machine is never on two sides.

That windows of one recording stay together is promised in test_windows.py, cross-validation in
test_folds.py.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rnnopt.config.errors import UserError
from rnnopt.tasks import from_arrays
from rnnopt.tasks.user_data.readers import read
from rnnopt.tasks.user_data.readers.columns import Columns
from rnnopt.tasks.user_data.splits import hold_out_groups


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 6), st.integers(0, 2)), min_size=2, max_size=60),
    st.floats(0.05, 0.95),
    st.integers(0, 5),
)
def test_no_group_is_on_two_sides(series, fraction, seed):
    groups, classes = np.array(series).T
    try:
        kept, held = hold_out_groups(classes, groups, fraction, seed)
    except ValueError:  # one group, or a class that every draw would take whole
        number = max(1, round(len(set(groups)) * fraction))
        exclusive = {c for c in classes if len(set(groups[classes == c])) == 1}
        assert len(set(groups)) == 1 or exclusive or number > 1
        return
    assert sorted([*kept, *held]) == list(range(len(series)))
    assert not set(groups[kept]) & set(groups[held])
    assert len(kept)
    assert len(held)
    assert set(classes) == set(classes[kept])
    again = hold_out_groups(classes, groups, fraction, seed)
    assert all((a == b).all() for a, b in zip(again, (kept, held), strict=True))


def test_the_draw_with_the_most_even_classes_is_taken():
    # Groups 0 and 1 have only class a, the others both: a fifth of each class is one of the latter.
    groups = np.repeat(np.arange(10), 4)
    classes = np.where((groups < 2) | (np.arange(40) % 2 == 0), "a", "b")
    for seed in range(5):
        _, held = hold_out_groups(classes, groups, 0.2, seed)
        assert set(groups[held]) <= set(range(2, 10))


def test_a_class_of_one_group_is_kept_to_learn_from():
    groups = np.repeat(np.arange(5), 3)
    classes = np.where(groups == 3, "rare", "usual")
    for seed in range(5):
        kept, _ = hold_out_groups(classes, groups, 0.4, seed)
        assert "rare" in classes[kept]


def people(rng, count=30):
    """Series whose first value is their person's number."""
    person = np.arange(count) % 6
    X = rng.normal(size=(count, 5, 2))
    X[:, 0, 0] = person
    return X, np.array(["rest", "walk"] * (count // 2)), person


def test_from_arrays_keeps_groups_together():
    X, y, person = people(np.random.default_rng(0))
    task = from_arrays(X, y, groups=[f"person {p}" for p in person], normalize=False)
    parts = [
        set(part.inputs[:, 0, 0].tolist()) for part in (task.train, task.validation, task.test)
    ]
    assert set.union(*parts) == set(range(6))
    assert sum(map(len, parts)) == 6


@pytest.mark.parametrize(
    ("groups", "told"),
    [
        ([1, 2], r"groups must be 30, one per series, got shape \(2,\)"),
        ([*["a"] * 29, ""], "every series needs a group, series 30 has none"),
        (["a"] * 30, "one group left, 'a'"),
        (["a", "b"] * 15, "cannot hold out 1 of 2 groups: each draw takes every series of a class"),
        ([*"aabb"] * 7 + [*"ab"], "one group left"),  # none to validate on
    ],
)
def test_wrong_groups_are_refused(groups, told):
    X, y, _ = people(np.random.default_rng(0))
    with pytest.raises(ValueError, match=told):
        from_arrays(X, y, groups=groups)


@pytest.mark.parametrize("held", [dict(groups=range(8)), dict(folds=2, fold=1)])
def test_a_split_in_time_does_not_go_with_whole_series(held):
    X = np.random.default_rng(0).normal(size=(8, 20))
    with pytest.raises(ValueError, match="is of whole series, and split=time cuts them"):
        from_arrays(X, X, each_step=True, split="time", **held)


# -- tables ---------------------------------------------------------------------------------------


def steps_of_people(path):
    """Three people, each with one recording of four steps, that the column of the person names."""
    lines = [f"p{i // 4},{i % 4},{i},{'ab'[i % 2]}" for i in range(12)]
    path.write_text("id,time,x,label\n" + "\n".join(lines) + "\n")
    return path


def test_the_column_of_names_may_be_that_of_the_groups(tmp_path):
    path = steps_of_people(tmp_path / "steps.csv")
    for given_id in (None, "id"):
        data, _ = read(path, Columns(group="id", id=given_id, varying=True, window=2))
        assert data.names == ("p0", "p1", "p2")
        assert data.groups.tolist() == ["p0", "p1", "p2"]
        assert data.channels == ("x",)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (dict(group="label"), "--label and --group must be different columns, both are 'label'"),
        (dict(drop=("label",)), "--drop leaves out 'label', and --label needs it"),
    ],
)
def test_a_label_has_no_other_role(tmp_path, options, told):
    path = steps_of_people(tmp_path / "steps.csv")
    with pytest.raises(UserError, match=told):
        read(path, Columns(label="label", varying=True, window=2, **options))


# -- series that are passed separately -------------------------------------------------------------


def test_test_series_have_groups_of_their_own_and_one_in_both_is_warned_of():
    X, y = np.random.default_rng(0).normal(size=(20, 6, 1)), ["a", "b"] * 10
    apart = dict(inputs=X[:4], targets=y[:4], groups=["p1", "q", "q", "q"])
    task = from_arrays(X, y, groups=[f"p{i % 5}" for i in range(20)], test=apart)
    assert dict(task.data.understood)["split"].endswith("2 test")
    assert task.data.doubts == ("1 group of the test series is also in another part",)
    other = from_arrays(
        X, y, groups=list(range(20)), test=apart, validation=apart | {"groups": list("rstu")}
    )
    assert other.data.doubts == ()


def test_separate_series_are_resampled_by_their_own_times():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(12, 20, 1)), ["a", "b"] * 6
    slow, fast = np.arange(20) / 10, np.arange(20) / 20
    apart = dict(inputs=X[:2], targets=y[:2], times=[fast] * 2)
    task = from_arrays(X, y, times=[slow] * 12, resample="10Hz", test=apart)
    assert (task.train.inputs.shape[1], task.test.inputs.shape[1]) == (20, 10)
    gaps = from_arrays(X, y, times=[slow] * 12, time_gap=True, test=apart, normalize=False)
    assert gaps.test.inputs[0, 1:, 1].numpy() == pytest.approx(1 / 20)
    padded = dict(inputs=X[:2], targets=y[:2], lengths=[20, 9], times=[fast] * 2)
    short = from_arrays(X, y, times=[slow] * 12, resample="10Hz", test=padded)
    assert short.test.lengths.tolist() == [10, 5]


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (dict(group=[1, 2]), "test needs inputs, and of .*groups.*, got inputs, targets, group"),
        (dict(groups=[1]), r"test: groups must be 2, one per series, got shape \(1,\)"),
        (dict(times=[[1, 2]]), "test: times need one row for each of 2 series, got 1"),
        (dict(times=[[0, 1, 1], [0, 1, 2]]), "test: times must rise .* series 1 do not"),
    ],
)
def test_wrong_separate_series_are_refused(more, told):
    X, y = np.zeros((10, 3, 1)), ["a", "b"] * 5
    with pytest.raises(ValueError, match=told):
        from_arrays(X, y, test=dict(inputs=X[:2], targets=y[:2]) | more)


def test_a_tuple_has_no_groups():
    X, y = np.zeros((10, 3, 1)), ["a", "b"] * 5
    with pytest.raises(ValueError, match="must be a dict, got 4 arrays"):
        from_arrays(X, y, test=(X, y, [3] * 10, y))
