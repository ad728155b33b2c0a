"""What next-character prediction promises: windows and targets, splits, marks, nats, errors.

What every task promises is in test_tasks.py, what the command line makes of tasks in
test_command_line.py. Everything runs without data files, but for the tests of the real texts, which
run where the environment variable RNNOPT_DATA names a folder that has them.
"""

import hashlib
import math
import os
from pathlib import Path

import pytest
import torch
from messages import naming
from torch import nn

from rnnopt.config.errors import UserError
from rnnopt.config.metric_names import lower_is_better
from rnnopt.config.run_config import RunConfig, SharedConfig
from rnnopt.experiments.jobs import plan_jobs
from rnnopt.runs.folder import RunFolder
from rnnopt.runs.runner import run
from rnnopt.tasks import Batches, build_task
from rnnopt.tasks import text as text_module
from rnnopt.tasks.examples import Batch, Examples
from rnnopt.tasks.task import Task
from rnnopt.tasks.text import (
    EVALUATED,
    TEXTS,
    bigram_entropy,
    encode,
    next_character,
    unigram_entropy,
)
from rnnopt.training.build import build_training

CPU = torch.device("cpu")
# 1000 characters, 10 different ones, in an order without a short period.
TEXT = "".join("abcdefghij"[i * i % 331 % 10] for i in range(1000))
SORTED = sorted(set(TEXT))
DATA = os.environ.get("RNNOPT_DATA") or "/nonexistent"


def letters(one_hot):
    """The text that one-hot rows (time, symbols) spell, after checking that they are one-hot."""
    assert one_hot.dtype == torch.float32
    assert set(one_hot.unique().tolist()) == {0.0, 1.0}
    assert (one_hot.sum(-1) == 1).all()
    return "".join(SORTED[i] for i in one_hot.argmax(-1).tolist())


def spelled(codes):
    """The text that classes (time,) spell."""
    return "".join(SORTED[i] for i in codes.tolist())


@pytest.fixture
def task():
    """The task of TEXT: 900, 50 and 50 characters, windows of 7."""
    return next_character("toy", "a text", TEXT, 7)


@pytest.fixture
def put(tmp_path, monkeypatch):
    """Puts a text where that of Metamorphosis is looked for, as if it were published so."""

    def put(text):
        content = text.encode()
        about = TEXTS["metamorphosis"][0]
        published = (about, hashlib.sha256(content).hexdigest())
        monkeypatch.setitem(TEXTS, "metamorphosis", published)
        monkeypatch.setenv("RNNOPT_DATA", str(tmp_path))
        (tmp_path / "text").mkdir(exist_ok=True)
        (tmp_path / "text" / "metamorphosis.txt").write_bytes(content)

    return put


# -- windows --------------------------------------------------------------------------------------


def test_training_windows_are_pieces_of_the_text_and_targets_the_next_characters(task, rng):
    batch = task.train(200, rng)
    assert batch.inputs.shape == (7, 200, 10)
    assert batch.targets.shape == (200, 7)
    for inputs, targets in zip(batch.inputs.unbind(1), batch.targets, strict=True):
        window, following = letters(inputs), spelled(targets)
        assert following[:-1] == window[1:]
        assert window + following[-1] in TEXT[:900]


def test_training_windows_begin_anywhere(rng):
    # In 0123…: 63 training characters have 63 - 7 = 56 beginnings, each missed by 2000 draws with
    # probability (55/56)^2000 < 10^-15.
    text = "".join(chr(48 + i) for i in range(70))
    task = next_character("toy", "a text", text, 2)
    starts = task.train(2000, rng).inputs[0].argmax(-1)
    assert sorted(set(starts.tolist())) == list(range(61))  # the last window is 60 61, target 62


def test_evaluation_windows_lie_end_to_end(task):
    # 50 characters hold 7 windows of 7 whose last target is the 50th.
    for examples, text in ((task.validation, TEXT[900:950]), (task.test, TEXT[950:])):
        assert examples.inputs.shape == (7, 7, 10)
        assert "".join(map(letters, examples.inputs)) == text[:49]
        assert "".join(map(spelled, examples.targets)) == text[1:]


