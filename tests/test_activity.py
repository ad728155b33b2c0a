"""What the activity tasks promise: binary losses, noise, persons kept apart, files read or refused.

Everything runs on small files made here, but for the tests of the real HAPT windows, which run
where the environment variable RNNOPT_DATA names a folder that has them. What every task and every
download promises is in test_tasks.py.
"""

import hashlib
import math
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from messages import naming

from rnnopt.config.errors import UserError
from rnnopt.tasks import TASKS, Batches, Task, build_task, hapt, text_files, uci_har
from rnnopt.tasks.activity import add_noise, answers, validation_persons
from rnnopt.tasks.examples import Examples, select, split_examples, standardize

CPU = torch.device("cpu")
SIX, BINARY = ["har6", "hapt6"], ["har2", "hapt2"]


@pytest.fixture(autouse=True)
def no_data(tmp_path, monkeypatch):
    """Neither a data folder nor a cache, unless a test makes one."""
    monkeypatch.delenv("RNNOPT_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


class Echo(torch.nn.Module):
    """Answers with the inputs, at the last step or at each."""

    def __init__(self, every=False):
        super().__init__()
        self.every = every

    def forward(self, inputs, lengths=None):
        return inputs if self.every else inputs[-1]


def make_task(examples, loss="mse", output_size=1):
    """A task over the given examples."""
    return Task("task", "", 1, output_size, loss, 0.5, examples, examples, examples, len(examples))


# -- binary losses --------------------------------------------------------------------------------

LOGITS = torch.tensor([[-2.0], [0.25], [0.75], [3.0]])
TRUTH = torch.tensor([[0.0], [1.0], [1.0], [0.0]])


def test_binary_mse_is_the_mean_square_and_its_accuracy_is_at_a_half():
    # Errors 2, 3/4, 1/4 and 3; called 0 0 1 1 where 0 1 1 0 is true.
    examples = Examples(LOGITS[:, None], TRUTH)
    loss, metric = make_task(examples, "binary-mse").evaluate(Echo(), examples, CPU)
    assert loss == pytest.approx((4 + 0.5625 + 0.0625 + 9) / 4)
    assert metric == pytest.approx(2 / 4)


def test_binary_cross_entropy_takes_logits_and_its_accuracy_is_at_zero():
    # Called 0 1 1 1. A logit x costs log(1 + e^-x) if 1 is true and log(1 + e^x) if 0 is.
    examples = Examples(LOGITS[:, None], TRUTH)
    loss, metric = make_task(examples, "binary-cross-entropy").evaluate(Echo(), examples, CPU)
    costs = [math.log1p(math.exp(x)) for x in (-2, -0.25, -0.75, 3)]
    assert loss == pytest.approx(sum(costs) / 4)
    assert metric == pytest.approx(3 / 4)


def test_on_the_threshold_the_answer_is_0():
    zero = torch.zeros(1, 1)
    task = make_task(Examples(zero[None], zero))
    for loss, threshold in (("binary-mse", 0.5), ("binary-cross-entropy", 0.0)):
        task = make_task(task.train, loss)
        assert task.right(zero + threshold, zero).all()
        assert not task.right(zero + threshold, zero + 1).any()


@pytest.mark.parametrize("loss", ["binary-mse", "binary-cross-entropy"])
def test_a_binary_answer_at_every_step_counts_at_the_true_steps_alone(loss):
    # Sequence 0, of class 1, has two true steps, answered 1 and 0; sequence 1, of class 0, has one.
    inputs = torch.tensor([[[2.0], [-3.0], [9.0]], [[-1.0], [9.0], [9.0]]])
    lengths = torch.tensor([2, 1])
    examples = Examples(inputs, torch.tensor([[1.0], [0.0]]), lengths)
    found, metric = make_task(examples, loss).evaluate(Echo(every=True), examples, CPU)
    assert metric == pytest.approx(2 / 3)
    costs = [1, 16, 1]
    if loss == "binary-cross-entropy":
        costs = [math.log1p(math.exp(x)) for x in (-2, 3, -1)]
    assert found == pytest.approx(sum(costs) / 3)


@pytest.mark.parametrize("loss", ["binary-mse", "binary-cross-entropy"])
def test_accuracy_of_two_classes_is_better_the_higher(loss):
    task = make_task(Examples(LOGITS[:, None], TRUTH), loss)
    assert task.metric == "accuracy"
    assert task.is_better(0.6, 0.5)
    assert not task.is_better(0.5, 0.6)
    assert not task.is_better(math.nan, 0.5)
    assert task.reached(0.5)
    assert task.reached(1.0)
    assert not task.reached(0.4)


def test_even_labels_are_class_1():
    # As in the FastGRNN paper: upstairs 2, sitting 4 and laying 6 against the rest.
    labels = torch.tensor([1, 2, 3, 4, 5, 6])
    for loss in ("binary-mse", "binary-cross-entropy"):
        targets = answers(labels, True, loss)
        assert targets.dtype == torch.float32
        assert targets.tolist() == [[0], [1], [0], [1], [0], [1]]
    assert answers(labels, True, "cross-entropy").tolist() == [0, 1, 0, 1, 0, 1]
    assert answers(labels, False, "cross-entropy").tolist() == [0, 1, 2, 3, 4, 5]
    assert answers(labels, True, "cross-entropy").dtype == torch.long


# -- standardising by channel ---------------------------------------------------------------------


def test_channels_are_standardised_one_by_one_by_the_first_part():
    # Channel 0 has mean 2 and (unbiased) deviation √2, channel 1 has 20 and 10 √2.
    first = torch.tensor([[[1.0, 10.0]], [[3.0, 30.0]]])
    parts = [Examples(part, torch.zeros(len(part))) for part in (first, torch.zeros(1, 1, 2))]
    one, other = standardize(parts, per_channel=True)
    expected = torch.tensor([[-1.0, -1.0], [1.0, 1.0]])[:, None] / math.sqrt(2)
    torch.testing.assert_close(one.inputs, expected)
    torch.testing.assert_close(other.inputs.flatten(), torch.tensor([-2.0, -2.0]) / math.sqrt(2))


def test_a_channel_that_is_constant_in_training_becomes_zero_there():
    # 0.1 has no exact binary form, and 0 stays 0 none the less.
    inputs = torch.full((1000, 7, 2), 0.1)
    inputs[:, :, 1] = torch.arange(7.0)
    other = torch.tensor([[[0.6, 3.0]]])
    parts = [Examples(inputs, torch.zeros(1000)), Examples(other, torch.zeros(1))]
    for first, second in (standardize(parts, per_channel=True), standardize(parts[:1] * 2)):
        assert first.inputs.isfinite().all()
        assert second.inputs.isfinite().all()
    first, second = standardize(parts, per_channel=True)
    assert (first.inputs[..., 0] == 0).all()
    assert float(first.inputs[..., 1].std()) == pytest.approx(1)
    torch.testing.assert_close(second.inputs.flatten(), torch.tensor([0.5, 0.0]))


# -- noise ----------------------------------------------------------------------------------------


def quiet(count=40, length=50):
    """A task whose inputs are all 0, so that a batch shows its noise; targets are numbered."""
    examples = Examples(torch.zeros(count, length, 3), torch.arange(count))
    return make_task(examples, "cross-entropy", count)


def noise_of(batches, count):
    """What the next batches hold, and which examples they are."""
    drawn = [batches.draw() for _ in range(count)]
    return [batch.inputs for batch in drawn], [batch.targets.tolist() for batch in drawn]


def test_fixed_noise_is_the_same_at_every_build_and_in_every_epoch():
    one, other = (add_noise(quiet(), 2.0, "fixed") for _ in range(2))
    for part in ("train", "validation", "test"):
        assert torch.equal(getattr(one, part).inputs, getattr(other, part).inputs)
    by_epoch = []
    batches = Batches(one, 40, seed=0)  # one batch an epoch
    for _ in range(2):
        batch = batches.draw()
        by_epoch.append(batch.inputs[:, batch.targets.argsort()])
    assert torch.equal(*by_epoch)


def test_the_parts_have_noise_of_their_own():
    task = add_noise(quiet(), 2.0, "fixed")
    assert not torch.equal(task.train.inputs, task.validation.inputs)
    assert not torch.equal(task.validation.inputs, task.test.inputs)


@pytest.mark.parametrize("noise", ["fixed", "fresh"])
def test_noise_has_the_variance_asked_for(noise):
    # The variance of n normal numbers of variance 2 has deviation 2 √(2/n) = 0.0082 at
    # n = 200 · 200 · 3; five of those. The mean has √(2/n) = 0.0041.
    task = add_noise(quiet(200, 200), 2.0, noise)
    for inputs in (Batches(task, 200, 0).draw().inputs, task.validation.inputs, task.test.inputs):
        assert float(inputs.var()) == pytest.approx(2, abs=0.041)
        assert float(inputs.mean()) == pytest.approx(0, abs=0.021)
    task = add_noise(quiet(200, 200), 0.5, noise)
    assert float(Batches(task, 200, 0).draw().inputs.var()) == pytest.approx(0.5, abs=0.011)


def test_noise_is_added_to_the_signal():
    plain = quiet()
    loud = make_task(Examples(plain.train.inputs + 7, plain.train.targets), "cross-entropy", 40)
    for noise in ("fixed", "fresh"):
        one, other = (Batches(add_noise(task, 2.0, noise), 9, 0).draw() for task in (plain, loud))
        torch.testing.assert_close(one.inputs + 7, other.inputs)


def test_fresh_noise_differs_by_epoch_and_validation_noise_is_that_of_fixed_noise():
    fresh, fixed = add_noise(quiet(), 2.0, "fresh"), add_noise(quiet(), 2.0, "fixed")
    assert torch.equal(fresh.validation.inputs, fixed.validation.inputs)
    assert torch.equal(fresh.test.inputs, fixed.test.inputs)
    assert (fresh.train.inputs == 0).all()  # what is stored stays clean
    batches = Batches(fresh, 40, seed=0)  # one batch an epoch
    one, other = batches.draw(), batches.draw()
    sorted_one, sorted_other = (b.inputs[:, b.targets.argsort()] for b in (one, other))
    assert (sorted_one != sorted_other).float().mean() > 0.99


def test_fresh_noise_is_the_same_for_the_same_seed_whatever_else_is_drawn():
    task = add_noise(quiet(), 2.0, "fresh")
    torch.manual_seed(1)
    one, order = noise_of(Batches(task, 16, seed=5), 7)
    torch.manual_seed(2)
    other, same_order = noise_of(Batches(task, 16, seed=5), 7)
    third, _ = noise_of(Batches(task, 16, seed=6), 7)
    assert order == same_order
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(one, third, strict=True))


