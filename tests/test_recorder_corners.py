"""What is promised of recorders' files that are unlike each other, or odd in themselves.

Clocks, units and rates that differ between groups or files, texts in other encodings, positions
that do not count from 0. What each kind of file promises is in test_recordings_files.py and
test_lab_recorders.py.
"""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import recorder_files as files
from lab_recorders import mdf, signal, tdms
from messages import naming

from rnnopt.config.data_config import DataConfig
from rnnopt.config.data_files import absolute, files_of, names_in
from rnnopt.config.errors import UserError
from rnnopt.tasks.user_data.load import own_task
from rnnopt.tasks.user_data.preparation import Preparation
from rnnopt.tasks.user_data.readers import read
from rnnopt.tasks.user_data.readers.columns import Columns
from rnnopt.tasks.user_data.readers.libraries import quietly
from rnnopt.tasks.user_data.readers.several import read_data

TEN = np.arange(10.0)
STARTED = np.datetime64("2026-05-01T10:00:00", "ms")
RHYTHM = Columns(label="rhythm", varying=True)


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def one(path, columns=None):
    """The recording of a file."""
    return read(Path(path), columns or Columns())[0]


def labels(data, i=0):
    return data.steps.labels(data.steps.values[i][:, 0])


def night(name, rate=10, unit="uV", reverse=False):
    """40 s of two signals, awake and asleep by turns of 5 s."""
    times = np.arange(40 * rate) / rate
    signals = [("EEG", unit, rate, 100 * np.sin(times)), ("EMG", "uV", rate, 50 * np.cos(times))]
    notes = [(5 * i, 5, ("awake", "asleep")[i % 2]) for i in range(8)]
    return str(files.edf(Path(name), signals[::-1] if reverse else signals, notes))


# -- values and times -----------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["edf", "bdf"])
def test_classes_in_an_edf_signal_stay_whole_numbers(ending):
    stage = np.arange(100) // 10 % 3  # of which 1 is no multiple of the stored step, 400 / 65535
    wave = stage + 0.3
    path = files.edf(Path(f"a.{ending}"), [("Stage", "", 10, stage), ("x", "uV", 10, wave)])
    data = one(path, Columns(label="Stage", each_step=True))
    assert labels(data) == [str(one) for one in stage]
    np.testing.assert_allclose(data.series[0][:, 0], wave, atol=400 / 65535)


@pytest.mark.parametrize("second", ["dates", "a waveform"])
def test_groups_of_tdms_that_start_apart_keep_their_distance(second):
    # The second starts 0.3 s after the first: its value 0 is beside the first one's value 3.
    late, step = STARTED + np.timedelta64(300, "ms"), np.arange(10) * np.timedelta64(100, "ms")
    waves = {"wf_increment": 0.1, "wf_start_time": late, "wf_start_offset": 0.0}
    other = [("B", "when", late + step, {}), ("B", "y", TEN, {})]
    if second == "a waveform":
        other = [("B", "y", TEN, waves)]
    path = tdms("a.tdms", [("A", "when", STARTED + step, {}), ("A", "x", TEN, {}), *other])
    with pytest.raises(UserError, match=naming("A.x", "B.y", "--resample")):
        one(path)
    data = one(path, Columns(resample=10.0))
    np.testing.assert_allclose(data.series[0], [[3 + i, i] for i in range(7)], atol=1e-9)
    assert data.stamps[0][0] == pytest.approx(0.3)


def test_a_tdms_channel_without_a_time_for_each_value_can_be_left_out():
    times = ("A", "when", STARTED + np.arange(10) * np.timedelta64(100, "ms"), {})
    path = tdms("a.tdms", [times, ("A", "x", TEN, {}), ("A", "short", TEN[:4], {})])
    with pytest.raises(UserError, match=naming("'short'", "4 values", "10")):
        one(path)
    assert one(path, Columns(drop=("short",))).channels == ("x",)


def test_an_empty_or_invalid_text_ends_the_state_before():
    times = np.arange(8) / 10
    states = np.array([0, 0, 1, 1, 2, 2, 1, 0], "u1")
    texts = {"val_0": 0, "text_0": b"on", "val_1": 1, "text_1": "gelöst".encode(), "default": b""}
    wrong = np.arange(8) == 3
    state = signal("state", states, times, conversion=texts, invalidation_bits=wrong)
    path = mdf("a.mf4", [signal("x", TEN[:8], times)], [state])
    data = one(path, Columns(label="state", each_step=True))
    assert labels(data) == ["on", "on", "gelöst", "", "", "", "gelöst", "on"]
    assert ("labels", "4 of 4 state, each until the next one, as none has an end") in data.lines
    assert "state: 2 × 'on', 2 × 'gelöst'" in data.notes


