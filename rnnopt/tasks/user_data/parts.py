"""Which series go to which part: by groups, recordings, blocks in time, or one by one."""

from dataclasses import replace

import numpy as np

from rnnopt.config.data_config import Kind
from rnnopt.tasks.user_data.folds import fold_of
from rnnopt.tasks.user_data.recordings import Recordings
from rnnopt.tasks.user_data.splits import (
    hold_out,
    hold_out_blocks,
    hold_out_groups,
    time_blocks,
    without_overlap,
)

Two = tuple[Recordings, Recordings]


def units(data: Recordings, kind: Kind) -> tuple[np.ndarray | None, str]:
    """What must stay together, (count,), and in words; None if series have nothing in common.

    These are the groups if there are any, else the recordings that windows were cut from. Windows
    of one recording, and of recordings of which each has classes of its own, are told apart by
    time alone: "blocks in time".
    """
    if data.groups is not None:
        return data.groups, "whole groups"
    if data.spans is None:
        return None, "series by series"
    recordings = data.spans[:, 0]
    if len(np.unique(recordings)) > 1 and not _own_classes(data, kind):
        return recordings, "whole recordings"
    return None, "blocks in time"


def _own_classes(data: Recordings, kind: Kind) -> bool:
    """Whether no class occurs in two recordings, so that a whole one could not be held out."""
    if kind != "classification" or data.targets is None or data.spans is None:
        return False
    pairs = np.unique(np.stack([data.spans[:, 0], _classes(data)]), axis=1)
    return bool(len(np.unique(pairs[1])) == pairs.shape[1])


def _classes(data: Recordings) -> np.ndarray:
    assert data.targets is not None
    return np.unique(data.targets, return_inverse=True)[1]


def split_off(data: Recordings, fraction: float, seed: int, kind: Kind) -> Two:
    """The series to keep and those to hold out."""
    classes = data.targets if kind == "classification" else None
    together, how = units(data, kind)
    if together is not None:
        kept, held = hold_out_groups(classes, together, fraction, seed)
    elif how == "blocks in time":
        assert data.spans is not None
        kept, held = hold_out_blocks(classes, data.spans, fraction, seed)
    else:
        kept, held = hold_out(classes, len(data), fraction, seed)
    return data.select(kept), data.select(held)


def split_fold(data: Recordings, folds: int, fold: int, seed: int, kind: Kind) -> Two:
    """The series of all other folds, and those of one."""
    classes = data.targets if kind == "classification" else None
    together, how = units(data, kind)
    in_time = how == "blocks in time"
    if in_time:
        assert data.spans is not None
        together = time_blocks(data.spans)
    held = fold_of(classes, together, len(data), folds, fold, seed)
    kept = np.setdiff1d(np.arange(len(data)), held)
    if in_time:
        assert data.spans is not None
        kept = without_overlap(data.spans, kept, held)
    return data.select(kept), data.select(held)


def divide(
    data: Recordings,
    test: Recordings | None,
    validation: float,
    test_fraction: float,
    seed: int,
    kind: Kind,
    fold: tuple[int, int] | None = None,
) -> dict[str, Recordings]:
    """The training, validation and test series; parts that were not passed are held out."""
    apart, rest = data.validation, replace(data, validation=None)
    if fold is not None:
        if test is not None:
            raise ValueError(
                "there are test series: folds, which are the test series, are for none."
            )
        rest, test = split_fold(rest, *fold, seed, kind)
    elif test is None and test_fraction > 0:
        rest, test = split_off(rest, test_fraction, seed, kind)
    train, valid = rest, rest
    if apart is not None:
        valid = apart
    elif validation > 0:
        train, valid = split_off(rest, validation, seed, kind)
    return {"training": train, "validation": valid, "test": test or valid}


def looks_like_groups(column: str) -> str:
    """A warning of a column that may hold groups, without its full stop."""
    return (
        f"column {column!r} looks like the person or machine that series are of, and series of one"
        f" may be in several parts: --group {column} keeps them in one"
    )


def told_of_split(
    data: Recordings, parts: dict[str, Recordings], kind: Kind, fold: tuple[int, int] | None
) -> tuple[tuple[str, str], ...]:
    """How series were held out, in readable lines; none where they were drawn one by one.

    Args:
        data: all series that parts were held out of.
        parts: the training, validation and test series.
        kind: kind of the targets.
        fold: number of folds and of the one that is tested on, if there are any.
    """
    how = units(data, kind)[1]
    lines = [("split", how)] if how != "series by series" else []
    if data.groups is not None:
        counts = (
            f"{len(np.unique(part.groups))} {name}"
            for name, part in parts.items()
            if part.groups is not None
        )
        lines = [("split", f"{how}: {', '.join(counts)}")]
    if fold is not None:
        lines.append(("fold", f"{fold[1]} of {fold[0]} is the test part"))
    return tuple(lines)


def doubts(data: Recordings, parts: dict[str, Recordings]) -> tuple[str, ...]:
    """Warnings: of a column that looks like groups, and of groups in two parts."""
    found = []
    if data.groups is None and data.suspect is not None:
        found.append(looks_like_groups(data.suspect))
    before: set[str] = set()
    for name, part in {id(one): (name, one) for name, one in parts.items()}.values():
        if part.groups is None:
            continue
        again = sorted(before & set(part.groups.tolist()))
        if again:
            one, are = ("1 group", "is") if len(again) == 1 else (f"{len(again)} groups", "are")
            found.append(f"{one} of the {name} series {are} also in another part")
        before |= set(part.groups.tolist())
    return tuple(found)
