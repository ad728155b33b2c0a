"""The "Inertial Signals" of UCI HAR, as published: 7,352 windows to train, 2,947 to test.

Anguita, Ghio, Oneto, Parra and Reyes-Ortiz, "A Public Domain Dataset for Human Activity Recognition
Using Smartphones", ESANN 2013, https://doi.org/10.24432/C54S4K
"""

import os
from pathlib import Path
from typing import Any

from rnnopt.config.errors import UserError
from rnnopt.tasks.download import find
from rnnopt.tasks.text_files import TextFiles

TOP = "UCI HAR Dataset"
MIRRORS = (
    "https://archive.ics.uci.edu/ml/machine-learning-databases/00240/UCI%20HAR%20Dataset.zip",
    "https://d396qusza40orc.cloudfront.net/getdata%2Fprojectfiles%2FUCI%20HAR%20Dataset.zip",
)
SIZE = 60_999_314
SHA256 = "2045e435c955214b38145fb5fa00776c72814f01b203fec405152dac7d5bfeb0"
SIGNALS = tuple(f"{kind}_{x}" for kind in ("body_acc", "body_gyro", "total_acc") for x in "xyz")
STEPS = 128
COUNTS = {"train": (7352, 21), "test": (2947, 9)}  # windows, persons


def read_uci_har(folder: str | None = None) -> dict[str, Any]:
    """Numpy arrays X (windows, steps, channels), y and subject of both parts, such as "X_train".

    Args:
        folder: the unpacked archive or the archive itself, or a folder with one of them; unset
            means the archive in the data folders, downloaded if necessary.
    """
    import numpy as np

    files = TextFiles(_place(folder), TOP)
    data = {}
    for part, (windows, persons) in COUNTS.items():
        channels = [
            files.table(f"{part}/Inertial Signals/{signal}_{part}.txt", STEPS, windows)
            for signal in SIGNALS
        ]
        data[f"X_{part}"] = np.stack(channels, axis=2, dtype=np.float32, casting="same_kind")
        for key, name in (("y", "y"), ("subject", "subject")):
            data[f"{key}_{part}"] = files.integers(f"{part}/{name}_{part}.txt", 1, windows)[:, 0]
        labels, people = data[f"y_{part}"], set(data[f"subject_{part}"].tolist())
        if labels.min() < 1 or labels.max() > 6:
            got = f"{labels.min()} to {labels.max()}"
            raise UserError(f"y_{part}.txt in {files.path} must hold labels 1 to 6, got {got}.")
        if len(people) != persons:
            where = f"subject_{part}.txt in {files.path}"
            raise UserError(f"{where} must hold {persons} persons, got {len(people)}.")
    shared = set(data["subject_train"].tolist()) & set(data["subject_test"].tolist())
    if shared:
        raise UserError(f"{files.path} must have no person in both parts, got {sorted(shared)}.")
    return data


def _place(folder: str | None) -> Path:
    """The folder or archive to read."""
    if folder is None:
        chosen = os.environ.get("RNNOPT_DATA")
        if chosen and (Path(chosen) / "har" / TOP).is_dir():
            return Path(chosen) / "har" / TOP
        return find(f"har/{TOP}.zip", list(MIRRORS), SIZE, SHA256)
    place = Path(folder).expanduser()
    if not place.exists():
        raise UserError(f"folder= must name a folder or zip file with UCI HAR, got {folder!r}.")
    packed = place / f"{TOP}.zip"
    inside = (place / "train", place / TOP)
    return packed if packed.is_file() and not any(f.is_dir() for f in inside) else place
