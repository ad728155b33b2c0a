"""How a run names data of the user's own, and what is done to them before training."""

import re
from dataclasses import dataclass, fields
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from rnnopt.config.data_files import absolute
from rnnopt.config.errors import UserError, option, unknown_name

Kind = Literal["classification", "regression", "multilabel"]
Missing = Literal["error", "zero", "mean", "interpolate"]
Layout = Literal["wide", "long"]
Header = Literal["yes", "no"]
Decimal = Literal[".", ","]
Split = Literal["series", "time"]
TimeUnit = Literal["s", "ms", "us", "ns", "min", "h", "d"]


@dataclass(frozen=True, kw_only=True)
class ReadConfig:
    """How a file of the user's own is read and cut, for training and for a description of it.

    Args:
        kind: Kind of task. multilabel: several labels a series, each 0 or 1, as rows of an array or
            as columns of a table that --label names (a,b,c). Unset: classification if the targets
            are words or whole numbers, else regression.
        padded: Padding at the end of series: missing values there are no steps, and the series is
            shorter.
        label: Column of the labels: a name, a position counted from 0, or -1 or last for the last
            one. Unset: the column called label, class, target or y, else the first. Of a
            recorder's file: a signal, or annotations. Unset: none.
        labels: Table of intervals with labels, .csv: columns start, end and label, and file, the
            name of the recording, if there are several. A step from start to before end has that
            label. They are in the unit of the recordings' time, or steps counted from 0. Steps in
            no interval have no label. It needs --window or --each-step.
        id: Column that identifies the series, in tables with one step a row. Unset: the column
            called id, series or case.
        time: Column of the time, in tables with one step a row. Unset: the column called time, t,
            timestamp or step, else the order of the rows.
        layout: Layout of tables with column names: wide (one series a row) or long (one step a
            row). Unset: long if the id column names a series more than once.
        header: Header line of a .csv, .tsv or .txt: yes if the first line names the columns, no if
            it is data. Unset: what it looks like.
        decimal: Decimal sign in a .csv, .tsv or .txt. Unset: a point; a comma where semicolons or
            tabs separate the cells and no number has a point.
        each_step: Targets at every step, instead of one per series. --label may then name several
            columns (y1,y2). Empty cells and NaN are missing targets, which do not count.
        drop: Channels or columns to leave out, by name or by position counted from 0.
        group: Column of the person or machine that a series is of. All series of a group are in
            one of the parts: training, validation or test. file: each of several files is a group.
        window: Number of steps of the windows that each recording is cut into. Labels may then
            change within a recording: a window has the commonest label of its steps. Unset: whole
            recordings.
        stride: Number of steps from the start of a window to that of the next. Unset: --window.
        purge: Exclusion of the windows with more than one label, or with steps that have none.
        resample: Rate to which recordings are resampled, such as 50Hz or 20ms. Unset: none.
        rate: Rate of recordings without a column of times, for --resample.
        time_unit: Unit of times that are numbers.
        time_gap: An additional channel with the seconds since the previous step.
    """

    kind: Kind | None = None
    padded: bool = False
    label: str | None = None
    labels: str | None = None
    id: str | None = None
    time: str | None = None
    layout: Layout | None = None
    header: Header | None = None
    decimal: Decimal | None = None
    each_step: bool = False
    drop: tuple[str, ...] = ()
    group: str | None = None
    window: int | None = None
    stride: int | None = None
    purge: bool = False
    resample: str | None = None
    rate: str | None = None
    time_unit: TimeUnit = "s"
    time_gap: bool = False


