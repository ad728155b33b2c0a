"""Files that recorders of signals and movement write, one recording a file, by their endings."""

from collections.abc import Callable, Sequence
from pathlib import Path

from rnnopt.tasks.user_data.readers.c3d import read_c3d
from rnnopt.tasks.user_data.readers.columns import Columns, Parts
from rnnopt.tasks.user_data.readers.edf import read_edf
from rnnopt.tasks.user_data.readers.fit import read_fit
from rnnopt.tasks.user_data.readers.mdf import read_mdf
from rnnopt.tasks.user_data.readers.physionet import files_of, read_wfdb, segments_of
from rnnopt.tasks.user_data.readers.rosbag import read_bag
from rnnopt.tasks.user_data.readers.sigmf_files import read_sigmf
from rnnopt.tasks.user_data.readers.tdms import read_tdms
from rnnopt.tasks.user_data.readers.xdf import read_xdf
from rnnopt.tasks.user_data.recordings import Recordings

RECORDERS: dict[str, Callable[[Path, Columns], Recordings]] = {
    ".edf": read_edf,
    ".bdf": read_edf,
    ".hea": read_wfdb,
    ".xdf": read_xdf,
    ".c3d": read_c3d,
    ".fit": read_fit,
    ".sigmf-meta": read_sigmf,
    ".mf4": read_mdf,
    ".mdf": read_mdf,
    ".tdms": read_tdms,
    ".bag": read_bag,
    ".mcap": read_bag,
    ".db3": read_bag,
}

# Endings that wfdb, sigmf and rosbags look for, in these letters.
SMALL = (".hea", ".sigmf-meta", ".bag", ".mcap", ".db3")

# mne's readers, whose recordings it writes as EDF; tried with files of these kinds.
OF_MNE = {".fif": "fif", ".gdf": "gdf", ".set": "eeglab", ".vhdr": "brainvision"}
# What to do with other files of recorders; {name} is that of the file.
CONVERSIONS = {
    ending: "it is not read, but mne turns it into EDF (pip install mne edfio):"
    f' mne.io.read_raw_{reader}("{{name}}").export("{{stem}}.edf").'
    for ending, reader in OF_MNE.items()
}
CONVERSIONS |= {
    ".eeg": "it is not read; if it is of BrainVision, mne turns its header, {stem}.vhdr, into EDF.",
    **dict.fromkeys((".dat", ".atr"), "if it is of WFDB, name its header, {stem}.hea."),
    ".sigmf-data": "name the description beside it, {stem}.sigmf-meta.",
    ".xdfz": "it is packed: gzip -dc {name} > {stem}.xdf.",
    ".rec": "it is not read; if it is EDF, give it the ending .edf.",
    **dict.fromkeys(
        (".acq", ".cnt", ".mff", ".nwb", ".smr", ".smrx", ".trc"),
        "it is not read: export it as EDF or as a table (.csv), or save its arrays as .npz.",
    ),
}


def read_recorder(path: Path, columns: Columns) -> Parts:
    """Reads the recording of a file."""
    return read_recording(path, columns), None


def read_recording(path: Path, columns: Columns) -> Recordings:
    """The recording of a file.

    Raises:
        ValueError: its ending is in capitals, where the library needs small letters; as its reader.
    """
    ending = path.suffix.lower()
    if ending in SMALL and path.suffix != ending:
        raise ValueError(f"it is read with its ending in small letters alone: rename it {ending}.")
    return RECORDERS[ending](path, columns)


def advice_for(path: Path) -> str | None:
    """What to do with a recorder's file that is not read; None for other files."""
    advice = CONVERSIONS.get(path.suffix.lower())
    return None if advice is None else advice.format(name=path.name, stem=path.stem)


def without_parts(files: Sequence[Path]) -> list[Path]:
    """The files that are recordings of their own, not segments of others among them."""
    others = segments_of(one for one in files if one.suffix.lower() == ".hea" and one.is_file())
    return [one for one in files if one not in others]


def companions(path: Path) -> list[Path]:
    """The other files that a recording is in."""
    if path.suffix.lower() == ".hea":
        return [one for one in files_of(path) if one != path]
    values = path.with_suffix(".sigmf-data")
    return [values] if path.suffix.lower() == ".sigmf-meta" and values.is_file() else []
