"""What every optimizer promises: it trains, resumes to the bit, and is a torch optimizer.

A new optimizer joins with one row of OPTIMIZERS. What each one promises besides is in a file of its
own, such as test_frank_wolfe.py. Every step here is a streaming one, `backward(); step()`, unless
the test is about closures.
"""

import copy
import dataclasses
import functools
import math
import pickle

import pytest
import torch
from cases import crossed, partly
from stepping import apart, through_a_file
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.optim import lr_scheduler
from torch.optim.optimizer import register_optimizer_step_pre_hook

from rnnopt.optimizers.frank_wolfe.optimizer import FrankWolfe
from rnnopt.optimizers.frank_wolfe.options import FrankWolfeOptions
from rnnopt.optimizers.quasi_newton.adaqn import AdaQN
from rnnopt.optimizers.quasi_newton.asnaq import ASNAQ
from rnnopt.optimizers.quasi_newton.options import PRESETS, AdaQNOptions, ASNAQOptions

MOMENTUM = functools.partial(torch.optim.SGD, momentum=0.5)


def explicit(**options):
    """FrankWolfe with every option that a row below relies on, whatever the defaults are."""
    told = dict(
        norm=2, ball="gate", outer="plain", momentum=0.0, normalize=False, adapt=0.0,
        nesterov=False, average=None, scale="entry",
    )  # fmt: skip
    return functools.partial(FrankWolfe, **apart(FrankWolfeOptions, told | options))


# (name, builder): builder(params, **options) with a learning rate that suits weights of size 1.
OPTIMIZERS = [
    ("FrankWolfe", functools.partial(FrankWolfe, lr=0.02)),
    ("FrankWolfe-momentum", explicit(lr=0.02, inner_steps=1, norm="spectral", momentum=0.9)),
    ("FrankWolfe-adam", explicit(lr=0.05, inner_steps=5, outer="adam")),
    ("FrankWolfe-sign", explicit(lr=0.05, inner_steps=1, norm=math.inf)),
    ("FrankWolfe-spectral", explicit(lr=0.05, inner_steps=3, norm="spectral", momentum=0.5)),
    ("FrankWolfe-global", explicit(
        lr=0.05, inner_steps=2, norm=1.5, ball="global", outer="adam")),
    ("FrankWolfe-outer", explicit(lr=0.05, inner_steps=2, outer=MOMENTUM)),
    ("FrankWolfe-cumulative", explicit(
        lr=0.05, inner_steps=4, inner_iterate="cumulative", outer=torch.optim.RMSprop)),
    ("FrankWolfe-means", explicit(
        lr=0.05, inner_steps=3, momentum=0.5, nesterov=True, average=2)),
    ("FrankWolfe-adapt", explicit(
        lr=0.02, inner_steps=3, norm="spectral", momentum=0.8, normalize=True, adapt=0.2,
        nesterov=True, average=8)),
    ("FrankWolfe-learnt", functools.partial(FrankWolfe, lr=0.02, norm="learnt")),
    ("FrankWolfe-learnt-adam", functools.partial(
        FrankWolfe, lr=0.03, norm="learnt", inner_steps=3, outer="adam")),
    # Memories that are full, and begin again, within STEPS.
    ("ASNAQ", functools.partial(
        ASNAQ, lr=0.05, memory=3, fisher_memory=5,
        options=ASNAQOptions(update_every=2, momentum_range=(0.1, 0.8)))),
    ("ASNAQ-authors", functools.partial(
        ASNAQ, lr=0.05, memory=2, fisher_memory=4, options=dataclasses.replace(
            PRESETS["authors_code"], update_every=2, momentum_range=(0.1, 0.8)))),
    ("ASNAQ-difference", functools.partial(
        ASNAQ, lr=0.05, memory=4, fisher_memory=0, options=ASNAQOptions(
            update_every=3, curvature="difference", second_gradient=True,
            momentum_range=(0.5, 0.5)))),
    ("AdaQN", functools.partial(
        AdaQN, lr=0.07, memory=3, fisher_memory=8, options=AdaQNOptions(update_every=2))),
    ("AdaQN-window", functools.partial(
        AdaQN, lr=0.07, memory=2, fisher_memory=3, options=AdaQNOptions(
            update_every=2, scaling="window", fisher_dtype="bfloat16", normalize=True,
            average_of="after", anchor_moves="on_pair"))),
]  # fmt: skip
PHASES = range(1, 7)  # steps taken before a checkpoint: past the longest cycle above
STEPS = 14  # and altogether: more than one cycle after the last checkpoint

