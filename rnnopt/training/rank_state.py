"""The state of a shared run that differs between processes, as stored in its checkpoint.

Weights and optimizer are mostly the same in all processes. But with communicate="commit" each
process has its own probe point between commits, truncation carries the states of a process's
sequences from chunk to chunk, and ADMM may keep its part of a minibatch.
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

OWN = "of_processes"  # key in a checkpoint: for each process, the state that differs


def to_save(training: Training) -> dict[str, Any]:
    """The state of a run; in the first process it includes the state of the others.

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
        UserError: it was saved by another number of processes with states of their own.
    """
    every, names = state.get(OWN), _own_parts(training)
    if every is None and (processes() == 1 or not names):
        return state
    if every is None:
        begun = "one process"
    elif not isinstance(every, list) or not all(isinstance(own, dict) for own in every):
        raise ValueError(f"{OWN} must be a list with the state of each process")
    else:
        begun = f"{len(every)} processes with states of their own"
    if every is None or len(every) != processes():
        raise UserError(
            f"the run was begun by {begun}: it needs as many to resume, got {processes()}."
        )
    own = every[distributed.get_rank()]
    if set(own) != set(names):
        raise ValueError(f"{OWN} must have {', '.join(names)}, got {', '.join(own)}")
    return state | own


def _own_parts(training: Training) -> list[str]:
    """Names of the parts of a run's state that differ between its processes.

    The plateau schedule and the policy for non-finite values store earlier optimizer states.
    """
    learner, parts = training.learner, []
    if training.batches.shared and not training.closure.averages:
        parts = ["model", "optimizer", "plateau", "nonfinite"]
    elif learner.needs_own_sequences and learner.full_batch:
        parts = ["optimizer", "plateau", "nonfinite"]
    return parts if training.closure.chunks is None else [*parts, "closure"]


def _on_host(state: Any) -> Any:
    """A nested state with its tensors in host memory, so that any process can load it."""
    if isinstance(state, Tensor):
        return state.cpu()
    if isinstance(state, dict):
        return {name: _on_host(value) for name, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(map(_on_host, state))
    return state


class Place(NamedTuple):
    """Position of a process in the run."""

    gradient_evaluations: float
    records: int
    weights: str  # checksum of the weights

    def __str__(self) -> str:
        place = f"{self.gradient_evaluations:.6g} gradients and {self.records} records"
        return f"{place} with weights {self.weights[:8]}"


@contextmanager
def same_place(training: Training) -> Iterator[None]:
    """Wraps the code that resumes `training`; all processes wait for each other at its end.

    Raises:
        UserError: in all processes, if one raised it inside or their positions differ.
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
    if isinstance(own, str):  # an error that all processes have
        raise UserError(own)


def _place(training: Training) -> Place:
    digest = hashlib.sha256()
    with training.learner.committed():  # between commits their weights may differ
        for name, value in training.model.state_dict().items():
            flat = value.detach().cpu().contiguous().flatten()
            digest.update(name.encode() + flat.view(torch.uint8).numpy().tobytes())
    return Place(training.closure.gradient_evaluations, training.records, digest.hexdigest())
