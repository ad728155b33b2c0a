"""The jobs of a comparison: every optimizer with every seed on one task."""

from dataclasses import asdict
from pathlib import Path

from rnnopt.config.errors import UserError
from rnnopt.config.run_config import RunConfig, SharedConfig
from rnnopt.experiments.job import Job
from rnnopt.runs.folder import RunFolder, folder_of
from rnnopt.runs.runner import Announce, check_same_data, check_same_optimizer
from rnnopt.tasks import Task
from rnnopt.training.build import build_training, task_of
from rnnopt.training.option_checks import warnings_of
from rnnopt.training.resolve import fill_from_task


def plan_jobs(
    shared: SharedConfig,
    optimizers: list[str],
    seeds: list[int],
    out: Path,
    resume: bool,
    announce: Announce = lambda task, warnings: None,
) -> list[Job]:
    """The runs of a comparison, seed by seed, after checking that each can be built.

    With `resume` the folder may already hold some of them; their settings must be the same.
    `announce` is called with the task and the warnings.
    """
    for name, values in (("optimizers", optimizers), ("seeds", seeds)):
        if not values:
            raise UserError(f"compare needs at least one of --{name}.")
        if len(set(values)) < len(values):
            raise UserError(f"--{name} must differ from each other, got {values}.")
    task = task_of(shared)
    jobs, warnings = [], []
    for seed in seeds:
        for optimizer in optimizers:
            config = fill_from_task(
                RunConfig(**asdict(shared), optimizer=optimizer, seed=seed), task
            )
            if seed == seeds[0]:
                warnings += warnings_of(config, build_training(config, task))
            jobs.append(Job(config, out / folder_of(optimizer) / f"seed-{seed}"))
    if len({job.path for job in jobs}) < len(jobs):
        raise UserError(
            f"--optimizers must differ in letters and digits, which name folders, got {optimizers}."
        )
    announce(task, list(dict.fromkeys(warnings)))
    check_saved(jobs, task, out, resume)
    return jobs


def check_saved(jobs: list[Job], task: Task, out: Path, resume: bool) -> None:
    """Raises UserError if a run already exists; with `resume`, only if its settings differ."""
    for job in jobs:
        if not (job.path / "config.json").exists():
            continue
        if not resume:
            raise UserError(
                f"{out} already holds runs: continue with --resume or choose another --out."
            )
        begun = RunFolder.open(job.path)
        saved = fill_from_task(begun.read_config(), task)
        if saved != job.config:
            was, now = saved.to_dict(), job.config.to_dict()
            others = [f"{name}={was[name]}" for name in was if was[name] != now[name]]
            raise UserError(
                f"{job.path} was begun with other settings ({', '.join(others)}): choose another"
                " --out."
            )
        check_same_data(task, begun)
        check_same_optimizer(begun, job.config)
