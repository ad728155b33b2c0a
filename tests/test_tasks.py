"""What the tasks promise: targets, splits that never change, batches, losses, metrics, downloads.

Everything runs without a network and without data files, but for the tests of the real MNIST, which
run where the environment variable RNNOPT_DATA names a folder that has it.
"""

import contextlib
import gzip
import hashlib
import math
import os
import socket
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import chain
from pathlib import Path

import pytest
import torch
from messages import naming
from sklearn.datasets import load_digits

from rnnopt.config.errors import UserError
from rnnopt.tasks import TASKS, Batches, Task, build_task, download, mnist
from rnnopt.tasks.adding import adding
from rnnopt.tasks.counting import counting
from rnnopt.tasks.digits import digits_pixels, digits_rows
from rnnopt.tasks.examples import Batch, Examples, split_examples, standardize

CPU = torch.device("cpu")
OFFLINE = ["adding", "counting", "digits-rows", "digits-pixels"]


def make_task(train, validation=None, loss="mse"):
    """A task over the given examples."""
    return Task("numbers", "", 1, 1, loss, 0.1, train, validation or train, train, len(train))


def numbered(count):
    """`count` sequences of one step; the i-th holds i and has the target i."""
    numbers = torch.arange(count, dtype=torch.float32)
    return make_task(Examples(numbers.view(count, 1, 1), numbers.view(count, 1)))


# -- the adding problem ---------------------------------------------------------------------------


@pytest.mark.parametrize("length", [2, 3, 10, 101])
@pytest.mark.parametrize("answer", ["marked", "between"])
def test_adding_equals_a_plain_loop(length, answer, rng):
    task = adding(length, answer)
    batch = task.train(200, rng)
    assert batch.inputs.shape == (length, 200, 2)
    assert batch.targets.shape == (200, 1)
    for sequence, target in zip(batch.inputs.unbind(1), batch.targets[:, 0], strict=True):
        values, marks = sequence.T.tolist()
        assert set(marks) <= {0.0, 1.0}
        assert all(0 <= value < 1 for value in values)
        first, second = (t for t, mark in enumerate(marks) if mark)  # exactly two
        assert first < length // 2 <= second
        expected = values[first] + values[second]
        if answer == "between":
            expected = sum(values[first : second + 1])
        assert float(target) == pytest.approx(expected, abs=1e-5)


def test_adding_marks_every_step_sooner_or_later(rng):
    # Each of 5 steps of a half is missed by 500 draws with probability 0.8^500 < 10^-48.
    marks = adding(10).train(500, rng).inputs[:, :, 1]
    assert (marks.sum(1) > 0).all()


def test_always_answering_one_has_an_error_of_a_sixth(rng):
    # A sum of two numbers from U[0, 1) has mean 1 and variance 2/12. The squared error has
    # E x⁴ - (E x²)² = 1/15 - 1/36 = 0.039 as variance (x is triangular on ±1), so 20,000 of them
    # have a mean with deviation √(0.039/20000) = 0.0014; five of those.
    targets = adding(10).train(20_000, rng).targets
    assert float((targets - 1).square().mean()) == pytest.approx(1 / 6, abs=0.007)


def test_adding_says_which_numbers_it_sums():
    assert adding(answer="between").summary != adding(answer="marked").summary


# -- counting -------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1, 20])
def test_counting_counts_the_ones(length, rng):
    batch = counting(length).train(300, rng)
    assert batch.inputs.shape == (length, 300, 1)
    for sequence, target in zip(batch.inputs.unbind(1), batch.targets[:, 0], strict=True):
        assert set(sequence.flatten().tolist()) <= {0.0, 1.0}
        assert float(target) == sequence.flatten().tolist().count(1.0)


def test_always_answering_half_the_length_has_an_error_of_a_quarter_of_it(rng):
    # Binomial(n = 20, 1/2) less 10 has variance n/4 = 5 and fourth moment 3n²/16 - n/8 = 72.5, so
    # the mean of 20,000 squares has deviation √((72.5 - 25)/20000) = 0.049; five of those.
    targets = counting(20).train(20_000, rng).targets
    assert float((targets - 10).square().mean()) == pytest.approx(5, abs=0.25)


