"""What the readers of MDF, TDMS and ROS bags promise: each signal's own values at its own times.

All files are made by the formats' libraries; what signals of different rates become is promised in
test_signals.py, spoilt files in test_hostile_files.py.
"""

from pathlib import Path

import numpy as np
import pytest
from lab_recorders import START, VECTOR, bag, mdf, signal, stamped, tdms, texts, vectors
from messages import naming

from rnnopt.config.errors import UserError
from rnnopt.tasks.user_data.readers import read
from rnnopt.tasks.user_data.readers.columns import Columns

NAN = float("nan")
TIMES = 100 + np.arange(5) / 10


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def recording(path, **columns):
    return read(Path(path), Columns(**columns))[0]


def column(data, name):
    return data.series[0][:, data.channels.index(name)].tolist()


# -- MDF -------------------------------------------------------------------------------------------


def test_mdf_channels_are_scaled_and_invalid_values_are_missing():
    invalid = np.array([False, True, False, False, True])
    path = mdf(
        "a.mf4",
        [
            signal("speed", [1.5, 2, 3, 4, 5], TIMES, unit="km/h", invalidation_bits=invalid),
            signal("rpm", np.array([1, 2, 3, 4, 65535], "u2"), TIMES, conversion={"a": 2, "b": 1}),
        ],
    )
    data = recording(path)
    np.testing.assert_array_equal(column(data, "speed"), [1.5, NAN, 3, 4, NAN])
    assert column(data, "rpm") == [3, 5, 7, 9, 131071]
    np.testing.assert_allclose(data.stamps[0], TIMES)  # not from 0
    np.testing.assert_allclose(data.moments[0], TIMES - 100)
    assert any("[km/h]" in note for note in data.notes)
    assert data.names == ("a",)


def test_mdf_groups_have_times_of_their_own_and_equal_names_are_told_apart():
    slow = [100, 100.2, 100.4]
    path = mdf(
        "a.mf4",
        [signal("v", np.arange(5.0), TIMES)],
        [signal("v", np.arange(3.0) * 10, slow), signal("n", [1, 2, 3], slow)],
    )
    with pytest.raises(UserError, match=naming("--resample", "--drop")):
        recording(path)
    data = recording(path, drop=("group 1.v",))
    assert (column(data, "group 2.v"), column(data, "n")) == ([0, 10, 20], [1, 2, 3])
    assert recording(path, drop=("group 2.v", "n")).series[0][:, 0].tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(UserError, match=naming("'nix'", "group 1.v")):
        recording(path, drop=("nix",))


def test_mdf_texts_are_marks_also_those_of_codes():
    codes = {"val_0": 0, "text_0": b"off", "val_1": 1, "text_1": b"on", "default": b""}
    path = mdf(
        "a.mf4",
        [signal("v", np.arange(5.0), TIMES)],
        [
            signal("gear", np.array([b"P", b"D "]), [100, 100.2], encoding="utf-8"),
            signal("pump", np.array([0, 1], "u1"), [100, 100.2], conversion=codes),
        ],
    )
    for label, words in (("gear", ["P", "P", "D", "D", "D"]), ("pump", ["off"] * 2 + ["on"] * 3)):
        data = recording(path, label=label, each_step=True)
        assert data.steps.labels(data.steps.values[0][:, 0]) == words
        assert data.channels == ("v",)


def test_mdf_files_without_numbers_or_of_raw_frames_are_refused():
    path = mdf("a.mf4", [signal("mode", np.array([b"a", b"b"]), [0, 1], encoding="utf-8")])
    with pytest.raises(UserError, match=naming("a.mf4", "numbers")):
        recording(path)
    path = mdf("b.mf4", [signal("CAN_DataFrame", [1, 2], [0.0, 1])])
    with pytest.raises(UserError, match=naming("b.mf4", "extract_bus_logging")):
        recording(path)


# -- TDMS ------------------------------------------------------------------------------------------

