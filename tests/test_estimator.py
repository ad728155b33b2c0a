"""What RNNClassifier and RNNRegressor promise: scikit-learn's contract, sequences of every form,
and no loop of their own. How input is read and refused is in test_estimator_input.py.
"""

import contextlib
import pickle
import subprocess
import sys

import numpy as np
import pytest
import sklearn
import torch
from messages import naming
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import estimator_checks_generator, parametrize_with_checks
from stepping import apart

import rnnopt
from rnnopt import RNNClassifier, RNNRegressor
from rnnopt.estimator.checks import EXPECTED_FAILED_CHECKS
from rnnopt.estimator.options import RNNOptions

SMALL = dict(hidden=8, epochs=10, lr=0.03)


def expected(estimator):
    return EXPECTED_FAILED_CHECKS


@parametrize_with_checks([RNNClassifier(**SMALL)], expected_failed_checks=expected)
@pytest.mark.filterwarnings("default")
def test_scikit_learn_finds_what_it_expects(estimator, check):
    check(estimator)


@parametrize_with_checks([RNNRegressor(**SMALL)], expected_failed_checks=expected)
@pytest.mark.filterwarnings("default")
@pytest.mark.full
def test_scikit_learn_finds_what_it_expects_of_a_regressor(estimator, check):
    check(estimator)


# Those that compare numbers, which longer training might part.
COMPARE = {
    "check_fit_idempotent",
    "check_methods_sample_order_invariance",
    *EXPECTED_FAILED_CHECKS,
}


@pytest.mark.parametrize("kind", [RNNClassifier, RNNRegressor])
@pytest.mark.filterwarnings("default")
@pytest.mark.full
def test_at_defaults_no_check_fails_but_those_that_the_pages_list(kind):
    tried = set()
    for estimator, check in estimator_checks_generator(kind()):
        name = check.func.__name__
        if name in COMPARE:
            tried.add(name)
            expected = name in EXPECTED_FAILED_CHECKS
            with contextlib.suppress(AssertionError) if expected else contextlib.nullcontext():
                check(estimator)
    assert tried == COMPARE


@pytest.mark.parametrize("model", ["rnn", "gru", "lstm", "indrnn"])
def test_answers_to_few_sequences_are_those_to_many_up_to_a_rounding(bumps, model):
    # What check_methods_subset_invariance, which the pages list, asks to more digits.
    X, _ = bumps
    regressor = RNNRegressor(**SMALL, model=model).fit(X, X[:, :, 1].argmax(1))
    whole = regressor.predict(X)
    for size in (1, 2, 3, 5, 64):
        parts = [regressor.predict(X[i : i + size]) for i in range(0, len(X), size)]
        spread = np.abs(np.concatenate(parts) - whole) / regressor.target_scale_
        assert spread.max() < 16 * np.finfo(np.float32).eps


@pytest.fixture(scope="module")
def bumps():
    """120 noisy series (time 12, 2 features); class "late" has its bump in the second half."""
    random = np.random.default_rng(0)
    late = random.integers(0, 2, 120)
    places = random.integers(0, 4, 120) + 7 * late
    X = 0.1 * random.standard_normal((120, 12, 2))
    X[np.arange(120), places, 1] += 3
    return X, np.where(late, "late", "early")


def small(**options):
    return RNNClassifier(**apart(RNNOptions, SMALL | dict(random_state=0) | options))


def ragged(X, lengths):
    return [x[:length] for x, length in zip(X, lengths, strict=True)]


# -- learning --------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["rnn", "gru", "lstm", "indrnn"])
def test_every_cell_learns_where_the_bump_is(bumps, model):
    X, y = bumps
    classifier = small(model=model, epochs=30).fit(X[:90], y[:90])
    assert classifier.score(X[90:], y[90:]) > 0.9
    assert classifier.n_features_in_ == 2
    assert list(classifier.classes_) == ["early", "late"]
    assert len(classifier.loss_curve_) == classifier.n_iter_ == 30
    assert classifier.loss_curve_[-1] < classifier.loss_curve_[0]