def test_texts_of_old_mdf_files_are_latin_1():
    asammdf = pytest.importorskip("asammdf")
    texts = np.array(["é".encode("latin-1")] * 5 + [b"e"] * 5)
    file = asammdf.MDF(version="3.30")
    file.append([asammdf.Signal(TEN, TEN, name="x"), asammdf.Signal(texts, TEN, name="text")])
    file.save("old.mdf", overwrite=True)
    file.close()
    data = one("old.mdf", Columns(label="text", each_step=True))
    assert labels(data) == ["é"] * 5 + ["e"] * 5


def sigmf(values, kind, **others):
    values.tofile("a.sigmf-data")
    about = {"global": {"core:datatype": kind, "core:sample_rate": 10, "core:version": "1.0.0"}}
    about |= {"captures": [{"core:sample_start": 0}], "annotations": []}
    about["global"] |= others.pop("more", {})
    Path("a.sigmf-meta").write_text(json.dumps(about | others))
    return "a.sigmf-meta"


@pytest.mark.parametrize(
    ("kind", "stored"), [("ri32_le", "<i4"), ("rf64_be", ">f8"), ("cf64_le", "<f8")]
)
def test_sigmf_values_keep_more_than_32_bits(kind, stored):
    values = (2.0**30 + np.arange(4)).astype(stored)  # sigmf rounds these to multiples of 64
    data = one(sigmf(values, kind))
    assert data.series[0].ravel().tolist() == values.tolist()


def test_positions_in_a_sigmf_file_count_from_its_offset():
    notes = [{"core:sample_start": 503, "core:sample_count": 2, "core:label": "here"}]
    more = {"core:offset": 500}
    captures = [{"core:sample_start": 500}]
    values = np.arange(10, dtype="<i2")
    path = sigmf(values, "ri16_le", more=more, captures=captures, annotations=notes)
    data = one(path, Columns(label="annotations", each_step=True))
    assert labels(data) == ["", "", "", "here", "here"] + [""] * 5
    path = sigmf(values, "ri16_le", more=more, annotations=notes)  # a capture at 0
    with pytest.raises(UserError, match="before its core:offset 500"):
        one(path)


# -- several files --------------------------------------------------------------------------------


