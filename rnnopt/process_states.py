"""What processes that share a run have each of its own, as the run's checkpoint keeps it.

Weights and optimizer are mostly the same in all. With communicate="commit" each has a probe point
of its own between commits, truncation carries the states of a process's own sequences from chunk to
chunk, and ADMM may keep its part of a minibatch.
"""

from typing import Any

from torch import distributed

from rnnopt.admm.trainer import ADMM
from rnnopt.distributed import processes
from rnnopt.errors import UserError
from rnnopt.training import Training

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
    distributed.gather_object({name: state[name] for name in own}, every, dst=0)
    return state | {OWN: every}


def to_load(state: dict[str, Any], training: Training) -> dict[str, Any]:
    """The state for this process.

    Raises:
        UserError: it was saved by another number of processes, which each had a state of its own.
    """
    every = state.get(OWN, [{}])
    if OWN not in state and (processes() == 1 or not _own_parts(training)):
        return state
    if len(every) != processes():
        raise UserError(
            f"the run was begun by {len(every)} processes that each have a state of its own: it"
            f" needs as many to go on, got {processes()}."
        )
    return state | every[distributed.get_rank() if processes() > 1 else 0]


def _own_parts(training: Training) -> list[str]:
    """Names of the parts of a run's state that differ between its processes."""
    optimizer, parts = training.optimizer, []
    if training.batches.shared and not training.closure.averages:
        parts = ["model", "optimizer"]
    elif isinstance(optimizer, ADMM) and optimizer.full_batch:
        parts = ["optimizer"]
    return parts if training.closure.chunks is None else [*parts, "closure"]