@pytest.mark.parametrize("done", range(5))
def test_fresh_noise_goes_on_exactly_where_it_was_saved(done):
    task = add_noise(quiet(), 2.0, "fresh")
    batches = Batches(task, 16, seed=0)  # 3 batches an epoch
    noise_of(batches, done)
    state = batches.state_dict()
    expected, order = noise_of(batches, 7)
    later = Batches(task, 16, seed=1)
    noise_of(later, 2)
    for _ in range(2):
        later.load_state_dict(state)
        found, found_order = noise_of(later, 7)
        assert found_order == order
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_fresh_noise_survives_moving_choosing_and_standardising():
    task = add_noise(quiet(), 2.0, "fresh")
    deviation = math.sqrt(2)
    assert task.to(CPU).train.noise == deviation
    assert select(task.train, torch.tensor([3, 1])).noise == deviation
    assert split_examples(task.train, [3, 2], seed=0)[1].noise == deviation
    assert standardize([task.train])[0].noise == deviation


def test_noise_leaves_the_global_generator_and_other_batches_alone():
    before = torch.get_rng_state()
    for noise in ("fixed", "fresh"):
        Batches(add_noise(quiet(), 2.0, noise), 4, seed=0).draw()
    assert torch.equal(torch.get_rng_state(), before)
    plain, zero = (Batches(t, 16, seed=0) for t in (quiet(), add_noise(quiet(), 0, "fresh")))
    assert noise_of(plain, 7)[1] == noise_of(zero, 7)[1]


