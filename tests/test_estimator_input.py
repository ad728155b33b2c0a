"""What the estimators read as sequences, and how clearly they refuse the rest."""

import re

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix
from sklearn.model_selection import cross_val_score
from sklearn.multioutput import MultiOutputClassifier
from stepping import apart

from rnnopt import RNNClassifier, RNNOptions, RNNRegressor
from rnnopt.tasks import from_arrays


def small(**options):
    return RNNClassifier(**apart(RNNOptions, dict(hidden=4, epochs=2, random_state=0) | options))


@pytest.fixture
def data():
    random = np.random.default_rng(0)
    return random.standard_normal((30, 6, 2)), random.integers(0, 2, 30)


def test_lists_lengths_and_whatever_padding_are_the_same_sequences(data):
    X, y = data
    lengths = np.arange(30) % 6 + 1
    padded = X.copy()
    padded[np.arange(6) >= lengths[:, None]] = np.nan  # behind the ends anything may stand
    sequences = [x[:length] for x, length in zip(X, lengths, strict=True)]
    by_list = small().fit(sequences, y)
    by_lengths = small().fit(padded, y, lengths=lengths)
    expected = by_list.predict_proba(sequences)
    assert np.array_equal(by_lengths.predict_proba(padded, lengths=lengths), expected)
    assert by_lengths.score(padded, y, lengths=lengths) == by_list.score(sequences, y)
    objects = np.empty(30, dtype=object)
    objects[:] = sequences
    assert np.array_equal(by_list.predict_proba(objects), expected)
    alone = np.concatenate([by_list.predict_proba([sequence]) for sequence in sequences])
    np.testing.assert_allclose(alone, expected, atol=1e-6)
    turned = [sequence.T for sequence in sequences]
    turned_classifier = small(layout="time-last").fit(turned, y)
    assert np.array_equal(turned_classifier.predict_proba(turned), expected)
    swapped = np.swapaxes(padded, 1, 2)
    again = small(layout="time-last").fit(swapped, y, lengths=lengths)
    assert np.array_equal(again.predict_proba(swapped, lengths=lengths), expected)
    assert np.isnan(padded).any()  # the caller's array is left as it was


def test_a_table_is_one_feature_a_step(data):
    X, y = data
    table, cube = X[:, :, 0], X[:, :, :1]
    by_table, by_cube = small().fit(table, y), small().fit(cube, y)
    assert np.array_equal(by_table.predict_proba(table), by_cube.predict_proba(cube))
    assert (by_table.n_features_in_, by_cube.n_features_in_) == (6, 1)
    # Who was fitted to a table may be asked for sequences of any length, and the other way round.
    expected = by_table.predict_proba(cube[:, :4])
    assert np.array_equal(by_table.predict_proba(list(cube[:, :4])), expected)
    assert np.array_equal(by_table.predict_proba(list(table[:, :4])), expected)
    with pytest.warns(UserWarning, match="30 of 30 series have 4 steps, and .* trained on 6: its"):
        assert np.array_equal(by_cube.predict_proba(table[:, :4]), expected)
    assert np.array_equal(by_cube.predict_proba(table), by_table.predict_proba(table))
    assert np.array_equal(
        by_table.predict_proba(torch.tensor(table)), by_table.predict_proba(table)
    )


def test_lists_of_numbers_may_differ_in_length():
    y = [0, 1, 0, 1]
    classifier = small().fit([[1.0, 2.0], [3.0], [1.0, 2.0, 3.0], [0.0]], y)
    assert classifier.n_features_in_ == 1
    assert classifier.predict([[1.0, 5.0]]).shape == (1,)


def test_standardising_looks_at_true_steps_and_their_weights(data):
    X, y = data
    lengths = np.arange(30) % 6 + 1
    weights = np.arange(30) % 3
    classifier = small().fit(X, y, sample_weight=weights, lengths=lengths)
    rows = np.concatenate(
        [np.repeat(x[:n], w, 0) for x, n, w in zip(X, lengths, weights, strict=True)]
    )
    np.testing.assert_allclose(classifier.mean_, rows.mean(0), atol=1e-6)
    np.testing.assert_allclose(classifier.scale_, rows.std(0), rtol=1e-6)
    plain = small(normalize=False).fit(X, y)
    assert (plain.mean_ == 0).all()
    assert (plain.scale_ == 1).all()


