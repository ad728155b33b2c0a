"""What recordings of signals promise: one rate, marks as labels, and a sentence for what cannot be.

What the readers of files give to this is promised in test_recordings_files.py.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from messages import naming

from rnnopt.tasks.names import STEERING
from rnnopt.tasks.user_data.readers.columns import Columns
from rnnopt.tasks.user_data.readers.marks import Mark, marked
from rnnopt.tasks.user_data.readers.signals import Signal, choose, distinct, recording_of

EACH = Columns(label="annotations", each_step=True)


def ramp(count, rate, name="x"):
    return Signal(name, "mV", np.arange(float(count)), rate)


def labels(data):
    """The label of each step of a recording, "" where there is none."""
    return data.steps.labels(data.steps.values[0][:, 0])


def words(marks, times):
    steps, _ = marked(marks, np.asarray(times, float), "annotations")
    return steps.labels(steps.values[0][:, 0])


# -- rates ----------------------------------------------------------------------------------------


def test_signals_of_one_rate_are_channels_at_the_times_of_the_file():
    data = recording_of([ramp(4, 2.0), ramp(4, 2.0, "y")], [], Columns(), "r", ["start now"])
    assert data.channels == ("x", "y")
    assert data.series[0].tolist() == [[0, 0], [1, 1], [2, 2], [3, 3]]
    assert data.stamps[0].tolist() == data.moments[0].tolist() == [0, 0.5, 1, 1.5]
    assert data.notes == ("start now", "x [mV], y [mV] at 2 Hz")


def test_times_of_a_clock_stay_those_of_the_file_and_are_sorted():
    times = np.array([7.0, 5.0, 6.0])
    signals = [Signal(name, "", np.array([3.0, 1, 2]), times=times) for name in "ab"]
    data = recording_of(signals, [], Columns(), "r")
    assert data.series[0][:, 1].tolist() == [1, 2, 3]
    assert data.stamps[0].tolist() == [5, 6, 7]
    assert data.moments[0].tolist() == [0, 1, 2]
    assert "out of order" in data.times


def test_different_rates_are_refused_with_names_rates_and_what_to_do():
    signals = [ramp(500, 500.0, "ECG"), ramp(500, 500.0, "EMG"), ramp(25, 25.0, "resp")]
    with pytest.raises(ValueError, match="different rates") as error:
        recording_of(signals, [], Columns(), "r")
    for said in ("ECG [mV], EMG [mV] at 500 Hz", "resp [mV] at 25 Hz", "--drop resp",
                 "--resample 500Hz"):  # fmt: skip
        assert said in str(error.value)


def test_clocks_that_start_apart_are_refused_too():
    times = np.arange(10.0)
    signals = [Signal(n, "", times, times=times + s) for n, s in (("a", 0.0), ("b", 0.25))]
    with pytest.raises(ValueError, match=r"b 10 values from 0\.25 s.*--drop b"):
        recording_of(signals, [], Columns(), "r")


def test_a_slow_signal_does_not_ring_and_keeps_its_last_value():
    # 1 Hz to 10 Hz: straight lines between 0 and 1, and the last value for its whole second.
    slow = Signal("gate", "", np.array([0.0, 0, 1, 1]), 1.0)
    data = recording_of([ramp(40, 10.0), slow], [], Columns(resample=10.0), "r")
    wanted = np.concatenate([np.zeros(10), np.arange(10) / 10, np.ones(20)])
    np.testing.assert_allclose(data.series[0][:, 1], wanted, atol=1e-12)
    np.testing.assert_allclose(data.series[0][:, 0], np.arange(40), atol=1e-9)


def test_a_fast_signal_loses_what_the_new_rate_cannot_show():
    time = np.arange(4000) / 400
    fast = Signal("fast", "", np.sin(2 * np.pi * 90 * time), 400.0)
    data = recording_of([fast, ramp(500, 50.0)], [], Columns(resample=50.0), "r")
    assert data.series[0].shape == (500, 2)
    assert np.abs(data.series[0][25:-25, 0]).max() < 0.05


def test_the_time_that_all_signals_have_is_kept():
    a = Signal("a", "", np.arange(10.0), times=100 + np.arange(10.0))
    b = Signal("b", "", np.arange(20.0), times=103 + np.arange(20.0) / 2)
    data = recording_of([a, b], [], Columns(resample=2.0), "r")
    np.testing.assert_allclose(data.stamps[0], 103 + np.arange(14) / 2)  # to 110 s, where a ends
    np.testing.assert_allclose(data.series[0][:13, 0], 3 + np.arange(13) / 2)
    np.testing.assert_allclose(data.series[0][:, 1], np.arange(14))
    late = Signal("late", "", np.arange(3.0), times=500 + np.arange(3.0))
    with pytest.raises(ValueError, match="'a' ends 110 s.*'late' begins at 500 s"):
        recording_of([a, late], [], Columns(resample=2.0), "r")


def test_a_rate_that_the_values_cannot_mean_is_refused():
    signals = [ramp(10, 1e-6), ramp(10, 1e-7, "y")]
    with pytest.raises(ValueError, match="would be made of 10 values"):
        recording_of(signals, [], Columns(resample=1000.0), "r")


def test_what_was_missing_stays_missing_and_gaps_are_told():
    values = np.arange(10.0)
    values[4] = np.nan
    times = np.arange(10.0) + 8 * (np.arange(10) > 6)
    holes = Signal("holes", "", values, times=times)
    data = recording_of([holes, ramp(72, 4.0)], [], Columns(resample=4.0), "r")
    missing = np.flatnonzero(np.isnan(data.series[0][:, 0]))
    assert missing.tolist() == list(range(13, 20))  # between 3 s and 5 s, which have values
    assert "1 gap" in data.notes[-1]
    assert "9 s (signal 'holes'" in data.notes[-1]


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0.5, 50), st.floats(0, 3)), min_size=2, max_size=4),
    st.floats(0.5, 60),
)
def test_any_rates_and_starts_end_at_the_new_rate(paces, rate):
    signals = []
    for i, (pace, start) in enumerate(paces):
        steps = np.arange(int(10 * pace) + 2)
        signals.append(Signal(f"s{i}", "", np.full(len(steps), 7.0), times=start + steps / pace))
    data = recording_of(signals, [], Columns(resample=rate), "r")
    np.testing.assert_allclose(data.series[0], 7, rtol=1e-3)  # a constant stays one
    if len(set(paces)) > 1:
        np.testing.assert_allclose(np.diff(data.stamps[0]), 1 / rate, rtol=1e-6)


# -- labels ---------------------------------------------------------------------------------------


def test_a_signal_may_be_the_label_and_is_then_no_channel():
    state = Signal("state", "", np.array([0.0, 0, 1, np.nan]), 2.0)
    data = recording_of([ramp(4, 2.0), state], [], Columns(label="STATE", each_step=True), "r")
    assert data.channels == ("x",)
    assert labels(data) == ["0", "0", "1", ""]


def test_whole_numbers_of_a_slow_label_are_held_and_others_are_interpolated():
    fast = ramp(8, 4.0)
    whole, other = ([0.0, 3], [0] * 4 + [3] * 4), ([0.0, 4.5], [0, 1.125, 2.25, 3.375] + [4.5] * 4)
    for values, wanted in (whole, other):
        state = Signal("state", "", np.array(values), 1.0)
        columns = Columns(label="state", each_step=True, resample=4.0)
        data = recording_of([fast, state], [], columns, "r")
        np.testing.assert_allclose(data.steps.values[0][:, 0], wanted)


def test_a_label_that_does_not_change_is_that_of_the_recording():
    columns = Columns(label="annotations")
    data = recording_of([ramp(4, 1.0)], [Mark(1, 2, "walk")], columns, "r")
    assert data.targets.tolist() == ["walk"]
    with pytest.raises(ValueError, match=naming("annotations", "rest, walk", "--window")):
        recording_of([ramp(4, 1.0)], [Mark(1, 2, "walk"), Mark(2, 3, "rest")], columns, "r")


MARKS = {
    "to before the end": ([Mark(1, 3, "a")], ["", "a", "a", "", ""]),
    "one after the other": ([Mark(2, 9, "b"), Mark(0, 2, "a")], ["a", "a", "b", "b", "b"]),
    "equal texts overlap": ([Mark(0, 3, "a"), Mark(1, 4, "a")], ["a", "a", "a", "a", ""]),
    "moments until the next": ([Mark(1, 1, "a"), Mark(3, 3, "b")], ["", "a", "a", "b", "b"]),
    "moments in one step": ([Mark(1.2, 1.2, "a"), Mark(1.4, 1.4, "b")], ["", "", "b", "b", "b"]),
    "a moment beside intervals": ([Mark(0, 2, "a"), Mark(3.5, 3.5, "b")], ["a", "a", "", "b", ""]),
    "a moment within an interval": ([Mark(0, 2, "a"), Mark(1, 1, "b")], ["a", "a", "", "", ""]),
    "shorter than a step": ([Mark(1.2, 1.4, "a")], ["", "a", "", "", ""]),
    "partly outside": ([Mark(-5, 1, "a"), Mark(4, 9, "b"), Mark(7, 8, "")], ["a", "", "", "", "b"]),
    "ended before the first step": ([Mark(-5, 0, "a"), Mark(3, 4, "b")], ["", "", "", "b", ""]),
    "without a text": ([Mark(0, 2, " "), Mark(1, 2, "a")], ["", "a", "", "", ""]),
    "numbers": ([Mark(0, 2, "1"), Mark(2, 3, "2.0")], ["1", "1", "2", "", ""]),
}  # fmt: skip


@pytest.mark.parametrize("case", MARKS)
def test_the_steps_of_marks(case):
    marks, wanted = MARKS[case]
    assert words(marks, range(5)) == wanted


def test_a_mark_within_a_gap_labels_no_step():
    assert words([Mark(0, 1, "a"), Mark(5, 6, "b")], [0, 1, 2, 10, 11]) == ["a", "", "", "", ""]


def test_marks_that_overlap_or_lie_outside_are_refused():
    with pytest.raises(ValueError, match="'a' and 'b' overlap at 1 s.*--labels"):
        words([Mark(0, 2, "a"), Mark(1, 3, "b")], range(5))
    with pytest.raises(ValueError, match="labels no step from 0 s to 4 s"):
        words([Mark(50, 60, "a")], range(5))


PIECE = st.tuples(st.integers(0, 6), st.integers(1, 6), st.sampled_from("ab"))


@settings(max_examples=40)
@given(st.lists(PIECE, min_size=1, max_size=6))
def test_marks_label_as_one_would_by_hand(pieces):
    at, marks, wanted = 0, [], [""] * 90
    for pause, length, text in pieces:  # in tenths of a second, as the steps
        at += pause
        marks.append(Mark(at / 10, (at + length) / 10, text))
        wanted[at : at + length] = text * length
        at += length
    assert words(marks, np.arange(90) / 10) == wanted


def test_one_of_several_lists_of_marks_is_chosen_by_its_name():
    marks = [Mark(0, 2, "a"), Mark(1, 3, "b", "stages")]
    signals = [ramp(3, 1.0)]
    assert labels(recording_of(signals, marks, EACH, "r")) == ["a", "a", ""]
    stages = Columns(label="stages", each_step=True)
    assert labels(recording_of(signals, marks, stages, "r")) == ["", "b", "b"]
    data = recording_of(signals, marks[1:], EACH, "r")  # none is called so: all of them
    assert labels(data) == ["", "b", "b"]
    assert data.notes[-1] == "stages: 1 × 'b'"


def test_a_label_that_is_not_there_is_refused_unless_it_may_be():
    signals = [ramp(3, 1.0)]
    with pytest.raises(ValueError, match=naming("it has no annotations", "--label")):
        recording_of(signals, [], EACH, "r")
    with pytest.raises(ValueError, match=naming("'state'", "only x, annotations")):
        recording_of(signals, [Mark(0, 1, "a")], Columns(label="state"), "r")
    with pytest.raises(ValueError, match=naming("--label", "x, annotations")):
        recording_of(signals, [Mark(0, 1, "a")], Columns(each_step=True), "r")
    optional = Columns(label="annotations", each_step=True, optional=True)
    assert not recording_of(signals, [], optional, "r").labelled
    with pytest.raises(ValueError, match="labels alone"):
        recording_of(signals, [], Columns(label="x", each_step=True), "r")


# -- names, and what is wrong ----------------------------------------------------------------------


@settings(max_examples=30)
@given(st.lists(st.text(max_size=9), max_size=6))
def test_names_become_distinct_and_visible(names):
    found = distinct(names)
    assert len(found) == len(names) == len(set(found))
    assert all(found)
    assert not any(map(STEERING.search, found))
    assert distinct(found) == found


def test_signals_are_chosen_before_they_are_read():
    names = ["EEG", "EMG", "temp"]
    assert choose(names, Columns(drop=("emg", "-1"))) == ([0], ("EMG", "temp"))
    assert choose(names, Columns()) == ([0, 1, 2], ())
    for drop, wrong in ((("x",), "'x'"), (tuple(names), "all 3"), (("EMG",), "--label needs it")):
        with pytest.raises(ValueError, match=wrong):
            choose(names, Columns(drop=drop, label="EMG" if drop == ("EMG",) else None))
    with pytest.raises(ValueError, match="needs a signal at least"):
        choose([], Columns())


WRONG = {
    "no values": (Signal("a", "", np.zeros(0), 1.0), "signal 'a' has no values"),
    "infinite": (Signal("a", "", np.array([1.0, np.inf]), 1.0), "must be finite"),
    "equal times": (Signal("a", "", np.zeros(2), times=np.zeros(2)), "same time of 'a'"),
    "a time too far": (Signal("a", "", np.zeros(2), times=np.array([0, 1e300])), "within 1e"),
    "a rate too high": (Signal("a", "", np.zeros(2), 1e300), "none can have, 1e"),
    "no rate": (Signal("a", "", np.zeros(2), float("nan")), "none can have, nan"),
    "no time": (Signal("a", "", np.zeros(2), times=np.array([0, np.nan])), "times of signal 'a'"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_signal_is_refused_by_name(case):
    signal, sentence = WRONG[case]
    with pytest.raises(ValueError, match=sentence):
        recording_of([signal], [], Columns(), "r")
    with pytest.raises(ValueError, match="no groups"):
        recording_of([ramp(2, 1.0)], [], Columns(group="person"), "r")