@dataclass(frozen=True, kw_only=True)
class DataConfig(ReadConfig):
    """Data of the user's own, in place of a task.

    Args:
        data: File or folder to learn from, in place of --task: .npz, .csv, .tsv, .parquet, .ts,
            .arff, .mat, .h5, a file of a recorder (.edf, .mf4, …, see docs/recordings.md), a folder
            of arrays, or a folder with a subfolder for each class (see docs/own-data.md). Several
            of one kind, or a pattern ("day*.csv"), are one data set.
        test: File or folder of the same kind to test on, or several. Unset: --test-fraction of
            --data is held out.
        validation: Fraction of the training series to hold out for validation, class by class.
        test_fraction: Fraction of --data to hold out for testing when there is no --test.
        split_seed: Seed of the train/validation/test split. Runs with the same seed hold out the
            same series.
        missing: Treatment of missing values: error refuses them; zero, mean (of the channel, over
            the training data) and interpolate (along time) fill them.
        normalize: Normalization of each channel to mean 0 and standard deviation 1 over the
            training data; in regression also of the targets.
        subsample: Number of steps that are averaged into one step of the network.
        target: Metric to reach, for the cost to reach a target. Unset: accuracy 1 or error 0.
        ignore_first: Number of first steps of each series whose targets do not count (washout).
            There the network's state still depends on its initial value.
        feedback: Number of past outputs, y(t-1), y(t-2), …, that the network has as further inputs
            (NARX). Training gives it the measured ones (teacher forcing). On validation and test
            data it runs free: after the first --ignore-first steps, or as many as --feedback, its
            own outputs are fed back. 0: inputs alone.
        horizon: Number of steps to forecast from each step, of the channels that --label names
            (y1,y2). Unset: no forecast; without --label of all channels.
        season: Number of steps of a season. The network is then compared with the seasonal-naive
            forecast too. Unset: with the naive forecast alone, which repeats the last value.
        split: How data with targets at every step are held out: whole series (series) or the end of
            each series (time). Unset: time with --horizon or fewer than five series, else series.
        folds: Number of folds of a cross-validation. Each fold is the test part of one run.
        fold: Number of the one fold to test on, counted from 1. Unset: a run for each fold,
            in folders fold-1, fold-2, ….
    """

    data: str | None = None
    test: str | None = None
    validation: float = 0.2
    test_fraction: float = 0.2
    split_seed: int = 0
    missing: Missing = "error"
    normalize: bool = True
    subsample: int = 1
    target: float | None = None
    ignore_first: int = 0
    feedback: int = 0
    horizon: int | None = None
    season: int | None = None
    split: Split | None = None
    folds: int | None = None
    fold: int | None = None

    def __post_init__(self) -> None:
        check_choices(self)
        if self.data is None:
            for field in fields(DataConfig):
                if getattr(self, field.name) != field.default:
                    raise UserError(f"{option(field.name)} needs --data, got none.")
            return
        if type(self.label) is int:
            object.__setattr__(self, "label", str(self.label))
        for name in ("data", "test"):
            if getattr(self, name) is not None:  # a run must find it from anywhere
                object.__setattr__(self, name, absolute(getattr(self, name)))
        if self.labels is not None:
            object.__setattr__(self, "labels", str(Path(self.labels).absolute()))
        for name in ("validation", "test_fraction"):
            if not 0 < getattr(self, name) < 1:
                value = getattr(self, name)
                raise UserError(f"{option(name)} must be in (0, 1), got {value}.")
        if self.subsample < 1:
            raise UserError(f"--subsample must be at least 1, got {self.subsample}.")
        if not 0 <= self.split_seed < 2**63:
            raise UserError(f"--split-seed must be in 0 … 2^63 - 1, got {self.split_seed}.")
        _check_windows(self)
        _check_labels(self)
        _check_folds(self)
        _check_steps(self)


