"""Tuning with the same number of trials for every optimizer: a grid of learning rates.

The trials have a separate seed. `rnnopt compare --tune N` and `rnnopt reproduce` compare them by
`rank`. The grid has half-decade steps around the optimizer's rate; beyond nine trials it becomes
finer instead of wider.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rnnopt.config import seeds
from rnnopt.config.errors import UserError
from rnnopt.config.run_config import RunConfig, SharedConfig
from rnnopt.config.specs import parse, write
from rnnopt.experiments.job import Job
from rnnopt.experiments.jobs import check_saved
from rnnopt.runs.collection import Run, read_runs
from rnnopt.runs.files import write_json
from rnnopt.runs.folder import TUNING, RunFolder, folder_of
from rnnopt.tasks.ranking import WORST, Rank
from rnnopt.training.build import task_of
from rnnopt.training.registry import entry_of
from rnnopt.training.resolve import fill_from_task, resolve

DECADES = 2.0  # largest span to either side


def rank(run: Run) -> Rank:
    """Rank of a trial, the greater the better: `Run.rank`, but diverged trials come last."""
    return WORST if run.result["status"] == "diverged" else run.rank


def grid(middle: float, trials: int) -> list[float]:
    """`trials` rates, from low to high, with `middle` among them."""
    step = min(0.5, 2 * DECADES / (trials - 1))
    return [float(f"{middle * 10 ** (step * (i - trials // 2)):.4g}") for i in range(trials)]


@dataclass(frozen=True)
class Candidate:
    """An optimizer of a comparison and the runs that choose its learning rate, from low to high."""

    optimizer: str
    jobs: tuple[Job, ...]

    def choose(self) -> "Tuned":
        """The rate of the best run on validation data, once all are finished."""
        runs = read_runs([RunFolder.open(job.path) for job in self.jobs])
        best = max(runs, key=rank)
        metrics = [(run.result.get("best") or {}).get("validation_metric") for run in runs]
        rates = [job.config.lr or math.nan for job in self.jobs]
        return Tuned(
            self.optimizer, best.config.lr or math.nan, dict(zip(rates, metrics, strict=True))
        )


@dataclass(frozen=True)
class Tuned:
    """The result of tuning an optimizer.

    Args:
        optimizer: its specification, as passed.
        lr: the chosen learning rate.
        trials: the best validation metric of each rate tried, None if there was none.
    """

    optimizer: str
    lr: float
    trials: dict[float, float | None]

    @property
    def specification(self) -> str:
        """The optimizer with the chosen rate."""
        name, options = parse(self.optimizer)
        return write(name, options | {"lr": self.lr})

    @property
    def at_edge(self) -> bool:
        """Whether the chosen rate is at an end of the grid: a wider grid may have a better one."""
        return self.lr in (min(self.trials), max(self.trials))


def plan_trials(
    shared: SharedConfig,
    optimizers: list[str],
    trials: int,
    budget: str | None,
    out: Path,
    resume: bool,
) -> list[Candidate]:
    """The tuning runs of a comparison: the same number and length for every optimizer.

    Args:
        shared: common config of the reported runs; its lr, or the lr of an optimizer's
            specification, is the middle of the grid in place of the optimizer's default.
        optimizers: specifications of the optimizers.
        trials: number of rates for each.
        budget: budget of each trial; None for that of the reported runs.
        out: folder of the comparison.
        resume: whether the folder may hold some of the runs.
    """
    if trials < 2:
        raise UserError(f"--tune must be at least 2 trials, got {trials}.")
    task = task_of(shared)
    candidates = []
    seen: set[str] = set()
    for optimizer in optimizers:
        resolved = resolve(RunConfig(**asdict(shared), optimizer=optimizer, seed=seeds.TUNING))
        name, options = parse(optimizer)
        without = f"{name}:{sorted((k, str(v)) for k, v in options.items() if k != 'lr')}"
        if without in seen:
            raise UserError(
                f"optimizers must differ in more than lr, which --tune chooses: {name}."
            )
        seen.add(without)
        middle = resolved.lr or entry_of(name).lr
        config = fill_from_task(replace(resolved, budget=budget), task)
        jobs = tuple(
            Job(
                replace(config, lr=lr, refit=None),
                out / TUNING / folder_of(optimizer) / f"lr-{lr:g}",
            )
            for lr in grid(middle, trials)
        )
        check_saved(list(jobs), task, out, resume)
        candidates.append(Candidate(optimizer, jobs))
    return candidates


def tune(
    candidates: list[Candidate], do: Callable[[list[Job]], list[str]], out: Path
) -> tuple[list[Tuned], list[str]]:
    """Executes the tuning runs, chooses the rates and writes them to tuning.json.

    Args:
        candidates: result of `plan_trials`.
        do: executes jobs and returns a sentence for each that failed.
        out: folder of the comparison.

    Returns:
        The results, none if a run failed or was interrupted; and the failures.
    """
    jobs = [job for candidate in candidates for job in candidate.jobs]
    missing = [job for job in jobs if not RunFolder(job.path).is_over()]
    failures = do(missing) if missing else []
    if failures or not all(RunFolder(job.path).is_over() for job in missing):
        return [], failures
    found = [candidate.choose() for candidate in candidates]
    write_json(out / "tuning.json", {"tuned": [facts(one) for one in found]})
    return found, []


def facts(tuned: Tuned) -> dict[str, Any]:
    """The result of tuning, ready for JSON."""
    trials = [{"lr": lr, "validation_metric": metric} for lr, metric in tuned.trials.items()]
    return {"optimizer": tuned.optimizer, "lr": tuned.lr, "at_edge": tuned.at_edge} | {
        "trials": trials
    }