BUILDERS = [pytest.param(builder, id=name) for name, builder in OPTIMIZERS]
every_optimizer = pytest.mark.parametrize("build", BUILDERS)


class Recurrent(torch.nn.Module):
    """A GRU and a linear layer: (time 4, batch 5, 3 inputs) → (batch 5, 2 outputs)."""

    def __init__(self, seed=0, dtype=torch.float64):
        super().__init__()
        torch.manual_seed(seed)
        self.recurrent = torch.nn.GRU(3, 4, dtype=dtype)
        self.output = torch.nn.Linear(4, 2, dtype=dtype)

    def forward(self, inputs):
        return self.output(self.recurrent(inputs)[0][-1])


def batches(count=STEPS, dtype=torch.float64):
    rng = torch.Generator().manual_seed(7)
    return [torch.randn(4, 5, 3, generator=rng).to(dtype) for _ in range(count)]


def went_against(params, totals):
    """Weights that started at 1 moved against the sum of their gradients, all of them positive."""
    for p, total in zip(params, totals, strict=True):
        assert p.numel() == 0 or ((p.detach() - 1).float() * total).sum() < 0


def loss_of(model, inputs):
    return (model(inputs) - inputs.sum(dim=0)[:, :2]).square().mean()


def train(model, optimizer, data):
    """One streaming step a batch; the weights after each."""
    seen = []
    for inputs in data:
        optimizer.zero_grad()
        loss_of(model, inputs).backward()
        optimizer.step()
        seen.append([p.detach().clone() for p in model.parameters()])
    return seen


def fresh(build, seed=0, **options):
    model = Recurrent(seed)
    return model, build(model.parameters(), **options)


def same(one, other):
    """Equality to the bit of nested containers, types included."""
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and one == other


# -- it trains -------------------------------------------------------------------------------------

TOTAL = 100
SCHEDULES = {
    "constant": None,
    "StepLR": lambda o: lr_scheduler.StepLR(o, step_size=30, gamma=0.5),
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda epoch: min(epoch / 5, 1.0)),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(
        o, max_lr=0.1, total_steps=TOTAL, cycle_momentum=False
    ),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=TOTAL),
    "ReduceLROnPlateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=5),
}


@crossed(
    ("schedule", SCHEDULES),
    ("groups", [1, 2]),
    ("build", BUILDERS),
    rest=False,
)
def test_a_regression_converges(build, groups, schedule, rng):
    # Realisable: the least loss is 0. From weights 0 to weights of size 1, about 20 steps of 0.05.
    inputs = torch.randn(32, 3, generator=rng, dtype=torch.float64)
    targets = inputs @ torch.tensor([[1.0, -1.0], [0.5, 1.0], [-1.0, 0.2]]).double() + 0.5
    model = torch.nn.Linear(3, 2, dtype=torch.float64)
    for p in model.parameters():
        torch.nn.init.zeros_(p)
    params = [dict(params=[model.weight]), dict(params=[model.bias], lr=0.03)]
    optimizer = build(params if groups == 2 else model.parameters())
    scheduler = SCHEDULES[schedule](optimizer) if SCHEDULES[schedule] else None
    losses = []

    def closure():
        optimizer.zero_grad()
        loss = (model(inputs) - targets).square().mean()
        loss.backward()
        return loss

    for _ in range(TOTAL):
        losses.append(float(optimizer.step(closure).detach()))
        if schedule == "ReduceLROnPlateau":
            scheduler.step(losses[-1])
        elif scheduler is not None:
            scheduler.step()
    assert losses[-1] < 0.02 * losses[0]
    if schedule == "CosineAnnealingLR":
        assert optimizer.param_groups[0]["lr"] == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@every_optimizer
