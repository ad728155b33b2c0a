"""Problems, models and minibatches for the tests of ADMM."""

import pytest
import torch
from stepping import apart

from rnnopt.admm import trainer
from rnnopt.admm.options import ADMMOptions
from rnnopt.layers.sequence_model import SequenceModel
from rnnopt.tasks.examples import Batch

STEPS, BATCH, FEATURES, HIDDEN, OUTPUTS = 5, 6, 2, 4, 3
NO_LIMIT = 1e9


def normal(rng, *shape):
    return torch.randn(shape, generator=rng, dtype=torch.float64)


def a_model(seed=0, dtype=torch.float64, hidden=8, **options):
    torch.manual_seed(seed)
    return SequenceModel(FEATURES, hidden, OUTPUTS, **options).to(dtype)


def a_batch(rng, steps=3, batch=12, dtype=torch.float64):
    """Three classes by the sum of all inputs."""
    inputs = normal(rng, steps, batch, FEATURES).to(dtype)
    total = inputs.sum((0, 2))
    return Batch(inputs, (total > 0).long() + (total > 1).long())


class ADMM(trainer.ADMM):
    """With options one by one."""

    def __init__(self, model, loss, **options):
        super().__init__(model, loss, **apart(ADMMOptions, options))


def weights_of(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def assert_same_weights(one, other):
    for name in one:
        assert torch.equal(one[name], other[name]), name


LEARNERS = {
    "exact": dict(),
    "blocks": dict(variant="blocks"),
    "blocks, kept": dict(variant="blocks", keep_batch=True, multipliers="all"),
    "paper": dict(variant="paper", sweeps=2),
    "paper, kept": dict(variant="paper", keep_batch=True, relaxation=1.5),
}
EACH_LEARNER = [pytest.param(options, id=name) for name, options in LEARNERS.items()]
each_learner = pytest.mark.parametrize("options", EACH_LEARNER)
