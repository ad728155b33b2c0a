"""Training minibatches of a task; the stream can be saved and continued at any batch."""

from dataclasses import replace
from typing import Any

import torch

from rnnopt.layers.minibatch_part import MinibatchPart
from rnnopt.tasks.augmentation import warped
from rnnopt.tasks.examples import Batch, Examples
from rnnopt.tasks.task import Task


class Batches:
    """An endless stream of training batches, which can be saved and continued exactly.

    Stored examples are shuffled again for each epoch, and the last batch of an epoch may be
    smaller.

    Args:
        task: source of the sequences.
        batch_size: sequences per batch.
        seed: seed of this stream.
        warp: spread of the series' speeds, see `augmentation`; 0 for none.
    """

    shared = False  # whether several processes take parts of each batch, see `SharedBatches`
    part: MinibatchPart | None = None  # this process's part of the latest batch; None is all

    def __init__(self, task: Task, batch_size: int, seed: int, warp: float = 0.0):
        self.task, self.batch_size, self.warp = task, batch_size, warp
        self.generator = torch.Generator().manual_seed(seed)
        self.order = torch.empty(0, dtype=torch.long)
        self.cursor = 0

    def share(self, part: MinibatchPart) -> float:
        """Weight of a part's mean loss, with which the mean over processes is the total mean."""
        return 1.0

    @property
    def per_epoch(self) -> int:
        """Batches per epoch."""
        return -(-self.task.epoch_size // self.batch_size)

    def draw(self) -> Batch:
        """The next batch."""
        train = self.task.train
        if not isinstance(train, Examples):
            return train(self.batch_size, self.generator)
        if self.cursor >= len(self.order):
            self.order, self.cursor = torch.randperm(len(train), generator=self.generator), 0
        index = self.order[self.cursor : self.cursor + self.batch_size]
        self.cursor += self.batch_size
        batch = warped(train.batch(index), self.warp, self.generator)
        if train.noise == 0:
            return batch
        noise = torch.randn(batch.inputs.shape, generator=self.generator).to(batch.inputs)
        return replace(batch, inputs=batch.inputs + train.noise * noise)

    def state_dict(self) -> dict[str, Any]:
        """Everything `load_state_dict` needs to continue with the same batches."""
        return dict(
            generator=self.generator.get_state(), order=self.order.clone(), cursor=self.cursor
        )

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from a saved `state`."""
        self.generator.set_state(state["generator"])
        self.order, self.cursor = state["order"].clone(), state["cursor"]