def _check_steps(config: DataConfig) -> None:
    """Raises UserError for options of targets at every step that do not go together."""
    if config.ignore_first < 0:
        raise UserError(f"--ignore-first must be at least 0, got {config.ignore_first}.")
    if config.feedback < 0:
        raise UserError(f"--feedback must be at least 0, got {config.feedback}.")
    if config.feedback and not config.each_step:
        raise UserError("--feedback needs --each-step, the outputs of each step.")
    for name in ("horizon", "season"):
        value = getattr(config, name)
        if value is not None and value < 1:
            raise UserError(f"{option(name)} must be at least 1, got {value}.")
    if config.horizon is not None and config.each_step:
        raise UserError("--horizon makes the targets of each step: leave out --each-step.")
    if config.horizon is not None and (config.stride is not None or config.purge):
        other = "stride" if config.stride is not None else "purge"
        raise UserError(
            f"--horizon trains on windows that lie half over each other: leave out {option(other)}."
        )
    if config.season is not None and config.horizon is None:
        raise UserError("--season needs --horizon, the steps to forecast.")


def _check_windows(config: DataConfig) -> None:
    """Raises UserError for windows or rates that are impossible."""
    for name in ("window", "stride"):
        value = getattr(config, name)
        if value is not None and value < 1:
            raise UserError(f"{option(name)} must be at least 1, got {value}.")
    for name in ("stride", "purge"):
        if config.window is None and getattr(config, name):
            raise UserError(f"{option(name)} needs --window, the steps of a window.")
    for name in ("resample", "rate"):
        if (text := getattr(config, name)) is not None:
            hertz(text, option(name))
    if config.resample is not None and config.time_gap:
        raise UserError("--resample makes all gaps equal: leave out --time-gap.")
    if config.rate is not None and config.resample is None:
        raise UserError("--rate needs --resample, the rate to resample to.")


def _check_labels(config: DataConfig) -> None:
    """Raises UserError for a table of labels beside options that do not go with it."""
    if config.labels is None:
        return
    if config.label is not None or config.horizon is not None:
        other = "label" if config.label is not None else "horizon"
        raise UserError(f"--labels gives each step its label: leave out {option(other)}.")
    if config.window is None and not config.each_step:
        raise UserError("--labels needs --window, a label a window, or --each-step, one a step.")


def _check_folds(config: DataConfig) -> None:
    """Raises UserError for folds that are impossible."""
    if config.folds is None:
        if config.fold is not None:
            raise UserError("--fold needs --folds, the number of all folds.")
        return
    if config.folds < 2:
        raise UserError(f"--folds must be at least 2, got {config.folds}.")
    if config.fold is not None and not 1 <= config.fold <= config.folds:
        raise UserError(f"--fold must be in 1 … {config.folds}, got {config.fold}.")
    if config.test is not None or config.test_fraction != DataConfig.test_fraction:
        other = "test" if config.test is not None else "test_fraction"
        raise UserError(f"--folds tests on each part of --data in turn: leave out {option(other)}.")


PERIODS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0} | {
    "h": 3600.0, "d": 86400.0
}  # fmt: skip
RATES = {"mHz": 1e-3, "Hz": 1.0, "kHz": 1e3, "MHz": 1e6}


def hertz(text: str, name: str = "rate") -> float:
    """The rate in hertz that a text such as 50Hz, 1.5kHz, 20ms or 15min names.

    Raises:
        UserError: it is none.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Zµ]+)\s*", str(text))
    if match and 0 < float(match[1]) < 1e15:
        if match[2] in RATES:
            return float(match[1]) * RATES[match[2]]
        if match[2] in PERIODS:
            return 1 / (float(match[1]) * PERIODS[match[2]])
    raise UserError(
        f"{name} must be a rate such as 50Hz or the time between two steps such as 20ms, got"
        f" {str(text)!r}."
    )


def check_choices(config: Any) -> None:
    """Raises UserError if a field of a dataclass is none of the literals of its type."""
    for field in fields(config):
        kinds = (field.type, *get_args(field.type))
        allowed = [one for kind in kinds if get_origin(kind) is Literal for one in get_args(kind)]
        value = getattr(config, field.name)
        if allowed and value not in allowed and not (value is None and NoneType in kinds):
            raise unknown_name(option(field.name)[2:], value, allowed)