@pytest.mark.parametrize("noise", ["fixed", "fresh"])
def test_noise_is_in_the_summary(noise):
    summary = add_noise(quiet(), 1.5, noise).summary
    assert "1.5" in summary
    assert noise in summary


# -- persons --------------------------------------------------------------------------------------


def test_a_fifth_of_the_persons_is_for_validation_whatever_their_windows():
    persons = torch.arange(1, 22)
    mask = validation_persons(persons)
    assert int(mask.sum()) == 4  # of 21
    held_out = set(persons[mask].tolist())
    # Other numbers of windows, in another order: the same persons, and all of their windows.
    shuffled = persons.repeat_interleave(persons)[torch.randperm(231)]
    mask = validation_persons(shuffled)
    assert set(shuffled[mask].tolist()) == held_out
    assert set(shuffled[~mask].tolist()).isdisjoint(held_out)
    assert int(validation_persons(torch.tensor([4, 4, 7])).sum()) in (1, 2)  # one of two persons


# -- UCI HAR --------------------------------------------------------------------------------------

PERSONS = {"train": [1, 3, 3, 5, 5, 6, 7, 7, 7], "test": [2, 4, 4]}


def uci_texts():
    """Name → text of a small UCI HAR; signal s of window w at step t is 100 s + 10 w + t/1000."""
    texts = {}
    for part, persons in PERSONS.items():
        for s, signal in enumerate(uci_har.SIGNALS):
            rows = (
                "".join(f"  {100 * s + 10 * w + t / 1000:.7e}" for t in range(128))
                for w in range(len(persons))
            )
            texts[f"{part}/Inertial Signals/{signal}_{part}.txt"] = "\n".join(rows) + "\n"
        texts[f"{part}/y_{part}.txt"] = "".join(f"{w % 6 + 1}\n" for w in range(len(persons)))
        texts[f"{part}/subject_{part}.txt"] = "".join(f"{person}\n" for person in persons)
    return texts


def put(path, texts, encoding="utf-8"):
    """Writes files into a folder, or into a zip archive if the path ends so; returns the path."""
    for name, text in texts.items():
        content = text if isinstance(text, bytes) else text.encode(encoding)
        if path.suffix == ".zip":
            path.parent.mkdir(parents=True, exist_ok=True)
            with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
                archive.writestr(name, content)
        else:
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(content)
    return path


def below(top, texts):
    """The files moved below a folder, with the litter that an archive made on a Mac has."""
    moved = {f"{top}/{name}": text for name, text in texts.items()}
    litter = {f"__MACOSX/{top}/{Path(name).parent}/._{Path(name).name}": "" for name in texts}
    return moved | litter


@pytest.fixture
def small_uci(monkeypatch):
    """The sizes of the small UCI HAR in place of the real ones."""
    sizes = {part: (len(persons), len(set(persons))) for part, persons in PERSONS.items()}
    monkeypatch.setattr(uci_har, "COUNTS", sizes)


def check_uci(data):
    """That the arrays are those of the small UCI HAR."""
    assert data["X_train"].shape == (9, 128, 9)
    assert data["X_test"].shape == (3, 128, 9)
    assert data["X_train"].dtype == np.float32
    for part, persons in PERSONS.items():
        w, t, s = np.indices(data[f"X_{part}"].shape)
        np.testing.assert_allclose(data[f"X_{part}"], 100 * s + 10 * w + t / 1000, rtol=1e-6)
        assert data[f"subject_{part}"].tolist() == persons
        assert data[f"y_{part}"].tolist() == [i % 6 + 1 for i in range(len(persons))]


def test_the_channels_of_uci_har_are_body_gyro_and_total():
    assert uci_har.SIGNALS == (
        "body_acc_x", "body_acc_y", "body_acc_z", "body_gyro_x", "body_gyro_y", "body_gyro_z",
        "total_acc_x", "total_acc_y", "total_acc_z",
    )  # fmt: skip
    assert uci_har.COUNTS == {"train": (7352, 21), "test": (2947, 9)}


def test_uci_har_is_read_from_a_folder_or_an_archive(small_uci, tmp_path):
    texts = uci_texts()
    moved = below(uci_har.TOP, texts)
    put(tmp_path / "parent", moved)
    put(tmp_path / "holder" / f"{uci_har.TOP}.zip", moved)
    for place in (
        put(tmp_path / "unpacked", texts),
        tmp_path / "parent",
        tmp_path / "parent" / uci_har.TOP,
        tmp_path / "holder",
        tmp_path / "holder" / f"{uci_har.TOP}.zip",
        put(tmp_path / "flat.zip", texts),
    ):
        check_uci(uci_har.read_uci_har(str(place)))
    assert not (tmp_path / "holder" / uci_har.TOP).exists()  # nothing was unpacked


