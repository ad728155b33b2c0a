"""Resampling: a sine below half of the new rate stays, one above is gone; uneven times, gaps."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rnnopt.config.data_config import hertz
from rnnopt.config.errors import UserError
from rnnopt.tasks.user_data.recordings import recordings, with_times
from rnnopt.tasks.user_data.resampling import at_rate, rate_ratio, resampled, with_gaps


@settings(max_examples=12, deadline=None)
@given(st.sampled_from([20.0, 25.0, 40.0, 50.0]), st.floats(0.1, 0.8), st.floats(1.25, 1.9))
def test_a_sine_stays_below_and_goes_above_half_of_the_new_rate(rate, low, high):
    time = np.arange(2000) / 100
    middle = slice(int(2 * rate), int(18 * rate))  # the filter has ends
    half = rate / 2
    kept = at_rate(np.sin(2 * np.pi * low * half * time)[:, None], time, rate)
    wanted = np.sin(2 * np.pi * low * half * np.arange(len(kept)) / rate)
    assert np.abs(kept[middle, 0] - wanted[middle]).max() < 0.05
    if high * half < 50:  # what 100 Hz can hold
        gone = at_rate(np.sin(2 * np.pi * high * half * time)[:, None], time, rate)
        assert np.abs(gone[middle]).max() < 0.05


@given(st.floats(0.01, 100), st.floats(0.01, 100))
def test_ratios_are_near_and_of_small_numbers(rate, own):
    ratio = rate_ratio(rate, own)
    assert min(ratio.numerator, ratio.denominator) <= 100
    assert float(ratio) * own == pytest.approx(rate, rel=0.011)


def test_uneven_times_are_interpolated_first():
    rng = np.random.default_rng(0)
    time = np.sort(np.arange(500) / 50 + rng.uniform(-0.004, 0.004, 500))
    time -= time[0]
    values = np.sin(2 * np.pi * time)[:, None]
    found = at_rate(values, time, 10.0)
    wanted = np.sin(2 * np.pi * np.arange(len(found)) / 10)
    assert np.abs(found[5:-5, 0] - wanted[5:-5]).max() < 0.02
    assert len(found) == pytest.approx(time[-1] * 10, abs=2)


def test_an_offset_makes_no_step_at_the_ends_and_missing_values_are_bridged():
    values = np.full((200, 2), 1000.0)
    values[50:60, 0] = np.nan
    values[:, 1] = np.nan
    found = at_rate(values, np.arange(200) / 100, 25.0)
    assert found.shape == (50, 2)
    np.testing.assert_allclose(found[:, 0], 1000, rtol=1e-9)
    assert np.isnan(found[:, 1]).all()


def test_gaps_are_reported_and_labels_are_those_of_the_step_before():
    time = np.concatenate([np.arange(100), 150 + np.arange(100)]) / 100
    labels = np.repeat(["a", "b"], 100)
    data = with_times(recordings([np.ones(200)], [labels], each_step=True), [time])
    found = resampled(data, 50.0)
    (line,) = found.lines
    assert "from 100 Hz" in line[1]
    assert "1 gap" in line[1]
    assert "0.51 s" in line[1]
    words = found.steps.labels(found.steps.values[0][:, 0])
    assert words == ["a" if 20 * i < 1500 else "b" for i in range(len(words))]


def test_a_time_gap_is_a_channel():
    data = with_times(recordings([np.ones(4)]), [[5.0, 5.5, 7.0, 7.25]])
    found = with_gaps(data)
    assert found.channels == ("channel 1", "time gap")
    assert found.series[0][:, 1].tolist() == [0, 0.5, 1.5, 0.25]


def test_times_in_another_unit_are_refused_by_the_rate_they_would_have():
    data = with_times(recordings([np.ones(100)]), [20.0 * np.arange(100)])  # milliseconds
    with pytest.raises(ValueError, match="0.05 Hz by its times.*--time-unit ms"):
        resampled(data, 50.0)
    with pytest.raises(ValueError, match="must rise"):
        with_times(recordings([np.ones(3)]), [[0, 2, 1]])


def test_rates_by_hand():
    assert [hertz(one) for one in ("50Hz", "1.5 kHz", "20ms", "15min")] == [50, 1500, 50, 1 / 900]
    with pytest.raises(UserError, match="such as 20ms, got '5'"):
        hertz("5")
