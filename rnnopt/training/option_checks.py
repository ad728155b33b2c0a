"""Options that exclude each other, and options that have no effect beside others.

Contradictions raise an error before anything is written. Options that are possible but probably not
intended, such as a minibatch of more sequences than there are, give a warning.
"""

from collections.abc import Collection, Sequence
from pathlib import Path

from rnnopt.config.data_files import files_of
from rnnopt.config.errors import UserError
from rnnopt.config.errors import option as as_option
from rnnopt.config.run_config import MODELS, RunConfig, SharedConfig
from rnnopt.config.specs import parse
from rnnopt.tasks.examples import Examples
from rnnopt.tasks.task import Task
from rnnopt.tasks.user_data.readers.recorders import RECORDERS
from rnnopt.training.loop import Training
from rnnopt.training.resolve import resolve

# Options for reading tables, and those of them that a folder of texts also takes.
OF_TABLES = ("label", "id", "time", "layout", "header", "decimal", "time_unit")
OF_FOLDERS = ("label", "time", "decimal", "time_unit")
ARRAYS = (".npz", ".ts", ".mat", ".h5", ".hdf5")  # files that are not tables
OF_RECORDERS = ("label",)


def refuse_contradictions(config: SharedConfig, given: Collection[str]) -> None:
    """Raises UserError for options that contradict each other.

    Args:
        config: config of the run, or the common part of a comparison's configs.
        given: fields of `config` that the user passed, even with the default value.
    """
    if {"test", "test_fraction"} <= set(given):
        raise UserError(
            "--test has the test series, and --test-fraction would hold out some of --data: pass"
            " only one of them."
        )
    if config.data is not None:
        named = (config.data, config.test)
        paths = [path for text in named if text is not None for path in files_of(text)]
        refuse_columns(paths, given)
    if "decay" in given and not config.schedule.startswith("plateau"):
        raise UserError(f"--decay needs a plateau schedule, got {config.schedule}.")
    if (
        config.batch_norm is not None
        and "batch_norm" in given
        and MODELS[config.model][0].get("batch_norm")
        not in (
            None,
            config.batch_norm,
        )
    ):
        raise UserError(f"model {config.model!r} has batch_norm=True, got --no-batch-norm.")


def refuse_columns(paths: Sequence[Path], given: Collection[str]) -> None:
    """Raises UserError for options of tables if the data are not tables.

    Args:
        paths: the training data and, if separate, the test data.
        given: names of the options that the user passed.
    """
    endings = [path.suffix.lower() for path in paths if not path.is_dir()]
    if any(one not in (*ARRAYS, *RECORDERS) for one in endings):
        return
    folder = any(path.is_dir() for path in paths)
    taken: tuple[str, ...] = OF_FOLDERS if folder else ()
    if any(one in RECORDERS for one in endings):
        taken += OF_RECORDERS
    if "horizon" in given or (folder and "each_step" in given):
        taken += ("label",)
    option = next((name for name in OF_TABLES if name in given and name not in taken), None)
    if option:
        raise UserError(
            f"{as_option(option)} is for tables, and {paths[0]} is not a table: leave it out."
        )


def refuse_splits(task: Task, given: Collection[str]) -> None:
    """Raises UserError for options that hold out series if the user's data are already split.

    Args:
        task: task of the run.
        given: fields of the config that the user passed, even with the default value.
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
    """A sentence for each option that is probably not intended; most have no effect.

    Args:
        config: config of the run.
        training: the run built from it.
    """
    config, task = resolve(config), training.task
    count, sentences = task.epoch_size, []
    if config.batch_size and isinstance(task.train, Examples) and config.batch_size > count:
        sentences.append(
            f"--batch-size {config.batch_size} is more than the {count} training sequences: a"
            " minibatch has all of them"
        )
    chunks = training.closure.chunks
    if chunks is not None and min(config.tbptt or 0, chunks.truncation.backward) >= task.steps:
        sentences.append(
            f"--tbptt {config.tbptt} cuts nothing: sequences have at most {task.steps} steps"
        )
    allowed = training.allowed()
    if allowed is not None and config.evaluate_every and config.evaluate_every > allowed[0]:
        sentences.append(
            f"--evaluate-every {config.evaluate_every} is beyond the budget of {allowed[0]:.6g}"
            " gradients: evaluation takes place only before training and at the end"
        )
    waits = training.patience if training.plateau is None else training.plateau.patience
    if allowed is not None and waits is not None and waits >= allowed[1]:
        what, never = f"the schedule {config.schedule}", "the learning rate never falls"
        if training.plateau is None:
            what, never = "early stopping", "the run never ends early"
        sentences.append(
            f"{what} waits for {waits:g} epochs, and the budget has {allowed[1]:.3g}: {never}"
        )
    if config.subsample > 1 and task.steps == 1:
        sentences.append(f"--subsample {config.subsample} leaves one step of each series")
    groups = training.optimizer.param_groups
    if config.clip is not None and all(group.get("normalize") for group in groups):
        sentences.append(
            f"--clip {config.clip:g} changes nothing: {parse(config.optimizer)[0]} divides each"
            " gradient by its norm"
        )
    return sentences
