"""An entry of the benchmark: what one optimizer did on the workloads, as one JSON file."""

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from rnnopt.config.errors import UserError, unknown_name
from rnnopt.config.specs import parse
from rnnopt.config.validation import Finite, Positive, checked
from rnnopt.experiments.benchmark.suite import BY_NAME, SUITES
from rnnopt.runs.files import read_json, write_json

FOLDER = Path(__file__).parent / "entries"  # those of the leaderboard
Track = Literal["tuned", "self-tuning"]


@dataclass(frozen=True)
class Trial:
    """A tuning run.

    Args:
        lr: learning rate.
        to_target: gradient evaluations to the target, or None.
        best: best validation metric, or None of a run that diverged at once.
    """

    lr: Positive
    to_target: Positive | None
    best: Finite | None


@dataclass(frozen=True)
class Measured:
    """A reported run.

    Args:
        seed: of the run.
        to_target: gradient evaluations to the target, or None.
        seconds_to_target: seconds of training to the target, or None.
        seconds: seconds of training in all.
        best: best validation metric, or None.
        test: test metric with the weights of that evaluation, or None.
        status: how the run ended.
    """

    seed: int
    to_target: Positive | None
    seconds_to_target: Positive | None
    seconds: Positive
    best: Finite | None
    test: Finite | None
    status: str


@dataclass(frozen=True)
class OnWorkload:
    """An entry's tuning runs and reported runs on one workload."""

    lr: Positive
    trials: list[Trial]
    runs: list[Measured]

    @property
    def at_edge(self) -> bool:
        """Whether the chosen rate is the lowest or highest that was tried."""
        rates = [trial.lr for trial in self.trials]
        return len(rates) > 1 and self.lr in (min(rates), max(rates))


# Facts of the environment that seconds depend on.
MACHINE = ("processor", "cpu_kernels", "processors", "threads", "gpu")


@dataclass(frozen=True)
class Entry:
    """An optimizer on the workloads.

    Args:
        name: of the entry, which is that of its file.
        optimizer: specification, as --optimizer takes it.
        track: "tuned" has learning rates to choose from, "self-tuning" its own default alone.
        source: package and version, or sha256 of a file; {} for optimizers on board.
        environment: versions and machine.
        workloads: what was measured, by workload.
    """

    name: str
    optimizer: str
    track: Track
    source: dict[str, str]
    environment: dict[str, Any]
    workloads: dict[str, OnWorkload]

    def covers(self, suite: str) -> bool:
        """Whether it has been run on all workloads of a suite."""
        return all(one.name in self.workloads for one in SUITES[suite])  # type: ignore[index]

    @property
    def quiet(self) -> bool:
        """Whether the machine had no other work, so that its seconds mean something."""
        load, most = (self.environment.get(name) for name in ("load", "processors"))
        return isinstance(load, float) and isinstance(most, int) and load <= 1.25 * most

    def timed_as(self, other: "Entry") -> bool:
        """Whether its seconds may be compared with those of another entry."""
        same = all(self.environment.get(name) == other.environment.get(name) for name in MACHINE)
        return same and self.quiet and other.quiet

    def save(self, path: Path) -> None:
        """Writes the file."""
        write_json(path, asdict(self))


def checked_name(name: str) -> str:
    """The name of an entry; UserError if it cannot be that of a file."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]{0,60}", name):
        raise UserError(f"--name must be of small letters, digits, dots and hyphens, got {name!r}.")
    return name


def load_entry(path: Path) -> Entry:
    """Reads an entry.

    Raises:
        UserError: the file is missing, or is no entry.
    """
    try:
        entry = checked(read_json(path), Entry, "an entry")
        for name, one in entry.workloads.items():
            if name not in BY_NAME:
                raise unknown_name("workload", name, BY_NAME)
            _check(name, one)
        if not entry.workloads:
            raise UserError("an entry must have workloads, got none.")
        checked_name(entry.name)
        parse(entry.optimizer)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    return entry


def _check(name: str, one: OnWorkload) -> None:
    """Raises UserError for what no measurement on a workload leaves."""
    if not one.runs:
        raise UserError(f"{name} must have runs, got none.")
    seeds = [run.seed for run in one.runs]
    if len(set(seeds)) < len(seeds):
        raise UserError(f"the runs on {name} must have different seeds, got {seeds}.")
    for run in one.runs:
        if (run.to_target is None) != (run.seconds_to_target is None):
            raise UserError(
                f"to_target and seconds_to_target of {name}, seed {run.seed} must both be numbers"
                f" or null, got {run.to_target} and {run.seconds_to_target}."
            )
    most = BY_NAME[name].budget
    costs = [run.to_target for run in one.runs] + [trial.to_target for trial in one.trials]
    if any(cost is not None and cost > most for cost in costs):
        raise UserError(f"to_target of {name} must be within its budget of {most} gradients.")
    rates = [trial.lr for trial in one.trials]
    if rates and (one.lr not in rates or sorted(set(rates)) != rates):
        raise UserError(
            f"the trials on {name} must have rising rates, lr={one.lr} among them, got {rates}."
        )


def entries(folder: Path = FOLDER) -> list[Entry]:
    """All entries of a folder, by name; UserError for one that is not named as its file."""
    found = []
    for path in sorted(folder.glob("*.json")):
        found.append(load_entry(path))
        if found[-1].name != path.stem:
            raise UserError(f"{path} must hold the entry {path.stem}, got {found[-1].name}.")
    return found
