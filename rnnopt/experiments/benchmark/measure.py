"""Measures an optimizer on the workloads: tuning runs, the choice of the rate, reported runs.

1. Tuning, in the track "tuned": five learning rates in half decades around the optimizer's own, on
   a seed that no reported run has. The best is the first to the target, then that with the best
   validation metric. While it is at an end of those tried, the next beyond that end is tried, up
   to four more.
2. Report: the chosen rate on five seeds, the whole budget.

Every run is a run folder. Finished runs are not repeated and interrupted ones are resumed.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from rnnopt.config import seeds
from rnnopt.config.errors import UserError
from rnnopt.config.metric_names import lower_is_better
from rnnopt.config.run_config import RunConfig
from rnnopt.config.specs import parse
from rnnopt.experiments.benchmark.entry import Entry, Measured, OnWorkload, Track, Trial
from rnnopt.experiments.benchmark.suite import BY_NAME, FURTHER, SEEDS, TRIALS, Workload
from rnnopt.experiments.job import Job, processors
from rnnopt.experiments.jobs import check_saved
from rnnopt.experiments.tuning import grid
from rnnopt.runs.collection import Run, read_runs
from rnnopt.runs.environment import environment
from rnnopt.runs.folder import RunFolder
from rnnopt.runs.refit import COMPLETE
from rnnopt.tasks import Task
from rnnopt.training.build import build_training, task_of
from rnnopt.training.imported import check_trusted, source_of
from rnnopt.training.registry import entry_of
from rnnopt.training.resolve import fill_from_task, resolve

Do = Callable[[str, list[Job]], list[str]]


def measure(
    name: str, optimizer: str, track: Track, workloads: Sequence[Workload], out: Path, do: Do
) -> tuple[Entry | None, list[str]]:
    """Trains what is missing of an entry.

    Args:
        name: of the entry.
        optimizer: specification; its lr, or that of its class, is the middle of the rates.
        track: "tuned" or "self-tuning".
        workloads: what to train.
        out: folder of the runs.
        do: executes the jobs of a stage ("tuning", "training"); returns a sentence per failure.

    Returns:
        The entry, None unless all runs have ended; and a sentence for each run that failed.
    """
    rates = rates_of(optimizer, track)
    first = [seeds.TUNING] if track == "tuned" else SEEDS
    trials = {one.name: _jobs(one, optimizer, rates, first, out) for one in workloads}
    for jobs in trials.values():
        _check(jobs, out)
    if track == "self-tuning":
        trials = {one.name: [] for one in workloads}
    for _ in range(1 + FURTHER):
        over, failures = _stage(do, "tuning", trials)
        if not over:
            return None, failures
        further = {one.name: rate_beyond(trials[one.name], one) for one in workloads}
        if not any(further.values()):
            break
        for one in workloads:
            if (rate := further[one.name]) is not None:
                trials[one.name] += _jobs(one, optimizer, [rate], first, out)
    chosen = {
        one.name: best_rate(trials[one.name], one) if trials[one.name] else rates[0]
        for one in workloads
    }
    reported = {
        one.name: _jobs(one, optimizer, [chosen[one.name] or math.nan], SEEDS, out)
        for one in workloads
    }
    over, failures = _stage(do, "training", reported)
    if not over:
        return None, failures
    found = {
        one.name: OnWorkload(
            chosen[one.name] or math.nan,
            sorted(
                (trial_of(run, one) for run in _runs(trials[one.name])), key=lambda trial: trial.lr
            ),
            [measured(run, one) for run in _runs(reported[one.name])],
        )
        for one in workloads
    }
    facts = {key: value for key, value in environment().items() if key != "system"}
    facts |= {"processors": processors(), "load": load_of(reported.values())}
    return Entry(name, optimizer, track, source_of(optimizer), facts, found), []


def _stage(do: Do, stage: str, of: dict[str, list[Job]]) -> tuple[bool, list[str]]:
    """Executes jobs, one of each workload in turn; whether all have ended, and the failures."""
    turns = itertools.zip_longest(*of.values())
    jobs = [job for turn in turns for job in turn if job is not None]
    failures = do(stage, jobs) if jobs else []
    return not failures and all(RunFolder(job.path).is_over() for job in jobs), failures


def load_of(reported: Iterable[Sequence[Job]]) -> float | None:
    """The highest load that a reported run began with; None where one does not say."""
    begun = [RunFolder(job.path).read_environment() for jobs in reported for job in jobs]
    loads = [facts["load"] for facts in begun if isinstance(facts.get("load"), float)]
    return max(loads) if len(loads) == len(begun) else None


def rates_of(optimizer: str, track: Track) -> list[float]:
    """The learning rates to try, from low to high."""
    resolved = resolve(RunConfig(optimizer=optimizer))
    middle = resolved.lr or entry_of(parse(optimizer)[0]).lr
    return [middle] if track == "self-tuning" else grid(middle, TRIALS)


def best_rate(jobs: Sequence[Job], workload: Workload) -> float:
    """The best rate of finished tuning runs."""
    best = min(_runs(list(jobs)), key=lambda run: cost_of_trial(run, workload))
    return best.config.lr or math.nan


def rate_beyond(jobs: Sequence[Job], workload: Workload) -> float | None:
    """The next rate to try after finished tuning runs, half a decade further; None if none is."""
    if not 0 < len(jobs) < TRIALS + FURTHER:
        return None
    rates = [job.config.lr or math.nan for job in jobs]
    best = best_rate(jobs, workload)
    if best not in (min(rates), max(rates)):
        return None
    return float(f"{best * 10 ** (0.5 if best == max(rates) else -0.5):.4g}")


def repeat(
    entry: Entry, workload: str, seed: int, out: Path, do: Do, asked: str | None = None
) -> tuple[Measured, Measured]:
    """Trains one reported run of an entry once more.

    Args:
        entry: what is repeated.
        workload, seed: of the run.
        out: folder of the run.
        do: as in `measure`.
        asked: the optimizer that the user named, needed where that of the entry is code.

    Returns:
        What the entry says, and what was found.

    Raises:
        UserError: the entry has no such run, its optimizer is another, has changed or is code
            that is not `asked` for, or the run failed.
    """
    if asked is not None and asked != entry.optimizer:
        raise UserError(f"entry {entry.name} is of {entry.optimizer}, got --optimizer {asked}.")
    check_trusted(entry.optimizer, asked or "", f"entry {entry.name}")
    if workload not in entry.workloads:
        raise UserError(
            f"entry {entry.name} has no workload {workload!r}: it has {', '.join(entry.workloads)}."
        )
    one = entry.workloads[workload]
    said = next((run for run in one.runs if run.seed == seed), None)
    if said is None:
        raise UserError(f"entry {entry.name} has no run with seed {seed} on {workload}.")
    now = source_of(entry.optimizer)
    if now != entry.source:
        raise UserError(f"the entry's optimizer was {entry.source}, got {now}.")
    jobs = _jobs(BY_NAME[workload], entry.optimizer, [one.lr], [seed], out)
    _check(jobs, out)
    if failures := do("training", jobs):
        raise UserError(failures[0])
    (run,) = _runs(jobs)
    return said, measured(run, BY_NAME[workload])


def differences(said: Measured, found: Measured) -> list[str]:
    """The figures that differ, but for seconds, in words."""
    return [
        f"{name} was {getattr(said, name)}, got {getattr(found, name)}"
        for name in ("to_target", "best", "test", "status")
        if getattr(said, name) != getattr(found, name)
    ]


def cost_of_trial(run: Run, workload: Workload) -> tuple[float, float]:
    """What tuning makes small: gradient evaluations to the target, then the best metric's rank."""
    trial = trial_of(run, workload)
    best = math.inf
    if trial.best is not None and run.result["status"] != "diverged":
        best = trial.best if lower_is_better(run.result.get("metric")) else -trial.best
    return trial.to_target or math.inf, best


