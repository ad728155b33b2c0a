"""Runs the shell examples of the project's pages, made smaller, on files such as they speak of."""

import io
import os
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyedflib
from documents import Block

# What a command line is made smaller by: (pattern, what takes its place).
SMALLER = [
    (r"--(tune-)?budget \S+", r"--\1budget 6gradients"),
    (r"--seeds( \d+)+", "--seeds 0"),
    (r"--tune \d+", "--tune 2"),
    (r"--trials \d+", "--trials 2"),
    (r"--workers \d+", "--workers 1"),
    (r"adam muon frank-wolfe", "adam frank-wolfe"),
    (r" --cluster \S+", ""),  # clusters are in test_engine.py
]
TRAINING = ("train", "compare", "sweep", "diagnose")
# Others that the pages show: they install, wait for a browser, or take minutes however small, which
# test_reproduce.py is about.
NOT_RUN = ("pip install ", "tensorboard ", "rnnopt reproduce ")
# Tasks whose data are not always at hand, and the folder of these below RNNOPT_DATA.
NEEDS = {"mnist-rows": "mnist", "hapt2": "har"}

Command = Callable[..., tuple[object, str, str]]


@contextmanager
def redirect_stdin() -> Iterator[None]:
    """Standard input without any lines, for commands that read it."""
    before, sys.stdin = sys.stdin, io.TextIOWrapper(io.BytesIO())
    try:
        yield
    finally:
        sys.stdin = before


def run_shell(block: Block, command: Command) -> None:
    """Runs each rnnopt line, smaller, and looks for the lines that the page shows."""
    printed = ""
    for line in block.code.replace("\\\n", " ").splitlines():
        if line.startswith(NOT_RUN):
            continue
        assert line.startswith("rnnopt "), f"{block.page} has a line that is not run: {line}"
        with redirect_stdin():
            code, output, error = command(*_smaller(line)[1:])
        assert code == 0, f"{block.page}: {line}\n{output}{error}"
        printed += output
    for line in (block.output or "").splitlines():
        assert without_numbers(line) in without_numbers(printed), f"{block.page}: {line}\n{printed}"


def _smaller(line: str) -> list[str]:
    """The words of a command that takes seconds, and no data that are not here."""
    for pattern, smaller in SMALLER:
        line = re.sub(pattern, smaller, line)
    for task, folder in NEEDS.items():
        if not Path(os.environ.get("RNNOPT_DATA", ""), folder).is_dir():
            line = line.replace(f"--task {task}", "--task digits-rows")
    words = shlex.split(os.path.expandvars(line), comments=True)
    if words[1] in TRAINING and not {"--budget", "--resume"} & set(words):
        words += ["--budget", "6gradients"]
    return words


def without_numbers(text: str) -> str:
    """One line, in which numbers are # and frames and blanks are one blank."""
    words = re.sub(r"[\s│┃━┏┓┡┩└┘┴┬╇┳─]+", " ", text)
    return re.sub(r"-?(\d[\d.]*(e[-+]?\d+)?|∞)", "#", words).strip()


def write_files(folder: Path) -> None:
    """The reader's own files that the pages name: of the archive if it is here, else made up."""
    archive = Path(os.environ.get("RNNOPT_DATA", ""), "ucr", "CricketX")
    for part, other in (("TRAIN", "train.csv"), ("TEST", "test.csv")):
        name = f"CricketX_{part}.tsv"
        if archive.is_dir():
            shutil.copy(archive / name, folder / name)
        else:
            (folder / name).write_text(_waves("\t"))
        (folder / other).write_text(_waves(","))
    lines = (folder / "CricketX_TEST.tsv").read_text().splitlines()[:9]
    unlabelled = [line.split("\t")[1:] for line in lines]
    waves = [line.split(",") for line in _waves(",").splitlines()]
    (folder / "last.csv").write_text("".join(",".join([*s, f"c{y}"]) + "\n" for y, *s in waves))
    names = ";".join([*(f"w{i}" for i in range(24)), "quality"])
    rows = [";".join([*(v.replace(".", ",") for v in s), y]) for y, *s in waves]
    (folder / "export.csv").write_text("\r\n".join(["\ufeff" + names, *rows]) + "\r\n")
    labels = np.random.default_rng(1).integers(0, 2, (40, 3)).tolist()
    heads = ["leak", "wear", "noise", *(f"t{i}" for i in range(24))]
    faults = [[*map(str, its), *values] for its, (_, *values) in zip(labels, waves, strict=True)]
    (folder / "faults.csv").write_text("".join(",".join(row) + "\n" for row in [heads, *faults]))
    (folder / "new.csv").write_text("".join(",".join(one) + "\n" for one in unlabelled))
    for name, people in (("recordings.csv", 4), ("monday.csv", 1)):
        (folder / name).write_text(_recordings(people))
    for number in range(3):
        _write_night(folder / f"night{number}.edf", number)


def _write_night(path: Path, number: int) -> None:
    """A minute of two signals at 100 Hz, asleep and awake by turns."""
    noise, asleep = np.random.default_rng(number), np.arange(6000) // 1000 % 2 == 1
    signals = [
        np.where(asleep, low, high) * noise.normal(size=6000) for low, high in ((9, 3), (1, 4))
    ]
    with pyedflib.EdfWriter(str(path), 2, file_type=pyedflib.FILETYPE_EDFPLUS) as file:
        for i, name in enumerate(("EEG", "EMG")):
            header = dict(label=name, dimension="uV", sample_frequency=100, transducer="")
            header |= dict(prefilter="", physical_min=-200, physical_max=200)
            file.setSignalHeader(i, header | dict(digital_min=-32768, digital_max=32767))
        file.writeSamples(signals)
        for start in range(0, 60, 10):
            file.writeAnnotation(start, 10, "asleep" if start // 10 % 2 else "awake")


def _recordings(people: int) -> str:
    """Two recordings of each person at 50 Hz, a line a step, of walks and rests."""
    lines, noise = ["id,time,person,x,y,activity"], np.random.default_rng(1)
    for number in range(2 * people):
        for step in range(400):
            walks = step // 100 % 2 == number % 2
            x, y = np.sin(0.5 * step) * walks + 0.1 * noise.normal(size=2)
            word = "walk" if walks else "rest"
            lines.append(f"r{number},{0.02 * step:.2f},p{number // 2},{x:.4f},{y:.4f},{word}")
    return "\n".join(lines) + "\n"


def _waves(separator: str) -> str:
    """Forty series of 24 steps, as text without names: the class, then the steps."""
    noise = np.random.default_rng(0).normal(size=(40, 24))
    values = np.sin(np.arange(24) * (0.3 + np.arange(40)[:, None] % 2)) + 0.1 * noise
    lines = ([str(1 + i % 2), *(f"{v:.4f}" for v in one)] for i, one in enumerate(values))
    return "".join(separator.join(line) + "\n" for line in lines)
