"""Runs made up for tests of reports: no training, only what a run folder would say."""

import math

from rnnopt.config.run_config import RunConfig
from rnnopt.runs.collection import Run
from rnnopt.tasks import build_task


def record(evaluations, seconds, train_loss, metric):
    """A line of a run's history."""
    return dict(
        gradient_evaluations=evaluations,
        seconds=seconds,
        epochs=evaluations / 10,
        train_loss=train_loss,
        validation_loss=1.0,
        validation_metric=metric,
        lr=0.1,
        fraction=evaluations / 20,
    )


def history(metrics, seconds=1.0):
    """A look every ten evaluations, each ten of `seconds`; the training loss is 2, 1, 2/3, …"""
    return [
        record(10 * i, seconds * i, 2 / i if i else math.nan, metric)
        for i, metric in enumerate(metrics)
    ]


def over(test_metric=0.5, best=0.6, to_target=None, seconds=2.0):
    """The result of a run that is over; `to_target` is in evaluations, a tenth of that seconds."""
    reached = (
        {} if to_target is None else dict(gradient_evaluations=to_target, seconds=to_target / 10)
    )
    return dict(
        status="reached target" if reached else "out of budget",
        gradient_evaluations=20,
        seconds=seconds,
        best=dict(gradient_evaluations=10, validation_metric=best),
        to_target=reached,
        test_loss=1.0,
        test_metric=test_metric,
    )


def make_run(tmp_path, result=None, metrics=(0.1, 0.2, 0.3), records=None, **settings):
    """A run on the small digits unless told otherwise."""
    config = RunConfig(**{"task": "digits-rows", "optimizer": "adam"} | settings)
    records = history(metrics) if records is None else records
    result = over() if result is None else result
    return Run(config, records, facts_of(config.task) | result, tmp_path)


def facts_of(task):
    """What every run notes of its task from the start."""
    if task == "mnist-rows":  # whose data may not be there
        return dict(summary="MNIST", loss="cross-entropy", metric="accuracy", target=0.97)
    return build_task(task).facts()
