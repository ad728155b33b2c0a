"""Training once more on training and validation series together: `--refit`.

The first fit shows on validation series how good the network is and how long to train it. The
second one begins from the same seed with all these series, and its final weights are kept: nothing
is left to choose by. It is not saved on the way. An interrupted one begins anew.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from rnnopt.config.errors import UserError
from rnnopt.config.run_config import RunConfig
from rnnopt.tasks.examples import Examples, joined
from rnnopt.tasks.task import Task
from rnnopt.training.build import build_training
from rnnopt.training.loop import Progress, Training

NEVER = 10**12  # gradients between two evaluations
COMPLETE = ("out of budget", "reached target", "stopped early")  # statuses with weights to keep


def all_series(task: Task) -> Task:
    """The task with the validation series among the training series.

    Raises:
        UserError: its series are drawn anew, or have a target at each step.
    """
    if not isinstance(task.train, Examples) or task.readout == "every":
        raise UserError(
            f"--refit needs stored series with one target each, {task.name} has others."
        )
    train = joined(task.train, task.validation)
    return replace(task, train=train, epoch_size=len(train))


def ended_early(first: Training, config: RunConfig) -> bool:
    """Whether a refit is as long as the run up to its best evaluation, not as the whole run."""
    at_target = config.stop_at_target and first.status == "reached target"
    return at_target or first.status == "stopped early"


def refit(
    first: Training,
    config: RunConfig,
    listener: Callable[[Progress], None],
    stop_requested: Callable[[], bool],
) -> dict[str, Any]:
    """Trains again, and leaves the weights in `first.best_weights`.

    Args:
        first: the finished run. One that ended early is repeated up to its best evaluation.
        config: config of the run, as stored in its folder.
        listener, stop_requested: as in `run`.

    Returns:
        What to store of it: status, series, gradient evaluations and seconds. The weights stay as
        they were unless its status is in COMPLETE.
    """
    budget = config.budget
    if ended_early(first, config):
        share = first.best["gradient_evaluations"] / first.closure.gradient_evaluations
        budget = f"{max(share * first.closure.epochs, 0.01):.2f}epochs"
    again = build_training(
        replace(
            config, budget=budget, evaluate_every=NEVER, patience=None, stop_at_target=False,
            watch_test=False,
        ),
        all_series(first.task),
    )  # fmt: skip
    for progress in again.run(stop_requested):
        listener(progress)
    if again.status in COMPLETE:
        with again.learner.committed():
            weights = again.model.state_dict()
            first.best_weights = {k: v.detach().clone() for k, v in weights.items()}
    return dict(
        status=again.status,
        series=again.task.epoch_size,
        gradient_evaluations=again.closure.gradient_evaluations,
        seconds=again.seconds,
    )