def test_validation_data_are_not_looked_at_for_standardising(data):
    X, y = data
    classifier = small(early_stopping=True, validation_fraction=0.5).fit(X, y)
    assert not np.allclose(classifier.mean_, X.mean((0, 1)))


def test_a_scaled_problem_is_the_same_problem(data):
    X, _ = data
    target = X.sum((1, 2))
    options = dict(hidden=4, epochs=5, random_state=0)
    plain = RNNRegressor(**options).fit(X, target).predict(X)
    scaled = RNNRegressor(**options).fit(1000 * X + 5, 10 * target - 3).predict(1000 * X + 5)
    np.testing.assert_allclose(scaled, 10 * plain - 3, rtol=1e-3, atol=1e-3)


def test_constant_features_and_targets_stay_finite(data):
    X, y = data
    X = np.concatenate([X, np.full((30, 6, 1), 0.1)], 2)
    assert small().fit(X, y).scale_[2] == 1
    regressor = RNNRegressor(hidden=4, epochs=2, random_state=0).fit(X, np.full(30, 7.0))
    np.testing.assert_allclose(regressor.predict(X), 7, atol=1)


BAD_OPTIONS = [
    (dict(model="rn"), "unknown model 'rn'"),
    (dict(optimizer="adan"), "unknown optimizer 'adan'"),
    (dict(optimizer="adam:betas2=1"), "unknown option of optimizer 'adam'"),
    (dict(optimizer="lbfgs", clip=1.0), "cannot go with clip"),
    (dict(batch_size=0), "batch_size must be at least 1, got 0"),
    (dict(hidden=0), "hidden must be at least 1, got 0"),
    (dict(hidden="8"), "hidden must be a whole number or null, got '8'"),
    (dict(epochs=0), "epochs must be a whole number of at least 1, got 0"),
    (dict(epochs=1.5), "epochs must be a whole number of at least 1, got 1.5"),
    (dict(lr=-1.0), "lr must be a positive number, got -1.0"),
    (dict(dropout=1.0), "dropout must be in [0, 1), got 1.0"),
    (dict(schedule="sometimes"), "got 'sometimes'"),
    (dict(layout="channels"), "layout must be one of time-first, time-last, got 'channels'"),
    (
        dict(device="toaster"),
        "device must be cpu, cuda, cuda:1, mps or another that torch knows, got 'to",
    ),
    (dict(early_stopping=True, patience=0), "patience must be a whole number of at least 1, got 0"),
    (
        dict(early_stopping=True, validation_fraction=1.0),
        "validation_fraction must be in (0, 1), got 1.0",
    ),
    (dict(class_weight={0: -1.0}), "must not be negative, nor zero for all sequences, got -1 … 1"),
    (dict(class_weight={0: 0, 1: 0}), "got 0 … 0"),
    (dict(lr=1e30, optimizer="sgd", model="indrnn"), "training diverged"),
    (dict(lr=0.1, optimizer="adam:lr=0.2"), "lr must be given once, got 0.1 and that of the"),
]