@pytest.mark.parametrize("model", ["rnn", "gru"])
def test_the_regressor_tells_the_place_in_its_own_unit(bumps, model):
    X, _ = bumps
    place = 1000 + 50.0 * X[:, :, 1].argmax(1)
    regressor = RNNRegressor(model=model, hidden=16, epochs=60, lr=1e-2, random_state=0)
    assert regressor.fit(X[:90], place[:90]).score(X[90:], place[90:]) > 0.9
    both = np.stack([place, -place], 1)
    assert regressor.set_params(epochs=2).fit(X, both).predict(X).shape == (120, 2)


# aSNAQ takes two gradients a minibatch, L-BFGS a line search on all data, ADMM no gradient.
@pytest.mark.parametrize(
    "optimizer", ["frank-wolfe:inner_steps=3", "asnaq", "lbfgs", "admm", "adam:tbptt=6", "muon"]
)
def test_every_kind_of_optimizer_fits(bumps, optimizer):
    X, y = bumps
    classifier = RNNClassifier(hidden=8, epochs=20, optimizer=optimizer, random_state=0)
    curve = classifier.fit(X, y).loss_curve_
    assert curve[-1] < 0.97 * curve[0]
    assert classifier.n_iter_ >= 20
    if optimizer != "lbfgs":  # which looks after each search
        assert len(classifier.loss_curve_) == 20


def test_the_same_seed_gives_the_same_bits_and_leaves_torchs_generator_alone(bumps):
    before = torch.get_rng_state()
    first, second, other = (
        small(random_state=seed, dropout=0.2).fit(*bumps).predict_proba(bumps[0])
        for seed in (1, 1, 2)
    )
    assert np.array_equal(first, second)
    assert not np.array_equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)


def test_predictions_use_the_committed_weights(bumps):
    # 4 minibatches an epoch: after 3 epochs the 12 inner steps stand in mid-cycle of K = 5.
    classifier = small(optimizer="frank-wolfe:inner_steps=5", epochs=3).fit(*bumps)
    assert classifier._ended["optimizer"]["param_groups"][0]["inner_step"] == 12 % 5
    probe = classifier._ended["model"]["output.weight"]
    assert not torch.equal(classifier.model_.output.weight, probe)


# -- stopping and going on -------------------------------------------------------------------------


def test_early_stopping_keeps_the_best_weights(bumps):
    X, y = bumps
    classifier = small(epochs=200, early_stopping=True, validation_fraction=0.25, patience=3)
    classifier.fit(X, y)
    curve = classifier.validation_curve_
    assert classifier.n_iter_ == len(curve) == len(classifier.loss_curve_) < 200
    # The accuracy was at its best when its loss last fell.
    assert curve[-4] == max(curve)
    assert classifier.n_iter_ > int(np.argmax(curve)) + 1 + 3
    assert classifier.score(X, y) > 0.9


def rare(random):
    """Tables of 20 steps; one in twenty is of class 1, a third of a deviation above the others."""
    y = (random.random(600) < 0.05).astype(int)
    return random.normal(size=(600, 20)) + 0.35 * y[:, None], y


def test_where_the_accuracy_is_level_early_stopping_goes_by_the_loss():
    random = np.random.default_rng(0)
    (X, y), (X_new, y_new) = rare(random), rare(random)
    options = dict(early_stopping=True, epochs=60, random_state=0)
    stopped = RNNClassifier(options=RNNOptions(patience=5), **options).fit(X, y)
    assert len(set(stopped.validation_curve_)) == 1
    assert stopped.n_iter_ > 6
    # The weights after the first epoch come to 0.62.
    assert roc_auc_score(y_new, stopped.predict_proba(X_new)[:, 1]) > 0.75
    # Those kept have the least loss, five epochs before the end.
    shorter = RNNClassifier(options=RNNOptions(patience=4), **options).fit(X, y)
    assert shorter.n_iter_ == stopped.n_iter_ - 1
    assert np.array_equal(shorter.predict_proba(X_new), stopped.predict_proba(X_new))