def test_uci_har_is_looked_for_in_the_data_folder_and_else_downloaded(
    small_uci, tmp_path, monkeypatch
):
    monkeypatch.setenv("RNNOPT_DATA", str(tmp_path / "data"))
    asked = []
    packed = put(tmp_path / "elsewhere.zip", below(uci_har.TOP, uci_texts()))
    (tmp_path / "data").mkdir()
    monkeypatch.setattr(uci_har, "find", lambda *arguments: asked.append(arguments) or packed)
    check_uci(uci_har.read_uci_har())
    ((name, mirrors, size, sha256),) = asked
    assert name == "har/UCI HAR Dataset.zip"
    assert len(mirrors) == 2
    assert (size, sha256[:8], len(sha256)) == (60_999_314, "2045e435", 64)
    put(tmp_path / "data" / "har" / uci_har.TOP, uci_texts())
    check_uci(uci_har.read_uci_har())
    assert len(asked) == 1  # the unpacked folder was there


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-8-sig"])
def test_text_in_another_encoding_is_read_alike(small_uci, tmp_path, encoding):
    texts = uci_texts()
    for name in ("train/y_train.txt", "test/subject_test.txt", "test/y_test.txt"):
        texts[name] = texts[name].replace("\n", "\r\n").encode(encoding)
    check_uci(uci_har.read_uci_har(str(put(tmp_path / "folder", texts))))
    check_uci(uci_har.read_uci_har(str(put(tmp_path / "packed.zip", texts))))


SIGNAL = "train/Inertial Signals/body_gyro_y_train.txt"


def drop_a_number(text):
    return text.replace("  ", "", 1).split("  ", 1)[1]


@pytest.mark.parametrize("kind", ["folder", "packed.zip"])
@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (SIGNAL, drop_a_number, "9 rows of 128 numbers, got 127 in a row"),
        (SIGNAL, lambda text: text + text.splitlines()[0], "9 rows of 128 numbers, got 10 rows"),
        (SIGNAL, lambda text: "", "9 rows of 128 numbers, got 0 rows"),
        (SIGNAL, lambda text: text.replace("4.0000000e+02", "nan"), "finite numbers"),
        (SIGNAL, lambda text: text.replace("4.0000000e+02", "1e999"), "finite numbers"),
        (SIGNAL, lambda text: text.replace("4.0000000e+02", "four"), "must hold numbers.*four"),
        (SIGNAL, lambda text: b"\x80\x81 1 2", "must be text"),
        (SIGNAL, lambda text: None, "which is missing"),
        ("train/y_train.txt", lambda text: text.replace("6", "7"), "labels 1 to 6, got 1 to 7"),
        ("test/y_test.txt", lambda text: text.replace("1", "0"), "labels 1 to 6, got 0 to 3"),
        ("test/y_test.txt", lambda text: text.replace("1", "1.5"), "must hold integers"),
        ("test/subject_test.txt", lambda text: text.replace("4", "2"), "2 persons, got 1"),
        ("test/subject_test.txt", lambda text: text.replace("4", "3"), r"both parts, got \[3\]"),
    ],
)
def test_a_bad_file_of_uci_har_is_refused_in_one_line(
    small_uci, tmp_path, kind, name, change, message
):
    texts = uci_texts()
    texts[name] = change(texts[name])
    if texts[name] is None:
        del texts[name]
    place = put(tmp_path / kind, texts)
    with pytest.raises(UserError, match=message) as error:
        uci_har.read_uci_har(str(place))
    assert str(place) in str(error.value)
    assert "\n" not in str(error.value)
    if "both parts" not in message:
        assert Path(name).name in str(error.value)


