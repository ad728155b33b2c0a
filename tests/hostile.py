"""What any input must do, however hostile: give data that pass the checks, or one clear sentence.

`TARGETS` has a function of bytes for each kind of input; hypothesis calls them in
test_hostile_files.py, a fuzzer that follows coverage in fuzz/run.py.
"""

import io
import json
import struct
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import recorder_files
import torch
from lab_recorders import bag, mdf, signal, tdms, texts, vectors

from rnnopt.config.errors import UserError
from rnnopt.config.run_config import RunConfig
from rnnopt.config.specs import parse
from rnnopt.layers.sequence_model import SequenceModel
from rnnopt.report.page import page
from rnnopt.report.tables import markdown
from rnnopt.runs.collection import group_runs, read_runs
from rnnopt.runs.files import write_json
from rnnopt.runs.folder import RunFolder
from rnnopt.runs.prediction import network
from rnnopt.tasks.names import STEERING
from rnnopt.tasks.text_files import TextFiles
from rnnopt.tasks.user_data.build import build
from rnnopt.tasks.user_data.overview import described
from rnnopt.tasks.user_data.preparation import Preparation
from rnnopt.tasks.user_data.readers import read
from rnnopt.tasks.user_data.readers.columns import Columns
from rnnopt.tasks.user_data.readers.intervals import with_interval_labels
from rnnopt.tasks.user_data.recordings import recordings
from rnnopt.training.registry import build_optimizer

# What Python and numpy say for themselves, which tells a user nothing.
VAGUE = (
    "values to unpack", "invalid literal for", "could not convert", "index out of range",
    "has no attribute", "'NoneType'", "cannot reshape", "Traceback", "unpack requires",
    "object is not", "too big", "not supported between", "unsupported operand",
)  # fmt: skip


def check_sentence(error: Exception) -> None:
    """Asserts that an error is one sentence that a user can read."""
    text = str(error)
    assert text.strip(), type(error)
    assert "\n" not in text, text
    assert len(text) < 2000, len(text)
    assert not any(vague in text for vague in VAGUE), text


def harmless(path: Path, columns: Columns | None = None) -> bool:
    """Reads a file and makes a task of it; whether there was one. Anything else fails."""
    try:
        parts = read(path, columns or Columns())
    except UserError as error:
        check_sentence(error)
        return False
    for part in filter(None, parts):
        assert len(part) == len(part.series) >= 1
        for one in part.series:
            assert one.dtype == np.float64
            assert one.shape[1] == len(part.channels) >= 1
            assert len(one) >= 1
            assert not np.isinf(one).any()
        assert not any(map(STEERING.search, part.channels + (part.names or ())))
        assert part.targets is None or len(part.targets) == len(part)
    train, test = parts
    try:
        described(train)
        if train.targets is None or (test is not None and test.targets is None):
            return True
        how = dict(validation=0.2, test_fraction=0.2, seed=0, target=None, name="fuzzed")
        task = build(train, test, **how, missing="zero")
    except ValueError as error:
        check_sentence(error)
        return False
    for examples in (task.train, task.validation, task.test):
        assert torch.isfinite(examples.inputs).all()
        assert torch.isfinite(examples.targets.double()).all()
    return True


def _file(ending: str, **beside: bytes) -> Callable[[bytes], bool]:
    """Bytes as a file; a sum of them chooses where its columns are looked for.

    `beside` are the contents of other files of that name by their endings.
    """

    def target(content: bytes) -> bool:
        choices = (
            Columns(), Columns(unlabelled=True), Columns(layout="long"), Columns(layout="wide"),
            Columns(label="label", id="id", time="t"), Columns(steps=3, optional=True),
            Columns(label="last"), Columns(label="1", decimal=","), Columns(decimal=",", time="t"),
            Columns(resample=20.0, label="annotations", varying=True),
        )  # fmt: skip
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, f"a{ending}")
            path.write_bytes(content)
            for other, its in beside.items():
                Path(folder, f"a.{other.replace('_', '-')}").write_bytes(its)
            return harmless(
                path, choices[max(0, zlib.crc32(content) % (2 * len(choices)) - len(choices))]
            )

    return target