def test_warm_start_goes_on_with_network_and_optimizer(bumps):
    X, y = bumps
    classifier = small(warm_start=True, schedule="constant", epochs=4).fit(X, y)
    before = classifier.model_.output.weight.clone()
    commits = classifier._ended["optimizer"]["param_groups"][0]["commits"]
    classifier.fit(X, y)
    assert not torch.equal(classifier.model_.output.weight, before)
    assert classifier._ended["optimizer"]["param_groups"][0]["commits"] == 2 * commits
    assert classifier.n_iter_ == len(classifier.loss_curve_) == 8
    with pytest.raises(ValueError, match="those of the fit before"):
        classifier.set_params(hidden=9).fit(X, y)


def test_partial_fit_learns_pass_by_pass(bumps):
    X, y = bumps
    classifier = small()
    for _ in range(20):
        classifier.partial_fit(X[:60], y[:60], classes=["early", "late"])
        classifier.partial_fit(X[60:], y[60:])
    assert classifier.score(X, y) > 0.9
    assert classifier.n_iter_ == 40
    regressor = RNNRegressor(**SMALL).partial_fit(X, X[:, 0, 0]).partial_fit(X, X[:, 0, 0])
    assert regressor.n_iter_ == 2


def test_partial_fit_says_what_it_needs(bumps):
    X, y = bumps
    with pytest.raises(ValueError, match=naming("partial_fit", "classes")):
        small().partial_fit(X, y)
    with pytest.raises(ValueError, match="got 'balanced'"):
        small(class_weight="balanced").partial_fit(X, y, classes=["early", "late"])
    with pytest.raises(ValueError, match="early_stopping=False"):
        small(early_stopping=True).partial_fit(X, y, classes=["early", "late"])
    classifier = small().partial_fit(X, y, classes=["early", "late"])
    with pytest.raises(ValueError, match="those of the first call"):
        classifier.partial_fit(X, y, classes=["early", "later"])
    with pytest.raises(ValueError, match=naming("'early'", "'late'", "'never'")):
        classifier.partial_fit(X, np.where(y == "late", "never", y))


def test_indrnns_bound_stays_that_of_the_first_sequences(bumps):
    X, y = bumps
    classifier = small(model="indrnn").partial_fit(X, y, classes=["early", "late"])
    bound = classifier.model_.recurrent[0].recurrent_bound
    classifier.partial_fit(X[:, :6], y)
    assert classifier.model_.recurrent[0].recurrent_bound == bound


# -- weights ---------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:batch_size 1000 is more than")
def test_a_weight_is_a_repetition_and_zero_is_absence(bumps):
    # One batch of everything a step, so that the order does not matter.
    X, y = bumps
    weights = np.arange(120) % 3
    options = dict(batch_size=1000, epochs=20, optimizer="adam")
    weighted = small(**options).fit(X, y, sample_weight=weights)
    repeated = small(**options).fit(np.repeat(X, weights, 0), np.repeat(y, weights))
    gap = weighted.predict_proba(X) - repeated.predict_proba(X)
    assert np.abs(gap).max() < 1e-4
    np.testing.assert_allclose(weighted.loss_curve_, repeated.loss_curve_, rtol=1e-3)
    options = apart(RNNOptions, SMALL | dict(random_state=0) | options)
    target = X.sum((1, 2))
    weighted = RNNRegressor(**options).fit(X, target, sample_weight=weights)
    repeated = RNNRegressor(**options).fit(np.repeat(X, weights, 0), np.repeat(target, weights))
    np.testing.assert_allclose(weighted.predict(X), repeated.predict(X), atol=1e-3)


