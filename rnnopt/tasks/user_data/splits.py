"""Selects the series to hold out: class by class, the same for the same seed."""

import numpy as np


def members(classes: np.ndarray) -> list[np.ndarray]:
    """The positions of each class, sorted, in the order of the classes."""
    _, which, counts = np.unique(classes, return_inverse=True, return_counts=True)
    return np.split(np.argsort(which, kind="stable"), np.cumsum(counts)[:-1])


def hold_out(
    classes: np.ndarray | None, count: int, fraction: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Positions to keep and positions to hold out, each sorted.

    Every class contributes its share, rounded so that the shares add up; a class with one series
    keeps it. Without classes the positions are drawn from all series.

    Args:
        classes: (count,) class of each series, or None.
        count: number of series.
        fraction: fraction to hold out, in (0, 1).
        seed: seed of the draw.

    Raises:
        ValueError: too few series to keep one and hold one out.
    """
    generator = np.random.default_rng(seed)
    groups = [np.arange(count)]
    if classes is not None:
        groups = members(classes)
    shares = np.array([len(group) * fraction for group in groups])
    most = np.array([len(group) - 1 for group in groups])
    held = np.minimum(np.floor(shares).astype(int), most)
    wanted = max(1, round(count * fraction))
    for i in np.argsort(-(shares - held), kind="stable"):  # the largest remainders first
        if held.sum() < wanted and held[i] < most[i]:
            held[i] += 1
    if held.sum() < 1:
        raise ValueError(
            f"cannot hold out {fraction:g} of {count} series: no class has two of them."
        )
    out = np.concatenate(
        [generator.permutation(group)[:n] for group, n in zip(groups, held, strict=True)]
    )
    return np.setdiff1d(np.arange(count), out), np.sort(out)