def test_a_place_without_uci_har_is_refused(tmp_path):
    with pytest.raises(UserError, match="got '.*nowhere'"):
        uci_har.read_uci_har(str(tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="body_acc_x_train.txt, which is missing"):
        uci_har.read_uci_har(str(tmp_path / "empty"))


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x05\x06" + bytes(17)])
def test_a_file_that_is_no_archive_is_refused(tmp_path, content):
    path = tmp_path / "file.zip"
    path.write_bytes(content)
    for read in (uci_har.read_uci_har, hapt.read_hapt):
        with pytest.raises(UserError, match=str(path)):
            read(str(path))


def damaged(path, offset, value):
    """An archive of one file, some bytes of whose entry in the directory are changed."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.txt", "1 2 3\n" * 1000)
    content = bytearray(path.read_bytes())
    start = content.index(b"PK\x01\x02") + offset
    content[start : start + len(value)] = value
    path.write_bytes(content)
    return text_files.TextFiles(path, "top")


def test_an_archive_that_would_unpack_to_absurd_sizes_is_not_unpacked(tmp_path, monkeypatch):
    announced = damaged(tmp_path / "announced.zip", 24, (1 << 31).to_bytes(4, "little"))
    with pytest.raises(UserError, match=naming("a.txt", "2147483648", "67108864")):
        announced.text("a.txt")
    monkeypatch.setattr(text_files, "LARGEST", 5999)
    honest = damaged(tmp_path / "honest.zip", 0, b"PK")
    with pytest.raises(UserError, match="unpacks to 6000 bytes, and 5999"):
        honest.text("a.txt")
    (tmp_path / "a.txt").write_text("1 2 3\n" * 1000)
    with pytest.raises(UserError, match="more than the 5999 bytes"):
        text_files.TextFiles(tmp_path, "top").text("a.txt")
    monkeypatch.setattr(text_files, "LARGEST", 6000)
    assert (
        len(honest.text("a.txt")) == len(text_files.TextFiles(tmp_path, "").text("a.txt")) == 6000
    )


@pytest.mark.parametrize(
    ("offset", "value"),
    [(24, b"\x09\0\0\0"), (10, b"\x63\0"), (8, b"\1\0"), (16, b"\0\0\0\0"), (20, b"\x09\0\0\0")],
    ids=["size that lies", "unknown packing", "encrypted", "wrong checksum", "cut short"],
)
def test_a_damaged_archive_is_refused_by_name(tmp_path, offset, value):
    files = damaged(tmp_path / "damaged.zip", offset, value)
    with pytest.raises(UserError, match=f"a.txt in {files.path}"):
        files.text("a.txt")


# -- HAPT: the prepared file ----------------------------------------------------------------------


def hapt_arrays():
    """Small arrays in the form of the prepared file."""
    shapes = {"train": (6, [1, 3, 5, 6, 7, 7]), "test": (2, [2, 4])}
    arrays = {}
    for part, (count, persons) in shapes.items():
        values = np.random.default_rng(count).normal(3, 2, (count, 128, 9))
        arrays[f"X_{part}"] = values.astype(np.float32)
        arrays[f"y_{part}"] = np.arange(count) % 6 + 1
        arrays[f"subject_{part}"] = np.array(persons)
    return arrays


def as_prepared(monkeypatch, arrays):
    """Takes the arrays' shapes, types and hash for those of the prepared file."""
    described = {name: (arrays[name].shape, str(arrays[name].dtype)) for name in hapt.ARRAYS}
    digest = hashlib.sha256(b"".join(arrays[name].tobytes() for name in hapt.ARRAYS))
    monkeypatch.setattr(hapt, "ARRAYS", described)
    monkeypatch.setattr(hapt, "SHA256", digest.hexdigest())


@pytest.fixture
def prepared(tmp_path, monkeypatch):
    """A small prepared file, in the data folder."""
    arrays = hapt_arrays()
    as_prepared(monkeypatch, arrays)
    path = tmp_path / "data" / "har" / "har.npz"
    path.parent.mkdir(parents=True)
    np.savez_compressed(path, **arrays)
    monkeypatch.setenv("RNNOPT_DATA", str(tmp_path / "data"))
    return path


def test_the_prepared_file_is_found_in_the_data_folder_the_cache_or_by_name(
    prepared, tmp_path, monkeypatch
):
    places = [None, str(prepared), str(prepared.parent)]
    for place in places:
        found = hapt.read_hapt(place)
        assert all(np.array_equal(found[name], array) for name, array in hapt_arrays().items())
    monkeypatch.delenv("RNNOPT_DATA")
    (tmp_path / "cache" / "rnnopt").mkdir(parents=True)
    prepared.parent.rename(tmp_path / "cache" / "rnnopt" / "har")
    assert len(hapt.read_hapt()["X_train"]) == 6


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("X_test", lambda x: np.where(x == x.max(), np.nan, x), "sha256"),
        ("y_train", lambda x: x[::-1], "sha256"),
        ("X_test", lambda x: x[:1], r"X_test \(2, 128, 9\) of float32, got \(1, 128, 9\)"),
        ("X_train", lambda x: x.astype(np.float64), "of float32, got .* of float64"),
        ("y_test", lambda x: x.astype(object), "never unpickled"),
        ("y_test", lambda x: None, "y_test"),
    ],
)
def test_other_arrays_than_the_prepared_are_refused(prepared, name, change, message):
    arrays = hapt_arrays()
    arrays[name] = change(arrays[name])
    np.savez(prepared, **{key: array for key, array in arrays.items() if array is not None})
    with pytest.raises(UserError, match=message) as error:
        hapt.read_hapt()
    assert str(prepared) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_prepared_file_that_is_broken_or_absurdly_large_is_refused(prepared, monkeypatch):
    whole = prepared.read_bytes()
    broken = [b"", b"text", whole[:-9], whole[: len(whole) // 2]]
    broken += [whole[:at] + b"\xff" * 40 + whole[at + 40 :] for at in range(0, len(whole), 4999)]
    for content in broken:
        prepared.write_bytes(content)
        with pytest.raises(UserError, match=str(prepared)):
            hapt.read_hapt()
    np.save(prepared.with_name("array.npy"), np.zeros(3))
    prepared.with_name("array.npy").replace(prepared)
    with pytest.raises(UserError, match=str(prepared)):
        hapt.read_hapt()
    prepared.write_bytes(whole)
    monkeypatch.setattr(hapt, "LARGEST", 1000)
    with pytest.raises(UserError, match="unpacks to .* and 1000 are allowed"):
        hapt.read_hapt()


def test_without_any_hapt_file_the_error_says_what_to_put_where(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"har\.npz.*HAPT%20Data%20Set\.zip.*rnnopt/har") as error:
        build_task("hapt2")
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match=str(tmp_path / "no")):
        build_task(f"hapt2:folder={tmp_path / 'no'}")
    monkeypatch.setenv("RNNOPT_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="RNNOPT_DATA must name a folder"):
        build_task("hapt2")


# -- HAPT: the recordings -------------------------------------------------------------------------


def test_a_constant_signal_is_all_gravity_from_the_first_sample_on():
    acceleration = np.tile([0.25, -1.0, 0.5], (300, 1))
    speed = np.tile([0.125, 0.0, -2.0], (300, 1))
    expected = [0, 0, 0, 0.125, 0, -2, 0.25, -1, 0.5]
    assert np.array_equal(hapt.filtered(acceleration, speed), np.tile(expected, (300, 1)))


def test_gravity_is_the_slow_part_of_the_acceleration_and_the_body_the_rest():
    # A sine of 2 Hz passes 20 Hz and not 0.3 Hz: |H(f)| = 1 / √(1 + (tan(πf/50)/tan(πc/50))^6) is
    # 1.0000 and 0.0033. Its amplitude of 0.1 loses 1 - cos(2π·2/50) = 3 % at the median's most.
    t = np.arange(3000) / 50
    acceleration = np.zeros((3000, 3))
    acceleration[:, 0] = 0.8 + 0.1 * np.sin(2 * np.pi * 2 * t)
    signals = hapt.filtered(acceleration, acceleration)[1500:]  # long after the start
    body, angular, total = signals[:, 0], signals[:, 3], signals[:, 6]
    assert np.array_equal(angular, total)
    assert abs((total - body) - 0.8).max() < 0.001
    assert abs(body).max() == pytest.approx(0.1, rel=0.04)
    assert body.std() == pytest.approx(0.1 / math.sqrt(2), rel=0.04)
    assert (signals[:, [1, 2, 4, 5, 7, 8]] == 0).all()


@pytest.mark.parametrize("hertz", [0.3, 20])
@pytest.mark.parametrize("ratio", [0.5, 1, 1.1])
def test_the_low_pass_has_the_gain_of_a_third_order_butterworth_filter(hertz, ratio):
    t = np.arange(20_000) / 50
    frequency = ratio * hertz
    found = hapt.low_pass(np.sin(2 * np.pi * frequency * t)[:, None], hertz)[10_000:, 0]
    warped = math.tan(math.pi * frequency / 50) / math.tan(math.pi * hertz / 50)
    assert found.std() * math.sqrt(2) == pytest.approx(1 / math.sqrt(1 + warped**6), rel=1e-3)


def test_the_low_pass_runs_forward_only():
    signals = np.ones((100, 2))
    signals[60:, 1] = 5
    found = hapt.low_pass(signals, 20)
    np.testing.assert_allclose(found[:60], 1, rtol=1e-12)
    assert found[60, 1] > 1.1
    assert found[99, 1] == pytest.approx(5, abs=1e-4)


def test_single_samples_that_stick_out_are_taken_away():
    raw = np.zeros((200, 3))
    raw[[1, 50, 198], 1] = 9
    assert (hapt.filtered(raw, raw) == 0).all()
    raw[51, 1] = 9  # two in a row are signal
    assert abs(hapt.filtered(raw, raw)[:, 1]).max() > 1


def test_values_are_rounded_to_two_to_the_minus_15(rng):
    noise = torch.randn(2, 200, 3, generator=rng).numpy()
    signals = hapt.filtered(*noise)
    assert np.array_equal(signals * 2**15, np.round(signals * 2**15))
    assert (signals * 2**14 % 1 != 0).any()


SEGMENTS = [  # experiment, person, label, first and last sample counted from 1
    (1, 1, 5, 1, 128),  # just one window, from 0
    (1, 1, 7, 129, 400),  # a transition
    (1, 1, 4, 401, 591),  # 191 samples: from 400 alone
    (1, 1, 4, 600, 791),  # 192 samples: from 599 and 663
    (2, 1, 1, 11, 137),  # 127 samples: none
    (2, 1, 6, 673, 800),  # to the last sample of the recording: from 672
    (3, 2, 2, 1, 256),  # 256 samples, of a test person: from 0, 64 and 128
    (3, 2, 12, 257, 800),
]


def recordings(segments=SEGMENTS, length=800):
    """Name → text of raw recordings: sample i of experiment e is i + 1000 e, plus 0.1 for gyro."""
    texts = {"RawData/labels.txt": "".join(" ".join(map(str, s)) + "\n" for s in segments)}
    for experiment, person in {segment[:2] for segment in segments}:
        for kind, offset in (("acc", 0), ("gyro", 0.1)):
            rows = (f"{i + 1000 * experiment + offset} 1.0 -2.0e-1\n" for i in range(length))
            texts[f"RawData/{kind}_exp{experiment:02}_user{person:02}.txt"] = "".join(rows)
    return texts


def unfiltered(acceleration, speed):
    """Takes the place of the filters: the samples as they are."""
    return np.concatenate([acceleration, speed, acceleration], axis=1)


def test_windows_begin_every_64_samples_inside_each_segment(tmp_path, monkeypatch):
    monkeypatch.setattr(hapt, "filtered", unfiltered)
    found = hapt.cut(text_files.TextFiles(put(tmp_path / "raw", recordings()), hapt.TOP))
    starts = [1000, 1400, 1599, 1663, 2672]
    steps = np.arange(128)
    for part, expected in (("train", starts), ("test", [3000, 3064, 3128])):
        inputs = found[f"X_{part}"]
        assert inputs.dtype == np.float32
        assert np.array_equal(inputs[:, :, 0], np.array(expected)[:, None] + steps)
        np.testing.assert_allclose(inputs[:, :, 3] - inputs[:, :, 0], 0.1, atol=1e-3)
        np.testing.assert_array_equal(inputs[:, :, [1, 7]], 1)
    assert found["y_train"].tolist() == [5, 4, 4, 4, 6]
    assert found["subject_train"].tolist() == [1] * 5
    assert found["y_test"].tolist() == [2, 2, 2]
    assert found["subject_test"].tolist() == [2] * 3


def test_the_published_persons_are_for_the_test(tmp_path, monkeypatch):
    monkeypatch.setattr(hapt, "filtered", unfiltered)
    segments = [(e, e, 1, 1, 128) for e in range(1, 31)]
    texts = recordings(segments, length=128)
    found = hapt.cut(text_files.TextFiles(put(tmp_path / "raw", texts), hapt.TOP))
    test = [2, 4, 9, 10, 12, 13, 18, 20, 24]
    assert found["subject_test"].tolist() == test
    assert found["subject_train"].tolist() == [p for p in range(1, 31) if p not in test]


def test_recordings_are_found_in_a_folder_or_an_archive_when_nothing_is_prepared(
    tmp_path, monkeypatch
):
    texts = recordings()
    raw = put(tmp_path / "raw", texts)
    expected = hapt.cut(text_files.TextFiles(raw, hapt.TOP))
    as_prepared(monkeypatch, expected)
    put(tmp_path / "parent", below(hapt.TOP, texts))
    put(tmp_path / "data" / "har" / "HAPT Data Set.zip", texts)
    packed = put(tmp_path / "packed.zip", below(hapt.TOP, texts))
    monkeypatch.setenv("RNNOPT_DATA", str(tmp_path / "data"))
    for place in (str(raw), str(tmp_path / "parent"), None, str(packed)):
        found = hapt.read_hapt(place)
        assert all(np.array_equal(found[name], array) for name, array in expected.items())
    assert not (tmp_path / "data" / "har" / "RawData").exists()
    np.savez(tmp_path / "data" / "har" / "har.npz", **{k: v[:0] for k, v in expected.items()})
    with pytest.raises(UserError, match="har.npz must"):  # it comes first
        hapt.read_hapt()


def test_recordings_that_give_other_counts_are_refused(tmp_path):
    raw = put(tmp_path / "raw", recordings())
    with pytest.raises(UserError, match=r"X_train \(7415, 128, 9\), got \(5, 128, 9\)") as error:
        hapt.read_hapt(str(raw))
    assert str(raw) in str(error.value)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("labels", "1 1 5 1\n", "rows of 5 numbers, got 4 in a row"),
        ("labels", "1 1 13 1 128\n", "labels 1 to 12, got 13 to 13"),
        ("labels", "1 1 5 0 128\n", "samples of 1 to 800 .*, got 0 to 128"),
        ("labels", "1 1 5 700 801\n", "samples of 1 to 800 .*, got 700 to 801"),
        ("labels", "1 1 5 128 1\n", "got 128 to 1"),
        ("labels", "9 1 5 1 128\n", "acc_exp09_user01.txt, which is missing"),
        ("labels", "", "got 0 rows"),
        ("acc_exp01_user01", "1 2\n", "rows of 3 numbers, got 2 in a row"),
        ("gyro_exp01_user01", "1 2 3\n", "800 rows of 3 numbers, got 1 rows"),
        ("gyro_exp01_user01", "1 2 nan\n" * 800, "finite numbers"),
    ],
)
def test_bad_recordings_are_refused_in_one_line(tmp_path, name, text, message):
    texts = recordings() | {f"RawData/{name}.txt": text}
    raw = put(tmp_path / "raw", texts)
    with pytest.raises(UserError, match=message) as error:
        hapt.read_hapt(str(raw))
    assert str(raw) in str(error.value)
    assert "\n" not in str(error.value)