def test_splits_do_not_overlap(rng):
    # Every character once: what a split shows, in inputs and targets, are its own places.
    text = "".join(chr(1000 + i) for i in range(200))
    task = next_character("toy", "a text", text, 3)
    train = task.train(3000, rng)
    seen = [
        set(part.targets.flatten().tolist()) | set(part.inputs.argmax(-1).flatten().tolist())
        for part in (train, task.validation, task.test)
    ]
    assert seen[0] == set(range(180))
    assert seen[1:] == [set(range(180, 190)), set(range(190, 200))]


def test_evaluation_is_cut_off():
    text = "abc" * 200_000  # of which a twentieth are 30,000
    task = next_character("toy", "a text", text, 30)
    for examples in (task.validation, task.test):
        assert examples.targets.numel() == EVALUATED // 30 * 30 == 19_980


def test_an_epoch_is_the_training_text_over_the_length(task):
    assert task.epoch_size == 900 // 7 == 128
    assert Batches(task, 50, 0).per_epoch == 3


def test_characters_are_numbered_in_sorted_order():
    assert encode("banana!").tolist() == [2, 1, 3, 1, 3, 1, 0]


def test_characters_beyond_ascii_count_as_one_each(put):
    put("Žluťoučký kůň 猫🐈" * 10)  # 9 + 1 + 3 + 1 + 2 characters, of which k, u and a blank recur
    task = build_task("metamorphosis:length=2")
    symbols = 16 - 3
    assert (task.input_size, task.output_size) == (symbols, symbols)
    assert task.epoch_size == 144 // 2
    loss, nats = task.evaluate(lambda_model(symbols), task.test, CPU)
    assert loss == nats == pytest.approx(math.log(symbols), rel=1e-6)


def test_draws_depend_on_the_seed_alone(task):
    def draws(seed):
        batches = Batches(task, 5, seed)
        return torch.stack([batches.draw().targets for _ in range(3)])

    assert torch.equal(draws(1), draws(1))
    assert not torch.equal(draws(1), draws(2))


def test_draws_go_on_where_they_were_saved(task):
    batches = Batches(task, 5, 3)
    batches.draw()
    saved = batches.state_dict()
    expected = [batches.draw() for _ in range(3)]
    other = Batches(task, 5, 99)
    other.load_state_dict(saved)
    for batch in expected:
        again = other.draw()
        assert torch.equal(again.inputs, batch.inputs)
        assert torch.equal(again.targets, batch.targets)


# -- entropies ------------------------------------------------------------------------------------


def test_unigram_entropy_by_hand():
    # aab: 2/3 ln(3/2) + 1/3 ln 3 = ln 3 - 2/3 ln 2
    assert unigram_entropy("aab") == pytest.approx(math.log(3) - 2 / 3 * math.log(2), rel=1e-14)
    assert unigram_entropy("aaaa") == unigram_entropy("") == 0


def test_bigram_entropy_by_hand():
    # aabab: pairs aa ab ba ab. After a (3 of 4) come a, b, b: ln 3 - 2/3 ln 2; after b only a: 0.
    expected = 3 / 4 * (math.log(3) - 2 / 3 * math.log(2))
    assert bigram_entropy("aabab") == pytest.approx(expected, rel=1e-14)
    assert bigram_entropy("abababa") == pytest.approx(0, abs=1e-15)
    assert bigram_entropy("a") == bigram_entropy("") == 0


def test_entropies_are_in_the_summary(task):
    assert f"{unigram_entropy(TEXT):.3f} nats" in task.summary
    assert f"{bigram_entropy(TEXT):.3f})" in task.summary
    assert task.facts()["summary"] == task.summary


# -- loss and metric ------------------------------------------------------------------------------


def lambda_model(symbols, outputs=None):
    """A model that answers `outputs` (symbol, symbols) to each symbol; to all alike if None."""
    table = torch.zeros(symbols, symbols) if outputs is None else outputs

    class Answers(nn.Module):
        def forward(self, inputs, lengths=None):
            return inputs @ table

    return Answers()


