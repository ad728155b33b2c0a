"""What every reader promises of hostile files: data that pass the checks, or one clear sentence.

Right files are taken and made wrong: bytes at random, headers that lie, archives that unpack to far
more than they are. The fuzzer in fuzz/ does the same for as long as one likes.
"""

import io
import json
import os
import struct
import subprocess
import sys
import zipfile
import zlib
from dataclasses import replace
from types import SimpleNamespace

import hostile
import numpy as np
import pytest
import torch
from hostile import CSV, LABELS, TARGETS, check_sentence, harmless, npy_of, npz_of
from hypothesis import given, settings
from hypothesis import strategies as st

from rnnopt.config.errors import UserError
from rnnopt.config.run_config import RunConfig
from rnnopt.runs import prediction
from rnnopt.runs.folder import RunFolder
from rnnopt.tasks import from_arrays
from rnnopt.tasks.user_data.limits import check_declared, check_memory, free_memory, size
from rnnopt.tasks.user_data.preparation import Preparation
from rnnopt.tasks.user_data.readers import read
from rnnopt.tasks.user_data.readers.columns import Columns
from rnnopt.tasks.user_data.recordings import recordings
from rnnopt.tasks.user_data.splits import hold_out, members
from rnnopt.training.build import build_training

RIGHT = hostile.examples()
RECORDED = ("edf", "bdf", "wfdb", "wfdb-annotations", "xdf", "fit", "sigmf")
PIECES = [
    b"", b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"\r\n", b'"', b'""', b",", b":", b";", b"\t", b"?",
    b"nan", b"inf", b"-1e308", b"1e-320", b"1" * 400, b"x" * 3000, "é\u202e٣".encode(), b"@data\n",
    b"@", b"[[", b"{", b"null", b"-1", b"1e400", b"99999999999999999999", b"'|O'", b"(2, -1)",
    b"\x1b[31m", b"[/]", b"\xe2\x80\xa8",
]  # fmt: skip


@st.composite
def spoilt(draw, right):
    """A right input with up to four places cut out, doubled or overwritten."""
    content = draw(st.sampled_from(right))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(content)))
        end = start + draw(st.sampled_from([0, 0, 1, 2, 8, 100]))
        piece = draw(st.one_of(st.sampled_from(PIECES), st.binary(max_size=9)))
        content = content[:start] + piece + content[end:]
        if draw(st.booleans()) and len(content) < 10**5:
            content += content[start:]
    return content


@pytest.mark.parametrize("name", [name for name in TARGETS if RIGHT[name]])
def test_a_spoilt_file_is_read_or_refused(name):
    few = {"report": 25, "checkpoint": 60, "parquet": 60, "arff": 60, "mat": 60, "h5": 60}
    few |= {"mf4": 40, "tdms": 40, "bag": 40, "mcap": 40, "c3d": 3}  # c3d: a process each
    count = few.get(name, 40 if name in RECORDED else 120)

    @settings(max_examples=count)
    @given(spoilt(RIGHT[name]))
    def try_it(content):
        TARGETS[name](content)

    try_it()


@pytest.mark.parametrize("name", [name for name in TARGETS if RIGHT[name]])
def test_right_files_are_read(name):
    assert any(TARGETS[name](content) for content in RIGHT[name])


# -- arrays ----------------------------------------------------------------------------------------

TYPES = [
    "<f8", ">f8", "<f4", ">i2", "|b1", "<u8", "|S3", "<U2", "<c16", "|O", "<M8[s]", "|V4", "<f2",
    "<U0", "|S0", "[('a', '<f4')]", "<f16", "'", "f8'+",
]  # fmt: skip
SIDES = st.one_of(st.integers(-1, 5), st.sampled_from([2**31, 2**62, 2**64, 10**30]))


