"""Executes a sweep's trials: one after the other in each worker process, each in a run folder.

A requeued trial resumes from its checkpoint if its folder is on this machine; otherwise it starts
again. A worker's trial comes too late if all trials of the sweep were begun before it.
"""

import math
import os
import socket
import threading
import time
import weakref
import zlib
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, nullcontext
from multiprocessing import get_context, parent_process
from typing import TYPE_CHECKING, Literal

from rnnopt.config import seeds
from rnnopt.config.specs import Value
from rnnopt.experiments.database import close, quiet
from rnnopt.experiments.sweeps.pruning import is_worse_than_median
from rnnopt.experiments.sweeps.spaces import Choices, Space, configure
from rnnopt.experiments.sweeps.study import (
    Sweep,
    address,
    counted,
    open_sweep,
    put_back,
    put_back_running,
)
from rnnopt.experiments.worker_pool import StopFlag, busy, interrupted, ready_worker, signals_wait
from rnnopt.runs import runner
from rnnopt.runs.folder import RunFolder
from rnnopt.tasks.ranking import WORST, loss_of_best, rank
from rnnopt.training.loop import Progress

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.trial import FrozenTrial

STEPS = 20  # steps of a trial's budget at which it is compared with the others

Stop = Callable[[], bool]


class TooLate(Exception):
    """Other workers have already begun all trials."""


class Interrupted(Exception):
    """The run was interrupted; its trial is requeued."""


def run_sweep(
    sweep: Sweep, study: "Study", workers: int, tell: Callable[[], None], stop: threading.Event
) -> list[str]:
    """Executes the missing trials of a sweep in `workers` processes.

    Args:
        sweep: the sweep.
        study: study of the sweep, from `begin`.
        workers: number of processes.
        tell: called a few times per second.
        stop: set it to interrupt; current runs save themselves and are requeued.

    Returns:
        One sentence for each worker that failed.
    """
    own = sweep.storage == address(None, sweep.out)
    context = get_context("spawn")
    end = StopFlag(context)  # has no lock, which a killed worker might hold
    failures = []
    with RunFolder(sweep.out).locked() if own else nullcontext(), ExitStack() as stack:
        if own:
            put_back_running(study)  # their workers died: the lock excludes other processes
        tell()
        if not left(sweep, study):
            return []
        pools = [
            stack.enter_context(ProcessPoolExecutor(1, context, ready_worker, (end,)))
            for _ in range(workers)
        ]  # one pool each, so that a worker that dies does not affect the others
        with signals_wait():  # this starts the pools' processes
            pending = {pool.submit(_work, sweep, i) for i, pool in enumerate(pools)}
        try:
            while pending:
                done, pending = wait(pending, timeout=0.5)
                tell()
                if stop.is_set():
                    end.set()
                for error in filter(None, (future.exception() for future in done)):
                    if not isinstance(error, BrokenProcessPool):
                        failures.append(str(error))
                    elif not stop.is_set():
                        failures.append("a worker process died (out of memory?)")
        finally:  # before the pools are waited for
            end.set()
    return failures


def left(sweep: Sweep, study: "Study") -> Literal["", "to begin", "under way"]:
    """What is left of a sweep: trials to begin, else running trials, else nothing."""
    trials = study.get_trials(deepcopy=False)
    states = {trial.state.name for trial in trials}
    if "WAITING" in states or counted(trials) < sweep.trials:
        return "to begin"
    return "under way" if "RUNNING" in states else ""


def _work(sweep: Sweep, number: int) -> None:
    parent = parent_process()
    with busy:  # until the current trial is saved and requeued
        work(sweep, number, lambda: interrupted() or not (parent and parent.is_alive()))


def work(sweep: Sweep, number: int, stop: Stop) -> None:
    """Executes trials until all are begun and none is running.

    Args:
        sweep: the sweep, begun.
        number: number of this worker, from 0; each worker draws other values.
        stop: called before every step; True interrupts the current run.
    """
    with quiet() as optuna:
        study = _load(sweep, number)
        while not stop():
            waiting = left(sweep, study)
            if waiting == "to begin":
                objective = Objective(sweep, stop)
                study.optimize(objective, 1, catch=(Exception,), callbacks=[objective.afterwards])
            elif waiting == "under way":  # elsewhere; if its worker dies, this one resumes it
                threading.Event().wait(min(1.0, sweep.heartbeat / 2))
                optuna.storages.fail_stale_trials(study)
            else:
                return


