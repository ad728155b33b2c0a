"""An inner step of Frank-Wolfe on tensors of which each process holds a part, see sharding.py.

Norms, products and largest entries are combined over the processes. The spectral norm needs whole
matrices: each process gathers the oracle's input, computes all vertices and keeps its parts.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from rnnopt.optimizers.frank_wolfe.balls import Balls
from rnnopt.optimizers.frank_wolfe.inner_loop import Search
from rnnopt.optimizers.frank_wolfe.lmo import Tensors
from rnnopt.optimizers.sharding import Part, Shards, gather, local, local_like, wrap


class LocalState:
    """A tensor's state, reduced to this process's parts.

    Args:
        state: the optimizer's state, whose tensors are sharded like the parameter.
    """

    def __init__(self, state: dict[str, Any]):
        self.state = state

    def __contains__(self, name: str) -> bool:
        return name in self.state

    def __getitem__(self, name: str) -> Any:
        value = self.state[name]
        return local(value) if isinstance(value, Tensor) else value

    def __setitem__(self, name: str, value: Any) -> None:
        self.state[name] = value


class ShardedSearch(Search):
    """`Search` on this process's parts; the arguments are those of the whole tensors."""

    def __init__(
        self, group: dict[str, Any], params: list[Tensor], states: list[Any], every_state: Any
    ):
        super().__init__(group, params, [LocalState(s) for s in states], every_state)  # type: ignore[misc]
        self.params = [local(p.detach()) for p in params]
        pairs = zip(self.gradients, params, strict=True)
        self.gradients = [None if g is None else local_like(g, p) for g, p in pairs]
        self.shards = Shards([Part.of(p) for p in params])

    def joint(self, indices: Sequence[int]) -> Shards:
        """How to combine numbers of these tensors."""
        return self.shards.of(indices)

    def whole_gradient(self, i: int) -> Tensor:
        """The whole gradient, gathered from all processes."""
        return gather(super().whole_gradient(i), self.owners[i])

    def cut(self, i: int, whole: Tensor) -> Tensor:
        """This process's part of a tensor like tensor i."""
        return self.shards.parts[i].cut(whole)

    def pseudo_gradients(self, indices: list[int]) -> list[Tensor]:
        """-displacement of these tensors, as gradients of `owners`."""
        negatives = super().pseudo_gradients(indices)
        return [wrap(g, self.owners[i]) for g, i in zip(negatives, indices, strict=True)]

    def balls(self, indices: list[int], sources: Tensors) -> Balls:
        """The balls of the tensors with a gradient; the spectral norm gets whole sources."""
        gates, gathered = self.count_gates(indices), self.group["norm"] == "spectral"
        every = Balls([], [], gates, [], gathered=gathered)
        for i, source, count in zip(indices, sources, gates, strict=True):
            parts, targets = self.shards.parts[i].split(count, self.displacements[i])
            if gathered:
                whole = gather(source, self.owners[i])
                every.sources += whole.chunk(count) if count > 1 else [whole]
            else:
                every.sources += self.shards.parts[i].split(count, source)[1]
            every.targets += targets
            every.parts += parts
            every.wholes += [part.whole for part in parts]
        return every