def header(descr, shape, columns=False, version=(1, 0)):
    """The beginning of a .npy file that says so."""
    descr = descr if descr.startswith("[") else repr(descr)
    text = f"{{'descr': {descr}, 'fortran_order': {columns}, 'shape': {shape}, }}\n".encode()
    count = struct.pack("<H" if version == (1, 0) else "<I", len(text))
    return b"\x93NUMPY" + bytes(version) + count + text


@given(
    st.sampled_from(TYPES),
    st.lists(SIDES, max_size=5).map(tuple),
    st.booleans(),
    st.sampled_from([(1, 0), (2, 0), (3, 0), (9, 9)]),
    st.binary(max_size=80),
)
@settings(max_examples=250)
def test_a_header_is_not_believed(descr, shape, columns, version, values):
    TARGETS["npy"](header(descr, shape, columns, version) + values)


def test_arrays_in_any_order_and_byte_order_give_the_same_series(tmp_path):
    x = np.arange(24.0).reshape(3, 4, 2)
    forms = (x, np.asfortranarray(x), x.astype(">f8"), x.astype("<f4"), x.astype(">i2"))
    for i, form in enumerate(forms):
        path = tmp_path / f"{i}.npz"
        path.write_bytes(npz_of({"X": npy_of(form)}))
        for one, right in zip(read(path, Columns())[0].series, x, strict=True):
            np.testing.assert_array_equal(one, right)


BAD_ARRAYS = {
    "more than is there": (header("<f8", (10**9, 100)), "claims shape"),
    "less than is there": (header("<f8", (1,)) + bytes(80), "claims shape"),
    "words of no letters": (header("<U0", (10**12,)), "must hold numbers or words"),
    "series without end of no steps": (header("<f8", (10**12, 0)), "which is nothing"),
    "a negative size": (header("<f8", (-1, 4)), "a shape that no array has"),
    "a size beyond 64 bits": (header("<f8", (10**30, 0)), "a shape that no array has"),
    "objects": (header("|O", (2,)) + bytes(16), "never unpickled"),
    "complex numbers": (npy_of(np.zeros((2, 3), complex)), "numbers or words, got type complex"),
    "records": (npy_of(np.zeros(2, [("a", "f4")])), "must hold numbers or words"),
    "no array": (b"\x80\x04K\x01.", "is no array of numbers, as numpy.save writes it"),
}


@pytest.mark.parametrize("case", BAD_ARRAYS)
def test_a_bad_array_is_refused_in_a_sentence(tmp_path, case):
    content, sentence = BAD_ARRAYS[case]
    path = tmp_path / "a.npz"
    path.write_bytes(npz_of({"X": content, "y": LABELS}))
    with pytest.raises(UserError, match=sentence):
        read(path, Columns())
    (tmp_path / "X.npy").write_bytes(content)
    with pytest.raises(UserError, match=sentence):
        read(tmp_path, Columns())


def test_an_archive_that_claims_more_than_it_can_unpack_to_is_refused(tmp_path):
    path, content = tmp_path / "a.npz", npz_of({"X": npy_of(np.zeros((8, 4)))})
    place = content.index(b"PK\x01\x02") + 24  # the unpacked size in the directory
    path.write_bytes(content[:place] + struct.pack("<I", 2**31 - 1) + content[place + 4 :])
    with pytest.raises(UserError, match=r"X claims to be 2\.147 GB, and .* at most can be in"):
        read(path, Columns())


def test_a_name_twice_in_an_archive_is_refused(tmp_path):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("X.npy", npy_of(np.zeros((8, 4))))
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("X.npy", npy_of(np.ones((8, 4))))
    (tmp_path / "a.npz").write_bytes(packed.getvalue())
    with pytest.raises(UserError, match="names of its arrays must differ"):
        read(tmp_path / "a.npz", Columns())


