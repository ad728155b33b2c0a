"""What metrics by name promise: scikit-learn's figures, a direction each, and a clear refusal."""

import math
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics
from sklearn.metrics import get_scorer_names

from rnnopt import SequenceModel
from rnnopt.config.errors import UserError
from rnnopt.config.metric_names import METRICS, OTHER_NAMES, lower_is_better, metric_name
from rnnopt.config.run_config import RunConfig
from rnnopt.tasks import from_arrays
from rnnopt.tasks.choices import class_weights, with_choices
from rnnopt.tasks.constant import constant_metric, no_better
from rnnopt.tasks.examples import Examples
from rnnopt.tasks.metrics import metric_of
from rnnopt.tasks.task import Task

CPU = torch.device("cpu")
SEEDS = st.integers(0, 2**32 - 1)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("f1_macro", "f1-macro"),
        ("balanced_accuracy", "balanced-accuracy"),
        ("AUC", "roc-auc"),
        ("neg_log_loss", "log-loss"),
        ("neg_root_mean_squared_error", "rmse"),
        ("mse", "mse"),
    ],
)
def test_scikit_learns_names_and_ours_name_the_same(text, name):
    assert metric_name(text) == name
    assert RunConfig(metric=text).metric == name


def test_every_name_is_one_of_scikit_learns_scorers_and_knows_its_direction():
    known = {metric_name(name) for name in get_scorer_names() if _has(name)}
    assert known >= METRICS.keys() - {"nats"}
    errors = {"log-loss", "nats", "mse", "rmse", "mae", "median-absolute-error", "max-error"}
    assert {name for name in METRICS if lower_is_better(name)} == errors
    assert not set(OTHER_NAMES) & METRICS.keys()


def _has(name):
    try:
        return bool(metric_name(name))
    except UserError:
        return False


@settings(max_examples=25, deadline=None)
@given(SEEDS, st.integers(2, 4), st.booleans())
def test_metrics_of_classes_are_scikit_learns(seed, classes, weighted):
    rng = torch.Generator().manual_seed(seed)
    count = 30
    targets = torch.cat([torch.arange(classes), torch.randint(classes, (count,), generator=rng)])
    outputs = torch.randn(len(targets), classes, generator=rng)
    weights = torch.rand(len(targets), generator=rng) + 0.1 if weighted else None
    true, likely = targets.numpy(), outputs.double().softmax(1).numpy()
    found = likely.argmax(1)
    options = {} if weights is None else {"sample_weight": weights.double().numpy()}
    average = "binary" if classes == 2 else "macro"
    expected = {
        "accuracy": sklearn_metrics.accuracy_score(true, found, **options),
        "balanced-accuracy": sklearn_metrics.balanced_accuracy_score(true, found, **options),
        "f1": sklearn_metrics.f1_score(true, found, average=average, zero_division=0, **options),
        "f1-weighted": sklearn_metrics.f1_score(
            true, found, average="weighted", zero_division=0, **options
        ),
        "log-loss": sklearn_metrics.log_loss(true, likely, labels=range(classes), **options),
        "roc-auc": sklearn_metrics.roc_auc_score(
            true, likely[:, 1] if classes == 2 else likely, multi_class="ovr", **options
        ),
    }
    for name, value in expected.items():
        assert metric_of(name, outputs, targets, weights) == pytest.approx(value, abs=1e-9), name


@settings(max_examples=15, deadline=None)
@given(SEEDS, st.integers(1, 3))
def test_metrics_of_numbers_are_scikit_learns(seed, outputs):
    rng = np.random.default_rng(seed)
    true, found = rng.normal(size=(2, 20, outputs)).astype(np.float32)
    given = torch.tensor(found), torch.tensor(true)
    for name, score in {
        "rmse": "root_mean_squared_error",
        "mae": "mean_absolute_error",
        "r2": "r2_score",
        "explained-variance": "explained_variance_score",
    }.items():
        expected = getattr(sklearn_metrics, score)(true, found)
        assert metric_of(name, *given, None) == pytest.approx(expected, rel=1e-5, abs=1e-6)
    assert metric_of("max-error", *given, None) == pytest.approx(np.abs(true - found).max())


