"""Runs in this process, or shared by several as torchrun starts them: one start for all of them.

FOLDER/runs.json holds the runs' settings by name; each becomes FOLDER/name. Besides those of
RunConfig: "interrupt", steps after which the run is interrupted and then resumed, "poison", the
training losses that are not finite, in the last process alone, and "broken", the step of ADMM whose
loss is not.
"""

import json
import os
from contextlib import contextmanager
from pathlib import Path

import torch

from rnnopt import ADMM
from rnnopt.config.run_config import RunConfig
from rnnopt.runs.runner import run
from rnnopt.tasks.task import Task
from rnnopt.training import data_parallel as several_processes


@contextmanager
def poisoned(losses):
    """Makes some losses of this process NaN, counted from 1."""
    loss_of, count = Task.loss_of, 0

    def with_nan(self, outputs, batch):
        nonlocal count
        count += torch.is_grad_enabled()
        loss = loss_of(self, outputs, batch)
        return loss * float("nan") if torch.is_grad_enabled() and count in losses else loss

    Task.loss_of = with_nan
    try:
        yield
    finally:
        Task.loss_of = loss_of


@contextmanager
def broken(number):
    """Makes the loss of one of ADMM's steps NaN."""
    step, count = ADMM.step, 0

    def with_nan(self, batch):
        nonlocal count
        count += 1
        return step(self, batch) * (float("nan") if count == number else 1)

    ADMM.step = with_nan
    try:
        yield
    finally:
        ADMM.step = step


def make(settings, path):
    """The run of these settings in a folder."""
    settings = dict(settings)
    interrupt, poison = settings.pop("interrupt", None), settings.pop("poison", [])
    number = settings.pop("broken", None)
    last = several_processes.rank() == several_processes.started() - 1
    config = RunConfig(**settings)
    taken = 0

    def stops():
        nonlocal taken
        taken += 1
        return taken > interrupt

    with poisoned(poison if last else []), broken(number):
        if interrupt is None:
            run(config, path)
        else:
            run(config, path, stop_requested=stops)
            run(config, path, resume=True)


def main(folder):
    """In one of the processes: makes the runs of a folder."""
    folder = Path(folder)
    with several_processes.joined("cpu"):
        for name, settings in json.loads((folder / "runs.json").read_text()).items():
            try:
                make(settings, folder / name)
            except FloatingPointError as error:
                if several_processes.rank() == 0:
                    (folder / name / "sentence").write_text(str(error))


def breaks(how):
    """In one of the processes: it loses the other, or meets an error that is its own."""
    with several_processes.joined("cpu"):
        if how == "own":
            raise RuntimeError("of ours")
        if several_processes.rank() == 1:
            os._exit(3)
        torch.distributed.all_reduce(torch.ones(1))