def test_the_dtype_is_kept(build, dtype, rng):
    # Gradients of size 1: in float16 torch's Adam loses squares below 6e-8, and its 1e-8 with them.
    model = Recurrent(dtype=dtype)
    optimizer = build(model.parameters())
    before = [p.detach().clone() for p in model.parameters()]
    for _ in range(STEPS):
        for p in model.parameters():
            p.grad = torch.rand(p.shape, generator=rng).add(0.5).to(dtype)
        optimizer.step()
    for p, start in zip(model.parameters(), before, strict=True):
        assert p.dtype == dtype
        assert p.isfinite().all()
        assert (p - start).sum() < 0  # against gradients that are all positive
    other = build(Recurrent(dtype=dtype).parameters())
    other.load_state_dict(optimizer.state_dict())
    assert same(other.state_dict(), optimizer.state_dict())


@every_optimizer
def test_two_runs_are_equal_to_the_bit(build):
    (model, optimizer), (other_model, other) = fresh(build), fresh(build)
    assert same(train(model, optimizer, batches()), train(other_model, other, batches()))
    assert same(optimizer.state_dict(), other.state_dict())
    assert same(optimizer.state_dict(), optimizer.state_dict())


@every_optimizer
def test_a_schedule_from_zero_moves_nothing_at_first(build):
    model, optimizer = fresh(build)
    before = [p.detach().clone() for p in model.parameters()]
    scheduler = lr_scheduler.LambdaLR(optimizer, lambda epoch: float(epoch >= 4))
    moved = []
    for inputs in batches(8):
        after = train(model, optimizer, [inputs])[-1]
        moved.append(not all(map(torch.equal, before, after)))
        scheduler.step()
    assert moved[:4] == [False] * 4
    assert any(moved[4:])


@every_optimizer
def test_a_one_element_tensor_is_a_learning_rate(build):
    model, optimizer = fresh(build)
    lr = optimizer.param_groups[0]["lr"]
    other_model, other = fresh(build, lr=torch.tensor(lr, dtype=torch.float64))
    schedulers = [lr_scheduler.ExponentialLR(o, gamma=0.5) for o in (optimizer, other)]
    for inputs in batches():
        train(model, optimizer, [inputs])
        train(other_model, other, [inputs])
        for scheduler in schedulers:
            scheduler.step()
    assert isinstance(other.param_groups[0]["lr"], torch.Tensor)
    torch.testing.assert_close(model.state_dict(), other_model.state_dict())


@every_optimizer
def test_a_group_keeps_its_own_learning_rate(build):
    model = Recurrent()
    groups = [
        dict(params=model.recurrent.parameters()),
        dict(params=model.output.parameters(), lr=0),
    ]
    optimizer = build(groups)
    before = [p.detach().clone() for p in model.parameters()]
    after = train(model, optimizer, batches())[-1]
    moved = [not torch.equal(*pair) for pair in zip(before, after, strict=True)]
    assert moved == [True] * 4 + [False] * 2


# -- checkpoints -----------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", partly(PHASES, (2, 5)))
@every_optimizer
def test_a_run_resumes_to_the_bit_at_every_phase(build, phase):
    data = batches()
    model, optimizer = fresh(build)
    expected = train(model, optimizer, data)
    final = optimizer.state_dict()
    model, optimizer = fresh(build)
    train(model, optimizer, data[:phase])
    saved = through_a_file([model.state_dict(), optimizer.state_dict()])
    assert same(saved[1], optimizer.state_dict())
    model, optimizer = fresh(build, seed=1, lr=0.7)
    model.load_state_dict(saved[0])
    optimizer.load_state_dict(saved[1])
    assert same(saved[1], optimizer.state_dict())
    assert same(train(model, optimizer, data[phase:]), expected[phase:])
    assert same(optimizer.state_dict(), final)


