"""The balls of a Frank-Wolfe step: each ball's oracle input, and the target of its vertex."""

from dataclasses import dataclass, field

from torch import Tensor

from rnnopt.optimizers.frank_wolfe.lmo import Joint, Tensors
from rnnopt.optimizers.sharding import Part, Shards


@dataclass
class Balls:
    """One ball per tensor, or per gate.

    Args:
        sources: the oracle's input for each ball.
        targets: views of the displacements.
        gates: number of balls of each tensor.
        wholes: tensors of the shapes for which the radii hold.
        parts: this process's parts of the targets, if processes hold parts of them.
        gathered: whether the sources are nevertheless whole.
    """

    sources: list[Tensor]
    targets: list[Tensor]
    gates: list[int]
    wholes: list[Tensor]
    parts: list[Part] = field(default_factory=list)
    gathered: bool = False

    @property
    def joint(self) -> Joint | None:
        """How to combine numbers of the whole tensors, if the sources are parts of them."""
        return Shards(self.parts) if self.parts and not self.gathered else None

    def cut(self, vertices: Tensors) -> list[Tensor]:
        """Cuts the vertices of the sources to the targets."""
        if not self.gathered:
            return list(vertices)
        return [part.cut(vertex) for part, vertex in zip(self.parts, vertices, strict=True)]


def together(each: list[Balls]) -> Balls:
    """Merges the balls of several groups."""

    def every(name: str) -> list:
        return [item for balls in each for item in getattr(balls, name)]

    return Balls(
        every("sources"), every("targets"), every("gates"), every("wholes"), every("parts"),
        each[0].gathered,
    )  # fmt: skip