# -- the digits -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "shape"), [(digits_rows, (8, 8)), (digits_pixels, (64, 1))], ids=["rows", "pixels"]
)
def test_digits_are_split_without_overlap_and_nothing_is_lost(build, shape):
    task = build()
    parts = [task.train, task.validation, task.test]
    assert [len(part) for part in parts] == [1200, 200, 397]
    assert all(part.inputs.shape[1:] == shape for part in parts)
    # Standardising maps 0 and 16, the least and largest grey, to the least and largest input.
    inputs = torch.cat([part.inputs for part in parts]).flatten(1)
    grey = (16 * (inputs - inputs.min()) / (inputs.max() - inputs.min())).round().int()
    labels = torch.cat([part.targets for part in parts])
    images, truth = load_digits(return_X_y=True)
    found = Counter(
        (*row, label) for row, label in zip(grey.tolist(), labels.tolist(), strict=True)
    )
    assert found == Counter(
        (*map(int, row), label) for row, label in zip(images, truth.tolist(), strict=True)
    )


def test_digits_are_standardised_by_the_training_pixels():
    train = digits_rows().train.inputs
    assert float(train.mean()) == pytest.approx(0, abs=1e-5)
    assert float(train.std()) == pytest.approx(1, abs=1e-5)


# -- every task -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OFFLINE)
def test_splits_are_the_same_at_every_build(name):
    torch.manual_seed(1)
    one = build_task(name)
    torch.manual_seed(2)
    other = build_task(name)
    parts = [(one.validation, other.validation), (one.test, other.test)]
    if isinstance(one.train, Examples):
        parts.append((one.train, other.train))
    for first, second in parts:
        assert torch.equal(first.inputs, second.inputs)
        assert torch.equal(first.targets, second.targets)


@pytest.mark.parametrize("name", OFFLINE)
def test_building_a_task_leaves_the_global_generator_alone(name):
    before = torch.get_rng_state()
    build_task(name)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", OFFLINE)
def test_validation_and_test_sequences_differ(name):
    task = build_task(name)
    count = min(len(task.validation), len(task.test))
    assert not torch.equal(task.validation.inputs[:count], task.test.inputs[:count])


@pytest.mark.parametrize("name", OFFLINE)
def test_a_task_fits_its_own_description(name):
    task = build_task(name)
    assert task.name == name
    batch = Batches(task, 7, seed=0).draw()
    assert batch.inputs.shape[1:] == (7, task.input_size)
    assert len(batch) == 7
    if task.loss == "cross-entropy":
        assert batch.targets.shape == (7,)
        assert batch.targets.dtype == torch.long
        assert 0 <= int(task.test.targets.min()) <= int(task.test.targets.max())
        assert int(task.test.targets.max()) == task.output_size - 1
    else:
        assert batch.targets.shape == (7, task.output_size)


def test_every_task_has_a_summary_line_for_the_list():
    assert all((build.__doc__ or "").split("\n")[0].endswith(".") for build in TASKS.values())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("addin", r"unknown task 'addin'.*Did you mean 'adding'"),
        ("adding:lenght=3", r"'lenght'.*Did you mean 'length'"),
        ("adding:length=1", r"length >= 2, got length=1"),
        ("adding:length=-5", r"length >= 2, got length=-5"),
        ("adding:answer=both", r"answer='both'"),
        ("counting:length=0", r"length >= 1, got length=0"),
        ("digits-rows:rows=2", r"task 'digits-rows' has no options, got 'rows'"),
        ("adding:length=2.5", r"length.*2\.5"),
        ("adding:length=many", r"length.*many"),
        ("counting:length=1e3", r"length.*1000\.0"),
        ("counting:length=none", r"length.*None"),
    ],
)
def test_a_bad_task_is_refused_in_one_line(text, message):
    with pytest.raises(UserError, match=message) as error:
        build_task(text)
    assert "\n" not in str(error.value)


# -- batches --------------------------------------------------------------------------------------


def drawn(batches, count):
    """The numbers of the next `count` batches of a numbered task."""
    return [batches.draw().inputs.flatten().int().tolist() for _ in range(count)]


def test_every_example_comes_once_an_epoch():
    batches = Batches(numbered(10), 3, seed=0)
    assert batches.per_epoch == 4
    epochs = [drawn(batches, 4) for _ in range(3)]
    for epoch in epochs:
        assert [len(batch) for batch in epoch] == [3, 3, 3, 1]
        assert sorted(chain(*epoch)) == list(range(10))
    assert epochs[0] != epochs[1] != epochs[2]  # shuffled anew: alike with probability 1/10!


