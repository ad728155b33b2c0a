"""rnnopt inspect: what a file of the user's own holds, as a table and a picture."""

import os
from collections.abc import Collection
from functools import partial
from pathlib import Path

from rnnopt.cli.printing import print_lines
from rnnopt.cli.terminal import print_error, print_line
from rnnopt.config.data_config import DataConfig, Decimal, Header, Kind, Layout, TimeUnit, data_name
from rnnopt.config.errors import UserError, writing
from rnnopt.report.data_figure import draw
from rnnopt.report.style import any_script
from rnnopt.runs.files import write_figure
from rnnopt.tasks.user_data.labels import names_of
from rnnopt.tasks.user_data.overview import described, step_targets_of, targets_of
from rnnopt.tasks.user_data.parts import looks_like_groups
from rnnopt.tasks.user_data.readers import read
from rnnopt.tasks.user_data.readers.columns import Columns
from rnnopt.tasks.user_data.recordings import Recordings
from rnnopt.tasks.user_data.sampling import Sampling
from rnnopt.tasks.user_data.target_kinds import class_names, kind_of
from rnnopt.training.option_checks import refuse_columns


def inspect_data(
    file: Path,
    /,
    *,
    kind: Kind | None = None,
    padded: bool = False,
    label: str | None = None,
    id: str | None = None,
    time: str | None = None,
    layout: Layout | None = None,
    header: Header | None = None,
    decimal: Decimal | None = None,
    drop: tuple[str, ...] = (),
    group: str | None = None,
    window: int | None = None,
    stride: int | None = None,
    purge: bool = False,
    resample: str | None = None,
    rate: str | None = None,
    time_unit: TimeUnit = "s",
    time_gap: bool = False,
    each_step: bool = False,
    unlabelled: bool = False,
    out: Path | None = None,
    given: Collection[str] = (),
) -> int:
    """Describe and draw a file of data.

    Says how many series, steps, channels, classes and missing values there are.

    Args:
        file: File or folder, as for `rnnopt train --data`.
        kind: Kind of task. Unset: what the targets look like.
        padded: Padding at the end of series: missing values there are no steps, and the series is
            shorter.
        label: Column of the labels: a name, a position counted from 0, or -1 or last for the last
            one.
        id: Column that identifies the series, in tables with one step a row.
        time: Column of the time, in tables with one step a row.
        layout: Layout of tables with column names: wide (one series a row) or long (one step a
            row).
        header: Header line of a .csv, .tsv or .txt: yes if the first line names the columns, no if
            it is data. Unset: what it looks like.
        decimal: Decimal sign in a .csv, .tsv or .txt. Unset: what it looks like.
        drop: Channels or columns to leave out, by name or by position counted from 0.
        group: Column of the person or machine that a series is of.
        window: Number of steps of the windows that each recording is cut into. Unset: whole
            recordings.
        stride: Number of steps from the start of a window to that of the next. Unset: --window.
        purge: Exclusion of the windows with more than one label, or with steps that have none.
        resample: Rate to which recordings are resampled, such as 50Hz or 20ms. Unset: none.
        rate: Rate of recordings without a column of times, for --resample.
        time_unit: Unit of times that are numbers.
        time_gap: An additional channel with the seconds since the previous step.
        each_step: Targets at every step, instead of one per series. --label may then name several
            columns (y1,y2).
        unlabelled: File without labels.
        out: Picture to write. Unset: one named after the file, in the working directory.

    Examples:
        rnnopt inspect train.csv
        rnnopt inspect export.csv --label last --decimal ,
        rnnopt inspect steps.csv --layout long --id patient --label outcome
    """
    refuse_columns([file], given)
    config = DataConfig(
        data=str(file), label=label, id=id, time=time, layout=layout, header=header,
        decimal=decimal, drop=drop, group=group, window=window, stride=stride, purge=purge,
        resample=resample, rate=rate, time_unit=time_unit, time_gap=time_gap,
        each_step=each_step,
    )  # fmt: skip
    data, test = read(file, Columns.of(config, unlabelled=unlabelled))
    try:
        shape = partial(_shaped, sampling=Sampling.of(config), kind=kind, padded=padded)
        data, test = shape(data), None if test is None else shape(test)
    except ValueError as error:
        raise UserError(f"{file}: {error}") from error
    name = data_name(str(file.absolute()))
    try:
        parts = {"": data, ", its validation part": data.validation, ", its test part": test}
        for which, part in parts.items():
            if part is not None:
                print_lines(_lines(part, kind, padded), f"{file}{which}")
                if part.groups is None and part.suspect is not None:
                    print_error(f"warning: {looks_like_groups(part.suspect)}.")
        figure = draw(data, name, kind, padded)
    except ValueError as error:
        raise UserError(f"{file}: {error}") from error
    path = out or Path(f"{_stem(file)}.png")
    with writing(f"the picture {path}"), any_script():
        write_figure(path, figure)
    print_line(f"wrote {path}")
    return 0


def _shaped(part: Recordings, sampling: Sampling, kind: Kind | None, padded: bool) -> Recordings:
    """The series of a part as `train` would make them of recordings."""
    if part.labelled and kind is None:
        kind = kind_of(part, None)
    return sampling.shape(part, kind, padded)


def _stem(file: Path) -> str:
    """The name of a file without its ending; of a folder, and of "..", the whole of it."""
    place = Path(os.path.abspath(file))
    return (place.name if place.is_dir() else place.stem) or "data"


def _lines(part: Recordings, kind: Kind | None, padded: bool) -> tuple[tuple[str, str], ...]:
    """What is found in a part of the data, and how it is called."""
    lines = described(part, padded)
    if part.steps is not None:
        classes = part.steps.classes if kind_of(part, kind) == "classification" else ()
        return lines + tuple(step_targets_of(part.steps, classes))
    if part.targets is not None:
        found = kind_of(part, kind)
        classes = class_names(part.targets) if found == "classification" else ()
        if found == "multilabel":
            classes = names_of(part)
        lines += tuple(targets_of(part.targets, classes))
    return lines
