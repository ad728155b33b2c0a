"""Marks of a recording, such as annotations, events and comments, and the label of each step.

The label is that of a mark, or the value of a signal. A mark labels the steps from its start to
before its end. Where no mark has an end, each holds until the next one.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from rnnopt.tasks.names import visible
from rnnopt.tasks.user_data.readers.columns import Columns, find, find_step_labels, place_of
from rnnopt.tasks.user_data.readers.times import steps_between
from rnnopt.tasks.user_data.recordings import Recordings, recordings
from rnnopt.tasks.user_data.step_targets import StepTargets, step_targets

ALL = "annotations"  # what --label calls the marks of all lists


class NoMarksError(ValueError):
    """A recording without what --label names, which a folder leaves out if others have it."""


@dataclass(frozen=True)
class Mark:
    """A text that someone or something noted in the time of a recording.

    Args:
        start, end: in seconds, in the time of the signals; equal for a moment.
        text: what was noted; "" labels nothing, and ends the one before if that has no end.
        of: name of its list, which --label takes. Where none is called `annotations`, that means
            all.
    """

    start: float
    end: float
    text: str
    of: str = ALL


@dataclass(frozen=True)
class Label:
    """What labels the steps: signals by their names, or marks, or nothing.

    Args:
        signals: names of the signals.
        marks: the marks.
        name: the label's name, for marks.
    """

    signals: tuple[str, ...] = ()
    marks: tuple[Mark, ...] = ()
    name: str = ALL

    def put_on(
        self, data: Recordings, values: np.ndarray, times: np.ndarray, columns: Columns
    ) -> Recordings:
        """The one recording of `data` with its labels.

        Args:
            data: the recording.
            values: (time, label) those of `signals`.
            times: (time,) of the steps, in the seconds of the marks.
            columns: whether labels may change within the recording.

        Raises:
            ValueError: they change, and may not; marks that overlap, or lie outside.
        """
        if self.marks:
            steps, said = marked(self.marks, times, self.name)
            data = replace(data, lines=(*data.lines, ("labels", said)))
        elif self.signals:
            steps = step_targets([values], data.series, self.signals)
        else:
            return data
        if columns.each_step or columns.varying:
            return replace(data, steps=steps)
        different = np.unique(steps.present, axis=0)
        if len(different) != 1:
            some = ", ".join(steps.labels(different[:5, 0]))
            what = self.name if self.marks else ", ".join(self.signals)
            raise ValueError(
                f"a recording needs one label, {what!r} has {some or 'none'} (pass --window to cut"
                " it, or --each-step if each step has its own)."
            )
        answer = steps.labels(different[0]) if len(steps.names) == 1 else different
        return replace(data, targets=recordings(list(data.series), answer).targets)


def label_of(names: Sequence[str], marks: Sequence[Mark], columns: Columns) -> Label:
    """The label that `columns` names among signals and marks; a signal's name comes first.

    Raises:
        ValueError: there is none of that name; a `NoMarksError`, as other files may have one.
    """
    wanted = columns.label
    if columns.unlabelled or (wanted is None and (columns.optional or not columns.each_step)):
        return Label()
    lists = list(dict.fromkeys([ALL, *(one.of for one in marks)]))
    offered = ", ".join([*names[:20], *(lists if marks else [])])
    if wanted is None:
        raise ValueError(f"targets at every step need --label, one of {offered}.")
    if find(list(names), wanted, (), optional=True) is None:
        of = find(lists, wanted, (), optional=True)
        if of is not None and (marks or columns.optional):
            chosen = tuple(one for one in marks if one.of == of)
            return Label((), chosen or tuple(marks), of)
        if of is not None:
            raise NoMarksError(f"it has no {of}, and --label {of} needs some.")
        if place_of(wanted) is None and "," not in wanted and not columns.optional:
            raise NoMarksError(f"there is no signal {wanted!r} for --label, only {offered}.")
    return Label(tuple(find_step_labels(list(names), columns)))


def marked(marks: Sequence[Mark], times: np.ndarray, name: str) -> tuple[StepTargets, str]:
    """The label of each step by marks, NaN where there is none, and what was done, in words.

    A moment beside marks that have an end labels the one step it lies in, if no other mark does.

    Args:
        marks: ≥ 1, in any order.
        times: (time,) of the steps in seconds, rising.
        name: name of the label.

    Raises:
        ValueError: marks with an end and of different texts overlap, or none labels a step.
    """
    gap = float(np.median(np.diff(times))) if len(times) > 1 else 1.0
    held = all(one.end <= one.start for one in marks)
    marks = sorted(marks, key=lambda one: (one.end <= one.start, one.start))
    if held:
        ends = [*(one.start for one in marks[1:]), float(times[-1]) + 2 * gap]
        marks = [replace(one, end=end) for one, end in zip(marks, ends, strict=True)]
    marks = [one for one in marks if visible(one.text).strip()]
    texts = sorted({visible(one.text).strip() for one in marks})
    places = {text: i for i, text in enumerate(texts)}
    codes, used = np.full(len(times), -1), 0
    for one in marks:
        steps, code = _steps_of(one, times, gap, held), places[visible(one.text).strip()]
        others = set(codes[steps].tolist()) - {-1, code}
        if others and one.end > one.start:
            raise ValueError(
                f"{name!r} needs one text at a time, {texts[others.pop()]!r} and {texts[code]!r}"
                f" overlap at {one.start:.6g} s: write those that count into a table for --labels."
            )
        if not others and steps.start < steps.stop:
            codes[steps], used = code, used + 1
    if not used:
        raise ValueError(f"{name!r} labels no step from {times[0]:.6g} s to {times[-1]:.6g} s.")
    known = step_targets([np.array(texts, dtype=object)], [np.zeros((len(texts), 1))], (name,))
    values = np.where(codes < 0, np.nan, known.values[0][codes, 0])[:, None]
    said = f"{used} of {len(marks)} {name}"
    said += ", each until the next one, as none has an end" * held
    return StepTargets((values,), (name,), known.words), said


def _steps_of(mark: Mark, times: np.ndarray, gap: float, held: bool) -> slice:
    """The steps of a mark.

    One shorter than a step has that which it begins in, if there is one, but not if it is `held`
    until the next.
    """
    slack = 1e-3 * gap  # many files have seconds in 32 bits
    steps = steps_between(times, mark.start - slack, mark.end - slack)
    if held or steps.start < steps.stop:
        return steps
    place = int(np.searchsorted(times, mark.start + slack, side="right")) - 1
    there = place >= 0 and mark.start < times[place] + gap
    return slice(place, place + there)
