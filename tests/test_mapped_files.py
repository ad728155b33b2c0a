"""What is promised of data beyond memory: arrays are mapped, inputs lie in a file, same bits."""

import tracemalloc
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch
from messages import naming

from rnnopt.config.data_config import DataConfig
from rnnopt.config.errors import UserError
from rnnopt.tasks import storage
from rnnopt.tasks.examples import Examples, joined
from rnnopt.tasks.user_data.load import own_task
from rnnopt.tasks.user_data.readers import numpy_files, read
from rnnopt.tasks.user_data.readers.columns import Columns


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def folder(array, count=12):
    Path("data").mkdir(exist_ok=True)
    np.save("data/X.npy", array)
    np.save("data/y.npy", np.arange(count) % 2)


def values(kind=np.float32, gaps=False):
    array = (1e3 + np.random.default_rng(0).normal(size=(12, 20, 3))).astype(kind)
    if gaps:
        array[0, 3, 1] = np.nan
        array[1, 15:] = np.nan
    return array


CASES = {
    "float32": (values(), {}),
    "float64": (values(np.float64), {}),
    "whole numbers": (values(np.int16), {}),
    "columns first": (np.asfortranarray(values()), {}),
    "the other byte order": (values(">f4"), {}),
    "means": (values(gaps=True), dict(missing="mean", subsample=3)),
    "interpolation": (values(gaps=True), dict(missing="interpolate", padded=True)),
    "windows": (values(), dict(window=6, stride=3)),
    "a channel less": (values(), dict(drop=("1",))),
    "forecasts": (values(), dict(horizon=2)),
    "another rate": (values(), dict(window=4, rate="20Hz", resample="10Hz")),
}


@pytest.mark.parametrize("case", CASES)
def test_a_mapped_file_gives_the_same_task_to_the_bit(case, monkeypatch):
    array, options = CASES[case]
    folder(array)
    config = DataConfig(data="data", **options)
    right = own_task(config, "t")
    monkeypatch.setattr(numpy_files, "MAPPED", 0)
    monkeypatch.setattr(storage, "free_memory", lambda: 0)  # inputs lie in a file, too
    task = own_task(config, "t")
    for part in ("train", "validation", "test"):
        assert torch.equal(getattr(task, part).inputs, getattr(right, part).inputs)
    one, other = task.data.preparation, right.data.preparation
    assert (one.mean, one.deviation, one.fill) == (other.mean, other.deviation, other.fill)


def test_series_of_a_mapped_file_are_views_that_nobody_may_write(monkeypatch):
    monkeypatch.setattr(numpy_files, "MAPPED", 0)
    folder(values())
    data = read(Path("data"), Columns())[0]
    assert all(not one.flags.writeable and one.dtype == np.float32 for one in data.series)
    np.testing.assert_array_equal(data.series, values())


def test_an_infinite_value_of_a_mapped_file_is_refused_with_its_place(monkeypatch):
    monkeypatch.setattr(numpy_files, "MAPPED", 0)
    array = values()
    array[4, 5, 2] = -np.inf
    folder(array)
    with pytest.raises(UserError, match=naming("series 5", "step 6", "channel 3")):
        read(Path("data"), Columns())


def test_reading_and_preparing_a_mapped_file_copies_little_of_it(monkeypatch):
    monkeypatch.setattr(numpy_files, "MAPPED", 1 << 20)
    folder(np.random.default_rng(0).normal(size=(12, 50_000, 4)).astype("f4"))  # 9.6 MB
    tracemalloc.start()  # of numpy's arrays; torch's inputs are as large as the file
    own_task(DataConfig(data="data"), "t")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 0.6 * Path("data/X.npy").stat().st_size


def test_a_mapped_file_that_was_cut_off_is_refused(monkeypatch):
    monkeypatch.setattr(numpy_files, "MAPPED", 0)
    folder(values())
    path = Path("data/X.npy")
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(UserError, match=naming("X.npy", "claims shape")):
        read(Path("data"), Columns())


def test_joined_examples_lie_in_a_file_where_memory_is_short(monkeypatch):
    one = Examples(torch.rand(3, 4, 2), torch.arange(3))
    other = Examples(torch.rand(10, 2), torch.arange(2), torch.tensor([4, 6]))
    right = joined(one, other)
    monkeypatch.setattr(storage, "free_memory", lambda: 0)
    assert torch.equal(joined(one, other).inputs, right.inputs)
    assert torch.equal(joined(one, one).inputs, torch.cat([one.inputs, one.inputs]))


def test_inputs_for_which_there_is_neither_memory_nor_disk_are_refused(monkeypatch):
    monkeypatch.setattr("rnnopt.tasks.user_data.limits.free_memory", lambda: 5)
    monkeypatch.setattr(storage, "free_memory", lambda: 5)
    space = namedtuple("space", "total used free")(9, 0, 9)
    monkeypatch.setattr(storage.shutil, "disk_usage", lambda _: space)
    with pytest.raises(ValueError, match=naming("these", "TMPDIR", "40 bytes")):
        storage.room((5, 2), "these")