DAY = np.datetime64("2026-05-01T12:00:00", "us")
WAVE = {"wf_increment": 0.1, "wf_start_offset": 0.0, "wf_start_time": DAY}
SCALE = {
    "NI_Scaling_Status": "unscaled", "NI_Number_Of_Scales": 1, "NI_Scale[0]_Scale_Type": "Linear",
    "NI_Scale[0]_Linear_Slope": 0.5, "NI_Scale[0]_Linear_Y_Intercept": 1.0,
    "NI_Scale[0]_Linear_Input_Source": 0xFFFFFFFF,
}  # fmt: skip


def test_tdms_waveforms_have_their_rate_scale_and_all_segments():
    parts = [[("g", "a b", np.arange(3, dtype="i2") + 3 * k, WAVE | SCALE | {"unit_string": "g"})]
             for k in range(2)]  # fmt: skip
    data = recording(tdms("a.tdms", *parts))
    assert data.channels == ("a b",)  # one group is not named
    assert data.series[0][:, 0].tolist() == [1, 1.5, 2, 2.5, 3, 3.5]
    np.testing.assert_allclose(data.moments[0], np.arange(6) / 10)
    assert any("[g]" in note for note in data.notes)


def test_tdms_offsets_and_starts_shift_a_waveform():
    late = WAVE | {"wf_start_time": DAY + np.timedelta64(200, "ms"), "wf_start_offset": 0.1}
    values = np.arange(5.0)
    path = tdms("a.tdms", [("g", "on time", values, WAVE), ("h", "late", values, late)])
    alone = recording(path, drop=("g.on time",))
    np.testing.assert_allclose(alone.stamps[0], 0.3 + np.arange(5) / 10)
    both = recording(path, resample=10.0)  # what both have: 0.3 and 0.4 s
    assert column(both, "g.on time") == pytest.approx([3, 4], abs=0.5)
    assert both.stamps[0][0] == pytest.approx(0.3)


@pytest.mark.parametrize(
    "times", [DAY + np.array([0, 1500, 2000], "m8[ms]"), np.array([5.0, 6.5, 7.0])]
)
def test_tdms_channels_of_a_group_have_the_times_of_its_time_channel(times):
    path = tdms("a.tdms", [("g", "Time", times, {}), ("g", "v", np.arange(3.0), {}),
                           ("g", "mode", ["a", "a", "b"], {})])  # fmt: skip
    data = recording(path, label="mode", each_step=True)
    assert data.channels == ("v",)
    assert data.moments[0].tolist() == [0, 1.5, 2]
    assert data.steps.labels(data.steps.values[0][:, 0]) == ["a", "a", "b"]


def test_tdms_without_times_needs_a_rate():
    data = recording(tdms("a.tdms", [("g", "v", np.arange(3.0), {})]))
    assert data.moments is None
    assert any("no times" in note for note in data.notes)


def test_tdms_cut_off_in_its_second_segment_has_the_first():
    path = tdms("a.tdms", *([("g", "v", np.arange(50.0) + k, WAVE)] for k in range(2)))
    path.write_bytes(path.read_bytes()[:-300])
    data = recording(path)
    assert data.series[0][:50, 0].tolist() == list(range(50))
    assert len(data.series[0]) < 100
    assert any("interrupted" in note for note in data.notes)
    path.write_bytes(path.read_bytes()[:100])  # no value is left, which the library passes over
    with pytest.raises(UserError, match=naming("a.tdms", "cut off")):
        recording(path)


# -- ROS -------------------------------------------------------------------------------------------

FIELDS = tuple(f"/force.vector.{axis}" for axis in "xyz")
FORMS = {
    "ROS 1": ("a.bag", dict(version=1), "a.bag"),
    "ROS 2, mcap": ("b", dict(plugin="MCAP"), "b"),
    "ROS 2, a file": ("c", dict(plugin="MCAP"), "c/c.mcap"),
    "ROS 2, sqlite": ("d", dict(plugin="SQLITE3"), "d"),
}


@pytest.mark.parametrize("form", FORMS)
def test_bags_of_any_kind_have_the_numbers_of_their_topics(form):
    name, how, given = FORMS[form]
    bag(name, *vectors(), **how)
    data = recording(given)
    assert data.channels == FIELDS
    assert column(data, FIELDS[1]) == [0, 2, 4, 6, 8]
    np.testing.assert_allclose(data.moments[0], np.arange(5) / 100, atol=1e-9)


