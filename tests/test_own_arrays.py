"""What from_arrays promises: stratified splits, statistics of the training part, nothing silent."""

import json
from collections import Counter

import numpy as np
import pytest
import torch

from rnnopt.tasks import from_arrays
from rnnopt.tasks.user_data.preparation import Preparation
from rnnopt.tasks.user_data.recordings import recordings
from rnnopt.tasks.user_data.series import fill_missing, pool
from rnnopt.tasks.user_data.splits import hold_out

NAN = float("nan")


def ragged(count=40, channels=2, seed=0):
    """Series of 5 to 14 steps, far from mean 0 and deviation 1."""
    generator = np.random.default_rng(seed)
    lengths = generator.integers(5, 15, count)
    return [3 + 2 * generator.normal(size=(n, channels)) for n in lengths]


WORDS = ["up", "down"] * 20


# -- splits ---------------------------------------------------------------------------------------


def test_every_class_gives_its_share():
    classes = np.repeat([0, 1, 2], [50, 30, 20])
    kept, held = hold_out(classes, 100, 0.2, seed=1)
    assert Counter(classes[held].tolist()) == {0: 10, 1: 6, 2: 4}
    assert sorted([*kept, *held]) == list(range(100))


def test_a_class_of_one_series_keeps_it():
    classes = np.array([0, 0, 0, 0, 1])
    for seed in range(5):
        kept, held = hold_out(classes, 5, 0.5, seed)
        assert 4 in kept
        assert len(held) == 2


def test_the_same_seed_holds_out_the_same_series():
    draws = [hold_out(None, 30, 0.3, seed)[1].tolist() for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]


def test_nothing_can_be_held_out_of_single_series():
    with pytest.raises(ValueError, match="cannot hold out 0.2 of 2 series"):
        hold_out(np.array([0, 1]), 2, 0.2, 0)


# -- the task -------------------------------------------------------------------------------------


def test_parts_are_disjoint_and_stratified():
    task = from_arrays(np.arange(100.0)[:, None, None], ["a", "b"] * 50, normalize=False)
    parts = [task.train, task.validation, task.test]
    assert [len(part) for part in parts] == [64, 16, 20]
    values = torch.cat([part.inputs.flatten() for part in parts])
    assert sorted(values.tolist()) == list(range(100))
    for part in parts:
        assert int((part.targets == 0).sum()) * 2 == len(part)


