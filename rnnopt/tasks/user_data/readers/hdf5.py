"""HDF5 files: datasets by the names of arrays in .npz files, X and y, X_train, …

MATLAB's files of version 7.3 are such files. Their axes are in the other order, and texts are
codes of letters. Nothing outside of the file is read: no linked files and no external storage.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from rnnopt.tasks.user_data.limits import check_declared
from rnnopt.tasks.user_data.readers.columns import Columns, Parts
from rnnopt.tasks.user_data.readers.npz import NEEDED, known, parts_of
from rnnopt.tasks.user_data.readers.variables import Variable, flat, of_cells, refuse, rows_of

SIGNATURE = b"\x89HDF\r\n\x1a\n"
# Errors of h5py for damaged files.
DAMAGED = (
    ArithmeticError, AttributeError, LookupError, MemoryError, NotImplementedError, OSError,
    RuntimeError, TypeError, UnicodeError, ValueError,
)  # fmt: skip
KERAS = ("keras_version", "model_config", "layer_names")
NUMBERS = ("double", "single", "logical", "int8", "uint8", "int16", "uint16", "int32", "uint32",
           "int64", "uint64")  # fmt: skip


def read_hdf5(path: Path, columns: Columns) -> Parts:
    """Reads the series of an .h5, .hdf5 or .mat file."""
    import h5py

    with _reading("it is no readable HDF5 file"):
        file = h5py.File(path, "r", locking=False)
    with file:
        with _reading("it is no readable HDF5 file"):
            found = [name for name in file if name != "#refs#"]
            written_by = _program(file)
        if written_by is not None:
            raise ValueError(written_by)
        if len({name.lower() for name in found}) < len(found):
            raise ValueError("the names of its datasets must differ in more than capitals.")
        wanted = [name for name in found if known(name, columns.group)]
        if not wanted:
            raise ValueError(f"it needs {NEEDED}, got {', '.join(found[:20]) or 'nothing'}.")
        left = path.stat().st_size
        arrays = {name.lower(): _variable(file, name, left) for name in wanted}
    return parts_of(flat(arrays), found, columns)


@contextmanager
def _reading(what: str) -> Iterator[None]:
    """Makes one sentence of the library's errors."""
    try:
        yield
    except DAMAGED as error:
        reason = (str(error).splitlines() or [""])[0][:150] or type(error).__name__
        raise ValueError(f"{what} ({reason}).") from error


def _program(file: Any) -> str | None:
    """A sentence if another program wrote the file for itself; None if it may hold arrays."""
    import h5py

    if any(name in file.attrs for name in KERAS) or {"layers", "vars"} <= set(file):
        return (
            "it holds the weights of a Keras model, and no data: save the arrays, such as by"
            " numpy.savez('data.npz', X=X, y=y)."
        )
    for name in list(file)[:1000]:
        linked = isinstance(file.get(name, getlink=True), h5py.HardLink)
        if linked and "pandas_type" in file[name].attrs:
            return (
                "pandas wrote it, as a table of its own: write the table by"
                f" pandas.read_hdf(file, {name!r}).to_parquet('data.parquet') or to_csv."
            )
    return None


def _variable(file: Any, name: str, stored: int) -> Variable:
    """A dataset as an array, or as a list of arrays for cells and lists of different lengths."""
    import h5py

    with _reading(f"{name} cannot be read"):
        own = isinstance(file.get(name, getlink=True), h5py.HardLink)
        dataset = file[name] if own else None
        kind = None if dataset is None else _class(dataset)
        shape = getattr(dataset, "shape", None)
    if dataset is None or getattr(dataset, "external", None) or getattr(
        dataset, "is_virtual", False
    ):  # fmt: skip
        raise ValueError(f"{name} must be in the file itself, got a link to another one.")
    if not isinstance(dataset, h5py.Dataset):
        if kind is not None:
            refuse(name, "sparse" if "MATLAB_sparse" in dataset.attrs else "struct")
        raise ValueError(f"{name} must be an array, got a group of {', '.join(list(dataset)[:5])}.")
    if shape is None:
        raise ValueError(f"{name} is empty.")
    check_declared(dataset.dtype.itemsize * dataset.size, stored, name)
    if kind is not None:
        return _of_matlab(file, name, dataset, kind, stored)
    return _plain(name, dataset)


def _class(dataset: Any) -> str | None:
    """MATLAB's class of a dataset or group, None if MATLAB did not write it."""
    kind = dataset.attrs.get("MATLAB_class")
    return kind.decode("ascii", "replace") if isinstance(kind, bytes) else None


def _plain(name: str, dataset: Any) -> Variable:
    """A dataset that another program than MATLAB wrote."""
    import h5py

    with _reading(f"{name} cannot be read"):
        if h5py.check_string_dtype(dataset.dtype) is not None:
            words = np.asarray(dataset.asstr()[()])
            return np.array([str(one) for one in words.ravel()]).reshape(words.shape)
        inner = h5py.check_vlen_dtype(dataset.dtype)
        if inner is not None and inner.kind in "biuf" and dataset.ndim == 1:
            return [np.asarray(one) for one in dataset[()]]
        array = np.asarray(dataset[()])
    if array.dtype.names or array.dtype.kind not in "biuf":
        raise ValueError(f"{name} must hold numbers or words, got type {str(array.dtype)[:60]}.")
    return array


def _of_matlab(file: Any, name: str, dataset: Any, kind: str, stored: int) -> Variable:
    """A variable of MATLAB, its axes in the order that MATLAB shows."""
    if kind != "cell":
        return _array(name, dataset, kind)
    import h5py

    with _reading(f"{name} cannot be read"):
        if h5py.check_ref_dtype(dataset.dtype) is not h5py.Reference:
            return of_cells(name, [])  # an empty cell array
        cells = [file[one] for one in dataset[()].ravel()]
    for one in cells:
        inner = _class(one)
        if not isinstance(one, h5py.Dataset) or inner not in (*NUMBERS, "char"):
            refuse(name, "nested")
    check_declared(sum(one.dtype.itemsize * one.size for one in cells), stored, name)
    arrays = [_array(name, one, str(_class(one))) for one in cells]
    return of_cells(name, [np.array(str(a[0]) if a.size else "") if a.dtype.kind == "U" else a
                           for a in arrays])  # fmt: skip


def _array(name: str, dataset: Any, kind: str) -> np.ndarray:
    """A matrix as MATLAB shows it; of texts (row,), without the blanks that fill them up."""
    if kind not in (*NUMBERS, "char"):
        refuse(name, "table")
    with _reading(f"{name} cannot be read"):
        array = np.asarray(dataset[()])
        if dataset.attrs.get("MATLAB_empty", 0):  # then the values are its shape
            return np.array([""]) if kind == "char" else np.zeros((0, 0))
    if array.dtype.names:
        refuse(name, "complex")
    if kind != "char":
        return array.T
    if array.dtype.kind not in "iu":
        refuse(name, "nested")
    return rows_of(name, array.T)
