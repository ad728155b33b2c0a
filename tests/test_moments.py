"""Offsets and units of the data do not matter: statistics in float64, float32 only afterwards.

In `rnnopt.tasks.moments`, and at every door that leads there: estimators and `from_arrays`.
"""

import tracemalloc
from fractions import Fraction

import numpy as np
import pytest
import torch
from cases import partly

from rnnopt import RNNClassifier, RNNOptions, RNNRegressor
from rnnopt.tasks import from_arrays, moments
from rnnopt.tasks.moments import check_plain, standardized

# Offset and unit of an energy meter, of metres to the north, of seconds since 1970, of …
SCALES = {
    "energy_meter": (5e7, 1.0),
    "northing": (5.3e6, 0.1),
    "unix_time": (1.7e9, 1.0),
    "nanoseconds": (1.7e18, 1e6),
    "large": (0.0, 1e20),
    "tiny": (0.0, 1e-25),
    "very_large": (0.0, 1e98),
    "very_tiny": (0.0, 1e-200),
}


@pytest.fixture(scope="module")
def data():
    """60 series (time 6, 2 features) on a grid of 1/64, and classes that they tell."""
    X = np.round(64 * np.random.default_rng(0).standard_normal((60, 6, 2))) / 64
    return X, (X[:, :, 0].sum(1) > 0).astype(int)


def exact_moments(column):
    """Mean and deviation without any rounding before the last."""
    values = [Fraction(float(v)) for v in column]
    mean = sum(values) / len(values)
    variance = sum((v - mean) ** 2 for v in values) / len(values)
    unit = max(map(abs, values)) or 1
    return float(mean), float(unit) * float(variance / unit**2) ** 0.5


@pytest.mark.parametrize("block", [1, 7, 1 << 16])
@pytest.mark.parametrize("name", SCALES)
def test_moments_are_exact_whatever_offset_and_unit(data, name, block, monkeypatch):
    monkeypatch.setattr(moments, "BLOCK", block)
    offset, unit = SCALES[name]
    series = list(offset + unit * data[0][:20])
    mean, deviation = moments.moments(series)
    for channel in range(2):
        expected = exact_moments(np.concatenate(series)[:, channel])
        assert mean[channel] == pytest.approx(expected[0], rel=1e-15, abs=1e-15 * unit)
        assert deviation[channel] == pytest.approx(expected[1], rel=1e-9)
    inputs, lengths = standardized(series, mean, deviation)
    assert (inputs.dtype, inputs.shape, lengths) == (torch.float32, (20, 6, 2), None)
    flat, given = inputs.double().view(-1, 2), np.finfo(float).eps * offset / unit
    zeros, ones = torch.zeros(2).double(), torch.ones(2).double()
    torch.testing.assert_close(flat.mean(0), zeros, rtol=0, atol=1e-6 + given)
    torch.testing.assert_close(flat.std(0, correction=0), ones, rtol=0, atol=1e-6)


def test_a_series_counts_as_often_as_its_weight_says(data):
    series = [one[: 1 + i % 6] for i, one in enumerate(1e8 + data[0])]
    weights = np.arange(60) % 4
    found = moments.moments(series, weights)
    repeated = [one for one, n in zip(series, weights, strict=True) for _ in range(n)]
    np.testing.assert_allclose(found, moments.moments(repeated), rtol=1e-14)


@pytest.mark.parametrize("value", [0.0, 0.1, 1.7e9 + 0.1, 1e99, 1e-300])
def test_a_constant_has_deviation_1(value):
    mean, deviation = moments.moments([np.full((n, 1), value) for n in (3, 1000, 7)])
    assert deviation == 1
    assert mean == pytest.approx(value, rel=1e-15)
    # What rounding alone makes vary is constant, too.
    varied = np.array([value, np.nextafter(value, np.inf)])[:, None]
    if value > 1e-200:
        assert moments.moments([varied])[1] == 1


