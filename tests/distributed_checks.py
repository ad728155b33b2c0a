"""What test_distributed.py has several processes find out: one function a claim, see processes.py.

`alone` is a process group of this process, which makes the reference run one process.
"""

import contextlib
import copy
import functools
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from messages import naming
from stepping import frank_wolfe, through_a_file
from torch.nn.parallel import DistributedDataParallel as DDP

from rnnopt import ADMM, ASNAQ, BFGS, LBFGS, LNAQ, NAQ, AdaQN, SequenceModel
from rnnopt.config.options import call_flat
from rnnopt.distributed import any_of, average_gradients, copy_from_first, share, sums
from rnnopt.optimizers.quasi_newton.options import AdaQNOptions, ASNAQOptions

torch.set_num_threads(1)
STEPS, COUNT = 6, 8  # of a training; sequences a batch
CLOSE = dict(rtol=1e-9, atol=1e-11)  # in double precision


def network(seed=0):
    torch.manual_seed(seed)
    return SequenceModel(3, 5, 2).double()


@functools.cache
def batch(number, count=COUNT):
    rng = torch.Generator().manual_seed(100 + number)
    inputs = torch.randn(4, count, 3, generator=rng, dtype=torch.float64)
    return inputs, (inputs.sum((0, 2)) > 0).long()


def part(number, where, count=COUNT):
    """This process's share of a batch; `where` is (rank, size) or None for all of it."""
    inputs, targets = batch(number, count)
    if where is None:
        return inputs, targets
    rank, size = where
    return inputs[:, rank::size], targets[rank::size]


def loss_of(model, data):
    inputs, targets = data
    return torch.nn.functional.cross_entropy(model(inputs), targets)


def same_weights(model, other, **tolerance):
    for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, **(tolerance or CLOSE))


def same_everywhere(model):
    """Whether all processes have these weights, bit for bit."""
    flat = torch.cat([p.detach().flatten() for p in model.parameters()])
    every = [torch.empty_like(flat) for _ in range(dist.get_world_size())]
    dist.all_gather(every, flat)
    return all(torch.equal(flat, other) for other in every)


@contextlib.contextmanager
def counted():
    """Counts the bytes that this process gives to all-reduces: [bytes, calls]."""
    original, spent = dist.all_reduce, [0, 0]

    def all_reduce(tensor, *arguments, **options):
        spent[0] += tensor.numel() * tensor.element_size()
        spent[1] += 1
        return original(tensor, *arguments, **options)

    dist.all_reduce = all_reduce
    try:
        yield spent
    finally:
        dist.all_reduce = original


# -- synchronous Frank-Wolfe -----------------------------------------------------------------------

FRANK_WOLFE = [
    dict(lr=0.05),
    dict(lr=0.05, inner_steps=5),
    dict(lr=0.05, inner_steps=5, norm=2, momentum=0.0, average=None, adapt=0.0),
    dict(lr=0.05, inner_steps=2, norm=math.inf, outer="adam"),
    dict(lr=0.05, momentum=0.5, adapt=0.1, average=2.0, normalize=False),
    dict(lr=0.05, inner_steps=2, norm=1.5, ball="global", outer="adam", momentum=0.0),
    dict(lr=0.05, norm="learnt"),
    dict(lr=0.05, norm="learnt", inner_steps=2, outer="adam"),
]


def train_frank_wolfe(model, where, options, closure_form, accumulated=1):
    optimizer = frank_wolfe(model.parameters(), **options)
    numbers = iter(range(10_000))

    def closure():
        model.zero_grad()
        for i in range(accumulated):
            waits = i + 1 < accumulated and isinstance(model, DDP)
            with model.no_sync() if waits else contextlib.nullcontext():
                loss = loss_of(model, part(next(numbers), where)) / accumulated
                loss.backward()
        return loss.detach()

    for _ in range(2 * STEPS):
        if closure_form:
            optimizer.step(closure)
        else:
            closure()
            optimizer.step()
    return optimizer