def test_one_output_is_the_second_class_as_a_logit_or_a_probability():
    targets = torch.tensor([[0.0], [1.0], [1.0], [0.0]])
    logits = torch.tensor([[-1.0], [2.0], [-0.5], [-2.0]])
    # One of the two of class 1 is found, and nothing else: precision 1, recall 1/2.
    assert metric_of("f1", logits, targets, None) == pytest.approx(2 / 3)
    assert metric_of("recall", logits, targets, None) == 0.5
    assert metric_of("roc-auc", logits, targets, None) == 1.0
    assert metric_of("f1", logits.sigmoid(), targets, None, logits=False) == pytest.approx(2 / 3)


def test_by_hand_macro_f1_of_three_classes_and_balanced_accuracy():
    # True 0 0 0 1 2, found 0 0 1 1 1: F1 is 2·2/(2·2+0+1) = 0.8, 2·1/(2+2+0) = 0.5, and 0.
    targets = torch.tensor([0, 0, 0, 1, 2])
    outputs = torch.eye(3)[torch.tensor([0, 0, 1, 1, 1])]
    assert metric_of("f1", outputs, targets, None) == pytest.approx((0.8 + 0.5 + 0) / 3)
    assert metric_of("balanced-accuracy", outputs, targets, None) == pytest.approx((2 / 3 + 1) / 3)


def test_a_class_that_is_not_there_counts_in_no_auc_and_one_class_alone_has_none():
    outputs = torch.tensor([[2.0, 1, 0], [0, 3, 0], [1, 0, 0]])
    # Class 2 has no example; 0 and 1 are ranked right.
    assert metric_of("roc-auc", outputs, torch.tensor([0, 1, 0]), None) == 1.0
    assert math.isnan(metric_of("roc-auc", outputs, torch.tensor([0, 0, 0]), None))
    assert math.isnan(metric_of("f1", outputs * math.nan, torch.tensor([0, 1, 0]), None))


# -- a task's metric -------------------------------------------------------------------------------


def task_of(targets, loss="cross-entropy", outputs=3, **options):
    inputs = torch.randn(len(targets), 5, 2, generator=torch.Generator().manual_seed(0))
    part = Examples(inputs, targets)
    return Task("t", "", 2, outputs, loss, 0.5, part, part, part, len(targets), **options)


RARE = torch.tensor([0] * 12 + [1] * 3 + [2] * 1)


def test_evaluate_gives_the_metric_of_all_pieces_together(monkeypatch):
    monkeypatch.setattr("rnnopt.tasks.pieces.AT_ONCE", 100)  # a few sequences a piece
    model = SequenceModel(2, 4, 3)
    task = task_of(RARE)
    loss, accuracy = task.evaluate(model, task.test, CPU)
    outputs = model(task.test.inputs.transpose(0, 1))
    for name in ("f1", "balanced-accuracy", "log-loss", "roc-auc"):
        chosen = with_choices(task, name)
        found = chosen.evaluate(model, task.test, CPU)
        assert found == pytest.approx((loss, metric_of(name, outputs, RARE, None)))
        assert chosen.is_better(0.2, 0.3) == lower_is_better(name)
        assert chosen.target == METRICS[name].perfect
    assert task.metric == "accuracy"
    assert accuracy == pytest.approx(float((outputs.argmax(1) == RARE).float().mean()))


def test_a_metric_that_does_not_fit_is_refused():
    numbers = task_of(torch.randn(8, 1), "mse", 1)
    assert with_choices(numbers, "neg_mean_absolute_error").metric == "mae"
    with pytest.raises(UserError, match="--metric f1 is for classification"):
        with_choices(numbers, "f1")
    with pytest.raises(UserError, match="--metric mae is for regression"):
        with_choices(task_of(RARE), "mae")
    with pytest.raises(UserError, match="two classes at least"):
        with_choices(task_of(torch.zeros(4, dtype=torch.long)), "auc")


def test_without_scikit_learn_a_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.metrics", None)
    with pytest.raises(UserError, match=r"scikit-learn, which is not installed.*rnnopt\[cli\]"):
        with_choices(task_of(RARE), "f1")
    assert with_choices(task_of(RARE), "accuracy").metric == "accuracy"


# -- class weights ---------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 2), min_size=2, max_size=40))
def test_balanced_weights_are_scikit_learns_and_have_mean_one(classes):
    from sklearn.utils.class_weight import compute_class_weight

    targets = torch.tensor(classes)
    weights = class_weights(task_of(targets), "balanced")
    present = np.unique(classes)
    expected = compute_class_weight("balanced", classes=present, y=classes)
    assert np.array(weights)[present] == pytest.approx(expected)
    assert np.array(weights)[classes].mean() == pytest.approx(1)