def test_nested_archives_and_paths_in_them_are_just_names(tmp_path):
    inner = npz_of({"X": npy_of(np.zeros((8, 4)))})
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name in ("../../X.npy", "/X.npy", "inner.npz"):
            archive.writestr(name, inner)
    path = tmp_path / "in" / "a.npz"
    path.parent.mkdir()
    path.write_bytes(packed.getvalue())
    with pytest.raises(UserError, match="needs X and y"):
        read(path, Columns())
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a.npz", "in"]


# -- memory and time -------------------------------------------------------------------------------

CHILD = """
import resource, sys, warnings
from pathlib import Path
from types import SimpleNamespace
sys.path.insert(0, sys.argv[1])
import hostile
resource.setrlimit(resource.RLIMIT_AS, (hostile_limit := 6 * 2**30, hostile_limit))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sys.argv[2:]:
    hostile.harmless(Path(path))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
for right in hostile.examples()["parquet"][:1]:
    begin = len(right) - 8 - int.from_bytes(right[-8:-4], "little")
    for place in range(begin, begin + 120):  # where a file tells of its first column
        changed = bytes([(right[place] + 1) % 256])
        hostile.TARGETS["parquet"](right[:place] + changed + right[place + 1 :])
"""


def bombs(folder):
    """Small files that ask for a great deal."""
    parquets = {}
    try:
        import pyarrow
        from pyarrow import parquet
    except ModuleNotFoundError:
        pass
    else:
        for name, column in (
            ("rows", pyarrow.array(np.zeros(3 * 10**7))),
            ("words", pyarrow.array(["x" * 10**5]).take(pyarrow.array(np.zeros(2000, int)))),
        ):
            sink = io.BytesIO()
            table = pyarrow.table({"label": column, "a": column})
            parquet.write_table(table, sink, compression="zstd", row_group_size=10**8)
            parquets[f"{name}.parquet"] = sink.getvalue()
    files = {
        "claims.npz": npz_of({"X": header("<f8", (10**9, 100)), "y": LABELS}),
        "empty.npz": npz_of({"X": header("<f8", (10**9, 0)), "y": LABELS}),
        "ragged.csv": ("0,1\n" * 20_000 + "1," + "1," * 300_000 + "1\n").encode(),
        "names.csv": ("0,1\n" * 30_000 + "x" * 100_000 + ",1\n").encode(),
        "classes.csv": "".join(f"c{i},1\n" for i in range(10_000)).encode(),
        "times.csv": b"id,t,v\n" + b"a,1,1\n" * 50_000 + b"a," + b"9" * 100_000 + b",1\n",
        "wide.csv": (
            ",".join(f"c{i}" for i in range(30_000)) + "\n" + "1," * 29_999 + "1\n"
        ).encode(),
        "long-cell.csv": b"a," + b"1" * 10**6 + b"\n",
        **parquets,
    }
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return [str(folder / name) for name in files]


@pytest.mark.skipif(sys.platform != "linux", reason="limits and peaks are told as Linux tells them")
@pytest.mark.process
def test_small_files_take_little_memory_and_time_and_end_no_process(tmp_path):
    # Of the bytes that are changed in a parquet file, six made pyarrow 26 abort() when it was asked
    # for the facts of a column.
    paths = bombs(tmp_path)
    assert max(os.path.getsize(path) for path in paths) < 2_000_000
    command = [sys.executable, "-c", CHILD, os.path.dirname(__file__), *paths]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    assert int(ended.stdout) < 500_000  # KB, of all together


