"""Executes a sweep's trials: this process asks Optuna and judges, workers of a cluster train.

A requeued trial resumes from its checkpoint if a worker sees its folder; otherwise it starts again.
Several commands on one database share the trials: each marks its own as alive, and requeues those
of a command that is gone. A trial comes too late if others have begun all trials before it.
"""

import math
import os
import socket
import threading
import time
import warnings
import zlib
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rnnopt.config.errors import UserError
from rnnopt.config.run_config import RunConfig
from rnnopt.config.specs import Value
from rnnopt.experiments.database import quiet
from rnnopt.experiments.engine import Engine
from rnnopt.experiments.job import Job
from rnnopt.experiments.queues import Queue, reason_of
from rnnopt.experiments.sweeps.pruning import is_worse_than_median
from rnnopt.experiments.sweeps.spaces import Choices, Space, configure
from rnnopt.experiments.sweeps.study import (
    Sweep,
    address,
    counted,
    put_back,
    put_back_running,
)
from rnnopt.experiments.worker import STEPS
from rnnopt.runs.folder import UNFINISHED, RunFolder
from rnnopt.tasks.ranking import WORST, loss_of_best, rank

if TYPE_CHECKING:
    from optuna import Study, Trial


def run_sweep(
    sweep: Sweep,
    study: "Study",
    engine: Engine,
    tell: Callable[[list[Job]], None],
    stop: threading.Event,
) -> None:
    """Executes the missing trials of a sweep.

    Args:
        sweep: the sweep.
        study: study of the sweep, from `begin`.
        engine: trains them.
        tell: called a few times per second with the trials under way.
        stop: set it to interrupt; current runs save themselves and are requeued.
    """
    own = sweep.storage == address(None, sweep.out)
    with RunFolder(sweep.out).locked() if own else nullcontext():
        if own:
            put_back_running(study)  # their command died: the lock excludes other processes
        trials = TrialQueue(sweep, study)
        tell([])
        if left(sweep, study) and not stop.is_set():
            engine.run(trials, sweep.trials, lambda: tell(trials.jobs()), stop)
        tell([])


def left(sweep: Sweep, study: "Study") -> Literal["", "to begin", "under way"]:
    """What is left of a sweep: trials to begin, else running trials, else nothing."""
    trials = study.get_trials(deepcopy=False)
    states = {trial.state.name for trial in trials}
    if "WAITING" in states or counted(trials) < sweep.trials:
        return "to begin"
    return "under way" if "RUNNING" in states else ""