@pytest.mark.parametrize(("size", "per_epoch"), [(1, 10), (5, 2), (10, 1), (99, 1)])
def test_an_epoch_has_as_few_batches_as_hold_it(size, per_epoch):
    batches = Batches(numbered(10), size, seed=0)
    assert batches.per_epoch == per_epoch
    assert sorted(chain(*drawn(batches, per_epoch))) == list(range(10))


def test_inputs_and_targets_stay_together():
    batch = Batches(numbered(10), 4, seed=0).draw()
    assert torch.equal(batch.inputs[0], batch.targets)


def test_the_same_seed_gives_the_same_batches_whatever_else_is_drawn():
    one, other, third = (Batches(numbered(10), 3, seed) for seed in (5, 5, 6))
    torch.manual_seed(1)
    first = drawn(one, 9)
    torch.manual_seed(2)
    torch.rand(3)
    assert drawn(other, 9) == first
    assert drawn(third, 9) != first


@pytest.mark.parametrize("done", range(9))
def test_batches_go_on_exactly_where_they_were_saved(done):
    batches = Batches(numbered(10), 3, seed=0)  # 4 batches an epoch
    drawn(batches, done)
    state = batches.state_dict()
    expected = drawn(batches, 9)  # which must not disturb what was saved
    later = Batches(numbered(10), 3, seed=1)
    drawn(later, 2)
    later.load_state_dict(state)
    assert drawn(later, 9) == expected
    later.load_state_dict(state)
    assert drawn(later, 9) == expected


@pytest.mark.parametrize("name", ["adding", "counting"])
def test_drawn_batches_go_on_exactly_where_they_were_saved(name):
    task = build_task(name)
    batches, later = Batches(task, 4, seed=0), Batches(task, 4, seed=1)
    batches.draw()
    later.load_state_dict(batches.state_dict())
    for _ in range(3):
        one, other = batches.draw(), later.draw()
        assert torch.equal(one.inputs, other.inputs)
        assert torch.equal(one.targets, other.targets)


def test_no_batch_is_drawn_twice_by_a_drawn_task():
    batches = Batches(adding(10), 4, seed=0)
    assert not torch.equal(batches.draw().inputs, batches.draw().inputs)


# -- examples -------------------------------------------------------------------------------------


def ragged(count):
    """Examples of which each knows its number by input, target and length."""
    numbers = torch.arange(count)
    inputs = numbers.view(count, 1, 1).expand(count, count, 1).float()
    return Examples(inputs, numbers, numbers + 1)


def test_a_batch_is_time_first_as_long_as_its_longest_and_keeps_lengths():
    batch = ragged(4).batch(torch.tensor([2, 0]))
    assert batch.inputs.shape == (3, 2, 1)
    assert batch.inputs[0, :, 0].tolist() == [2, 0]
    assert batch.targets.tolist() == [2, 0]
    assert batch.lengths.tolist() == [3, 1]


def test_splitting_keeps_inputs_targets_and_lengths_together():
    parts = split_examples(ragged(10), [5, 3, 2], seed=0)
    assert [len(part) for part in parts] == [5, 3, 2]
    assert sorted(chain(*(part.targets.tolist() for part in parts))) == list(range(10))
    for part in parts:
        assert torch.equal(part.inputs[:, 0, 0], part.targets.float())
        assert part.lengths is not None, "the lengths were lost"
        assert torch.equal(part.lengths, part.targets + 1)


def test_standardising_uses_the_first_part_alone():
    # The first part, 1 and 3, has mean 2 and (unbiased) deviation √2.
    parts = [torch.tensor([[[1.0]], [[3.0]]]), torch.tensor([[[5.0]]])]
    parts = [Examples(part, torch.zeros(len(part)), torch.ones(len(part))) for part in parts]
    one, other = standardize(parts)
    torch.testing.assert_close(one.inputs.flatten(), torch.tensor([-1.0, 1.0]) / math.sqrt(2))
    torch.testing.assert_close(other.inputs.flatten(), torch.tensor([3 / math.sqrt(2)]))
    assert one.lengths is not None


# -- loss and metric ------------------------------------------------------------------------------


def test_every_step_mse_is_over_the_true_steps_alone():
    # Sequence 0 has one true step: (3-1)² = 4. Sequence 1 has three: 0, (0-2)² = 4, (5-2)² = 9.
    outputs = torch.tensor([[3.0, 2.0], [99.0, 0.0], [99.0, 5.0]])[..., None]
    batch = Batch(torch.zeros(3, 2, 1), torch.tensor([[1.0], [2.0]]), torch.tensor([1, 3]))
    assert float(numbered(2).loss_of(outputs, batch)) == pytest.approx((4 + 0 + 4 + 9) / 4)