def _recording(ending: str) -> Callable[[bytes], bool]:
    """Bytes as a file of one recording; nothing is asked for that it may lack."""

    def target(content: bytes) -> bool:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, f"a{ending}")
            path.write_bytes(content)
            return harmless(path, Columns())

    return target


def _intervals(content: bytes) -> bool:
    """The bytes as labels by intervals of two recordings."""
    data = recordings([np.zeros((9, 1)), np.zeros((5, 1))], names=["r0", "r1"])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "labels.csv")
        path.write_bytes(content)
        try:
            found, _ = with_interval_labels(path, data, None)
        except UserError as error:
            check_sentence(error)
            return False
    assert found.steps is not None
    assert [len(one) for one in found.steps.values] == [len(one) for one in found.series]
    return True


def npz_of(members: dict[str, bytes]) -> bytes:
    """A .npz file with these members."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return packed.getvalue()


def npy_of(array: np.ndarray) -> bytes:
    """An array as numpy.save writes it."""
    packed = io.BytesIO()
    np.save(packed, array, allow_pickle=True)
    return packed.getvalue()


def _fit(content: bytes) -> bool:
    """The bytes as a .fit file with a right check sum, without which little would be read."""
    return _file(".fit")(content[:-2] + struct.pack("<H", recorder_files.crc(content[:-2])))


def _annotations(content: bytes) -> bool:
    """The bytes as the annotations of a right record."""
    files = _wfdb()
    with tempfile.TemporaryDirectory() as folder:
        for ending, its in (files | {"atr": content}).items():
            Path(folder, f"a.{ending}").write_bytes(its)
        return harmless(Path(folder, "a.hea"), Columns(label="annotations", varying=True))


LABELS = npy_of(np.array(["up", "down"] * 4))


def _member(content: bytes) -> bool:
    """The bytes as the array X beside right labels, in an archive."""
    return _file(".npz")(npz_of({"X": content, "y": LABELS}))


def _specification(content: bytes) -> bool:
    text = content.decode("utf-8", "replace")
    weights = [
        ("w", torch.nn.Parameter(torch.zeros(3, 2))),
        ("b", torch.nn.Parameter(torch.ones(2))),
    ]
    try:
        parse(text)
        build_optimizer(text, weights)
    except UserError as error:
        check_sentence(error)
        return False
    return True


def _config(content: bytes) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "config.json").write_bytes(content)
        try:
            config = RunFolder.open(Path(folder)).read_config()
        except UserError as error:
            check_sentence(error)
            return False
        assert RunConfig.from_dict(config.to_dict()) == config
        return True


def _preparation(content: bytes) -> bool:
    data = recordings([np.zeros((3, 2)), np.ones((2, 2))])
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "data.json").write_bytes(content)
        try:
            preparation = Preparation.from_dict(RunFolder(Path(folder)).read_data())
            preparation.inputs(data)
        except (UserError, ValueError) as error:
            check_sentence(error)
            return False
        return True


def _report(content: bytes) -> bool:
    """The first line is the result, the others are the history."""
    result, _, history = content.partition(b"\n")
    with tempfile.TemporaryDirectory() as folder:
        run = RunFolder.create(Path(folder), RunConfig(task="digits-rows"))
        # One of before there were checksums, without which little of this would be read.
        Path(folder, "environment.json").unlink()
        Path(folder, "result.json").write_bytes(result)
        Path(folder, "metrics.jsonl").write_bytes(history)
        try:
            runs = read_runs([run])
        except UserError as error:
            check_sentence(error)
            return False
        for groups in group_runs(runs).values():
            markdown(groups)
        text = page(runs, datetime(2026, 5, 17, tzinfo=UTC), scores=False)
        assert "<script" not in text.lower()
        return True


SETTINGS = dict(input_size=2, hidden_size=3, output_size=2)


def _checkpoint(content: bytes) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "best.pt").write_bytes(content)
        try:
            network(SETTINGS, RunFolder(Path(folder)).read_weights())
        except UserError as error:
            check_sentence(error)
            return False
        except (ValueError, RuntimeError):  # of which `TrainedModel.open` makes a sentence
            return False
        return True


def _archive(content: bytes) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.zip")
        path.write_bytes(content)
        try:
            TextFiles(path, "top").table("numbers.txt", 2)
        except UserError as error:
            check_sentence(error)
            return False
        return True


TARGETS: dict[str, Callable[[bytes], bool]] = {
    "csv": _file(".csv"),
    "ts": _file(".ts"),
    "arff": _file(".arff"),
    "mat": _file(".mat"),
    "h5": _file(".h5"),
    "mf4": _recording(".mf4"),
    "tdms": _recording(".tdms"),
    "bag": _recording(".bag"),
    "mcap": _recording(".mcap"),
    "npz": _file(".npz"),
    "npy": _member,
    "parquet": _file(".parquet"),
    "edf": _file(".edf"),
    "bdf": _file(".bdf"),
    "wfdb": lambda content: _file(".hea", **_wfdb())(content),
    "wfdb-annotations": _annotations,
    "xdf": _file(".xdf"),
    "c3d": _file(".c3d"),
    "fit": _fit,
    "sigmf": _file(".sigmf-meta", sigmf_data=bytes(400)),
    "specification": _specification,
    "config": _config,
    "preparation": _preparation,
    "report": _report,
    "checkpoint": _checkpoint,
    "archive": _archive,
    "intervals": _intervals,
}


# -- right inputs, to begin with -------------------------------------------------------------------

CSV = [
    "up,1,2,3\ndown,4,5,6\n" * 6,
    "label,a,b,c\nup,1,2,3\ndown,4,?,6\n" + "up,0,0,1\ndown,1,2,0\n" * 5,
    "id,t,x,y2,label\n"
    + "".join(f"{i},{t},{i * t},{t},{'ud'[i % 2]}\n" for i in range(8) for t in (1, 2)),
    "id;time;v\na;2024-03-10T12:30:00Z;1\na;2024-03-10T12:31:00Z;2\nb;2024-03-10T12:30:00Z;1\n",
    ",0,1,2\n0,1.5,2,3\n1,4,5,6\n",
    "\ufeffsep=;\r\na;b;c;kind\r\n" + "1,5;2,25;0,125;up\r\n,5;-1,;3e-1;down\r\n" * 6,
    "id\tt\tx\tkind\n"
    + "".join(f"{i}\t{t * t},5\t{t},25\t{i % 2}\n" for i in range(8) for t in (2, 1)),
    "1.5,2,up\n3,4,5,down\n" * 6,
    '"up","1","2"\r\n"down","3","4"\r\n' * 5,
    "1 0.5 0.25\n2 0.5 0.125\n" * 6,
]
TS = [
    "@problemName x\n@univariate false\n@classLabel true up down\n@data\n"
    + "1,2,?:4,5,6:up\n7,8:0,0:down\n" * 6,
    "# about\n@targetLabel true\n@data\n" + "".join(f"{i},2,3:{i / 7}\n" for i in range(9)),
]


ARFF = [
    "% about\n@relation x\n@attribute a numeric\n@attribute 'b c' REAL\n"
    + "@attribute k {up,'go down'}\n@data\n" + "1,?,up\n2,3,'go down'\n" * 6,
    "@relation x\n@attribute r relational\n@attribute a numeric\n@attribute b numeric\n@end r\n"
    + "@attribute k {up,down}\n@data\n" + "'1,2\\n?,4',up\n\"5,6\\n7,8\",down\n" * 6,
]  # fmt: skip


def _matlab(x: np.ndarray) -> list[bytes]:
    from scipy.io import savemat

    cells = np.empty(8, object)
    for i in range(8):
        cells[i] = x[i, : 2 + i % 3]
    words = np.array(["up", "down"] * 4)
    found = []
    for variables in ({"X": x, "y": words}, {"X": cells, "y": words.astype(object)}):
        for packed in (True, False):
            sink = io.BytesIO()
            savemat(sink, variables, do_compression=packed)
            found.append(sink.getvalue())
    return found


def _hdf5(x: np.ndarray) -> list[bytes]:
    try:
        import h5py
    except ModuleNotFoundError:
        return []
    found = []
    for matlab in (False, True):
        sink = io.BytesIO()
        with h5py.File(sink, "w") as file:
            inputs = file.create_dataset("X", data=x.T if matlab else x, compression="gzip")
            if matlab:
                inputs.attrs["MATLAB_class"] = np.bytes_("double")
            file["y"] = [0, 1] * 4
        found.append(sink.getvalue())
    return found


def _of_recorders() -> dict[str, list[bytes]]:
    """Files of vehicles, LabVIEW and robots, of those whose library is here."""
    found: dict[str, list[bytes]] = {"mf4": [], "tdms": [], "bag": [], "mcap": []}
    time, values = np.arange(9) / 10, np.arange(9.0)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        if find_spec("asammdf"):
            words = np.array([b"a", b"bc", b"d"] * 3)
            groups = [[signal("v", values, time)], [signal("w", words, time, encoding="utf-8")]]
            found["mf4"].append(mdf(place / "a.mf4", *groups).read_bytes())
        if find_spec("nptdms"):
            rate = {"wf_increment": 0.1, "wf_start_offset": 0.0}
            for scale in (1, 2, 3):  # which columns are looked for depends on the content
                parts = [[("g", "v", scale * values, rate), ("g", "w", ["a", "b", "c"], rate)]] * 2
                found["tdms"].append(tdms(place / "a.tdms", *parts).read_bytes())
        if find_spec("rosbags"):
            for name in ("b", "c", "d"):
                bag(place / name, *vectors(), *texts(f"/{name}", (0, "x")))
                found["mcap"].append((place / name / f"{name}.mcap").read_bytes())
            found["bag"].append(bag(place / "a.bag", *vectors(), version=1).read_bytes())
    return found


def _parquets() -> list[bytes]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ModuleNotFoundError:
        return []
    words = pyarrow.array(["up", "down"] * 6)
    tables = [
        {"label": words, "a": [1.0, 2.0] * 6, "b": list(range(12))},
        {"label": words.dictionary_encode(), "a": [1.5, None] * 6},
        {"label": words, "x": [[1.0, 2.0], [3.0]] * 6, "z": [[1, None], [5]] * 6},
        {"id": [1, 1, 2, 2, 3, 3] * 2, "t": list(range(12)), "x": [0.5] * 12, "y2": [True] * 12},
    ]
    packed = []
    for table in tables:
        sink = io.BytesIO()
        parquet.write_table(pyarrow.table(table), sink)
        packed.append(sink.getvalue())
    return packed


VALUES = 50 * np.sin(np.arange(200) / 5)
NOTES = [(0.0, 1.0, "up"), (1.0, 0.5, "down"), (1.2, -1.0, "noise")]


@cache
def _wfdb() -> dict[str, bytes]:
    """The files of a WFDB record by their endings; {} without its library."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            import wfdb
        except ModuleNotFoundError:
            return {}
        both = dict(fs=100, units=["mV"] * 2, sig_name=["I", "V1"], fmt=["16"] * 2)
        wfdb.wrsamp("a", p_signal=np.stack([VALUES, -VALUES], 1), write_dir=folder, **both)
        wfdb.wrann("a", "atr", np.array([20, 90]), ["N", "V"], write_dir=folder)
        return {one.suffix[1:]: one.read_bytes() for one in Path(folder).iterdir()}


