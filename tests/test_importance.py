"""What importance promises: a channel or time that a network does not look at counts nothing.

That the page shows it, legibly, is promised in test_report_in_browser.py.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from rnnopt.report.importance import REPEATS, Bar, Shuffled, importance, in_scale
from rnnopt.tasks import from_arrays


class Looks(nn.Module):
    """Answers 1 where the mean of some channels in some steps is positive, of two classes."""

    def __init__(self, channels, steps, regression=False):
        super().__init__()
        self.channels, self.steps, self.regression = channels, steps, regression
        self.weight = nn.Parameter(torch.zeros(1, 1))

    def forward(self, inputs, lengths=None):
        found = inputs[self.steps][..., self.channels].mean((0, 2))[:, None]
        return found if self.regression else torch.cat([-found, found], 1)


def a_task(count=80, steps=20, width=3, **options):
    """Series of signs: one for each channel; the class is that of channel 1."""
    rng = np.random.default_rng(0)
    signs = rng.choice([-1.0, 1.0], (count, 1, width))
    X = signs * np.ones((count, steps, width))
    y = np.where(signs[:, 0, 1] > 0, "up", "down")
    return from_arrays(X, y, test_fraction=0.5, **options)


def test_only_the_channel_that_is_looked_at_counts():
    found = importance(a_task(), Looks([1], slice(None)))
    assert found.whole == 1
    first, *others = found.channels
    assert first.name == "channel 2"
    # A series gets another one's sign: about half of the signs differ.
    assert 0.35 < first.drop < 0.65
    assert first.spread > 0
    assert [(bar.drop, bar.spread) for bar in others] == [(0, 0)] * 2
    assert (found.series, found.of, found.metric) == (40, 40, "accuracy")


def test_only_the_time_that_is_looked_at_counts():
    found = importance(a_task(), Looks([1], slice(4, 6)))  # the third tenth of 20 steps
    assert [bar.name for bar in found.blocks][2] == "20 … 30 %"
    assert found.blocks[2].drop > 0.35
    assert [bar.drop for i, bar in enumerate(found.blocks) if i != 2] == [0] * 9


def test_a_rise_of_an_error_is_a_drop_and_one_channel_needs_no_bar():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 12, 1)) + rng.normal(size=(60, 1, 1))
    task = from_arrays(X, X.mean((1, 2)), test_fraction=0.5)
    found = importance(task, Looks([0], slice(None), regression=True))
    assert found.metric == "mse"
    assert found.channels == []
    assert len(found.blocks) == 10
    assert all(bar.drop > 0 for bar in found.blocks)


@given(st.lists(st.integers(1, 30), min_size=1, max_size=12), st.integers(0, 1000))
def test_values_come_from_the_same_share_of_another_series(lengths, seed):
    series = [np.full((n, 1), float(i)) + np.arange(n)[:, None] / 64 for i, n in enumerate(lengths)]
    task = from_arrays([np.zeros((2, 1))] * 4 + [np.ones((3, 1))] * 4, [0.5, 1.5] * 4)
    flat = torch.from_numpy(np.concatenate(series)).float()
    own = torch.tensor(lengths)
    examples = replace(task.test, inputs=flat, lengths=own, targets=torch.zeros(len(lengths), 1))
    model = nn.Module()
    model.forward = lambda inputs, lengths: torch.zeros(inputs.shape[1], 1)
    shuffled = Shuffled(task, model, examples, torch.Generator().manual_seed(seed))
    values = flat[shuffled._other(), 0]
    if len(lengths) == 1:  # rotated: the same values, and by a step at least
        assert torch.equal(values.sort().values, flat[:, 0])
        assert lengths[0] == 1 or not torch.equal(values, flat[:, 0])
        return
    donors = []
    for i, part in enumerate(values.split(lengths)):
        (donor,) = set(part.floor().int().tolist())
        donors.append(donor)
        steps = (64 * (part - donor)).round().long()
        expected = torch.arange(lengths[i]) * lengths[donor] // lengths[i]
        assert torch.equal(steps, expected)
        assert donor != i
    assert sorted(donors) == list(range(len(lengths)))


@pytest.mark.parametrize("options", [dict(each_step=True), dict(each_step=True, feedback=2)])
def test_targets_at_every_step_have_channels_alone_without_past_outputs(options):
    rng = np.random.default_rng(0)
    X = [rng.normal(size=(n, 2)) for n in (9, 12, 10, 11, 9, 12, 10, 11)]
    task = from_arrays(X, [one[:, :1] for one in X], **options)
    from rnnopt import SequenceModel

    model = SequenceModel(task.input_size, 3, 1, readout="every").eval()
    found = importance(task, model)
    assert [bar.name for bar in sorted(found.channels, key=lambda bar: bar.name)] == [
        "channel 1", "channel 2",
    ]  # fmt: skip
    assert found.blocks == []


def test_many_series_are_a_part_of_them_the_same_each_time():
    task = a_task(count=1400, steps=2)
    found = importance(task, Looks([1], slice(None)))
    assert (found.series, found.of) == (500, 700)
    assert importance(task, Looks([1], slice(None))) == found
    assert importance(task, Looks([1], slice(None)), seed=1) != found


def test_long_series_are_fewer_or_none(monkeypatch):
    task = a_task(count=120)
    # A network of width 3, 20 steps, 3 channels and 10 parts of time, five times each, and once.
    work = 3 * 20 * (1 + 5 * 13)
    for allowed, series in ((25.5, 25), (10, 20), (4, 20), (3.9, None)):
        monkeypatch.setattr("rnnopt.report.importance.WORK", allowed * work)
        found = importance(task, Looks([1], slice(None)))
        assert (None if found is None else found.series) == series


def test_no_importance_where_there_is_nothing_to_say():
    on_board = replace(a_task(count=12, steps=2), data=None)
    assert importance(on_board, Looks([1], slice(None))) is None
    wide = a_task(count=12, steps=2, width=101)
    assert importance(wide, Looks([1], slice(None))) is None


def test_bars_show_zero_and_all_ends():
    bars = in_scale([Bar("a", 0.3, 0.1), Bar("b", -0.1, 0.0), Bar("c", float("nan"), 0.0)])
    # From -0.1 to 0.4: a unit is 200.
    first, second, third = bars
    assert (first.left, first.right, first.low, first.high, first.zero) == (20, 80, 60, 100, 20)
    assert (second.left, second.right) == (0, 20)
    assert (first.text, second.text) == ("0.3 ± 0.1", "−0.1 ± 0")
    assert third.right - third.left >= 0
    (little,) = in_scale([Bar("a", -2e-7, 1e-8)])
    assert little.text == "−2e−7 ± 1e−8"
    (still,) = in_scale([Bar("a", 0.0, 0.0)])
    assert (still.left, still.right) == (0, 0)
    assert REPEATS > 1