def test_the_weighted_loss_is_torchs_weighted_mean_and_leaves_the_metric_alone():
    model, task = SequenceModel(2, 4, 3), task_of(RARE)
    weighted = with_choices(task, class_weight="balanced")
    outputs = model(task.train.inputs.transpose(0, 1)).detach()
    weight = torch.tensor(weighted.class_weights)
    expected = torch.nn.functional.cross_entropy(outputs, RARE, weight)  # over the sum of weights
    batch = task.train.batch(slice(None))
    torch.testing.assert_close(weighted.loss_of(outputs, batch), expected)
    loss, accuracy = weighted.evaluate(model, task.test, CPU)
    assert loss == pytest.approx(float(expected))
    assert accuracy == task.evaluate(model, task.test, CPU)[1]
    # Of a part with other shares of the classes it is the weighted mean too.
    few = Examples(task.test.inputs[10:], RARE[10:])
    expected = torch.nn.functional.cross_entropy(outputs[10:], RARE[10:], weight)
    assert weighted.evaluate(model, few, CPU)[0] == pytest.approx(float(expected))


def test_classes_at_every_step_are_weighted_over_true_steps():
    targets = torch.tensor([[0, 0, 0, 1], [0, 0, 2, 2]])
    inputs = torch.randn(2, 4, 2, generator=torch.Generator().manual_seed(0))
    part = Examples(inputs, targets, torch.tensor([4, 2]))
    task = Task("t", "", 2, 3, "cross-entropy", 0.5, part, part, part, 2)
    # Over the six true steps: class 0 five times, class 1 once; 6/(2·5) and 6/(2·1).
    assert class_weights(task, "balanced") == pytest.approx((0.6, 3.0, 0.0))


def test_weights_by_name_are_scaled_and_unknown_names_refused():
    task = task_of(RARE)
    weights = class_weights(task, {"2": 4.0})
    # (12·1 + 3·1 + 1·4) / 16 is the mean before.
    assert weights == pytest.approx(tuple(np.array([1, 1, 4]) * 16 / 19))
    with pytest.raises(UserError, match="class_weight names 'x'"):
        class_weights(task, {"x": 1.0})
    with pytest.raises(UserError, match="numbers of at least 0, got -1"):
        class_weights(task, {"1": -1.0})
    with pytest.raises(UserError, match="--class-weight is for one class a sequence"):
        with_choices(task_of(torch.randn(8, 1), "mse", 1), class_weight="balanced")


def test_arrays_of_ones_own_take_a_metric_and_weights():
    X, y = np.random.default_rng(0).normal(size=(40, 6)), np.array(["a"] * 30 + ["b"] * 10)
    task = from_arrays(X, y, metric="f1", class_weight="balanced")
    assert (task.metric, task.target) == ("f1", 1.0)
    counts = torch.bincount(task.train.targets)
    assert task.class_weights == pytest.approx(tuple((counts.sum() / (2 * counts)).tolist()))
    heavy = from_arrays(X, y, class_weight={"b": 9.0}).class_weights
    assert heavy[1] / heavy[0] == pytest.approx(9)
    with pytest.raises(ValueError, match="metric r2 is for regression"):
        from_arrays(X, y, metric="r2")


# -- the commonest class ---------------------------------------------------------------------------


def test_the_constant_answer_is_the_commonest_class_or_the_mean():
    task = task_of(RARE)
    assert constant_metric(task, task.test) == pytest.approx(12 / 16)
    assert constant_metric(with_choices(task, "balanced-accuracy"), task.test) == pytest.approx(
        1 / 3
    )
    assert constant_metric(with_choices(task, "auc"), task.test) == 0.5
    numbers = task_of(torch.randn(8, 2, generator=torch.Generator().manual_seed(1)), "mse", 2)
    spread = float(numbers.test.targets.var(0, correction=0).mean())
    assert constant_metric(numbers, numbers.test) == pytest.approx(spread)
    drawn = replace(task, train=lambda count, rng: None)
    assert constant_metric(drawn, task.test) is None


def test_a_sentence_says_so_where_a_network_is_no_better():
    task = task_of(RARE)
    for metric in (0.5, 0.75, math.nan):
        assert "no better than always answering the commonest class, 0" in no_better(
            task, metric, 0.75
        )
    assert no_better(task, 0.76, 0.75) == no_better(task, 0.1, None) == ""
    numbers = task_of(torch.randn(8, 1), "mse", 1)
    assert "the mean of the training targets" in no_better(numbers, 1.0, 1.0)
    assert no_better(numbers, 0.9, 1.0) == ""
