"""How a run names data of the user's own, and what is done to them before training."""

import re
from dataclasses import dataclass, fields
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from rnnopt.config.errors import UserError, option, unknown_name

Kind = Literal["classification", "regression"]
Missing = Literal["error", "zero", "mean", "interpolate"]
Layout = Literal["wide", "long"]
Header = Literal["yes", "no"]
Decimal = Literal[".", ","]
Split = Literal["series", "time"]
# File names that say nothing of what is in them: the folder's name does.
BLANK_NAMES = ("train", "training", "data", "x", "")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Data of the user's own, in place of a task.

    Args:
        data: File or folder to learn from, in place of --task: .npz, .csv, .tsv, .parquet, .ts, a
            folder of arrays, or a folder with a subfolder for each class (see docs/own-data.md).
        test: File or folder of the same kind to test on. Unset: --test-fraction of --data is held
            out.
        validation: Fraction of the training series to hold out for validation, class by class.
        test_fraction: Fraction of --data to hold out for testing when there is no --test.
        split_seed: Seed of the train/validation/test split. Runs with the same seed hold out the
            same series.
        kind: Kind of task. Unset: classification if the targets are words or whole numbers, else
            regression.
        missing: Treatment of missing values: error refuses them; zero, mean (of the channel, over
            the training data) and interpolate (along time) fill them.
        padded: Padding at the end of series: missing values there are no steps, and the series is
            shorter.
        normalize: Normalization of each channel to mean 0 and standard deviation 1 over the
            training data; in regression also of the targets.
        subsample: Number of steps that are averaged into one step of the network.
        label: Column of the labels: a name, a position counted from 0, or -1 or last for the last
            one. Unset: the column called label, class, target or y, else the first.
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
        target: Metric to reach, for the cost to reach a target. Unset: accuracy 1 or error 0.
        each_step: Targets at every step: the labels vary within a series, and --label may name
            several columns (y1,y2). Empty cells and NaN are missing targets, which do not count.
        ignore_first: Number of first steps of each series whose targets do not count, while the
            network's state forgets where it began.
        horizon: Number of steps to forecast from each step, of the channels that --label names
            (y1,y2). Unset: no forecast; without --label of all channels.
        season: Steps of a season, for the seasonal-naive forecast beside the network's.
        split: Split of data with targets at every step: series holds out whole series, time the
            end of each. Unset: time with --horizon or fewer than five series, else series.
    """

    data: str | None = None
    test: str | None = None
    validation: float = 0.2
    test_fraction: float = 0.2
    split_seed: int = 0
    kind: Kind | None = None
    missing: Missing = "error"
    padded: bool = False
    normalize: bool = True
    subsample: int = 1
    label: str | None = None
    id: str | None = None
    time: str | None = None
    layout: Layout | None = None
    header: Header | None = None
    decimal: Decimal | None = None
    target: float | None = None
    each_step: bool = False
    ignore_first: int = 0
    horizon: int | None = None
    season: int | None = None
    split: Split | None = None

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
                object.__setattr__(self, name, str(Path(getattr(self, name)).absolute()))
        for name in ("validation", "test_fraction"):
            if not 0 < getattr(self, name) < 1:
                value = getattr(self, name)
                raise UserError(f"{option(name)} must be in (0, 1), got {value}.")
        self._check_steps()
        if self.subsample < 1:
            raise UserError(f"--subsample must be at least 1, got {self.subsample}.")
        if not 0 <= self.split_seed < 2**63:
            raise UserError(f"--split-seed must be in 0 … 2^63 - 1, got {self.split_seed}.")

    def _check_steps(self) -> None:
        """Raises UserError for options of targets at every step that do not go together."""
        if self.ignore_first < 0:
            raise UserError(f"--ignore-first must be at least 0, got {self.ignore_first}.")
        for name in ("horizon", "season"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"{option(name)} must be at least 1, got {value}.")
        if self.horizon is not None and self.each_step:
            raise UserError("--horizon makes the targets of each step: leave out --each-step.")
        if self.season is not None and self.horizon is None:
            raise UserError("--season needs --horizon, the steps to forecast.")


def check_choices(config: Any) -> None:
    """Raises UserError if a field of a dataclass is none of the literals of its type."""
    for field in fields(config):
        kinds = (field.type, *get_args(field.type))
        allowed = [one for kind in kinds if get_origin(kind) is Literal for one in get_args(kind)]
        value = getattr(config, field.name)
        if allowed and value not in allowed and not (value is None and NoneType in kinds):
            raise unknown_name(option(field.name)[2:], value, allowed)


def data_name(path: str) -> str:
    """What to call the data of a file: "CricketX" for …/CricketX_TRAIN.tsv."""
    place = Path(path)
    name = re.sub(r"(?i)[-_. ]*(train|training)$", "", place.stem)
    if name.lower() in BLANK_NAMES:
        name = place.parent.name or "data"
    return re.sub(r"[^\w.-]+", "-", name).strip("-") or "data"
