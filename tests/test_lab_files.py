"""What the readers promise of several files at once, and of the files that other programs write.

Text, .npz, .ts, parquet tables and folders are promised in test_readers.py, spoilt files in
test_hostile_files.py.
"""

from pathlib import Path

import numpy as np
import pytest
from messages import naming

from rnnopt.config.data_config import DataConfig
from rnnopt.config.data_files import absolute, data_name, files_of, inputs_in, names_in
from rnnopt.config.errors import UserError
from rnnopt.tasks.user_data.load import own_task, read_parts
from rnnopt.tasks.user_data.readers import read
from rnnopt.tasks.user_data.readers.columns import Columns
from rnnopt.tasks.user_data.readers.several import read_data, sha256_of


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


# -- several files ---------------------------------------------------------------------------------


def write(name, *lines):
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return name


def day(name, *rows, head="time,x,y,activity"):
    """A recording of its own, without an id."""
    return write(name, head, *rows)


def test_files_are_named_by_a_pattern_a_list_or_a_comma_in_a_name():
    for name in ("a.csv", "b.csv", "b,c.csv", "deep/in/d.csv"):
        write(name, "x")
    assert [str(one) for one in files_of("[ab].csv")] == ["a.csv", "b.csv"]
    assert [str(one) for one in files_of("**/d.csv")] == ["deep/in/d.csv"]
    assert names_in("a.csv,b.csv") == ["a.csv", "b.csv"]
    assert names_in("b,c.csv") == ["b,c.csv"]  # a file is called so
    assert names_in("a.csv,b,c.csv") == ["a.csv", "b,c.csv"]
    assert names_in("a.csv,b*.csv") == ["a.csv", "b*.csv"]
    assert names_in("a.csv,gone.csv") == ["a.csv", "gone.csv"]
    assert names_in("no,folder/gone") == ["no,folder/gone"]
    assert inputs_in("a.csv,gone.csv") == ["a.csv"]
    assert names_in("x" * 5000 + ",a.csv") == ["x" * 5000 + ",a.csv"]
    here = absolute("a.csv,b*.csv")
    assert here == absolute(here) == f"{Path('a.csv').absolute()},{Path('b*.csv').absolute()}"


@pytest.mark.parametrize(
    ("text", "name"),
    [("day*.csv", "day"), ("a.csv,b.csv,c.csv", "a-and-2-more"), ("walk[0-9]_TRAIN.csv", "walk"),
     ("days/*.csv", "days")],
)  # fmt: skip
def test_data_of_several_files_have_a_name(text, name):
    assert data_name(text) == name


def test_recordings_of_several_tables_are_one_data_set_in_the_first_ones_order():
    day("mon.csv", "0,1,2,a", "1,3,4,b")
    day("tue.csv", "6,0,5,b", "8,1,7,c", head="y,time,x,activity")
    columns = Columns(label="activity", varying=True, window=2)
    data, test = read_data("mon.csv,tue.csv", columns)
    assert test is None
    assert data.channels == ("x", "y")
    assert data.names == ("mon", "tue")  # each file is a recording
    np.testing.assert_array_equal(data.series[0], [[1, 2], [3, 4]])
    np.testing.assert_array_equal(data.series[1], [[5, 6], [7, 8]])
    assert data.steps.words == ("a", "b", "c")  # those of both files together
    labels = [data.steps.labels(one[:, 0]) for one in data.steps.values]
    assert labels == [["a", "b"], ["b", "c"]]
    assert "2 files" in data.notes


def test_a_file_of_one_label_stands_beside_one_whose_label_changes():
    day("mon.csv", "0,1,2,3", "1,3,4,3")
    day("tue.csv", "0,5,6,3", "1,7,8,4")
    data, _ = read_data("???.csv", Columns(label="activity", varying=True, window=2))
    labels = [data.steps.labels(one[:, 0]) for one in data.steps.values]
    assert labels == [["3", "3"], ["3", "4"]]


def test_series_of_a_file_keep_their_names_behind_the_files_stem():
    for name in ("mon", "tue"):
        write(f"{name}.csv", "id,t,x,label", "p,1,1,u", "p,2,2,u", "q,1,3,v", "q,2,4,v")
    assert read_data("*.csv", Columns())[0].names == ("mon/p", "mon/q", "tue/p", "tue/q")
    for name in ("one/a", "two/a"):
        write(f"{name}.tsv", "u\t1\t2", "v\t3\t4")
    data = read_data("one/a.tsv,two/a.tsv", Columns())[0]
    assert data.names == ("one/a/1", "one/a/2", "two/a/1", "two/a/2")


def test_words_and_numbers_as_labels_of_two_files_are_words_of_both():
    write("a.csv", "1,5,6", "2,7,8")
    write("b.csv", "up,5,6", "2,7,8")
    assert list(read_data("a.csv,b.csv", Columns())[0].targets) == ["1", "2", "up", "2"]


