"""Whether all processes that resume a run stand at the same place of it."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import distributed

from rnnopt.config.errors import UserError
from rnnopt.distributed import processes
from rnnopt.training.loop import Training, committed


class Place(NamedTuple):
    """Where a process stands."""

    evaluations: float
    records: int
    weights: str  # their checksum

    def __str__(self) -> str:
        place = f"{self.evaluations:.6g} evaluations and {self.records} records"
        return f"{place} with weights {self.weights[:8]}"


@contextmanager
def same_place(training: Training) -> Iterator[None]:
    """Around what puts `training` where the run stands; all processes wait for each other there.

    Raises:
        UserError: in all processes, if some met one inside or they stand at different places.
    """
    if processes() == 1:
        yield
        return
    own: Place | str
    try:
        yield
        own = _place(training)
    except UserError as error:
        own = str(error)
    every: list[Place | str] = [own] * processes()
    distributed.all_gather_object(every, own)
    if len(set(every)) > 1:
        raise UserError(
            "all processes must resume from the same place, got"
            f" {'; '.join(f'process {i}: {place}' for i, place in enumerate(every))}"
        )
    if isinstance(own, str):  # which all have met
        raise UserError(own)


def _place(training: Training) -> Place:
    digest = hashlib.sha256()
    with committed(training.optimizer):  # between commits each process may be elsewhere
        for name, value in training.model.state_dict().items():
            flat = value.detach().cpu().contiguous().flatten()
            digest.update(name.encode() + flat.view(torch.uint8).numpy().tobytes())
    return Place(training.closure.evaluations, training.records, digest.hexdigest())
