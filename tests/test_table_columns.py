"""What reading tables promises: columns by name, times that sort, no index among the channels.

The formats are promised in test_readers.py.
"""

import re
import warnings

import numpy as np
import pytest
from messages import naming

from rnnopt.config.errors import UserError
from rnnopt.config.run_config import RunConfig
from rnnopt.tasks.user_data.load import own_task
from rnnopt.tasks.user_data.overview import described
from rnnopt.tasks.user_data.readers import read
from rnnopt.tasks.user_data.readers.columns import Columns

LONG = [("id", "time", "a", "b", "label")] + [
    (f"s{i}", t, 10 * i + t, -t, "up" if i % 2 else "down") for i in range(20) for t in range(3)
]
WIDE = [("label", "first", "second", "third")] + [
    ("up" if i % 2 else "down", i, 100 + i, 10000 + i) for i in range(20)
]


def write(path, rows, order=None):
    order = order or rows[0]
    places = [rows[0].index(name) for name in order]
    path.write_text("\n".join(",".join(str(row[i]) for i in places) for row in rows) + "\n")
    return path


def text(path, *lines):
    path.write_text("\n".join(lines) + "\n")
    return path


def series_of(path, **columns):
    return read(path, Columns(**columns))[0]


def task_of(data, test, **options):
    return own_task(RunConfig(data=str(data), test=str(test), **options), "data")


# -- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "order"),
    [
        (LONG, ("id", "time", "b", "a", "label")),
        (LONG, ("label", "b", "a", "time", "id")),
        (WIDE, ("third", "second", "label", "first")),
    ],
)
def test_a_reordered_test_file_is_the_same_test_file(tmp_path, rows, order):
    data = write(tmp_path / "data.csv", rows)
    other = write(tmp_path / "other.csv", rows, order)
    one, two = task_of(data, data), task_of(data, other)
    assert one.test.inputs.tolist() == two.test.inputs.tolist()
    assert one.test.targets.tolist() == two.test.targets.tolist()


@pytest.mark.parametrize("rows", [LONG, WIDE])
def test_missing_and_extra_columns_are_refused_by_name(tmp_path, rows):
    data = write(tmp_path / "data.csv", rows)
    last = "b" if rows is LONG else "third"
    fewer = write(tmp_path / "fewer.csv", rows, [name for name in rows[0] if name != last])
    with pytest.raises(UserError, match=f"lacks '{last}'"):
        task_of(data, fewer)
    more = write(tmp_path / "more.csv", [(*row, i or "extra") for i, row in enumerate(rows)])
    with pytest.raises(UserError, match="has 'extra' besides"):
        task_of(data, more)


def test_the_first_column_is_the_label_of_the_test_file_too_wherever_it_stands(tmp_path):
    rows = [("kind", *WIDE[0][1:]), *WIDE[1:]]
    data = write(tmp_path / "data.csv", rows)
    other = write(tmp_path / "other.csv", rows, ("second", "third", "first", "kind"))
    one, two = task_of(data, data), task_of(data, other)
    assert one.test.inputs.tolist() == two.test.inputs.tolist()
    bare = write(tmp_path / "bare.csv", rows, ("second", "third", "first"))
    with pytest.raises(UserError, match=naming("'kind'", "column")):
        task_of(data, bare)


def test_files_of_a_folder_are_brought_to_one_order_of_channels(tmp_path):
    text(tmp_path / "1.csv", "x,y", "1,2", "3,4")
    text(tmp_path / "2.csv", ",y,x", "0,2,1", "1,4,3")
    found = series_of(tmp_path)
    assert found.channels == ("x", "y")
    np.testing.assert_array_equal(found.series[0], found.series[1])
    text(tmp_path / "3.csv", "x,z", "1,2")
    with pytest.raises(UserError, match=naming("3.csv", "'y'", "'z'")):
        series_of(tmp_path)


def test_a_label_column_is_found_whatever_its_capitals(tmp_path):
    found = series_of(text(tmp_path / "a.csv", "a,b,Kind", "1,2,u", "3,4,v"), label="kind")
    assert list(found.targets) == ["u", "v"]


# -- times ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "times",
    [
        ("9", "10", "100"),
        ("2024-03-09", "2024-03-10", "2024-12-01"),
        ("2024-03-09T23:00:00Z", "2024-03-10T01:30:00+02:00", "2024-03-09T23:45:00.5Z"),
        ("2024-03-09 23:00:00.000000001", "2024-03-09 23:00:00.000000002", "2024-03-10"),
    ],
)
def test_times_are_sorted_as_numbers_and_dates_whatever_words_would_do(tmp_path, times):
    rows = [f"s,{times[i]},{i},0" for i in (2, 0, 1)]
    found = series_of(text(tmp_path / "a.csv", "id,time,a,b", *rows))
    assert found.series[0][:, 0].tolist() == [0, 1, 2]


