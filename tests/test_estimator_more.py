"""What the estimators have of the command: read-out, subsampling, metric, groups, targets at every
step, ONNX files, networks of run folders, and a sentence where nothing was learnt.
"""

import pickle
from pathlib import Path

import numpy as np
import pytest
import sklearn
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import accuracy_score, r2_score
from sklearn.model_selection import GroupKFold, cross_validate

from rnnopt import RNNClassifier, RNNOptions, RNNRegressor
from rnnopt.runs.prediction import TrainedModel
from rnnopt.tasks.user_data.recordings import recordings

TINY = dict(hidden=6, epochs=3, random_state=0)


@pytest.fixture(scope="module")
def waves():
    """48 series of 12 steps and two channels; the class is the speed, "calm" or "fast"."""
    rng = np.random.default_rng(0)
    y = np.repeat(["calm", "fast"], 24)
    speed = np.where(y == "fast", 1.5, 0.5)[:, None]
    X = np.sin(speed * np.arange(12) + rng.uniform(0, 6, (48, 1)))
    return np.stack([X, rng.normal(size=X.shape)], 2), y


@pytest.mark.parametrize(
    "options",
    [
        dict(readout="mean"),
        dict(subsample=3),
        dict(layers=2, bidirectional=True),
        dict(stem="4/2"),
    ],
)
def test_an_option_of_the_command_changes_the_network_and_goes_through_copies(waves, options):
    X, y = waves
    chosen = RNNClassifier(options=RNNOptions(**options), **TINY)
    plain = RNNClassifier(**TINY).fit(X, y)
    fitted = chosen.fit(X, y)
    assert not np.allclose(fitted.predict_proba(X), plain.predict_proba(X))
    again = clone(fitted).fit(X, y)
    np.testing.assert_array_equal(again.predict_proba(X), fitted.predict_proba(X))
    loaded = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(loaded.predict_proba(X), fitted.predict_proba(X))
    name, value = next(iter(options.items()))
    assert fitted.get_params()[f"options__{name}"] == value


def test_subsampled_sequences_are_those_of_means_of_steps(waves):
    X, y = waves
    means = X.reshape(48, 4, 3, 2).mean(2)
    one = RNNClassifier(options=RNNOptions(subsample=3), **TINY).fit(X, y)
    other = RNNClassifier(**TINY).fit(means, y)
    np.testing.assert_allclose(one.predict_proba(X), other.predict_proba(means), rtol=1e-5)
    with pytest.raises(ValueError, match="subsample must be a whole number of at least 1, got 0"):
        RNNClassifier(options=RNNOptions(subsample=0), **TINY).fit(X, y)


def test_early_stopping_goes_by_the_metric(waves):
    X, y = waves
    options = RNNOptions(metric="neg_log_loss", validation_fraction=0.25)
    settings = TINY | dict(early_stopping=True)
    fitted = RNNClassifier(options=options, **settings).fit(X, y)
    loss = RNNClassifier(options=RNNOptions(validation_fraction=0.25), **settings).fit(X, y)
    assert len(fitted.validation_curve_) == len(loss.validation_curve_) == 3
    assert fitted.validation_curve_ != loss.validation_curve_
    with pytest.raises(ValueError, match="metric r2 is for regression"):
        RNNClassifier(options=RNNOptions(metric="r2"), **settings).fit(X, y)


def test_groups_stay_on_one_side_and_are_routed(waves, monkeypatch):
    X, y = waves
    groups = np.tile(np.arange(8), 6)
    kept = []
    split = RNNClassifier._split

    def noted(self, given, random):
        parts = split(self, given, random)
        kept.append([set(part.groups) for part in parts])
        return parts

    monkeypatch.setattr(RNNClassifier, "_split", noted)
    classifier = RNNClassifier(early_stopping=True, **TINY)
    with sklearn.config_context(enable_metadata_routing=True):
        classifier.set_fit_request(groups=True)
        cross_validate(classifier, X, y, cv=GroupKFold(2), params={"groups": groups})
    assert len(kept) == 2
    for train, aside in kept:
        assert train
        assert aside
        assert not train & aside
    with pytest.raises(ValueError, match="it needs two groups"):
        clone(classifier).fit(X, y, groups=np.zeros(48))
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        clone(classifier).fit(X, y, groups=groups[:3])


