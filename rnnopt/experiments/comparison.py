"""A comparison of `rnnopt compare`: its settings, its tuning runs, then the reported runs."""

from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Protocol

from rnnopt.config import seeds
from rnnopt.config.errors import UserError
from rnnopt.config.run_config import SharedConfig
from rnnopt.experiments.job import Job
from rnnopt.experiments.jobs import plan_jobs
from rnnopt.experiments.tuning import Candidate, Tuned, plan_trials, tune
from rnnopt.runs.folder import RunFolder
from rnnopt.runs.runner import Announce

FILE = "comparison.json"  # file in the folder with the settings of the comparison


def check_folder(out: Path | None, workers: int, resume: bool) -> None:
    """Raises UserError for a folder in which a comparison can neither begin nor resume."""
    if workers < 0:
        raise UserError(f"--workers must be at least 0, got {workers}.")
    if resume and out is None:
        raise UserError("--resume needs the comparison's folder: give --out.")
    if out is not None:  # a run of `train`, which a comparison cannot resume
        RunFolder(out).refuse_run("choose another --out")
    if out is not None and not resume and is_begun(out):
        raise UserError(
            f"{out} already holds runs: continue with --resume or choose another --out."
        )


def is_begun(out: Path) -> bool:
    """Whether a comparison was begun in a folder: it has its settings, a run or a trial."""
    places = (FILE, "*/seed-*/config.json", "tuning/*/*/config.json")
    return any(any(out.glob(place)) for place in places)


class ComparisonRunner(Protocol):
    """Executes the jobs of a comparison."""

    def stage(self, name: str, jobs: list[Job]) -> list[str]:
        """Executes the jobs of a stage; returns a sentence for each that failed."""

    def runs(self, jobs: list[Job]) -> list[str]:
        """Executes the reported runs; returns a sentence for each that failed."""


@dataclass
class ComparisonResult:
    """The runs of a comparison, the results of tuning, and a sentence for each failure."""

    jobs: list[Job]
    tuned: list[Tuned] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class ComparisonSpec:
    """The settings of a comparison; the fields are the options of `rnnopt compare`."""

    shared: SharedConfig
    optimizers: list[str]
    seeds: list[int]
    tune: int | None
    tune_budget: str | None
    out: Path
    resume: bool

    def check(self) -> None:
        """Raises UserError for options that exclude each other."""
        if self.tune_budget is not None and self.tune is None:
            raise UserError("--tune-budget needs --tune, the number of trials.")
        if self.tune is not None and seeds.TUNING in self.seeds:
            raise UserError(f"seed {seeds.TUNING} is for tuning: report others.")

    def plan(self, announce: Announce) -> tuple[list[Job], list[Candidate]]:
        """The runs, and the tuning trials before them; for `announce` see `plan_jobs`."""
        names, out, resume = self.optimizers, self.out, self.resume
        jobs = plan_jobs(self.shared, names, self.seeds, out, resume, announce)
        candidates: list[Candidate] = []
        if self.tune is not None:
            budget = self.tune_budget or self.shared.budget
            candidates = plan_trials(self.shared, names, self.tune, budget, out, resume)
        if resume and is_begun(out) and not (out / FILE).exists():
            # An older version did not store the settings: they must have been these.
            first = [*jobs, *(job for one in candidates for job in one.jobs)]
            if not any((job.path / "config.json").exists() for job in first):
                raise UserError(
                    f"{out} holds other runs than these: pass the options with which it was begun,"
                    " or choose another --out."
                )
        return jobs, candidates

    def train(
        self, jobs: list[Job], candidates: list[Candidate], work: ComparisonRunner
    ) -> ComparisonResult:
        """Executes the tuning trials, if any, and the runs with the chosen rates."""
        done = ComparisonResult(jobs)
        if candidates:
            stage = partial(work.stage, "tuning")
            done.tuned, done.failures = tune(candidates, stage, self.out)
            names = [one.specification for one in done.tuned]
            # The chosen rates are part of the optimizers' specifications.
            shared = replace(self.shared, lr=None)
            done.jobs = []
            if done.tuned:
                done.jobs = plan_jobs(shared, names, self.seeds, self.out, self.resume)
        done.failures = done.failures + work.runs(done.jobs)
        return done
