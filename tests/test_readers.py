"""What the readers promise: the same series whatever the format, and a sentence for what is wrong.

What is made of the series is promised in test_own_arrays.py.
"""

import numpy as np
import pytest
from messages import naming

from rnnopt.config.errors import UserError
from rnnopt.tasks.user_data.readers import read, sha256
from rnnopt.tasks.user_data.readers.columns import Columns

NAN = float("nan")
# Three series of one channel and four steps, labels in words.
VALUES = np.array([[1.0, 2.0, 3.0, 4.0], [0.5, 0.25, 0.0, -1.0], [9.0, 8.0, 7.0, 6.0]])
LABELS = ["walk", "run", "walk"]


def lines(path, *rows):
    path.write_text("\n".join(rows) + "\n")
    return path


def series_of(path, **columns):
    return read(path, Columns(**columns))[0]


def assert_wide(found, labels=LABELS):
    assert len(found) == 3
    for one, row in zip(found.series, VALUES, strict=True):
        assert one.dtype == np.float64
        np.testing.assert_array_equal(one[:, 0], row)
    assert list(found.targets) == labels


@pytest.mark.parametrize("separator", ["\t", ",", ";", " "])
def test_text_without_names_has_the_label_first(tmp_path, separator):
    rows = [separator.join([w, *map(str, r)]) for w, r in zip(LABELS, VALUES, strict=True)]
    assert_wide(series_of(lines(tmp_path / "a.csv", *rows)))


@pytest.mark.parametrize(
    "names",
    [["label", "a", "b", "c", "d"], ["what", "0", "1", "2", "3"], ["w", "1", "2", "3", "4"]],
)
def test_text_with_names_is_a_wide_table(tmp_path, names):
    rows = [",".join([w, *map(str, r)]) for w, r in zip(LABELS, VALUES, strict=True)]
    assert_wide(series_of(lines(tmp_path / "a.csv", ",".join(names), *rows)))


def test_the_label_column_is_found_wherever_it_stands(tmp_path):
    rows = [",".join([*map(str, r), w]) for w, r in zip(LABELS, VALUES, strict=True)]
    path = lines(tmp_path / "a.csv", "a,b,c,d,kind", *rows)
    assert_wide(series_of(path, label="kind"))


def test_text_lines_may_differ_in_length_and_lack_values(tmp_path):
    found = series_of(lines(tmp_path / "a.csv", "1,0.5,,2", "2,?,3", "1,NaN,4,5,6"))
    assert [len(one) for one in found.series] == [3, 2, 4]
    np.testing.assert_array_equal(found.series[0][:, 0], [0.5, NAN, 2.0])
    np.testing.assert_array_equal(found.series[1][:, 0], [NAN, 3.0])
    assert found.targets.dtype.kind == "f"


def test_a_row_as_long_as_the_known_series_has_no_label(tmp_path):
    path = lines(tmp_path / "a.tsv", *["\t".join(map(str, row)) for row in VALUES])
    found = series_of(path, steps=4)
    assert found.targets is None
    assert [len(one) for one in found.series] == [4, 4, 4]
    assert [len(one) for one in series_of(path, unlabelled=True).series] == [4, 4, 4]
    assert [len(one) for one in series_of(path).series] == [3, 3, 3]


LONG = ["id,t,x,y,label", "b,2,3,30,up", "b,1,2,20,up", "a,1,5,50,down", "b,3,4,40,up"]


def test_a_long_table_is_sorted_by_time_within_its_series(tmp_path):
    found = series_of(lines(tmp_path / "a.csv", *LONG))
    assert found.names == ("b", "a")
    assert found.channels == ("x", "y")
    np.testing.assert_array_equal(found.series[0], [[2, 20], [3, 30], [4, 40]])
    np.testing.assert_array_equal(found.series[1], [[5, 50]])
    assert list(found.targets) == ["up", "down"]


def test_y_beside_x_is_a_channel(tmp_path):
    rows = ["id,x,y", "a,1,2", "a,3,4", "b,5,6"]
    found = series_of(lines(tmp_path / "a.csv", *rows))
    assert (found.channels, found.targets) == (("x", "y"), None)