def test_balanced_classes_count_the_same():
    # One class in ten, unrecognisable: the honest answer is the share of each class, or 1/2.
    X = np.random.default_rng(0).standard_normal((200, 3, 1))
    y = np.arange(200) % 10 == 0
    options = dict(hidden=2, epochs=100, batch_size=200, lr=3e-2, optimizer="adam")
    plain = small(**options).fit(X, y).predict_proba(X)[:, 1].mean()
    balanced = small(class_weight="balanced", **options).fit(X, y).predict_proba(X)[:, 1].mean()
    by_hand = small(class_weight={True: 9.0}, **options).fit(X, y).predict_proba(X)[:, 1].mean()
    assert plain < 0.3
    assert balanced == pytest.approx(0.5, abs=0.1)
    assert by_hand == pytest.approx(balanced, abs=1e-3)


def test_admm_weighs_classes_but_not_block_by_block(bumps):
    share = []
    for first, other in (("early", "late"), ("late", "early")):
        weights = {first: 100.0, other: 0.01}
        weighed = small(optimizer="admm", lr=1.0, epochs=50, class_weight=weights)
        share.append((weighed.fit(*bumps).predict(bumps[0]) == "early").mean())
    assert share[0] > 0.9
    assert share[1] < 0.1
    with pytest.raises(ValueError, match="count alike, got weights"):
        small(optimizer="admm:variant=blocks", class_weight="balanced").fit(*bumps)


# -- in other people's hands -----------------------------------------------------------------------


def test_pipeline_search_and_cross_validation_take_three_dimensions(bumps):
    X, y = bumps
    pipeline = make_pipeline(FunctionTransformer(np.square), small())
    search = GridSearchCV(pipeline, {"rnnclassifier__hidden": np.array([1, 8])}, cv=2)
    assert search.fit(X, y).best_score_ > 0.8
    assert cross_val_score(small(), X, y, cv=2, error_score="raise").min() > 0.8
    sequences = ragged(X, np.full(120, 12))
    assert cross_val_score(small(), sequences, y, cv=2, error_score="raise").min() > 0.8


def test_lengths_are_routed_through_cross_validation(bumps):
    X, y = bumps
    lengths = np.where(y == "late", 12, 6)
    expected = cross_val_score(small(), ragged(X, lengths), y, cv=2)
    X = np.where(np.arange(12)[:, None] < lengths[:, None, None], X, np.nan)
    with sklearn.config_context(enable_metadata_routing=True):
        classifier = small().set_fit_request(lengths=True).set_score_request(lengths=True)
        scores = cross_val_score(
            classifier, X, y, cv=2, params={"lengths": lengths}, error_score="raise"
        )
    assert np.array_equal(scores, expected)


@pytest.mark.parametrize(
    "bad",
    [
        lambda X, y: (X, y[:-1]),
        lambda X, y: (X[:, :3], np.where(y == y[0], "a", None)),
        lambda X, y: (np.full_like(X, np.nan), y),
    ],
)
def test_an_estimator_that_was_refused_data_still_is_what_it_was(bumps, bad):
    X, y = bumps
    classifier = RNNClassifier(hidden=4, epochs=2, random_state=0).fit(X, y)
    before = classifier.predict_proba(X)
    with pytest.raises(ValueError, match=r"inconsistent|None|NaN"):
        classifier.fit(*bad(X, y))
    np.testing.assert_array_equal(classifier.predict_proba(X), before)
    assert set(classifier.predict(X)) <= set(y)


def test_aeons_layout_has_time_last(bumps):
    X, y = bumps
    turned = X.transpose(0, 2, 1)  # (count, channels, time), as aeon and sktime have it
    classifier = small(layout="time-last").fit(turned, y)
    assert classifier.n_features_in_ == 2
    expected = small().fit(X, y).predict_proba(X)
    assert np.array_equal(classifier.predict_proba(turned), expected)
    assert np.allclose(classifier.predict_proba(list(turned)), expected, atol=1e-6)


def test_pickle_and_clone(bumps):
    X, y = bumps
    classifier = small().fit(X, y)
    again = pickle.loads(pickle.dumps(classifier))
    assert np.array_equal(again.predict_proba(X), classifier.predict_proba(X))
    again.partial_fit(X, y)
    assert not hasattr(clone(classifier), "model_")
    assert clone(classifier).get_params() == classifier.get_params()