def test_nats_equal_a_plain_mean_over_all_characters(task, rng):
    table = torch.randn(10, 10, generator=rng)
    logs = table.double().log_softmax(1).tolist()
    place = {character: i for i, character in enumerate(SORTED)}
    text = TEXT[900:950]
    pairs = [(place[text[i]], place[text[i + 1]]) for i in range(49)]
    expected = -sum(logs[one][following] for one, following in pairs) / 49
    loss, nats = task.evaluate(lambda_model(10, table), task.validation, CPU)
    assert loss == nats == pytest.approx(expected, rel=1e-6)


def test_targets_of_each_step_are_scored_on_true_steps_alone():
    # Sequences of 1 and 3 steps. Answers (ln 3, 0) have p = 3/4, 1/4; the classes are 1 and 0 0 1.
    targets = torch.tensor([[1, 0, 0], [0, 0, 1]])
    examples = Examples(torch.zeros(2, 3, 1), targets, torch.tensor([1, 3]))
    task = Task("toy", "", 1, 2, "cross-entropy", 0.5, examples, examples, examples, 2)
    batch = examples.batch(slice(0, 2))
    outputs = torch.tensor([math.log(3), 0.0]).expand(3, 2, 2)
    expected = (2 * math.log(4) + 2 * math.log(4 / 3)) / 4
    assert float(task.loss_of(outputs, batch)) == pytest.approx(expected, rel=1e-6)


def test_numbers_of_each_step_are_scored_at_each_step(rng):
    targets = torch.randn(2, 3, 1, generator=rng)
    examples = Examples(torch.zeros(2, 3, 1), targets)
    task = Task("toy", "", 1, 1, "mse", 0.5, examples, examples, examples, 2)
    outputs = torch.randn(3, 2, 1, generator=rng)
    plain = [(float(outputs[t, b]) - float(targets[b, t])) ** 2 for t in range(3) for b in range(2)]
    loss = task.loss_of(outputs, Batch(torch.zeros(3, 2, 1), targets))
    assert float(loss) == pytest.approx(sum(plain) / 6, rel=1e-6)
    assert task.readout == "every"


def test_fewer_nats_are_better(task):
    assert (task.metric, task.target, task.loss) == ("nats", 2.3, "cross-entropy")
    assert task.is_better(2.2, 2.3)
    assert not task.is_better(2.3, 2.2)
    assert not task.is_better(math.nan, 9.0)
    assert task.reached(2.3)
    assert not task.reached(2.31)
    assert [lower_is_better(name) for name in ("nats", "mse", "accuracy")] == [True, True, False]


# -- training -------------------------------------------------------------------------------------

SHORT = dict(hidden=16, batch_size=8, optimizer="adam", lr=0.02, budget="60gradients")


def test_a_short_run_learns_more_than_frequencies(put):
    # Eight characters in turn: who knows their frequencies alone scores ln 8 = 2.08 nats.
    text = "abcdefgh" * 100
    assert unigram_entropy(text) == pytest.approx(math.log(8), rel=1e-14)
    put(text)
    training = build_training(RunConfig(task="metamorphosis:length=10", **SHORT))
    for _ in training.run():
        pass
    assert training.test()[1] < 1.0 < math.log(8)


def test_models_answer_at_every_step_unless_told_otherwise(put, tmp_path):
    put(TEXT)
    config = RunConfig(task="metamorphosis", **SHORT | dict(budget="2gradients"))
    result = run(config, tmp_path / "run")
    assert (result["gradient_evaluations"], result["metric"]) == (2, "nats")
    assert RunFolder.open(tmp_path / "run").read_config().readout == "every"
    assert run(config, tmp_path / "run", resume=True) == result


def test_tasks_of_one_answer_read_out_at_the_end(tmp_path):
    config = RunConfig(task="counting", **SHORT | dict(budget="1gradients"))
    assert build_training(config).model.readout == "last"
    run(config, tmp_path / "run")
    assert RunFolder.open(tmp_path / "run").read_config().readout == "last"