# -- targets at every step -------------------------------------------------------------------------


def test_a_class_at_every_step(waves):
    X, _ = waves
    y = np.where(X[:, :, 0] > 0, "up", "down").astype(object)
    y[0, :5] = None  # these are missing
    settings = dict(hidden=8, epochs=20, random_state=0, class_weight="balanced")
    classifier = RNNClassifier(options=RNNOptions(every_step=True), **settings).fit(X, y)
    found = classifier.predict(X)
    assert (found.shape, list(classifier.classes_)) == ((48, 12), ["down", "up"])
    assert classifier.predict_proba(X).shape == (48, 12, 2)
    there = y != None  # noqa: E711
    expected = accuracy_score(y[there].astype(str), found[there])
    assert classifier.score(X, y) == pytest.approx(expected)
    assert expected > 0.9
    lists = [one[: 5 + i % 3] for i, one in enumerate(X)]
    answers = classifier.predict(lists)
    assert [len(one) for one in answers] == [len(one) for one in lists]
    np.testing.assert_array_equal(answers[1], found[1, :6])  # one direction: the past alone


def test_numbers_at_every_step_of_sequences_of_their_own_lengths(waves):
    X, _ = waves
    lists = [one[: 8 + i % 5] for i, one in enumerate(X)]
    y = [3 + 10 * one[:, 0].cumsum() for one in lists]
    y[0] = np.where(np.arange(8) < 2, np.nan, y[0])
    regressor = RNNRegressor(options=RNNOptions(every_step=True), hidden=8, epochs=30)
    regressor.set_params(random_state=0).fit(lists, y)
    found = regressor.predict(lists)
    assert [one.shape for one in found] == [one.shape for one in y]
    true, answers = np.concatenate(y), np.concatenate(found)
    there = ~np.isnan(true)
    expected = r2_score(true[there], answers[there])
    assert regressor.score(lists, y) == pytest.approx(expected)
    assert expected > 0.5
    two = RNNRegressor(options=RNNOptions(every_step=True), **TINY).fit(X, X)
    assert two.predict(X).shape == X.shape


def test_what_may_be_meant_at_every_step_is_asked_for(waves):
    X, _ = waves
    y = X[:, :, 0]
    with pytest.raises(ValueError, match=r"y \(48, 12\) looks like one for each of the 12 steps"):
        RNNRegressor(**TINY).fit(X, y)
    with pytest.raises(ValueError, match=r"need RNNOptions\(every_step=True\)"):
        RNNRegressor(**TINY).fit(X, X)
    several = RNNRegressor(options=RNNOptions(every_step=False), **TINY).fit(X, y)
    assert several.predict(X).shape == (48, 12)
    with pytest.raises(ValueError, match="subsample must be 1"):
        RNNRegressor(options=RNNOptions(every_step=True, subsample=2), **TINY).fit(X, y)
    with pytest.raises(ValueError, match="series 1 has 12 steps and 11 targets"):
        RNNRegressor(options=RNNOptions(every_step=True), **TINY).fit(X, y[:, 1:])


