"""What test_sharded.py has several processes find out about DTensor parameters: a function a claim.

Run by processes.py as distributed_checks.py is. The reference is one process on the whole tensors.
"""

import copy
import functools
import math

import pytest
import torch
from distributed_checks import CLOSE, loss_of, network, part
from messages import naming
from stepping import frank_wolfe, through_a_file
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

from rnnopt import ASNAQ, BFGS, AdaQN, FrankWolfe
from rnnopt.optimizers.quasi_newton.options import AdaQNOptions, ASNAQOptions

STEPS = 7


# -- FrankWolfe on made gradients, every norm and placement ----------------------------------------

SHAPES = [(5, 3), (12, 3), (1, 4), (7,), (), (2, 0)]  # uneven, with fewer rows than processes
NORMS = [1, 1.5, 2, 3, math.inf, "spectral"]


def gradients(step, shapes=SHAPES):
    rng = torch.Generator().manual_seed(step)
    found = [torch.randn(shape, generator=rng, dtype=torch.float64) for shape in shapes]
    if step == 2:
        found[0].zero_()
    if step == 3:
        found[1][0] *= 1e3
    return found


@functools.cache
def mesh_of(*shape):
    names = ("first", "second")[: len(shape)]
    return init_device_mesh("cpu", shape, mesh_dim_names=names)


def cut(tensor, placements, mesh):
    """As a DTensor; scalars and `None` stay plain."""
    if placements is None or tensor.ndim == 0:
        return tensor.clone()
    dims = tensor.ndim
    fitting = [Shard(p.dim) if p.is_shard() and p.dim < dims else Replicate() for p in placements]
    return distribute_tensor(tensor.clone(), mesh, fitting, src_data_rank=None)


def steps_of(build, placements=None, mesh=None, steps=STEPS, shapes=SHAPES):
    """Whole weights after `steps` made gradients, which begin late for the last tensor."""
    mixed = placements == "mixed"
    kinds = [[Shard(0)] if mixed and i % 2 else placements for i in range(len(shapes))]
    kinds = [None if kind == "mixed" else kind for kind in kinds]
    start = [torch.linspace(-1, 1, max(1, math.prod(s))).double()[: math.prod(s)] for s in shapes]
    weights = [
        nn.Parameter(cut(w.view(s), kind, mesh))
        for w, s, kind in zip(start, shapes, kinds, strict=True)
    ]
    optimizer = build(weights)
    for step in range(steps):
        for i, (w, g, kind) in enumerate(zip(weights, gradients(step), kinds, strict=True)):
            late = i == 3 and step < 2
            w.grad = None if late else cut(g, kind, mesh)
        optimizer.step()
    with getattr(optimizer, "committed", torch.no_grad)():
        shown = [whole(w) for w in weights]
    return [whole(w) for w in weights] + shown, optimizer


def whole(tensor):
    tensor = tensor.detach()
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).clone()


def check_frank_wolfe_on_parts_takes_the_steps_on_whole_tensors(where, alone):
    size = where[1]
    one = mesh_of(size)
    layouts = [([Shard(0)], one), ("mixed", one), ([Shard(1)], one), ([Replicate()], one)]
    norms, balls = NORMS, ("global", "tensor")
    if size == 4:
        both = mesh_of(2, 2)
        layouts = [([Shard(1), Shard(0)], both), ([Shard(0), Shard(0)], both), ([Shard(0)], one)]
        norms, balls = (1, 1.5, "spectral"), ("tensor",)
    options = [dict(norm=norm, inner_steps=2) for norm in norms]
    options = [dict(option, scale="norm", ball=ball) for option in options for ball in balls]
    options += [dict(norm=norm, ball="gate", gates=4) for norm in (1, 2, "spectral")]
    options += [
        dict(adapt=0.03), dict(norm=2, adapt=0.3, momentum=0.5, nesterov=False),
        dict(norm=2, momentum=0.9, normalize=False), dict(scale="norm", weight_decay=0.1),
        dict(outer="adam", inner_steps=3, norm=2), dict(norm="learnt", inner_steps=2),
        dict(norm="learnt", weight_decay=0.1, decoupled_weight_decay=False, growth_decay=5.0),
        dict(norm=2, weight_decay=0.1, decoupled_weight_decay=False, momentum=0.0),
    ]  # fmt: skip
    for option in options:
        build = functools.partial(frank_wolfe, **dict(lr=0.1, adapt=0.0) | option)
        # Radii that adapt are kept in single precision.
        tolerance = dict(rtol=1e-5, atol=1e-7) if "adapt" in option else CLOSE
        expected, _ = steps_of(build)
        for placements, mesh in layouts:
            found, _ = steps_of(build, placements, mesh)
            for got, want in zip(found, expected, strict=True):
                torch.testing.assert_close(got, want, **tolerance, msg=f"{option} {placements}")


