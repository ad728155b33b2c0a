"""What suites of others ask of every torch optimizer: options, hooks, groups, closures.

The inputs are those of torch's own tests (`OptimizerInfo`) where they say anything about ours, and
the questions are theirs and those of pytorch_optimizer's tests. Each is put to every optimizer of
test_every_optimizer.py and to those that search a line. Left out is what these optimizers have not:
a loop beside `foreach`, `fused` and `capturable` steps, complex weights, sparse gradients.
"""

import copy
import functools
import inspect

import pytest
import torch
from cases import crossed, partly
from messages import naming
from stepping import through_a_file
from test_every_optimizer import OPTIMIZERS, Recurrent, batches, loss_of, same

from rnnopt.optimizers.frank_wolfe.optimizer import FrankWolfe
from rnnopt.optimizers.quasi_newton.adaqn import AdaQN
from rnnopt.optimizers.quasi_newton.asnaq import ASNAQ
from rnnopt.optimizers.quasi_newton.bfgs import BFGS, LBFGS
from rnnopt.optimizers.quasi_newton.naq import LNAQ, NAQ

FIXED = functools.partial(LNAQ, memory=3, lr=0.05, line_search="fixed")
LINE_SEARCHES = [
    ("BFGS", BFGS),
    ("LBFGS", functools.partial(LBFGS, memory=3)),
    ("NAQ", NAQ),
    ("LNAQ-armijo", functools.partial(LNAQ, memory=3, line_search="armijo")),
    ("LNAQ-fixed", FIXED),
]
EVERY = OPTIMIZERS + LINE_SEARCHES
BUILDERS = [pytest.param(builder, id=name) for name, builder in EVERY]
every = pytest.mark.parametrize("build", BUILDERS)
PLAIN = [ASNAQ, AdaQN, FrankWolfe, BFGS, LBFGS, NAQ, LNAQ]
every_class = pytest.mark.parametrize("plain", PLAIN)


def class_of(build):
    return build.func if isinstance(build, functools.partial) else build


def searches(build):
    """Whether it searches a line, with one group and a closure."""
    return class_of(build) in (BFGS, LBFGS, NAQ, LNAQ)


def weight(*numbers, **options):
    return torch.nn.Parameter(torch.tensor(numbers or (1.0, 2.0), **options))


def take_steps(model, optimizer, data, sign=1, monitored=False):
    """A step with a closure a batch; what it returned, and the weights after each."""
    seen = []
    for inputs in data:

        def closure(inputs=inputs):
            optimizer.zero_grad()
            loss = sign * loss_of(model, inputs)
            loss.backward()
            return loss

        def monitor(inputs=inputs):
            with torch.no_grad():
                return sign * loss_of(model, inputs)

        more = dict(monitor=monitor) if monitored else {}
        loss = optimizer.step(closure, **more).detach()
        seen.append([loss, *(p.detach().clone() for p in model.parameters())])
    return seen


def fresh(build, dtype=torch.float64, **options):
    model = Recurrent(dtype=dtype)
    return model, build(model.parameters(), **options)


# -- maximize --------------------------------------------------------------------------------------


@crossed(
    ("where", ["constructor", "group"]),
    ("monitored", [False, True]),
    ("build", BUILDERS),
)
def test_maximizing_is_minimizing_the_negative_to_the_bit(build, monitored, where):
    if monitored and class_of(build) not in (ASNAQ, AdaQN):
        pytest.skip("has no monitor")
    data = batches(12)
    model, optimizer = fresh(build)
    expected = take_steps(model, optimizer, data, -1, monitored)
    climber = Recurrent()
    if where == "constructor":
        climbing = build(climber.parameters(), maximize=True)
    else:
        climbing = build([dict(params=climber.parameters(), maximize=True)])
    found = take_steps(climber, climbing, data, 1, monitored)
    for (loss, *weights), (negative, *others) in zip(found, expected, strict=True):
        assert loss == -negative  # the closure's own, not what is minimised
        assert same(weights, others)
    state, other = climbing.state_dict(), optimizer.state_dict()
    assert state["param_groups"][0].pop("maximize") is True
    assert other["param_groups"][0].pop("maximize") is False
    assert same(state, other)


