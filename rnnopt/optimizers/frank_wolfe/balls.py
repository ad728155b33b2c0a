"""The balls of a Frank-Wolfe step: what the oracle sees of each, and where its vertex goes."""

from dataclasses import dataclass, field

from torch import Tensor

from rnnopt.optimizers.frank_wolfe.lmo import Joint, Tensors
from rnnopt.optimizers.sharding import Part, Shards


@dataclass
class Balls:
    """One ball a tensor, or a gate.

    Args:
        sources: what the oracle sees of each.
        targets: views of the displacements.
        gates: how many balls each tensor has.
        wholes: tensors of the shapes that the radii are for.
        parts: where processes hold parts of the targets, which; else none.
        gathered: whether the sources are whole even so.
    """

    sources: list[Tensor]
    targets: list[Tensor]
    gates: list[int]
    wholes: list[Tensor]
    parts: list[Part] = field(default_factory=list)
    gathered: bool = False

    @property
    def joint(self) -> Joint | None:
        """How numbers of the whole tensors come about, where the sources are parts of them."""
        return Shards(self.parts) if self.parts and not self.gathered else None

    def cut(self, vertices: Tensors) -> list[Tensor]:
        """From the vertices at the sources to those at the targets."""
        if not self.gathered:
            return list(vertices)
        return [part.cut(vertex) for part, vertex in zip(self.parts, vertices, strict=True)]


def together(each: list[Balls]) -> Balls:
    """The balls of several groups as those of one."""

    def every(name: str) -> list:
        return [item for balls in each for item in getattr(balls, name)]

    return Balls(
        every("sources"), every("targets"), every("gates"), every("wholes"), every("parts"),
        each[0].gathered,
    )  # fmt: skip
