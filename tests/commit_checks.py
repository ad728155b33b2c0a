"""What test_commit_exchange.py has several processes find out of compressed and overlapped commits:
one function a claim, see processes.py.
"""

import contextlib
import copy
import importlib.util
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from distributed_checks import (
    BALL,
    NORMS,
    changes,
    cycle,
    length,
    loss_of,
    network,
    part,
    same_everywhere,
)
from stepping import frank_wolfe

from rnnopt.distributed import sums
from rnnopt.optimizers.frank_wolfe.local_steps import CommitExchange

torch.set_num_threads(1)


def twin():
    """benchmarks/local_steps.py, whose workers are simulated in one process."""
    path = Path(__file__).parent.parent / "benchmarks" / "local_steps.py"
    specification = importlib.util.spec_from_file_location("local_steps", path)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def check_a_compressed_commit_stays_in_the_ball_and_near_the_mean(where, alone):
    # "sign" rounds twice, each time by no more than about the length of what it rounds.
    for kind, near in (("int8", 0.03), ("sign", 2.0)):
        for norm in NORMS.values():
            options = BALL | dict(norm=norm, compression=kind, momentum=0.0)
            model = network()
            optimizer = frank_wolfe(model.parameters(), **options)
            for number in range(6):
                before = [p.detach().clone() for p in model.parameters()]
                cycle(model, optimizer, where, number)
                for change in changes(model, before):
                    assert length(change, norm) <= options["lr"] * (1 + 1e-6)
                assert same_everywhere(model)
            # Beside the mean as it is, from the same weights, in one commit.
            pair = [network(), network()]
            for copied, form in zip(pair, (kind, "none"), strict=True):
                exact = frank_wolfe(copied.parameters(), **options | dict(compression=form))
                cycle(copied, exact, where, 0)
            start = list(network().parameters())
            flats = [torch.cat([c.flatten() for c in changes(m, start)]) for m in pair]
            off = float((flats[0] - flats[1]).norm() / flats[1].norm())
            assert off < near, (kind, norm, off)


def check_compression_agrees_with_that_of_one_process(where, alone):
    rng = torch.Generator().manual_seed(0)
    sizes = [7, 30, 1]
    every = [torch.randn(38, generator=rng) for _ in range(where[1])]
    for kind in ("int8", "sign"):
        weights = [torch.nn.Parameter(torch.zeros(size)) for size in sizes]
        exchange = CommitExchange(kind)
        states = [{"unsent": torch.zeros(size)} for size in sizes]
        expected, lost = twin().mean_in_one_process(every, sizes, kind)
        parts = list(every[where[0]].split(sizes))
        exchange.group = None
        averaged = exchange._compressed(parts, states, torch.ones(3), torch.ones(3))
        torch.testing.assert_close(torch.cat(averaged[:3]), expected)
        torch.testing.assert_close(torch.cat([s["unsent"] for s in states]), lost[where[0]])
        assert len(weights) == len(averaged) - 2


def check_what_compression_loses_is_sent_later(where, alone):
    # Gradients that never change: all commits together go where exact ones do, if not as far.
    ends = []
    for kind in ("none", "int8", "sign"):
        weight = torch.nn.Parameter(torch.zeros(40, dtype=torch.float64))
        optimizer = frank_wolfe(
            [weight], lr=0.01, norm=2, momentum=0.0, average=None, scale="norm",
            communicate="commit", compression=kind,
        )  # fmt: skip
        rng = torch.Generator().manual_seed(where[0])
        gradient = torch.randn(40, generator=rng, dtype=torch.float64)
        for _ in range(200):
            weight.grad = gradient.clone()
            optimizer.step()
        ends.append(weight.detach())
    assert (ends[1] - ends[0]).norm() < 0.01 * ends[0].norm()
    assert torch.nn.functional.cosine_similarity(ends[2], ends[0], 0) > 0.995
    assert 0.4 * ends[0].norm() < ends[2].norm() < 1.1 * ends[0].norm()


def check_an_overlapped_commit_moves_by_the_mean_before(where, alone):
    options = dict(
        lr=0.1, inner_steps=2, norm=2, adapt=0.0, momentum=0.0, average=None, scale="norm",
        communicate="commit", overlap=True,
    )  # fmt: skip
    weight = torch.nn.Parameter(torch.zeros(3, dtype=torch.float64))
    optimizer = frank_wolfe([weight], **options)
    expected = [torch.zeros(3, dtype=torch.float64)]
    for commit in range(4):
        rng = torch.Generator().manual_seed(10 * commit + where[0])
        gradient = torch.randn(3, generator=rng, dtype=torch.float64)
        for _ in range(2):
            weight.grad = gradient.clone()
            optimizer.step()
        torch.testing.assert_close(weight.detach(), expected[-1], rtol=1e-14, atol=1e-15)
        mean = sums([-0.1 * gradient / gradient.norm()])[0] / where[1]
        expected.append(expected[-1] + mean)
        if commit == 1:  # a mean under way goes into the checkpoint
            state = copy.deepcopy(optimizer.state_dict())
            weight = torch.nn.Parameter(weight.detach().clone())
            optimizer = frank_wolfe([weight], **options)
            optimizer.load_state_dict(state)