def closeness(options):
    # Where few gradients have been, a learnt basis has rounding over learnt_ball.SHIFT.
    learnt = options.get("norm", "learnt") == "learnt"
    return dict(rtol=1e-7, atol=1e-9) if learnt else CLOSE


def check_frank_wolfe_under_ddp_takes_the_steps_of_one_process(where, alone):
    for options in FRANK_WOLFE:
        for closure_form in (False, True):
            one, many = network(), network()
            train_frank_wolfe(one, None, options, closure_form)
            wrapped = DDP(many, gradient_as_bucket_view=closure_form)
            optimizer = train_frank_wolfe(wrapped, where, options, closure_form)
            same_weights(one, many, **closeness(options))
            assert same_everywhere(many)
            with optimizer.committed():
                assert same_everywhere(many)


def check_accumulation_under_no_sync_takes_the_steps_of_one_process(where, alone):
    for options in FRANK_WOLFE[:2]:
        one, many = network(), network()
        train_frank_wolfe(one, None, options, False, accumulated=3)
        train_frank_wolfe(DDP(many), where, options, False, accumulated=3)
        same_weights(one, many, **closeness(options))


def check_weighted_losses_make_uneven_batches_right(where, alone):
    # 5 sequences over two processes, then 1: the last has none and takes another with count 0.
    one, many = network(), network()
    wrapped = DDP(many)
    alike = [frank_wolfe(m.parameters(), lr=0.05, norm="spectral") for m in (one, many)]
    for count in (COUNT, 5, 1):
        loss_of(one, batch(3, count)).backward()
        inputs, targets = part(3, where, count)
        factor = share(len(targets))
        own = (inputs, targets) if len(targets) else batch(3, count)
        (factor * loss_of(wrapped, own)).backward()
        for optimizer in alike:
            optimizer.step()
            optimizer.zero_grad()
    same_weights(one, many)


# -- quasi-Newton ----------------------------------------------------------------------------------


def train_with_closure(model, where, build, monitored, poison=None, full_batch=False):
    """Weights after STEPS steps; at a call in `poison`, (call, rank), the loss is not a number."""
    optimizer = build(model.parameters())
    calls, number = [0], [0]

    def data():
        return part(0 if full_batch else number[0], where)

    def closure():
        model.zero_grad()
        loss = loss_of(model, data())
        calls[0] += 1
        if (
            poison is not None
            and calls[0] == poison[0]
            and (where is None or where[0] == poison[1])
        ):
            loss = loss * math.nan
        loss.backward()
        return loss.detach()

    def monitor():
        with torch.no_grad():
            return loss_of(model, data())

    for number[0] in range(3 * STEPS):
        optimizer.step(closure, monitor) if monitored else optimizer.step(closure)
    group = optimizer.param_groups[0]
    return calls[0], group["rejections"], group["skipped"], group["pairs"]


OFTEN = ASNAQOptions(update_every=2, momentum_range=(0.1, 0.8))
MINIBATCH = [
    # Tests of losses that are often failed, and pairs.
    (dict(lr=0.3, tolerance=1.0, options=OFTEN), ASNAQ),
    (dict(lr=0.1, options=replace(OFTEN, second_gradient=True)), ASNAQ),
    (dict(lr=0.2, tolerance=1.0, options=AdaQNOptions(update_every=2)), AdaQN),
]
FULL_BATCH = [
    (dict(), BFGS),
    (dict(line_search="armijo"), NAQ),
    (dict(memory=4), LBFGS),
    (dict(memory=4, line_search="fixed", lr=0.1), LNAQ),
]


def check_quasi_newton_decides_as_one_process_does(where, alone):
    rejections = 0
    for options, kind in MINIBATCH:
        for monitored in (True, False):
            one, many = network(), network()
            build = functools.partial(kind, **options)
            expected = train_with_closure(
                one, None, functools.partial(build, process_group=alone), monitored
            )
            found = train_with_closure(DDP(many), where, build, monitored)
            assert found == expected, (kind, found, expected)
            rejections += found[1]
            same_weights(one, many, rtol=1e-7, atol=1e-9)
            assert same_everywhere(many)
    assert rejections > 0  # else nothing was decided here