@pytest.mark.parametrize("build", [b for _, b in OPTIMIZERS], ids=[name for name, _ in OPTIMIZERS])
def test_maximizing_without_a_closure_goes_along_the_gradients_in_place(build):
    up, down = weight(2.0, 2.0, 2.0), weight(2.0, 2.0, 2.0)
    ascent, descent = build([up], maximize=True), build([down])
    for _ in range(8):
        up.grad, down.grad = torch.tensor([0.5, 1, -2]), -torch.tensor([0.5, 1, -2])
        ascent.step()
        descent.step()
        assert torch.equal(up, down)
        assert up.grad.tolist() == [0.5, 1, -2]
    assert not torch.equal(up, torch.full((3,), 2.0))


@every
def test_a_group_added_later_maximizes_or_is_refused(build):
    optimizer = build([weight()])
    group = dict(params=[weight()], maximize=True)
    if class_of(build) is FrankWolfe:
        optimizer.add_param_group(group)
        for p in [p for group in optimizer.param_groups for p in group["params"]]:
            p.grad = torch.ones(2)
        for _ in range(10):
            optimizer.step()
        down, up = (group["params"][0].sum() for group in optimizer.param_groups)
        assert down < 3 < up
        return
    with pytest.raises(ValueError, match="one group" if searches(build) else "share maximize"):
        optimizer.add_param_group(group)
    assert len(optimizer.param_groups) == 1


@pytest.mark.parametrize("value", [None, 1, "yes"])
@every_class
def test_maximize_is_true_or_false(plain, value):
    with pytest.raises(ValueError, match=f"maximize must be true or false, got maximize={value!r}"):
        plain([weight()], maximize=value)
    with pytest.raises(ValueError, match=f"maximize must be true or false, got maximize={value!r}"):
        plain([dict(params=[weight()], maximize=value)])


# -- how a step is computed ------------------------------------------------------------------------

IDLE = [
    dict(foreach=None, capturable=False, differentiable=False, fused=None),
    dict(foreach=False, capturable=None, differentiable=None, fused=False),
    dict(foreach=True),
]


@pytest.mark.parametrize("options", partly(IDLE, IDLE[:1]))
@every
def test_step_options_that_ask_for_nothing_change_nothing(build, options):
    model, optimizer = fresh(build)
    expected = take_steps(model, optimizer, batches(6))
    for given, in_group in ((options, {}), ({}, options)):
        model = Recurrent()
        other = build([dict(params=model.parameters(), **in_group)], **given)
        assert same(take_steps(model, other, batches(6)), expected)
        assert same(other.state_dict(), optimizer.state_dict())


@pytest.mark.parametrize("name", ["capturable", "differentiable", "fused"])
@every_class
def test_step_options_that_no_step_here_has_are_refused(plain, name):
    said = f"{plain.__name__} has no {name} step: {name} must be False, got True"
    with pytest.raises(ValueError, match=said):
        plain([weight()], **{name: True})
    with pytest.raises(ValueError, match=said):
        plain([dict(params=[weight()], **{name: True})])
    with pytest.raises(ValueError, match=naming("foreach='yes'")):
        plain([weight()], foreach="yes")
    with pytest.raises(TypeError, match="unexpected keyword argument 'fuse'"):
        plain([weight()], fuse=False)
    optimizer = plain([weight()])
    with pytest.raises(ValueError, match="one group|" + said):
        optimizer.add_param_group(dict(params=[weight()], **{name: True}))
    assert len(optimizer.param_groups) == 1


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [("maximise", "maximize"), ("Lr", "lr"), ("weightdecay", "weight_decay"),
     ("wieght_decay", "weight_decay"), ("momentun", "momentum"), ("memry", "memory"),
     ("line_serach", "line_search"), ("innersteps", "inner_steps"),
     ("differentable", "differentiable")],
)  # fmt: skip
@every_class
def test_a_misspelt_option_of_a_group_is_not_passed_over(plain, wrong, meant):
    defaults = plain([weight()]).defaults
    if meant in defaults or meant == "differentiable":
        with pytest.raises(ValueError, match=f"no option '{wrong}': did you mean '{meant}'"):
            plain([dict(params=[weight()], **{wrong: 0.1})])
    else:
        assert plain([dict(params=[weight()], **{wrong: 0.1})]).param_groups[0][wrong] == 0.1