@pytest.mark.parametrize("kind", ["wide", "long", "words as dictionary"])
def test_parquet_gives_what_text_gives(tmp_path, kind):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = tmp_path / "a.parquet"
    if kind == "long":
        cells = [row.split(",") for row in LONG[1:]]
        names = LONG[0].split(",")
        columns = {n: [c[i] for c in cells] for i, n in enumerate(names)}
        table = {n: v if n in ("id", "label") else list(map(float, v)) for n, v in columns.items()}
        parquet.write_table(pyarrow.table(table), path)
        text = series_of(lines(tmp_path / "a.csv", *LONG))
        found = series_of(path)
        for one, other in zip(found.series, text.series, strict=True):
            np.testing.assert_array_equal(one, other)
        assert found.names == text.names
        return
    words = pyarrow.array(LABELS)
    table = {"label": words.dictionary_encode() if "dictionary" in kind else words}
    table |= {f"s{i}": VALUES[:, i] for i in range(4)}
    parquet.write_table(pyarrow.table(table), path)
    assert_wide(series_of(path))


def test_npz_holds_a_test_part_and_lengths(tmp_path):
    path = tmp_path / "a.npz"
    x = np.arange(24.0).reshape(2, 4, 3)
    np.savez(path, X_train=x, y_train=[1, 2], lengths_train=[4, 2], X_test=x[:1], y_test=[2])
    train, test = read(path, Columns())
    assert [one.shape for one in train.series] == [(4, 3), (2, 3)]
    np.testing.assert_array_equal(train.series[1], x[1, :2])
    assert len(test) == 1
    assert list(test.targets) == [2]


def test_objects_are_never_unpickled(tmp_path):
    path = tmp_path / "a.npz"
    ragged = np.array([np.zeros(3), np.zeros(2)], dtype=object)
    np.savez(path, X=ragged, y=[1, 2], allow_pickle=True)
    with pytest.raises(UserError, match="never unpickled.*lengths"):
        read(path, Columns())
    np.save(tmp_path / "X.npy", ragged, allow_pickle=True)
    with pytest.raises(UserError, match=r"X\.npy is no array of numbers"):
        read(tmp_path, Columns())


TS = ["# a comment", "@problemName steps", "@univariate false", "@classLabel true up down", "@data"]


def test_ts_has_channels_lengths_and_missing_values(tmp_path):
    path = lines(tmp_path / "a.ts", *TS, "1,2,?:4,5,6:up", "7,8:NaN,0:down")
    found = series_of(path)
    np.testing.assert_array_equal(found.series[0], [[1, 4], [2, 5], [NAN, 6]])
    np.testing.assert_array_equal(found.series[1], [[7, NAN], [8, 0]])
    assert (list(found.targets), found.kind) == (["up", "down"], "classification")


def test_ts_regression_stays_regression_of_whole_numbers(tmp_path):
    path = lines(tmp_path / "a.ts", "@targetlabel true", "@data", "1,2:3", "3,4:5")
    found = series_of(path)
    assert (list(found.targets), found.kind) == ([3.0, 5.0], "regression")


def test_a_subfolder_is_a_class_and_a_file_a_series(tmp_path):
    for name, files in {"up": ["b.npy", "a.npy"], "down": ["c.csv"]}.items():
        (tmp_path / name).mkdir()
        for i, file in enumerate(files):
            if file.endswith(".npy"):
                np.save(tmp_path / name / file, np.full((i + 2, 2), float(i)))
            else:
                lines(tmp_path / name / file, "x,y", "1,2", "3,4")
    found = series_of(tmp_path)
    assert found.names == ("down/c.csv", "up/a.npy", "up/b.npy")
    assert list(found.targets) == ["down", "up", "up"]
    np.testing.assert_array_equal(found.series[0], [[1, 2], [3, 4]])
    assert found.series[1].shape == (3, 2)


def test_a_folder_may_hold_arrays_or_train_and_test(tmp_path):
    for half, count in (("train", 3), ("test", 2)):
        (tmp_path / half).mkdir()
        np.save(tmp_path / half / "X.npy", VALUES[:count])
        np.save(tmp_path / half / "y.npy", np.array(LABELS[:count]))
    train, test = read(tmp_path, Columns())
    assert_wide(train)
    assert len(test) == 2