def check_a_gradient_that_is_not_finite_is_so_for_the_whole_tensor(where, alone):
    for norm in NORMS:
        ends = []
        for placements in (None, [Shard(0)]):
            start = torch.ones(5, 2, dtype=torch.float64)
            w = nn.Parameter(cut(start, placements, mesh_of(where[1])))
            optimizer = frank_wolfe([w], lr=0.1, norm=norm, momentum=0.0, average=None)
            gradient = torch.arange(10, dtype=torch.float64).view(5, 2)
            gradient[4, 1] = math.nan
            w.grad = cut(gradient, placements, mesh_of(where[1]))
            optimizer.step()
            ends.append(whole(w))
        torch.testing.assert_close(*ends, equal_nan=True)


# -- models under fully_shard ----------------------------------------------------------------------

FSDP_STEPS = 12
LEARNERS = dict(
    frank_wolfe=lambda params: frank_wolfe(params, lr=0.05, inner_steps=3),
    with_adam=lambda params: frank_wolfe(
        params, lr=0.05, inner_steps=3, norm=2, outer="adam", ball="gate"
    ),
    with_signs=lambda params: frank_wolfe(
        params, lr=0.05, inner_steps=2, norm=math.inf, momentum=0.8
    ),
    with_learnt_balls=lambda params: frank_wolfe(params, lr=0.05, inner_steps=2, norm="learnt"),
    asnaq=lambda params: ASNAQ(
        params, lr=0.3, memory=3, fisher_memory=5, tolerance=1.0,
        options=ASNAQOptions(update_every=2, second_gradient=True, momentum_range=(0.1, 0.8)),
    ),
    adaqn=lambda params: AdaQN(
        params, lr=0.2, memory=3, fisher_memory=5, tolerance=1.0,
        options=AdaQNOptions(update_every=2),
    ),
    of_window=lambda params: ASNAQ(
        params, lr=0.1, memory=2, fisher_memory=4,
        options=ASNAQOptions(update_every=3, scaling="window", fisher_dtype="bfloat16"),
    ),
)  # fmt: skip
SINGLE = dict(rtol=1e-5, atol=1e-7)  # what adapts, and bfloat16 memories, round more


def sharded(model, size):
    """Under FSDP2, in two units of which the smaller is uneven and has empty parts."""
    if size > 1:
        # Without reshard_after_forward the outermost unit would keep whole weights after a forward
        # pass alone, which the next one would take for the present ones.
        fully_shard(model.output, mesh=mesh_of(size), reshard_after_forward=True)
        fully_shard(model, mesh=mesh_of(size), reshard_after_forward=True)
    return model


def train(model, optimizer, where, numbers):
    """Steps on this process's share of these batches."""
    for number in numbers:

        def closure(number=number):
            model.zero_grad()
            loss = loss_of(model, part(number, where))
            loss.backward()
            return loss.detach()

        if isinstance(optimizer, FrankWolfe):
            closure()
            optimizer.step()
        else:
            optimizer.step(
                closure, torch.no_grad()(lambda n=number: loss_of(model, part(n, where)))
            )


def check_weights_put_into_the_parts_are_those_evaluated(where, alone):
    # Also where the parts of a single process differ: the others must leave the tensor alone too.
    mesh = mesh_of(where[1])
    for inner_steps in (1, 3):
        weights = [nn.Parameter(cut(g, [Shard(0)], mesh)) for g in gradients(20)]
        optimizer = frank_wolfe(weights, lr=0.1, inner_steps=inner_steps)
        for step in range(4):
            for w, g in zip(weights, gradients(step), strict=True):
                w.grad = cut(g, [Shard(0)], mesh)
            optimizer.step()
        changed = whole(weights[0])
        changed[0] += 7
        with torch.no_grad():
            weights[0].copy_(cut(changed, [Shard(0)], mesh))
        before = [whole(w) for w in weights]
        with optimizer.committed():
            shown = [whole(w) for w in weights]
        assert torch.equal(shown[0], changed)
        assert not torch.equal(shown[1], before[1])
        assert torch.equal(shown[1], whole(optimizer.state[weights[1]]["average"]))
        assert all(map(torch.equal, before, (whole(w) for w in weights)))
        for w, g in zip(weights, gradients(4), strict=True):
            w.grad = cut(g, [Shard(0)], mesh)
        optimizer.step()
        assert (whole(weights[0])[0] - changed[0]).abs().max() < 1


def weights_of(model):
    return [whole(p) for p in model.parameters()]


