"""Trains a run from its config and keeps its run folder up to date."""

import traceback
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from rnnopt.config.errors import UserError
from rnnopt.config.run_config import RunConfig
from rnnopt.runs.calibration import (
    calibrated,
    check_calibrates,
    temperature_before_refit,
    temperature_of_best,
)
from rnnopt.runs.checkpoints import CHECKPOINT
from rnnopt.runs.folder import CannotWrite, RunFolder
from rnnopt.runs.refit import COMPLETE, all_series, ended_early, refit
from rnnopt.runs.shared_folder import folder_kind
from rnnopt.runs.step_scores import scores_alone
from rnnopt.tasks import Task
from rnnopt.tasks.constant import constant_metric, no_better
from rnnopt.tasks.ranking import loss_of_best
from rnnopt.training.build import build_training, model_settings
from rnnopt.training.imported import check_trusted, source_of
from rnnopt.training.loop import Progress, Training
from rnnopt.training.option_checks import warnings_of
from rnnopt.training.rank_state import same_place, to_load, to_save
from rnnopt.training.resolve import fill_from_task, resolve

Listener = Callable[[Progress], None]
Announce = Callable[[Task, Sequence[str]], None]  # called with the task and the warnings


def run(
    config: RunConfig,
    path: Path,
    resume: bool = False,
    listener: Listener = lambda progress: None,
    stop_requested: Callable[[], bool] = lambda: False,
    given: Collection[str] = (),
    announce: Announce = lambda task, warnings: None,
) -> dict[str, Any]:
    """Trains a run and stores everything in the folder `path`.

    Args:
        config: config of the run; with `resume` the folder's own config is used, and options that
            the user passed must agree with it.
        path: the run folder; must be new unless `resume`.
        resume: resume from the folder's checkpoint; a finished run is left as it is.
        listener: called after every step.
        stop_requested: called before every step; True interrupts the run.
        given: fields of `config` that the user passed, even with the default value.
        announce: called with the task and the warnings before training begins.

    Returns:
        The result, as returned by `RunFolder.read_result`.
    """
    if not resume:
        training = build_training(config)
        if config.calibrate:
            check_calibrates(training.task)
        announce(training.task, warnings_of(config, training))
        kind = folder_kind()
        kind(path).refuse_run()
        with kind(path).locked():  # before writing: another process may do the same
            data = None
            if training.task.data is not None:
                model = model_settings(
                    fill_from_task(resolve(config), training.task), training.task
                )
                data = training.task.data.to_dict() | {"model": model}
            folder = kind.create(path, fill_from_task(config, training.task), data)
            return _train(training, folder, listener, stop_requested)
    folder = folder_kind().open(path)
    _check_resumable(config, folder.read_config(), given)
    with folder.locked():
        if folder.is_over():
            folder.read_records()  # raises an error if they are damaged
            return folder.read_result()
        check_same_optimizer(folder, config)  # before its code is executed
        try:
            training = build_training(folder.read_config())
        except UserError as error:
            raise UserError(
                f"{folder.path / 'config.json'} cannot be used here: {error}"
            ) from error
        check_same_data(training.task, folder)
        announce(training.task, ())
        _continue(training, folder)
        return _train(training, folder, listener, stop_requested)


def check_same_data(task: Task, folder: RunFolder) -> None:
    """Raises UserError if a file of the user's own data has changed since the run was begun."""
    if task.data is None:
        return
    before = folder.read_data().get("sources", {})
    for role, source in task.data.sources.items():
        was = before.get(role, {}).get("sha256")
        if source["sha256"] != was:
            raise UserError(
                f"{source['path']} has changed since the run in {folder.path} was begun: it must"
                f" have sha256 {was}, got {source['sha256']}."
            )


def check_same_optimizer(folder: RunFolder, asked: RunConfig) -> None:
    """Raises UserError if a run's optimizer is code that is not `asked` for, or has changed."""
    saved = folder.read_config().optimizer
    check_trusted(saved, asked.optimizer, f"the run in {folder.path}")
    now = source_of(saved)
    if not now:
        return
    was = folder.read_environment().get("optimizer", {})
    if now.get("sha256") != was.get("sha256"):
        raise UserError(
            f"{now.get('file')} has changed since the run in {folder.path} was begun: it must have"
            f" sha256 {was.get('sha256')}, got {now.get('sha256')}."
        )


def _continue(training: Training, folder: RunFolder) -> None:
    """Loads the folder's checkpoint into `training`, the same in all processes."""
    with same_place(training):
        _load(training, folder)
    folder.keep_records(training.records)  # once all have read the lines after the checkpoint


