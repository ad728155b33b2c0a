"""Runs a study: tuning runs, the choice of each learning rate, the reported runs.

Tuning tries a grid of rates. A row whose best rate is at an end of it tries the next rate beyond
that end, half a decade further, until the best one has been passed on both sides.

Every run is a run folder below the study's folder. Finished runs are not repeated and interrupted
runs are resumed, so the same command continues a study.
"""

import math
import threading
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from rnnopt.config import seeds
from rnnopt.config.errors import UserError
from rnnopt.config.run_config import RunConfig
from rnnopt.experiments.engine import Engine
from rnnopt.experiments.job import Job
from rnnopt.experiments.reproduce.study import Column, Form, Row, Study
from rnnopt.experiments.tuning import rank
from rnnopt.runs.collection import Run, read_runs
from rnnopt.runs.folder import UNFINISHED, RunFolder, folder_of
from rnnopt.tasks import Task, build_task
from rnnopt.tasks.ranking import Rank
from rnnopt.training.build import build_training
from rnnopt.training.resolve import fill_from_task

Tell = Callable[[str, list[Job]], None]
Trial = tuple[str, float]  # optimizer and learning rate
FURTHER = 4  # rates that a row may try beyond its grid


def chosen_rows(study: Study, form: Form) -> list[Row]:
    """The rows to run in a form."""
    known = [row.label for row in study.rows]
    for label in form.rows or ():
        if label not in known:
            raise UserError(f"{study.name} has no row {label!r}: it has {', '.join(known)}.")
    return [
        row
        for row in study.rows
        if row.settings is not None and (form.rows is None or row.label in form.rows)
    ]


def trials_of(form: Form, row: Row) -> list[Trial]:
    """The tuning trials that a row begins with: (optimizer, learning rate) pairs.

    Every row of a form has the same number, except for a row with a printed rate.
    """
    if row.trials:
        return list(row.trials[: len(form.rates)])
    optimizer = (row.settings or {})["optimizer"]
    if row.rate is not None:
        return [(optimizer, row.rate)]
    return [(optimizer, float(f"{rate * row.rate_unit:.6g}")) for rate in form.rates]


def tried(form: Form, column: Column, row: Row, out: Path) -> list[Trial]:
    """The tuning trials of a row, with those beyond its grid that the finished ones ask for.

    A grid of two rates has no middle: it is not widened.
    """
    trials = trials_of(form, row)
    if row.rate is not None or not form.widen or len(form.rates) < 3:
        return trials
    ranks: dict[Trial, Rank] = {}
    while len(trials) < len(form.rates) + FURTHER:
        for trial in trials[len(ranks) :]:
            path = _job(form, column, row, trial, seeds.TUNING, out).path
            if not (path / "config.json").exists() or not RunFolder(path).is_over():
                return trials
            ranks[trial] = rank(read_run(path))
        optimizer, best = max(trials, key=ranks.__getitem__)
        rates = [rate for name, rate in trials if name == optimizer]
        if len(rates) < 2 or min(rates) < best < max(rates):
            break
        trials.append((optimizer, beyond(best, up=best == max(rates))))
    return trials


def beyond(rate: float, up: bool) -> float:
    """The next of the rates …, 0.1, 0.3, 1, 3, … above or below one."""
    return float(f"{10 ** ((round(2 * math.log10(rate)) + (1 if up else -1)) / 2):.1g}")


def configure(form: Form, column: Column, row: Row, trial: Trial, seed: int) -> RunConfig:
    """The run of a row on a column's task."""
    settings: dict[str, Any] = {**form.settings, **(row.settings or {})}
    settings |= {**form.changes.get(row.label, {}), "optimizer": trial[0], "lr": trial[1]}
    budget = form.tuning_budget if seed == seeds.TUNING else form.budget
    return RunConfig(**settings, task=column.task, budget=budget, seed=seed)


def place(out: Path, column: Column, row: Row, config: RunConfig) -> Path:
    """The folder of a run."""
    run = f"seed-{config.seed}"
    if config.seed == seeds.TUNING:
        optimizer = f"{folder_of(config.optimizer)}-" if row.trials else ""
        run = f"tune-{optimizer}lr-{config.lr:g}"
    return out / "runs" / folder_of(column.label) / folder_of(row.label) / run