# -- the tasks ------------------------------------------------------------------------------------

ALL = [prefix + name for prefix in ("", "noisy-") for name in SIX + BINARY]


@pytest.fixture
def small(prepared, small_uci, tmp_path):
    """Small files of both data sets, in the data folder."""
    put(tmp_path / "data" / "har" / uci_har.TOP, uci_texts())


@pytest.mark.parametrize("name", ALL)
def test_an_activity_task_fits_its_own_description(small, name):
    task = build_task(name)
    assert task.name == name
    assert ("HAPT windows" in task.summary) == ("hapt" in name)
    assert ("UCI HAR" in task.summary) == ("hapt" not in name)
    assert ("noise" in task.summary) == ("noisy" in name)
    assert ((TASKS[name].__doc__ or "").startswith("HAPT windows")) == ("hapt" in name)
    assert (task.input_size, task.steps, task.hidden_size, task.batch_size) == (9, 128, 80, 64)
    assert task.epoch_size == len(task.train)
    assert task.metric == "accuracy"
    assert task.target == {"2": (0.87, 0.85), "6": (0.85, 0.75)}[name[-1]]["noisy" in name]
    batch = Batches(task, 2, seed=0).draw()
    assert batch.inputs.shape == (128, 2, 9)
    if name[-1] == "2":
        assert (task.loss, task.output_size) == ("binary-mse", 1)
        assert batch.targets.shape == (2, 1)
        assert batch.targets.dtype == torch.float32
    else:
        assert (task.loss, task.output_size) == ("cross-entropy", 6)
        assert batch.targets.shape == (2,)
        assert batch.targets.dtype == torch.long