def test_one_long_series_among_many_short_ones_pads_no_others_but_its_minibatch(monkeypatch):
    series = [np.zeros((1, 1))] * 1000 + [np.ones((10**6, 1))]
    labels = ["a", "b"] * 500 + ["a"]
    monkeypatch.setattr("rnnopt.tasks.user_data.limits.free_memory", lambda: 10**9)
    task = from_arrays(series, labels, test=(series[:2], labels[:2]), validation=0, seed=1)
    assert task.train.inputs.numel() == 1000 + 10**6
    config = RunConfig("data", model="gru", hidden=8, batch_size=16)
    sentence = (
        "a minibatch of 16 sequences, padded to the 1000000 steps of the longest, would take 1.6"
        " GB of memory, and 1 GB are free. Take a smaller --batch-size"
    )
    with pytest.raises(UserError, match=sentence):
        build_training(config, task)
    build_training(replace(config, batch_size=4), task)
    for place in ("tasks.user_data.limits", "tasks.storage"):
        monkeypatch.setattr(f"rnnopt.{place}.free_memory", lambda: 10**6)
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=10**6))
    with pytest.raises(ValueError, match=r"steps of 1 channels.* would take 4.004 MB of memory"):
        from_arrays(series, labels, seed=1, validation=0, test=(series[:2], labels[:2]))


def test_memory_is_counted_in_sizes_that_people_read():
    assert [size(n) for n in (0, 999, 1000, 1_234_567, 2**40)] == [
        "0 bytes", "999 bytes", "1 KB", "1.235 MB", "1.1 TB",
    ]  # fmt: skip
    assert free_memory() > 10**6
    check_memory(1, "nothing")
    check_declared(2**26, 1, "a small file")
    with pytest.raises(ValueError, match="the table claims to be 1 TB, and .* in 1 KB of file"):
        check_declared(10**12, 1000, "the table")


def test_a_pipe_or_device_is_refused(tmp_path):
    os.mkfifo(tmp_path / "a.csv")
    with pytest.raises(UserError, match="got a device or a pipe"):
        read(tmp_path / "a.csv", Columns())
    os.mkfifo(tmp_path / "X.npy")
    with pytest.raises(UserError, match="a folder needs"):
        read(tmp_path, Columns())


# -- names and numbers -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a\x1b[31mb", "a\nb", "a\0b", "a\u202eb", "a\u2028b", "x" * 300])
def test_names_that_steer_or_never_end_are_refused(name):
    x = [np.zeros((2, 1))] * 2
    with pytest.raises(ValueError, match="the name of a class must have"):
        recordings(x, np.array([name, "b"], dtype=object))
    with pytest.raises(ValueError, match="the name of a channel must have"):
        recordings(x, channels=[name])
    with pytest.raises(ValueError, match="the name of a series must have"):
        recordings(x, names=[name, "b"])


@pytest.mark.parametrize(
    "name", ["éß", "走る", "دویدن\u200cها", "[red]", "$x$", "=1+1", "-a", "a b"]
)
def test_names_of_any_script_are_kept(name):
    found = recordings([np.zeros((2, 1))] * 2, [name, "b"])
    assert found.targets.tolist() == [name, "b"]


@pytest.mark.parametrize(
    "targets", [["9007199254740992", "9007199254740993"], np.array([2**53 + 1, 2**53 + 2])]
)
def test_labels_that_floats_cannot_tell_apart_are_refused(targets):
    with pytest.raises(ValueError, match=r"the same number|within 2\^53"):
        recordings([np.zeros((2, 1))] * 2, targets)


@pytest.mark.parametrize("value", [np.inf, -np.inf, 1e101, -1e300])
def test_values_whose_squares_overflow_are_refused(value):
    with pytest.raises(ValueError, match="values must be finite and within 1e"):
        recordings([np.array([[0.0], [value]])])
    with pytest.raises(ValueError, match="targets must be finite and within 1e"):
        recordings([np.zeros((2, 1))] * 2, np.array([1.0, value]))


def test_members_are_those_of_each_class_in_order():
    classes = np.array(["b", "a", "b", "c", "a"])
    assert [index.tolist() for index in members(classes)] == [[1, 4], [0, 2], [3]]
    kept, held = hold_out(np.arange(10**5) % 40_000, 10**5, 0.2, seed=0)
    assert len(kept) + len(held) == 10**5


# -- saved runs ------------------------------------------------------------------------------------

json_values = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.floats(), st.text(max_size=5),
        st.sampled_from([0, 1, -1, 10**30, 10**400, "wide", "a\x1b"]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=5,
)  # fmt: skip