def run_study(
    study: Study,
    form: Form,
    out: Path,
    engine: Engine,
    tell: Tell,
    stop: threading.Event,
) -> list[str]:
    """Executes the missing runs of a study.

    Args:
        study, form: what to run.
        out: the study's folder.
        engine: executes the runs.
        tell: called with the stage and its jobs a few times per second.
        stop: set it to interrupt.

    Returns:
        One sentence for each run that failed.
    """
    pairs = [(column, row) for column in form.columns for row in chosen_rows(study, form)]
    _check(form, pairs, out)
    failures = _tune(form, pairs, out, engine, tell, stop) if len(form.rates) > 1 else []
    if stop.is_set() or failures:
        return failures
    jobs = [
        _job(form, column, row, chosen_trial(form, column, row, out), seed, out)
        for seed in form.seeds
        for column, row in pairs
    ]
    for job in jobs:
        _check_rate(job)
    return engine.work(jobs, lambda now: tell("training", now), stop)


def _tune(
    form: Form,
    pairs: list[tuple[Column, Row]],
    out: Path,
    engine: Engine,
    tell: Tell,
    stop: threading.Event,
) -> list[str]:
    """Executes the tuning runs, until no row asks for another; one sentence per failure."""
    failures: list[str] = []
    for _ in range(1 + FURTHER):
        jobs = [
            _job(form, column, row, trial, seeds.TUNING, out)
            for column, row in pairs
            if row.rate is None
            for trial in tried(form, column, row, out)
        ]
        missing = [job for job in jobs if not RunFolder(job.path).is_over()]
        if not missing or failures or stop.is_set():
            break
        failures = engine.work(missing, lambda now: tell("tuning", now), stop)
    return failures


def _job(form: Form, column: Column, row: Row, trial: Trial, seed: int, out: Path) -> Job:
    config = configure(form, column, row, trial, seed)
    return Job(config, place(out, column, row, config))


def _check(form: Form, pairs: list[tuple[Column, Row]], out: Path) -> None:
    """Raises UserError if a run cannot be built, or exists with other settings."""
    tasks = {column.task: build_task(column.task) for column, _ in pairs}
    for column, row in pairs:
        trials = trials_of(form, row)
        if len(trials) < len(form.rates) and row.rate is None:
            raise ValueError(f"{row.label} needs {len(form.rates)} trials, got {len(trials)}.")
        trials = tried(form, column, row, out)
        for seed in (seeds.TUNING, *form.seeds):
            for trial in trials:
                job = _job(form, column, row, trial, seed, out)
                _check_saved(job, tasks[column.task], bool(row.trials))
        for trial in trials:
            build_training(_job(form, column, row, trial, 0, out).config, tasks[column.task])


def _check_saved(job: Job, task: Task, any_optimizer: bool) -> None:
    """Raises UserError if a run exists with settings that no trial may have."""
    if not (job.path / "config.json").exists():
        return
    job = replace(job, config=fill_from_task(job.config, task))
    saved = fill_from_task(RunFolder.open(job.path).read_config(), task)
    saved = replace(saved, lr=job.config.lr)
    if any_optimizer:
        saved = replace(saved, optimizer=job.config.optimizer)
    if saved != job.config:
        raise UserError(
            f"{job.path} was begun with other settings ({_difference(saved, job)}): choose another"
            " --out."
        )


def _check_rate(job: Job) -> None:
    """Raises UserError if a reported run exists with another rate than tuning has chosen."""
    if not (job.path / "config.json").exists():
        return
    saved = RunFolder.open(job.path).read_config()
    if (saved.optimizer, saved.lr) != (job.config.optimizer, job.config.lr):
        raise UserError(
            f"{job.path} has {saved.optimizer} with lr={saved.lr}, and tuning chooses"
            f" {job.config.optimizer} with lr={job.config.lr}: remove it, or choose another --out."
        )


def _difference(saved: RunConfig, job: Job) -> str:
    pairs = ((f.name, getattr(saved, f.name), getattr(job.config, f.name)) for f in fields(saved))
    return ", ".join(f"{name}={was}, now {now}" for name, was, now in pairs if was != now)


def chosen_trial(form: Form, column: Column, row: Row, out: Path) -> Trial:
    """The best trial on validation data; diverged trials come last."""
    trials = tried(form, column, row, out)
    if len(trials) == 1:
        return trials[0]

    def run_of(trial: Trial) -> Run:
        return read_run(_job(form, column, row, trial, seeds.TUNING, out).path)

    return max(trials, key=lambda trial: rank(run_of(trial)))


def read_run(path: Path) -> Run:
    """Reads one run folder."""
    return read_runs([RunFolder.open(path)])[0]


def finished_runs(form: Form, column: Column, row: Row, out: Path) -> list[Run]:
    """The finished reported runs of a row."""
    runs = []
    for seed in form.seeds:
        path = _job(form, column, row, trials_of(form, row)[0], seed, out).path
        if (path / "config.json").exists():
            run = read_run(path)
            if run.result["status"] not in UNFINISHED:
                runs.append(run)
    return runs
