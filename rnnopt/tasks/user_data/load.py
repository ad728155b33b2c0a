"""Builds a task from the user's files that a run's config names."""

from dataclasses import replace
from pathlib import Path

from rnnopt.config.data_config import DataConfig
from rnnopt.config.data_files import brief, files_of
from rnnopt.config.errors import UserError
from rnnopt.tasks.task import Task
from rnnopt.tasks.user_data.build import build
from rnnopt.tasks.user_data.forecasting import Forecast, forecast_channels
from rnnopt.tasks.user_data.readers import sha256
from rnnopt.tasks.user_data.readers.columns import Columns, Parts
from rnnopt.tasks.user_data.readers.intervals import with_interval_labels
from rnnopt.tasks.user_data.readers.several import read_data, sha256_of
from rnnopt.tasks.user_data.recordings import Recordings
from rnnopt.tasks.user_data.sampling import Sampling


def own_task(config: DataConfig, name: str) -> Task:
    """The task of a config with `data`.

    Raises:
        UserError: a file is missing or has wrong content; the message states which.
    """
    fold = None if config.folds is None else (config.folds, config.fold or 0)
    if fold is not None and not fold[1]:
        raise UserError("--folds needs the number of one, --fold; `rnnopt train` alone trains all.")
    data, test = read_parts(config)
    assert config.data is not None
    given = {"data": config.data, "test": config.test}
    sources = {role: text for role, text in given.items() if text is not None}
    hashes = {role: {"path": text, "sha256": sha256_of(text)} for role, text in sources.items()}
    if config.labels is not None:
        hashes["labels"] = {"path": config.labels, "sha256": sha256(Path(config.labels))}
    try:
        task = build(
            data,
            test,
            validation=config.validation,
            test_fraction=config.test_fraction,
            seed=config.split_seed,
            target=config.target,
            name=name,
            sources=hashes,
            kind=config.kind,
            missing=config.missing,
            padded=config.padded,
            normalize=config.normalize,
            subsample=config.subsample,
            sampling=Sampling.of(config),
            fold=fold,
            ignore_first=config.ignore_first,
            split=config.split,
            forecast=_forecast(config, data),
        )
    except ValueError as error:
        raise UserError(f"{brief(config.data)}: {error}") from error
    assert task.data is not None
    doubts = (*task.data.doubts, *_doubt_of_test(config))
    return replace(task, data=replace(task.data, doubts=doubts))


def _doubt_of_test(config: DataConfig) -> list[str]:
    """A warning of files of --test that are among those of --data."""
    if config.test is None or config.data is None:
        return []
    data = {path.resolve() for path in files_of(config.data)}
    both = [str(path) for path in files_of(config.test) if path.resolve() in data]
    return [f"{both[0]} is among the files of --data and of --test"] if both else []


def _forecast(config: DataConfig, data: Recordings) -> Forecast | None:
    """What to forecast; None without a horizon."""
    if config.horizon is None:
        return None
    places = forecast_channels(data.channels, config.label)
    return Forecast(config.horizon, places, config.season)


def read_parts(config: DataConfig) -> Parts:
    """The training series, and the test series if they are separate."""
    assert config.data is not None
    columns = Columns.of(config)
    data, test = read_data(config.data, columns)
    if config.test is not None:
        if test is not None:
            raise UserError(f"{brief(config.data)} holds test series of its own: leave out --test.")
        test = read_data(config.test, columns.like(data.table))[0]
    if config.labels is not None:
        data, test = with_interval_labels(Path(config.labels), data, test)
    if data.validation is not None and config.validation != DataConfig.validation:
        raise UserError(
            f"{brief(config.data)} holds validation series of its own: leave out --validation."
        )
    parts = (config.data, data), (config.data, data.validation), (config.test or config.data, test)
    for path, part in parts:
        if part is not None and config.each_step and part.targets is not None:
            raise UserError(
                f"{brief(path)} has one target a series, and --each-step needs one a step: a long"
                " table, arrays X and y, or a folder of recordings."
            )
        if part is not None and not part.labelled and config.horizon is None:
            label = None if data.table is None else data.table.label
            where = "" if label is None else f" in a column {label!r}"
            if part.table is None and part.stamps is not None:
                where = " (--label names a signal or annotations, --labels a table of intervals)"
            raise UserError(f"{brief(path)} needs a target for each series{where}, got none.")
    return data, test
