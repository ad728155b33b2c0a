"""What truncated back-propagation promises: its cuts, its gradients, its counting, going on in mid
sequence.

The twin below walks step by step in torch's own operators and shares nothing with the library. What
the loop promises with whole sequences is in test_training.py, `SequenceModel.advance` in
test_sequence_model.py, the options of the command line in test_command_line.py.
"""

import math
from dataclasses import replace

import pytest
import torch
from cases import crossed, partly
from messages import naming
from same_runs import assert_equal_states, records_of, records_on_the_way
from stepping import through_a_file
from torch import nn
from torch.nn import functional

from rnnopt import FrankWolfe, SequenceModel
from rnnopt.config.errors import UserError
from rnnopt.config.run_config import Budget, RunConfig
from rnnopt.runs.runner import run
from rnnopt.tasks import build_task
from rnnopt.tasks.batches import Batches
from rnnopt.tasks.examples import Examples
from rnnopt.tasks.task import Task
from rnnopt.training.build import build_training
from rnnopt.training.closure import Closure
from rnnopt.training.loop import Training
from rnnopt.training.tbptt import Chunks, Truncation

CELLS = ("rnn", "lstm", "gru", "indrnn")
CPU = torch.device("cpu")


def make_task(steps=6, lengths=None, count=8, padding=None):
    """Random sequences of 2 numbers with a random target each, one batch an epoch of 8."""
    rng = torch.Generator().manual_seed(3)
    inputs = torch.randn(count, steps, 2, generator=rng, dtype=torch.float64)
    targets = torch.randn(count, 1, generator=rng, dtype=torch.float64)
    if lengths is not None:
        lengths = torch.tensor(lengths)
        if padding is not None:
            inputs[torch.arange(steps) >= lengths[:, None]] = padding
    examples = Examples(inputs, targets, lengths)
    return Task("t", "", 2, 1, "mse", -1.0, examples, examples, examples, count, 3, 8)


def make_model(**options):
    """A model in double precision, the same at every call."""
    torch.manual_seed(1)
    return SequenceModel(2, 3, 1, **options).double()


def make_closure(task, model, forward, backward=None, batch_size=8, **options):
    """A closure that cuts every `forward` steps."""
    truncation = Truncation(forward, backward or forward)
    return Closure(model, Batches(task, batch_size, 0), CPU, truncation=truncation, **options)


def gradients(model):
    """Copies of all gradients; None where there is none."""
    return [None if p.grad is None else p.grad.clone() for p in model.parameters()]


def assert_close(found, expected):
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def descend(model, rate=0.3):
    """A step of gradient descent."""
    with torch.no_grad():
        for p in model.parameters():
            p -= rate * p.grad


# -- cuts and prices by hand ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("forward", "backward", "steps", "chunks", "price"),
    [
        # End to end: every step once, with its gradient.
        (2, 2, 6, [(0, 0, 2), (2, 2, 4), (4, 4, 6)], 1),
        (1, 1, 3, [(0, 0, 1), (1, 1, 2), (2, 2, 3)], 1),
        # One chunk is a whole sequence.
        (6, 6, 6, [(0, 0, 6)], 1),
        (9, 9, 6, [(0, 0, 6)], 1),
        (6, 99, 6, [(0, 0, 6)], 1),
        # Its first 4 steps without a gradient: 2 + 4/3 of 6.
        (9, 2, 6, [(4, 0, 6)], (2 + 4 / 3) / 6),
        # Two of every four steps without.
        (4, 2, 8, [(2, 0, 4), (6, 4, 8)], (4 + 4 / 3) / 8),
        # 2 + 4 + 4 + 4 steps with a gradient; the states at 2 and 4 are found from 0 and from 2.
        (2, 4, 8, [(0, 0, 2), (0, 2, 4), (2, 4, 6), (4, 6, 8)], (14 + 4 / 3) / 8),
        # All steps so far at every update.
        (2, 9, 5, [(0, 0, 2), (0, 2, 4), (0, 4, 5)], (2 + 4 + 5) / 5),
        # The last chunk is shorter and still starts where the one before ended …
        (3, 3, 5, [(0, 0, 3), (3, 3, 5)], 1),
        (4, 4, 9, [(0, 0, 4), (4, 4, 8), (8, 8, 9)], 1),
        # … or as far behind it as the others: 2 + 3 + 2 steps, no state found anew but that at 1.
        (2, 3, 5, [(0, 0, 2), (1, 2, 4), (3, 4, 5)], (2 + 3 + 2 + (1 + 2) / 3) / 5),
        # With a shorter reach nothing of a shorter last chunk is left out but what is too far back,
        (4, 3, 7, [(1, 0, 4), (4, 4, 7)], (6 + 1 / 3) / 7),
        (5, 2, 9, [(3, 0, 5), (7, 5, 9)], (4 + (3 + 2) / 3) / 9),
        # and it does not reach into the chunk before: 2 + 2 + 1 steps.
        (3, 2, 7, [(1, 0, 3), (4, 3, 6), (6, 6, 7)], (5 + (1 + 1) / 3) / 7),
    ],
)
def test_chunks_and_price_by_hand(forward, backward, steps, chunks, price):
    truncation = Truncation(forward, backward)
    assert truncation.chunks(steps) == chunks
    assert truncation.price(steps) == pytest.approx(price, rel=1e-14)