def check_line_searches_decide_as_one_process_does(where, alone):
    for options, kind in FULL_BATCH:
        one, many = network(), network()
        build = functools.partial(kind, **options)
        expected = train_with_closure(
            one, None, functools.partial(build, process_group=alone), False, full_batch=True
        )
        found = train_with_closure(DDP(many), where, build, False, full_batch=True)
        assert found == expected, (kind, found, expected)
        same_weights(one, many, rtol=1e-5, atol=1e-7)
        assert same_everywhere(many)


def check_what_is_not_finite_in_one_process_is_a_decision_of_all(where, alone):
    for options, kind in MINIBATCH + FULL_BATCH[:1]:
        full_batch = kind is BFGS
        for call in (4, 5):
            one, many = network(), network()
            build = functools.partial(kind, **options)
            train_with_closure(
                one, None, functools.partial(build, process_group=alone), not full_batch,
                (call, 0), full_batch,
            )  # fmt: skip
            train_with_closure(
                DDP(many), where, build, not full_batch, (call, where[1] - 1), full_batch
            )
            same_weights(one, many, rtol=1e-5, atol=1e-7)
            assert same_everywhere(many)
    # A monitor that is not a number in one process alone makes all go back.
    model = network()
    wrapped = DDP(model)
    optimizer = AdaQN(model.parameters(), lr=0.01, options=AdaQNOptions(update_every=1))

    def closure():
        model.zero_grad()
        loss_of(wrapped, part(0, where)).backward()
        return torch.zeros(())

    for step in range(4):
        optimizer.step(closure, lambda: math.nan if where[0] == 0 else 1.0)
        assert optimizer.param_groups[0]["rejections"] == step
    assert same_everywhere(model)


# -- local Frank-Wolfe -----------------------------------------------------------------------------

# Without what changes radii, a commit is as long as `lr` in the norm at most.
BALL = dict(
    lr=0.1, inner_steps=3, momentum=0.5, adapt=0.0, ball="tensor", scale="norm", average=2.0,
    communicate="commit",
)  # fmt: skip
NORMS = dict(one=1, euclidean=2, greatest=math.inf, spectral="spectral")


def cycle(model, optimizer, where, number):
    """One commit on this process's minibatches, without communication but the optimizer's."""
    for k in range(optimizer.param_groups[0]["inner_steps"]):
        model.zero_grad()
        loss_of(model, part(10 * number + k, where)).backward()
        optimizer.step()


def changes(model, before):
    return [p.detach() - q for p, q in zip(model.parameters(), before, strict=True)]


def length(change, norm):
    if norm == "spectral":
        return torch.linalg.matrix_norm(change, 2) if change.ndim == 2 else change.norm()
    return torch.linalg.vector_norm(change, norm)


def resumed(model, optimizer, **options):
    """Copies that went through a file, without pickled code."""
    weights, state = through_a_file([model.state_dict(), optimizer.state_dict()])
    other = network(seed=99)
    other.load_state_dict(weights)
    fresh = frank_wolfe(other.parameters(), **options)
    fresh.load_state_dict(state)
    return other, fresh


def check_a_shared_commit_is_the_mean_of_the_processes_own_and_in_the_ball(where, alone):
    for norm in NORMS.values():
        options = BALL | dict(norm=norm)
        model = network()
        optimizer = frank_wolfe(model.parameters(), **options)
        for number in range(3):
            before = [p.detach().clone() for p in model.parameters()]
            # What this process would do by itself, from the same weights and the same averages.
            own, lonely = resumed(model, optimizer, **options, process_group=alone)
            cycle(own, lonely, where, number)
            cycle(model, optimizer, where, number)
            mine = changes(own, before)
            expected = [total / where[1] for total in sums(mine)]
            together = changes(model, before)
            for shared, mean in zip(together, expected, strict=True):
                torch.testing.assert_close(shared, mean, **CLOSE)
                assert length(shared, norm) <= options["lr"] * (1 + 1e-9)
            assert not all(map(torch.equal, together, mine))  # the processes did differ
            assert same_everywhere(model)
            with optimizer.committed():
                assert same_everywhere(model)