@pytest.mark.parametrize("word", ["10.3.2024", "1s", "2024-03-10T00:00Z"])
def test_times_of_another_kind_are_refused(tmp_path, word):
    rows = ["s,2024-03-09T00:00,1,0", f"s,{word},2,0"]
    with pytest.raises(UserError, match=naming("'time'", "ISO", "column")):
        series_of(text(tmp_path / "a.csv", "id,time,a,b", *rows))


@pytest.mark.parametrize("column", ["time", "id"])
def test_a_missing_time_or_id_is_refused_with_its_row(tmp_path, column):
    rows = ["s,9,1,0", "s,,2,0" if column == "time" else ",10,2,0", "s,100,3,0"]
    with pytest.raises(UserError, match=f"a value in column '{column}', row 2 has none"):
        series_of(text(tmp_path / "a.csv", "id,time,a,b", *rows))


@pytest.mark.parametrize("values", [[1.0, None, 3.0], ["2024-01-01", None, "2024-01-03"]])
def test_a_missing_time_in_parquet_is_refused_alike(tmp_path, values):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    times = pyarrow.array(values)
    if not pyarrow.types.is_floating(times.type):
        times = times.cast(pyarrow.timestamp("ms"))
    parquet.write_table(
        pyarrow.table({"id": ["s"] * 3, "time": times, "a": [1.0, 2.0, 3.0]}),
        tmp_path / "a.parquet",
    )
    with pytest.raises(UserError, match=naming("'time'", "2", "column")):
        series_of(tmp_path / "a.parquet")


# -- what is irregular about times ----------------------------------------------------------------


def times_of(tmp_path, *times, name="a.csv"):
    """What is said of a table of three series with these times, in one order."""
    rows = [f"s{i},{time},{i},{k}" for i in range(3) for k, time in enumerate(times)]
    return series_of(text(tmp_path / name, "id,time,a,b", *rows))


REGULAR = {
    "numbers": [0, 1, 2, 3],
    "decimals": [0.1 * k for k in range(9)],
    "jitter": [0, 1.02, 1.99, 3.0, 4.01],
    "months": [f"2023-{month:02d}-01" for month in range(1, 13)],
    "milliseconds": [1711836000000 + 60000 * k for k in range(5)],
    "nanoseconds": [1711836000000000000 + 20 * k for k in range(5)],
    "the autumn change": [
        "2024-10-27T01:00+02:00", "2024-10-27T02:00+02:00", "2024-10-27T02:00+01:00",
        "2024-10-27T03:00+01:00",
    ],
    "two steps": [5, 9],
}  # fmt: skip


@pytest.mark.parametrize("case", REGULAR)
def test_of_regular_times_nothing_is_said(tmp_path, case):
    assert times_of(tmp_path, *REGULAR[case]).times is None


