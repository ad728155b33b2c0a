"""What all figures share: colours, line styles, fonts that lack a character."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

# Okabe and Ito's colours, told apart with any colour vision; then line styles.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999933")
STYLES = ("-", "--", ":", "-.")


@contextmanager
def any_script() -> Iterator[None]:
    """Lets figures have characters that the font lacks, which are drawn as boxes, in silence."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        warnings.filterwarnings("ignore", message="Matplotlib currently does not support")
        warnings.filterwarnings("ignore", message="constrained_layout not applied")
        yield
