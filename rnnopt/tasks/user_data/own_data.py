"""What a task knows of the user's data that it was made of."""

from dataclasses import dataclass
from typing import Any

from rnnopt.tasks.user_data.preparation import Preparation


@dataclass(frozen=True)
class OwnData:
    """Facts about the user's data of a task, stored with a run.

    Args:
        preparation: preparation of these and of new data.
        understood: readable lines (subject, finding).
        sources: path and sha256 of each file, "data", "test", "labels"; {} without files.
        held_out: those of "validation" and "test" that were held out of the data.
        doubts: warnings, a sentence each without its full stop.
    """

    preparation: Preparation
    understood: tuple[tuple[str, str], ...]
    sources: dict[str, dict[str, str]]
    held_out: frozenset[str] = frozenset()
    doubts: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """All fields, ready for JSON."""
        return dict(
            sources=self.sources,
            preparation=self.preparation.to_dict(),
            understood=dict(self.understood),
        )
