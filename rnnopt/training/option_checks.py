"""Options that do not go together, and those that change nothing beside the others.

What cannot mean anything is refused before anything is written. What can be done but is hardly
meant, such as a minibatch of more sequences than there are, is told.
"""

from collections.abc import Collection, Sequence
from pathlib import Path

from rnnopt.config.errors import UserError
from rnnopt.config.errors import option as as_option
from rnnopt.config.run_config import MODELS, RunConfig, SharedConfig
from rnnopt.config.specs import parse
from rnnopt.tasks.examples import Examples
from rnnopt.tasks.task import Task
from rnnopt.training.loop import Training
from rnnopt.training.resolve import resolve

# Options that say how tables are read, and those that a folder of texts takes, too.
OF_TABLES = ("label", "id", "time", "layout", "header", "decimal")
OF_FOLDERS = ("time", "decimal")
ARRAYS = (".npz", ".ts")  # no tables


def refuse_contradictions(config: SharedConfig, given: Collection[str]) -> None:
    """Raises UserError for options that contradict each other.

    Args:
        config: the run, or what the runs of a comparison have in common.
        given: fields of `config` that were asked for, even where they are the defaults.
    """
    if {"test", "test_fraction"} <= set(given):
        raise UserError(
            "--test has the series to test on, and --test-fraction would hold some of --data out:"
            " give one of them."
        )
    if config.data is not None:
        paths = [Path(path) for path in (config.data, config.test) if path is not None]
        refuse_columns(paths, given)
    waiting = next((name for name in ("decay", "patience") if name in given), None)
    if waiting and not config.schedule.startswith("plateau"):
        raise UserError(f"{as_option(waiting)} needs a plateau schedule, got {config.schedule}.")
    if "batch_norm" in given and MODELS[config.model][0].get("batch_norm") not in (
        None,
        config.batch_norm,
    ):
        raise UserError(f"model {config.model!r} has batch_norm=True, got --no-batch-norm.")


def refuse_columns(paths: Sequence[Path], given: Collection[str]) -> None:
    """Raises UserError for options that say how tables are read, with data that are none.

    Args:
        paths: the data to learn from and, where they are apart, to test on.
        given: names of the options that were asked for.
    """
    if any(not path.is_dir() and path.suffix.lower() not in ARRAYS for path in paths):
        return
    taken = OF_FOLDERS if any(path.is_dir() for path in paths) else ()
    option = next((name for name in OF_TABLES if name in given and name not in taken), None)
    if option:
        raise UserError(
            f"{as_option(option)} says how a table is read, and {paths[0]} is none: leave it out."
        )


def refuse_heartbeat(storage: str | None, given: Collection[str]) -> None:
    """Raises UserError for signs of life that nobody would see."""
    if storage is None and "heartbeat" in given:
        raise UserError("--heartbeat needs --storage, the database of workers on many machines.")


def refuse_splits(task: Task, given: Collection[str]) -> None:
    """Raises UserError for options that hold out series where the user's data have them apart.

    Args:
        task: the task.
        given: fields of the config that were asked for, even where they are the defaults.
    """
    if task.data is None:
        return
    wanted = (("test_fraction", "test"), ("validation", "validation"))
    for name, part in wanted:
        if name in given and part not in task.data.held_out:
            raise UserError(
                f"{task.name} has {part} series of its own: leave out {as_option(name)}."
            )
    if "split_seed" in given and not task.data.held_out:
        raise UserError(
            f"{task.name} has validation and test series of its own: leave out --split-seed."
        )


def warnings_of(config: RunConfig, training: Training) -> list[str]:
    """A sentence for each option that is hardly meant as it stands: most change nothing.

    Args:
        config: the run.
        training: built from it.
    """
    config, task = resolve(config), training.task
    count, told = task.epoch_size, []
    if config.batch_size and isinstance(task.train, Examples) and config.batch_size > count:
        told.append(
            f"--batch-size {config.batch_size} is more than the {count} training sequences: a"
            " minibatch has all of them"
        )
    chunks = training.closure.chunks
    if chunks is not None and min(config.tbptt or 0, chunks.truncation.backward) >= task.steps:
        told.append(
            f"--tbptt {config.tbptt} cuts nothing: sequences have at most {task.steps} steps"
        )
    allowed = training.allowed()
    if allowed is not None and config.evaluate_every and config.evaluate_every > allowed[0]:
        told.append(
            f"--evaluate-every {config.evaluate_every} is beyond the budget of {allowed[0]:.6g}"
            " gradients: the validation data are looked at before training and at the end alone"
        )
    if allowed is not None and training.plateau is not None and config.patience >= allowed[1]:
        told.append(
            f"the schedule {config.schedule} waits for {config.patience:g} epochs, and the budget"
            f" has {allowed[1]:.3g}: the learning rate never falls"
        )
    if config.subsample > 1 and task.steps == 1:
        told.append(f"--subsample {config.subsample} leaves one step of each series")
    groups = training.optimizer.param_groups
    if config.clip is not None and all(group.get("normalize") for group in groups):
        told.append(
            f"--clip {config.clip:g} changes nothing: {parse(config.optimizer)[0]} divides each"
            " gradient by its norm"
        )
    return told
