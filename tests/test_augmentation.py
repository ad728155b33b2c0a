"""What time warping promises: series at another speed, their targets and padding."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rnnopt.config.errors import UserError
from rnnopt.config.run_config import RunConfig
from rnnopt.tasks import Batches, build_task, from_arrays
from rnnopt.tasks.augmentation import interpolated, warped
from rnnopt.tasks.examples import Batch
from rnnopt.training.build import build_training


def batch_of(steps, count=3, lengths=None):
    generator = torch.Generator().manual_seed(steps)
    inputs = torch.randn(steps, count, 2, generator=generator)
    targets = torch.arange(count)
    if lengths is not None:
        inputs[torch.arange(steps)[:, None] >= lengths] = 0
    return Batch(inputs, targets, lengths)


@given(steps=st.integers(1, 20), more=st.integers(1, 30), seed=st.integers(0, 99))
def test_between_steps_it_is_numpys_interpolation(steps, more, seed):
    batch = batch_of(steps)
    places = torch.rand(more, 3, generator=torch.Generator().manual_seed(seed)) * (steps - 1)
    found = interpolated(batch.inputs, places)
    for i in range(3):
        for k in range(2):
            known = batch.inputs[:, i, k].numpy()
            expected = np.interp(places[:, i].numpy(), np.arange(steps), known)
            np.testing.assert_allclose(found[:, i, k].numpy(), expected, atol=1e-5)


def test_a_ramp_keeps_its_ends_and_gets_another_slope(rng):
    ramp = torch.arange(50.0)[:, None, None].expand(50, 200, 1)
    found = warped(Batch(ramp, torch.zeros(200)), 0.3, rng).inputs[..., 0]
    assert found.shape == (50, 200)
    assert found.min() >= 0
    assert found.max() <= 49
    slopes = found.diff(dim=0)
    inside = torch.where(
        (found[1:] > 0.01) & (found[1:] < 48.9) & (found[:-1] > 0.01), slopes, torch.nan
    )
    speeds = inside.nanmedian(0).values
    assert np.exp(-0.3) - 1e-3 <= speeds.min() < 0.8
    assert 1.2 < speeds.max() <= np.exp(0.3) + 1e-3


@given(seed=st.integers(0, 99))
def test_series_of_different_lengths_change_theirs(seed):
    lengths = torch.tensor([1, 9, 30])
    batch = batch_of(30, lengths=lengths)
    found = warped(batch, 0.2, torch.Generator().manual_seed(seed))
    assert torch.equal(found.targets, batch.targets)
    assert found.inputs.shape[0] == found.lengths.max()
    assert (found.lengths >= 1).all()
    assert ((found.lengths / lengths).log().abs() <= 0.2 + 1 / lengths).all()
    for i, length in enumerate(found.lengths.tolist()):
        assert not found.inputs[length:, i].any()
        torch.testing.assert_close(found.inputs[0, i], batch.inputs[0, i])
        if length > 1:  # the last step stays the last
            last = batch.inputs[lengths[i] - 1, i]
            torch.testing.assert_close(found.inputs[length - 1, i], last, atol=1e-4, rtol=1e-4)


def test_nothing_changes_without_a_spread(rng):
    batch = batch_of(10)
    assert warped(batch, 0.0, rng) is batch


def own():
    generator = np.random.default_rng(0)
    return from_arrays(generator.normal(size=(40, 12, 2)), ["a", "b"] * 20)


def test_a_stream_of_warped_minibatches_is_continued_exactly():
    batches = Batches(own(), 8, 0, warp=0.3)
    plain = Batches(own(), 8, 0)
    assert not torch.equal(batches.draw().inputs, plain.draw().inputs)
    state = batches.state_dict()
    expected = [batches.draw().inputs for _ in range(6)]
    again = Batches(own(), 8, 0, warp=0.3)
    again.load_state_dict(state)
    for one in expected:
        assert torch.equal(again.draw().inputs, one)


def test_a_run_warps_what_it_trains_on_alone():
    training = build_training(RunConfig(warp=0.2, model="gru", hidden=3), own())
    assert training.batches.warp == 0.2
    assert torch.equal(training.task.validation.inputs, own().validation.inputs)


@pytest.mark.parametrize("warp", [-0.1, 1.1, float("nan")])
def test_a_spread_outside_its_range_is_refused(warp):
    with pytest.raises(UserError, match=r"--warp must be in \[0, 1\]"):
        RunConfig(warp=warp)


def test_series_that_are_drawn_anew_are_not_warped():
    with pytest.raises(UserError, match="--warp needs stored series"):
        build_training(RunConfig(warp=0.1, task="adding"), build_task("adding:length=5"))