def check_with_momentum_overlapped_steps_are_as_long(where, alone):
    # The gradient never changes: each commit that moves goes along the same vertex.
    for overlap in (False, True):
        weight = torch.nn.Parameter(torch.zeros(3))
        optimizer = frank_wolfe(
            [weight], lr=0.1, norm=2, momentum=0.9, average=0.0, scale="norm", adapt=0.0,
            communicate="commit", overlap=overlap,
        )  # fmt: skip
        lengths = []
        for _ in range(5):
            before = weight.detach().clone()
            weight.grad = torch.tensor([1.0, 2.0, 3.0])
            optimizer.step()
            lengths.append(float((weight - before).norm()))
        assert lengths == pytest.approx([0.0 if overlap else 0.1, 0.1, 0.1, 0.1, 0.1])
        with optimizer.committed():  # the plain mean of the weights that were moved to
            steps = 4 if overlap else 5
            assert float(weight.norm()) == pytest.approx(0.1 * (steps + 1) / 2)


def check_learnt_balls_of_their_own_leave_all_processes_the_same_weights(where, alone):
    # Each process learns its balls from its own gradients; what moves the weights is the mean.
    forms = [dict(), dict(compression="int8"), dict(compression="sign"), dict(overlap=True)]
    for form in forms:
        for inner_steps in (1, 3):
            options = dict(lr=0.05, norm="learnt", growth_decay=5.0, inner_steps=inner_steps)
            model = network()
            optimizer = frank_wolfe(model.parameters(), **options, communicate="commit", **form)
            for number in range(6):
                before = [p.detach().clone() for p in model.parameters()]
                for k in range(inner_steps):
                    model.zero_grad()
                    loss_of(model, part(3 * number + k, where)).backward()
                    optimizer.step()
                assert same_everywhere(model)
                first = number == 0 and "overlap" in form
                assert all(map(torch.equal, before, model.parameters())) == first
            with optimizer.committed():
                assert same_everywhere(model)
            [ball, *_] = [s["ball"]["squares"] for s in optimizer.state.values() if "ball" in s]
            assert not torch.equal(sums([ball])[0], where[1] * ball)
    # The displacement is the mean of what each process finds by itself.
    ends = []
    for communicate in ("commit", "gradient"):
        model = network()
        optimizer = frank_wolfe(
            model.parameters(), lr=0.05, norm="learnt", growth_decay=0.0, inner_steps=3,
            communicate=communicate,
        )  # fmt: skip
        start = torch.cat([p.detach().flatten() for p in model.parameters()])
        for _ in range(3):
            rng = torch.Generator().manual_seed(where[0])
            for p in model.parameters():
                p.grad = torch.randn(p.shape, generator=rng, dtype=p.dtype)
            optimizer.step()
        ends.append(torch.cat([p.detach().flatten() for p in model.parameters()]) - start)
    torch.testing.assert_close(ends[0], sums([ends[1]])[0] / where[1], rtol=1e-9, atol=1e-11)


def check_a_compressed_commit_sends_few_bytes(where, alone):
    numbers, sent = 4096, {}
    for kind in ("int8", "sign"):
        weight = torch.nn.Parameter(torch.zeros(numbers))
        optimizer = frank_wolfe([weight], norm=2, communicate="commit", compression=kind)
        weight.grad = torch.ones(numbers)
        with every_byte() as sent[kind]:
            optimizer.step()
    n = where[1]
    # Scale, flag and norm of the tensor to all others; a chunk to each; the mean of one to all.
    small = 3 * 4 * (n - 1)
    assert sent["int8"][0] == small + numbers * (n - 1) / n * 2
    assert sent["sign"][0] == small + numbers * (n - 1) / n * (1 + 1 / 8)
    # An LSTM's four tensors have four balls each, and so four norms.
    lstm = torch.nn.LSTM(8, 16)
    optimizer = frank_wolfe(lstm.parameters(), norm=2, communicate="commit", compression="int8")
    numbers = 0
    for p in lstm.parameters():
        p.grad = torch.ones_like(p)
        numbers += p.numel()
    with every_byte() as of_lstm:
        optimizer.step()
    assert of_lstm[0] == 4 * 4 * (2 + 4) * (n - 1) + numbers * (n - 1) / n * 2


@contextlib.contextmanager
def every_byte():
    """Counts the bytes that this process sends to others by all-to-all and all-gather."""
    spent, size = [0.0], dist.get_world_size()
    share = dict(all_to_all_single=(size - 1) / size, all_gather=size - 1.0)
    before = {name: getattr(dist, name) for name in share}

    def counting(name):
        def call(output, given, *arguments, **options):
            spent[0] += share[name] * given.nbytes
            return before[name](output, given, *arguments, **options)

        return call

    for name in share:
        setattr(dist, name, counting(name))
    try:
        yield spent
    finally:
        for name, function in before.items():
            setattr(dist, name, function)


def check_a_small_weight_moves_as_far_as_a_large_one_lets_it(where, alone):
    # One process's entry of a code or less, which a mean in whole codes alone would always drop.
    n, commits = where[1], 1000
    small = 0.25 / 127 if where[0] == n - 1 else 0.0
    exchange, states = CommitExchange("int8"), [{"unsent": torch.zeros(2)}]
    moved = torch.zeros(2)
    for _ in range(commits):
        given = [torch.tensor([1.0, small])]
        moved += exchange._compressed(given, states, torch.ones(1), torch.ones(1))[0]
    expected = torch.tensor([commits, commits * 0.25 / 127 / n])
    torch.testing.assert_close(moved, expected, rtol=1e-5, atol=1.0 / 127)  # a code on the way


EVERY = [value for name, value in globals().items() if name.startswith("check_")]
CHECKS = {2: EVERY, 4: EVERY}