def test_every_step_cross_entropy_is_over_the_true_steps_alone():
    # Logits (0, 0) cost log 2 and (log 3, 0) cost log(4/3) for class 0, log 4 for class 1.
    even, sure, wrong = [0.0, 0.0], [math.log(3), 0.0], [1e6, -1e6]
    outputs = torch.tensor([[even, sure], [wrong, sure], [wrong, wrong]])
    batch = Batch(torch.zeros(3, 2, 1), torch.tensor([0, 1]), torch.tensor([1, 2]))
    task = make_task(numbered(2).train, loss="cross-entropy")
    expected = (math.log(2) + 2 * math.log(4)) / 3
    assert float(task.loss_of(outputs, batch)) == pytest.approx(expected)


def test_every_step_loss_without_lengths_takes_all_steps():
    outputs = torch.tensor([[1.0], [3.0]])[..., None]  # errors 0 and 2 at the target 1
    batch = Batch(torch.zeros(2, 1, 1), torch.tensor([[1.0]]))
    assert float(numbered(2).loss_of(outputs, batch)) == pytest.approx(2)


class Echo(torch.nn.Module):
    """Answers with the inputs, at the last step or at each; notes the mode it was asked in."""

    def __init__(self, every=False):
        super().__init__()
        self.every, self.modes = every, []

    def forward(self, inputs, lengths=None):
        self.modes.append((self.training, torch.is_grad_enabled()))
        return inputs if self.every else inputs[-1]


@pytest.mark.parametrize("count", [1, 999, 1000, 1001, 2500])
def test_evaluate_weighs_every_example_alike(count, rng):
    # 2500 examples are looked at in parts of 1000, 1000 and 500.
    inputs, targets = torch.randn(2, count, 1, 1, generator=rng)
    examples = Examples(inputs, targets[:, 0])
    loss, metric = make_task(examples).evaluate(Echo(), examples, CPU)
    assert loss == metric == pytest.approx(float((inputs - targets).square().mean()), rel=1e-5)


def test_accuracy_is_the_fraction_of_right_answers():
    # The largest logit is at class 2; 300 of 1500 examples are of that class, all among the last.
    inputs = torch.tensor([0.0, 1.0, 2.0]).expand(1500, 1, 3)
    examples = Examples(inputs, torch.cat([torch.zeros(1200), torch.full((300,), 2)]).long())
    task = make_task(examples, loss="cross-entropy")
    loss, metric = task.evaluate(Echo(), examples, CPU)
    assert metric == pytest.approx(0.2)
    total = math.log(1 + math.e + math.e**2)
    assert loss == pytest.approx(total - 0.2 * 2, rel=1e-5)


@pytest.mark.parametrize("loss", ["mse", "cross-entropy"])
def test_evaluate_weighs_every_true_step_alike_where_the_model_answers_at_each(loss, rng):
    # 1000 sequences of one true step, then 500 of four: 3000 true steps, 2000 of them in the rest.
    count, steps, classes = 1500, 4, 3
    inputs = torch.randn(count, steps, classes, generator=rng)
    lengths = torch.cat([torch.ones(1000), torch.full((500,), 4)]).long()
    targets = torch.randint(classes, (count,), generator=rng)
    if loss == "mse":
        targets = torch.randn(count, classes, generator=rng)
    examples = Examples(inputs, targets, lengths)
    task = make_task(examples, loss=loss)
    whole = float(task.loss_of(inputs.transpose(0, 1), examples.batch(slice(None))))
    found, metric = task.evaluate(Echo(every=True), examples, CPU)
    assert found == pytest.approx(whole, rel=1e-5)
    if loss == "cross-entropy":
        true = torch.arange(steps) < lengths[:, None]
        right = inputs.argmax(-1) == targets[:, None]
        assert metric == pytest.approx(float(right[true].double().mean()))


@pytest.mark.parametrize("training", [True, False])
def test_evaluate_leaves_the_mode_as_it_was_and_takes_no_gradient(training):
    model = Echo().train(training)
    task = numbered(3)
    task.evaluate(model, task.validation, CPU)
    assert model.training == training
    assert model.modes == [(False, False)]


