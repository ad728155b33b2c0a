"""Selects the series to hold out, the same for the same seed.

Series that have nothing to do with each other are drawn class by class. Those of one person or
machine, and the windows of one recording, stay together. The windows of a single recording are
divided in time, without a step that two parts share.
"""

import numpy as np

DRAWS = 200  # of whole groups, of which the one with the most even classes is taken
BLOCKS = 20  # that one recording is divided into, at most


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


def hold_out_groups(
    classes: np.ndarray | None, groups: np.ndarray, fraction: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Positions to keep and to hold out, with each group on one side.

    Of `DRAWS` draws of groups it is the one whose held out part is nearest to `fraction` of each
    class. A class of one group stays among those kept.

    Args:
        classes: (count,) class of each series, or None.
        groups: (count,) group of each series.
        fraction, seed: as in `hold_out`.

    Raises:
        ValueError: one group alone, or no draw keeps a series of every class.
    """
    names, which = np.unique(groups, return_inverse=True)
    if len(names) < 2:
        raise ValueError(
            f"cannot hold out a group for another part: there is one group left, {str(names[0])!r},"
            " and a part that is held out needs one of its own."
        )
    kinds = np.zeros(len(groups), int)
    if classes is not None:
        kinds = np.unique(classes, return_inverse=True)[1]
    table = np.zeros((len(names), kinds.max() + 1))  # series by group and class
    np.add.at(table, (which, kinds), 1)
    wanted = fraction * table.sum(0)
    several = (table > 0).sum(0) > 1  # only their classes can be on both sides
    number = min(max(1, round(len(names) * fraction)), len(names) - 1)
    generator = np.random.default_rng(seed)
    best, least = None, np.inf
    for _ in range(DRAWS):
        drawn = generator.permutation(len(names))[:number]
        held = table[drawn].sum(0)
        if (held == table.sum(0)).any():  # a class that could not be learnt
            continue
        cost = (np.abs(held - wanted) / wanted).sum() + (held[several] == 0).sum()
        if cost < least:
            best, least = drawn, cost
    if best is None:
        raise ValueError(
            f"cannot hold out {number} of {len(names)} groups: each draw takes every series of a"
            " class, which could then not be learnt."
        )
    out = np.isin(which, best)
    return np.flatnonzero(~out), np.flatnonzero(out)


def time_blocks(spans: np.ndarray) -> np.ndarray:
    """A block of each window, (count,): windows that follow each other in one recording.

    Blocks are about four windows long at least, and there are at most `BLOCKS` in a recording.

    Args:
        spans: (count, 3) recording, first step and end of each window.
    """
    blocks = np.empty(len(spans), int)
    first = 0
    for recording in np.unique(spans[:, 0]):
        its = np.flatnonzero(spans[:, 0] == recording)
        its = its[np.argsort(spans[its, 1], kind="stable")]
        longest = (spans[its, 2] - spans[its, 1]).max()
        steps = spans[its, 2].max() - spans[its, 1].min()
        number = min(len(its), max(2, min(BLOCKS, steps // (4 * longest))))
        for one in np.array_split(its, number):
            blocks[one] = first
            first += 1
    return blocks


def without_overlap(spans: np.ndarray, kept: np.ndarray, held: np.ndarray) -> np.ndarray:
    """Those of the windows `kept` that share no step with a window of `held`; all are positions."""
    apart = []
    for recording in np.unique(spans[kept, 0]):
        mine, others = (part[spans[part, 0] == recording] for part in (kept, held))
        taken = np.zeros(spans[mine, 2].max(initial=0) + 1, int)
        for start, end in spans[others, 1:]:
            taken[start:end] = 1
        before = np.concatenate([[0], taken.cumsum()])
        apart.append(mine[before[spans[mine, 2]] == before[spans[mine, 1]]])
    return np.sort(np.concatenate(apart)) if apart else kept[:0]


def hold_out_blocks(
    classes: np.ndarray | None, spans: np.ndarray, fraction: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Windows to keep and to hold out, divided in time.

    With classes, whole blocks (`time_blocks`) are drawn, as `hold_out_groups` draws groups.
    Without, it is the end of each recording. Windows that share a step with one that is held out
    are in neither part.

    Args:
        classes: (count,) class of each window, or None.
        spans: (count, 3) recording, first step and end of each window.
        fraction, seed: as in `hold_out`.

    Raises:
        ValueError: too few windows.
    """
    if classes is not None:
        kept, held = hold_out_groups(classes, time_blocks(spans), fraction, seed)
    else:
        late = [
            its[np.argsort(spans[its, 1], kind="stable")][-max(1, round(len(its) * fraction)) :]
            for its in (np.flatnonzero(spans[:, 0] == one) for one in np.unique(spans[:, 0]))
        ]
        held = np.sort(np.concatenate(late))
        kept = np.setdiff1d(np.arange(len(spans)), held)
    kept = without_overlap(spans, kept, held)
    if not len(kept):
        raise ValueError(
            f"cannot hold out {fraction:g} of {len(spans)} windows in time: none is left that"
            " shares no step with them. Take a shorter --window."
        )
    return kept, held