def test_test_and_validation_arrays_of_all_files_are_joined():
    for i, name in enumerate("ab"):
        x = np.full((2, 3), float(i))
        np.savez(
            name, X_train=x, y_train=[0, 1], X_test=x + 5, y_test=[1, 1], X_val=x, y_val=x[:, 0]
        )
    data, test = read_data("a.npz,b.npz", Columns())
    assert [len(data), len(test), len(data.validation)] == [4, 4, 4]
    assert [one[0, 0] for one in test.series] == [5, 5, 6, 6]
    np.savez("c", X=x, y=[0, 1])
    with pytest.raises(UserError, match=r"c\.npz lacks them"):
        read_data("a.npz,c.npz", Columns())


def test_groups_are_the_files_unless_a_column_is_called_so():
    rows = ("p,1,1,u,k", "p,2,2,u,k", "q,1,3,v,m", "q,2,4,v,m")
    for name in ("mon", "tue"):
        write(f"{name}.csv", "id,t,x,label,who", *rows)
        write(f"{name}.txt", "id,t,x,label,file", *rows)
    columns = Columns(group="file", drop=("who",))
    assert list(read_data("*.csv", columns)[0].groups) == ["mon", "mon", "tue", "tue"]
    assert list(read_data("*.txt", Columns(group="file"))[0].groups) == ["k", "m", "k", "m"]
    with pytest.raises(UserError, match="'nobody'"):
        read_data("*.csv", Columns(group="nobody"))


WRONG = {
    "nothing matches": ({}, "gone*.csv", ["gone*.csv"]),
    "a file is missing": ({"a.csv": "u,1,2\n"}, "a.csv,gone.csv", ["gone.csv", "not exist"]),
    "kinds": ({"a.csv": "u,1,2\n", "b.ts": "@data\n1,2\n"}, "a.csv,b.ts", ["a.csv", "b.ts"]),
    "twice": ({"a.csv": "u,1,2\n"}, "a.csv,*.csv", ["a.csv", "twice"]),
    "channels": (
        {"a.csv": "id,t,x,label\np,1,1,u\np,2,1,u\n", "b.csv": "id,t,z,label\np,1,1,u\np,2,1,u\n"},
        "a.csv,b.csv",
        ["b.csv", "a.csv", "lacks 'x'", "has 'z'"],
    ),
    "labels": (
        {"a.csv": "id,t,x,label\np,1,1,u\np,2,1,u\n", "b.csv": "id,t,x\np,1,1\np,2,1\n"},
        "a.csv,b.csv",
        ["b.csv", "a.csv", "labels"],
    ),
    "steps": ({"a.csv": "label,s,q\nu,1,2\nv,1,2\n", "b.csv": "label,s,r\nu,1,2\nv,1,2\n"},
              "a.csv,b.csv", ["a.csv", "'q'", "'r'"]),
    "a damaged one": ({"a.csv": "u,1,2\n", "b.csv": "u,1,x\n"}, "a.csv,b.csv", ["b.csv", "'x'"]),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_files_that_do_not_go_together_are_refused_by_name(case):
    files, text, words = WRONG[case]
    for name, content in files.items():
        Path(name).write_text(content)
    with pytest.raises(UserError, match=naming(*words)):
        read_data(text, Columns())


def test_the_hash_of_a_config_covers_all_files_and_new_ones_of_a_pattern():
    for name in ("a.csv", "b.csv"):
        write(name, *["u,1,2", "v,3,4"] * 5)
    task = own_task(DataConfig(data="*.csv"), "t")
    known = task.data.sources["data"]
    assert known["path"] == str(Path("*.csv").absolute())  # the pattern, found from anywhere
    before = known["sha256"]
    assert before == sha256_of("a.csv,b.csv") != sha256_of("b.csv")
    write("b.csv", "u,1,2", "v,3,4.5")
    changed = sha256_of("*.csv")
    write("c.csv", "u,1,2")
    assert len({before, changed, sha256_of("*.csv")}) == 3


def test_a_run_on_several_files_is_inspected_trained_and_predicts(command):
    for i in range(4):
        rows = [f"{t},{(t // 10) % 2 + 0.01 * i},{'uv'[(t // 10) % 2]}" for t in range(40)]
        day(f"day{i}.csv", *rows, head="time,x,mode")
    own = ["--label", "mode", "--window", "5"]
    code, out, error = command("inspect", "day0.csv", "day1.csv", *own)
    assert (code, "16 of 5 steps" in out) == (0, True), error
    tiny = ["--hidden", "3", "--model", "rnn", "--budget", "4gradients", "--quiet"]
    data = ["--data", "day0.csv", "--data", "day1.csv", "day2.csv", "--test", "day3.csv"]
    code, _, error = command("train", *data, *own, "--group", "file", *tiny, "--out", "run")
    assert code == 0, error
    code, _, error = command("predict", "run", "--data", "day[23].csv", "--out", "p.csv")
    assert code == 0, error
    names = [line.split(",")[0] for line in Path("p.csv").read_text().splitlines()[1:]]
    assert names == ["day2"] * 8 + ["day3"] * 8
    code, _, error = command("predict", "run", "--data", "*.csv", "--out", "p.csv")
    assert (code, "p.csv" in error) == (2, True)  # it would be read, too
    write("day1.csv", "changed")
    code, _, error = command("train", "--resume", "--out", "run")
    assert code == 0  # it is over
    assert read_parts(DataConfig(data="day0.csv", label="mode", window=5))[0].names == ("day0",)


# -- parquet tables with lists ---------------------------------------------------------------------

NAN = float("nan")


def parquet(**columns):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pa.table(columns), "a.parquet")
    return Path("a.parquet")