def _recordings() -> dict[str, list[bytes]]:
    """Files of recorders; none of kinds whose library is not installed."""
    found: dict[str, list[bytes]] = {"edf": [], "bdf": [], "c3d": []}
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("edf", "bdf"):
            path, width = Path(folder, f"a.{kind}"), 3 if kind == "bdf" else 2
            signals = [("EEG", "uV", 100, VALUES), ("Temp", "degC", 1, np.array([36.0, 37]))]
            try:
                whole = recorder_files.edf(path, signals, NOTES).read_bytes()
            except ModuleNotFoundError:
                continue
            alone = recorder_files.edf(path, signals[:1]).read_bytes()
            found[kind] = [whole, alone, recorder_files.with_gap(whole, 1, 9, width)]
        with suppress(ModuleNotFoundError):
            points, analog = VALUES[:60].reshape(3, 2, 10), np.zeros((0, 100))
            found["c3d"] = [
                recorder_files.c3d(Path(folder, "a.c3d"), points * scale, analog).read_bytes()
                for scale in (1, 2, 3)
            ]
        about = recorder_files.sigmf(
            Path(folder), VALUES, "cf32_le", [{"core:sample_start": 3, "core:label": "up"}]
        )
        found["sigmf"] = [about.read_bytes()]
    times = np.arange(60) / 20
    stream = dict(name="EEG", rate=20, values=np.stack([times, -times], 1), times=times)
    words = dict(name="task", rate=0, values=["up", "down"], times=[0.0, 1.0])
    gaze = dict(name="gaze", rate=10, values=times[:20, None], times=times[:40:2], kind="float32")
    found["xdf"] = [recorder_files.xdf([stream, words]), recorder_files.xdf([stream, words, gaze])]
    rows = [dict(time=i, heart_rate=60 + i if i % 5 else None) for i in range(30)]
    found["fit"] = [recorder_files.fit(rows, laps=[10, 29])]
    record = _wfdb()
    found["wfdb"] = [record["hea"] + b"# %d\n" % i for i in range(4)] if record else []
    found["wfdb-annotations"] = [record["atr"]] if record else []
    for kind, library in (("xdf", "pyxdf"), ("fit", "fitdecode"), ("sigmf", "sigmf")):
        if find_spec(library) is None:
            found[kind] = []
    return found