def test_run_folders_of_the_time_before_are_gone_on_with(tmp_path):
    # Their config says "last" where no read-out was chosen; a comparison made now says nothing.
    shared = SharedConfig(task="counting", budget="1gradients", hidden=3)
    path = plan_jobs(shared, ["adam"], [0], tmp_path, resume=False)[0].path
    RunFolder.create(path, RunConfig(task="counting", budget="1gradients", hidden=3,
                                     optimizer="adam", readout="last"))  # fmt: skip
    assert [job.path for job in plan_jobs(shared, ["adam"], [0], tmp_path, resume=True)] == [path]


@pytest.mark.parametrize("readout", ["last", "mean"])
def test_any_other_readout_is_refused(put, readout):
    put(TEXT)
    message = f"metamorphosis has a target at every step and needs --readout every, got {readout}."
    with pytest.raises(UserError, match=message):
        build_training(RunConfig(task="metamorphosis", readout=readout))


# -- errors ---------------------------------------------------------------------------------------


# A twentieth of TEXT are 50 characters: 49 steps with a target each.
@pytest.mark.parametrize("length", ["0", "-3", "50", "2.5", "true", "long"])
def test_lengths_that_do_not_fit_are_refused(put, length):
    put(TEXT)
    with pytest.raises(UserError, match="metamorphosis needs an integer length from 1 to 49, got"):
        build_task(f"metamorphosis:length={length}")


def test_a_window_longer_than_the_evaluated_text_is_refused(put, monkeypatch):
    monkeypatch.setattr(text_module, "EVALUATED", 30)
    put(TEXT)
    assert len(build_task("metamorphosis:length=30").validation) == 1
    with pytest.raises(UserError, match=naming("1", "30", "length=31")):
        build_task("metamorphosis:length=31")


def test_the_longest_length_fits(put):
    put(TEXT)
    task = build_task("metamorphosis:length=49")
    assert task.validation.inputs.shape == task.test.inputs.shape == (1, 49, 10)


def test_a_text_too_short_is_refused():
    with pytest.raises(UserError, match="toy needs a text of at least 40 characters, got 39"):
        next_character("toy", "a text", "a" * 39, 1)
    assert next_character("toy", "a text", "ab" * 20, 1).steps == 1


@pytest.mark.parametrize("name", ["metamorphosis", "tinyshakespeare"])
def test_a_missing_file_is_named(name, tmp_path, monkeypatch):
    monkeypatch.setenv("RNNOPT_DATA", str(tmp_path))
    with pytest.raises(UserError) as caught:
        build_task(name)
    assert str(tmp_path / "text" / f"{name}.txt") in str(caught.value)
    monkeypatch.delenv("RNNOPT_DATA")
    with pytest.raises(UserError, match=f"put it at text/{name}.txt in a folder that RNNOPT_DATA"):
        build_task(name)


def test_another_text_under_that_name_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("RNNOPT_DATA", str(tmp_path))
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "metamorphosis.txt").write_text(TEXT)
    with pytest.raises(UserError, match="must have sha256 eb7a3736"):
        build_task("metamorphosis")


# -- the real texts -------------------------------------------------------------------------------


def real(name):
    """Skips a test where the text is not."""
    return pytest.mark.skipif(
        not Path(DATA, "text", f"{name}.txt").is_file(),
        reason=f"needs RNNOPT_DATA to name a folder that has text/{name}.txt",
    )


@real("metamorphosis")
def test_metamorphosis_has_the_entropies_in_print():
    text = Path(DATA, "text", "metamorphosis.txt").read_text("utf-8")
    assert (len(text), len(set(text))) == (118_564, 61)
    assert unigram_entropy(text) == pytest.approx(2.956, abs=5e-4)
    assert bigram_entropy(text) == pytest.approx(2.282, abs=5e-4)
    task = build_task("metamorphosis")
    assert (task.steps, task.input_size, task.hidden_size, task.batch_size) == (25, 61, 128, 64)
    assert "2.956 nats" in task.summary


@real("tinyshakespeare")
def test_tinyshakespeare_is_evaluated_on_20000_characters():
    task = build_task("tinyshakespeare:length=50")
    assert (task.steps, task.input_size) == (50, 65)
    assert task.validation.targets.numel() == task.test.targets.numel() == 20_000
    assert task.epoch_size == 1_003_854 // 50  # 9/10 of 1,115,394 characters