def _load(training: Training, folder: RunFolder) -> None:
    """Reads the folder's checkpoint, if it has one."""
    checkpoint = folder.read_checkpoint()
    if checkpoint is not None:
        wrong = (AttributeError, LookupError, TypeError, ValueError, RuntimeError)
        try:
            training.load_state_dict(to_load(checkpoint, training))
            # Older files do not have its loss.
            if training.best and "validation_loss" not in training.best:
                training.best["validation_loss"] = loss_of_best(
                    training.best, folder.read_records()
                )
        except wrong as error:
            reason = str(error).splitlines()[0]
            place = folder.path / CHECKPOINT
            raise UserError(f"{place} is not a checkpoint of this run: {reason}") from error


def _train(
    training: Training, folder: RunFolder, listener: Listener, stop_requested: Callable[[], bool]
) -> dict[str, Any]:
    """Trains to the end; an interruption or error is recorded in the folder."""
    facts = training.task.facts()
    try:
        return _train_to_the_end(training, folder, listener, stop_requested)
    except KeyboardInterrupt:
        folder.write_result({"status": "interrupted", **facts})
        raise
    except Exception as error:
        with suppress(UserError):  # a disk that is full, which may be the error itself
            failure = f"{type(error).__name__}: {error}"
            folder.write_result({"status": "failed", "error": failure, **facts})
            folder.write_error(traceback.format_exc())
        if isinstance(error, CannotWrite):
            raise CannotWrite(
                f"{str(error).rstrip('.')}; the files saved before are intact: use --resume."
            ) from error
        raise


def _train_to_the_end(
    training: Training, folder: RunFolder, listener: Listener, stop_requested: Callable[[], bool]
) -> dict[str, Any]:
    facts, config = training.task.facts(), folder.read_config()
    if config.refit:
        all_series(training.task)  # may refuse
    folder.write_result({"status": "running", **facts})
    for progress in training.run(stop_requested):
        if progress.record:
            folder.append_record(progress.record)
        if progress.record or training.status != "running":
            folder.write_checkpoint(to_save(training))
        listener(progress)
    result: dict[str, Any] = {
        "status": training.status,
        **facts,
        "gradient_evaluations": training.closure.gradient_evaluations,
        "seconds": training.seconds,
        "best": training.best,
        "to_target": training.to_target,
        **training.nonfinite.counts(),
    }
    if training.status != "interrupted":
        result["records"] = training.records
    temperature = None
    if config.refit and training.status in COMPLETE and training.best_weights:
        if config.calibrate:
            temperature = temperature_before_refit(training, ended_early(training, config))
        result["refit"] = again = refit(training, config, listener, stop_requested)
        if again["status"] == "interrupted":
            result["status"] = again["status"]
            folder.write_result(result)
            return result
        if again["status"] not in COMPLETE:
            temperature = None  # the weights are the first fit's
    if training.status != "interrupted" and training.best_weights:
        folder.write_weights(training.best_weights)
        if config.calibrate:
            temperature = temperature or temperature_of_best(training)
            _write_temperature(folder, temperature)
        result |= _tested(training, temperature)
    folder.write_result(result)
    return result


def _tested(training: Training, temperature: float | None) -> dict[str, Any]:
    """What a result says of the best weights on the test data; None: it is not calibrated."""
    task, device, own = training.task, training.device, training.task.data
    loss, metric = training.test()
    found: dict[str, Any] = {"test_loss": loss, "test_metric": metric}
    constant = constant_metric(task, task.test)
    if constant is not None:
        found["constant_metric"] = constant
        if told := no_better(task, metric, constant):
            found["no_better"] = told
    with training.best_model() as model:
        if temperature is not None:
            found["calibration"] = calibrated(task, model, device, temperature)
        if own is not None and own.preparation.each_step:
            preparation = replace(own.preparation, temperature=temperature or 1.0)
            found["test_scores"] = scores_alone(preparation, model, task.test, device)
    return found


def _write_temperature(folder: RunFolder, temperature: float) -> None:
    data = folder.read_data()
    data["preparation"]["temperature"] = temperature
    folder.write_data(data)


def _check_resumable(config: RunConfig, saved: RunConfig, given: Collection[str]) -> None:
    """Raises UserError if the user passed an option with which the run was not begun."""
    default = RunConfig()
    for field in fields(RunConfig):
        now, before = getattr(config, field.name), getattr(saved, field.name)
        asked = field.name in given or now != getattr(default, field.name)
        if asked and now != before:
            raise UserError(
                f"the run was begun with {field.name}={before}, it cannot resume with"
                f" {field.name}={now}."
            )
