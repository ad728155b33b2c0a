"""What readers of recorders' files promise: the values, rates, times and notes that are in them.

The files are made by the formats' own libraries where these write, see recorder_files.py. What is
common to all kinds is promised in test_signals.py, spoilt files in test_hostile_files.py.
"""

import re
import sys
import warnings

import numpy as np
import pytest
import recorder_files as files
from messages import naming

from rnnopt.config.errors import UserError
from rnnopt.tasks.user_data.readers import c3d as c3d_reader
from rnnopt.tasks.user_data.readers import read, sha256
from rnnopt.tasks.user_data.readers.columns import Columns
from rnnopt.tasks.user_data.readers.intervals import with_interval_labels
from rnnopt.training.option_checks import refuse_columns

EACH = Columns(label="annotations", each_step=True)
WAVE = 100 * np.sin(np.arange(3000) / 7)
SLOW = np.repeat([36.0, 38.0], 15)
NOTES = [(0.0, 10.0, "wake"), (10.0, 10.0, "sleep"), (4.0, -1.0, "cough")]


def one(path, columns=None):
    """The recording of a file."""
    return read(path, columns or Columns())[0]


def labels(data):
    return data.steps.labels(data.steps.values[0][:, 0])


@pytest.fixture
def night(tmp_path):
    """30 s of EDF+: two signals at 100 Hz, one at 1 Hz, annotations."""
    signals = [("EEG", "uV", 100, WAVE), ("EMG", "uV", 100, -WAVE), ("Temp", "degC", 1, SLOW)]
    return files.edf(tmp_path / "night.edf", signals, NOTES)


# -- EDF and BDF ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("ending", "exact"), [("edf", 400 / 2**16), ("bdf", 400 / 2**24)])
def test_edf_signals_have_their_values_rates_units_and_annotations(tmp_path, ending, exact):
    signals = [("EEG", "uV", 100, WAVE), ("EEG", "uV", 100, -WAVE)]
    data = one(files.edf(tmp_path / f"night.{ending}", signals, NOTES), EACH)
    assert data.channels == ("EEG", "EEG (2)")
    assert data.series[0].shape == (3000, 2)
    np.testing.assert_allclose(data.series[0][:, 0], WAVE, atol=exact)
    assert labels(data)[999:1001] == ["wake", "sleep"]
    assert labels(data)[2000:] == [""] * 1000
    assert data.names == ("night",)
    kind = ending.upper()
    assert data.notes[:2] == (f"{kind}+", "start 2026-05-17 22:30:00")
    assert "EEG [uV], EEG (2) [uV] at 100 Hz" in data.notes
    assert data.notes[-1] == "annotations: 1 × 'wake', 1 × 'sleep', 1 × 'cough'"


def test_a_slow_edf_signal_is_not_resampled_unless_asked(night):
    with pytest.raises(UserError, match=naming("Temp [degC] at 1 Hz".rstrip("]"), "--drop Temp")):
        one(night)
    slow = one(night, Columns(drop=("EEG", "EMG")))
    assert slow.series[0].shape == (30, 1)
    assert slow.unused == ("EEG", "EMG")
    values = np.unique(np.round(slow.series[0], 2))
    assert values.tolist() == [36.0, 38.0]  # two values went in, none between or beyond comes out
    data = one(night, Columns(resample=100.0))
    assert data.series[0].shape == (3000, 3)
    assert data.series[0][:, 2].min() > 35.99
    assert data.series[0][:, 2].max() < 38.01  # a filter would go beyond by a tenth of the step


@pytest.mark.parametrize("ending", ["edf", "bdf"])
def test_the_gaps_of_edf_d_are_gaps_in_the_times(tmp_path, ending):
    # pyedflib refuses such files; others close the gaps.
    path = files.edf(tmp_path / f"a.{ending}", [("x", "uV", 100, WAVE)], NOTES)
    whole = one(path)
    path.write_bytes(files.with_gap(path.read_bytes(), 12, 70, 3 if ending == "bdf" else 2))
    data = one(path, EACH)
    np.testing.assert_allclose(data.series[0], whole.series[0], atol=1e-9)
    steps = np.diff(data.stamps[0])
    assert np.flatnonzero(steps > 1).tolist() == [1199]
    assert steps[1199] == pytest.approx(70.01)
    assert "largest 70.01" in data.times
    assert labels(data)[1199:1201] == ["sleep", ""]  # sleep ends at 20 s, in the gap
    assert f"{ending.upper()}+, with gaps" in data.notes