def test_the_price_is_that_of_the_steps_that_are_run():
    # Counted at the model itself, for every k1, k2 and T up to 7.
    class Counting(SequenceModel):
        def advance(self, inputs, state=None, lengths=None):
            self.spent += len(inputs) * (1 if torch.is_grad_enabled() else 1 / 3)
            return super().advance(inputs, state, lengths)

    for steps in range(1, 8):
        task = make_task(steps)
        model = Counting(2, 3, 1).double()
        for forward in range(1, 8):
            for backward in range(1, 8):
                closure = make_closure(task, model, forward, backward)
                model.spent = 0.0
                for _ in range(-(-steps // forward)):
                    assert closure.epochs < 1
                    closure()
                    assert closure.gradient_evaluations == pytest.approx(
                        model.spent / steps, rel=1e-12
                    )
                    closure.advance()
                assert closure.epochs == 1
                expected = pytest.approx(model.spent / steps, rel=1e-12)
                assert closure.price == expected, (steps, forward, backward)
                assert closure.gradient_evaluations == pytest.approx(closure.price, rel=1e-14)


# -- whole sequences ------------------------------------------------------------------------------


@crossed(
    ("cell", CELLS),
    ("readout", ["last", "every"]),
    ("lengths", [None, [6, 1, 4, 2, 6, 3, 5, 6]]),
    ("forward", [6, 100]),
)
def test_one_chunk_is_plain_back_propagation_to_the_bit(cell, readout, lengths, forward):
    options = dict(cell=cell, readout=readout, layers=2, batch_norm=True, dropout=0.3)
    results = []
    for truncation in (None, Truncation(forward, forward)):
        task, model = make_task(lengths=lengths), make_model(**options)
        closure = Closure(model, Batches(task, 4, 0), CPU, truncation=truncation)
        seen = []
        for _ in range(3):
            seen += [closure(), *gradients(model)]
            descend(model)
            closure.advance()
        results.append(([*seen, *model.buffers()], closure.gradient_evaluations, closure.epochs))
    for one, other in zip(results[0][0], results[1][0], strict=True):
        assert torch.equal(one, other)
    assert results[0][1:] == results[1][1:] == (3, 1.5)


@pytest.mark.parametrize("optimizer", ["adam", "frank-wolfe:inner_steps=1"])
def test_one_chunk_gives_the_same_run(optimizer):
    config = RunConfig(
        task="digits-rows", hidden=3, budget="7gradients", evaluate_every=3, optimizer=optimizer
    )
    task, found = build_task("digits-rows"), []
    for tbptt in (None, 8, 50):  # of 8 steps
        training = build_training(replace(config, tbptt=tbptt), task)
        found.append((records_on_the_way(training), training.best, training.model.state_dict()))
    for records, best, weights in found[1:]:
        assert len(records) == len(found[0][0]) == 4
        for record, expected in zip(records, found[0][0], strict=True):
            assert record == pytest.approx(expected, rel=0, abs=0, nan_ok=True)
        assert best == found[0][1]
        for name, value in weights.items():
            assert torch.equal(value, found[0][2][name]), name


# -- the gradients --------------------------------------------------------------------------------


def plain_step(cell, layer, x, state):
    """One step of one layer by its formula: (hidden state, cell state or None)."""
    w, b = layer.weight_ih_l0, layer.bias_ih_l0
    u = layer.weight_hh_l0
    h, c = state
    if cell == "indrnn":
        return torch.relu(x @ w.T + b + u * h), None
    inner, outer = x @ w.T + b, h @ u.T + layer.bias_hh_l0
    if cell == "rnn":
        return torch.tanh(inner + outer), None
    if cell == "gru":
        (r, z, n), (ru, zu, nu) = inner.chunk(3, 1), outer.chunk(3, 1)
        r, z = torch.sigmoid(r + ru), torch.sigmoid(z + zu)
        return (1 - z) * torch.tanh(n + r * nu) + z * h, None
    i, f, g, o = (inner + outer).chunk(4, 1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


def plain_walk(cell, model, inputs, states):
    """Answers after each step, and the states after the last."""
    answers = []
    for x in inputs:
        following = []
        for layer, state in zip(model.recurrent, states, strict=True):
            h, c = plain_step(cell, layer, x, state)
            following.append((h, c))
            x = h
        states = following
        answers.append(x @ model.output.weight.T + model.output.bias)
    return answers, states


def detached(states):
    return [(h.detach(), None if c is None else c.detach()) for h, c in states]


def zeros(cell, model, count):
    nothing = torch.zeros(count, 3, dtype=torch.float64)
    return [(nothing, nothing if cell == "lstm" else None) for _ in model.recurrent]


def gradient_start(chunk_start, end, forward, backward):
    """Where the gradient of a chunk starts: as many steps behind the chunk as k2 is more than k1,
    or k2 steps before its end, though not before the chunk."""
    if backward < forward:
        return max(chunk_start, end - backward)
    return max(0, chunk_start - (backward - forward))


def plain_chunks(cell, model, inputs, target, forward, backward, every):
    """Losses and gradients chunk by chunk, the weights descending in between.

    The state is known at the latest of these: the end of the chunk before, where chunks do not
    overlap, or the start of the gradient before.
    """
    found = []
    states, known, chunk_start = zeros(cell, model, inputs.shape[1]), 0, 0
    while chunk_start < len(inputs):
        end = min(chunk_start + forward, len(inputs))
        start = gradient_start(chunk_start, end, forward, backward)
        with torch.no_grad():
            _, states = plain_walk(cell, model, inputs[known:start], states)
        known = start
        model.zero_grad()
        answers, after = plain_walk(cell, model, inputs[start:end], detached(states))
        scored = answers[max(start, chunk_start) - start :] if every else answers[-1:]
        loss = sum((answer - target).square().mean() for answer in scored) / len(scored)
        loss.backward()
        found.append((loss.detach(), gradients(model)))
        if backward <= forward:
            states, known = detached(after), end
        descend(model)
        chunk_start = end
    return found


@crossed(
    ("cell", CELLS),
    ("layers", [1, 2]),
    ("readout", ["last", "every"]),
    (
        "forward, backward",
        [(2, 2), (3, 3), (1, 1), (2, 4), (1, 3), (3, 1), (4, 4), (4, 3), (2, 9), (4, 5), (5, 2)],
    ),
    rest=False,
)
def test_each_chunk_has_the_loss_and_gradient_of_a_plain_loop(
    cell, layers, readout, forward, backward
):
    task = make_task(6)
    model, twin = (make_model(cell=cell, layers=layers, readout=readout) for _ in range(2))
    closure = make_closure(task, model, forward, backward)
    batch = Batches(task, 8, 0).draw()
    expected = plain_chunks(
        cell, twin, batch.inputs, batch.targets, forward, backward, readout == "every"
    )
    assert len(expected) == -(-6 // forward)
    for loss, grads in expected:
        assert closure.epochs < 1
        torch.testing.assert_close(closure(), loss, rtol=1e-10, atol=1e-13)
        assert_close(gradients(model), grads)
        descend(model)
        closure.advance()
    assert closure.epochs == 1
    assert_close(model.parameters(), twin.parameters())


def test_chunks_that_lie_end_to_end_carry_the_state_that_the_old_weights_gave():
    # By hand, one unit without bias: h_t = relu(w x_t + u h_{t-1}), answer a h_2 + 0, x = 1, 1 and
    # target 0, a = 1. First chunk, w = 1, u = 1/2: h_1 = 1, loss 1, ∂w = 2 h_1 = 2, ∂u = 0, ∂a = 2.
    # A step at rate 1/4: w = 1/2, a = 1/2. Second chunk: h_2 = 1/2 + 1/2 · 1 = 1 with the carried
    # h_1 = 1 (new weights would have given 1/2, so h_2 = 3/4), answer 1/2, loss 1/4,
    # ∂h_2 = 2 · 1/2 · 1/2 = 1/2, ∂w = 1/2, ∂u = 1/2 h_1 = 1/2, ∂a = 2 · 1/2 · h_2 = 1.
    model = SequenceModel(1, 1, 1, cell="indrnn").double()
    layer = model.recurrent[0]
    with torch.no_grad():
        for p, value in zip(model.parameters(), (1, 0.5, 0, 1, 0), strict=True):
            p.fill_(value)
    layer.bias_ih_l0.requires_grad_(False)
    model.output.bias.requires_grad_(False)
    examples = Examples(torch.ones(1, 2, 1).double(), torch.zeros(1, 1).double())
    task = Task("t", "", 1, 1, "mse", -1.0, examples, examples, examples, 1, 1, 1)
    closure = Closure(model, Batches(task, 1, 0), CPU, truncation=Truncation(1, 1))
    trained = [layer.weight_ih_l0, layer.weight_hh_l0, model.output.weight]
    seen = []
    for _ in range(2):
        loss = float(closure())
        seen.append((loss, *(float(p.grad) for p in trained)))
        with torch.no_grad():
            for p in trained:
                p -= 0.25 * p.grad
        closure.advance()
    assert seen == [(1, 2, 0, 2), (0.25, 0.5, 0.5, 1)]


def test_every_sequence_starts_from_zero_again():
    task, model = make_task(4), make_model()
    closure = make_closure(task, model, 2)
    first = [float(closure()), closure.advance(), float(closure()), closure.advance()]
    again = [float(closure()), closure.advance(), float(closure())]
    # The same eight sequences in another order, the weights unchanged.
    assert again[0::2] == pytest.approx(first[0::2], rel=1e-12)


def test_truncation_needs_a_sequence_model():
    with pytest.raises(TypeError, match="SequenceModel, got Linear"):
        Chunks(nn.Linear(2, 1), Batches(make_task(), 8, 0), Truncation(2, 2), CPU)


@pytest.mark.parametrize("lengths", [None, [8, 1, 3, 4, 2, 7, 4, 5]])
@pytest.mark.parametrize(("forward", "backward"), [(2, 2), (3, 3), (2, 4), (4, 2), (8, 3)])
def test_a_chunk_is_the_same_however_often_it_is_asked_for(lengths, forward, backward):
    # Optimizers that take two gradients a step, and searches along a line, ask more than once.
    if lengths is not None and backward < forward:
        forward, backward = backward, forward
    model, twin = make_model(cell="lstm"), make_model(cell="lstm")
    closure = make_closure(make_task(8, lengths), model, forward, backward)
    once = make_closure(make_task(8, lengths), twin, forward, backward)
    for _ in range(2 * -(-8 // forward)):
        first, grads = closure(), gradients(model)
        for _ in range(2):
            assert torch.equal(closure(), first)
            assert_close(gradients(model), grads)
        # And those who ask once go the same way.
        assert torch.equal(once(), first)
        for one in (model, twin):
            descend(one)
        for one in (closure, once):
            one.advance()
        assert closure.epochs == once.epochs
    assert_close(model.parameters(), twin.parameters())


def test_asking_again_costs_again_and_moves_nothing():
    # Of 8 steps two without a gradient, once, and two with one at every call.
    closure = make_closure(make_task(8), make_model(), 4, 2)
    for calls in (1, 2, 3):
        closure()
        assert closure.gradient_evaluations == pytest.approx((2 * calls + 2 / 3) / 8, rel=1e-14)
        assert closure.epochs == 0
    closure.advance()
    assert closure.epochs == 0.5
    closure()
    assert closure.gradient_evaluations == pytest.approx((6 + 2 + 2 * 2 / 3) / 8, rel=1e-14)
    whole = make_closure(make_task(8), make_model(), 8)
    for calls in (1, 2):
        whole()
        assert (whole.gradient_evaluations, whole.epochs) == (calls, 0)


@pytest.mark.parametrize(("forward", "backward"), [(1, 3), (2, 3), (4, 2)])
@pytest.mark.parametrize("lengths", [None, [6, 5, 4, 6, 5, 4, 6, 6]])
def test_steps_that_are_run_once_more_are_run_in_evaluation_mode(forward, backward, lengths):
    # No dropout, the running statistics, which stay as they are; then the gradient in training
    # mode, with masks drawn as if nothing had been run before. In two layers: the second one's
    # states tell what the first was normalised with.
    if lengths is not None and backward < forward:
        backward = forward + 1
    options = dict(cell="gru", layers=2, batch_norm=True, dropout=0.4)
    task, model, twin = (
        make_task(6, lengths, padding=math.nan),
        *(make_model(**options) for _ in range(2)),
    )
    closure = make_closure(task, model, forward, backward)
    batch = Batches(task, 8, 0).draw()
    state, known = None, 0
    for seed, chunk_start in enumerate(range(0, 6, forward)):
        end = min(chunk_start + forward, 6)
        start = gradient_start(chunk_start, end, forward, backward)
        true = torch.ones(8, dtype=torch.bool) if lengths is None else batch.lengths > chunk_start
        inputs, targets = batch.inputs[:, true], batch.targets[true]
        kept = state if state is None else [one[:, true] for one in state]
        if start > known:
            twin.eval()
            with torch.no_grad():
                _, kept = twin.advance(inputs[known:start], kept)
            twin.train()
        here = None if lengths is None else batch.lengths[true].clamp(max=end) - start
        torch.manual_seed(seed)
        twin.zero_grad()
        answers, after = twin.advance(inputs[start:end], kept, here)
        expected = functional.mse_loss(answers, targets)
        expected.backward()
        drawn = torch.get_rng_state()
        torch.manual_seed(seed)
        assert torch.equal(closure(), expected)
        assert torch.equal(torch.get_rng_state(), drawn)
        assert_close(gradients(model), gradients(twin))
        assert_close(model.buffers(), twin.buffers())
        assert all(part.training for part in model.modules())
        for one in (model, twin):
            descend(one)
        known, ends = (end, after) if backward <= forward else (start, kept)
        if ends is not None:
            state = [one.new_zeros(1, 8, 3) for one in ends]
            for whole, one in zip(state, ends, strict=True):
                whole[:, true] = one.detach()
        closure.advance()
    assert closure.epochs == 1


def test_a_model_in_evaluation_mode_stays_in_it():
    model = make_model(batch_norm=True, dropout=0.3).eval()
    closure = make_closure(make_task(6), model, 2, 4)
    for _ in range(3):
        closure()
        closure.advance()
        assert not any(part.training for part in model.modules())


# -- sequences of different lengths ---------------------------------------------------------------

LENGTHS = [6, 1, 4, 2, 5, 3, 2, 6]


def plain_chunks_of_each(cell, model, batch, forward, backward, every):
    """As `plain_chunks`, for sequences of different lengths one by one, with each chunk's cost.

    A chunk's loss is the mean over the sequences that reach into it, each scored at its own end
    there (readout "every": over all their steps in the chunk). Where all have ended there is none.
    The cost is in steps of the whole batch, a third for those without a gradient.
    """
    found = []
    count = len(batch)
    states = [zeros(cell, model, 1) for _ in range(count)]
    known = [0] * count
    steps = len(batch.inputs)
    for chunk_start in range(0, steps, forward):
        if chunk_start >= batch.lengths.max():
            break
        end = min(chunk_start + forward, steps)
        start = gradient_start(chunk_start, end, forward, backward)
        model.zero_grad()
        errors, between_steps = [], 0
        following = {}
        for i, length in enumerate(batch.lengths.tolist()):
            if length <= max(start, chunk_start):
                continue
            with torch.no_grad():
                between = batch.inputs[known[i] : start, i : i + 1]
                _, states[i] = plain_walk(cell, model, between, states[i])
            between_steps = max(between_steps, len(between))
            known[i] = start
            part = batch.inputs[start : min(end, length), i : i + 1]
            answers, after = plain_walk(cell, model, part, detached(states[i]))
            scored = answers[max(start, chunk_start) - start :] if every else answers[-1:]
            errors += [(answer - batch.targets[i]).square().mean() for answer in scored]
            if backward <= forward:
                following[i] = detached(after)
        loss = sum(errors) / len(errors)
        loss.backward()
        found.append((loss.detach(), gradients(model), end - start + between_steps / 3))
        for i, state in following.items():
            states[i], known[i] = state, end
        descend(model)
    return found


@crossed(
    ("cell", CELLS),
    ("readout", ["last", "every"]),
    ("padding", [None, math.nan]),
    ("forward, backward", [(2, 2), (1, 1), (3, 3), (1, 3), (2, 4), (4, 4)]),
    rest=False,
)
def test_sequences_count_while_they_last(cell, readout, padding, forward, backward):
    task = make_task(6, LENGTHS, padding=padding)
    model, twin = (make_model(cell=cell, layers=2, readout=readout) for _ in range(2))
    closure = make_closure(task, model, forward, backward)
    batch = Batches(task, 8, 0).draw()
    expected = plain_chunks_of_each(cell, twin, batch, forward, backward, readout == "every")
    assert len(expected) == -(-6 // forward)
    for loss, grads, _ in expected:
        torch.testing.assert_close(closure(), loss, rtol=1e-10, atol=1e-13)
        assert_close(gradients(model), grads)
        descend(model)
        closure.advance()
    assert closure.epochs == 1
    assert closure.gradient_evaluations == pytest.approx(sum(cost for *_, cost in expected) / 6)


SHORT = [6, 1, 1, 2, 3, 1, 2, 2]  # most minibatches of them end early


@crossed(
    ("cell", CELLS),
    ("readout", ["last", "every"]),
    ("forward, backward", [(2, 2), (1, 1), (3, 3), (1, 3), (2, 5), (4, 4)]),
    rest=False,
)
def test_the_next_minibatch_begins_where_all_sequences_have_ended(cell, readout, forward, backward):
    task = make_task(6, SHORT, padding=math.nan)
    model, twin = (make_model(cell=cell, readout=readout) for _ in range(2))
    closure = Closure(model, Batches(task, 2, 0), CPU, truncation=Truncation(forward, backward))
    batches, spent, calls = Batches(task, 2, 0), 0.0, 0
    for finished in range(8):  # two epochs
        batch = batches.draw()
        expected = plain_chunks_of_each(cell, twin, batch, forward, backward, readout == "every")
        longest = int(batch.lengths.max())
        chunks = -(-longest // forward)
        assert len(expected) == chunks
        for k, (loss, grads, cost) in enumerate(expected):
            assert closure.epochs == pytest.approx((finished + k / chunks) / 4, rel=1e-14)
            assert torch.equal(closure.batch.targets, batch.targets)
            torch.testing.assert_close(closure(), loss, rtol=1e-9, atol=1e-12)
            torch.testing.assert_close(gradients(model), grads, rtol=1e-7, atol=1e-10)
            spent += cost / longest  # a minibatch end to end is one evaluation, however long
            assert closure.gradient_evaluations == pytest.approx(spent, rel=1e-12)
            descend(model)
            closure.advance()
            calls += 1
    assert (closure.epochs, closure.calls) == (2, calls)
    assert calls < 8 * -(-6 // forward)


def test_the_state_of_each_sequence_stays_at_its_place():
    task = make_task(6, LENGTHS)
    model = make_model(cell="lstm")
    closure = make_closure(task, model, 2)
    for _ in range(2):
        closure()
        closure.advance()
    batch = Batches(task, 8, 0).draw()
    _, states = plain_walk("lstm", model, batch.inputs[:4], zeros("lstm", model, 8))
    alive = batch.lengths > 4
    assert alive.sum() == 3
    (h, c) = closure.chunks.state[0]
    torch.testing.assert_close(h[0, alive], states[0][0][alive])
    torch.testing.assert_close(c[0, alive], states[0][1][alive])
    over = batch.lengths <= 2  # had no part in the second chunk
    assert (h[0, over] == 0).all()
    assert (c[0, over] == 0).all()
    assert not h.requires_grad


def test_no_chunk_is_left_where_all_sequences_have_ended():
    model = make_model()
    closure = make_closure(make_task(6, [2, 1, 2, 2, 1, 1, 2, 1]), model, 2)
    first = float(closure())
    assert first > 0
    for minibatches in (1, 2, 3):
        # Two steps each, padded to six. The next are the same eight in another order.
        closure.advance()
        assert (closure.gradient_evaluations, closure.epochs) == (minibatches, minibatches)
        assert closure.chunks.state is None
        assert float(closure()) == pytest.approx(first, rel=1e-12)
        assert all(g.any() for g in gradients(model))
    assert closure.price == 1  # of whole sequences


@pytest.mark.parametrize("optimizer", ["momentum", "adam"])
def test_every_step_moves_all_weights(optimizer):
    # Momentum must not carry the read-out on while everything else stands still.
    model = make_model()
    kinds = dict(momentum=lambda p: torch.optim.SGD(p, 0.1, momentum=0.9), adam=torch.optim.Adam)
    built = kinds[optimizer](model.parameters())
    closure = make_closure(make_task(6, [2, 1, 2, 2, 1, 1, 4, 1]), model, 2)
    for _ in range(5):
        before = [p.detach().clone() for p in model.parameters()]
        closure()
        built.step()
        closure.advance()
        moved = [not torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True)]
        assert all(moved)
    assert closure.epochs == 2 + 1 / 2


def test_different_lengths_need_gradients_as_far_back_as_the_last_update():
    closure = make_closure(make_task(6, LENGTHS), make_model(), 3, 2)
    with pytest.raises(UserError, match="tbptt-backward at least 3, got 2"):
        closure()
    make_closure(make_task(6), make_model(), 3, 2)()  # which equal lengths do not


@pytest.mark.parametrize(
    ("tbptt", "backward", "refused"), [(3, 2, True), (2, 1, True), (3, 3, False), (3, 4, False)]
)
def test_a_run_with_too_short_a_reach_is_refused_before_it_begins(tbptt, backward, refused):
    config = RunConfig(
        hidden=3, budget="1evaluation", optimizer="adam", tbptt=tbptt, tbptt_backward=backward
    )
    build_training(config, make_task(6))
    if not refused:
        build_training(config, make_task(6, LENGTHS))
        return
    words = f"tbptt-backward at least {tbptt}, got {backward}"
    with pytest.raises(UserError, match=words):
        build_training(config, make_task(6, LENGTHS))
    options = replace(
        config, tbptt=None, tbptt_backward=None,
        optimizer=f"adam:tbptt={tbptt},tbptt_backward={backward}",
    )  # fmt: skip
    with pytest.raises(UserError, match=words):
        build_training(options, make_task(6, LENGTHS))


def test_a_single_last_step_is_normalised_by_the_running_statistics():
    # One sequence alone reaches the last chunk, with one step: torch's batch normalisation refuses
    # to train on one value.
    for batch_norm in (True, False):
        model = make_model(batch_norm=batch_norm)
        closure = make_closure(make_task(3, [3, 1, 2, 2, 1, 1, 2, 1]), model, 1)
        for minibatch in range(3):
            for k in range(3):
                assert closure.epochs == pytest.approx(minibatch + k / 3, rel=1e-14)
                assert closure().isfinite()
                assert all(g.isfinite().all() for g in gradients(model))
                closure.advance()
        assert (closure.epochs, closure.gradient_evaluations) == (3, 3)
        for norm in model.norms:
            assert norm.training
            assert int(norm.num_batches_tracked) == 3 * 2
    # One true step in a longer chunk, and a batch of one sequence whose last chunk has one step.
    longer = make_task(4, [3, 1, 2, 2, 1, 1, 2, 1])
    for task, options in ((longer, {}), (make_task(5), dict(batch_size=1))):
        closure = make_closure(task, make_model(batch_norm=True), 2, **options)
        while closure.epochs < 1 / 8:
            assert closure().isfinite()
            closure.advance()
    # Two sequences, or two steps of one, have their chunk.
    for lengths, forward in (([3, 3, 2, 2, 1, 1, 2, 1], 1), ([4, 1, 2, 2, 1, 1, 2, 1], 2)):
        steps = max(lengths)
        model = make_model(batch_norm=True)
        closure = make_closure(make_task(steps, lengths), model, forward)
        for _ in range(-(-steps // forward)):
            assert closure.epochs < 1
            assert closure().isfinite()
            closure.advance()
        assert (closure.epochs, closure.gradient_evaluations) == (1, 1)


@pytest.mark.parametrize("padding", [math.nan, 1e6])
@pytest.mark.parametrize(("forward", "backward"), [(1, 3), (2, 4), (2, 2)])
@pytest.mark.parametrize("readout", ["last", "every"])
def test_padding_stays_out_of_batch_statistics(padding, forward, backward, readout):
    # Where gradients overlap, states are run once more; what follows an end stays out there, too.
    results = []
    for content in (None, padding):
        model = make_model(batch_norm=True, layers=2, readout=readout)
        task = make_task(6, [6, 2, 6, 3, 2, 2, 1, 6], padding=content)
        closure = make_closure(task, model, forward, backward)
        seen = []
        for _ in range(6 // forward):
            seen += [closure(), *gradients(model)]
            closure.advance()
        results.append([*seen, *model.buffers()])
    for one, other in zip(*results, strict=True):
        assert one.isfinite().all()
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(("forward", "backward"), [(2, 4), (2, 2), (4, 2), (3, 3), (3, 5)])
def test_batch_statistics_are_taken_once_a_chunk(forward, backward):
    # Steps that are run once more for their states alone are not new data.
    model = make_model(batch_norm=True)
    closure = make_closure(make_task(8), model, forward, backward)
    chunks = -(-8 // forward)
    for _ in range(chunks):
        closure()
        closure.advance()
    assert closure.epochs == 1
    assert int(model.norms[0].num_batches_tracked) == chunks


# -- counting -------------------------------------------------------------------------------------


def make_training(budget, truncation, task=None, optimizer=None, batch_size=4, **options):
    """A training of a tiny network; two batches an epoch."""
    task, model = task or make_task(16), make_model()
    built = optimizer or torch.optim.SGD(model.parameters(), lr=0.01)
    batches = Batches(task, batch_size, 0)
    return Training(
        model, built, task, batches, Budget.parse(budget), truncation=truncation, **options
    )


def test_eight_chunks_are_one_evaluation():
    closure = make_closure(make_task(128), make_model(), 16)
    counted = []
    for _ in range(16):
        closure()
        closure.advance()
        counted.append(closure.gradient_evaluations)
    assert counted == [k / 8 for k in range(1, 17)]
    assert closure.epochs == 2


def test_budget_looks_and_epochs_count_whole_sequences():
    run = make_training("3gradients", Truncation(2, 2), evaluate_every=1)
    told = []
    for progress in run.run():
        told.append((progress.gradient_evaluations, progress.fraction, progress.record is not None))
        if progress.record:
            assert run.next_evaluation == progress.gradient_evaluations + 1
            assert progress.record["epochs"] == progress.gradient_evaluations / 2
    assert run.closure.calls == 24
    # 8 chunks an evaluation; looks at 0, 1, 2 and 3.
    assert told == [(k / 8, k / 24, k % 8 == 0) for k in range(25)]


@pytest.mark.parametrize(
    ("budget", "truncation", "every"),
    [
        ("100epochs", Truncation(2, 2), 2),
        ("20gradients", Truncation(2, 2), 1),
        # (14 + 4/3)/8 gradients a minibatch of 8 steps, two an epoch: 3.8, rounded up.
        ("100epochs", Truncation(2, 4), 4),
    ],
)
def test_the_validation_set_is_looked_at_each_epoch_of_chunks(budget, truncation, every):
    assert make_training(budget, truncation, make_task(8)).evaluate_every == every


@pytest.mark.parametrize(
    ("forward", "backward", "epochs", "evaluations"),
    [
        (4, 4, 4, 8),
        (8, 8, 4, 8),
        (3, 3, 4, 8),
        (99, 99, 4, 8),
        # A minibatch costs 23/12, 2/3 or, every gradient from the start, (4 + 8)/8.
        (2, 4, 6, 23),
        (4, 2, 3, 4),
        (4, 9, 4, 12),
    ],
)
def test_epochs_are_epochs_whatever_a_minibatch_costs(forward, backward, epochs, evaluations):
    run = make_training(f"{epochs}epochs", Truncation(forward, backward), make_task(8))
    records = [progress.record for progress in run.run() if progress.record]
    assert run.closure.epochs == epochs
    assert records[-1]["epochs"] == epochs
    assert run.closure.gradient_evaluations == pytest.approx(evaluations, rel=1e-12)
    assert run.closure.gradient_evaluations == pytest.approx(2 * epochs * run.closure.price)


@pytest.mark.parametrize(("forward", "backward"), [(2, 4), (4, 2), (3, 2), (3, 4), (1, 8), (8, 1)])
def test_a_budget_in_epochs_is_spent_exactly(forward, backward):
    run = make_training("4epochs", Truncation(forward, backward), make_task(8))
    list(run.run())
    assert run.closure.epochs == 4
    assert run.closure.gradient_evaluations == pytest.approx(8 * run.closure.price, rel=1e-12)


def test_the_run_counts_sequences_that_end_early():
    # All end after two of the six steps to which they are padded: one chunk is a whole minibatch.
    task = make_task(6, [2, 1, 2, 2, 1, 1, 2, 1])
    run = make_training("2gradients", Truncation(2, 2), task, batch_size=2, evaluate_every=1)
    told = [(p.gradient_evaluations, p.epochs, p.fraction) for p in run.run()]
    assert told == [(k, k / 4, k / 2) for k in range(3)]


def test_a_budget_may_end_in_mid_sequence():
    # A chunk is an eighth of an evaluation; a part of an evaluation counts as a whole one.
    run = make_training("1.2gradients", Truncation(2, 2))
    list(run.run())
    assert run.closure.gradient_evaluations == 2


def test_the_rate_falls_with_every_chunk():
    run = make_training("1evaluation", Truncation(4, 4), schedule="linear")
    rates = []
    step = run.optimizer.step

    def noted():
        rates.append(run.optimizer.param_groups[0]["lr"])
        step()

    run.optimizer.step = noted
    list(run.run())
    assert rates == pytest.approx([0.01, 0.0075, 0.005, 0.0025])


# -- by name --------------------------------------------------------------------------------------

CONFIG = RunConfig(
    "digits-rows",
    model="gru",
    hidden=3,
    budget="4gradients",
    evaluate_every=2,
    optimizer="adam",
    tbptt=2,
)


@pytest.mark.parametrize(
    ("optimizer", "options", "steps"),
    [
        ("frank-wolfe", dict(tbptt=2), 4),
        ("frank-wolfe", dict(tbptt=3), 3),
        ("frank-wolfe:norm=inf,scale=entry", dict(tbptt=2), 4),
        ("frank-wolfe:inner_steps=5", dict(tbptt=2), 5),
        ("frank-wolfe:tbptt=4", dict(tbptt=None), 2),
        ("frank-wolfe:tbptt=4,tbptt_backward=8,norm=inf,scale=entry", dict(tbptt=None), 2),
    ],
)
def test_frank_wolfe_takes_the_chunks_as_inner_steps(optimizer, options, steps):
    training = build_training(replace(CONFIG, optimizer=optimizer, **options))  # of 8 steps
    assert isinstance(training.optimizer, FrankWolfe)
    assert training.optimizer.param_groups[0]["inner_steps"] == steps
    default = build_training(replace(CONFIG, optimizer="frank-wolfe", tbptt=None)).optimizer
    assert (
        default.param_groups[0]["inner_steps"]
        == FrankWolfe([torch.zeros(1)]).param_groups[0]["inner_steps"]
    )


@pytest.mark.parametrize(
    ("options", "truncation"),
    [
        (dict(tbptt=3), Truncation(3, 3)),
        (dict(tbptt=3, tbptt_backward=5), Truncation(3, 5)),
        (dict(tbptt=None, optimizer="adam:tbptt=4,tbptt_backward=6"), Truncation(4, 6)),
    ],
)
def test_the_config_says_how_sequences_are_cut(options, truncation):
    assert build_training(replace(CONFIG, **options)).closure.chunks.truncation == truncation


# -- going on -------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["adam", "frank-wolfe"])
@pytest.mark.parametrize(
    ("tbptt", "backward", "model"),
    partly([(2, None, "lstm"), (2, 3, "gru"), (3, 2, "rnn")], [(2, 3, "gru")]),
)
def test_a_run_goes_on_in_mid_sequence_bit_for_bit(optimizer, tbptt, backward, model):
    config = replace(
        CONFIG, optimizer=optimizer, model=model, tbptt=tbptt, tbptt_backward=backward,
        dropout=0.2, layers=2, batch_norm=True, batch_size=300, budget="5gradients",
    )  # fmt: skip
    task = build_task(config.task)
    whole = build_training(config, task)
    expected = records_on_the_way(whole)
    for stop_at in range(
        1, 8
    ):  # calls: into the second sequence of four chunks, the third of three
        first = build_training(config, task)
        records = records_on_the_way(first, lambda first=first, n=stop_at: first.closure.calls == n)
        assert (first.status, first.closure.calls) == ("interrupted", stop_at)
        state = through_a_file(first.state_dict())
        torch.manual_seed(99)
        later = build_training(config, task)
        later.load_state_dict(state)
        records += records_on_the_way(later)
        assert repr(records) == repr(expected)
        assert_equal_states(later.state_dict(), whole.state_dict())
    assert whole.test() == later.test()


@pytest.mark.parametrize("lengths", [LENGTHS, SHORT])
@pytest.mark.parametrize(
    ("forward", "backward", "options"),
    [
        (2, 2, dict(cell="lstm")),
        (1, 3, dict(cell="gru")),
        (2, 3, dict(cell="gru", layers=2, batch_norm=True, dropout=0.3)),
    ],
)
def test_sequences_of_different_lengths_go_on_bit_for_bit(lengths, forward, backward, options):
    # Some minibatches end early: their last steps are interrupted, too, and the next ones' first.
    def build():
        torch.manual_seed(1)
        model = SequenceModel(2, 3, 1, **options).double()
        task = make_task(6, lengths, padding=math.nan)
        adam = torch.optim.Adam(model.parameters(), lr=0.01)
        return Training(
            model, adam, task, Batches(task, 3, 0), Budget.parse("6gradients"),
            truncation=Truncation(forward, backward),
        )  # fmt: skip

    whole = build()
    expected = records_on_the_way(whole)
    chunks = -(-6 // forward)
    assert whole.closure.calls > 8
    early = whole.closure.chunks.minibatches * chunks - whole.closure.calls
    assert early > 0.5  # chunks left out
    for stop_at in range(9):
        first = build()
        records = records_on_the_way(first, lambda first=first, n=stop_at: first.closure.calls == n)
        assert (first.status, first.closure.calls) == ("interrupted", stop_at)
        state = through_a_file(first.state_dict())
        torch.manual_seed(99)
        later = build()
        later.load_state_dict(state)
        assert later.closure.gradient_evaluations == first.closure.gradient_evaluations
        assert later.closure.epochs == first.closure.epochs
        records += records_on_the_way(later)
        assert repr(records) == repr(expected)
        assert_equal_states(later.state_dict(), whole.state_dict())


def test_a_run_folder_goes_on_in_mid_sequence(tmp_path):
    count = iter(range(100))
    config = replace(CONFIG, tbptt_backward=4)
    result = run(config, tmp_path / "run", stop_requested=lambda: next(count) == 6)
    assert result["status"] == "interrupted"
    saved = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)
    assert (saved["closure"]["calls"], saved["closure"]["chunks"]["chunk"]) == (6, 2)
    run(RunConfig(), tmp_path / "run", resume=True)
    run(config, tmp_path / "whole")
    one, other = (tmp_path / name for name in ("run", "whole"))

    assert records_of(one) == records_of(other)
    first, second = (torch.load(path / "checkpoint.pt", weights_only=True) for path in (one, other))
    assert_equal_states(first, second)


def test_going_on_with_other_cuts_is_refused(tmp_path):
    count = iter(range(100))
    run(CONFIG, tmp_path / "run", stop_requested=lambda: next(count) == 2)
    with pytest.raises(UserError, match=naming("tbptt=2", "tbptt=4")):
        run(replace(CONFIG, tbptt=4), tmp_path / "run", resume=True)


def test_the_loss_of_a_chunk_is_the_tasks():
    # Cross-entropy here, with one answer a step.
    rng = torch.Generator().manual_seed(3)
    inputs = torch.randn(5, 4, 2, generator=rng, dtype=torch.float64)
    examples = Examples(inputs, torch.tensor([0, 2, 1, 1, 0]))
    task = Task("t", "", 2, 3, "cross-entropy", 1.0, examples, examples, examples, 5, 3, 5)
    model = SequenceModel(2, 3, 3, readout="every").double()
    closure = Closure(model, Batches(task, 5, 0), CPU, truncation=Truncation(3, 3))
    batch = Batches(task, 5, 0).draw()
    answers = model(batch.inputs)
    losses = [functional.cross_entropy(a, batch.targets, reduction="none") for a in answers]
    torch.testing.assert_close(closure(), torch.stack(losses[:3]).mean())
    closure.advance()
    torch.testing.assert_close(closure(), losses[3].mean())


def test_a_batch_is_drawn_once_for_all_its_chunks(monkeypatch):
    drawn = []
    draw = Batches.draw
    monkeypatch.setattr(Batches, "draw", lambda self: drawn.append(1) or draw(self))
    closure = make_closure(make_task(6), make_model(), 2)
    for _ in range(7):
        closure()
        closure.advance()
    assert len(drawn) == 3