@pytest.mark.parametrize("phase", partly(PHASES, (2, 5)))
@every_optimizer
def test_loading_over_a_run_under_way_replaces_it(build, phase):
    data = batches()
    model, optimizer = fresh(build)
    expected = train(model, optimizer, data)
    model, optimizer = fresh(build)
    train(model, optimizer, data[:phase])
    saved = copy.deepcopy([model.state_dict(), optimizer.state_dict()])
    train(model, optimizer, data[: phase + 2])
    model.load_state_dict(saved[0])
    optimizer.load_state_dict(saved[1])
    assert same(train(model, optimizer, data[phase:]), expected[phase:])


@every_optimizer
def test_loading_shares_no_tensor_with_its_source(build):
    model, optimizer = fresh(build)
    train(model, optimizer, batches(7))
    source = optimizer.state_dict()
    before = copy.deepcopy(source)
    other_model, other = fresh(build)
    other.load_state_dict(source)
    train(other_model, other, batches())
    assert same(before, source)
    assert same(before, optimizer.state_dict())


@every_optimizer
@pytest.mark.full
def test_an_older_file_without_a_group_option_loads(build):
    model, optimizer = fresh(build)
    train(model, optimizer, batches(7))
    newer = optimizer.state_dict()
    assert newer["param_groups"][0].keys() >= {"params", "lr"}
    for name in newer["param_groups"][0].keys() - {"params"}:
        older = copy.deepcopy(newer)
        del older["param_groups"][0][name]
        other_model, other = fresh(build)
        other.load_state_dict(older)
        assert name in other.param_groups[0]
        train(other_model, other, batches(7))


def pickled(pair):
    return pickle.loads(pickle.dumps(pair))


@crossed(
    ("copier", [copy.deepcopy, pickled]),
    ("phase", [0, *PHASES]),
    ("build", BUILDERS),
    rest=False,
)
def test_a_copy_goes_on_as_the_original_does(build, phase, copier):
    data = batches()
    model, optimizer = fresh(build)
    train(model, optimizer, data[:phase])
    other_model, other = copier((model, optimizer))
    assert same(other.state_dict(), optimizer.state_dict())
    assert other.defaults.items() >= optimizer.defaults.items()
    others = train(other_model, other, data[phase:])
    assert same(others, train(model, optimizer, data[phase:]))
    assert same(other.state_dict(), optimizer.state_dict())


@crossed(
    ("flatten", [False, True]),
    ("phase", PHASES),
    ("build", BUILDERS),
    rest=False,
)
def test_distributed_checkpoints_resume_to_the_bit(build, phase, flatten):
    # Setting the state of a fresh optimizer makes torch step it with zero gradients at lr = 0.
    options = StateDictOptions(flatten_optimizer_state_dict=flatten)
    data = batches()
    model, optimizer = fresh(build)
    expected = train(model, optimizer, data)
    model, optimizer = fresh(build)
    train(model, optimizer, data[:phase])
    optimizer.zero_grad()
    saved = through_a_file(get_optimizer_state_dict(model, optimizer, options=options))
    weights = through_a_file(model.state_dict())
    model, optimizer = fresh(build, seed=1)
    model.load_state_dict(weights)
    set_optimizer_state_dict(model, optimizer, saved, options=options)
    assert all(map(torch.equal, model.state_dict().values(), weights.values()))
    assert same(train(model, optimizer, data[phase:]), expected[phase:])


