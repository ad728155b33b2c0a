"""The workloads: tasks, networks, and the targets and budgets that are declared in advance.

A workload's target is on validation data. Its budget is in gradient evaluations. All optimizers
have the same network, minibatches, cosine schedule and interval of evaluations, unless an entry's
own options say otherwise: they may set the schedule and clip gradients.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rnnopt.config.errors import UserError
from rnnopt.config.run_config import RunConfig
from rnnopt.layers.network_options import Readout

SEEDS = (0, 1, 2, 3, 4)
TRIALS = 5  # learning rates, in half decades around an entry's own
FURTHER = 4  # rates that may be tried beyond them
SuiteName = Literal["full", "quick"]


@dataclass(frozen=True)
class Workload:
    """A task to train on.

    Args:
        name: of the workload.
        task: name of the task, or of a data set of the UCR archive.
        target: validation metric to reach.
        budget: gradient evaluations of a run.
        look: gradient evaluations between two evaluations on validation data.
        hidden: units of each recurrent layer.
        model: name of the network.
        readout: states that the answer is read from.
    """

    name: str
    task: str
    target: float
    budget: int
    look: int
    hidden: int
    model: str = "rnn"
    readout: Readout = "last"

    def config(self, optimizer: str, lr: float, seed: int) -> RunConfig:
        """The run of an optimizer on the workload."""
        settings: dict[str, Any] = dict(task=self.task)
        if self.task in UCR:
            settings = archive_files(self.task) | dict(target=self.target)
        return RunConfig(
            **settings,
            model=self.model,
            hidden=self.hidden,
            readout=self.readout,
            optimizer=optimizer,
            lr=lr,
            budget=f"{self.budget}gradients",
            evaluate_every=self.look,
            seed=seed,
        )


UCR = ("JapaneseVowels",)
FULL = (
    Workload("adding-100", "adding:length=100", 0.01, 4000, 100, 128),
    Workload("adding-400", "adding:length=400", 0.01, 6000, 200, 128),
    Workload("counting", "counting", 0.1, 3000, 25, 24),
    Workload("digits-pixels", "digits-pixels", 0.9, 1500, 10, 64),
    Workload("mnist-rows", "mnist-rows", 0.97, 2000, 25, 100),
    Workload("mnist-permuted", "mnist-permuted", 0.8, 600, 25, 128),
    Workload("hapt2", "hapt2", 0.87, 2000, 25, 80),
    Workload("noisy-hapt2", "noisy-hapt2", 0.85, 2000, 25, 80),
    Workload("text", "metamorphosis", 1.8, 1000, 25, 100, "rnn", "every"),
    Workload("text-gru", "metamorphosis", 1.8, 500, 12, 100, "gru", "every"),
    Workload("mnist-lstm", "mnist-rows", 0.97, 600, 12, 100, "lstm"),
    Workload("vowels-gru", "JapaneseVowels", 0.95, 600, 10, 64, "gru"),
    Workload("hapt2-indrnn", "hapt2", 0.87, 600, 12, 64, "indrnn-6"),
)
BY_NAME = {one.name: one for one in FULL}
QUICK = tuple(
    BY_NAME[name] for name in ("counting", "digits-pixels", "hapt2", "mnist-lstm", "vowels-gru")
)
SUITES: dict[SuiteName, tuple[Workload, ...]] = {"full": FULL, "quick": QUICK}


def archive_files(name: str) -> dict[str, str]:
    """The options --data and --test of a data set of the UCR archive, below RNNOPT_DATA.

    Raises:
        UserError: they are not there.
    """
    folder = Path(os.environ.get("RNNOPT_DATA", "data")) / "ucr" / name
    files = {part: folder / f"{name}_{part.upper()}.ts" for part in ("train", "test")}
    for path in files.values():
        if not path.is_file():
            raise UserError(
                f"the benchmark needs {path}: download {name} from timeseriesclassification.com and"
                " set RNNOPT_DATA to the folder that holds ucr."
            )
    return {"data": str(files["train"]), "test": str(files["test"])}