@pytest.mark.parametrize(("options", "message"), BAD_OPTIONS)
def test_impossible_settings_are_value_errors(data, options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        small(**options).fit(*data)


def with_nan(X):
    X = X.copy()
    X[3, 2, 1] = np.nan
    return X


BAD_INPUT = [
    (with_nan, {}, "Input X contains NaN"),
    (lambda X: list(with_nan(X)), {}, "Input X[3] contains NaN"),
    (lambda X: np.abs(X) / 0.0, {}, "Input X contains infinity"),
    (lambda X: X[:, :, :, None], {}, "X must be (count, time, features), got the shape"),
    (lambda X: X[:, :0], {}, "X must have steps and features, got the shape (30, 0, 2)"),
    (lambda X: [*X[:29], X[29, :, :1]], {}, "X[0] has 2, X[29] has 1"),
    (lambda X: [*X[:29], X[29, :0]], {}, "X[29] must be (time, features) or (time,)"),
    (lambda X: X[:20], {}, "inconsistent numbers of samples: [20, 30]"),
    (lambda X: X, dict(lengths=np.full(30, 7)), "lengths must be in 1 … 6, the steps of X, got 7"),
    (lambda X: X, dict(lengths=np.full(30, 0)), "got 0 … 0"),
    (
        lambda X: X,
        dict(lengths=np.full(30, 1.5)),
        "lengths must be 30 whole numbers, one a sequence, got 1.5 for X[0].",
    ),
    (lambda X: X, dict(lengths=[3]), "one a sequence, got the shape (1,)."),
    (lambda X: X, dict(lengths=3), "one a sequence, got the shape ()."),
    (lambda X: X, dict(lengths=np.full((30, 1), 3)), "got the shape (30, 1)."),
    (lambda X: X, dict(lengths=[[1], [1, 2]] * 15), "got rows of different lengths."),
    (lambda X: X, dict(lengths=["a"] * 30), "got 'a' first, of type <U1."),
    (lambda X: X, dict(lengths=[None] * 30), "got nan for X[0]."),
    (lambda X: X, dict(lengths=[True] * 30), "got True first, of type bool."),
    (lambda X: X, dict(lengths=[6, np.nan] * 15), "got nan for X[1]."),
    (lambda X: X, dict(lengths=[np.inf] * 30), "got inf for X[0]."),
    (list, dict(lengths=np.full(30, 6)), "a list of arrays has its own"),
    (lambda X: X[0, 0], dict(lengths=[1, 1]), "lengths go with X of"),
    (lambda X: X, dict(sample_weight=-np.ones(30)), "must not be negative"),
    (lambda X: X, dict(sample_weight=np.ones((30, 1))), "one number a sequence"),
    (lambda X: X, dict(sample_weight=2.0), "one number a sequence, got the shape ()"),
]


@pytest.mark.parametrize(("change", "more", "message"), BAD_INPUT)
@pytest.mark.filterwarnings("ignore:divide by zero")
def test_bad_sequences_are_value_errors(data, change, more, message):
    X, y = data
    with pytest.raises(ValueError, match=re.escape(message)):
        small().fit(change(X), y, **more)


def test_later_sequences_must_have_the_features_of_the_first(data):
    X, y = data
    with pytest.raises(ValueError, match="X has 1 features, but RNNClassifier is expecting 2"):
        small().fit(X, y).predict(X[:, :, :1])
    with pytest.raises(ValueError, match="X has 2 features, but RNNClassifier is expecting 1"):
        small().fit(X[:, :, 0], y).predict(X)
    with pytest.raises(ValueError, match="X has 4 features, but RNNClassifier is expecting 6"):
        small().fit(X[:, :, 0], y).predict(X[:, :4, 0])
    regressor = RNNRegressor(hidden=4, epochs=1, warm_start=True).fit(X, y)
    with pytest.raises(ValueError, match="y must have 1 outputs as before, got 2"):
        regressor.fit(X, np.stack([y, y], 1))
    with pytest.raises(ValueError, match=r"y must be \(count,\) or"):
        regressor.fit(X, np.zeros((30, 1, 1)))


HOT = np.random.default_rng(2).integers(0, 2, (30, 4))
SEVERAL = {
    "words": (HOT.astype(str), "several classes per series.*MultiOutputClassifier"),
    "classes": (HOT + 1, "several classes per series.*MultiOutputClassifier"),
    "shares": (HOT / 2, "RNNRegressor takes rows of numbers"),
    "lists of labels": ([["a"], ["a", "b"]] * 15, "MultiLabelBinarizer"),
}


@pytest.mark.parametrize("case", SEVERAL)
def test_several_classes_a_sequence_are_refused_with_what_to_do(data, case):
    y, message = SEVERAL[case]
    with pytest.raises(ValueError, match=message):
        small().fit(data[0], y)
    with pytest.raises(ValueError, match=message):
        small().partial_fit(data[0], y, classes=[0, 1])


def test_what_is_said_of_several_labels_works(data):
    X, _ = data
    several = MultiOutputClassifier(small()).fit(X, HOT)
    assert several.predict(X).shape == HOT.shape
    assert RNNRegressor(hidden=4, epochs=1).fit(X, HOT).predict(X).shape == HOT.shape


# -- several labels a sequence --------------------------------------------------------------------


@pytest.mark.parametrize("form", [np.asarray, csr_matrix, np.ndarray.tolist])
def test_an_indicator_matrix_is_several_labels(data, form):
    X, _ = data
    classifier = small().fit(X, form(HOT))
    likely = classifier.predict_proba(X)
    with torch.no_grad():
        scaled = torch.tensor((X - classifier.mean_) / classifier.scale_).float()
        outputs = classifier.model_(scaled.transpose(0, 1))
    np.testing.assert_allclose(likely, torch.sigmoid(outputs).numpy(), atol=1e-6)
    found = classifier.predict(X)
    assert found.shape == likely.shape == HOT.shape
    assert np.array_equal(found, (likely > 0.5).astype(int))
    assert classifier.classes_.tolist() == [0, 1, 2, 3]
    right = (found == HOT).all(1)
    assert classifier.score(X, form(HOT)) == pytest.approx(right.mean())
    weights = np.arange(30.0)
    assert classifier.score(X, HOT, weights) == pytest.approx(np.average(right, weights=weights))


def test_several_labels_of_ragged_sequences_are_learnt():
    """Each label says whether a channel's mean is above 0, whatever the others do."""
    rng = np.random.default_rng(0)
    Y = rng.integers(0, 2, (120, 3))
    X = [
        rng.normal(size=(n, 3)) + 2 * y - 1 for n, y in zip(rng.integers(3, 9, 120), Y, strict=True)
    ]
    classifier = RNNClassifier(model="gru", hidden=12, epochs=40, random_state=0)
    classifier.fit(X[:90], Y[:90])
    assert classifier.score(X[90:], Y[90:]) > 0.8
    stopped = RNNClassifier(
        hidden=4,
        epochs=3,
        early_stopping=True,
        options=RNNOptions(metric="f1_macro"),
        random_state=0,
    )
    assert len(stopped.fit(X, Y).validation_curve_) == 3
    assert cross_val_score(stopped, X, Y, cv=2, scoring="f1_macro").shape == (2,)


def test_a_weight_of_zero_leaves_a_sequence_out_of_several_labels(data):
    X, _ = data
    weights = (np.arange(30) < 20).astype(float)
    one = small().fit(X, HOT, sample_weight=weights).predict_proba(X)
    np.testing.assert_allclose(one, small().fit(X[:20], HOT[:20]).predict_proba(X), atol=1e-3)


def test_rows_with_a_single_one_are_labels_with_a_warning(data):
    with pytest.warns(UserWarning, match=r"y\.argmax\(1\)") as seen:
        classifier = small().fit(data[0], np.eye(3, dtype=int)[np.arange(30) % 3])
    assert seen[0].filename == __file__
    assert classifier.multilabel_


def test_what_does_not_go_with_several_labels_is_refused(data):
    X, y = data
    with pytest.raises(ValueError, match="class_weight is for one class"):
        small(class_weight="balanced").fit(X, HOT)
    going_on = small(warm_start=True).fit(X, HOT)
    with pytest.raises(ValueError, match="several labels a sequence, as before"):
        going_on.fit(X, y)
    with pytest.raises(ValueError, match="y must have 4 labels, got 3"):
        going_on.fit(X, HOT[:, :3])
    with pytest.raises(ValueError, match="one class a sequence, as before"):
        small(warm_start=True).fit(X, y).fit(X, HOT)
    partial = small().partial_fit(X, HOT, classes=range(4))
    assert partial.partial_fit(X, HOT).predict(X).shape == HOT.shape


# -- a sequence without its first axis ------------------------------------------------------------


def one_feature(X):
    return X[:, :, :1]


ALONE = {
    "features": (lambda X: X, lambda X: X[0], r"X has 1 features.* is expecting 2.*X\[None\]"),
    "a list of rows": (lambda X: X, lambda X: list(X[0]), r"is expecting 2.*X\[None\]"),
    "of a list": (list, lambda X: X[0], r"is expecting 2.*X\[None\]"),
    "one feature": (
        one_feature,
        lambda X: X[0, :, :1],
        r"6 series of one step each, and the network was trained on 6 steps.*X\[None\]",
    ),
    "one feature, a list of rows": (
        lambda X: list(one_feature(X)),
        lambda X: list(X[0, :, :1]),
        "6 series of one step each",
    ),
    "one axis": (one_feature, lambda X: X[0, :, 0], r"got the shape \(6,\).*X\[None\]"),
    "one axis of a table": (lambda X: X[:, :, 0], lambda X: X[0, :, 0], r"X\[None\]"),
    "numbers in a list": (lambda X: X[:, :, 0], lambda X: list(X[0, :, 0]), r"X\[None\]"),
    "a number": (lambda X: X, lambda X: X[0, 0, 0], r"X\[None\]"),
}


@pytest.mark.parametrize("case", ALONE)
def test_a_sequence_without_its_first_axis_is_refused_with_what_to_write(data, case):
    fitted, asked, message = ALONE[case]
    X, y = data
    classifier = small().fit(fitted(X), y)
    for ask in (classifier.predict, classifier.predict_proba):
        with pytest.raises(ValueError, match=message):
            ask(asked(X))
    whole = fitted(X)
    assert classifier.predict([whole[0]]).shape == (1,)  # as the sentence says
    if isinstance(whole, np.ndarray):
        assert classifier.predict(whole[0][None]).shape == (1,)


def test_time_last_is_refused_alike(data):
    X, y = data
    classifier = small(layout="time-last").fit(X.transpose(0, 2, 1), y)
    with pytest.raises(ValueError, match=r"is expecting 2.*X\[None\]"):
        classifier.predict(X[0].T)


def test_sequences_of_one_step_are_asked_for_where_they_were_learnt(data):
    X, y = data
    assert small().fit(X[:, :1, :1], y).predict(X[:, 0, :1]).shape == (30,)
    many = small().fit(X[:, :, :1], y)
    assert many.predict(X[:, :1, :1]).shape == (30,)  # three axes say what they are
    del many._seen  # of an estimator that was saved before that was kept
    assert many.predict(X[:, 0, :1]).shape == (30,)


# -- lengths at one time and not at the other -----------------------------------------------------


def test_lengths_that_fit_had_are_missed_later(data):
    X, y = data
    lengths = np.arange(30) % 6 + 1
    classifier = small().fit(X, y, lengths=lengths)
    for ask in (lambda: classifier.predict(X), lambda: classifier.score(X, y)):
        with pytest.warns(UserWarning, match="fit had lengths, and here are none: all 6") as told:
            ask()
        assert len(told) == 1
    regressor = RNNRegressor(hidden=4, epochs=1, warm_start=True).fit(X, y, lengths=lengths)
    with pytest.warns(UserWarning, match="fit had lengths"):
        regressor.fit(X, y)
    with pytest.warns(UserWarning, match="fit had lengths"):
        regressor.predict(X)
    # Nothing to say: a list has its own, and without padding lengths are the array's.
    classifier.predict(list(X))
    classifier.predict(X, lengths=lengths)
    small().fit(X, y, lengths=np.full(30, 6)).predict(X)


def test_lengths_that_fit_had_not_are_noticed_later(data):
    X, y = data
    classifier = small().fit(X, y)
    with pytest.warns(UserWarning, match="fit had no lengths: .* from 6 steps.* asked for 1 here"):
        classifier.predict(X, lengths=np.arange(30) % 6 + 1)
    classifier.predict(X, lengths=np.full(30, 6))
    small().fit(list(X), y).predict(X, lengths=np.arange(30) % 6 + 1)


def test_lengths_may_be_objects_and_sequences_a_tensor(data):
    X, y = data
    lengths = np.arange(30) % 6 + 1
    plain = small().fit(X, y, lengths=lengths).predict_proba(X, lengths=lengths)
    objects, tensor = lengths.astype(object), torch.tensor(X)
    other = small().fit(tensor, y, lengths=objects).predict_proba(tensor, lengths=objects)
    assert np.array_equal(plain, other)


def test_what_early_stopping_cannot_hold_out_is_said_in_its_own_words(data):
    X, _ = data
    stopping = small(early_stopping=True)
    with pytest.raises(ValueError, match=r"0\.1 of 30 sequences aside, .* rarest class has 1\)"):
        stopping.fit(X, [1] + [0] * 29)
    with pytest.raises(ValueError, match="as many as there are classes in both parts"):
        stopping.fit(X, np.arange(30) % 5)
    with pytest.raises(ValueError, match="of 1 sequences aside, it needs two at least"):
        RNNRegressor(early_stopping=True).fit(X[:1], [0.5])


def test_rows_of_lengths_are_refused_by_from_arrays_too(data):
    with pytest.raises(ValueError, match="one per series, got rows of different lengths"):
        from_arrays(*data, lengths=[[1], [1, 2]] * 15)
