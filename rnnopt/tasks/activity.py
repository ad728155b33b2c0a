"""Activity of a person with a smartphone at the waist: 128 steps of 9 channels, at 50 Hz.

The channels are body acceleration, angular speed and total acceleration, each in x, y and z. There
are six classes (walking, upstairs, downstairs, sitting, standing, laying) or, as in the FastGRNN
paper, two: 1 for upstairs, sitting and laying, the even labels of the files, and 0 for the rest.
Noise is added after standardisation: before it, the "variance of two" of the Frank-Wolfe RNN paper
would be many times the signal.

No person is in two parts: 9 persons are the published test set, and 4 of the other 21 are for
validation, the same in every run. Neighbouring windows overlap by half, so a random split would
leak.

Anguita, Ghio, Oneto, Parra and Reyes-Ortiz, "A Public Domain Dataset for Human Activity Recognition
Using Smartphones", ESANN 2013. Kusupati et al., "FastGRNN", NeurIPS 2018, appendix B.
"""

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from rnnopt.config.errors import UserError, unknown_name
from rnnopt.tasks.examples import Examples, select, standardize
from rnnopt.tasks.hapt import read_hapt
from rnnopt.tasks.task import Loss, Task
from rnnopt.tasks.uci_har import read_uci_har

# Names of the binary tasks' losses in the option `loss`.
LOSSES: dict[str, Loss] = {
    "mse": "binary-mse",
    "bce": "binary-cross-entropy",
    "cross-entropy": "cross-entropy",
}
NOISES = ("fixed", "fresh")
VALIDATION = 0.2  # fraction of the training persons
NOISE_SEED = 20_201_010


def hapt2(loss: str = "mse", folder: str | None = None) -> Task:
    """HAPT windows, two classes.

    Args:
        loss: mse, bce (binary cross-entropy) or cross-entropy (over two outputs).
        folder: folder of the recordings; unset means the folder of the data files.
    """
    return _activity("hapt2", 0.87, loss, folder)


def hapt6(folder: str | None = None) -> Task:
    """HAPT windows, six activities.

    Args:
        folder: as in `hapt2`.
    """
    return _activity("hapt6", 0.85, None, folder)


def har2(loss: str = "mse", folder: str | None = None) -> Task:
    """UCI HAR, two classes.

    Args:
        loss, folder: as in `hapt2`.
    """
    return _activity("har2", 0.87, loss, folder)


def har6(folder: str | None = None) -> Task:
    """UCI HAR, six activities.

    Args:
        folder: as in `hapt2`.
    """
    return _activity("har6", 0.85, None, folder)


def noisy_hapt2(
    variance: float = 2.0, noise: str = "fixed", loss: str = "mse", folder: str | None = None
) -> Task:
    """HAPT windows in noise, two classes.

    Args:
        variance: variance of the noise on every standardised channel.
        noise: fixed (drawn once) or fresh (drawn for every batch).
        loss, folder: as in `hapt2`.
    """
    return add_noise(_activity("noisy-hapt2", 0.85, loss, folder), variance, noise)


def noisy_hapt6(variance: float = 2.0, noise: str = "fixed", folder: str | None = None) -> Task:
    """HAPT windows in noise, six activities.

    Args:
        variance, noise, folder: as in `noisy_hapt2`.
    """
    return add_noise(_activity("noisy-hapt6", 0.75, None, folder), variance, noise)


def noisy_har2(
    variance: float = 2.0, noise: str = "fixed", loss: str = "mse", folder: str | None = None
) -> Task:
    """UCI HAR in noise, two classes.

    Args:
        variance, noise, loss, folder: as in `noisy_hapt2`.
    """
    return add_noise(_activity("noisy-har2", 0.85, loss, folder), variance, noise)


def noisy_har6(variance: float = 2.0, noise: str = "fixed", folder: str | None = None) -> Task:
    """UCI HAR in noise, six activities.

    Args:
        variance, noise, folder: as in `noisy_hapt2`.
    """
    return add_noise(_activity("noisy-har6", 0.75, None, folder), variance, noise)


def _activity(name: str, target: float, loss: str | None, folder: Any) -> Task:
    """A task without noise; `loss` is None for six classes."""
    if loss is not None and loss not in LOSSES:
        raise unknown_name(f"loss of task {name!r}:", loss, LOSSES)
    read, source = (read_hapt, "HAPT windows") if "hapt" in name else (read_uci_har, "UCI HAR")
    data = read(None if folder is None else str(folder))
    chosen = "cross-entropy" if loss is None else LOSSES[loss]
    parts = []
    for part in ("train", "test"):
        labels = torch.from_numpy(data[f"y_{part}"])
        inputs = torch.from_numpy(data[f"X_{part}"])
        parts.append(Examples(inputs, answers(labels, loss is not None, chosen)))
    held_out = validation_persons(torch.from_numpy(data["subject_train"]))
    train, validation = select(parts[0], ~held_out), select(parts[0], held_out)
    train, validation, test = standardize([train, validation, parts[1]], per_channel=True)
    kind = "six activities" if loss is None else "two classes of activities"
    return Task(
        name=name,
        summary=f"{source}, {kind} ({train.inputs.shape[1]} steps, 9 channels)",
        input_size=train.inputs.shape[2],
        output_size=6 if loss is None else 2 if chosen == "cross-entropy" else 1,
        loss=chosen,
        target=target,
        train=train,
        validation=validation,
        test=test,
        epoch_size=len(train),
        hidden_size=80,
        batch_size=64,
    )


def answers(labels: Tensor, binary: bool, loss: Loss) -> Tensor:
    """Targets for the labels 1 … 6, in the form required by the loss."""
    if not binary:
        return labels - 1
    even = labels % 2 == 0
    return even.long() if loss == "cross-entropy" else even.float()[:, None]


def validation_persons(persons: Tensor) -> Tensor:
    """Mask of the windows of the validation persons."""
    people = persons.unique()  # in ascending order
    order = torch.randperm(len(people), generator=torch.Generator().manual_seed(0))
    return torch.isin(persons, people[order[: max(1, round(VALIDATION * len(people)))]])


def add_noise(task: Task, variance: float, noise: str) -> Task:
    """The task with Gaussian noise on every input.

    Validation and test noise is drawn once, from a fixed seed. So is training noise if `noise` is
    "fixed"; if it is "fresh", it is drawn for every batch from the run's own generator.
    """
    number = isinstance(variance, int | float) and not isinstance(variance, bool)
    if not number or not 0 <= variance < math.inf:
        raise UserError(f"{task.name} needs a finite variance >= 0, got variance={variance!r}.")
    if noise not in NOISES:
        raise unknown_name(f"noise of task {task.name!r}:", noise, NOISES)
    assert isinstance(task.train, Examples)
    deviation = math.sqrt(variance)
    fixed = []
    for seed, part in enumerate((task.train, task.validation, task.test), NOISE_SEED):
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randn(part.inputs.shape, generator=generator)
        fixed.append(replace(part, inputs=part.inputs + deviation * drawn))
    fresh = noise == "fresh"
    return replace(
        task,
        summary=f"{task.summary} in {noise} noise of variance {variance:g}",
        train=replace(task.train, noise=deviation) if fresh else fixed[0],
        validation=fixed[1],
        test=fixed[2],
    )