@pytest.mark.parametrize("name", ["config", "preparation", "report"])
def test_json_of_other_types_is_refused_in_a_sentence(name):
    head, _, tail = RIGHT[name][0].partition(b"\n" if name == "report" else b"\xff")
    right = json.loads(head)

    @settings(max_examples=30 if name == "report" else 150)
    @given(st.sampled_from(sorted(right)), json_values)
    def try_it(key, value):
        TARGETS[name](json.dumps(right | {key: value}).encode() + (b"\n" + tail if tail else b""))

    try_it()


@pytest.mark.parametrize("name", ["config", "preparation", "report"])
def test_json_a_hundred_thousand_levels_deep_is_refused(name):
    assert TARGETS[name](b"[" * 10**5) is False
    assert TARGETS[name](b'{"a":' * 10**5) is False


@given(st.text(max_size=40))
@settings(max_examples=150)
def test_any_specification_is_built_or_refused(text):
    TARGETS["specification"](text.encode("utf-8", "replace"))


VALUES = [
    "0",
    "-1",
    "nan",
    "inf",
    "1e400",
    "9" * 60,
    "true",
    "none",
    "a",
    "0..1",
    "-1..2",
    "[/]",
    "2",
]


@given(
    st.sampled_from(["adam", "frank-wolfe", "sgd", "muon", "asnaq", "adaqn", "lbfgs", "admm"]),
    st.sampled_from(["lr", "betas", "norm", "inner_steps", "memory", "momentum", "ball", "average",
                     "outer", "weight_decay", "eps", "radius", "adapt", "scale"]),
    st.sampled_from(VALUES),
)  # fmt: skip
@settings(max_examples=250)
def test_any_option_is_taken_or_refused(name, option, value):
    TARGETS["specification"](f"{name}:{option}={value}".encode())


def test_a_network_larger_than_its_weights_is_refused_before_it_is_built(monkeypatch):
    right = hostile.SequenceModel(**hostile.SETTINGS).state_dict()
    for settings_, weights in (
        ({**hostile.SETTINGS, "hidden_size": 10**5}, right),
        ({**hostile.SETTINGS, "layers": 10**9}, right),
        (hostile.SETTINGS, {name: w[:1].expand(10**6, *w.shape) for name, w in right.items()}),
        (hostile.SETTINGS, [1]),
        ([], right),
    ):
        with pytest.raises(ValueError, match="weights"):
            prediction.network(settings_, weights)


class Trap:
    """What, once unpickled, would end the process."""

    def __reduce__(self):
        return os._exit, (7,)


def test_a_checkpoint_that_would_execute_something_is_refused_without_advice(tmp_path):
    torch.save({"w": Trap()}, tmp_path / "best.pt")
    with pytest.raises(UserError, match="Python objects, which are never unpickled") as error:
        RunFolder(tmp_path).read_weights()
    check_sentence(error.value)
    assert "weights_only" not in str(error.value)


def test_a_saved_preparation_must_divide_by_something():
    saved = json.loads(RIGHT["preparation"][0])
    for change in (
        {"deviation": [0.0, 1.0]},
        {"mean": [0.0]},
        {"fill": [np.nan, 1.0]},
        {"subsample": 0},
        {"shortest": 10**400},
        {"channels": "ab"},
        {"kind": "words"},
        {"table": {"layout": "high"}},
        {"padded": None},
    ):
        with pytest.raises(UserError, match="must") as error:
            Preparation.from_dict(saved | change)
        check_sentence(error.value)


def test_right_files_go_on_being_read(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(CSV[0], encoding="utf-8-sig")
    assert harmless(path)
    path.write_text(CSV[0], encoding="utf-16")
    with pytest.raises(UserError, match="no UTF-8 text"):
        read(path, Columns())
    assert zlib.crc32(b"") == 0
    assert torch.get_num_threads() == 1
