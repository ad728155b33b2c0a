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
# File names that say nothing of what is in them: the folder's name does.
BLANK_NAMES = ("train", "training", "data", "x", "")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Data of the user's own, in place of a task.

    Args:
        data: file or folder to learn from, in place of --task: .npz, .csv, .tsv, .parquet, .ts, a
            folder of arrays or one with a subfolder a class (see docs/own-data.md).
        test: file of the same kind to test on; unset means that test-fraction of --data is held
            out.
        validation: part of the training series that is held out for validation, class by class.
        test_fraction: part of --data that is held out for testing where there is no --test.
        split_seed: of what is held out; every run with the same one holds out the same series.
        kind: classification or regression; unset means classes if the targets are words or whole
            numbers.
        missing: what to do where values are missing: error refuses them, zero, mean (of the
            channel, in the training data) and interpolate (along time) fill them.
        padded: missing values at the end of a series only fill it up: it is shorter.
        normalize: give each channel mean 0 and deviation 1 over the training data; and targets, in
            regression.
        subsample: steps whose mean is one step of the network.
        label: the column of the labels: its name, or its place, counted from 0, or from -1 for the
            last (also: last); unset means one called label, class, target or y, else the first.
        id: the column that names the series, in tables with one row a step; unset means one called
            id, series or case.
        time: the column of the time, there; unset means one called time, t, timestamp or step, else
            the order of the rows.
        layout: of tables with names: wide, a series a row, or long, a step a row; unset means long
            if the id column names a series more than once.
        header: whether the first line of a .csv, .tsv or .txt names its columns; unset means
            what it looks like.
        decimal: the sign before decimals in a .csv, .tsv or .txt, a point or a comma; unset means
            a point, but a comma where semicolons or tabs are between cells and no number has a
            point.
        target: metric to reach, for the cost to a target; unset means accuracy 1 or error 0.
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
        if self.subsample < 1:
            raise UserError(f"--subsample must be at least 1, got {self.subsample}.")
        if not 0 <= self.split_seed < 2**63:
            raise UserError(f"--split-seed must be in 0 … 2^63 - 1, got {self.split_seed}.")


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
