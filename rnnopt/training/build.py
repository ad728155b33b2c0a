"""Builds a run from the names in its config: task, model, optimizer and training."""

from typing import Any

import torch

from rnnopt.config.errors import UserError
from rnnopt.config.run_config import MODELS, Budget, RunConfig, SharedConfig
from rnnopt.config.specs import parse, write
from rnnopt.distributed import processes
from rnnopt.layers.sequence_model import SequenceModel
from rnnopt.layers.stem import parse_stem, steps_after
from rnnopt.tasks import Batches, Task, build_task
from rnnopt.tasks.choices import with_choices
from rnnopt.tasks.examples import Examples
from rnnopt.tasks.pieces import width
from rnnopt.tasks.user_data.limits import check_memory
from rnnopt.tasks.user_data.load import own_task
from rnnopt.training.automatic import EPOCHS
from rnnopt.training.data_parallel import SharedBatches, check_shareable
from rnnopt.training.learner import Learner, as_learner
from rnnopt.training.loop import Training
from rnnopt.training.registry import build_learner, entry_of
from rnnopt.training.resolve import fill_from_task, refuse_gradient_options, resolve
from rnnopt.training.schedules import Plateau
from rnnopt.training.tbptt import Truncation

PATIENCE = 20.0  # epochs that the plateau schedules wait unless told otherwise


def task_of(config: SharedConfig) -> Task:
    """The task that a config names, or the task of its data files."""
    task = build_task(config.task) if config.data is None else own_task(config, config.task)
    return with_choices(task, config.metric, config.class_weight, config.target)


def build_training(
    config: RunConfig, task: Task | None = None, every_epoch: bool = False
) -> Training:
    """A run that is ready to train; the same for the same config.

    Args:
        config: config of the run.
        task: the config's task if it is already built.
        every_epoch: evaluate on the validation set once per epoch, instead of as in `config`.
    """
    config = resolve(config)
    device = _device(config.device)
    torch.set_num_threads(config.threads)
    task = (task or task_of(config)).to(device)
    task = with_choices(task, config.metric, config.class_weight, config.target)
    config = fill_from_task(config, task)
    torch.manual_seed(config.seed)
    model = _build_model(config, task).to(device)
    truncation = None
    if config.tbptt is not None:
        truncation = Truncation(config.tbptt, config.tbptt_backward or config.tbptt)
        if task.ragged:
            truncation.check_reach()
    optimizer = _build_optimizer(config, model, truncation, task)
    learner = as_learner(optimizer)
    if task.class_weights is not None and entry_of(parse(config.optimizer)[0]).of_model:
        raise UserError(
            f"optimizer {parse(config.optimizer)[0]!r} has a loss of its own: it cannot go with"
            " --class-weight."
        )
    if learner.refuses_gradient_options:
        refuse_gradient_options(config, learner.refuses_gradient_options)
    plateau = None
    if config.schedule.startswith("plateau"):
        restart = config.schedule == "plateau-restart"
        plateau = Plateau(config.decay, config.patience or PATIENCE, restart)
    batch_size = config.batch_size or _batch_size(task, learner)
    if device.type == "cpu":
        _check_memory(task, batch_size, model, truncation)
    warp = config.warp or 0.0
    if warp and not (isinstance(task.train, Examples) and task.readout != "every"):
        raise UserError(f"--warp needs stored series with one target each, {task.name} has others.")
    batches = Batches(task, batch_size, config.seed, warp)
    if processes() > 1:
        check_shareable(config, model_settings(config, task), learner, batches)
        batches = SharedBatches(task, batch_size, config.seed, config.readout == "every", warp)
    return Training(
        model,
        optimizer,
        task,
        batches,
        Budget.parse(config.budget or EPOCHS),
        config.schedule,
        config.clip,
        config.evaluate_every,
        config.stop_at_target,
        device,
        clip_value=config.clip_value,
        truncation=truncation,
        plateau=plateau,
        watch_test=config.watch_test,
        every_epoch=every_epoch,
        on_nonfinite=config.on_nonfinite,
        patience=config.patience if plateau is None else None,
    )


def _batch_size(task: Task, learner: Learner) -> int:
    """The task's batch size, or all its sequences if the optimizer works on the whole data."""
    return task.epoch_size if learner.full_batch else task.batch_size


def _check_memory(
    task: Task, batch_size: int, model: SequenceModel, truncation: Truncation | None
) -> None:
    """Raises UserError if the minibatch with the longest sequence does not fit into memory.

    It counts the inputs and the states of each layer that a gradient needs: a lower bound.
    """
    steps, count = task.steps, min(batch_size, task.epoch_size)
    shorter = steps if model.stem is None else steps_after(steps, model.stem.shapes)
    reach = shorter if truncation is None else min(steps, truncation.backward)
    states = sum(width(layer, 0) for layer in model.recurrent)
    numbers = count * (steps * task.input_size + reach * states // processes())
    what = f"a minibatch of {count} sequences, padded to the {steps} steps of the longest,"
    try:
        check_memory(4 * numbers, what)
    except ValueError as error:
        raise UserError(
            f"{error} Take a smaller --batch-size or shorter sequences (of your own, --subsample"
            " makes them shorter)."
        ) from error


def _build_optimizer(
    config: RunConfig, model: SequenceModel, truncation: Truncation | None, task: Task
) -> Any:
    """The optimizer; FrankWolfe's inner_steps defaults to the number of chunks."""
    name, options = parse(config.optimizer)
    specification = config.optimizer
    if truncation is not None and name.startswith("frank-wolfe") and "inner_steps" not in options:
        chunks = len(truncation.chunks(task.steps))
        specification = write(name, options | {"inner_steps": chunks})
    return build_learner(specification, model, task.loss, config.lr)


def model_settings(config: RunConfig, task: Task) -> dict[str, Any]:
    """Arguments of the run's SequenceModel.

    Raises:
        UserError: a setting contradicts the model's name.
    """
    preset = MODELS[config.model][0]
    names = ("layers", "dropout", "initialization")
    chosen = {n: getattr(config, n) for n in names if getattr(config, n) is not None}
    for name in ("batch_norm", "bidirectional"):
        if getattr(config, name):
            chosen[name] = True
    if config.stem is not None:
        chosen["stem"] = parse_stem(config.stem)
    for name, value in chosen.items():
        # Runs of an earlier version may have "indrnn" where "indrnn-paper" stands now.
        if preset.get(name, value) not in (value, f"{value}-paper"):
            raise UserError(
                f"model {config.model!r} has {name}={preset[name]}, got {name}={value}."
            )
    return dict(
        input_size=task.input_size,
        hidden_size=config.hidden or task.hidden_size,
        output_size=task.output_size,
        readout=config.readout or task.readout,
        steps=task.steps,
        **(chosen | preset),
    )


def _build_model(config: RunConfig, task: Task) -> SequenceModel:
    settings = model_settings(config, task)
    try:
        return SequenceModel(**settings)
    except ValueError as error:  # options that exclude each other
        raise UserError(f"model {config.model!r}: {error}") from error


def _device(name: str) -> torch.device:
    """The torch device of that name; raises UserError if this machine does not have it."""
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(
            f"--device must be cpu, cuda, cuda:1, mps or another that torch knows, got {name!r}."
        ) from error
    try:
        torch.zeros((), device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(
            f"--device {name!r} is not available: this machine, or the torch installed on it, has"
            " no such device."
        ) from error
    return device