@every_class
def test_other_keys_of_a_group_stay_as_torch_keeps_them(plain):
    # Those that schedules leave there, and what users and other libraries note.
    notes = dict(
        initial_lr=0.1, max_lr=1.0, min_lr=0.0, base_momentum=0.8, max_momentum=0.9, name="head",
        lr_scale=0.5, lr_mult=2, weight_decay_mult=0.0, betas=(0.9, 0.99), eps=1e-8, layer=3,
    )  # fmt: skip
    optimizer = plain([dict(params=[weight()], **notes)])
    assert optimizer.param_groups[0].items() >= notes.items()
    assert optimizer.state_dict()["param_groups"][0].items() >= notes.items()


@every
def test_the_groups_of_one_optimizer_make_another_that_starts_afresh(build):
    model, optimizer = fresh(build)
    take_steps(model, optimizer, batches(7))
    expected = fresh(build)[1].state_dict()["param_groups"]
    assert same(class_of(build)(optimizer.param_groups).state_dict()["param_groups"], expected)


# -- hooks on a state ------------------------------------------------------------------------------


def tensors_of(state):
    """Every tensor of the weights' states that has numbers to change, the nested ones too."""
    for value in state.values():
        if isinstance(value, dict):
            yield from tensors_of(value)
        elif isinstance(value, torch.Tensor) and value.is_floating_point():
            yield value


def doubled(value):
    if isinstance(value, dict):
        return {name: doubled(inner) for name, inner in value.items()}
    return value * 2 if isinstance(value, torch.Tensor) else value


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@every
def test_what_hooks_make_of_a_loaded_state_stays(build, dtype):
    if searches(build) and dtype == torch.bfloat16:
        pytest.skip("a search needs more digits to find a lower loss")
    model, optimizer = fresh(build, dtype)
    take_steps(model, optimizer, batches(5, dtype))
    source = optimizer.state_dict()
    before, expected = copy.deepcopy(source), doubled(copy.deepcopy(source["state"]))

    def replace(hooked, state_dict):
        return {**state_dict, "state": doubled(state_dict["state"])}

    def write(hooked, state_dict):
        for value in tensors_of(state_dict["state"]):
            value.mul_(2)

    def write_afterwards(hooked):
        for value in tensors_of(hooked.state):
            value.mul_(2)

    for hook in (replace, write, write_afterwards):
        _, other = fresh(build, dtype)
        if hook is write_afterwards:
            other.register_load_state_dict_post_hook(hook)
        else:
            other.register_load_state_dict_pre_hook(hook)
        other.load_state_dict(source)
        assert same(other.state_dict()["state"], expected)
        assert same(source, before)
    optimizer.register_state_dict_post_hook(replace)
    assert same(optimizer.state_dict()["state"], expected)
    _, other = fresh(build, dtype)
    other.load_state_dict(optimizer.state_dict())
    assert same(other.state_dict()["state"], expected)


@every
def test_tensors_that_a_hook_brings_stay_the_hooks(build):
    model, optimizer = fresh(build)
    take_steps(model, optimizer, batches(5))
    kept = copy.deepcopy(optimizer.state_dict())
    before = copy.deepcopy(kept)
    other_model, other = fresh(build)
    other.register_load_state_dict_pre_hook(lambda hooked, state_dict: kept)
    other.load_state_dict(optimizer.state_dict())
    assert same(other.state_dict()["state"], before["state"])
    for value in tensors_of(other.state):
        value.mul_(2)
    assert same(kept, before)
    take_steps(other_model, other, batches(5))
    assert same(kept, before)


