"""Names of the user's own in figures: shown as they are, and no longer than there is room for."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from rnnopt.tasks.names import visible

LONGEST = 80  # characters


def plain(text: str, longest: int = LONGEST) -> str:
    """`text` for matplotlib: no formula between dollars, nothing that steers, not too long."""
    cut = text if len(text) <= longest else text[: longest - 1] + "…"
    return visible(cut).replace("$", r"\$")


@contextmanager
def any_script() -> Iterator[None]:
    """Lets figures have characters that the font lacks, which are drawn as boxes, in silence."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        warnings.filterwarnings("ignore", message="Matplotlib currently does not support")
        warnings.filterwarnings("ignore", message="constrained_layout not applied")
        yield
