"""rnnopt inspect: what a file of the user's own holds, as a table and a picture."""

import os
from pathlib import Path
from typing import Annotated

import tyro

from rnnopt.cli.printing import print_lines
from rnnopt.cli.terminal import given, say
from rnnopt.config.data_config import Decimal, Header, Kind, Layout, data_name
from rnnopt.config.errors import UserError, writing
from rnnopt.report.data_figure import draw
from rnnopt.report.style import any_script
from rnnopt.runs.files import write_figure
from rnnopt.tasks.user_data.overview import described, targets_of
from rnnopt.tasks.user_data.preparation import class_names, kind_of
from rnnopt.tasks.user_data.readers import read
from rnnopt.tasks.user_data.readers.columns import Columns
from rnnopt.tasks.user_data.recordings import Recordings
from rnnopt.training.option_checks import refuse_columns


def inspect_data(
    file: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")],
    kind: Kind | None = None,
    padded: bool = False,
    label: str | None = None,
    id: str | None = None,
    time: str | None = None,
    layout: Layout | None = None,
    header: Header | None = None,
    decimal: Decimal | None = None,
    unlabelled: bool = False,
    out: Path | None = None,
) -> int:
    """Say what a file of data holds: series, steps, channels, classes, missing values; and draw it.

    Args:
        file: file or folder, as for `rnnopt train --data`.
        kind: classification or regression; unset means what the targets look like.
        padded: missing values at the end of a series only fill it up: it is shorter.
        label: the column of the labels: its name, or its place, counted from 0, or from -1 for the
            last (also: last).
        id: the column that names the series, in tables with one row a step.
        time: the column of the time, there.
        layout: of tables with names: wide, a series a row, or long, a step a row.
        header: whether the first line of a .csv, .tsv or .txt names its columns; unset means what
            it looks like.
        decimal: the sign before decimals in a .csv, .tsv or .txt, a point or a comma; unset means
            what it looks like.
        unlabelled: the file has no labels.
        out: the picture to write; unset means one named after the file, in this folder.

    Examples:
        rnnopt inspect train.csv
        rnnopt inspect export.csv --label last --decimal ,
        rnnopt inspect steps.csv --layout long --id patient --label outcome
    """
    refuse_columns([file], given)
    where = Columns(label, id, time, unlabelled, layout=layout, header=header, decimal=decimal)
    data, test = read(file, where)
    name = data_name(str(file.absolute()))
    try:
        parts = {"": data, ", its validation part": data.validation, ", its test part": test}
        for which, part in parts.items():
            if part is not None:
                print_lines(_lines(part, kind, padded), f"{file}{which}")
        figure = draw(data, name, kind, padded)
    except ValueError as error:
        raise UserError(f"{file}: {error}") from error
    path = out or Path(f"{_stem(file)}.png")
    with writing(f"the picture {path}"), any_script():
        write_figure(path, figure)
    say(f"wrote {path}")
    return 0


def _stem(file: Path) -> str:
    """The name of a file without its ending; of a folder, and of "..", the whole of it."""
    place = Path(os.path.abspath(file))
    return (place.name if place.is_dir() else place.stem) or "data"


def _lines(part: Recordings, kind: Kind | None, padded: bool) -> tuple[tuple[str, str], ...]:
    """What is found in a part of the data, and how it is called."""
    lines = described(part, padded)
    if part.targets is not None:
        found = kind_of(part, kind)
        classes = class_names(part.targets) if found == "classification" else ()
        lines += tuple(targets_of(part.targets, classes))
    return lines