def test_values_beyond_reach_are_refused():
    with pytest.raises(ValueError, match=r"values must be within 1e\+100, the largest is 2e\+100"):
        moments.moments([np.array([[1.0], [-2e100]])])


def test_little_more_memory_is_taken_than_a_block():
    series = list(np.random.default_rng(0).standard_normal((20, 50_000, 4)))  # 32 MB
    tracemalloc.start()
    try:
        standardized(series, *moments.moments(series))
        _, peak = tracemalloc.get_traced_memory()  # numpy's; the result is torch's
    finally:
        tracemalloc.stop()
    assert peak < 8 * 8 * moments.BLOCK  # a few blocks, an eighth of the data


# -- estimators ------------------------------------------------------------------------------------


def fitted(X, y, **options):
    return RNNClassifier(hidden=4, epochs=3, random_state=0, options=RNNOptions(**options)).fit(
        X, y
    )


def entries(X):
    """The same series in each form that estimators take, of one feature where a table needs it."""
    table = X[:, :, 0]
    return {
        "array": X,
        "list": list(X),
        "lists": [one.tolist() for one in X],
        "table": table,
        "tensor": torch.tensor(X),
        "fortran": np.asfortranarray(X),
    }


@pytest.mark.parametrize(
    "entry", partly(["array", "list", "lists", "table", "tensor", "fortran"], ["array", "list"])
)
@pytest.mark.parametrize("name", SCALES)
def test_offset_and_unit_change_nothing_for_the_classifier(data, name, entry):
    X, y = data
    offset, unit = SCALES[name]
    plain, other = entries(X)[entry], entries(offset + unit * X)[entry]
    expected = fitted(plain, y).predict_proba(plain)
    classifier = fitted(other, y)
    np.testing.assert_allclose(classifier.predict_proba(other), expected, atol=1e-3)
    assert classifier.scale_[0] == pytest.approx(unit * X[:, :, 0].std(), rel=1e-3)
    assert classifier.score(other, y) == fitted(plain, y).score(plain, y)


def test_offset_and_unit_change_nothing_for_series_of_different_lengths(data):
    X, y = data
    lengths = np.arange(60) % 6 + 1
    # At a low rate: training multiplies the rounding of the inputs.
    options = dict(
        hidden=4, epochs=3, random_state=0, optimizer="frank-wolfe:norm=spectral", lr=1e-3
    )
    plain = RNNClassifier(**options).fit(X, y, lengths=lengths)
    expected = plain.predict_proba(X, lengths)
    other = RNNClassifier(**options)
    shifted = 1.7e9 + X
    other.fit(shifted, y, lengths=lengths)
    np.testing.assert_allclose(other.predict_proba(shifted, lengths), expected, atol=1e-4)


def test_offset_and_unit_change_nothing_pass_by_pass(data):
    X, y = data
    results = []
    for Z in (X, 1.7e9 + X):
        classifier = RNNClassifier(hidden=4, random_state=0)
        for part in (slice(0, 30), slice(30, 60)):
            classifier.partial_fit(Z[part], y[part], classes=[0, 1])
        results.append(classifier.predict_proba(Z))
    np.testing.assert_allclose(*results, atol=1e-4)


@pytest.mark.parametrize("kind", ["int64", "float32", "int32"])
def test_a_narrow_array_is_widened_before_its_mean_is_taken_off(data, kind):
    X, y = data
    narrow = (2**26 + 512 * X).astype(kind)  # multiples of 8, which float32 has exactly there
    assert (narrow.astype(float) == 2**26 + 512 * X).all()
    expected = fitted(X, y).predict_proba(X)
    np.testing.assert_allclose(fitted(narrow, y).predict_proba(narrow), expected, atol=1e-4)
    numbers = RNNClassifier(hidden=4, epochs=3, random_state=0).fit(list(narrow), y)
    np.testing.assert_allclose(numbers.predict_proba(list(narrow)), expected, atol=1e-4)