@pytest.mark.parametrize("name", ["har2", "noisy-hapt2"])
@pytest.mark.parametrize(
    ("option", "loss", "output_size"),
    [
        ("mse", "binary-mse", 1),
        ("bce", "binary-cross-entropy", 1),
        ("cross-entropy", "cross-entropy", 2),
    ],
)
def test_the_loss_of_two_classes_can_be_chosen(small, name, option, loss, output_size):
    task = build_task(f"{name}:loss={option}")
    assert (task.loss, task.output_size) == (loss, output_size)
    found, metric = task.evaluate(Linear(9, output_size), task.validation, CPU)
    assert math.isfinite(found)
    assert 0 <= metric <= 1
    if loss == "cross-entropy":
        assert task.validation.targets.shape == (len(task.validation),)
        assert set(task.test.targets.tolist()) <= {0, 1}


class Linear(torch.nn.Linear):
    """Answers with a linear function of the last step."""

    def forward(self, inputs, lengths=None):
        return super().forward(inputs[-1])


def test_the_parts_hold_whole_persons_in_the_order_of_the_recordings(small):
    arrays = hapt_arrays()
    task = build_task("hapt6")
    held_out = validation_persons(torch.from_numpy(arrays["subject_train"])).numpy()
    assert 0 < held_out.sum() < 6
    channels = {"train": arrays["X_train"][~held_out], "validation": arrays["X_train"][held_out]}
    channels["test"] = arrays["X_test"]
    labels = {"train": arrays["y_train"][~held_out], "validation": arrays["y_train"][held_out]}
    labels["test"] = arrays["y_test"]
    # By channel, with mean and (unbiased) deviation of the windows left to train.
    mean = channels["train"].mean((0, 1), dtype=np.float64)
    deviation = channels["train"].astype(np.float64).std((0, 1), ddof=1)
    for part, inputs in channels.items():
        found = getattr(task, part)
        np.testing.assert_allclose(found.inputs.numpy(), (inputs - mean) / deviation, atol=1e-4)
        assert found.targets.tolist() == (labels[part] - 1).tolist()


