"""Runs a study: tuning runs, the choice of each learning rate, the reported runs.

Tuning tries a grid of rates. A row whose best rate is at an end of it tries the next rate beyond
that end, half a decade further, until the best one has been passed on both sides.

Every run is a run folder below the study's folder. Finished runs are not repeated and interrupted
runs are resumed, so the same command continues a study.
"""

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from rnnopt.config import seeds
from rnnopt.config.errors import UserError, unknown_name
from rnnopt.config.run_config import RunConfig
from rnnopt.experiments.engine import Engine
from rnnopt.experiments.job import Job
from rnnopt.experiments.reproduce.study import Column, Form, Row, Study
from rnnopt.experiments.tuning import rank
from rnnopt.runs.collection import Run, read_runs
from rnnopt.runs.folder import UNFINISHED, RunFolder, folder_of
from rnnopt.tasks import Task, build_task
from rnnopt.training.build import build_training
from rnnopt.training.resolve import fill_from_task

Tell = Callable[[str, list[Job]], None]
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


def part_of(study: Study, form: Form, only: Sequence[str], chosen: Sequence[int] = ()) -> Form:
    """The form with the rows and data sets alone that `only` names, and the chosen seeds.

    All of a kind that none is named of.

    Raises:
        UserError: the form has no such row, data set or seed.
    """
    rows = [row.label for row in chosen_rows(study, form)]
    columns = [column.label for column in form.columns]
    for label in only:
        if label not in (*rows, *columns):
            raise unknown_name(f"row or data set of {study.name}:", label, (*rows, *columns))
    for seed in chosen:
        if seed not in form.seeds:
            known = ", ".join(map(str, form.seeds))
            raise UserError(f"no seed {seed} in this form of {study.name}, which has {known}.")
    return replace(
        form,
        rows=tuple(label for label in rows if label in only) or form.rows,
        columns=tuple(one for one in form.columns if one.label in only) or form.columns,
        seeds=tuple(seed for seed in form.seeds if seed in chosen) or form.seeds,
    )


def grid_of(form: Form, row: Row) -> list[float]:
    """The learning rates that a row begins with: the form's in the row's unit, or a printed one."""
    if row.rate is not None:
        return [row.rate]
    return [float(f"{rate * row.rate_unit:.6g}") for rate in form.rates]


def rates_tried(form: Form, column: Column, row: Row, out: Path) -> list[float]:
    """The learning rates of a row, with those beyond its grid that finished trials ask for.

    A grid of two rates has no middle: it is not widened. Nor are rates below it tried where the
    best trial is no better than a constant answer.
    """
    rates = grid_of(form, row)
    if len(rates) < 3 or not form.widen:
        return rates
    runs: dict[float, Run] = {}
    while len(rates) < len(form.rates) + FURTHER:
        for rate in rates[len(runs) :]:
            path = _job(form, column, row, rate, seeds.TUNING, out).path
            if not (path / "config.json").exists() or not RunFolder(path).is_over():
                return rates
            runs[rate] = read_run(path)
        best = max(rates, key=lambda rate: rank(runs[rate]))
        # Of runs that learn nothing the slowest has the lowest loss.
        futile = best == min(rates) and "no_better" in runs[best].result
        if futile or min(rates) < best < max(rates):
            break
        rates.append(beyond(best, up=best == max(rates)))
    return rates


def beyond(rate: float, up: bool) -> float:
    """The next of the rates …, 0.1, 0.3, 1, 3, … above or below one."""
    return float(f"{10 ** ((round(2 * math.log10(rate)) + (1 if up else -1)) / 2):.1g}")


def configure(form: Form, column: Column, row: Row, rate: float, seed: int) -> RunConfig:
    """The run of a row on a column's task."""
    settings: dict[str, Any] = {**form.settings, **(row.settings or {})}
    settings |= {**form.changes.get(row.label, {}), "lr": rate}
    budget = form.tuning_budget if seed == seeds.TUNING else form.budget
    return RunConfig(**settings, task=column.task, budget=budget, seed=seed)


def place(out: Path, column: Column, row: Row, config: RunConfig) -> Path:
    """The folder of a run."""
    tuning = config.seed == seeds.TUNING
    run = f"tune-lr-{config.lr:g}" if tuning else f"seed-{config.seed}"
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
        _job(form, column, row, chosen_rate(form, column, row, out), seed, out)
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
            _job(form, column, row, rate, seeds.TUNING, out)
            for column, row in pairs
            if row.rate is None
            for rate in rates_tried(form, column, row, out)
        ]
        missing = [job for job in jobs if not RunFolder(job.path).is_over()]
        if not missing or failures or stop.is_set():
            break
        failures = engine.work(missing, lambda now: tell("tuning", now), stop)
    return failures


def _job(form: Form, column: Column, row: Row, rate: float, seed: int, out: Path) -> Job:
    config = configure(form, column, row, rate, seed)
    return Job(config, place(out, column, row, config))


def _check(form: Form, pairs: list[tuple[Column, Row]], out: Path) -> None:
    """Raises UserError if a run cannot be built, or exists with other settings."""
    tasks = {column.task: build_task(column.task) for column, _ in pairs}
    for column, row in pairs:
        rates = rates_tried(form, column, row, out)
        for seed in (seeds.TUNING, *form.seeds):
            for rate in rates:
                _check_saved(_job(form, column, row, rate, seed, out), tasks[column.task])
        build_training(_job(form, column, row, rates[0], 0, out).config, tasks[column.task])


def _check_saved(job: Job, task: Task) -> None:
    """Raises UserError if a run exists with other settings than a rate."""
    if not (job.path / "config.json").exists():
        return
    job = replace(job, config=fill_from_task(job.config, task))
    saved = fill_from_task(RunFolder.open(job.path).read_config(), task)
    saved = replace(saved, lr=job.config.lr)
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
    if saved.lr != job.config.lr:
        raise UserError(
            f"{job.path} has lr={saved.lr}, and tuning chooses lr={job.config.lr}: remove it, or"
            " choose another --out."
        )


def _difference(saved: RunConfig, job: Job) -> str:
    pairs = ((f.name, getattr(saved, f.name), getattr(job.config, f.name)) for f in fields(saved))
    return ", ".join(f"{name}={was}, now {now}" for name, was, now in pairs if was != now)


def chosen_rate(form: Form, column: Column, row: Row, out: Path) -> float:
    """The rate of the best trial on validation data; diverged trials come last."""
    rates = rates_tried(form, column, row, out)
    if len(rates) == 1:
        return rates[0]

    def run_of(rate: float) -> Run:
        return read_run(_job(form, column, row, rate, seeds.TUNING, out).path)

    return max(rates, key=lambda rate: rank(run_of(rate)))


def read_run(path: Path) -> Run:
    """Reads one run folder."""
    return read_runs([RunFolder.open(path)])[0]


def finished_runs(form: Form, column: Column, row: Row, out: Path) -> list[Run]:
    """The finished reported runs of a row."""
    runs = []
    for seed in form.seeds:
        path = _job(form, column, row, form.rates[0], seed, out).path
        if (path / "config.json").exists():
            run = read_run(path)
            if run.result["status"] not in UNFINISHED:
                runs.append(run)
    return runs