def heart(name, notes=None, folder=""):
    values, where = np.arange(20.0)[:, None] / 10, dict(write_dir=folder)
    fields = dict(fs=10, units=["mV"], sig_name=["II"], p_signal=values, fmt=["16"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of pandas
        wfdb = pytest.importorskip("wfdb")
        wfdb.wrsamp(name, **fields, **where)
        if notes is not None:
            wfdb.wrann(name, "atr", np.array([0, 10]), ["+", "+"], aux_note=notes, **where)


def test_wfdb_signals_need_no_names_and_numbers_of_a_header_no_words():
    # wfdb takes None for a name, and 250 Hz and all values for words.
    heart("a")
    header = Path("a.hea").read_text()
    Path("a.hea").write_text(header.replace(" II", ""))
    assert one("a.hea").channels == ("signal 1",)
    for word, line in (("ten", "a 1 ten 20"), ("-20", "a 1 10 -20")):
        Path("a.hea").write_text(header.replace("a 1 10 20", line))
        with pytest.raises(UserError, match=naming("a.hea", repr(word), "no number")):
            one("a.hea")
    Path("a.hea").write_text(header.replace("a 1 10 20", "a 1 10/100(-5) 20 12:00:00 01/02/2026"))
    assert len(one("a.hea").series[0]) == 20


@pytest.mark.parametrize("name", ["a.HEA", "a.Bag", "a.SIGMF-META"])
def test_an_ending_in_capitals_that_a_library_does_not_know_is_to_be_renamed(name):
    Path(name).write_text("x")
    with pytest.raises(UserError, match=naming(name, "rename", Path(name).suffix.lower())):
        one(name)


def test_the_words_of_rosbags_are_told_without_their_brackets():
    with (
        pytest.raises(ValueError, match=r"no ROS bag file \(No header\)\.$"),
        quietly("ROS bag", OSError),
    ):
        raise OSError(("No header.",))


def test_an_empty_parquet_file_is_refused_as_such():
    Path("a.parquet").write_bytes(b"")
    with pytest.raises(UserError, match="it is empty"):
        one("a.parquet")


def test_a_segment_is_no_recording_beside_the_record_that_it_is_of():
    heart("part1")
    heart("part2")
    Path("whole.hea").write_text("whole/2 1 10 40\npart1 20\npart2 20\n")
    heart("other")
    data, _ = read_data("*.hea", Columns())
    assert data.names == ("other", "whole")
    assert [len(its) for its in data.series] == [20, 40]
    assert read_data("[pw]*.hea", Columns())[0].names == ("whole",)


def test_a_folder_leaves_out_files_that_lack_the_list_of_marks():
    Path("hearts").mkdir()
    heart("a", ["(N", "(VT"], "hearts")
    heart("b", ["changed", "changed"], "hearts")  # annotations, and none of the rhythm
    heart("c", None, "hearts")
    data = one("hearts", RHYTHM)
    assert data.names == ("a.hea",)
    assert ("left out", "2 of 3 recordings without a label") in data.lines
    with pytest.raises(UserError, match=naming("a.hea", "'rythm'", "rhythm")):
        one("hearts", Columns(label="rythm", varying=True))


def test_other_units_and_what_was_done_for_labels_are_told_of_all_files():
    night("a.edf"), night("b.edf", unit="mV", reverse=True), night("c.edf")
    data, _ = read_data("*.edf", Columns(label="annotations", varying=True))
    lines = dict(data.lines)
    assert lines["labels"] == "8 of 8 annotations, in each file"
    assert lines["units"] == "'EEG' has uV in 'a', mV in 'b'; values are taken as they are"
    assert "units" not in dict(read_data("[ac].edf", Columns())[0].lines)
    np.testing.assert_allclose(data.series[0], data.series[1])


def test_rates_that_differ_are_told_also_those_of_test_and_new_files():
    for i in range(4):
        night(f"a{i}.edf")
    night("fast.edf", rate=20)
    how = dict(label="annotations", window=10)
    mixed = own_task(DataConfig(data="a?.edf,fast.edf", **how), "nights").data
    assert "from 10 Hz of 'a0' to 20 Hz of 'fast'" in dict(mixed.understood)["rates"]
    task = own_task(DataConfig(data="a?.edf", test="fast.edf", group="file", **how), "nights")
    said = dict(task.data.understood)
    assert "rates" not in said
    assert said["rates, test"].startswith("20 Hz of 'fast', 10 Hz in training")
    saved = Preparation.from_dict(json.loads(json.dumps(task.data.preparation.to_dict())))
    new = dict(saved.shaped(one("fast.edf")).lines)
    assert new["rates"] == said["rates, test"]
    assert "rates" not in dict(saved.shaped(one("a1.edf")).lines)
    brought = own_task(DataConfig(data="a?.edf,fast.edf", resample="10Hz", **how), "nights").data
    assert "rates" not in dict(brought.understood)


def test_a_file_of_data_and_test_is_doubted():
    for i in range(3):
        night(f"a{i}.edf")
    config = DataConfig(data="a?.edf", test="./a1.edf", label="annotations", window=10)
    doubts = own_task(config, "nights").data.doubts
    assert doubts[0].endswith("a1.edf is among the files of --data and of --test")
    apart = DataConfig(data="a[02].edf", test="a1.edf", label="annotations", window=10)
    assert own_task(apart, "nights").data.doubts == ()


def test_brackets_in_the_names_of_folders_are_no_signs(workplace, monkeypatch):
    folder = workplace / "a,b [1]"
    folder.mkdir()
    for name in ("x1.csv", "x2.csv"):
        (folder / name).write_text("x\n")
    assert [one.name for one in files_of("a,b [1]/x?.csv")] == ["x1.csv", "x2.csv"]
    assert names_in("a,b [1]/x[12].csv") == ["a,b [1]/x[12].csv"]
    monkeypatch.chdir(folder)
    assert [one.name for one in files_of(absolute("x*.csv"))] == ["x1.csv", "x2.csv"]


def test_two_names_of_one_file_are_refused(workplace):
    Path("a.csv").write_text("x\n")
    Path("latest.csv").symlink_to("a.csv")
    with pytest.raises(UserError, match=naming("latest.csv", "a.csv", "one file")):
        files_of("*.csv")
    with pytest.raises(UserError, match="one file"):
        files_of(f"a.csv,{workplace / 'a.csv'}")