@pytest.mark.parametrize("plain", [ASNAQ, AdaQN, BFGS, LBFGS, NAQ, LNAQ])
def test_a_loaded_state_keeps_the_types_it_was_saved_in(plain):
    model, optimizer = fresh(plain, torch.bfloat16)
    take_steps(model, optimizer, batches(3, torch.bfloat16))
    saved = through_a_file(optimizer.state_dict())
    saved["state"][0]["counts"] = torch.tensor([257, 3])  # 257 has no bfloat16
    saved["state"][0]["nested"] = dict(mask=torch.tensor([True]), wide=torch.tensor([0.1]).double())
    _, other = fresh(plain, torch.bfloat16)
    other.load_state_dict(saved)
    assert same(other.state_dict()["state"], saved["state"])


# -- torch's own inputs ----------------------------------------------------------------------------


def torch_inputs(name):
    common_optimizers = pytest.importorskip("torch.testing._internal.common_optimizers")
    return getattr(common_optimizers, name)("cpu", torch.float32)


@every_class
def test_params_are_refused_as_torch_refuses_them(plain):
    errors = torch_inputs("get_error_inputs_for_all_optims")
    assert len(errors) >= 6
    for error in errors:
        given = error.optimizer_error_input
        params = [weight()] if given.params is None else given.params
        if issubclass(error.error_type, Warning):
            with pytest.warns(error.error_type, match=error.error_regex):
                plain(params, **given.kwargs)
        else:
            with pytest.raises(error.error_type, match=error.error_regex):
                plain(params, **given.kwargs)


def configurations(plain):
    """Those of torch's inputs for SGD, Adam and LBFGS whose options `plain` has, with each flag."""
    known = inspect.signature(plain).parameters
    found = {}  # each once
    for kind in ("sgd", "adam", "lbfgs"):
        for given in torch_inputs(f"optim_inputs_func_{kind}"):
            kwargs = {k: v for k, v in given.kwargs.items() if k in known}
            for asked in (kwargs, kwargs | dict(foreach=False), kwargs | dict(foreach=True)):
                found[repr(asked)] = asked
    return found.values()


@pytest.mark.parametrize("contiguous", [True, False])
@every_class
def test_a_loop_goes_in_the_right_direction(plain, contiguous):
    for kwargs in configurations(plain):
        torch.manual_seed(0)
        start = torch.randn(10, 5, 2)
        matrix = start[..., 0].contiguous() if contiguous else start[..., 0]
        matrix, bias = torch.nn.Parameter(matrix.clone()), torch.nn.Parameter(torch.randn(10))
        if not contiguous:
            matrix = torch.nn.Parameter(start[..., 0])
            assert not matrix.is_contiguous()
        inputs = torch.randn(5)
        optimizer = plain([matrix, bias], **kwargs)

        def closure(matrix=matrix, bias=bias, inputs=inputs, optimizer=optimizer):
            optimizer.zero_grad()
            loss = (matrix.mv(inputs) + bias).pow(2).sum()
            loss.backward()
            return loss

        first = closure().item()
        for _ in range(20):
            assert isinstance(optimizer.step(closure), torch.Tensor)
        if kwargs.get("maximize"):
            assert closure().item() > first
        else:
            assert closure().item() < first


@every_class
def test_zero_gradients_move_nothing_whatever_the_options(plain):
    for kwargs in configurations(plain):
        if kwargs.get("weight_decay"):
            continue
        p = torch.nn.Parameter(torch.randn(5, 1, generator=torch.Generator().manual_seed(0)))
        before = p.detach().clone()
        optimizer = plain([p], **kwargs)

        def closure(p=p):
            p.grad = torch.zeros_like(p)
            return torch.zeros(())

        for _ in range(3):
            optimizer.step(closure)
            assert torch.equal(p, before)


@every
def test_gradients_are_never_written_to(build):
    model, optimizer = fresh(build)
    seen = []

    def closure():
        optimizer.zero_grad()
        loss = loss_of(model, batches(1)[0])
        loss.backward()
        seen.extend((p.grad, p.grad._version, p.grad.clone()) for p in model.parameters())
        return loss

    for _ in range(4):
        optimizer.step(closure)
    assert all(grad._version == version and torch.equal(grad, g) for grad, version, g in seen)