@every_optimizer
def test_distributed_checkpoints_pass_over_frozen_weights(build):
    model = Recurrent()
    model.recurrent.bias_ih_l0.requires_grad_(False)
    optimizer = build(model.parameters())
    train(model, optimizer, batches(7))
    saved = copy.deepcopy(get_optimizer_state_dict(model, optimizer))
    weights = copy.deepcopy(model.state_dict())
    expected = train(model, optimizer, batches())
    model = Recurrent()
    model.recurrent.bias_ih_l0.requires_grad_(False)
    optimizer = build(model.parameters())
    model.load_state_dict(weights)
    set_optimizer_state_dict(model, optimizer, saved)
    assert same(train(model, optimizer, batches()), expected)


@every_optimizer
def test_a_distributed_checkpoint_of_a_fresh_optimizer_has_the_whole_state(build):
    # torch makes the state by a step with zero gradients at lr = 0. It moves no weight and leaves
    # nothing to be created later; a count such as Adam's, which goes into its bias correction, may
    # advance, as it does in torch.optim.Adam itself.
    model, optimizer = fresh(build)
    before = [p.detach().clone() for p in model.parameters()]
    lr = optimizer.param_groups[0]["lr"]
    saved = copy.deepcopy(get_optimizer_state_dict(model, optimizer))
    assert all(map(torch.equal, model.parameters(), before))
    assert all(p.grad is None for p in model.parameters())
    assert optimizer.param_groups[0]["lr"] == lr
    train(model, optimizer, batches())
    later = get_optimizer_state_dict(model, optimizer)
    assert saved["state"].keys() == later["state"].keys()
    for name, state in later["state"].items():
        assert shape_of(state) == shape_of(saved["state"][name])


def shape_of(state):
    """Names, and shapes of the tensors, at every level of a state."""
    if isinstance(state, dict):
        return {name: shape_of(value) for name, value in state.items()}
    return state.shape if isinstance(state, torch.Tensor) else type(state)


@pytest.mark.skipif(
    not hasattr(torch.optim, "swap_in_optimizer_params_and_state"), reason="newer torch"
)
@pytest.mark.parametrize("phase", partly(PHASES, (2, 5)))
@every_optimizer
def test_swapped_in_weights_are_stepped_and_the_live_ones_left_alone(build, phase):
    data = batches()
    model, optimizer = fresh(build)
    expected = train(model, optimizer, data)
    model, optimizer = fresh(build)
    before = train(model, optimizer, data[:phase])[-1]
    state = copy.deepcopy(optimizer.state_dict())
    twin = copy.deepcopy(model)
    twin.zero_grad()
    loss_of(twin, data[phase]).backward()
    swap = torch.optim.swap_in_optimizer_params_and_state
    with swap(optimizer, dict(twin.named_parameters()), copy.deepcopy(state)):
        optimizer.step()
    assert same([p.detach() for p in twin.parameters()], expected[phase])
    assert same([p.detach() for p in model.parameters()], before)
    assert same(optimizer.state_dict(), state)
    assert same(train(model, optimizer, data[phase:]), expected[phase:])


# -- the step --------------------------------------------------------------------------------------


@every_optimizer
def test_zero_gradients_move_nothing(build):
    model, optimizer = fresh(build)
    before = [p.detach().clone() for p in model.parameters()]
    for _ in range(STEPS):
        for p in model.parameters():
            p.grad = torch.zeros_like(p)
        optimizer.step()
        assert all(map(torch.equal, model.parameters(), before))


@every_optimizer
def test_gradients_may_come_and_go(build, rng):
    model, optimizer = fresh(build)
    params = list(model.parameters())
    never = params[2].detach().clone()
    for step in range(STEPS):
        for i, p in enumerate(params):
            asked = i != 2 and torch.rand((), generator=rng) < 0.5
            p.grad = torch.randn(p.shape, generator=rng, dtype=p.dtype) if asked else None
        had = [p.grad is not None for p in params]
        if step == 5:
            optimizer.zero_grad()
            had = [False] * len(params)
        optimizer.step()
        assert [p.grad is not None for p in params] == had
        assert all(p.isfinite().all() for p in params)
    assert torch.equal(params[2], never)
    other_model, other = fresh(build)
    other.load_state_dict(through_a_file(optimizer.state_dict()))
    train(other_model, other, batches())