def values_of(data):
    return [one.tolist() for one in data.series]


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
    np_list = [np.ones(10_000_000)]  # 80 MB in less than a kilobyte
    path = parquet(x=np_list, label=["u"])
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


# -- MATLAB and HDF5 -------------------------------------------------------------------------------

X = np.arange(24.0).reshape(2, 3, 4)  # two series of three steps and four channels


def cells(*values):
    found = np.empty(len(values), object)
    for i, one in enumerate(values):
        found[i] = one
    return found


SERIES = [np.arange(2.0 * n).reshape(n, 2) for n in (4, 2, 3)]
WORDS = cells("up", "downs", "up")


def saved(version, **variables):
    """A .mat file as MATLAB writes it."""
    path = Path(f"{version}.mat")
    if version == "v5":
        pytest.importorskip("scipy.io").savemat(path, variables)
        return path
    library = pytest.importorskip("hdf5storage")
    path.unlink(missing_ok=True)  # else the variables of before stay in it
    how = dict(matlab_compatible=True, store_python_metadata=False, oned_as="row")
    library.savemat(str(path), variables, format="7.3", **how)
    return path


VERSIONS = pytest.mark.parametrize("version", ["v5", "v7.3"])


@VERSIONS
def test_axes_of_matlab_are_those_that_it_shows(version):
    path = saved(version, X_train=X, y_train=[0, 1], X_test=X[:1] + 1, y_test=[1], other=[1.0])
    data, test = read(path, Columns())
    np.testing.assert_array_equal(data.series, X)
    np.testing.assert_array_equal(test.series, X[:1] + 1)
    assert data.targets.tolist() == [0, 1]  # MATLAB has a row of two columns
    assert data.notes == ("left out: other",)


@VERSIONS
def test_a_cell_array_is_a_list_of_series_or_of_words(version):
    data = read(saved(version, X=cells(*SERIES), y=WORDS), Columns())[0]
    for one, right in zip(data.series, SERIES, strict=True):
        np.testing.assert_array_equal(one, right)
    assert list(data.targets) == ["up", "downs", "up"]
    labels = cells(*(one[:, :1] for one in SERIES))
    data = read(saved(version, X=cells(*SERIES), y=labels), Columns(each_step=True))[0]
    assert [one[:, 0].tolist() for one in data.steps.values] == [[0, 2, 4, 6], [0, 2], [0, 2, 4]]


@VERSIONS
def test_cells_of_row_vectors_are_series_of_one_channel(version):
    rows = cells(np.arange(3.0)[None], np.arange(5.0)[None])
    data = read(saved(version, X=rows, y=np.array([True, False])), Columns())[0]
    assert values_of(data) == [[[0], [1], [2]], [[0], [1], [2], [3], [4]]]
    assert data.targets.tolist() == [1, 0]


def test_texts_of_one_length_are_words_without_what_fills_them_up():
    assert list(read(saved("v5", X=cells(*SERIES), y=np.array(["up", "downs", "up"])), Columns())[0]
                .targets) == ["up", "downs", "up"]  # fmt: skip
    h5py = pytest.importorskip("h5py")
    with h5py.File("char.mat", "w") as file:  # as MATLAB writes char(["up"; "downs"; "up"])
        file["X"] = np.zeros((4, 3, 3))
        file["X"].attrs["MATLAB_class"] = np.bytes_("double")
        file["y"] = np.array([list(map(ord, word)) for word in ("up   ", "downs", "up   ")]).T
        file["y"].attrs["MATLAB_class"] = np.bytes_("char")
    assert list(read(Path("char.mat"), Columns())[0].targets) == ["up", "downs", "up"]
    path = saved("v7.3", X=cells(*SERIES), y=np.array(["up", "downs", "up"]))
    with pytest.raises(UserError, match=naming("'y'", "one text")):  # the library joins them
        read(path, Columns())