@every
def test_a_copy_has_all_public_attributes(build):
    def attributes(optimizer):
        return {name for name in vars(optimizer) if not name.startswith("_")}

    model, optimizer = fresh(build)
    for copied in (copy.deepcopy(optimizer), copy.copy(optimizer)):
        assert attributes(copied) == attributes(optimizer)
    take_steps(model, optimizer, batches(2))
    assert attributes(copy.deepcopy(optimizer)) == attributes(optimizer)


@every
def test_a_state_dict_makes_another_run_go_on_alike(build):
    data = batches(8)
    model, optimizer = fresh(build)
    take_steps(model, optimizer, data[:3])
    saved, weights = through_a_file(optimizer.state_dict()), through_a_file(model.state_dict())
    other_model, other = fresh(build)
    other_model.load_state_dict(weights)
    other.load_state_dict(saved)
    assert same(other.state_dict(), optimizer.state_dict())
    assert same(take_steps(other_model, other, data), take_steps(model, optimizer, data))
    assert same(other.state_dict(), optimizer.state_dict())


@every
def test_a_file_from_before_an_option_loads(build):
    model, optimizer = fresh(build)
    take_steps(model, optimizer, batches(3))
    for name in {"maximize", "restart", "loss", "restarts"} & optimizer.param_groups[0].keys():
        older = copy.deepcopy(optimizer.state_dict())
        del older["param_groups"][0][name]
        other_model, other = fresh(build)
        other.load_state_dict(older)
        assert other.param_groups[0][name] == fresh(build)[1].param_groups[0][name]
        take_steps(other_model, other, batches(3))


# -- pytorch_optimizer's questions -----------------------------------------------------------------


@every
def test_empty_groups_and_missing_frozen_and_differentiable_gradients(build):
    # The gradient may itself be part of a graph, and the closure may return a plain number.
    active, inactive = weight(0.5, -1.0), weight(0.0, 0.0)
    frozen = torch.nn.Parameter(torch.zeros(2), requires_grad=False)
    params = [dict(params=[]), dict(params=[active, inactive]), dict(params=[frozen])]
    optimizer = build([active, inactive, frozen] if searches(build) else params)

    def closure():
        loss = (active**4).sum()
        (active.grad,) = torch.autograd.grad(loss, active, create_graph=True)
        return loss.item()

    first = closure()
    for _ in range(3):
        assert isinstance(optimizer.step(closure), float)
    assert closure() < first
    assert inactive.tolist() == frozen.tolist() == [0, 0]
    assert inactive.grad is None
    assert frozen.grad is None
    assert not active.requires_grad or active.is_leaf
    optimizer.zero_grad(set_to_none=True)
    assert active.grad is None
    assert all(not t.requires_grad for own in optimizer.state.values() for t in tensors_of(own))


@every
def test_a_closure_may_leave_no_gradient(build):
    p = weight()
    optimizer = build([p])
    assert optimizer.step(closure=lambda: 1.0) == 1.0
    assert p.tolist() == [1, 2]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@every
def test_a_logistic_regression_of_two_clouds_is_learnt(build, dtype):
    if build is FIXED and dtype == torch.bfloat16:
        pytest.skip("nothing notices that a step of fixed length was a bad one")
    rng = torch.Generator().manual_seed(42)
    sides = torch.cat([-torch.ones(50, 1), torch.ones(50, 1)])
    inputs, targets = torch.randn(100, 2, generator=rng) * 2 + 2 * sides, (sides > 0).float()
    torch.manual_seed(42)
    layers = torch.nn.Linear(2, 2), torch.nn.ReLU(), torch.nn.Linear(2, 1)
    model = torch.nn.Sequential(*layers).to(dtype)
    optimizer = build(model.parameters())

    def closure():
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            outputs = model(inputs)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(outputs.float(), targets)
        loss.backward()
        return loss

    first = closure().item()
    for _ in range(40):
        optimizer.step(closure)
    assert closure().item() < first / 1.5
    assert all(p.dtype == dtype for p in model.parameters())