WRONG = {
    "a number that is none": (["1,2,x", "1,2,3"], "line 1, value 2 must be a number, got 'x'"),
    "a missing label": (["1,2,3", ",2,3"], "every series needs a target, series 2 has none"),
    "nothing": ([" "], "at least one series"),
    "a short line": (["label,a,b", "1,2"], "line 2 needs 3 cells, got 2"),
    "two labels": (["id,x,y,label", "a,1,1,u", "a,2,2,v"], "series 'a' needs one label, got u, v"),
    "no steps": (["1,2", "2"], "at least one step, series 2 has none"),
    "infinity": (["1,2,3", "2,4,inf"], "finite.*series 2, step 2, channel 1"),
    "two times": (["id,t,x,y", "a,1,1,1", "a,1,2,1"], "series 'a' has two rows at the same t"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_in_text_is_said_in_a_sentence(tmp_path, case):
    rows, sentence = WRONG[case]
    with pytest.raises(UserError, match=sentence):
        read(lines(tmp_path / "a.csv", *rows), Columns())


def test_what_is_wrong_in_other_files_is_said_in_a_sentence(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        read(tmp_path / "none.csv", Columns())
    with pytest.raises(UserError, match="must be a folder or end in .npz, .csv"):
        read(lines(tmp_path / "a.docx", "1"), Columns())
    with pytest.raises(UserError, match="no .npz file"):
        read(lines(tmp_path / "a.npz", "PK1"), Columns())
    np.savez(tmp_path / "b.npz", values=VALUES)
    with pytest.raises(UserError, match="needs X and y, or X_train.*got values"):
        read(tmp_path / "b.npz", Columns())
    with pytest.raises(UserError, match="line 2.*as long, got .2, 3."):
        read(lines(tmp_path / "a.ts", "@data", "1,2:1,2,3"), Columns())
    with pytest.raises(UserError, match="time stamps"):
        read(lines(tmp_path / "b.ts", "@timeStamps true", "@data", "(1,2):1"), Columns())
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="a folder needs X.npy.*got neither"):
        read(tmp_path / "empty", Columns())
    with pytest.raises(UserError, match=naming("'kind'", "column", "label")):
        read(lines(tmp_path / "c.csv", "label,a,b", "1,2,3"), Columns(label="kind"))


def test_a_folder_has_another_sha256_when_a_file_changes_its_name_or_content(tmp_path):
    (tmp_path / "a").write_text("1")
    first = sha256(tmp_path)
    (tmp_path / "a").rename(tmp_path / "b")
    renamed = sha256(tmp_path)
    (tmp_path / "b").write_text("2")
    assert len({first, renamed, sha256(tmp_path)}) == 3


@pytest.mark.parametrize("lines", [["@timeStamps true"], ["@timeStamps false"]])
def test_time_stamps_in_ts_files_say_what_to_do_instead(tmp_path, lines):
    case = "(0,1.5),(1,2.5):(0,3),(1,4):walk"
    text = "\n".join([*lines, "@classLabel true walk run", "@data", case])
    (tmp_path / "a.ts").write_text(text)
    with pytest.raises(UserError, match="time stamps .* are not read: write the values alone"):
        read(tmp_path / "a.ts", Columns())


def test_a_wide_table_of_several_channels_is_refused_unless_it_is_said_to_be_wide(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("label,x_1,x_2,y_1,y_2\nup,1,2,3,4\ndown,5,6,7,8\n")
    with pytest.raises(UserError, match=r"steps of 2 channels \(x, y\), and a wide table has one"):
        read(path, Columns())
    assert read(path, Columns(layout="wide"))[0].series[0].shape == (4, 1)
    path.write_text("label,x_1,x_2,temperature\nup,1,2,3\ndown,5,6,7\n")  # nothing to count
    assert read(path, Columns())[0].series[0].shape == (3, 1)


def test_a_first_line_has_names_if_it_is_said_to(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("7,5,9\n1,2,3\n0,4,5\n")
    assert len(read(path, Columns())[0]) == 3
    assert len(read(path, Columns(header="yes"))[0]) == 2
    path.write_text("label,1,2,3\nup,2,3,4\n")
    assert len(read(path, Columns())[0]) == 1
    assert read(path, Columns(header="no"))[0].targets.tolist() == ["label", "up"]


# -- the place of the label ------------------------------------------------------------------------

LAST = ["1.5,2,walk", "0.5,0.25,3,run", "9,8,walk"]


@pytest.mark.parametrize("label", ["last", "LAST", "-1"])
def test_the_label_may_stand_last(tmp_path, label):
    found = series_of(lines(tmp_path / "a.csv", *LAST), label=label)
    assert list(found.targets) == LABELS
    assert [one[:, 0].tolist() for one in found.series] == [[1.5, 2], [0.5, 0.25, 3], [9, 8]]
    assert found.notes == ("lines without names, the label last",)


@pytest.mark.parametrize(("label", "series"), [("0", [2, 3]), ("1", [1, 3]), ("-2", [1, 3])])
def test_the_label_may_stand_at_any_place(tmp_path, label, series):
    found = series_of(lines(tmp_path / "a.csv", "1,2,3", "4,5,6", "7,8,9"), label=label)
    assert found.series[0][:, 0].tolist() == series
    assert found.targets[0] == 6 - sum(series)


@pytest.mark.parametrize("label", ["last", "2", "-1"])
def test_words_last_are_no_names(tmp_path, label):
    rows = [f"{i},0.5,{'ud'[i % 2]}" for i in range(4)]
    assert len(series_of(lines(tmp_path / "a.csv", *rows), label=label)) == 4
    rows = [f"{i},{'ud'[i % 2]}" for i in range(4)]
    assert len(series_of(lines(tmp_path / "b.csv", *rows), label="-1")) == 4


@pytest.mark.parametrize("label", ["-1", "2", "last", "kind"])
def test_a_place_counts_the_columns_of_a_table(tmp_path, label):
    found = series_of(lines(tmp_path / "a.tsv", "a\tb\tKind", "1\t2\tu", "3\t4\tv"), label=label)
    assert list(found.targets) == ["u", "v"]
    assert found.table.label == "Kind"


def test_a_name_goes_before_a_place(tmp_path):
    path = lines(tmp_path / "a.csv", "w,2,1,0", "3,5,6,7", "4,8,9,10")
    assert series_of(path, label="2", header="yes").targets.tolist() == [5, 8]
    assert series_of(path, label="3", header="yes").targets.tolist() == [7, 10]


def test_the_index_of_parquet_is_no_last_column(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    table = dict(a=[1.0, 2.0], b=[3.0, 4.0], kind=["u", "v"], __index_level_0__=[0, 1])
    parquet.write_table(pyarrow.table(table), tmp_path / "a.parquet")
    assert list(series_of(tmp_path / "a.parquet", label="last").targets) == ["u", "v"]


NO_PLACE = {
    "9": r"there is no column 9, only 0 … 2 \(a, b, c\), or -3 … -1 from the last",
    "-4": r"there is no column -4, only 0 … 2 \(a, b, c\)",
    "lst": "there is no column 'lst', only a, b, c",
    "1.0": "there is no column '1.0', only a, b, c",
}


@pytest.mark.parametrize("label", NO_PLACE)
def test_a_column_that_is_not_there_is_refused_with_those_that_are(tmp_path, label):
    with pytest.raises(UserError, match=NO_PLACE[label]):
        series_of(lines(tmp_path / "a.csv", "a,b,c", "1,2,3", "4,5,6"), label=label)


def test_a_place_that_a_line_lacks_is_refused(tmp_path):
    path = lines(tmp_path / "a.csv", *LAST)
    with pytest.raises(UserError, match=r"line 1: there is no column 3, only 0 … 2 \(1.5, 2, walk"):
        series_of(path, label="3")
    with pytest.raises(UserError, match=naming("'kind'", "0", "column", "label")):
        series_of(path, label="kind")


def test_a_label_that_nobody_looked_for_last_is_pointed_at(tmp_path):
    with pytest.raises(UserError, match=naming("2", "'walk'", "--label")):
        series_of(lines(tmp_path / "a.csv", *LAST))
    with pytest.raises(UserError, match=naming("--label -2")):
        series_of(lines(tmp_path / "b.csv", *[f"{row}," for row in LAST]), label="last")
    with pytest.raises(UserError, match=naming("'kind'", "1", "--label", "column")):
        series_of(lines(tmp_path / "c.csv", "id,x,kind", "a,1,u", "a,2,u", "b,3,v"))