def check_every_outer_step_is_the_same_in_all_processes(where, alone):
    for options in (
        dict(outer="adam"),
        dict(nesterov=False, weight_decay=0.1),
        dict(norm=2, scale="norm", ball="global", momentum=0.0),
        dict(inner_steps=1, norm=math.inf, momentum=0.0),
        dict(inner_iterate="cumulative"),
    ):
        model = network()
        optimizer = frank_wolfe(
            model.parameters(), **dict(lr=0.05, inner_steps=2, communicate="commit") | options
        )
        for number in range(3):
            cycle(model, optimizer, where, number)
            assert same_everywhere(model)


def check_a_commit_sends_one_kth_of_what_synchronous_steps_send(where, alone):
    steps = 5
    model, synchronous = network(), network()
    numbers = sum(p.numel() for p in model.parameters())
    tensors = len(list(model.parameters()))
    optimizer = frank_wolfe(model.parameters(), lr=0.05, inner_steps=steps, communicate="commit")
    with counted() as sent:
        cycle(model, optimizer, where, 0)
    # Doubles: every weight once, and for each tensor whether it had a gradient.
    assert sent == [8 * (numbers + tensors), 1]

    wrapped, of_ddp = DDP(synchronous), [0]

    def hook(_, bucket):
        of_ddp[0] += bucket.buffer().numel() * bucket.buffer().element_size()
        done = dist.all_reduce(bucket.buffer().div_(where[1]), async_op=True).get_future()
        return done.then(lambda future: future.value()[0])

    wrapped.register_comm_hook(None, hook)
    cycle(wrapped, frank_wolfe(wrapped.parameters(), lr=0.05, inner_steps=steps), where, 0)
    assert of_ddp[0] == 8 * steps * numbers


def check_local_steps_resume_to_the_bit_at_every_inner_step(where, alone):
    options = dict(
        lr=0.05, inner_steps=3, outer="adam", momentum=0.9,
        communicate="commit",
    )  # fmt: skip
    model = network()
    optimizer = frank_wolfe(model.parameters(), **options)
    other, fresh = resumed(model, optimizer, **options)
    for number in range(7):
        for one, steps in ((model, optimizer), (other, fresh)):
            one.zero_grad()
            loss_of(one, part(number, where)).backward()
            steps.step()
        same_weights(model, other, rtol=0, atol=0)
        other, fresh = resumed(other, fresh, **options)
    assert not same_everywhere(model)  # at a probe point, each its own
    assert copy.deepcopy(optimizer).communicate == "commit"


def check_a_gradient_in_one_process_counts_as_zero_in_the_others(where, alone):
    weights = [torch.nn.Parameter(torch.ones(2, dtype=torch.float64)) for _ in range(3)]
    optimizer = frank_wolfe(
        weights, lr=0.1, norm=2, scale="norm", momentum=0.0, weight_decay=0.5, average=None,
        communicate="commit",
    )  # fmt: skip
    weights[0].grad = torch.tensor([3.0, 4.0], dtype=torch.float64)
    if where[0] == 0:
        weights[1].grad = torch.tensor([0.0, 5.0], dtype=torch.float64)
    optimizer.step()
    n, decayed = where[1], 1 - 0.1 * 0.5
    expected = torch.tensor(
        [[decayed - 0.06, decayed - 0.08], [decayed, decayed - 0.1 / n], [1, 1]],
        dtype=torch.float64,
    )
    torch.testing.assert_close(torch.stack([w.detach() for w in weights]), expected)


