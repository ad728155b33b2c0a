"""Completes a run's settings: options passed with the optimizer, sizes set by the task."""

from collections.abc import Collection
from dataclasses import replace

from rnnopt.config.errors import UserError
from rnnopt.config.errors import option as as_option
from rnnopt.config.run_config import RunConfig
from rnnopt.config.specs import option_names, parse, write
from rnnopt.tasks import Task
from rnnopt.tasks.examples import Examples
from rnnopt.training.automatic import settled
from rnnopt.training.registry import entry_of

# Options of the loop that may be passed with the optimizer, so that `compare` can vary them.
LOOP_OPTIONS = (
    "lr", "clip", "clip_value", "schedule", "decay", "patience", "batch_size", "tbptt",
    "tbptt_backward",
)  # fmt: skip


OF_GRADIENTS = ("clip", "clip_value", "tbptt")  # options that change gradients


def resolve(config: RunConfig) -> RunConfig:
    """`config` with the loop's options moved out of the optimizer's specification."""
    name, options = parse(config.optimizer)
    moved = {option: options.pop(option) for option in LOOP_OPTIONS if option in options}
    for option, value in moved.items():
        whole = option in ("batch_size", "tbptt", "tbptt_backward")
        kind = int if whole else (int, float)
        if option != "schedule" and (not isinstance(value, kind) or isinstance(value, bool)):
            wanted = "a whole number" if whole else "a number"
            raise UserError(f"{option} must be {wanted}, got {value!r} in {config.optimizer!r}.")
    return replace(config, optimizer=write(name, options), **moved)  # type: ignore[arg-type]


def options_of_optimizer(name: str) -> list[str]:
    """Names of an optimizer's own options, without those of the loop."""
    entry = entry_of(name)
    known = option_names(entry.build, entry.positional)
    return [option for option in known if option not in LOOP_OPTIONS]


def loop_options_of(name: str) -> list[str]:
    """The loop's options that may be passed with an optimizer, besides lr."""
    without = getattr(entry_of(name).build, "refuses_gradient_options", "")
    left_out = {"lr", *((*OF_GRADIENTS, "tbptt_backward") if without else ())}
    return [option for option in LOOP_OPTIONS if option not in left_out]


def check_conflicts(config: RunConfig, given: Collection[str] = ()) -> None:
    """Raises UserError if a loop option and the same option of the optimizer differ.

    In a comparison the optimizer's value is used, so that optimizers may differ.

    Args:
        config: config of the run.
        given: fields of `config` that the user passed, even with the default value.
    """
    own = parse(config.optimizer)[1]
    for option in LOOP_OPTIONS:
        value = getattr(config, option)
        asked = option in given or value != getattr(RunConfig, option)
        if asked and option in own and own[option] != value:
            shown = f"{value:g}" if isinstance(value, float) else value
            raise UserError(
                f"{as_option(option)} must be given once, got {shown} and that of the optimizer,"
                f" {config.optimizer!r}."
            )


def fill_from_task(config: RunConfig, task: Task) -> RunConfig:
    """`config` with model, budget and read-out filled in from its task, as stored in a run folder.

    Raises:
        UserError: the task and the read-out exclude each other.
    """
    config, _ = settled(config, task)
    if task.readout == "every" and config.readout not in (None, "every"):
        raise UserError(
            f"{task.name} has a target at every step and needs --readout every, got"
            f" {config.readout}."
        )
    if config.bidirectional and task.data is not None and task.data.preparation.horizon:
        raise UserError(
            "--horizon needs a network that sees the past alone: leave out --bidirectional."
        )
    own = None if task.data is None else task.data.preparation
    if own is not None and own.lags and (config.bidirectional or config.stem):
        other = "--bidirectional" if config.bidirectional else "--stem"
        raise UserError(f"--feedback needs a network that runs step by step: leave out {other}.")
    admm = parse(config.optimizer)[0] == "admm"
    if admm and isinstance(task.train, Examples) and task.train.lacks_targets:
        raise UserError(f"admm needs a target at every step, and {task.name} lacks some.")
    return replace(config, readout=config.readout or task.readout)


def refuse_gradient_options(config: RunConfig, reason: str) -> None:
    """Raises UserError for options that change gradients, if the optimizer does not allow them."""
    for name in OF_GRADIENTS:
        if getattr(config, name) is not None:
            optimizer = parse(config.optimizer)[0]
            raise UserError(
                f"optimizer {optimizer!r} {reason}: it cannot go with {as_option(name)}."
            )
