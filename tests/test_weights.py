"""What weights of sequences promise: a whole weight is that many copies, in loss, metric and chunks
of truncated back-propagation; none at all is weight 1.
"""

from dataclasses import replace

import pytest
import torch

from rnnopt import SequenceModel
from rnnopt.tasks.batches import Batches
from rnnopt.tasks.examples import Examples, select
from rnnopt.tasks.task import Task
from rnnopt.training.closure import Closure
from rnnopt.training.tbptt import Truncation

CPU = torch.device("cpu")
COPIES = torch.tensor([3, 1, 2, 1, 4, 1])


def make_task(loss, rng, each_step=False, lengths=None):
    """Six sequences of four steps with weights, and the same with copies in their place."""
    shape = (6, 4) if each_step else (6,)
    targets = torch.randint(3, shape, generator=rng)
    if loss != "cross-entropy":
        targets = (torch.rand(*shape, 3, generator=rng, dtype=torch.float64) > 0.5).double()
    inputs = torch.randn(6, 4, 2, generator=rng, dtype=torch.float64)
    plain = Examples(inputs, targets, lengths)
    weighted = replace(plain, weights=COPIES / COPIES.double().mean())
    copies = select(plain, torch.arange(6).repeat_interleave(COPIES))
    tasks = [
        Task("t", "", 2, 3, loss, 0.0, part, part, part, len(part)) for part in (weighted, copies)
    ]
    torch.manual_seed(0)
    return SequenceModel(2, 4, 3, readout="every" if each_step else "last").double(), tasks


LOSSES = ["cross-entropy", "mse", "binary-mse", "binary-cross-entropy"]


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("each_step", [False, True])
def test_a_weight_is_that_many_copies(loss, each_step, rng):
    model, (weighted, copies) = make_task(loss, rng, each_step)
    losses = []
    for task in (weighted, copies):
        batch = task.train.batch(slice(None))
        losses.append(task.loss_of(model(batch.inputs, batch.lengths), batch))
    torch.testing.assert_close(*losses)
    if loss in ("cross-entropy", "mse"):  # the binary accuracies are of one output
        found, expected = (task.evaluate(model, task.test, CPU) for task in (weighted, copies))
        assert found == pytest.approx(expected)


@pytest.mark.parametrize("lengths", [None, torch.tensor([4, 1, 3, 2, 4, 4])])
def test_every_step_counts_as_its_sequence_does(lengths, rng):
    model, (weighted, copies) = make_task("cross-entropy", rng, each_step=True, lengths=lengths)
    found, expected = (task.evaluate(model, task.test, CPU) for task in (weighted, copies))
    assert found == pytest.approx(expected)


@pytest.mark.parametrize("lengths", [None, torch.tensor([4, 1, 3, 2, 4, 4])])
def test_chunks_of_a_sequence_keep_its_weight(lengths, rng):
    model, (weighted, copies) = make_task("mse", rng, lengths=lengths)
    closures = [
        Closure(model, Batches(task, 100, 0), CPU, truncation=Truncation(2, 4))
        for task in (weighted, copies)
    ]
    for _ in range(2):
        losses, gradients = [], []
        for closure in closures:
            losses.append(closure())
            gradients.append([p.grad.clone() for p in model.parameters()])
            closure.advance()
        # Only the last chunk scores, and sums over the sequences that last as long.
        if lengths is None:
            torch.testing.assert_close(*losses)
            torch.testing.assert_close(*gradients)
        else:
            ratio = losses[0] / losses[1]
            for one, other in zip(*gradients, strict=True):
                torch.testing.assert_close(one, ratio * other)


def test_weights_travel_with_their_sequences(rng):
    _, (task, _) = make_task("mse", rng)
    marked = replace(task.train, targets=task.train.weights[:, None])
    batches = Batches(replace(task, train=marked), 4, seed=1)
    for _ in range(4):
        batch = batches.draw()
        assert torch.equal(batch.weights, batch.targets[:, 0])
        assert torch.equal(batch.to(CPU).weights, batch.weights)
    assert torch.equal(marked.to(CPU).weights, marked.weights)
    assert torch.equal(select(marked, COPIES > 1).weights, marked.weights[COPIES > 1])
    assert select(replace(marked, weights=None), COPIES > 1).weights is None