def test_searches_reach_the_options(bumps):
    X, y = bumps
    pipeline = make_pipeline(small(epochs=1, clip=2.0, optimizer="adam"))
    grid = {"rnnclassifier__options__clip": [None, 1.0], "rnnclassifier__options__layers": [2]}
    search = GridSearchCV(pipeline, grid, cv=2).fit(X, y)
    found = search.best_estimator_[0]
    assert len(found.model_.recurrent) == found.options.layers == 2
    assert {fit["rnnclassifier__options__clip"] for fit in search.cv_results_["params"]} == {
        None,
        1,
    }
    assert pipeline[0].options == RNNOptions(clip=2.0)  # as it was


def test_options_are_parameters_one_by_one():
    one = RNNClassifier(options=RNNOptions(clip=1.0))
    other = clone(one).set_params(options__layers=3, hidden=5)
    assert (other.options, other.hidden) == (RNNOptions(clip=1.0, layers=3), 5)
    assert one.options == RNNOptions(clip=1.0)
    assert other.get_params()["options__layers"] == 3
    assert RNNRegressor().get_params()["options__schedule"] == "cosine"
    assert "options__schedule" not in RNNRegressor().get_params(deep=False)
    assert clone(other).get_params() == other.get_params()
    with pytest.raises(ValueError, match="invalid parameter 'options__clipp': RNNOptions has lay"):
        one.set_params(options__clipp=1)
    with pytest.raises(ValueError, match=r"options must be RNNOptions\(…\) or None, got"):
        RNNClassifier(options=dict(clip=1)).fit(np.ones((4, 3)), [0, 1, 0, 1])


@pytest.mark.parametrize("kind", [RNNClassifier, RNNRegressor])
def test_an_option_that_has_moved_is_taken_with_a_warning(kind):
    with pytest.warns(DeprecationWarning, match=r"clip=… as an .* options=RNNOptions") as told:
        estimator = kind(hidden=3, clip=1.0, options=RNNOptions(layers=2))
    assert told[0].filename == __file__
    assert estimator.options == RNNOptions(clip=1.0, layers=2)
    with pytest.warns(DeprecationWarning, match="clip=… as an argument is deprecated"):
        estimator.set_params(clip=2.0)
    assert estimator.options == RNNOptions(clip=2.0, layers=2)
    state = dict(vars(kind()), clip=3.0)  # pickled by an earlier version
    del state["options"]
    estimator.__setstate__(state)
    assert estimator.options == RNNOptions(clip=3.0)
    with pytest.raises(TypeError, match="unexpected keyword argument 'clipp'"):
        kind(clipp=1.0)


def test_verbose_draws_a_bar_with_loss_and_metric(bumps, capfd):
    small(verbose=True).fit(*bumps)
    shown = capfd.readouterr().err
    assert "RNNClassifier" in shown
    assert "100%" in shown
    assert "loss" in shown
    assert "training accuracy" in shown
    small(epochs=1).fit(*bumps)
    assert capfd.readouterr() == ("", "")


@pytest.mark.process
def test_rnnopt_is_imported_without_scikit_learn():
    code = (
        "import sys; sys.modules['sklearn'] = None; import rnnopt; rnnopt.FrankWolfe\n"
        "assert 'rich' not in sys.modules\n"
        "try: rnnopt.RNNClassifier\n"
        "except ImportError as error: print(error)\n"
        "assert not hasattr(rnnopt, 'Nothing')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert 'pip install "rnnopt[estimator]"' in done.stdout


def test_real_digits_are_read_row_by_row():
    images, classes = load_digits(return_X_y=True)
    X = images.reshape(-1, 8, 8)
    classifier = rnnopt.RNNClassifier(epochs=15, lr=3e-3, random_state=0).fit(
        X[:1200], classes[:1200]
    )
    assert classifier.score(X[1200:], classes[1200:]) > 0.9
