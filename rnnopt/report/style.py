"""What all figures share: colours, line styles, short numbers, fonts that lack a character."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

# Okabe and Ito's colours, told apart with any colour vision; then line styles.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999933")
STYLES = ("-", "--", ":", "-.")


def number(value: float) -> str:
    """A tick's label: short, and no 1e+06."""
    if value != 0 and not 1e-3 <= abs(value) < 1e5:
        mantissa, _, exponent = f"{value:.3g}".partition("e")
        if exponent:
            return f"{mantissa}e{int(exponent)}"
    return f"{value:.6g}"


def short(value: float) -> str:
    """A value with two digits that count, written like a tick's label."""
    return number(float(f"{value:.2g}"))


@contextmanager
def any_script() -> Iterator[None]:
    """Lets figures have characters that the font lacks, which are drawn as boxes, in silence."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        warnings.filterwarnings("ignore", message="Matplotlib currently does not support")
        warnings.filterwarnings("ignore", message="constrained_layout not applied")
        yield