def test_an_edf_file_that_starts_within_a_second_counts_from_its_first_value(tmp_path):
    # All onsets half a second later, as a recorder writes that starts at 22:30:00.5.
    path = files.edf(tmp_path / "a.edf", [("x", "uV", 100, WAVE)], NOTES)
    content = path.read_bytes()
    onset = re.compile(rb"\+(\d+)\x14\x14\0([^\0]*)\0\0\0")
    later = onset.sub(lambda found: b"+%b.5\x14\x14\0%b\0" % found.groups(), content)
    path.write_bytes(later)
    assert path.stat().st_size == len(content)
    data = one(path, EACH)
    assert data.stamps[0][0] == 0
    assert labels(data)[949:951] == ["wake", "sleep"]  # noted 10 s after 22:30:00


BROKEN = {
    "cut off": (lambda content: content[: len(content) // 2], "cut off: by its header"),
    "not closed": (lambda c: c[:236] + b"-1      " + c[244:], "did not close it"),
    "no values": (lambda c: c[:236] + b"0       " + c[244 : 256 * 3], "there are no values"),
    "a header cut off": (lambda content: content[:300], "header of 2 signals is not whole"),
    "nothing": (lambda content: b"", "needs 256 bytes, got 0"),
    "no header": (lambda content: b"x" * 999, "number of signals is 'xxxx'"),
    "a scale that is no number": (lambda c: c.replace(b"200     ", b"nan     "), "range of 'x'"),
    "a range of nothing": (lambda c: c.replace(b"200     ", b"-200    "), "needs a value a record"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_edf_file_is_refused_and_nothing_printed(tmp_path, capfd, case):
    spoil, sentence = BROKEN[case]
    path = files.edf(tmp_path / "a.edf", [("x", "uV", 100, WAVE)], NOTES)
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(UserError, match=sentence) as error:
        one(path)
    assert "\n" not in str(error.value)
    assert capfd.readouterr() == ("", "")  # pyedflib's C code prints of some


def test_annotations_without_signals_are_told_what_to_become(tmp_path):
    with pytest.raises(UserError, match="annotations alone.*--labels"):
        one(files.edf(tmp_path / "hypnogram.edf", [], NOTES))


# -- WFDB -----------------------------------------------------------------------------------------


def wfdb_record(folder, name="r", annotated=True, **fields):
    values = np.stack([np.sin(np.arange(1000) / 9), np.cos(np.arange(1000) / 5)], 1)
    values[30:40, 0] = np.nan
    fields = dict(fs=250, units=["mV", "NU"], sig_name=["II", "resp"], fmt=["16", "16"]) | fields
    if "e_p_signal" not in fields:
        fields = {"p_signal": values} | fields
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of pandas, already when wfdb is imported
        import wfdb

        wfdb.wrsamp(name, write_dir=str(folder), **fields)
        if annotated:
            at, symbols = np.array([100, 200, 400, 900]), ["+", "N", "V", "+"]
            notes = ["(AFIB", "", "", "(N"]
            wfdb.wrann(name, "atr", at, symbols, aux_note=notes, write_dir=str(folder))
    return folder / f"{name}.hea", values


def test_wfdb_records_have_physical_units_missing_values_and_annotations(tmp_path):
    path, values = wfdb_record(tmp_path)
    data = one(path, EACH)
    np.testing.assert_allclose(data.series[0], values, atol=1e-4)
    assert "II [mV], resp at 250 Hz" in data.notes
    assert labels(data) == [""] * 200 + ["N"] * 200 + ["V"] * 600
    rhythm = one(path, Columns(label="rhythm", each_step=True))
    assert labels(rhythm) == [""] * 100 + ["AFIB"] * 800 + ["N"] * 100
    assert one(path, Columns(drop=("resp",))).channels == ("II",)


def test_wfdb_signals_of_several_samples_a_frame_keep_their_rates(tmp_path):
    # By default wfdb averages the samples of a frame.
    fast, slow = np.sin(np.arange(2000) / 3), np.arange(500.0)
    path, _ = wfdb_record(tmp_path, fs=50, e_p_signal=[fast, slow], samps_per_frame=[4, 1])
    with pytest.raises(UserError, match=naming("at 200 Hz; resp at 50 Hz")):
        one(path)
    data = one(path, Columns(drop=("resp",), label="annotations", each_step=True))
    np.testing.assert_allclose(data.series[0][:, 0], fast, atol=1e-3)
    assert labels(data) == [""] * 800 + ["N"] * 800 + ["V"] * 400  # annotations count frames


def test_wfdb_segments_are_one_record_with_the_gap_between(tmp_path):
    first, values = wfdb_record(tmp_path, "s1", annotated=False)
    wfdb_record(tmp_path, "s2", annotated=False)
    layout = first.read_text().replace("s1 2 250 1000", "lay 2 250 0").replace("s1.dat", "~")
    (tmp_path / "lay.hea").write_text(layout)
    path = tmp_path / "all.hea"
    path.write_text("all/4 2 250 2100\nlay 0\ns1 1000\n~ 100\ns2 1000\n")
    data = one(path)
    assert data.series[0].shape == (2100, 2)
    np.testing.assert_allclose(data.series[0][1100:], values, atol=1e-4)
    assert np.isnan(data.series[0][1000:1100]).all()
    assert read(tmp_path, Columns())[0].names == ("all.hea",)  # its segments are no recordings
    path.write_text("all/3 2 250 2100\ns1 1000\n~ 100\ns2 1000\n")
    with pytest.raises(UserError, match="gap .* in a fixed layout"):
        one(path)


def test_broken_wfdb_records_are_refused(tmp_path):
    path, _ = wfdb_record(tmp_path)
    header, values = path.read_text(), (tmp_path / "r.dat").read_bytes()
    (tmp_path / "r.dat").write_bytes(values[:1000])
    with pytest.raises(UserError, match="cut off"):
        one(path)
    for text, sentence in (
        (header.replace("r.dat", "other.dat"), "missing: .*other.dat"),
        (header.replace(" 1000\n", " 99999999999\n", 1), "claims to be 1.6 TB"),
        (header.replace(" 1000\n", " 0\n", 1), "no signals, or no values"),
        ("", "no WFDB file"),
        ("x y z\n", "no WFDB file"),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=sentence):
            one(path)
    with pytest.raises(UserError, match=r"name its header, r\.hea"):
        one(tmp_path / "r.dat")


def test_all_files_of_a_record_count_in_its_hash(tmp_path):
    path, _ = wfdb_record(tmp_path)
    before = sha256(path)
    (tmp_path / "r.csv").write_text("predictions")
    assert sha256(path) == before
    (tmp_path / "r.dat").write_bytes((tmp_path / "r.dat").read_bytes()[:-2] + b"\1\0")
    assert sha256(path) != before


# -- XDF ------------------------------------------------------------------------------------------


def lab(**changes):
    """20 s at 100 Hz with a gap of 3 s in the middle, 10 Hz of another clock, markers."""
    times = 1000 + np.arange(2000) / 100 + 3 * (np.arange(2000) >= 1000)
    gaze = np.arange(230.0)
    eeg = np.stack([np.sin(times), np.cos(times)], 1)
    return [
        dict(name="EEG", rate=100, values=eeg, times=times, labels=["Fz", "Cz"], units=["uV"] * 2)
        | changes,
        dict(name="gaze", rate=10, values=gaze[:, None], times=1000.05 + gaze / 10),
        dict(name="task", rate=0, values=["rest", "count"], times=[1000.0, 1014.0]),
    ]  # fmt: skip


def xdf(folder, streams, **how):
    path = folder / "lab.xdf"
    path.write_bytes(files.xdf(streams, **how))
    return path


def test_a_gap_in_an_xdf_stream_stays_where_it_is(tmp_path):
    # pyxdf's default fits a line over it, and moves times by up to 1.5 s.
    path = xdf(tmp_path, lab())
    data = one(path, Columns(drop=("gaze",), label="task", each_step=True))
    assert data.channels == ("EEG Fz", "EEG Cz")
    np.testing.assert_array_equal(data.stamps[0], lab()[0]["times"])
    np.testing.assert_array_equal(data.series[0], lab()[0]["values"])
    assert "largest 3.01" in data.times
    assert labels(data) == ["rest"] * 1100 + ["count"] * 900


def test_xdf_streams_of_different_rates_are_brought_to_one(tmp_path):
    path = xdf(tmp_path, lab())
    with pytest.raises(UserError, match=naming("gaze at about 10 Hz", "--drop gaze")):
        one(path)
    data = one(path, Columns(resample=20.0))
    assert data.channels == ("EEG Fz", "EEG Cz", "gaze")
    assert data.stamps[0][0] == 1000.05
    np.testing.assert_allclose(data.series[0][:400, 2], np.arange(400) / 2, atol=1e-6)
    assert "1 gap" in data.notes[-1]


def test_the_clocks_of_xdf_streams_are_synchronised(tmp_path):
    streams = lab(offsets=[(1000.0, 500.0), (1010.0, 500.0), (1020.0, 500.0)])
    data = one(xdf(tmp_path, streams), Columns(drop=("gaze",)))
    np.testing.assert_allclose(data.stamps[0], lab()[0]["times"] + 500)


def test_xdf_times_that_do_not_rise_become_lines_between_gaps(tmp_path):
    rng = np.random.default_rng(0)
    true = lab()[0]["times"]
    path = xdf(tmp_path, lab(times=true + rng.normal(size=2000) * 0.02))
    data = one(path, Columns(drop=("gaze",)))
    assert (np.diff(data.stamps[0]) > 0).all()
    assert np.abs(data.stamps[0] - true).max() < 0.01
    assert any("did not rise" in note for note in data.notes)


def test_markers_may_be_whole_numbers(tmp_path):
    codes = dict(
        name="codes", rate=0, kind="int16", values=np.array([[7], [9]]), times=[1000, 1010]
    )
    data = one(xdf(tmp_path, [*lab()[:1], codes]), Columns(label="codes", each_step=True))
    assert labels(data) == ["7"] * 1000 + ["9"] * 1000


def test_a_broken_xdf_file_is_refused_where_pyxdf_reads_what_it_can(tmp_path):
    content = files.xdf(lab())
    count = b"\x04\xd0\x07\x00\x00"  # 2000 samples
    assert content.count(count) == 1
    path = tmp_path / "lab.xdf"
    for spoilt, sentence in (
        (content[: len(content) // 2], "cut off"),
        (content[:-300], "cut off"),
        (content.replace(count, b"\x04\0\0\0\x70"), "'EEG' cannot hold 1879048192 samples"),
        (content.replace(count + b"\x08", count + b"\0"), "'task' is damaged: not all"),
        (content.replace(b"<sample_count>230", b"<sample_count>231"), "'gaze' has 230 samples"),
        (content.replace(b"<channel_count>2", b"<channel_count>3"), "'EEG' is damaged: not all"),
        (content.replace(b"double64", b"doubl364"), "of type 'doubl364'"),
        (content.replace(b"<desc>", b"<desk>"), "no XML"),
        (b"", "does not begin with 'XDF:'"),
        (files.xdf(lab()[2:]), "needs a signal at least"),
    ):
        path.write_bytes(spoilt)
        with pytest.raises(UserError, match=sentence):
            one(path, Columns(drop=("gaze",)) if b"gaze" in spoilt else None)
    path.write_bytes(files.xdf(lab(), footers=False))
    assert any("not closed" in note for note in one(path, Columns(drop=("gaze",))).notes)


# -- C3D, FIT, SigMF ------------------------------------------------------------------------------


def test_c3d_points_are_three_signals_each_and_events_count_from_frame_one(tmp_path):
    points = np.arange(600.0).reshape(3, 2, 100)
    points[:, 1, 50:60] = np.nan
    analog = np.stack([np.arange(1000.0), -np.arange(1000.0)])
    path = files.c3d(tmp_path / "walk.c3d", points, analog, first=101)
    with pytest.raises(UserError, match=naming("at 100 Hz; Fz [N], EMG [N] at 1000 Hz")):
        one(path)
    data = one(path, Columns(drop=("Fz", "EMG"), label="events", each_step=True))
    assert data.channels == ("hip x", "hip y", "hip z", "knee x", "knee y", "knee z")
    np.testing.assert_allclose(data.series[0], points.transpose(2, 1, 0).reshape(100, 6))
    # The first frame is at 1 s, the events at 1.1 s and 1.25 s.
    assert labels(data) == [""] * 10 + ["Left Strike"] * 15 + ["Right Off"] * 75
    alone = files.c3d(tmp_path / "points.c3d", points, np.zeros((0, 1000)))
    np.testing.assert_array_equal(one(alone).series[0], data.series[0])
    fast = one(path, Columns(drop=("0", "1", "2", "3", "4", "5")))
    np.testing.assert_allclose(fast.series[0], analog.T)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError, match="cut off: it says 100 frames"):
        one(path)


def test_a_file_that_crashes_ezc3d_is_refused(tmp_path, monkeypatch):
    path, child = tmp_path / "a.c3d", tmp_path / "child.py"
    path.write_bytes(b"x" * 999)
    for code, sentence in (
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "no C3D file"),
        ("raise OSError('Not standard: iostream error')", r"no C3D file \(Not standard\)"),
        ("import ezc3d_is_missing", r"needs ezc3d: pip install .rnnopt\[recordings\]"),
    ):
        child.write_text(code)
        monkeypatch.setattr(c3d_reader, "CHILD", child)
        with pytest.raises(UserError, match=sentence):
            one(path)
    child.write_text("import time; time.sleep(60)")  # others take it for ever
    monkeypatch.setattr(c3d_reader, "SLOWEST", 0.1)
    with pytest.raises(UserError, match="reading it takes over"):
        one(path)


def test_fit_records_have_nan_where_a_field_is_missing(tmp_path):
    rows = [dict(time=i + 5 * (i > 20), heart_rate=60 + i, altitude=100.0) for i in range(40)]
    rows[3]["heart_rate"] = None
    rows.insert(6, dict(time=5, power=200))  # a second record of the same second
    path = tmp_path / "ride.fit"
    path.write_bytes(files.fit(rows, laps=[10, 44]))
    data = one(path, Columns(label="laps", each_step=True))
    assert data.channels == ("heart_rate", "enhanced_altitude", "power")  # altitude is a copy
    assert data.series[0].shape == (40, 3)
    rates = np.array([60.0 + i for i in range(40)])
    rates[3] = np.nan
    np.testing.assert_array_equal(data.series[0][:, 0], rates)
    np.testing.assert_allclose(data.series[0][:, 1], 100)
    assert np.flatnonzero(~np.isnan(data.series[0][:, 2])).tolist() == [5]
    assert data.stamps[0].tolist() == [i + 5 * (i > 20) for i in range(40)]
    assert labels(data) == ["lap 1"] * 10 + ["lap 2"] * 29 + [""]
    assert "start 2021-09-08 01:46:40 UTC" in data.notes
    whole = path.read_bytes()
    flipped = whole[:100] + bytes([whole[100] ^ 1]) + whole[101:]
    for spoilt in (
        whole[:-40],
        flipped,
        whole[:20],
        b"x" * 99,
    ):  # `flipped` only warns
        path.write_bytes(spoilt)
        with pytest.raises(UserError, match="damaged, cut off or no FIT file"):
            one(path)
    path.write_bytes(b"")
    with pytest.raises(UserError, match="no records with a time"):
        one(path)


def test_sigmf_complex_values_are_two_channels_and_whole_numbers_stay(tmp_path):
    notes = [{"core:sample_start": 20, "core:sample_count": 30, "core:label": "burst"}]
    values = (np.arange(100) - 1j * np.arange(100)).astype("<c8")
    path = files.sigmf(tmp_path, values, "cf32_le", notes)
    data = one(path, EACH)
    assert data.channels == ("I", "Q")
    np.testing.assert_array_equal(data.series[0], np.stack([values.real, values.imag], 1))
    assert labels(data) == [""] * 20 + ["burst"] * 30 + [""] * 50
    path = files.sigmf(tmp_path, np.arange(100, dtype="<i2"), "ri16_le", notes)
    assert one(path).series[0][:, 0].tolist() == list(range(100))  # sigmf makes them ±1
    (tmp_path / "radio.sigmf-data").write_bytes(bytes(60))
    with pytest.raises(UserError, match="says something of value 50, and has 30"):
        one(path)
    for text in ("{", "[]", '{"global": {}}', path.read_text().replace("1000.0", "1e400")):
        path.write_text(text)
        with pytest.raises(UserError, match="damaged|needs a core:sample_rate"):
            one(path)


# -- folders, options, other files ----------------------------------------------------------------


def test_a_folder_has_a_file_a_recording_and_a_subfolder_a_class(tmp_path):
    for kind, sign in (("up", 1), ("down", -1)):
        (tmp_path / kind).mkdir()
        for i in range(2):
            files.edf(
                tmp_path / kind / f"{i}.edf", [("x", "uV", 100, sign * WAVE[: 100 + 100 * i])]
            )
            (tmp_path / kind / f"{i}.txt").write_text("notes beside it")
    data = read(tmp_path, Columns())[0]
    assert data.names == ("down/0.edf", "down/1.edf", "up/0.edf", "up/1.edf")
    assert data.targets.tolist() == ["down", "down", "up", "up"]
    assert [len(one) for one in data.series] == [100, 200, 100, 200]
    assert [one[-1] for one in data.stamps] == [0.99, 1.99, 0.99, 1.99]
    assert "4 files, the first: EDF+" in data.notes[0]


def test_recordings_of_a_folder_share_channels_and_annotations(tmp_path):
    a, b = ("a", "uV", 100, WAVE), ("b", "uV", 100, -WAVE)
    files.edf(tmp_path / "1.edf", [a, b], NOTES)
    files.edf(tmp_path / "2.edf", [b, a], [(5.0, 5.0, "dream")])
    files.edf(tmp_path / "3.edf", [a, b])
    data = read(tmp_path, EACH)[0]
    assert data.names == ("1.edf", "2.edf")
    np.testing.assert_array_equal(data.series[0], data.series[1])
    words = [data.steps.labels(values[:, 0]) for values in data.steps.values]
    assert words[0][:2000] == ["wake"] * 1000 + ["sleep"] * 1000
    assert words[1][499:501] == ["", "dream"]
    assert dict(data.lines)["left out"] == "1 of 3 recordings without a label"
    with pytest.raises(UserError, match=naming("1.edf", "'stage'", "only a, b, annotations")):
        read(tmp_path, Columns(label="stage", each_step=True))
    files.edf(tmp_path / "4.edf", [a])
    with pytest.raises(UserError, match=naming("4.edf", "lacks 'b'")):
        read(tmp_path, EACH)


def test_a_table_of_intervals_is_in_the_seconds_of_the_file(night, tmp_path):
    table = tmp_path / "noted.csv"
    table.write_text("file,start,end,label\nnight,1.5,2.25,spike\n")
    data, _ = with_interval_labels(table, one(night, Columns(drop=("Temp",))), None)
    assert labels(data) == [""] * 150 + ["spike"] * 75 + [""] * 2775


def test_a_run_on_annotations_predicts_recordings_without_any(night, tmp_path, command):
    other = [("Temp", "degC", 1, SLOW), ("EMG", "uV", 100, -WAVE), ("EEG", "uV", 100, WAVE)]
    files.edf(tmp_path / "new.edf", other)
    how = ["--drop", "Temp", "--label", "annotations", "--window", "100", "--model", "rnn"]
    run, out = tmp_path / "run", tmp_path / "out.csv"
    budget = ["--budget", "3gradients", "--out", str(run), "--quiet"]
    code, _, error = command("train", "--data", str(night), *how, *budget)
    assert code == 0, error
    new = ["--data", str(tmp_path / "new.edf"), "--out", str(out)]
    code, printed, error = command("predict", str(run), *new)
    assert code == 0, error
    assert "EMG [uV], EEG [uV] at 100 Hz" in printed
    assert len(out.read_text().splitlines()) == 31
    code, _, error = command("train", "--data", str(tmp_path / "new.edf"), *how, *budget)
    assert code == 2
    assert re.search(naming("new.edf", "--label annotations"), error)


def test_a_recording_of_one_annotation_has_it_for_a_label(tmp_path):
    for i, text in enumerate(("up", "down", "up")):
        files.edf(tmp_path / f"{i}.edf", [("x", "uV", 100, WAVE)], [(1.0, 2.0, text)])
    assert read(tmp_path, Columns(label="annotations"))[0].targets.tolist() == ["up", "down", "up"]
    with pytest.raises(UserError, match=naming("0.edf", "'b'")):
        read(tmp_path, Columns(drop=("b",)))


def test_options_of_tables_are_refused_for_recordings(night):
    refuse_columns([night], ["label"])
    for option in ("id", "time", "layout", "time_unit"):
        with pytest.raises(UserError, match=f"--{option.replace('_', '-')} is for tables"):
            refuse_columns([night], [option])


@pytest.mark.parametrize(
    ("name", "said"),
    [("a.gdf", 'mne.io.read_raw_gdf("a.gdf").export("a.edf")'), ("a.vhdr", "read_raw_brainvision"),
     ("a.eeg", "a.vhdr"), ("a.atr", "a.hea"), ("a.sigmf-data", "a.sigmf-meta"), ("a.rec", ".edf"),
     ("a.smr", "EDF"), ("a.nwb", ".npz")],
)  # fmt: skip
def test_other_files_of_recorders_are_told_what_to_become(tmp_path, name, said):
    (tmp_path / name).write_bytes(b"something")
    for path in (tmp_path / name, tmp_path):
        with pytest.raises(UserError, match=re.escape(said)):
            read(path, Columns())


def test_a_missing_library_is_named_with_its_extra(night, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyedflib", None)
    with pytest.raises(UserError, match=r'needs pyedflib: pip install "rnnopt\[recordings\]"'):
        one(night)
