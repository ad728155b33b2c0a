"""rnnopt inspect: what a file of the user's own holds, as a table and a picture."""

import os
from collections.abc import Collection
from dataclasses import fields
from functools import partial
from pathlib import Path

from rnnopt.cli.printing import print_lines
from rnnopt.cli.terminal import print_error, print_line
from rnnopt.config.data_config import DataConfig, Kind, ReadConfig
from rnnopt.config.data_files import absolute, brief, data_name, files_of, joined
from rnnopt.config.errors import UserError, writing
from rnnopt.report.data_figure import draw
from rnnopt.report.style import any_script
from rnnopt.runs.files import write_figure
from rnnopt.tasks.user_data.labels import names_of
from rnnopt.tasks.user_data.overview import described, step_targets_of, targets_of
from rnnopt.tasks.user_data.parts import looks_like_groups
from rnnopt.tasks.user_data.readers.columns import Columns
from rnnopt.tasks.user_data.readers.intervals import with_interval_labels
from rnnopt.tasks.user_data.readers.several import read_data
from rnnopt.tasks.user_data.recordings import Recordings
from rnnopt.tasks.user_data.sampling import Sampling
from rnnopt.tasks.user_data.target_kinds import class_names, kind_of
from rnnopt.training.option_checks import refuse_columns


def inspect_data(
    file: tuple[str, ...],
    /,
    *,
    config: ReadConfig,
    unlabelled: bool = False,
    out: Path | None = None,
    given: Collection[str] = (),
) -> int:
    """Describe and draw a file of data.

    Says how many series, steps, channels, classes and missing values there are.

    Args:
        file: File or folder, or several, as for `rnnopt train --data`.
        config: How the file is read.
        unlabelled: File without labels.
        out: Picture to write. Unset: one named after the file, in the working directory.

    Examples:
        rnnopt inspect train.csv
        rnnopt inspect export.csv --label last --decimal ,
        rnnopt inspect steps.csv --layout long --id patient --label outcome
    """
    text = joined(file)
    refuse_columns(files_of(text), given)
    read_so = {one.name: getattr(config, one.name) for one in fields(ReadConfig)}
    whole = DataConfig(data=text, **read_so)
    kind, padded = config.kind, config.padded
    data, test = read_data(
        text, Columns.of(whole, unlabelled=unlabelled or config.labels is not None)
    )
    if config.labels is not None:
        data, test = with_interval_labels(Path(config.labels), data, test)
    try:
        shape = partial(_shaped, sampling=Sampling.of(whole), kind=kind, padded=padded)
        data, test = shape(data), None if test is None else shape(test)
    except ValueError as error:
        raise UserError(f"{brief(text)}: {error}") from error
    name = data_name(absolute(text))
    try:
        parts = {"": data, ", its validation part": data.validation, ", its test part": test}
        for which, part in parts.items():
            if part is not None:
                print_lines(_lines(part, kind, padded), f"{brief(text)}{which}")
                if part.groups is None and part.suspect is not None:
                    print_error(f"warning: {looks_like_groups(part.suspect)}.")
        figure = draw(data, name, kind, padded)
    except ValueError as error:
        raise UserError(f"{brief(text)}: {error}") from error
    path = out or Path(f"{name if len(files_of(text)) > 1 else _stem(Path(text))}.png")
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
