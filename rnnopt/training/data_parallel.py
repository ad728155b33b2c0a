"""One run of `rnnopt train` in the processes that torchrun started.

All processes draw the same minibatches, and each takes a share of every minibatch. Gradients are
averaged, so that every process has the weights that a single process would have. Losses, times and
scores are averaged before any decision. The first process writes the run folder, which the others
must be able to read.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from typing import Any

import torch
from torch import distributed

from rnnopt.config.errors import UserError
from rnnopt.config.run_config import RunConfig
from rnnopt.config.specs import parse
from rnnopt.distributed import processes
from rnnopt.layers.minibatch_part import MinibatchPart
from rnnopt.tasks.batches import Batches
from rnnopt.tasks.examples import Batch, Examples
from rnnopt.tasks.task import Task
from rnnopt.training.learner import Learner

ERROR_KEY = "sentence"  # key in the store of the error that the first process prints
WAIT = timedelta(seconds=3)  # time for the first process to raise the same error as another


class RankError(UserError):
    """An error that the first process does not have; names the process that has it."""

    def __init__(self, sentence: str):
        super().__init__(f"process {rank()}: {sentence}")


def started() -> int:
    """Number of processes that torchrun started for this program; 1 without torchrun."""
    return int(os.environ.get("WORLD_SIZE", 1)) if "TORCHELASTIC_RUN_ID" in os.environ else 1


def rank() -> int:
    """Rank of this process, from 0."""
    return int(os.environ.get("RANK", 0)) if started() > 1 else 0


@contextmanager
def joined(device: str) -> Iterator[None]:
    """Initializes the process group for the time of the run; does nothing without torchrun.

    Raises:
        RankError: replaces an error that the first process does not print.
    """
    if started() == 1:
        yield
        return
    on_gpu = torch.device(device).type == "cuda"
    if on_gpu and torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    from torch.distributed.rendezvous import rendezvous  # not in every build of torch

    store, place, count = next(rendezvous("env://"))
    # torchrun may keep the store over a restart, with addresses of processes that have ended.
    store = distributed.PrefixStore(f"start {_restarts()}", store)
    backend = "cpu:gloo,cuda:nccl" if on_gpu else "gloo"
    distributed.init_process_group(backend, store=store, rank=place, world_size=count)
    try:
        yield
    except (UserError, FloatingPointError) as error:  # FloatingPointError: --on-nonfinite raise
        if place == 0:
            with suppress(RuntimeError):  # the store is closed: then all processes print it
                store.set(ERROR_KEY, str(error))
        elif not _first_prints(store, str(error)):
            raise RankError(str(error)) from error
        raise
    except RuntimeError as error:
        if not _is_lost_process(error):
            raise
        reason = str(error).strip().partition("\n")[0]
        raise RankError(f"another process has ended, the checkpoint stays ({reason}).") from error
    finally:
        distributed.destroy_process_group()


def _is_lost_process(error: RuntimeError) -> bool:
    """Whether an error means that another process has ended."""
    words = (
        "connection closed", "connection reset", "socket closed", "broken pipe",
        "caused pair closure", "remote process exited", "communicator was aborted",
    )  # fmt: skip
    message = str(error).lower()
    return isinstance(error, distributed.DistNetworkError) or any(word in message for word in words)


def _first_prints(store: distributed.Store, sentence: str) -> bool:
    """Whether the first process prints this error, now or soon."""
    try:
        store.wait([ERROR_KEY], WAIT)
        return store.get(ERROR_KEY) == sentence.encode()
    except RuntimeError:  # the first process has no error, or the store is closed
        return False


def _restarts() -> int:
    """Number of times that torchrun has restarted the processes."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))


def check_shareable(
    config: RunConfig, model: dict[str, Any], learner: Learner, batches: Batches
) -> None:
    """Raises UserError for a run that several processes cannot share.

    Args:
        config: config of the run.
        model: arguments of its SequenceModel.
        learner: learner of the run.
        batches: batches of the run.
    """
    count, size = processes(), batches.batch_size
    train = batches.task.train
    generated = not isinstance(train, Examples)
    lacking = isinstance(train, Examples) and train.lacks_targets
    last = size if generated else batches.task.epoch_size % size or size  # last of an epoch
    commits = learner.local_steps is not None
    draws = learner.needs_own_sequences and not learner.full_batch
    reasons = {
        "missing targets, whose number differs from part to part": lacking,
        f"minibatches of {size}, too few for each to get one": size < count,
        f"{parse(config.optimizer)[0]}, whose last minibatch of an epoch has {last}, too few"
        " for each to get one": (draws and last < count),
        'communicate="commit" and batch normalisation, which needs whole minibatches': (
            commits and model.get("batch_norm")
        ),
        f'communicate="commit" and on-nonfinite {config.on_nonfinite}, which is decided at every'
        " step": commits and config.on_nonfinite != "stop",
    }
    for reason, holds in reasons.items():
        if holds:
            raise UserError(f"{count} processes cannot share a run with {reason}.")


class SharedBatches(Batches):
    """The minibatches of `Batches`; each process gets its share of each.

    Args:
        task, batch_size, seed, warp: as in `Batches`, for whole minibatches.
        answers_each_step: whether the loss is a mean over steps rather than over sequences.
    """

    shared = True

    def __init__(
        self, task: Task, batch_size: int, seed: int, answers_each_step: bool, warp: float = 0.0
    ):
        super().__init__(task, batch_size, seed, warp)
        self.answers_each_step = answers_each_step

    def draw(self) -> Batch:
        """This process's part of the next batch; if it is empty, a sequence with weight 0."""
        whole = super().draw()
        lengths = None if whole.lengths is None else whole.lengths.cpu()
        self.part = MinibatchPart.of(len(whole), lengths, distributed.get_rank(), processes())
        rows = self.part.rows.to(whole.inputs.device)
        lengths = None if whole.lengths is None else whole.lengths[rows]
        weights = None if whole.weights is None else whole.weights[rows]
        inputs, targets = whole.inputs[:, rows], whole.targets[rows]
        return replace(whole, inputs=inputs, targets=targets, lengths=lengths, weights=weights)

    def share(self, part: MinibatchPart) -> float:
        """Weight of a part's mean loss, with which the mean over processes is the total mean."""
        return part.share(self.answers_each_step, processes())