def seed_sampler(sweep: Sweep, study: "Study") -> None:
    """Gives the study a sampler that repeats no earlier draws, nor those of another machine."""
    from optuna.samplers import TPESampler

    seed = sweep.config.seed + len(study.get_trials(deepcopy=False))
    if sweep.storage != address(None, sweep.out):
        seed += zlib.crc32(f"{socket.gethostname()} {os.getpid()} {time.time_ns()}".encode())
    study.sampler = TPESampler(
        seed=seed % 2**32, n_startup_trials=min(10, max(1, sweep.trials // 2))
    )


class TrialQueue(Queue):
    """A sweep's trials: a job is made when it is to begin.

    Args:
        sweep: the sweep, begun.
        study: its study.
    """

    def __init__(self, sweep: Sweep, study: "Study"):
        super().__init__([])
        self.sweep, self.study = sweep, study
        self._trials: dict[Path, tuple[Job, Trial, Pruning]] = {}
        self._open = True
        self._beat = -math.inf
        seed_sampler(sweep, study)

    def jobs(self) -> list[Job]:
        """The trials under way."""
        return [job for job, _, _ in self._trials.values()]

    def poll(self) -> None:
        """Marks the trials under way as alive and requeues those of a command that is gone."""
        now = time.monotonic()
        if now < self._beat + self.sweep.heartbeat / 2:
            return
        self._beat = now
        with quiet() as optuna:
            for _, trial, _ in self._trials.values():
                self.study._storage.record_heartbeat(trial._trial_id)  # type: ignore[attr-defined]
            optuna.storages.fail_stale_trials(self.study)

    def left(self) -> int:
        """Whether a trial is still to be done, here or by another command."""
        return self._open and bool(left(self.sweep, self.study))

    def take(self) -> Job | None:
        """The next trial, with the values that Optuna draws."""
        if not self._open or left(self.sweep, self.study) != "to begin":
            return None
        with quiet() as optuna, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Optuna's, that asking alone gives no sign of life
            trial = self.study.ask()
            before = [t for t in self.study.get_trials(deepcopy=False) if t.number < trial.number]
            if counted(before) >= self.sweep.trials:
                self.study.tell(trial, state=optuna.trial.TrialState.FAIL)
                return None
            return self._job(trial)

    def _job(self, trial: "Trial") -> Job:
        again = "folder" in trial.user_attrs  # the trial was requeued
        config = configure(self.sweep.config, suggest(trial, self.sweep.space))
        folder = trial.user_attrs.get("folder", f"trial-{trial.number:04d}")
        while not again and self._is_taken(folder, config):
            folder += "b"
        trial.set_user_attr("folder", folder)
        job, watch = Job(config, self.sweep.out / folder), Pruning(trial, self.sweep.prune)
        self._trials[job.path] = job, trial, watch
        if again and (job.path / "config.json").exists():
            for record in RunFolder(job.path).read_records():
                watch.report(record)
        return job

    def _is_taken(self, folder: str, config: RunConfig) -> bool:
        """Whether a folder holds a trial of other values, of which the database knows nothing.

        That is so if the database is older than the folder, as a mirror's may be.
        """
        path = self.sweep.out / folder
        if not (path / "config.json").exists():
            return False
        saved = asdict(RunFolder(path).read_config())  # where the task left a choice, it is filled
        return any(saved[name] != v for name, v in asdict(config).items() if v is not None)

    def record(self, job: Job, record: dict[str, float]) -> bool:
        """Reports an evaluation to Optuna; returns whether to stop the trial."""
        if job.path not in self._trials:
            return False
        _, trial, watch = self._trials[job.path]
        if trial.user_attrs.get("worker") != job.live.worker:
            trial.set_user_attr("worker", job.live.worker)
        watch.report(record)
        return watch.pruned

    def ended(self, job: Job, error: BaseException | None) -> None:
        """Tells Optuna the outcome; requeues an interrupted trial."""
        _, trial, watch = self._trials.pop(job.path)
        with quiet() as optuna:
            states = optuna.trial.TrialState
            try:
                state, value = self._outcome(job, trial, watch, error)
            except UserError as failure:  # its files are damaged
                trial.set_user_attr("error", str(failure))
                state, value = "FAIL", None
            found = self.study.tell(trial, value, state=states[state])
            if state == "FAIL" and "error" not in found.user_attrs:
                put_back(self.study, found)

    def _outcome(
        self, job: Job, trial: "Trial", watch: "Pruning", error: BaseException | None
    ) -> tuple[str, float | None]:
        """The state of a trial that has ended, and its value if it is complete."""
        if error is not None:
            kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
            trial.set_user_attr("error", f"{kind}{reason_of(error)}")
            return "FAIL", None
        folder = RunFolder(job.path)
        records, result = folder.read_records(), folder.read_result()
        for record in records:  # those whose news is still on its way
            watch.report(record)
        if result["status"] in UNFINISHED and not watch.pruned:
            return "FAIL", None
        for name in ("status", "gradient_evaluations", "seconds"):
            trial.set_user_attr(name, result[name])
        value = result["best"].get("validation_metric", math.nan)
        # A diverged run ranks below all others, whatever it reached before.
        if watch.pruned or result["status"] == "diverged" or not math.isfinite(value):
            return "PRUNED", None
        loss = loss_of_best(result["best"], records)
        if math.isfinite(loss):
            trial.set_user_attr("validation_loss", loss)
        return "COMPLETE", float(value)

    def close(self) -> None:
        """Begins no more trials."""
        self._open = False


def suggest(trial: "Trial", space: Space) -> dict[str, Value]:
    """The trial's values, by name."""
    values: dict[str, Value] = {}
    for name, one in space.items():
        if isinstance(one, Choices):
            values[name] = trial.suggest_categorical(name, one.values)
        elif isinstance(one.low, int) and isinstance(one.high, int):
            values[name] = trial.suggest_int(name, one.low, one.high, log=one.log)
        else:
            values[name] = trial.suggest_float(name, one.low, one.high, log=one.log)
    return values


class Pruning:
    """Reports a trial's validation metric once per step and finds out whether to stop it.

    Args:
        trial: trial of the run.
        prune: whether to stop the run if it is worse than the median of the others.
    """

    def __init__(self, trial: "Trial", prune: bool):
        self.trial, self.prune = trial, prune
        self.step, self.pruned = -1, False
        self.best, self.losses = WORST, dict[str, float]()

    def report(self, record: dict[str, float]) -> None:
        """Reports a record, unless its step is known already or the trial is to be stopped."""
        step = math.floor(STEPS * record["fraction"])
        if step <= self.step or self.pruned:
            return
        self.step = step
        metric, loss = record["validation_metric"], record["validation_loss"]
        study = self.trial.study
        found = rank(metric, loss, study.direction.name == "MINIMIZE")
        if math.isfinite(loss):
            self.losses[str(step)] = loss
            self.trial.set_user_attr("losses", self.losses)
        self.trial.report(math.nan if found == WORST else metric, step)
        self.best = max(self.best, found)
        self.pruned = self.prune and is_worse_than_median(self.best, study, step)