# -- files -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("every_step", [False, True])
def test_an_onnx_file_answers_as_the_estimator(waves, tmp_path, every_step):
    onnxruntime = pytest.importorskip("onnxruntime")
    X, y = waves
    if every_step:
        y = np.where(X[:, :, 0] > 0, 1, 0)
    options = RNNOptions(every_step=every_step, subsample=1 if every_step else 2)
    classifier = RNNClassifier(options=options, **TINY).fit(X, y)
    classifier.export_onnx(tmp_path / "network.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "network.onnx")
    lengths = np.full(48, 12)
    (found,) = session.run(None, {"inputs": X.astype(np.float32), "lengths": lengths})
    np.testing.assert_allclose(found, classifier.predict_proba(X), atol=1e-5)
    with pytest.raises(ValueError, match="cannot write"):
        classifier.export_onnx(tmp_path / "network.onnx" / "below")


def test_a_run_s_network_predicts_as_the_command_and_can_be_trained_on(waves, command, tmp_path):
    X, y = waves
    np.savez(tmp_path / "own.npz", X=X, y=np.where(y == "fast", 20, 3))
    run = tmp_path / "run"
    options = ["--subsample", 2, "--budget", "40gradients", "--hidden", 6]  # of --model auto
    assert command("train", "--data", tmp_path / "own.npz", *options, "--out", run)[0] == 0
    out = tmp_path / "answers.csv"
    assert command("predict", run, "--data", tmp_path / "own.npz", "--out", out)[0] == 0
    classifier = RNNClassifier.from_pretrained(run)
    assert list(classifier.classes_) == [3, 20]
    lines = [line.split(",") for line in out.read_text().splitlines()[1:]]
    likely = classifier.predict_proba(X)
    np.testing.assert_allclose(np.array([line[3:] for line in lines], float), likely, atol=1e-5)
    assert classifier.options.subsample == 2
    assert (classifier.model, classifier.options.readout) == ("gru", "mean")
    numbers = np.where(y == "fast", 20, 3)
    assert 0 <= classifier.score(X, numbers) <= 1
    classifier.set_params(warm_start=True, epochs=1, random_state=0).fit(X, numbers)
    assert not np.allclose(classifier.predict_proba(X), likely)
    with pytest.raises(ValueError, match="must be a run of regression, got one of classification"):
        RNNRegressor.from_pretrained(run)
    with pytest.raises(ValueError, match="nowhere"):
        RNNClassifier.from_pretrained(Path("nowhere"))


# -- nothing learnt --------------------------------------------------------------------------------


@pytest.mark.parametrize("stops", [False, True])
def test_an_estimator_that_is_no_better_than_a_constant_answer_warns(waves, stops):
    X, y = waves
    lazy = dict(hidden=2, epochs=1, optimizer="sgd", lr=1e-12, random_state=0)
    with pytest.warns(ConvergenceWarning, match="always answering the commonest class"):
        RNNClassifier(early_stopping=stops, **lazy).fit(X, y)
    with pytest.warns(ConvergenceWarning, match="the mean of the training targets"):
        RNNRegressor(**lazy).fit(X, (y == "fast") * 1.0)


def test_several_labels_are_exported_and_taken_from_runs(tmp_path, command):
    onnxruntime = pytest.importorskip("onnxruntime")
    rng = np.random.default_rng(0)
    Y = rng.integers(0, 2, (30, 3))
    X = rng.normal(size=(30, 5, 2))
    classifier = RNNClassifier(epochs=1, hidden=4, random_state=0).fit(X, Y)
    classifier.export_onnx(tmp_path / "network.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "network.onnx")
    given = {"inputs": X.astype(np.float32), "lengths": np.full(30, 5)}
    np.testing.assert_allclose(session.run(None, given)[0], classifier.predict_proba(X), atol=1e-5)
    np.savez(tmp_path / "own.npz", X=X, y=Y)
    options = ("--kind", "multilabel", "--model", "gru", "--hidden", "4", "--budget", "2gradients")
    run = tmp_path / "run"
    code, _, error = command("train", "--data", tmp_path / "own.npz", *options, "--out", run)
    assert code == 0, error
    taken = RNNClassifier.from_pretrained(run)
    assert taken.classes_.tolist() == ["label 1", "label 2", "label 3"]
    trained = TrainedModel.open(run)
    np.testing.assert_allclose(taken.predict_proba(X), trained.answer(recordings(X)), atol=1e-6)
    assert taken.predict(X).shape == Y.shape