def test_the_stamps_of_headers_count_where_each_message_has_its_own():
    jitter = [
        ("/force", VECTOR, START + t, lambda types, i=i: stamped(types, i, START + 10**8 * i))
        for i, t in enumerate((10**7, 3 * 10**8, 4 * 10**8))
    ]
    data = recording(bag("a", *jitter))
    np.testing.assert_allclose(data.moments[0], [0, 0.1, 0.2], atol=1e-9)
    assert any(note == "headers' stamps: /force" for note in data.notes)
    bare = [(t, k, time, lambda types, i=i: stamped(types, i, 0)) for i, (t, k, time, _) in
            enumerate(jitter)]  # fmt: skip
    data = recording(bag("b", *bare))
    np.testing.assert_allclose(data.moments[0], [0, 0.29, 0.39], atol=1e-9)
    assert any(note == "times of receipt: /force" for note in data.notes)


def test_stamps_of_a_simulation_do_not_stand_beside_times_of_receipt():
    simulated = [
        ("/force", VECTOR, START + i * 10**7, lambda types, i=i: stamped(types, i, 10**7 * (i + 1)))
        for i in range(4)
    ]
    data = recording(bag("a", *simulated, *texts("/mode", (0, "x"))))
    assert any(note == "times of receipt: /force, /mode" for note in data.notes)


def test_texts_of_a_topic_label_the_steps():
    path = bag("a", *texts("/mode", (0, "stand"), (0.02, "walk")), *vectors())
    data = recording(path, label="/mode.data", each_step=True)
    assert data.channels == FIELDS
    assert data.steps.labels(data.steps.values[0][:, 0]) == ["stand"] * 2 + ["walk"] * 3


def test_whole_topics_are_left_out_by_their_name():
    path = bag("a", *vectors(), *vectors("/other", count=3))
    assert recording(path, drop=("/other", FIELDS[2])).channels == FIELDS[:2]


def test_arrays_are_numbers_up_to_a_size_and_covariances_none():
    def imu(types):
        time = types["builtin_interfaces/msg/Time"](1, 0)
        vector = types["geometry_msgs/msg/Vector3"](1.0, 2.0, 3.0)
        turn = types["geometry_msgs/msg/Quaternion"](0.0, 0.0, 0.0, 1.0)
        header, many = types["std_msgs/msg/Header"](time, ""), np.zeros(9)
        return types["sensor_msgs/msg/Imu"](header, turn, many, vector, many, vector, many)

    def scan(size):
        layout = lambda types: types["std_msgs/msg/MultiArrayLayout"]([], 0)  # noqa: E731
        kind = "std_msgs/msg/Float64MultiArray"
        return lambda types: types[kind](layout(types), np.arange(float(size)))

    kind = "std_msgs/msg/Float64MultiArray"
    few = [("/few", kind, START, scan(2)), ("/many", kind, START, scan(17))]
    data = recording(bag("a", ("/imu", "sensor_msgs/msg/Imu", START, imu), *few))
    assert "/few.data[1]" in data.channels
    assert not any("covariance" in one or "/many.data" in one for one in data.channels)


def test_bags_without_numbers_or_cut_off_are_refused():
    path = bag("a", *texts("/mode", (0, "x")))
    with pytest.raises(UserError, match=naming("a", "/mode", "numbers")):
        recording(path)
    path = bag("b", *vectors()) / "b.mcap"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(UserError, match=naming("b", "cut off")):
        recording("b")


def test_tdms_channels_with_times_do_not_stand_beside_some_without():
    path = tdms("a.tdms", [("g", "v", np.arange(3.0), WAVE), ("g", "w", np.arange(3.0), {})])
    with pytest.raises(UserError, match=naming("'w'", "--drop")):
        recording(path)
    assert recording(path, drop=("w",)).channels == ("v",)


def test_a_cut_mdf_file_is_refused_without_a_print_of_the_library(capfd):
    path = mdf("a.mf4", [signal("v", np.arange(5.0), TIMES)])
    content = path.read_bytes()
    for size in (0, 64, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:size])
        with pytest.raises(UserError, match=naming("a.mf4", "cut off")):
            recording(path)
    assert capfd.readouterr() == ("", "")  # its destructor fails after its constructor
