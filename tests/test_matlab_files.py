"""What the readers promise of MATLAB's files and of HDF5.

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


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", ["f8", "f4", "i1", "u2", "i4", "u8", "?"])
def test_numbers_of_any_type_are_read_packed_or_not(kind, packed):
    array = (X % 2 if kind == "?" else X).astype(kind)
    pytest.importorskip("scipy.io").savemat(
        "a.mat", {"before": "text", "X": array, "y": [0, 1]}, do_compression=packed
    )
    data = read(Path("a.mat"), Columns())[0]
    np.testing.assert_array_equal(data.series, array.astype(float))


def test_a_name_longer_than_the_file_is_refused():
    path = saved("v5", X=np.arange(6.0).reshape(2, 3))
    content = bytearray(path.read_bytes())
    content[176] = 0  # scipy's reader ends the process here (1.17)
    path.write_bytes(content)
    with pytest.raises(UserError, match=naming("v5.mat")):
        read(path, Columns())
