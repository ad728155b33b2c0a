"""Windows of the HAPT recordings: from a prepared file, or cut from the raw signals.

Each whole recording passes a median filter of 3 samples, then a third-order low-pass Butterworth
filter at 20 Hz. Another such filter at 0.3 Hz separates gravity; the rest is the body acceleration.
All filters run forward only and start in the steady state of the first sample. Windows of 128
samples (2.56 s) begin every 64 samples inside each labelled segment; the six postural transitions
are left out. Values are rounded to multiples of 2⁻¹⁵, finer than the sensors resolve.

UCI HAR cut the same recordings in another way: scores on these windows are not UCI HAR scores.
Reyes-Ortiz, Oneto, Samà, Parra and Anguita, "Transition-Aware Human Activity Recognition Using
Smartphones", Neurocomputing 2016.
"""

import hashlib
import os
import zipfile
from pathlib import Path
from typing import Any

from rnnopt.config.errors import UserError
from rnnopt.tasks.text_files import BAD_ZIP, LARGEST, TextFiles
from rnnopt.tasks.user_data.readers.numpy_files import read_members

ADDRESS = "https://archive.ics.uci.edu/ml/machine-learning-databases/00341/HAPT%20Data%20Set.zip"
PREPARED, TOP = "har.npz", "HAPT Data Set"
# Arrays of the prepared file, in the order of their hash, with shape and type.
ARRAYS = {
    "X_train": ((7415, 128, 9), "float32"),
    "y_train": ((7415,), "int64"),
    "subject_train": ((7415,), "int64"),
    "X_test": ((2996, 128, 9), "float32"),
    "y_test": ((2996,), "int64"),
    "subject_test": ((2996,), "int64"),
}
SHA256 = "1afb036a4eaa88dd94436b99576b690d8df0962b2b165518b1694f2fddfb168c"
TEST_PERSONS = (2, 4, 9, 10, 12, 13, 18, 20, 24)
SAMPLES_A_SECOND, STEPS, STRIDE = 50, 128, 64
ACTIVITIES, LABELS = 6, 12  # the labels 7 to 12 are postural transitions

Windows = dict[str, Any]  # numpy arrays by the names of ARRAYS


def read_hapt(folder: str | None = None) -> Windows:
    """The HAPT windows: prepared, or else cut from the recordings.

    Args:
        folder: a folder with the prepared file, the archive of the recordings or their folder
            RawData, or one of these files; unset means the data folders.
    """
    places = [Path(folder).expanduser()] if folder else local_folders()
    for place in places:
        prepared = place if place.suffix == ".npz" else place / PREPARED
        if prepared.is_file():
            return read_prepared(prepared)
        if place.is_file():
            return build(TextFiles(place, TOP))
        if any((place / top / "RawData").is_dir() for top in ("", TOP)):
            return build(TextFiles(place, TOP))
        if (place / f"{TOP}.zip").is_file():
            return build(TextFiles(place / f"{TOP}.zip", TOP))
    raise UserError(
        f'the HAPT windows need {PREPARED}, or "{TOP}.zip" from {ADDRESS}, in'
        f" {' or '.join(map(str, places))}, where neither is: put one there, or name the folder"
        " that has it by folder=."
    )


def local_folders() -> list[Path]:
    """Folders of the activity files: below RNNOPT_DATA, then in the cache."""
    chosen = os.environ.get("RNNOPT_DATA")
    if chosen and not Path(chosen).is_dir():
        raise UserError(f"RNNOPT_DATA must name a folder, got {chosen!r}.")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rnnopt"
    return [folder / "har" for folder in ([Path(chosen)] if chosen else []) + [cache]]


