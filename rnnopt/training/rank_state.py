"""What processes that share a run have each of its own, as the run's checkpoint keeps it.

Weights and optimizer are mostly the same in all. With communicate="commit" each has a probe point
of its own between commits, truncation carries the states of a process's own sequences from chunk to
chunk, and ADMM may keep its part of a minibatch.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, distributed

from rnnopt.config.errors import UserError
from rnnopt.distributed import processes
from rnnopt.training.loop import Training

OWN = "of_processes"  # in a checkpoint: for each process what differs


def to_save(training: Training) -> dict[str, Any]:
    """The state of a run, in the first of the processes with what the others have of their own.

    All processes must call it.
    """
    state = training.state_dict()
    own = _own_parts(training)
    if processes() == 1 or not own:
        return state
    every = [None] * processes() if distributed.get_rank() == 0 else None
    distributed.gather_object({name: _on_host(state[name]) for name in own}, every, dst=0)
    return state | {OWN: every}


def to_load(state: dict[str, Any], training: Training) -> dict[str, Any]:
    """The state for this process.

    Raises:
        UserError: it was saved by another number of processes, which each had a state of its own.
    """
    every, names = state.get(OWN), _own_parts(training)
    if every is None and (processes() == 1 or not names):
        return state
    if every is None:
        begun = "one process"
    elif not isinstance(every, list) or not all(isinstance(own, dict) for own in every):
        raise ValueError(f"{OWN} must be a list of what each process has of its own")
    else:
        begun = f"{len(every)} processes with states of their own"
    if every is None or len(every) != processes():
        raise UserError(
            f"the run was begun by {begun}: it needs as many to go on, got {processes()}."
        )
    own = every[distributed.get_rank()]
    if set(own) != set(names):
        raise ValueError(f"{OWN} must have {', '.join(names)}, got {', '.join(own)}")
    return state | own


def _own_parts(training: Training) -> list[str]:
    """Names of the parts of a run's state that differ between its processes.

    Plateau and what to do about numbers that are not finite keep optimizers as they were.
    """
    learner, parts = training.learner, []
    if training.batches.shared and not training.closure.averages:
        parts = ["model", "optimizer", "plateau", "nonfinite"]
    elif learner.needs_own_sequences and learner.full_batch:
        parts = ["optimizer", "plateau", "nonfinite"]
    return parts if training.closure.chunks is None else [*parts, "closure"]


def _on_host(state: Any) -> Any:
    """A nested state with its tensors in the memory of the host, which any process can take."""
    if isinstance(state, Tensor):
        return state.cpu()
    if isinstance(state, dict):
        return {name: _on_host(value) for name, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(map(_on_host, state))
    return state


class Place(NamedTuple):
    """Where a process stands."""

    gradient_evaluations: float
    records: int
    weights: str  # their checksum

    def __str__(self) -> str:
        place = f"{self.gradient_evaluations:.6g} gradients and {self.records} records"
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
    with training.learner.committed():  # between commits each process may be elsewhere
        for name, value in training.model.state_dict().items():
            flat = value.detach().cpu().contiguous().flatten()
            digest.update(name.encode() + flat.view(torch.uint8).numpy().tobytes())
    return Place(training.closure.gradient_evaluations, training.records, digest.hexdigest())
