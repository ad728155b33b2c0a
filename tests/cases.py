"""Which cases of many `make test` takes; the others are marked `full`."""

import itertools
from collections.abc import Collection, Iterable
from typing import Any

import pytest

PARAM = type(pytest.param())


def partly(values: Iterable[Any], chosen: Collection[Any]) -> list[Any]:
    """The values, or tuples of values, for parametrize; all that are not chosen are marked."""
    found = []
    for value in values:
        marks = [] if value in chosen else [pytest.mark.full]
        several = value if isinstance(value, tuple) else (value,)
        found.append(pytest.param(*several, marks=marks))
    return found


def crossed(*parameters: tuple[str, Collection[Any]], rest: bool = True) -> pytest.MarkDecorator:
    """Parametrizes a test by every combination; it is enough that every two values meet.

    Args:
        parameters: name and values, as parametrize takes them; "one, other" names two at once.
            A value may be a `pytest.param` with an id.
        rest: whether the combinations beyond those are kept, marked; else they are left out.
    """
    names = [name for both, _ in parameters for name in both.split(", ")]
    cases = list(itertools.product(*(range(len(values)) for _, values in parameters)))
    chosen = set(pairwise(cases))
    found = []
    for case in cases if rest else sorted(chosen):
        values: list[Any] = []
        ids: list[str] = []
        for (both, given), i in zip(parameters, case, strict=True):
            value = list(given)[i]
            if isinstance(value, PARAM):
                ids.append(value.id)
                values += value.values
            else:
                several = value if ", " in both else [value]
                ids += map(_id_of, several)
                values += several
        marks = [] if case in chosen else [pytest.mark.full]
        found.append(pytest.param(*values, id="-".join(ids), marks=marks))
    return pytest.mark.parametrize(names, found)


def pairwise(cases: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Few of the cases, in which every two values of two places meet that meet in any."""
    pairs = {case: set(itertools.combinations(enumerate(case), 2)) for case in cases}
    left, chosen = set().union(*pairs.values()), []
    while left:
        chosen.append(max(cases, key=lambda case: len(pairs[case] & left)))
        left -= pairs[chosen[-1]]
    return chosen


def _id_of(value: Any) -> str:
    return getattr(value, "__name__", None) or str(value).removeprefix("torch.")
