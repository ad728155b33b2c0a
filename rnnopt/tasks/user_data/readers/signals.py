"""Recordings of measured signals: each at a rate or with times of its own, and marks beside them.

A reader lists the names in the header, asks `choose` which signals to read, reads only these, and
passes them to `recording_of`.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from rnnopt.tasks.names import visible
from rnnopt.tasks.user_data.limits import check_memory
from rnnopt.tasks.user_data.readers.columns import Columns, find_dropped, refuse_two_roles
from rnnopt.tasks.user_data.readers.marks import Mark, label_of
from rnnopt.tasks.user_data.readers.times import Clock
from rnnopt.tasks.user_data.recordings import Recordings, recordings
from rnnopt.tasks.user_data.resampling import gaps_bridged, signal_at_rate

SHOWN = 12  # names, or texts of marks
LATEST = 1e12  # seconds, or hertz
FEW, MOST = 10**6, 1000  # steps that any resampling may make, and steps for each value before


@dataclass(frozen=True)
class Signal:
    """A measured signal.

    Args:
        name: its name, different from that of the others.
        unit: unit of its values; "" if unknown.
        values: (time,) of float64; NaN is a missing value.
        rate: in hertz, if it is evenly spaced from time 0 on.
        times: (time,) of its values in seconds, if it is not.
    """

    name: str
    unit: str
    values: np.ndarray
    rate: float | None = None
    times: np.ndarray | None = None

    @property
    def moments(self) -> np.ndarray:
        """Times (time,) in seconds."""
        if self.times is not None:
            return self.times
        assert self.rate is not None
        return np.arange(len(self.values)) / self.rate

    @property
    def pace(self) -> float | None:
        """Its rate in hertz, by the median gap if it has times; None if a single one."""
        if self.rate is not None:
            return self.rate
        gap = float(np.median(np.diff(self.moments))) if len(self.values) > 1 else 0.0
        return 1 / gap if gap > 0 else None


def distinct(names: Sequence[str]) -> list[str]:
    """Names that differ: the second of two equal ones gets a number. None is empty or hidden."""
    found: list[str] = []
    for i, name in enumerate(names):
        plain = visible(name).strip()[:200] or f"signal {i + 1}"
        one, number = plain, 2
        while one in found:
            one, number = f"{plain} ({number})", number + 1
        found.append(one)
    return found


def choose(names: Sequence[str], columns: Columns) -> tuple[list[int], tuple[str, ...]]:
    """The positions of the signals to read, and the names of those that --drop leaves out.

    Raises:
        ValueError: one to leave out is not there or is the label, or none would be left.
    """
    if not names:
        raise ValueError("a recording needs a signal at least, got none.")
    unused = find_dropped(names, columns)
    refuse_two_roles(columns, None, unused)
    kept = [i for i, name in enumerate(names) if name not in unused]
    if not kept:
        raise ValueError(f"a recording needs a signal, and all {len(names)} are left out.")
    return kept, tuple(name for name in names if name in unused)


def recording_of(
    signals: Sequence[Signal],
    marks: Sequence[Mark],
    columns: Columns,
    name: str,
    facts: Sequence[str] = (),
    unused: Sequence[str] = (),
) -> Recordings:
    """One recording of signals, with the label of each step if `columns` names one.

    Its times, `stamps`, are in the seconds of signals and marks.

    Args:
        signals: those that were read, in the order of channels.
        marks: annotations, events or comments.
        columns: the label, and the rate for signals of different rates.
        name: name of the recording.
        facts: what else the file says, such as its start.
        unused: names of the signals that `choose` left out.

    Raises:
        ValueError: signals of different rates without a rate to bring them to, without values, or
            with equal times; a label that is not there.
    """
    if columns.group is not None and not columns.optional:
        raise ValueError(f"there is no column {columns.group!r}: a recording has no groups.")
    _check(signals)
    clock = Clock()
    label = label_of([one.name for one in signals], marks, columns)
    notes = [*facts, described_signals(signals), *_described_marks(marks)]
    signals = _in_order(signals, clock, name)
    if are_alike(signals):
        times = signals[0].moments
        values = np.stack([one.values for one in signals], 1)
    else:
        times, values, note = _at_one_rate(signals, label.signals, columns.resample)
        notes.append(note)
        clock = Clock()
    places = [i for i, one in enumerate(signals) if one.name in label.signals]
    kept = [i for i in range(len(signals)) if i not in places]
    if not kept:
        raise ValueError("a recording needs a signal for a channel, got labels alone.")
    data = recordings(
        [values[:, kept] if places else values],
        channels=[signals[i].name for i in kept],
        names=[visible(name)],
    )
    data = label.put_on(data, values[:, places], times, columns)
    return replace(
        data,
        notes=tuple(notes),
        times=clock.describe(),
        moments=(times - times[0],),
        stamps=(times,),
        unused=tuple(unused) or columns.drop,
        units=tuple(visible(signals[i].unit).strip() for i in kept),
    )


def _check(signals: Sequence[Signal]) -> None:
    """Raises ValueError if a signal has no values, or a rate that none can have."""
    for one in signals:
        if not len(one.values):
            raise ValueError(f"signal {one.name!r} has no values.")
        if one.rate is not None and not 1 / LATEST < one.rate < LATEST:
            raise ValueError(f"signal {one.name!r} has a rate that none can have, {one.rate:g} Hz.")


def are_alike(signals: Sequence[Signal]) -> bool:
    """Whether all signals have their values at the same times."""
    first = signals[0]
    for one in signals[1:]:
        if len(one.values) != len(first.values) or one.rate != first.rate:
            return False
        if one.times is not first.times and not np.array_equal(one.moments, first.moments):
            return False
    return True


def described_signals(signals: Sequence[Signal]) -> str:
    """Names, units and rates of signals, in words."""
    return "; ".join(f"{_named(these)} {pace}" for pace, these in _by_pace(signals).items())


def _by_pace(signals: Sequence[Signal]) -> dict[str, list[Signal]]:
    """Signals by their rates in words."""
    found: dict[str, list[Signal]] = {}
    for one in signals:
        pace = "one value" if one.pace is None else f"{one.pace:.6g} Hz"
        about = "about " * (one.times is not None and one.pace is not None)
        found.setdefault(f"at {about}{pace}", []).append(one)
    return found


def _named(signals: Sequence[Signal]) -> str:
    units = [visible(one.unit).strip()[:20] for one in signals[:SHOWN]]
    pairs = zip(signals, units, strict=False)
    names = [f"{one.name} [{unit}]" if unit else one.name for one, unit in pairs]
    more = f", … ({len(signals)} in all)" if len(signals) > SHOWN else ""
    return ", ".join(names) + more


def _described_marks(marks: Sequence[Mark]) -> list[str]:
    """How often each text occurs, in each list of marks; [] without marks."""
    lists: dict[str, Counter[str]] = {}
    for one in marks:
        lists.setdefault(one.of, Counter()).update([visible(one.text)[:40]] * bool(one.text))
    found = []
    for of, counts in list(lists.items())[:SHOWN]:
        some = ", ".join(f"{count} × {text!r}" for text, count in counts.most_common(SHOWN))
        more = f", … ({len(counts)} in all)" if len(counts) > SHOWN else ""
        found.append(f"{visible(of)}: {some}{more}")
    return found


def _in_order(signals: Sequence[Signal], clock: Clock, name: str) -> list[Signal]:
    """The signals with rising times, which `clock` collects once for those that share them."""
    orders: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    found = []
    for one in signals:
        if one.times is not None:
            if id(one.times) not in orders:
                if not (np.abs(one.times) < LATEST).all():
                    raise ValueError(
                        f"the times of signal {one.name!r} must be finite and within {LATEST:g} s."
                    )
                order = clock.order(one.times, name, f"time of {one.name!r}")
                orders[id(one.times)] = order, one.times[order]
            order, times = orders[id(one.times)]
            one = replace(one, values=one.values[order], times=times)
        found.append(one)
    return found


def _at_one_rate(
    signals: Sequence[Signal], labels: Sequence[str], rate: float | None
) -> tuple[np.ndarray, np.ndarray, str]:
    """Times (time,) and values (time, signal) at one rate, in the time that all have, and a note.

    Whole numbers of a label are those of the step before; all else is interpolated and filtered.
    """
    moments = [one.moments for one in signals]
    if rate is None:
        raise ValueError(_differ(signals))
    start = max(float(its[0]) for its in moments)
    ends = [its[-1] + 1 / (one.pace or rate) for one, its in zip(signals, moments, strict=True)]
    count = int(np.floor((min(ends) - start) * rate + 1e-6))
    if count < 1:
        early = signals[int(np.argmin(ends))].name
        late = signals[int(np.argmax([its[0] for its in moments]))].name
        raise ValueError(
            f"signals need a time that all have: {early!r} ends {min(ends):.6g} s after the start,"
            f" and {late!r} begins at {start:.6g} s (--drop leaves one out)."
        )
    longest = max(len(one.values) for one in signals)
    finest = max([rate, *(one.pace or rate for one in signals)])
    steps = int((min(ends) - start) * finest)
    if steps > max(FEW, MOST * longest):
        raise ValueError(
            f"{steps} steps at {finest:g} Hz would be made of {longest} values: the rates or times"
            " of the file are wrong, or that of --resample."
        )
    check_memory(8 * count * len(signals) + 32 * steps, f"signals at {rate:g} Hz")
    columns = []
    for one, its in zip(signals, moments, strict=True):
        seen = one.values[~np.isnan(one.values)]
        whole = one.name in labels and bool((seen == np.round(seen)).all())
        columns.append(signal_at_rate(one.values, its - start, rate, count, smooth=not whole))
    told = f"each signal brought to {rate:.6g} Hz by itself"
    shared = {id(one.times): one for one in signals if one.times is not None}.values()
    gaps = gaps_bridged([one.name for one in shared], [one.moments for one in shared], "signal")
    told += f"; {gaps}" if gaps else ""
    return start + np.arange(count) / rate, np.stack(columns, 1), told


def _differ(signals: Sequence[Signal]) -> str:
    """That rates or clocks differ, and what to do."""
    paces = _by_pace(signals)
    if len(paces) > 1:
        fewest = min(paces.values(), key=lambda these: (len(these), these[0].pace or 0.0))
        said = described_signals(signals)
    else:  # of the same rate, but not of the same times
        first = signals[0]
        fewest = [one for one in signals if not are_alike([first, one])][:1]
        said = "; ".join(
            f"{one.name} {len(one.values)} values from {one.moments[0]:.6g} s to"
            f" {one.moments[-1]:.6g} s"
            for one in (first, *fewest)
        )
    fastest = max(one.pace or 1.0 for one in signals)
    names = " ".join(repr(one.name) if " " in one.name else one.name for one in fewest[:3])
    return (
        f"its signals have different rates or clocks ({said}): leave some out (such as --drop"
        f" {names}), or bring all to one rate (such as --resample {fastest:.4g}Hz)."
    )