def sparse():
    return pytest.importorskip("scipy.sparse").eye(3).tocsc()


BAD_MATLAB = {
    "a struct": (["v5", "v7.3"], lambda: {"a": 1.0}, "X = s.X"),
    "complex": (["v5", "v7.3"], lambda: X + 1j, "abs(X"),
    "sparse": (["v5"], sparse, "full(X"),
    "channels first": (["v5", "v7.3"], lambda: cells(*(one.T for one in SERIES)), "@transpose"),
    "cells in cells": (["v5", "v7.3"], lambda: cells(cells(X[0]), X[0]), "cellfun"),
    "nothing": (["v5", "v7.3"], lambda: np.zeros((0, 3)), "at least one"),
}


@pytest.mark.parametrize(
    ("case", "version"), [(case, one) for case, (own, *_) in BAD_MATLAB.items() for one in own]
)
def test_what_matlab_must_convert_is_refused_with_the_command(case, version):
    _, make, command = BAD_MATLAB[case]
    path = saved(version, X=make(), y=[0.0, 1.0])
    with pytest.raises(UserError, match=naming(path.name, "X", command)):
        read(path, Columns())


def hdf5(**datasets):
    h5py = pytest.importorskip("h5py")
    with h5py.File("a.h5", "w") as file:
        for name, make in datasets.items():
            if callable(make):
                make(h5py, file, name)
            else:
                file[name] = make
    return Path("a.h5")


def test_datasets_of_hdf5_are_arrays_with_words_of_any_kind():
    np.testing.assert_array_equal(read(hdf5(X=X, y=[0, 1]), Columns())[0].series, X)
    data = read(hdf5(X=X, y=np.array(["a", "bb"], dtype="S2")), Columns())[0]
    assert list(data.targets) == ["a", "bb"]
    data = read(hdf5(X=X, y=["ä", "b"], lengths=[3, 2]), Columns())[0]
    assert (list(data.targets), [len(one) for one in data.series]) == (["ä", "b"], [3, 2])

    def ragged(h5py, file, name):
        rows = file.create_dataset(name, (2,), dtype=h5py.vlen_dtype(np.float32))
        rows[0], rows[1] = [1, 2, 3], [4, 5]

    assert values_of(read(hdf5(X=ragged, y=[0, 1]), Columns())[0]) == [[[1], [2], [3]], [[4], [5]]]


def elsewhere(h5py, file, name):
    file[name] = h5py.ExternalLink("b.h5", "/X")


def outside(h5py, file, name):
    file.create_dataset(name, (2, 3), dtype="f8", external=[("secret", 0, 48)])


def virtual(h5py, file, name):
    layout = h5py.VirtualLayout((2, 3), "f8")
    layout[:] = h5py.VirtualSource("b.h5", "X", (2, 3))
    file.create_virtual_dataset(name, layout)


BAD_HDF5 = {
    "Keras": (dict(X=lambda h5py, file, _: file.attrs.update(keras_version="3")), "Keras"),
    "Keras 3": (dict(layers=lambda _, file, n: file.create_group(n),
                     vars=lambda _, file, n: file.create_group(n)), "Keras"),
    "pandas": (
        dict(d=lambda _, file, n: file.create_group(n).attrs.update(pandas_type="frame")),
        "to_parquet",
    ),
    "another file": (dict(X=elsewhere, y=[0, 1]), "in the file itself"),
    "bytes outside": (dict(X=outside, y=[0, 1]), "in the file itself"),
    "a view of another file": (dict(X=virtual, y=[0, 1]), "in the file itself"),
    "a group": (dict(X=lambda _, file, n: file.create_group(n)), "group"),
    "far too large": (
        dict(X=lambda _, file, n: file.create_dataset(n, (10**6, 10**6), "f4", chunks=(9, 9))),
        "claims to be",
    ),
    "other names": (dict(data=X), "data"),
    "records": (dict(X=np.zeros(3, "f4,i4"), y=[0, 1, 2]), "X"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_HDF5)
def test_hdf5_files_without_arrays_of_their_own_are_refused(case):
    datasets, words = BAD_HDF5[case]
    with pytest.raises(UserError, match=naming("a.h5", words)):
        read(hdf5(**datasets), Columns())


@VERSIONS
def test_a_file_that_was_cut_off_is_refused(version):
    path = saved(version, X=cells(*SERIES), y=WORDS)
    content = path.read_bytes()
    for size in (0, 60, 300, len(content) // 2):
        path.write_bytes(content[:size])
        with pytest.raises(UserError, match=naming(path.name, "readable")):
            read(path, Columns())