@pytest.mark.parametrize("name", ["unix_time", "energy_meter", "large", "tiny"])
def test_a_regressors_answers_come_back_in_float64(data, name):
    X, _ = data
    target, (offset, unit) = X[:, :, 0].sum(1), SCALES[name]
    options = dict(
        hidden=4, epochs=3, random_state=0, optimizer="frank-wolfe:norm=spectral", lr=1e-3
    )
    expected = RNNRegressor(**options).fit(X, target).predict(X)
    regressor = RNNRegressor(**options).fit(offset + unit * X, offset + unit * target)
    answers = regressor.predict(offset + unit * X)
    assert answers.dtype == np.float64
    np.testing.assert_allclose((answers - offset) / unit, expected, atol=1e-3)
    assert regressor.score(offset + unit * X, offset + unit * target) == pytest.approx(
        RNNRegressor(**options).fit(X, target).score(X, target), abs=1e-3
    )


def test_tiny_and_huge_weights_are_weights(data):
    X, y = data
    weights = 1.0 + np.arange(60) % 3
    options = dict(hidden=4, epochs=3, random_state=0)
    expected = RNNClassifier(**options).fit(X, y, weights).predict_proba(X)
    for unit in (1e-60, 1e60):
        found = RNNClassifier(**options).fit(X, y, unit * weights).predict_proba(X)
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_what_float32_cannot_hold_after_standardising_is_refused(data):
    X, y = data
    classifier = fitted(X, y)
    with pytest.raises(ValueError, match=r"values must be within 3e38 .* largest is .*e\+60"):
        classifier.predict(1e60 * X)
    with pytest.raises(ValueError, match=r"values must be within 3e38"):
        classifier.partial_fit(1e60 * X, y)
    regressor = RNNRegressor(hidden=4, random_state=0).partial_fit(X, X[:, 0, 0])
    with pytest.raises(ValueError, match=r"y must be within 3e38"):
        regressor.partial_fit(X, 1e60 * X[:, 0, 0])
    with pytest.raises(ValueError, match=r"values must be within 1e\+100"):
        fitted(1e120 * X, y)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("energy_meter", r"channel 1 is lost there: it varies by .* around 49999999.9"),
        ("northing", "channel 1 is lost"),
        ("unix_time", "channel 1 is lost"),
        ("tiny", None),
        ("very_tiny", "channel 1 is lost"),
        ("very_large", "within 3e38"),
        ("large", None),
    ],
)
def test_without_standardising_what_float32_loses_is_refused(data, name, sentence):
    X, y = data
    offset, unit = SCALES[name]
    Z = offset + unit * X
    if sentence is None:
        fitted(Z, y, normalize=False)
        from_arrays(Z, y, normalize=False)
        return
    with pytest.raises(ValueError, match=sentence):
        fitted(Z, y, normalize=False)
    with pytest.raises(ValueError, match=sentence):
        from_arrays(Z, y, normalize=False)
    target = Z[:, :, 0].sum(1)
    what = "within" if name == "very_large" else "y would go unchanged .* output 1 is lost"
    with pytest.raises(ValueError, match=what):
        RNNRegressor(hidden=4, epochs=1, options=RNNOptions(normalize=False)).fit(X, target)
    with pytest.raises(
        ValueError, match="targets .* output 1 is lost" if what != "within" else "targets"
    ):
        from_arrays(X, target, kind="regression", normalize=False)


def test_what_does_not_vary_is_not_lost():
    constant = np.full((5, 1), 1.7e9)
    check_plain([np.hstack([constant, np.arange(5.0)[:, None]])])


# -- own data --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SCALES)
def test_estimators_and_from_arrays_hand_a_network_the_same(data, name, monkeypatch):
    X, y = data
    offset, unit = SCALES[name]
    handed = []
    build = RNNClassifier._standardized
    monkeypatch.setattr(
        RNNClassifier, "_standardized", lambda *a: handed.append(build(*a)) or handed[-1]
    )
    Z = offset + unit * X
    fitted(Z, y)
    task = from_arrays(Z, y, validation=0, test_fraction=0)
    assert torch.equal(handed[0].inputs, task.train.inputs)