def _load(sweep: Sweep, number: int) -> "Study":
    from optuna import load_study
    from optuna.samplers import TPESampler

    storage = open_sweep(sweep)
    study = load_study(study_name=sweep.name, storage=storage)
    weakref.finalize(study, close, storage)
    # A new sampler must not repeat earlier draws, nor those of another machine, whose workers are
    # also numbered from 0.
    seed = sweep.config.seed + seeds.SWEEP_WORKER * number + len(study.get_trials(deepcopy=False))
    if sweep.storage != address(None, sweep.out):
        seed += zlib.crc32(f"{socket.gethostname()} {os.getpid()} {time.time_ns()}".encode())
    study.sampler = TPESampler(
        seed=seed % 2**32, n_startup_trials=min(10, max(1, sweep.trials // 2))
    )
    return study


class Objective:
    """One trial: draws values, trains, returns the best validation metric.

    Args:
        sweep: the sweep.
        stop: as in `work`.
    """

    def __init__(self, sweep: Sweep, stop: Stop):
        self.sweep, self.stop, self.interrupted = sweep, stop, False

    def __call__(self, trial: "Trial") -> float:
        study = trial.study
        before = [t for t in study.get_trials(deepcopy=False) if t.number < trial.number]
        if counted(before) >= self.sweep.trials:
            raise TooLate
        try:
            return self._train(trial)
        except Interrupted:
            self.interrupted = True
            raise
        except Exception as error:
            if type(error).__name__ != "TrialPruned":
                trial.set_user_attr("error", f"{type(error).__name__}: {error}")
            raise

    def afterwards(self, study: "Study", trial: "FrozenTrial") -> None:
        """Requeues the trial if it was interrupted."""
        if self.interrupted:
            put_back(study, trial)

    def _train(self, trial: "Trial") -> float:
        from optuna import TrialPruned

        again = "folder" in trial.user_attrs  # the trial was requeued
        folder = trial.user_attrs.get("folder", f"trial-{trial.number:04d}")
        trial.set_user_attr("folder", folder)
        trial.set_user_attr("worker", f"{socket.gethostname()}:{os.getpid()}")
        config = configure(self.sweep.config, suggest(trial, self.sweep.space))
        path = self.sweep.out / folder
        exists = again and (path / "config.json").exists()
        watch = PruningCallback(trial, self.sweep.prune)
        records = RunFolder(path).read_records() if exists else []
        for record in records:
            watch.report(record)
        result = runner.run(config, path, exists, watch, lambda: watch.pruned or self.stop())
        for name in ("status", "gradient_evaluations", "seconds"):
            trial.set_user_attr(name, result[name])
        if result["status"] == "interrupted" and not watch.pruned:
            raise Interrupted
        value = result["best"].get("validation_metric", math.nan)
        # A diverged run ranks below all others, whatever it reached before.
        if result["status"] in ("interrupted", "diverged") or not math.isfinite(value):
            raise TrialPruned
        loss = loss_of_best(result["best"], records)
        if math.isfinite(loss):
            trial.set_user_attr("validation_loss", loss)
        return float(value)


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


class PruningCallback:
    """A listener of a run: reports its validation metric once per step and stops bad trials.

    Args:
        trial: trial of the run.
        prune: whether to stop the run if it is worse than the median of the others.
    """

    def __init__(self, trial: "Trial", prune: bool):
        self.trial, self.prune = trial, prune
        self.step, self.pruned = -1, False
        self.best, self.losses = WORST, dict[str, float]()

    def __call__(self, progress: Progress) -> None:
        if progress.record:
            self.report(progress.record)

    def report(self, record: dict[str, float]) -> None:
        """Reports a record; a step that was already reported is ignored."""
        step = math.floor(STEPS * record["fraction"])
        if step <= self.step:
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