def trial_of(run: Run, workload: Workload) -> Trial:
    """A tuning run as an entry keeps it."""
    found = measured(run, workload)
    return Trial(run.config.lr or math.nan, found.to_target, found.best)


def measured(run: Run, workload: Workload) -> Measured:
    """A reported run as an entry keeps it: the workload's target counts, not that of its task."""
    result = run.result
    lower = lower_is_better(result.get("metric"))
    met: dict[str, float] = {}
    for record in run.records:
        if record["gradient_evaluations"] > workload.budget:
            break  # the last step may compute several gradients, past the budget
        metric = record["validation_metric"]
        if metric <= workload.target if lower else metric >= workload.target:
            met = record
            break
    status = result["status"]
    if status in COMPLETE:
        status = "reached target" if met else "out of budget"
    to_target = met.get("gradient_evaluations")
    return Measured(
        run.config.seed,
        to_target and int(to_target),
        met.get("seconds"),
        result.get("seconds", 0.0),
        (result.get("best") or {}).get("validation_metric"),
        result.get("test_metric"),
        status,
    )


def _jobs(
    workload: Workload, optimizer: str, rates: Sequence[float], run_seeds: Sequence[int], out: Path
) -> list[Job]:
    return [
        Job(
            workload.config(optimizer, lr, seed),
            out / workload.name / f"lr-{lr:g}" / f"seed-{seed}",
        )
        for lr in rates
        for seed in run_seeds
    ]


def _check(jobs: list[Job], out: Path) -> None:
    """Raises UserError if a run cannot be built, or was begun with other settings."""
    task: Task = task_of(jobs[0].config)
    build_training(jobs[0].config, task)
    filled = [replace(job, config=fill_from_task(job.config, task)) for job in jobs]
    check_saved(filled, task, out, resume=True)


def _runs(jobs: list[Job]) -> list[Run]:
    return read_runs([RunFolder.open(job.path) for job in jobs])