def check_a_model_under_fully_shard_takes_the_steps_of_one_process(where, alone):
    for name, build in LEARNERS.items():
        one, many = network(), sharded(network(), where[1])
        single, several = build(one.parameters()), build(many.parameters())
        single.process_group = alone
        train(one, single, None, range(FSDP_STEPS))
        train(many, several, where, range(FSDP_STEPS))
        torch.testing.assert_close(weights_of(many), weights_of(one), **SINGLE, msg=name)
        if not name.startswith("frank"):
            counts = ("rejections", "pairs", "commits", "inner_step")
            for count in counts:
                found = several.param_groups[0].get(count)
                assert found == single.param_groups[0].get(count), (name, count)
        if isinstance(several, FrankWolfe):
            with several.committed(), single.committed():
                data = part(0, None)
                with torch.no_grad():
                    torch.testing.assert_close(many(data[0]), one(data[0]), **SINGLE)
            before = weights_of(many)
            train(many, several, where, [FSDP_STEPS])
            train(one, single, None, [FSDP_STEPS])
            torch.testing.assert_close(weights_of(many), weights_of(one), **SINGLE, msg=name)
            assert not all(map(torch.equal, before, weights_of(many)))


def check_state_dict_holds_dtensors_and_copies_go_on_to_the_bit(where, alone):
    mesh = mesh_of(where[1])
    for name, build in LEARNERS.items():
        ends = []
        for copied in (False, True):
            weights = [nn.Parameter(cut(g, [Shard(0)], mesh)) for g in gradients(20)]
            optimizer = build(weights)
            for step in range(9):
                if copied and step == 4:
                    weights, optimizer = copy.deepcopy((weights, optimizer))
                if copied and step == 6:
                    state = through_a_file(optimizer.state_dict())
                    fresh = [nn.Parameter(w.detach().clone()) for w in weights]
                    weights, optimizer = fresh, build(fresh)
                    optimizer.load_state_dict(state)
                for w, g in zip(weights, gradients(step), strict=True):
                    w.grad = cut(g, [Shard(0)], mesh)
                optimizer.step()
            ends.append([whole(w) for w in weights])
            kept = [v for state in optimizer.state.values() for v in state.values()]
            assert any(isinstance(v, DTensor) for v in kept)
        assert all(map(torch.equal, *ends)), name


def check_what_cannot_be_done_is_said(where, alone):
    from torch.distributed.tensor import Partial
    from torch.distributed.tensor.placement_types import _StridedShard

    mesh = mesh_of(where[1])
    weight = nn.Parameter(cut(torch.ones(4, 2), [Shard(0)], mesh))
    with pytest.raises(ValueError, match="BFGS needs plain tensors, got a DTensor"):
        BFGS([weight])
    with pytest.raises(ValueError, match=naming('communicate="commit"', "process_group")):
        frank_wolfe([weight], communicate="commit")
    copied = copy.deepcopy(frank_wolfe([weight], communicate="commit", process_group=alone))
    copied.param_groups[0]["params"][0].grad = cut(torch.ones(4, 2), [Shard(0)], mesh)
    with pytest.raises(ValueError, match=naming("process_group=None")):
        copied.step()
    assert not copied.state  # nothing was begun
    copied.process_group = alone
    copied.step()
    for placement in (Partial(), _StridedShard(0, split_factor=2)):
        strange = nn.Parameter(DTensor.from_local(torch.ones(2, 2), mesh, [placement]))
        for learner in (FrankWolfe, ASNAQ):
            with pytest.raises(ValueError, match="placed by Shard or Replicate"):
                learner([strange])


def check_groups_of_processes_with_shards_commit_among_each_other(where, alone):
    # Two pairs of processes: each pair shares the parts of one copy, and the pairs search apart.
    mesh = mesh_of(2, 2)
    pair = where[0] // 2
    ends = []
    for copies in (1, 2):
        options = dict(lr=0.1, inner_steps=3, norm=2, adapt=0.0, communicate="commit")
        group = mesh.get_group("first") if copies == 2 else alone
        placements = [Replicate(), Shard(0)] if copies == 2 else None
        weights = [nn.Parameter(cut(g, placements, mesh)) for g in gradients(20)]
        optimizer = frank_wolfe(weights, **options, process_group=group)
        for step in range(3):
            for w, g in zip(weights, gradients(10 * pair + step), strict=True):
                w.grad = cut(g, placements, mesh)
            optimizer.step()
        ends.append([whole(w) for w in weights])
    # What one process of each pair finds by itself, averaged.
    for mine, together in zip(*ends, strict=True):
        total = mine.clone()
        torch.distributed.all_reduce(total)
        torch.testing.assert_close(together, total / where[1], **CLOSE)


EVERY = [value for name, value in globals().items() if name.startswith("check_")]
PAIRS = [check_groups_of_processes_with_shards_commit_among_each_other]
CHECKS = {2: [check for check in EVERY if check not in PAIRS], 4: EVERY}
