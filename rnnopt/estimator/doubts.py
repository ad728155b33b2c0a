"""What to say of sequences that were hardly meant as they are read.

An array of two axes is (count, time): a single sequence without its first axis looks like that too.
In a padded array without lengths every step is taken as true.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from rnnopt.tasks.user_data.checks import NEARLY, SINGLE, far_lengths, one_step_each


@dataclass(frozen=True)
class Seen:
    """What an estimator was fitted to.

    Args:
        shortest, longest: true steps of its sequences.
        listed: they came in a list.
        padded: they came with lengths, and some were shorter than the array.
    """

    shortest: int
    longest: int
    listed: bool
    padded: bool

    @classmethod
    def of(cls, sequences: Sequence[np.ndarray], time: int | None, given: bool) -> Self:
        """Of the true steps of each.

        Args:
            sequences: (steps, features) each.
            time: steps of the array they came in, padding included; None of a list.
            given: whether their lengths were given.
        """
        shortest, longest = (find(map(len, sequences)) for find in (min, max))
        padded = given and time is not None and shortest < time
        return cls(shortest, longest, time is None, padded)

    def with_more(self, other: "Seen") -> "Seen":
        """Of what was fitted before and after."""
        return Seen(
            min(self.shortest, other.shortest),
            max(self.longest, other.longest),
            self.listed and other.listed,
            self.padded or other.padded,
        )


def refuse_one_axis(shape: tuple[int, ...]) -> None:
    """Raises ValueError for the shape of a single sequence (time,), or of a list of numbers."""
    if len(shape) < 2:
        # scikit-learn's checks look for its own first words.
        raise ValueError(
            "Reshape your data: X must be (count, time), (count, time, features) or a list of"
            f" arrays, got the shape {tuple(shape)}; {SINGLE}."
        )


def doubt_axes(lengths: list[int], features: int, name: str, seen: Seen | None) -> None:
    """Refuses, or warns of, sequences without features that an estimator of cubes is asked for.

    Args:
        lengths: of each sequence, of one feature each as it is read.
        features: of the sequences that it was fitted to.
        name: of the estimator.
        seen: what it was fitted to; None where it was fitted before that was kept.

    Raises:
        ValueError: they look like a single sequence without its first axis.
    """
    if features != 1:
        raise ValueError(
            f"X has 1 features, but {name} is expecting {features} features as input: an array of"
            f" two axes is (count, time), and {SINGLE}."
        )
    if seen is None:
        return
    alone = one_step_each(lengths, seen.shortest)
    if alone is not None:
        raise ValueError(f"X has {alone}.")
    far = far_lengths(lengths, seen.shortest, seen.longest)
    if far is not None:
        warnings.warn(f"X is read as (count, time): {far}.", stacklevel=4)


def doubt_lengths(time: int, lengths: np.ndarray | None, seen: Seen | None) -> None:
    """Warns where fit was given lengths and this array is not, or the other way round.

    Args:
        time: steps of the array.
        lengths: of its sequences, if they are given.
        seen: as in `doubt_axes`.
    """
    if seen is None or seen.listed:
        return
    if lengths is None and seen.padded:
        warnings.warn(
            f"fit had lengths, and here are none: all {time} steps of every sequence are taken as"
            " true, padding among them; give lengths=… or a list of arrays.",
            stacklevel=4,
        )
    if lengths is not None and not seen.padded and lengths.min() < (1 - NEARLY) * seen.shortest:
        warnings.warn(
            f"fit had no lengths: the network learnt from {seen.shortest} steps of every sequence,"
            f" padding among them if there was any, and is asked for {lengths.min()} here; give"
            " fit lengths=… too.",
            stacklevel=4,
        )