@pytest.mark.parametrize("name", SIX + BINARY)
def test_noise_comes_on_top_of_the_standardised_task(small, name):
    plain, fixed = build_task(name), build_task(f"noisy-{name}")
    fresh, loud = (build_task(f"noisy-{name}:{o}") for o in ("noise=fresh", "variance=8"))
    for part in ("train", "validation", "test"):
        clean, noisy = getattr(plain, part), getattr(fixed, part)
        assert torch.equal(clean.targets, noisy.targets)
        noise = noisy.inputs - clean.inputs
        # At least 2 · 128 · 9 numbers: the variance is off by 2 √(2/2304) = 0.06; five of those.
        assert float(noise.var()) == pytest.approx(2, abs=0.3)
        torch.testing.assert_close(getattr(loud, part).inputs - clean.inputs, 2 * noise)
    assert torch.equal(fresh.train.inputs, plain.train.inputs)
    assert fresh.train.noise == pytest.approx(math.sqrt(2))
    assert fixed.train.noise == 0
    assert torch.equal(fresh.test.inputs, fixed.test.inputs)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hapt2:loss=mze", r"unknown loss of task 'hapt2'.*mse, bce, cross-entropy.*mean 'mse'"),
        ("har2:loss=cross_entropy", r"Did you mean 'cross-entropy'"),
        ("hapt6:loss=mse", r"unknown option of task 'hapt6': 'loss'"),
        ("hapt2:noise=fresh", r"unknown option of task 'hapt2': 'noise'"),
        ("noisy-hapt2:noise=frsh", r"'frsh'.*fixed, fresh.*Did you mean 'fresh'"),
        ("noisy-hapt2:noise=2", r"unknown noise of task 'noisy-hapt2': 2"),
        ("noisy-hapt6:variance=-1", r"noisy-hapt6 needs a finite variance >= 0, got variance=-1"),
        ("noisy-har2:variance=nan", r"got variance=nan"),
        ("noisy-har6:variance=inf", r"got variance=inf"),
        ("noisy-har6:variance=much", r"got variance='much'"),
        ("noisy-har6:variance=true", r"got variance=True"),
        ("noisy-hapt2:varience=1", r"Did you mean 'variance'"),
        ("hapt3", r"unknown task 'hapt3'.*Did you mean 'hapt"),
    ],
)
def test_a_bad_option_is_refused_in_one_line(small, text, message):
    with pytest.raises(UserError, match=message) as error:
        build_task(text)
    assert "\n" not in str(error.value)


def test_a_folder_can_be_given_as_an_option(small, prepared, tmp_path, monkeypatch):
    monkeypatch.delenv("RNNOPT_DATA")
    assert len(build_task(f"noisy-hapt2:folder={prepared.parent}").test) == 2
    assert len(build_task(f"har2:folder={tmp_path / 'data' / 'har' / uci_har.TOP}").test) == 3
    prepared.parent.rename(tmp_path / "7")
    monkeypatch.chdir(tmp_path)
    assert len(build_task("hapt2:folder=7").test) == 2  # which reads as a number


# -- the real HAPT windows ------------------------------------------------------------------------

DATA = os.environ.get("RNNOPT_DATA") or "/nonexistent"
real = pytest.mark.skipif(
    not (Path(DATA) / "har" / "har.npz").is_file(),
    reason="needs RNNOPT_DATA to name a folder that has har/har.npz",
)


@pytest.fixture
def real_data(no_data, monkeypatch):
    """The data folder of this machine."""
    monkeypatch.setenv("RNNOPT_DATA", DATA)


@real
def test_real_hapt_windows_are_split_by_person(real_data):
    windows = hapt.read_hapt()
    persons = torch.from_numpy(windows["subject_train"])
    held_out = validation_persons(persons)
    groups = [set(p.tolist()) for p in (persons[~held_out], persons[held_out])]
    groups.append(set(windows["subject_test"].tolist()))
    assert [len(group) for group in groups] == [17, 4, 9]
    assert len(set.union(*groups)) == 30
    assert groups[2] == set(hapt.TEST_PERSONS)
    task = build_task("hapt6")
    assert len(task.train) == int((~held_out).sum())
    assert len(task.train) + len(task.validation) == 7415
    assert len(task.test) == 2996
    counts = [1226, 1073, 987, 1293, 1423, 1413]
    targets = torch.cat([task.train.targets, task.validation.targets])
    assert targets.bincount().tolist() == counts
    assert task.test.targets.bincount().tolist() == [496, 471, 420, 508, 556, 545]
    assert task.validation.targets.bincount().min() > 100  # all six activities are there


@real
def test_real_hapt_windows_are_balanced_and_standardised(real_data):
    task = build_task("hapt2")
    ones = torch.cat([task.train.targets, task.validation.targets]).double().mean()
    assert float(ones) == pytest.approx(0.5096, abs=5e-5)
    assert float(task.test.targets.double().mean()) == pytest.approx(0.5087, abs=5e-5)
    deviation, mean = torch.std_mean(task.train.inputs.double(), (0, 1))
    torch.testing.assert_close(mean, torch.zeros_like(mean), atol=1e-5, rtol=0)
    torch.testing.assert_close(deviation, torch.ones_like(mean), atol=1e-5, rtol=0)


@real
def test_noise_on_real_hapt_windows_has_variance_two(real_data):
    plain, one, other = (build_task(n) for n in ("hapt2", "noisy-hapt2", "noisy-hapt2"))
    for part in ("train", "validation", "test"):
        noise = getattr(one, part).inputs - getattr(plain, part).inputs
        # 1423 · 128 · 9 numbers at least: the variance is off by 2 √(2/1.6e6) = 0.0022.
        assert float(noise.var()) == pytest.approx(2, abs=0.011)
        assert torch.equal(getattr(one, part).inputs, getattr(other, part).inputs)


@real
def test_gravity_of_the_real_hapt_windows_is_what_the_low_pass_makes_of_their_acceleration(
    real_data,
):
    # The first 17 windows are of one segment, each half over the one before: 18 halves in a row.
    # The filter's state at the start, which they do not tell, is forgotten in the first 512
    # samples: 10 s of a filter with time constants of 1/(2π·0.3 s⁻¹) = 0.5 s, twice that at most.
    windows = hapt.read_hapt()["X_train"].astype(np.float64)
    count = 1
    while np.array_equal(windows[count, :64], windows[count - 1, 64:]):
        count += 1
    joined = np.concatenate([windows[0, :64], *windows[:count, 64:]])
    gravity = joined[:, 6:] - joined[:, :3]
    found = hapt.low_pass(joined[:, 6:], 0.3)
    assert len(joined) > 700
    assert abs(found - gravity)[512:].max() < 2 * 2**-15  # both were rounded