def test_accuracy_is_better_the_higher_and_mse_the_lower():
    accuracy, mse = make_task(numbered(2).train, loss="cross-entropy"), numbered(2)
    assert (accuracy.metric, mse.metric) == ("accuracy", "mse")
    assert accuracy.is_better(0.6, 0.5)
    assert mse.is_better(0.5, 0.6)
    for task in (accuracy, mse):
        assert not task.is_better(0.5, 0.5)
        assert not task.is_better(math.nan, 0.5)
        assert task.reached(task.target)
        assert not task.reached(math.nan)
    assert accuracy.reached(1.0)
    assert not accuracy.reached(0.0)
    assert mse.reached(0.0)
    assert not mse.reached(1.0)


# -- downloads ------------------------------------------------------------------------------------

CONTENT = bytes(range(256)) * 3000  # longer than one read
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves `answers`, address → (status, content, headers); notes what was asked."""

    def __init__(self):
        self.answers, self.asked = {}, []
        super().__init__(("127.0.0.1", 0), Handler)

    def address(self, path, content=CONTENT, status=200, announced=None, to=None):
        """The address of a new file, or of a redirection to another place."""
        length = len(content) if announced is None else announced
        headers = {"Content-Length": str(length)} | ({"Location": to} if to else {})
        self.answers[path] = (302 if to else status, content, headers)
        return f"http://127.0.0.1:{self.server_port}{path}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append(self.path)
        status, content, headers = self.server.answers[self.path]
        self.send_response(status)
        for header in headers.items():
            self.send_header(*header)
        self.end_headers()
        pieces = [content] if isinstance(content, bytes) else content
        with contextlib.suppress(OSError):  # the other side may have heard enough
            for piece in pieces:
                self.wfile.write(piece)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    """A web server on this machine."""
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The folder that downloads go to, of the test's own."""
    monkeypatch.delenv("RNNOPT_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return tmp_path / "cache" / "rnnopt"


def find(*mirrors):
    """The path of the file that the mirrors should serve."""
    return download.find("some/file.gz", list(mirrors), len(CONTENT), SHA256)


def files_in(folder):
    """Every file at or below a folder."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_a_download_is_checked_and_kept(server, cache, monkeypatch):
    heard = []
    monkeypatch.setattr(download, "listener", lambda *news: heard.append(news))
    address = server.address("/file.gz")
    assert find(address) == cache / "some" / "file.gz"
    assert files_in(cache) == [cache / "some" / "file.gz"]
    assert (cache / "some" / "file.gz").read_bytes() == CONTENT
    assert find(address) == cache / "some" / "file.gz"
    assert server.asked == ["/file.gz"]  # once: the second time it was there
    assert [name for name, _, _ in heard] == ["file.gz"] * len(heard)
    assert [done for _, done, _ in heard] == sorted(done for _, done, _ in heard)
    assert heard[-1] == ("file.gz", len(CONTENT), len(CONTENT))


bad_answers = pytest.mark.parametrize(
    ("answer", "message"),
    [
        (dict(content=CONTENT[::-1]), "sha256 must be"),
        (dict(content=CONTENT + b"more"), f"size must be {len(CONTENT)} bytes, got more"),
        (dict(content=CONTENT[:-1]), f"size must be {len(CONTENT)} bytes, got {len(CONTENT) - 1}"),
        (dict(content=CONTENT[:9], announced=len(CONTENT)), "size must be .* got 9"),
        (dict(content=b""), "size must be .* got 0"),
        (dict(status=404), "Not Found"),
        (dict(status=500), "Internal Server Error"),
    ],
    ids=["sha256", "longer", "shorter", "broken off", "empty", "not found", "server error"],
)


@bad_answers
def test_a_bad_download_is_an_error_and_leaves_nothing_behind(server, cache, answer, message):
    address = server.address("/file.gz", **answer)
    with pytest.raises(UserError, match=message) as error:
        find(address)
    assert files_in(cache.parent) == []
    assert address in str(error.value)
    assert str(cache / "some" / "file.gz") in str(error.value)  # where to put it by hand
    assert "RNNOPT_DATA" in str(error.value)


@bad_answers
def test_the_second_mirror_is_used_when_the_first_fails(server, cache, answer, message):
    path = find(server.address("/bad", **answer), server.address("/good"))
    assert path.read_bytes() == CONTENT
    assert server.asked == ["/bad", "/good"]
    assert files_in(cache) == [path]


def test_a_mirror_that_refuses_connections_is_passed_over(server, cache):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound but not listening
        closed = f"http://127.0.0.1:{unused.getsockname()[1]}/file.gz"
        assert find(closed, server.address("/good")).read_bytes() == CONTENT
        (cache / "some" / "file.gz").unlink()
        with pytest.raises(UserError, match="refused"):
            find(closed)


@pytest.mark.parametrize("to", ["file:///etc/hosts", "ftp://127.0.0.1/x", "data:,x", "//[", "x:y"])
def test_a_redirection_to_anything_but_the_web_is_refused(server, cache, to):
    with pytest.raises(UserError, match="could not be downloaded"):
        find(server.address("/file.gz", to=to))
    assert files_in(cache.parent) == []


def test_a_redirection_never_leaves_https_and_may_enter_it():
    handler = download.OnlySafer()
    for old, new in (("https", "http"), ("https", "ftp"), ("http", "file"), ("http", "")):
        request = urllib.request.Request(f"{old}://example.org/a")
        with pytest.raises(urllib.error.URLError, match="which is refused"):
            handler.redirect_request(request, None, 302, "", {}, f"{new}://example.org/b")
    for old, new in (("https", "https"), ("http", "https"), ("http", "http")):
        request = urllib.request.Request(f"{old}://example.org/a")
        followed = handler.redirect_request(request, None, 302, "", {}, f"{new}://example.org/b")
        assert followed.full_url == f"{new}://example.org/b"


def test_a_redirection_within_the_web_is_followed(server, cache):
    server.address("/there")
    assert find(server.address("/here", to="/there")).read_bytes() == CONTENT


def test_redirections_without_end_are_given_up(server, cache):
    with pytest.raises(UserError, match="could not be downloaded"):
        find(server.address("/round", to="/round"))
    assert files_in(cache.parent) == []


def test_no_more_is_read_than_the_file_should_have(server, cache, monkeypatch):
    sent = []

    def endless():
        while True:
            sent.append(1)
            yield bytes(1 << 16)

    heard = []
    monkeypatch.setattr(download, "listener", lambda *news: heard.append(news))
    with pytest.raises(UserError, match=f"size must be {len(CONTENT)} bytes, got more"):
        find(server.address("/endless", content=endless(), announced=10**12))
    assert max(done for _, done, _ in heard) == len(CONTENT)
    assert files_in(cache.parent) == []


def test_a_trickle_is_given_up(server, cache, monkeypatch):
    def trickle():
        while True:
            time.sleep(0.02)
            yield b"x"

    monkeypatch.setattr(download, "PATIENCE", 0.2)
    monkeypatch.setattr(download, "SLOWEST", 10**9)
    with pytest.raises(UserError, match=r"slower than .*: \d+ of \d+ bytes came"):
        find(server.address("/trickle", content=trickle(), announced=len(CONTENT)))
    assert files_in(cache.parent) == []


def test_a_server_that_says_nothing_is_given_up(cache, monkeypatch):
    monkeypatch.setattr(download, "PATIENCE", 0.2)
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        pytest.raises(UserError, match="timed out"),
    ):
        find(f"http://127.0.0.1:{silent.getsockname()[1]}/file.gz")
    assert files_in(cache.parent) == []


def test_the_error_tells_what_each_mirror_answered(server, cache):
    with pytest.raises(UserError, match=r"/one: Not Found; .*/two: sha256 must be"):
        find(server.address("/one", status=404), server.address("/two", content=CONTENT[::-1]))


def test_a_file_that_cannot_be_put_in_place_leaves_nothing_behind(server, cache, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(UserError, match=r"cannot write .*No space left"):
        find(server.address("/file.gz"))
    assert files_in(cache) == []


def test_a_cache_that_is_a_file_is_an_error_that_names_it(server, cache):
    cache.parent.mkdir()
    cache.write_text("in the way")
    with pytest.raises(UserError, match=str(cache)):
        find(server.address("/file.gz"))


def test_a_file_in_the_data_folder_is_used_as_it_is(cache, tmp_path, monkeypatch):
    monkeypatch.setenv("RNNOPT_DATA", str(tmp_path))
    (tmp_path / "some").mkdir()
    (tmp_path / "some" / "file.gz").write_bytes(b"packed differently")
    assert find() == tmp_path / "some" / "file.gz"
    assert not cache.exists()


def test_what_the_data_folder_lacks_is_downloaded_into_the_cache(
    server, cache, tmp_path, monkeypatch
):
    (tmp_path / "data").mkdir()
    monkeypatch.setenv("RNNOPT_DATA", str(tmp_path / "data"))
    assert find(server.address("/file.gz")) == cache / "some" / "file.gz"
    assert files_in(tmp_path / "data") == []


def test_a_data_folder_that_does_not_exist_is_an_error(cache, tmp_path, monkeypatch):
    monkeypatch.setenv("RNNOPT_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=r"RNNOPT_DATA must name a folder, got .*nowhere"):
        find()


def test_an_empty_data_folder_variable_counts_as_none(server, cache, monkeypatch):
    monkeypatch.setenv("RNNOPT_DATA", "")
    assert find(server.address("/file.gz")) == cache / "some" / "file.gz"


# -- MNIST ----------------------------------------------------------------------------------------

LABELS = "train-labels-idx1-ubyte"
IMAGES = "t10k-images-idx3-ubyte"


@pytest.fixture
def packed(tmp_path, monkeypatch):
    """Puts bytes where the packed MNIST labels are looked for."""
    monkeypatch.setenv("RNNOPT_DATA", str(tmp_path))
    (tmp_path / "mnist").mkdir()

    def put(content, name=LABELS):
        path = tmp_path / "mnist" / f"{name}.gz"
        path.write_bytes(content)
        return path

    return put


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not gzip",
        gzip.compress(bytes(60008))[:-9],
        gzip.compress(b"x" * 100)[:10],
        b"\x1f\x8b\x08" + bytes(7) + b"\xff" * 50,
        gzip.compress(bytes(60008)),
        gzip.compress(b""),
        gzip.compress(bytes(60009)),
        gzip.compress(bytes(10000000)),
    ],
    ids=[
        "empty",
        "text",
        "truncated",
        "header alone",
        "garbled",
        "zeros",
        "nothing in it",
        "one byte more",
        "far more",
    ],
)
def test_a_file_that_is_not_mnist_is_an_error_that_names_it(packed, content):
    path = packed(content)
    with pytest.raises(UserError, match=str(path)):
        mnist.read_idx(LABELS)


def test_idx_files_are_read_past_their_headers(packed, monkeypatch):
    # Big-endian: magic 0x0803 and three sizes for images, 0x0801 and one size for labels.
    pixels = bytes(i % 251 for i in range(2 * 784))
    images = bytes.fromhex("00000803 00000002 0000001c 0000001c") + pixels
    labels = bytes.fromhex("00000801 00000003") + bytes([7, 0, 9])
    for name, content in ((IMAGES, images), (LABELS, labels)):
        described = (0, "", len(content), hashlib.sha256(content).hexdigest())
        monkeypatch.setitem(mnist.FILES, name, described)
        packed(gzip.compress(content), name)
    read = mnist.read_idx(IMAGES)
    assert read.shape == (2, 28, 28)
    assert bytes(read.flatten().tolist()) == pixels
    assert mnist.read_idx(LABELS).tolist() == [7, 0, 9]


@pytest.fixture
def small_mnist(monkeypatch):
    """Images in place of MNIST's: pixel (r, c) of image i holds (i + 37 r² + 11 c) % 256."""
    monkeypatch.setattr(
        mnist, "split_examples", lambda parts, sizes, seed: split_examples(parts, [4, 2], 0)
    )

    def read(name):
        count = 6 if name.startswith("train") else 3
        if "labels" in name:
            return torch.arange(count, dtype=torch.uint8)
        image, row, column = torch.meshgrid(*map(torch.arange, (count, 28, 28)), indexing="ij")
        return ((image + 37 * row**2 + 11 * column) % 256).to(torch.uint8)

    monkeypatch.setattr(mnist, "read_idx", read)
    return read


def grey(task, part="test"):
    """The inputs of a part before they were standardised by the training pixels, up to a line."""
    return getattr(task, part).inputs[..., 0].double()


def same_up_to_a_line(one, other):
    """Whether one tensor is a multiple of the other plus a constant: what standardising does."""
    one, other = ((x.double() - x.double().mean()) / x.double().std() for x in (one, other))
    return torch.allclose(one, other, atol=1e-5)


def test_pooling_takes_means_of_blocks_of_pixels(small_mnist):
    task = build_task("mnist-pixels:pool=2")
    assert (task.steps, task.input_size, task.test.inputs.shape) == (196, 1, (3, 196, 1))
    images = small_mnist("t10k-images").tolist()
    blocks = torch.tensor(
        [
            [
                sum(image[2 * r + i][2 * c + j] for i in (0, 1) for j in (0, 1)) / 4
                for r in range(14)
                for c in range(14)
            ]
            for image in images
        ]
    )
    # By hand: pixels 0 11 and 37 48 of the first image have mean 24, those beside them 22 more.
    assert blocks[0, :2].tolist() == [24, 46]
    assert same_up_to_a_line(grey(task), blocks)
    assert "2 x 2" in task.summary
    assert "196 steps" in task.summary
    assert float(task.train.inputs.mean()) == pytest.approx(0, abs=1e-5)
    assert float(task.train.inputs.std()) == pytest.approx(1, abs=1e-5)


def test_pooled_pixels_are_permuted_by_a_permutation_of_their_number(small_mnist):
    from numpy.random import RandomState

    order = torch.from_numpy(RandomState(92916).permutation(196))
    assert sorted(order.tolist()) == list(range(196))
    plain, permuted = (build_task(f"mnist-{name}:pool=2") for name in ("pixels", "permuted"))
    for part in ("train", "validation", "test"):
        assert torch.equal(getattr(permuted, part).targets, getattr(plain, part).targets)
        torch.testing.assert_close(grey(permuted, part), grey(plain, part)[:, order])


@pytest.mark.parametrize("name", ["mnist-pixels", "mnist-permuted"])
def test_pooling_by_one_changes_nothing(small_mnist, name):
    plain, pooled = build_task(name), build_task(f"{name}:pool=1")
    assert plain.summary == pooled.summary
    assert plain.steps == 784
    for part in ("train", "validation", "test"):
        assert torch.equal(getattr(plain, part).inputs, getattr(pooled, part).inputs)
    if name == "mnist-pixels":
        assert same_up_to_a_line(grey(plain), small_mnist("t10k-images").flatten(1))


@pytest.mark.parametrize(("pool", "steps"), [(4, 49), (7, 16), (14, 4), (28, 1)])
def test_every_divisor_of_the_side_can_be_pooled(small_mnist, pool, steps):
    assert build_task(f"mnist-pixels:pool={pool}").steps == steps


@pytest.mark.parametrize("name", ["mnist-pixels", "mnist-permuted"])
@pytest.mark.parametrize("pool", ["3", "0", "-2", "56", "2.0", "two", "none"])
def test_other_pools_are_refused_in_one_line_before_data_are_read(name, pool, monkeypatch):
    monkeypatch.setattr(mnist, "read_idx", None)
    with pytest.raises(UserError, match=r"pool.* 1, 2, 4, 7, 14, 28, got") as error:
        build_task(f"{name}:pool={pool}")
    assert "\n" not in str(error.value)


def test_rows_are_not_pooled():
    with pytest.raises(UserError, match=naming("'mnist-rows'", "'pool'")):
        build_task("mnist-rows:pool=2")


DATA = Path(os.environ.get("RNNOPT_DATA") or "/nonexistent")
real = pytest.mark.skipif(
    not (DATA / "mnist" / f"{LABELS}.gz").is_file(),
    reason="needs RNNOPT_DATA to name a folder that has mnist",
)


@real
def test_real_mnist_has_its_known_labels_and_the_same_pixels_in_every_form():
    rows, permuted = mnist.mnist_rows(), mnist.mnist_permuted()
    labels = torch.cat([rows.train.targets, rows.validation.targets])
    assert labels.bincount().tolist() == [
        5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949
    ]  # fmt: skip
    assert rows.test.targets.bincount().tolist() == [
        980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009
    ]  # fmt: skip
    assert (len(rows.train), len(rows.validation), len(rows.test)) == (57_000, 3_000, 10_000)
    assert float(rows.train.inputs.mean()) == pytest.approx(0, abs=1e-3)
    assert float(rows.train.inputs.std()) == pytest.approx(1, abs=1e-3)
    assert rows.test.inputs.shape == (10_000, 28, 28)
    assert permuted.test.inputs.shape == (10_000, 784, 1)
    # Pixel t of permuted MNIST is pixel order[t] of the image, the order being as published.
    from numpy.random import RandomState

    order = torch.from_numpy(RandomState(92916).permutation(784))
    assert sorted(order.tolist()) == list(range(784))
    for part in ("validation", "test"):
        by_row, shuffled = getattr(rows, part), getattr(permuted, part)
        assert torch.equal(by_row.targets, shuffled.targets)
        expected = by_row.inputs.flatten(1)[:, order, None]
        # Mean and deviation were summed in another order.
        torch.testing.assert_close(shuffled.inputs, expected, atol=1e-5, rtol=0)