@every_optimizer
def test_a_step_without_any_gradient_does_nothing(build):
    model, optimizer = fresh(build)
    before = [p.detach().clone() for p in model.parameters()]
    for _ in range(STEPS):
        optimizer.step()
    assert all(map(torch.equal, model.parameters(), before))


@every_optimizer
def test_a_group_without_any_gradient_stays_while_the_other_moves(build):
    model = Recurrent()
    model.output.requires_grad_(False)
    groups = [dict(params=model.output.parameters()), dict(params=model.recurrent.parameters())]
    optimizer = build(groups)
    before = [p.detach().clone() for p in model.parameters()]
    after = train(model, optimizer, batches())[-1]
    moved = [not torch.equal(*pair) for pair in zip(before, after, strict=True)]
    assert moved == [True] * 4 + [False] * 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@every_optimizer
def test_scalars_and_empty_tensors_are_stepped(build, dtype, rng):
    shapes = [(), (0,), (2, 3), (0, 3), (3, 0), (1, 1), ()]
    params = [torch.nn.Parameter(torch.ones(shape, dtype=dtype)) for shape in shapes]
    optimizer = build(params)
    totals = [torch.zeros(shape) for shape in shapes]
    for _ in range(STEPS):
        for p, total in zip(params, totals, strict=True):
            p.grad = torch.rand(p.shape, generator=rng).to(dtype).add(0.1)
            total += p.grad
        optimizer.step()
    assert [p.shape for p in params] == [torch.Size(shape) for shape in shapes]
    assert all(p.dtype == dtype for p in params)
    went_against(params, totals)


@every_optimizer
def test_tensors_of_several_dtypes_are_stepped_together(build, rng):
    dtypes = [torch.float32, torch.float64, torch.bfloat16, torch.float32]
    params = [torch.nn.Parameter(torch.ones(2, 3, dtype=dtype)) for dtype in dtypes]
    optimizer = build(params)
    totals = [torch.zeros(2, 3) for _ in params]
    for _ in range(STEPS):
        for p, total in zip(params, totals, strict=True):
            p.grad = torch.rand(p.shape, generator=rng).to(p.dtype).add(0.1)
            total += p.grad
        optimizer.step()
    assert [p.dtype for p in params] == dtypes
    went_against(params, totals)


@every_optimizer
def test_strides_do_not_matter(build, rng):
    start = torch.randn(3, 4, generator=rng, dtype=torch.float64)
    plain, turned = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.T.contiguous().T)
    assert not turned.is_contiguous()
    one, other = build([plain]), build([turned])
    for _ in range(STEPS):
        gradient = torch.randn(3, 4, generator=rng, dtype=torch.float64)
        plain.grad, turned.grad = gradient, gradient.T.contiguous().T
        one.step()
        other.step()
    torch.testing.assert_close(plain.data, turned.data)
    assert not turned.is_contiguous()


@every_optimizer
def test_gradients_and_storage_stay_the_callers(build):
    model, optimizer = fresh(build)
    pointers = [p.data_ptr() for p in model.parameters()]
    params = list(optimizer.param_groups[0]["params"])
    for inputs in batches():
        optimizer.zero_grad()
        loss_of(model, inputs).backward()
        gradients = [p.grad for p in model.parameters()]
        copies = [gradient.clone() for gradient in gradients]
        optimizer.step()
        assert all(p.grad is g for p, g in zip(model.parameters(), gradients, strict=True))
        assert all(map(torch.equal, gradients, copies))
        assert [p.data_ptr() for p in model.parameters()] == pointers
        assert all(map(lambda p, q: p is q, optimizer.param_groups[0]["params"], params))
        assert all(p.requires_grad and p.is_leaf for p in params)


