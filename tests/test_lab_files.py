"""What the readers promise of parquet tables with lists and of .arff files.

Text, .npz, .ts, parquet tables and folders are promised in test_readers.py, spoilt files in
test_hostile_files.py.
"""

from pathlib import Path

import numpy as np
import pytest
from messages import naming

from rnnopt.config.errors import UserError
from rnnopt.tasks.user_data.readers import read
from rnnopt.tasks.user_data.readers.columns import Columns


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def values_of(data):
    return [one.tolist() for one in data.series]


# -- parquet tables with lists ---------------------------------------------------------------------

NAN = float("nan")


def parquet(**columns):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pa.table(columns), "a.parquet")
    return Path("a.parquet")


def test_a_row_of_lists_is_a_series():
    path = parquet(
        name=["p", "q"], x=[[1, None], [3]], z=[[0.5, 1], [2.0]], age=[4, 5],
        label=["u", "v"],
    )  # fmt: skip
    data = read(path, Columns(id="name"))[0]
    np.testing.assert_array_equal(data.series[0], [[1, 0.5], [NAN, 1]])
    assert values_of(data)[1] == [[3, 2]]
    assert (data.channels, data.names) == (("x", "z"), ("p", "q"))
    assert list(data.targets) == ["u", "v"]
    assert "left out: age" in data.notes  # one value a series is no channel
    assert read(path, Columns(label="age"))[0].targets.tolist() == [4, 5]
    assert read(path, Columns(drop=("z", "age")))[0].channels == ("x",)


def test_whole_numbers_truths_and_fixed_lists_are_numbers():
    pa = pytest.importorskip("pyarrow")
    kinds = {
        "a": pa.array([[1, 2], [3, 4]], pa.list_(pa.int8(), 2)),
        "b": pa.array([[True, None], [False, True]], pa.large_list(pa.bool_())),
        "c": pa.array([[2**62, 1], [0, 1]], pa.list_(pa.uint64())),
    }
    data = read(parquet(**kinds, y=[0, 1]), Columns())[0]
    np.testing.assert_array_equal(data.series[0], [[1, 1, 2**62], [2, NAN, 1]])


def test_lists_of_times_and_of_labels_go_with_the_steps():
    path = parquet(t=[[2.0, 1.0, 4.0], [0.0]], x=[[1, 2, 3], [4]], mode=[["a", "b", "a"], ["a"]])
    data = read(path, Columns(label="mode", each_step=True))[0]
    assert values_of(data) == [[[2], [1], [3]], [[4]]]  # sorted by time
    assert [data.steps.labels(one[:, 0]) for one in data.steps.values] == [["b", "a", "a"], ["a"]]
    assert [one.tolist() for one in data.moments] == [[0, 1, 3], [0]]
    varying = read(path, Columns(label="mode", varying=True))[0]
    assert varying.steps.labels(varying.steps.values[0][:, 0]) == ["b", "a", "a"]


BAD_LISTS = {
    "different lengths": (dict(x=[[1, 2]], z=[[1.0]]), ["row 1", "'x'", "'z'", "2", "1"]),
    "no list": (dict(x=[[1], None]), ["'x'", "row 2"]),
    "an empty list": (dict(x=[[1], []]), ["series 2"]),
    "lists of lists": (dict(x=[[[1.0]]]), ["'x'", "list"]),
    "records": (dict(x=[[{"a": 1}]]), ["'x'", "struct"]),
    "words": (dict(x=[["one", "2"]]), ["'x'", "--drop"]),
}


@pytest.mark.parametrize("case", BAD_LISTS)
def test_lists_that_are_no_series_are_refused(case):
    columns, words = BAD_LISTS[case]
    path = parquet(**columns, label=["u"] * len(columns["x"]))
    with pytest.raises(UserError, match=naming("a.parquet", *words)):
        read(path, Columns())


