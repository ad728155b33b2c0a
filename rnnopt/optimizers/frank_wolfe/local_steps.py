"""Communication of FrankWolfe(communicate="commit"): the mean of the processes' displacements.

A compressed displacement includes the rounding errors of earlier displacements and of their means
(error feedback), so the mean may lie outside of the ball. A mean longer than the mean of the
processes' norms is shrunk to that length and so lies in the ball again. The part cut off is not
sent later: it could pile up. With `overlap` the mean arrives while the next cycle's gradients are
computed, and the weights move by it one commit later.
"""

from functools import reduce
from typing import Any

import torch
import torch.distributed
from torch import Tensor

from rnnopt.distributed import Group, means, processes
from rnnopt.optimizers.frank_wolfe.compression import (
    COMPRESSIONS,
    chunk_size,
    decode,
    encode,
    mean_scales,
    pack,
    round_mean,
    unpack,
)
from rnnopt.optimizers.frank_wolfe.inner_loop import Search
from rnnopt.optimizers.frank_wolfe.lmo import Norm, is_matrix
from rnnopt.optimizers.sharding import groups_of, is_sharded

MOST = 128  # processes with "int8"; from 254 on rounding errors could pile up


class CommitExchange:
    """Averages displacements over processes at a commit.

    Args:
        compression: "none", "int8" or "sign".
        overlap: return the mean of the previous commit.

    Raises:
        ValueError: options that exclude each other.
    """

    def __init__(self, compression: str = "none", overlap: bool = False):
        if compression not in COMPRESSIONS:
            wanted = ", ".join(map(repr, COMPRESSIONS))
            raise ValueError(f"compression must be one of {wanted}, got {compression!r}.")
        if overlap and compression != "none":
            raise ValueError(f'overlap needs compression="none", got {compression!r}.')
        self.compression, self.overlap = compression, overlap
        self.group: Group = None
        self._under_way: tuple[Any, Tensor, list[dict[str, Any]]] | None = None

    def check(self, group: dict[str, Any], communicate: str, process_group: Group) -> None:
        """Raises ValueError if options or tensors of a parameter group exclude each other."""
        if communicate not in ("gradient", "commit"):
            raise ValueError(
                f'communicate must be "gradient" or "commit", got communicate={communicate!r}.'
            )
        if communicate == "gradient" and (self.compression != "none" or self.overlap):
            raise ValueError('compression and overlap need communicate="commit".')
        for p in group["params"]:
            groups_of(p)  # raises for unsupported placements
        if self.compression != "none" and any(map(is_sharded, group["params"])):
            raise ValueError("compression needs plain tensors, got a DTensor.")
        if self.compression != "none" and group["ball"] == "global":
            raise ValueError('compression needs ball="gate" or "tensor", got ball="global".')
        if communicate == "commit":
            self.check_parts(group, process_group)

    @staticmethod
    def check_parts(group: dict[str, Any], process_group: Group) -> None:
        """Raises ValueError if different parts of tensors would be averaged.

        Called before every step too: a copy of the optimizer has no process group.
        """
        if process_group is None and any(map(is_sharded, group["params"])):
            raise ValueError(
                'DTensor parameters with communicate="commit" need the process_group of those'
                " processes that hold the same parts, got process_group=None: set it again in a"
                " copy of an optimizer, optimizer.process_group = …"
            )

    def average(self, searches: list[Search], group: Group) -> None:
        """Displacements ← their means over the processes; without a gradient one counts as 0.

        A tensor counts as having a gradient if it had one in any process.
        """
        self.group = group
        displacements = [d for search in searches for d in search.displacements]
        states = [state for search in searches for state in search.states]
        count = processes(self.group)
        if count == 1 or not states:
            return
        if self.compression == "int8" and count > MOST:
            raise ValueError(f'compression="int8" is for {MOST} processes or fewer, got {count}.')
        had = displacements[0].new_tensor([state["has_gradient"] for state in states])
        if self.overlap:
            self._swap(displacements, states, had)
        elif self.compression == "none":
            *averaged, had = means([*displacements, had], self.group)
            self._hand_out(averaged, displacements, states, had)
        else:
            own = [norm_of(ball, search) for search in searches for ball in balls_of(search)]
            *averaged, had, norms = self._compressed(displacements, states, had, torch.stack(own))
            self._hand_out(averaged, displacements, states, had)
            shrink(searches, norms)

    @staticmethod
    def _hand_out(
        averaged: list[Tensor], displacements: list[Tensor], states: list[Any], had: Tensor
    ) -> None:
        torch._foreach_copy_(displacements, averaged)
        for state, share in zip(states, had.tolist(), strict=True):
            state["has_gradient"] = share > 0

    # -- compressed --------------------------------------------------------------------------------

    def _compressed(
        self, displacements: list[Tensor], states: list[Any], had: Tensor, norms: Tensor
    ) -> list[Tensor]:
        """Means of displacements, gradient flags and norms; updates the rounding errors."""
        sizes = [d.numel() for d in displacements]
        vector = torch.cat([d.flatten().float() for d in displacements])
        lost = [state["unsent"] for state in states]
        vector += torch.cat([unsent.flatten() for unsent in lost])
        codes, scales = encode(vector, sizes, self.compression)
        numbers = torch.cat([scales, had.float(), norms.float()])
        every = numbers.new_empty(processes(self.group), len(numbers))
        torch.distributed.all_gather(list(every.unbind()), numbers, group=self.group)
        of_tensors, *others = every.split([len(scales), len(had), len(norms)], dim=1)
        mean, lost_of_mean = self._mean(codes, of_tensors, sizes)
        rest = vector - decode(codes, scales, sizes) + lost_of_mean
        for unsent, left in zip(lost, rest.nan_to_num(0.0, 0.0, 0.0).split(sizes), strict=True):
            unsent.copy_(left.view(unsent.shape))
        parts = [
            part.view(d.shape) for part, d in zip(mean.split(sizes), displacements, strict=True)
        ]
        return [*parts, *(other.mean(0) for other in others)]

    def _mean(self, codes: Tensor, scales: Tensor, sizes: list[int]) -> tuple[Tensor, Tensor]:
        """The mean of all processes' vectors: each process averages a chunk and sends it to all.

        Returns:
            The mean (size,), and the error to add to this process's next vector (size,): the
            rounding error of its chunk times the number of processes, by which the mean divides.
        """
        count, place = processes(self.group), torch.distributed.get_rank(self.group)
        chunk, size = chunk_size(len(codes), count), len(codes)
        owner = torch.arange(len(sizes), device=codes.device)
        owner = owner.repeat_interleave(torch.tensor(sizes, device=codes.device))
        padding = count * chunk - size
        owner = torch.nn.functional.pad(owner, (0, padding)).view(count, chunk)
        padded = torch.nn.functional.pad(codes, (0, padding))
        sent = pack(padded) if self.compression == "sign" else padded
        received = torch.empty_like(sent)
        torch.distributed.all_to_all_single(received, sent, group=self.group)
        signs = unpack(received) if self.compression == "sign" else received
        mean = (signs.view(count, chunk).float() * scales[:, owner[place]]).mean(0)
        of_mean = mean_scales(scales, self.compression)
        own = round_mean(mean, of_mean[owner[place]])
        lost = torch.zeros_like(owner, dtype=mean.dtype)
        lost[place] = count * (mean - own.float() * of_mean[owner[place]])
        every = own.new_empty(count, chunk)
        torch.distributed.all_gather(list(every.unbind()), own, group=self.group)
        rounded = every.flatten().float() * of_mean[owner.flatten()]
        return rounded[:size], lost.flatten()[:size]

    # -- one commit late ---------------------------------------------------------------------------

    def _swap(self, displacements: list[Tensor], states: list[Any], had: Tensor) -> None:
        """Sends these displacements and returns the previous mean, zero at the first commit."""
        self.settle()
        dtype = reduce(torch.promote_types, {d.dtype for d in displacements}, torch.float32)
        bucket = torch.cat([*(d.flatten().to(dtype) for d in displacements), had.to(dtype)])
        bucket /= processes(self.group)
        work = torch.distributed.all_reduce(bucket, group=self.group, async_op=True)
        before = [state["pending"] for state in states]
        flags = had.new_tensor([state["pending_gradient"] for state in states])
        self._hand_out(before, displacements, states, flags)
        self._under_way = work, bucket, states

    def settle(self) -> None:
        """Waits for a pending mean and stores it in the state."""
        if self._under_way is None:
            return
        work, bucket, states = self._under_way
        work.wait()
        *parts, had = bucket.split([*(state["pending"].numel() for state in states), len(states)])
        for state, part, share in zip(states, parts, had.tolist(), strict=True):
            state["pending"].copy_(part.view(state["pending"].shape))
            state["pending_gradient"] = share > 0
        self._under_way = None

    def create_state(self, p: Tensor, state: dict[str, Any]) -> None:
        """Adds the entries that a tensor keeps between commits."""
        if self.compression != "none" and "unsent" not in state:
            state["unsent"] = torch.zeros_like(p, dtype=torch.float32)
        if self.overlap and "pending" not in state:
            state["pending"] = torch.zeros_like(p)
            state["pending_gradient"] = False


def balls_of(search: Search) -> list[Tensor]:
    """Views of the displacements, one per ball."""
    every = list(range(len(search.params)))
    return search.balls(every, search.displacements).targets


def norm_of(ball: Tensor, search: Search) -> Tensor:
    """A displacement's norm, the one that defines its ball."""
    norm: Norm = search.group["norm"]
    if norm == "spectral" and is_matrix(ball) and ball.numel():
        finite = ball.float().nan_to_num(0.0, 0.0, 0.0)  # the SVD needs finite entries
        return torch.linalg.matrix_norm(finite.flatten(1), 2)
    if not ball.numel():
        return ball.float().sum()
    order = 2.0 if isinstance(norm, str) else float(norm)
    return torch.linalg.vector_norm(ball.float(), order)


def shrink(searches: list[Search], limits: Tensor) -> None:
    """Shortens each ball's displacement to its limit."""
    pairs = [(ball, search) for search in searches for ball in balls_of(search)]
    for (ball, search), limit in zip(pairs, limits, strict=True):
        size = norm_of(ball, search)
        ball.mul_(torch.where(size > limit, limit / size, 1.0).to(ball.dtype))