@every_optimizer
def test_a_closure_may_be_positional_or_a_keyword_and_sets_its_own_gradients(build):
    results = []
    for by_keyword in (False, True):
        model, optimizer = fresh(build)
        first_losses = []
        for inputs in batches(6):
            losses = []

            def closure(model=model, optimizer=optimizer, inputs=inputs, losses=losses):
                assert torch.is_grad_enabled()
                optimizer.zero_grad()
                loss = loss_of(model, inputs)
                loss.backward()
                losses.append(loss.item())
                return loss

            with torch.no_grad():
                loss = optimizer.step(closure=closure) if by_keyword else optimizer.step(closure)
            assert loss.item() == losses[0]
            first_losses.append(losses[0])
        results.append([first_losses, [p.detach() for p in model.parameters()]])
        assert optimizer.step(closure=None) is None
        assert optimizer.step(None) is None
    assert same(*[losses for losses, _ in results])


@every_optimizer
def test_step_hooks_run_once_a_step(build):
    model, optimizer = fresh(build)
    calls, everywhere = [], []

    def before(hooked, args, kwargs):
        calls.append("before")
        assert hooked is optimizer

    def after(hooked, args, kwargs):
        calls.append("after")
        assert hooked is optimizer

    optimizer.register_step_pre_hook(before)
    optimizer.register_step_post_hook(after)
    handle = register_optimizer_step_pre_hook(
        lambda hooked, args, kwargs: everywhere.append(hooked is optimizer)
    )
    try:
        train(model, optimizer, batches(6))
    finally:
        handle.remove()
    assert calls == ["before", "after"] * 6
    assert everywhere.count(True) == 6  # an outer optimizer may run hooks of its own


@every_optimizer
def test_state_dict_hooks_run(build):
    model, optimizer = fresh(build)
    calls = []
    optimizer.register_state_dict_pre_hook(lambda o: calls.append("save"))
    optimizer.register_state_dict_post_hook(lambda o, state: calls.append("saved"))
    optimizer.register_load_state_dict_pre_hook(lambda o, state: calls.append("load"))
    optimizer.register_load_state_dict_post_hook(lambda o: calls.append("loaded"))
    train(model, optimizer, batches(2))
    optimizer.load_state_dict(optimizer.state_dict())
    assert calls == ["save", "saved", "load", "loaded"]


# -- parameters ------------------------------------------------------------------------------------


@every_optimizer
def test_named_parameters_keep_their_names(build):
    model = Recurrent()
    optimizer = build(model.named_parameters())
    names = [name for name, _ in model.named_parameters()]
    assert optimizer.state_dict()["param_groups"][0]["param_names"] == names
    unnamed_model, unnamed = fresh(build)
    expected = train(unnamed_model, unnamed, batches())
    assert same(train(model, optimizer, batches()), expected)


@every_optimizer
def test_a_generator_and_a_list_are_the_same(build):
    model, optimizer = fresh(build)
    other_model = Recurrent()
    other = build(list(other_model.parameters()))
    assert same(train(model, optimizer, batches()), train(other_model, other, batches()))


@every_optimizer
def test_params_of_the_wrong_kind_are_refused(build):
    weight = torch.nn.Parameter(torch.ones(2))
    with pytest.raises(ValueError, match="empty"):
        build([])
    with pytest.raises(TypeError):
        build([dict(params={weight})])
    with pytest.raises(TypeError):
        build(weight)
    with pytest.raises(TypeError):
        build([1.0])
    with pytest.raises(ValueError, match="more than one"):
        build([dict(params=[weight]), dict(params=[weight])])
    with pytest.raises(ValueError, match="leaf"):
        build([weight * 2])
    with pytest.raises(ValueError, match="lr"):
        build([weight], lr=-1.0)
    with pytest.raises(ValueError, match="lr"):
        build([weight], lr=torch.ones(2))


