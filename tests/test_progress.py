"""What progress promises: bars in a terminal; elsewhere plain lines, one an evaluation."""

import io
import re

import pytest
from rich.console import Console

from rnnopt import RNNClassifier
from rnnopt.cli.terminal import PlainConsole
from rnnopt.training.loop import Progress
from rnnopt.training.progress_bars import Lines, RunProgressBar, bars_on


def progress_at(step, record=None):
    return Progress(step, step / 5, step / 10, step / 40, record)


def shown(console):
    """What a run of 40 steps with an evaluation every ten prints."""
    with bars_on(console) as bars:
        show = RunProgressBar(bars, bars.add_task("training", total=1.0, note="", visible=False))
        for step in range(41):
            record = dict(train_loss=0.5, validation_metric=step / 40)
            show(progress_at(step, record if step % 10 == 0 else None))
    return console.file.getvalue()


@pytest.mark.parametrize("kind", [Console, PlainConsole])
def test_elsewhere_there_is_a_plain_line_an_evaluation(kind, monkeypatch):
    for name in ("FORCE_COLOR", "TTY_INTERACTIVE", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    console = kind()
    console.file = io.StringIO()
    lines = shown(console).splitlines()
    assert len(lines) == 5
    assert lines[2] == ("training 50%  epoch 4  loss 0.5  validation 0.5000  20 gradients, 10/s")
    assert not re.search(r"[\r\x1b]", "".join(lines))


def test_in_a_terminal_bars_are_drawn():
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    assert not isinstance(bars_on(console), Lines)
    assert "\x1b[" in shown(console)


def test_who_wants_it_quiet_gets_nothing(command, tmp_path):
    options = ["--task", "digits-rows", "--budget", "4gradients", "--hidden", 2]
    code, _, error = command("train", *options, "--out", tmp_path / "a")
    assert code == 0
    assert len(error.splitlines()) == 5  # before training, and after each twentieth: a gradient
    assert "\r" not in error
    assert "\x1b" not in error
    assert all(line.startswith("training ") for line in error.splitlines())
    code, _, error = command("train", *options, "--out", tmp_path / "b", "--quiet")
    assert (code, error) == (0, "")


def test_an_estimator_prints_lines_too(capfd):
    RNNClassifier(hidden=2, epochs=2, verbose=True, random_state=0).fit(
        [[0.0, 1.0], [1.0, 0.0]] * 4, [0, 1] * 4
    )
    error = capfd.readouterr().err
    assert [line.split("  ")[1] for line in error.splitlines()] == ["epoch 0", "epoch 1", "epoch 2"]