def read_prepared(path: Path) -> Windows:
    """The arrays of the prepared file, checked by shape, type and hash."""
    digest = hashlib.sha256()
    try:
        with zipfile.ZipFile(path) as archive:
            size = max((member.file_size for member in archive.infolist()), default=0)
        if size > LARGEST:
            raise OSError(f"it unpacks to {size} bytes, and {LARGEST} are allowed")
        windows = read_members(path, list(ARRAYS))
    except (OSError, *BAD_ZIP, MemoryError) as error:
        reason = str(error).partition("\n")[0].removesuffix(".")
        raise UserError(f"{path} must be the prepared HAPT windows, but {reason}.") from error
    for name, expected in ARRAYS.items():
        array = windows[name]
        if (array.shape, str(array.dtype)) != expected:
            shape = f"{array.shape} of {array.dtype}"
            raise UserError(f"{path} must hold {name} {expected[0]} of {expected[1]}, got {shape}.")
        digest.update(array.tobytes())
    if digest.hexdigest() != SHA256:
        raise UserError(f"{path} must hold arrays of sha256 {SHA256}, got {digest.hexdigest()}.")
    return windows


def build(files: TextFiles) -> Windows:
    """The windows of all recordings, after a check of their number."""
    windows = cut(files)
    for name, (shape, _) in ARRAYS.items():
        if windows[name].shape != shape:
            raise UserError(
                f"the recordings in {files.path} must give {name} {shape},"
                f" got {windows[name].shape}."
            )
    return windows


def cut(files: TextFiles) -> Windows:
    """The windows of the existing recordings, in their order."""
    import numpy as np

    name = "RawData/labels.txt"
    segments = files.integers(name, 5)  # experiment, person, label, first and last sample from 1
    labels = segments[:, 2]
    if labels.min() < 1 or labels.max() > LABELS:
        got = f"{labels.min()} to {labels.max()}"
        raise UserError(f"{name} in {files.path} must hold labels 1 to {LABELS}, got {got}.")
    parts: dict[str, list[Any]] = {array: [] for array in ARRAYS}
    for experiment, person in dict.fromkeys(map(tuple, segments[:, :2].tolist())):
        recording = f"exp{experiment:02d}_user{person:02d}.txt"
        acceleration = files.table(f"RawData/acc_{recording}", 3)
        speed = files.table(f"RawData/gyro_{recording}", 3, len(acceleration))
        signals = filtered(acceleration, speed)
        part = "test" if person in TEST_PERSONS else "train"
        for _, _, label, first, last in segments[(segments[:, :2] == (experiment, person)).all(1)]:
            if not 1 <= first <= last <= len(signals):
                raise UserError(
                    f"{name} in {files.path} must name samples of 1 to {len(signals)} for"
                    f" {recording}, got {first} to {last}."
                )
            if label > ACTIVITIES:
                continue
            for start in range(first - 1, last - STEPS + 1, STRIDE):
                parts[f"X_{part}"].append(signals[start : start + STEPS])
                parts[f"y_{part}"].append(label)
                parts[f"subject_{part}"].append(person)
    return {
        array: np.array(rows, dtype=ARRAYS[array][1]).reshape(-1, *ARRAYS[array][0][1:])
        for array, rows in parts.items()
    }


def filtered(acceleration: Any, speed: Any) -> Any:
    """The nine channels (sample, channel) of a recording's acceleration and angular speed."""
    import numpy as np
    from scipy.ndimage import median_filter

    total, angular = (
        low_pass(median_filter(raw, (3, 1), mode="nearest"), hertz=20)
        for raw in (acceleration, speed)
    )
    body = total - low_pass(total, hertz=0.3)
    return np.round(np.concatenate([body, angular, total], axis=1) * 2**15) / 2**15


def low_pass(signals: Any, hertz: float) -> Any:
    """Third-order Butterworth filter over the samples, in the steady state of the first sample."""
    from scipy.signal import butter, sosfilt, sosfilt_zi

    sections = butter(3, hertz, fs=SAMPLES_A_SECOND, output="sos")
    steady = sosfilt_zi(sections)[:, :, None] * signals[0]  # (section, 2, channel)
    return sosfilt(sections, signals, axis=0, zi=steady)[0]