@every_optimizer
def test_sparse_gradients_are_refused_before_anything_moves(build):
    dense = torch.nn.Linear(2, 2)
    embedding = torch.nn.Embedding(4, 2, sparse=True)
    params = [*dense.parameters(), *embedding.parameters()]
    before = [p.detach().clone() for p in params]
    optimizer = build(params)
    dense(embedding(torch.tensor([1, 2]))).sum().backward()
    with pytest.raises((ValueError, RuntimeError), match="sparse"):
        optimizer.step()
    assert all(map(torch.equal, params, before))


@every_optimizer
def test_the_printed_form_names_the_class_and_its_groups(build):
    _, optimizer = fresh(build)
    assert type(optimizer).__name__ in repr(optimizer)
    assert "Parameter Group 0" in repr(optimizer)


# -- company ---------------------------------------------------------------------------------------


@every_optimizer
def test_a_gradient_scaler_changes_nothing_and_skips_overflows(build):
    # A scale of 2⁸ is exact, so the unscaled gradients are those of the run without.
    data = batches()
    model, optimizer = fresh(build)
    expected = train(model, optimizer, data)
    model, optimizer = fresh(build)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)
    for step, inputs in enumerate(data):
        if step in (0, 4, 9):  # an overflow, twice in mid-cycle and once before the state exists
            optimizer.zero_grad()
            scaler.scale(loss_of(model, inputs)).backward()
            next(model.parameters()).grad[0] = math.inf
            weights = [p.detach().clone() for p in model.parameters()]
            state, scale = copy.deepcopy(optimizer.state_dict()), scaler.get_scale()
            scaler.step(optimizer)
            scaler.update()
            assert scaler.get_scale() == scale / 2
            assert same([p.detach() for p in model.parameters()], weights)
            assert same(optimizer.state_dict(), state)
        optimizer.zero_grad()
        scaler.scale(loss_of(model, inputs)).backward()
        scaler.step(optimizer)
        scaler.update()
        assert same([p.detach() for p in model.parameters()], expected[step])


@every_optimizer
def test_clipped_gradients_are_used(build):
    # An exploding gradient is clipped to a finite one, and the weights stay finite.
    model, optimizer = fresh(build)
    before = [p.detach().clone() for p in model.parameters()]
    for inputs in batches():
        optimizer.zero_grad()
        (1e12 * loss_of(model, inputs)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    assert all(p.isfinite().all() for p in model.parameters())
    assert not any(map(torch.equal, model.parameters(), before))


@every_optimizer
def test_a_compiled_network_trains_alike(build):
    def network():
        torch.manual_seed(0)
        layers = torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2)
        return torch.nn.Sequential(*layers).double()

    def run(model, call):
        optimizer = build(model.parameters())
        for inputs in batches(8):
            optimizer.zero_grad()
            (call(inputs[0]) - inputs[1][:, :2]).square().mean().backward()
            optimizer.step()
        return [p.detach() for p in model.parameters()]

    plain, compiled = network(), network()
    expected = run(plain, plain)
    assert same(run(compiled, torch.compile(compiled, backend="eager")), expected)


@every_optimizer
def test_gradients_may_be_accumulated_over_micro_batches(build):
    # Two backward passes before a step: their sum, as one pass over both would give.
    (model, optimizer), (other_model, other) = fresh(build), fresh(build)
    data = batches()
    for first, second in zip(data[::2], data[1::2], strict=True):
        optimizer.zero_grad()
        loss_of(model, first).backward()
        loss_of(model, second).backward()
        optimizer.step()
        other.zero_grad()
        (2 * loss_of(other_model, torch.cat([first, second], dim=1))).backward()
        other.step()
    torch.testing.assert_close(model.state_dict(), other_model.state_dict())