def test_a_short_file_of_one_endless_list_is_refused():
    pa = pytest.importorskip("pyarrow")
    ones = pa.array(np.ones(9_000_000))  # 72 MB in less than a kilobyte
    path = parquet(x=pa.ListArray.from_arrays([0, len(ones)], ones), label=["u"])
    assert path.stat().st_size < 2000
    with pytest.raises(UserError, match="claims to be"):
        read(path, Columns())


# -- .arff -----------------------------------------------------------------------------------------

UEA = """% of the archive
@RELATION two
@attribute series relational
  @attribute s0 numeric
  @attribute 's 1' REAL
@end series
@attribute what {up,'go \\'down\\''}
@data
"1,2\\n?,4",up
'5.5,6\\n7,8' , 'go \\'down\\''
"""


def test_a_relational_attribute_has_a_line_per_channel():
    Path("a.arff").write_text(UEA)
    data = read(Path("a.arff"), Columns())[0]
    np.testing.assert_array_equal(data.series[0], [[1, NAN], [2, 4]])
    assert values_of(data)[1] == [[5.5, 7], [6, 8]]
    assert (list(data.targets), data.kind) == (["up", "go 'down'"], "classification")


def test_scipy_reads_the_same_series():
    arff = pytest.importorskip("scipy.io.arff")
    # Scipy refuses names of classes in quotes, and other quotes than those of the first line.
    text = UEA.replace("'go \\'down\\''", "down").replace("'5.5,6\\n7,8' , ", '"5.5,6\\n7,8",')
    Path("a.arff").write_text(text)
    rows, _ = arff.loadarff("a.arff")
    data = read(Path("a.arff"), Columns())[0]
    for row, one in zip(rows, data.series, strict=True):
        np.testing.assert_array_equal(np.array(row["series"].tolist()).T, one)


def test_without_it_an_attribute_is_a_step():
    head = (
        "@relation r\n@attribute a1 numeric\n@attribute a2 integer\n@attribute target {1.5,2.5}\n"
    )
    Path("a.arff").write_text(head + "@data\n1,?,1.5\n3,4,2.5\n")
    data = read(Path("a.arff"), Columns())[0]
    np.testing.assert_array_equal(data.series[0], [[1], [NAN]])
    assert (data.targets.tolist(), data.kind) == ([1.5, 2.5], "classification")  # as declared
    Path("b.arff").write_text(head + "@data\n1,0,?\n3,4,?\n")  # to be predicted
    assert read(Path("b.arff"), Columns())[0].targets is None
    numbers = head.replace("{1.5,2.5}", "numeric").replace("target", "height")
    Path("c.arff").write_text(numbers + "@data\n1,0,1.5\n3,4,2.5\n")
    assert read(Path("c.arff"), Columns(label="height"))[0].targets.tolist() == [1.5, 2.5]
    with pytest.raises(UserError, match="--label"):
        read(Path("c.arff"), Columns())


BAD_ARFF = {
    "no data": ("@relation x\n@attribute a numeric\n", ["@data"]),
    "sparse": ("@attribute a numeric\n@attribute k {u}\n@data\n{0 1}\n", ["line 4", "sparse"]),
    "cells": ("@attribute a numeric\n@attribute k {u}\n@data\n1,2,u\n", ["line 4", "2", "3"]),
    "a quote": ("@attribute a numeric\n@attribute k {u}\n@data\n1,'u\n", ["line 4", "quote"]),
    "steps": (UEA.replace("?,4", "4"), ["series 1", "2", "1"]),
    "text": ("@attribute a string\n@attribute k {u}\n@data\nfoo,u\n", ["'foo'"]),
    "inside": (UEA.replace("s0 numeric", "s0 {a,b}"), ["line 4", "'s0'"]),
    "nothing": ("", ["@data"]),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_ARFF)
def test_a_wrong_arff_file_is_refused_with_its_line(case):
    text, words = BAD_ARFF[case]
    Path("a.arff").write_text(text)
    with pytest.raises(UserError, match=naming("a.arff", *words)):
        read(Path("a.arff"), Columns())