def test_statistics_are_of_true_training_steps_alone():
    task = from_arrays(ragged(), WORDS)
    true = task.train.inputs.double()  # nothing else is stored
    assert len(true) == task.train.lengths.sum()
    torch.testing.assert_close(true.mean(0), torch.zeros(2).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(true.std(0, correction=0), torch.ones(2).double())


def test_test_series_change_nothing_about_training():
    plain = from_arrays(ragged(), WORDS, test=(ragged(6, seed=1), WORDS[:6]))
    wild = [100 * one.repeat(4, 0) for one in ragged(6, seed=1)]
    other = from_arrays(ragged(), WORDS, test=(wild, WORDS[:6]))
    assert torch.equal(plain.train.inputs, other.train.inputs)
    assert plain.data.preparation == other.data.preparation


def test_padded_arrays_with_lengths_are_the_same_as_a_list():
    series = ragged()
    lengths = np.array([len(one) for one in series])
    padded = np.full((40, 14, 2), 99.0)
    for row, one in zip(padded, series, strict=True):
        row[: len(one)] = one
    one, other = from_arrays(series, WORDS), from_arrays(padded, WORDS, lengths=lengths)
    assert torch.equal(one.train.inputs, other.train.inputs)
    assert torch.equal(one.train.lengths, other.train.lengths)


def test_nothing_is_held_out_if_nothing_is_asked_for():
    task = from_arrays(ragged(), WORDS, validation=0, test_fraction=0)
    assert len(task.train) == len(task.validation) == len(task.test) == 40


def test_regression_targets_are_standardised_and_come_back():
    values = np.linspace(100, 300, 40)
    task = from_arrays(ragged(), values)
    assert (task.loss, task.metric, task.target) == ("mse", "mse", 0.0)
    assert float(task.train.targets.mean()) == pytest.approx(0, abs=1e-6)
    p = task.data.preparation
    back = task.test.targets.numpy() * np.array(p.target_deviation) + np.array(p.target_mean)
    assert set(np.round(back[:, 0], 3)) <= set(np.round(values, 3))


@pytest.mark.parametrize(
    ("targets", "kind", "classes"),
    [
        (WORDS, "classification", ("down", "up")),
        ([10, 9] * 20, "classification", ("9", "10")),
        ([True, False] * 20, "classification", ("0", "1")),
        ([0.5, 1.0] * 20, "regression", ()),
        (np.full((40, 2), 1.5), "regression", ()),
        (np.arange(80).reshape(40, 2), "regression", ()),
    ],
)
def test_kind_follows_the_targets(targets, kind, classes):
    p = from_arrays(ragged(), targets).data.preparation
    assert (p.kind, p.classes) == (kind, classes)


def test_true_among_other_words_is_found_in_a_file_without_these():
    p = from_arrays(ragged(), ["true", "maybe"] * 20).data.preparation
    only = recordings(ragged(2), ["true", "true"])
    assert p.positions(only.targets).tolist() == [p.classes.index("true")] * 2


def test_kind_can_be_said():
    assert from_arrays(ragged(), [1, 2] * 20, kind="regression").loss == "mse"
    assert from_arrays(ragged(), [0.5, 1.5] * 20, kind="classification").output_size == 2


def test_a_preparation_survives_json():
    p = from_arrays(ragged(), WORDS, subsample=2, missing="mean").data.preparation
    assert Preparation.from_dict(json.loads(json.dumps(p.to_dict()))) == p


# -- missing values -------------------------------------------------------------------------------


def with_gaps():
    series = ragged()
    series[7][3, 1] = NAN
    series[9][2] = NAN
    return series


def test_missing_values_are_refused_with_their_place():
    with pytest.raises(
        ValueError,
        match="3 values are missing in 2 of 40 series, the first in series 8, step 4, channel 2",
    ):
        from_arrays(with_gaps(), WORDS, seed=4)


@pytest.mark.parametrize("missing", ["zero", "mean", "interpolate"])
def test_filled_values_are_what_was_asked_for(missing):
    one = np.array([[NAN], [1.0], [NAN], [3.0], [NAN]])
    filled = fill_missing(one, missing, np.array([0.0 if missing == "zero" else 7.0]))
    expected = {"zero": [0, 1, 0, 3, 0], "mean": [7, 1, 7, 3, 7], "interpolate": [1, 1, 2, 3, 3]}
    assert filled[:, 0].tolist() == expected[missing]


def test_mean_is_of_the_observed_training_values():
    x = np.array([[1.0, NAN], [3.0, 2.0]] * 10)[..., None]
    task = from_arrays(x, [0, 1] * 10, missing="mean", test_fraction=0, validation=0)
    assert task.data.preparation.fill == (2.0,)


def test_padding_at_the_end_makes_series_shorter():
    x = np.array([[1.0, 2.0, NAN, NAN], [1.0, 2.0, 3.0, 4.0]] * 10)[..., None]
    task = from_arrays(x, [0, 1] * 10, padded=True)
    assert set(task.train.lengths.tolist()) == {2, 4}
    x[1, 1] = NAN  # inside: that is a gap
    with pytest.raises(ValueError, match="^1 value is missing in 1 of"):
        from_arrays(x, [0, 1] * 10, padded=True, validation=0, test_fraction=0)


# -- steps ----------------------------------------------------------------------------------------


def test_pooling_is_the_mean_of_true_steps():
    one = np.arange(5.0)[:, None]
    assert pool(one, 2)[:, 0].tolist() == [0.5, 2.5, 4.0]
    assert pool(one, 1) is one


def test_a_preparation_pads_new_series_and_gives_lengths_only_where_they_differ():
    p = from_arrays(ragged(), WORDS, normalize=False).data.preparation
    inputs, lengths = p.inputs(recordings([np.ones((2, 2)), np.full((3, 2), 2.0)]))
    assert inputs[..., 0].tolist() == [[1, 1, 0], [2, 2, 2]]
    assert lengths.tolist() == [2, 3]
    inputs, lengths = p.inputs(recordings([np.ones((2, 2))] * 2))
    assert inputs.shape == (2, 2, 2)
    assert lengths is None


# -- bad input ------------------------------------------------------------------------------------

BAD = {
    "one dimension": (dict(inputs=np.ones(40)), r"inputs must be \(count, time\)"),
    "words": (dict(inputs=[["a"]] * 40), "series 1 must be an array of numbers"),
    "channels": (dict(inputs=[np.ones((3, 1)), np.ones((3, 2))] * 20), r"same number.*\[1, 2\]"),
    "targets": (dict(targets=WORDS[:5]), r"targets must be 40, one per series, got shape \(5,\)"),
    "a missing target": (dict(targets=[NAN, 1.0] * 20), "targets must be finite"),
    "one class": (dict(targets=["a"] * 40), "two classes at least, got 'a' only"),
    "lengths": (dict(inputs=np.ones((40, 5)), lengths=[6] * 40), r"in 1 … 5 \(time\), series 1"),
    "no targets": (dict(targets=None), "needs targets"),
    "many whole numbers": (dict(targets=list(range(40))), "pass the kind"),
    "words as numbers": (dict(kind="regression"), "regression needs numbers as targets, got 'up'"),
    "another class": (dict(test=(ragged(2), ["up", "left"])), "the test data: class 'left'"),
    "test channels": (dict(test=(ragged(2, 3), WORDS[:2])), "the test data: series need 2"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_a_sentence(case):
    given, sentence = BAD[case]
    with pytest.raises(ValueError, match=sentence):
        from_arrays(**({"inputs": ragged(), "targets": WORDS} | given))


HOT = np.random.default_rng(2).integers(0, 2, (40, 4)).astype(float)
UNLIKELY = {
    "one-hot": (np.eye(2)[np.arange(40) % 2], r"rows of 0 and 1: .*argmax\(1\)"),
    "one-hot, a column a step": (np.eye(5)[np.arange(40) % 5], r"argmax\(1\)"),
    "multi-hot": (
        HOT,
        "several labels per series.*one classifier for each column.*kind regression",
    ),
    "multi-hot of truths": (HOT > 0, "several labels per series"),
    "multi-hot of whole numbers": (HOT.astype(int), "several labels per series"),
    "multi-hot of words": (HOT.astype(int).astype(str), "several labels per series"),
    "multi-hot of true and false": ((HOT > 0).astype(str), "several labels per series"),
    "multi-hot, none or all": (np.ones((40, 3)), "several labels per series"),
    "plus and minus one": (2 * HOT - 1, "several classes per series"),
    "a target a step": (np.random.default_rng(0).random((40, 5)), "each of the 5 steps"),
}


@pytest.mark.parametrize("case", UNLIKELY)
def test_targets_that_hardly_are_numbers_to_predict_need_their_kind(case):
    targets, sentence = UNLIKELY[case]
    inputs = np.random.default_rng(1).random((40, 5))
    with pytest.raises(ValueError, match=sentence):
        from_arrays(inputs, targets)
    assert from_arrays(inputs, targets, kind="regression").output_size == targets.shape[1]
    with pytest.raises(ValueError, match=r"argmax|one classifier for each column"):
        from_arrays(inputs, targets, kind="classification")


def test_rows_of_words_are_several_classes_and_never_numbers():
    for targets in ([["a", "b"]] * 40, [["a", "b"], ["a"]] * 20):
        with pytest.raises(ValueError, match="one classifier for each") as refused:
            from_arrays(ragged(), targets)
        assert "regression" not in str(refused.value)


def test_a_target_that_never_varies_is_told():
    task = from_arrays(ragged(), [1.5] * 40)
    assert "never varies: there is nothing to learn" in dict(task.data.understood)["targets"]


def test_values_too_large_for_the_network_are_refused():
    large = [1e60 * one for one in ragged()]
    with pytest.raises(ValueError, match="values must be within 3e38.*e.60"):
        from_arrays(large, WORDS, normalize=False)
    assert torch.isfinite(from_arrays(large, WORDS).train.inputs).all()
    with pytest.raises(ValueError, match="targets must be within 3e38"):
        from_arrays(ragged(), np.linspace(0.5, 1, 40) * 1e60, kind="regression", normalize=False)


def test_a_series_without_its_first_axis_is_refused():
    X = np.random.default_rng(0).random((40, 25, 3))
    p = from_arrays(X, WORDS).data.preparation
    with pytest.raises(ValueError, match=r"need 3 channels, as in training, got 1.*X\[None\]"):
        p.inputs(recordings(X[0]))
    p = from_arrays(X[:, :, :1], WORDS).data.preparation
    for series in (X[0, :, :1], list(X[0, :, :1])):
        with pytest.raises(ValueError, match=r"25 series of one step each, .*25 steps.*X\[None\]"):
            p.inputs(recordings(series))
    with pytest.raises(ValueError, match=r"got shape \(25,\): .*X\[None\]"):
        recordings(X[0, :, 0])
    with pytest.raises(ValueError, match=r"series 1 is \(\): a single series goes in a list"):
        recordings(list(X[0, :, 0]))
    for series in ([X[0, :, :1]], X[0, :, :1][None], X[0, :, 0][None], [[0.5]]):
        assert len(p.inputs(recordings(series))[0]) == 1
    assert len(from_arrays(X[:, :1, :1], WORDS).train) == 26


def test_recordings_select_keeps_everything_together():
    data = recordings(ragged(4), [0, 1, 2, 3], names=["a", "b", "c", "d"]).select([2, 0])
    assert data.targets.tolist() == [2, 0]
    assert data.names == ("c", "a")