def check_a_local_gradient_that_is_not_finite_reaches_all(where, alone):
    # As one process does with such a gradient; so all loops see it, and none goes on by itself.
    # A learnt ball takes such a gradient for zero.
    for norm in (2, "learnt"):
        weight = torch.nn.Parameter(torch.ones(2, dtype=torch.float64))
        optimizer = frank_wolfe([weight], lr=0.1, norm=norm, inner_steps=2, communicate="commit")
        for step in range(2):
            weight.grad = torch.ones_like(weight)
            if (step, where[0]) == (0, 0):
                weight.grad[0] = math.nan
            optimizer.step()
        assert weight.isnan().all() if norm == 2 else (weight < 1).all()


# -- ADMM ------------------------------------------------------------------------------------------


def uneven(number, where, count=7):
    """Shards of different sizes, as ADMM takes them."""
    inputs, targets = part(number, where, count)
    return SimpleNamespace(inputs=inputs, targets=targets, lengths=None)


def check_admm_on_uneven_shards_takes_the_steps_of_one_process(where, alone):
    for options in (
        dict(lr=0.3),
        dict(lr=0.3, keep_batch=True),
        dict(variant="blocks", sweeps=2, recurrent_decay=0.1),
        dict(variant="blocks", sweeps=2, order="parallel", keep_batch=True),
    ):
        layers = 2 if options.get("variant") is None else 1
        one, many = (SequenceModel(3, 5, 2, layers=layers).double() for _ in range(2))
        copy_from_first(one)
        many.load_state_dict(one.state_dict())
        single = call_flat(ADMM, one, "cross-entropy", **options, process_group=alone)
        shared = call_flat(ADMM, many, "cross-entropy", **options)
        for number in range(STEPS):
            single.step(uneven(number, None))
            shared.step(uneven(number, where))
        same_weights(one, many, rtol=1e-6, atol=1e-8)
        assert same_everywhere(many)


def check_admm_rejects_in_all_what_is_not_finite_in_one(where, alone):
    for variant in ("exact", "blocks"):
        model = network()
        before = copy.deepcopy(model)
        trainer = ADMM(model, "cross-entropy", variant=variant)
        bad = uneven(0, where)
        if where[0] == 0:
            bad.inputs = bad.inputs * math.nan
        trainer.step(bad)
        assert trainer.param_groups[0]["rejections"] == 1
        same_weights(model, before, rtol=0, atol=0)
    with pytest.raises(ValueError, match=f"works in one process, got {where[1]}"):
        ADMM(network(), "cross-entropy", variant="paper")


# -- helpers ---------------------------------------------------------------------------------------


def check_helpers_agree(where, alone):
    rank, size = where
    assert any_of(rank == size - 1) is True
    assert any_of(False) is False
    small, half = torch.tensor([1.0 + rank, 2.0]), torch.tensor(0.5, dtype=torch.bfloat16)
    one, two = sums([small, half])
    assert one.tolist() == [size * (size + 1) / 2, 2 * size]
    assert (two.dtype, float(two)) == (torch.bfloat16, 0.5 * size)
    assert share(3) == 1.0
    assert share(rank) == rank * size / (size * (size - 1) / 2)
    with pytest.raises(ValueError, match=naming("count=0")):
        share(0)

    torch.manual_seed(rank)
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    copy_from_first(model)
    assert same_everywhere(model)
    model(torch.full((3, 2), 1.0 + rank)).square().sum().backward()
    missing = torch.nn.Parameter(torch.ones(1))  # has a gradient in the first process alone
    missing.grad = torch.tensor([float(size)]) if rank == 0 else None
    never = torch.nn.Parameter(torch.ones(1))
    with counted() as sent:
        average_gradients([*model.parameters(), missing, never])
    assert sent[1] == 1
    assert missing.grad.tolist() == [1.0]
    assert never.grad is None


EVERY = [value for name, value in globals().items() if name.startswith("check_")]
# What a third and fourth process could change.
WITH_FOUR = [
    check_a_shared_commit_is_the_mean_of_the_processes_own_and_in_the_ball,
    check_weighted_losses_make_uneven_batches_right,
    check_admm_on_uneven_shards_takes_the_steps_of_one_process,
    check_helpers_agree,
]
CHECKS = {2: EVERY, 4: WITH_FOUR}