def _saved_preparation() -> bytes:
    data = recordings(
        [np.arange(6.0).reshape(3, 2) * i for i in (1, 2, 3, 4)], ["up", "down", "up", "down"]
    )
    return json.dumps(asdict(Preparation.learn(data))).encode()


def _saved_weights() -> bytes:
    packed = io.BytesIO()
    torch.save(SequenceModel(**SETTINGS).state_dict(), packed)
    return packed.getvalue()


def _zipped() -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("top/numbers.txt", "1 2\n3 4\n")
    return packed.getvalue()


def examples() -> dict[str, list[bytes]]:
    """A few inputs of each target that are right."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(8, 4, 2))
    kinds = (x, x[..., 0].astype(">f4"), np.asfortranarray(x), x[..., 0].astype(int))
    result = dict(
        status="out of budget", summary="s", loss="mse", metric="mse", target=0.1,
        gradient_evaluations=20, seconds=2.0, to_target={}, test_metric=0.5, test_loss=1.0,
        best={"validation_metric": 0.5, "gradient_evaluations": 10.0},
    )  # fmt: skip
    looks = [
        dict(gradient_evaluations=i, seconds=i, train_loss=1 / (i + 1), validation_metric=0.5)
        for i in range(3)
    ]
    report = "\n".join(map(json.dumps, [result, *looks])).encode()
    with tempfile.TemporaryDirectory() as folder:
        write_json(Path(folder, "c"), RunConfig().to_dict())
        config = Path(folder, "c").read_bytes()
    specifications = (
        "adam:lr=0.003,clip=1", "frank-wolfe:norm=inf,inner_steps=5", "sgd:momentum=0.9",
        "muon:betas=0.9..0.95", "asnaq:memory=3", "lbfgs", "frank-wolfe:outer=adam,average=none",
    )  # fmt: skip
    return {
        "csv": [text.encode() for text in CSV],
        "intervals": [
            b"file,start,end,label\nr0,0,3,a\nr1,0,5,b\nr0,3,9,b\n",
            b"recording;start;end;label\nr1;0,5;2,5;1\nr0;1;2;2\n",
        ],
        "ts": [text.encode() for text in TS],
        "arff": [text.encode() for text in ARFF],
        "mat": _matlab(x),
        "h5": _hdf5(x),
        **_of_recorders(),
        "npz": [npz_of({"X": npy_of(x), "y": LABELS}),
                npz_of({"X_train": npy_of(x), "y_train": LABELS, "X_test": npy_of(x[:2]),
                        "y_test": npy_of(np.array(["up", "down"])),
                        "lengths_train": npy_of(np.array([4, 3] * 4))})],
        "npy": [npy_of(kind) for kind in kinds],
        "parquet": _parquets(),
        "specification": [one.encode() for one in specifications],
        "config": [config],
        "preparation": [_saved_preparation()],
        "report": [report],
        "checkpoint": [_saved_weights()],
        "archive": [_zipped()],
        **_recordings(),
    }  # fmt: skip