IRREGULAR = {
    "one gap": ([0, 1, 2, 3, 10], r"median gap 1, largest 7 \(series 's0', after 3\); 3 of 12"),
    "milliseconds": (
        [1711836000000, 1711836060000, 1711836120000, 1711836780000],
        r"median gap 60000, largest 660000 \(series 's0', after 1711836120000",
    ),
    "the spring change": (
        ["2024-03-31 00:00", "2024-03-31 01:00", "2024-03-31 03:00", "2024-03-31 04:00"],
        r"median gap 1 h, largest 2 h \(series 's0', after 2024-03-31T01:00\)",
    ),
    "days of business": (
        ["2024-03-07", "2024-03-08", "2024-03-11", "2024-03-12", "2024-03-13"],
        "median gap 1 d, largest 3 d",
    ),
    "steps too near": ([0, 1, 2, 2.5, 3.5], "median gap 1, largest 1 .*3 of 12 differ.*20%"),
    "fractions of seconds": (
        ["2024-03-07T00:00:00.00", "2024-03-07T00:00:00.02", "2024-03-07T00:00:00.04",
         "2024-03-07T00:00:00.52"],
        "median gap 20 ms, largest 480 ms",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", IRREGULAR)
def test_irregular_times_are_told_with_their_gaps(tmp_path, case):
    times, words = IRREGULAR[case]
    told = times_of(tmp_path, *times).times
    assert re.search(words, told), told
    assert told.startswith("irregular, but steps are taken as equally spaced")
    data = text(tmp_path / "data.csv", "id,time,a,label", *[
        f"s{i},{time},{i},{i % 2}" for i in range(20) for time in times
    ])  # fmt: skip
    regular = text(tmp_path / "regular.csv", "id,time,a,label", *[
        f"s{i},{k},{i},{i % 2}" for i in range(20) for k in range(len(times))
    ])  # fmt: skip
    understood = task_of(data, data).data.understood
    assert [subject for subject, _ in understood if "times" in subject] == ["times"]
    assert "times, test" in dict(task_of(regular, data).data.understood)
    assert "times" in dict(described(series_of(data)))


def test_series_at_another_rate_are_irregular(tmp_path):
    rows = [f"s{i},{k * (1 + i // 2)},{i},{k}" for i in range(3) for k in range(5)]
    told = series_of(text(tmp_path / "a.csv", "id,time,a,b", *rows)).times
    assert "median gap 1, largest 2 (series 's2', after 0); 4 of 12 differ" in told


def test_times_out_of_order_are_told(tmp_path):
    told = times_of(tmp_path, 3, 1, 2).times
    assert told == "rows of 3 series were out of order and have been sorted"
    assert "out of order and have been sorted; irregular" in times_of(tmp_path, 30, 1, 2, 3).times


def test_the_same_time_twice_is_refused_with_the_time(tmp_path):
    with pytest.raises(UserError, match="series 's0' has two rows at the same time, 2.$"):
        times_of(tmp_path, 1, 2, 2, 3)
    words = "2024-10-27T02:00; local times need their offset, such as .01:00, where the clock"
    with pytest.raises(UserError, match=words):
        times_of(tmp_path, "2024-10-27 01:00", "2024-10-27 02:00", "2024-10-27 02:00")
    # Nanoseconds since 1970 are more than a float holds.
    found = times_of(tmp_path, "1711836000000000003", "1711836000000000001")
    assert found.series[0][:, 1].tolist() == [1, 0]


def test_times_of_parquet_are_looked_at_alike(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    stamps = pyarrow.array([0, 1000, 2000, 9000] * 2).cast(pyarrow.timestamp("ms"))
    table = {"id": ["s"] * 4 + ["t"] * 4, "time": stamps, "a": np.arange(8.0)}
    parquet.write_table(pyarrow.table(table), tmp_path / "a.parquet")
    told = series_of(tmp_path / "a.parquet").times
    assert "median gap 1 s, largest 7 s (series 's', after 1970-01-01T00:00:02);" in told


def test_a_folder_takes_times_that_are_named(tmp_path):
    for name in ("1.csv", "2.csv"):
        text(tmp_path / name, "time,x", "5,2", "0,0", "1,1")
    found = series_of(tmp_path, time="time")
    assert found.channels == ("x",)
    assert found.series[0][:, 0].tolist() == [0, 1, 2]
    assert "sorted; irregular" in found.times
    taken = series_of(tmp_path)
    assert taken.channels == ("time", "x")
    assert taken.times is None
    assert taken.notes == (
        "column 'time' is taken for a channel (--time time takes it for the time)",
    )
    text(tmp_path / "2.csv", "time,x", "2024-03-10,1")
    with pytest.raises(UserError, match=naming("2.csv", "'time'", "--time", "column")):
        series_of(tmp_path)
    text(tmp_path / "2.csv", "0,1")
    with pytest.raises(UserError, match=naming("2.csv", "'time'", "column")):
        series_of(tmp_path, time="time")


# -- the index ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", "Unnamed: 0"])
def test_an_index_without_a_name_is_no_channel_and_no_step(tmp_path, name):
    rows = [(name, *LONG[0])] + [(i % 7, *row) for i, row in enumerate(LONG[1:])]
    found = series_of(write(tmp_path / "long.csv", rows))
    assert found.channels == ("a", "b")
    assert "left out: the index" in found.table.describe()
    rows = [(name, *WIDE[0])] + [(i, *row) for i, row in enumerate(WIDE[1:])]
    found = series_of(write(tmp_path / "wide.csv", rows))
    assert found.table.steps == ("first", "second", "third")
    assert list(found.targets[:2]) == ["down", "up"]


def test_a_first_column_without_a_name_that_is_no_index_is_refused(tmp_path):
    with pytest.raises(UserError, match=naming("'up'", "column")):
        series_of(text(tmp_path / "a.csv", ",0,1,2", "up,1,2,3", "down,4,5,6"))


# -- the header -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "header", ["0,1,2,3,4", "1,2,3,4,5", "label,0.0,0.1,0.2,0.3", ",0,1,2,3", "ID,5,4,3,2"]
)
def test_a_header_of_numbers_is_no_series(tmp_path, header):
    rows = [f"{i},{i % 2},0.5,0.25,7" for i in range(4)]
    assert len(series_of(text(tmp_path / "a.csv", header, *rows))) == 4


@pytest.mark.parametrize(
    "lines", [["y,0.5,1,2", "n,1,2,3", "y,3,4,5"], ["0,1,2,3", "1,2,3"], ["1,2,3", "2,3,4"]]
)
def test_a_first_line_of_data_stays_a_series(tmp_path, lines):
    assert len(series_of(text(tmp_path / "a.csv", *lines))) == len(lines)


def test_a_first_value_that_is_missing_is_no_header(tmp_path):
    found = series_of(text(tmp_path / "a.csv", ",0.5,0.7", "1,2,3"), unlabelled=True)
    assert len(found) == 2


# -- long or wide ---------------------------------------------------------------------------------

SUBJECTS = ["subject,time,a,b,label", "p,0,1,2,u", "p,1,1,2,u", "q,0,3,4,v"]


def test_a_long_table_without_a_usual_id_asks_for_it(tmp_path):
    path = text(tmp_path / "a.csv", *SUBJECTS)
    with pytest.raises(UserError, match=naming("'time'", "--id", "column")):
        series_of(path)
    found = series_of(path, id="subject")
    assert len(found) == 2
    assert found.table.describe() == "long table; label 'label'; id 'subject'; time 'time'"


def test_the_layout_can_be_said(tmp_path):
    path = text(tmp_path / "a.csv", "id,label,t1,t2", "p,u,1,2", "p,v,3,4")
    found = series_of(path, layout="wide")
    assert [one[:, 0].tolist() for one in found.series] == [[1, 2], [3, 4]]
    rows = ["id,time,a", "p,0,1", "q,0,2"]
    assert len(series_of(text(tmp_path / "b.csv", *rows), layout="long")) == 2
    with pytest.raises(UserError, match="--id"):
        series_of(text(tmp_path / "c.csv", "label,a,b", "1,2,3"), layout="long")


def test_what_the_columns_were_taken_for_is_said(tmp_path):
    data = write(tmp_path / "data.csv", WIDE)
    understood = dict(task_of(data, data).data.understood)
    assert understood["read as"] == "wide table; label 'label'"
    plain = text(tmp_path / "a.csv", *[f"{i % 2},1,{i}" for i in range(20)])
    understood = dict(task_of(plain, plain).data.understood)
    assert understood["read as"] == "lines without names, the label first"


# -- targets and words ----------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["NaN", "NA", "null", "n/a"])
def test_a_missing_target_is_refused_however_it_is_written(tmp_path, word):
    with pytest.raises(UserError, match=f"series 2 has none, got '{word}'"):
        series_of(text(tmp_path / "a.csv", "1.5,2,3", f"{word},2,3"))


@pytest.mark.parametrize("word", ["inf", "-Infinity", "1e999"])
def test_an_infinite_target_is_refused(tmp_path, word):
    with pytest.raises(UserError, match=f"targets must be finite, series 2 has '{word}'"):
        series_of(text(tmp_path / "a.csv", "1.5,2,3", f"{word},2,3"))


def test_labels_that_would_become_one_class_are_refused(tmp_path):
    with pytest.raises(UserError, match=naming("'01'", "'1'", "labels")):
        series_of(text(tmp_path / "a.csv", "01,2,3", "1,2,3"))
    found = series_of(text(tmp_path / "b.csv", "1.0,2,3", "1,2,3"))
    assert found.targets.tolist() == [1, 1]


def test_truths_are_the_same_classes_in_text_as_in_arrays(tmp_path):
    found = series_of(text(tmp_path / "a.csv", "True,2,3", "False,2,3"))
    assert found.targets.tolist() == [1, 0]


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_text_in_another_encoding_says_what_to_do(tmp_path, encoding):
    (tmp_path / "a.csv").write_bytes("schön,1,2\n".encode(encoding))
    with pytest.raises(UserError, match="save it as UTF-8"):
        series_of(tmp_path / "a.csv")


def test_arrays_that_are_left_out_are_said(tmp_path):
    x, y = np.ones((4, 3)), np.arange(4) % 2
    np.savez(tmp_path / "a.npz", X_train=x, y_train=y, subject=y, X_raw=x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = series_of(tmp_path / "a.npz")
    assert found.notes == ("left out: subject, X_raw",)
