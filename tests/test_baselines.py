"""What the optimizers of other libraries and authors promise here: they train, resume, say what is
missing.

That the loop itself goes on bit for bit is promised in test_training.py, that every checkpoint is
read without executing it in test_run_folder.py.
"""

import sys
from dataclasses import replace

import pytest
import torch
from same_runs import records_on_the_way
from stepping import through_a_file
from torch import nn

from rnnopt import SequenceModel
from rnnopt.config.errors import UserError
from rnnopt.config.run_config import RunConfig
from rnnopt.optimizers.baselines import ScheduleFreeAdamW
from rnnopt.runs.runner import run
from rnnopt.tasks import build_task
from rnnopt.training.build import build_training
from rnnopt.training.learner import as_learner
from rnnopt.training.registry import OPTIMIZERS, adam_of_indrnn, build_optimizer

NEW = ("soap", "psgd-kron", "schedule-free", "indrnn-adam")


def make_regression():
    """A quadratic: a matrix and a bias to find from 32 exact answers; the least loss is 0."""
    rng = torch.Generator().manual_seed(5)
    inputs = torch.randn(32, 3, generator=rng)
    targets = inputs @ torch.tensor([[1.0, -1.0], [0.5, 1.0], [-1.0, 0.2]]) + 0.5
    model = nn.Linear(3, 2)
    for p in model.parameters():
        nn.init.zeros_(p)

    def loss():
        model.zero_grad()
        loss = (model(inputs) - targets).square().mean()
        loss.backward()
        return float(loss.detach())

    return model, loss


def values_of(model):
    return [p.detach().clone() for p in model.parameters()]


def equal(one, other):
    return len(one) == len(other) and all(map(torch.equal, one, other))


# -- they train -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NEW)
def test_a_quadratic_falls_a_hundredfold(name):
    torch.manual_seed(0)
    model, loss = make_regression()
    # With L2 the least loss is not 0.
    options = ":weight_decay=0" if name == "indrnn-adam" else ""
    optimizer = build_optimizer(name + options, list(model.named_parameters()), lr=0.1)
    first = loss()
    for k in range(100):
        for group in optimizer.param_groups:
            group["lr"] = 0.1 if name == "schedule-free" else 0.1 * (1 - k / 100)
        loss()
        optimizer.step()
    with as_learner(optimizer).committed():
        assert loss() < first / 100


@pytest.mark.parametrize(
    ("name", "lr"), [("soap", 3e-3), ("psgd-kron", 1e-3), ("schedule-free", 3e-3)]
)
def test_rates_and_weight_decay_of_the_library_are_ours(name, lr):
    model, _ = make_regression()
    groups = build_optimizer(name, list(model.named_parameters())).param_groups
    assert [group["lr"] for group in groups] == [lr] * len(groups) == [OPTIMIZERS[name].lr]
    assert all(group["weight_decay"] == 0 for group in groups)
    given = build_optimizer(f"{name}:lr=0.5,weight_decay=0.25", list(model.named_parameters()))
    assert [(g["lr"], g["weight_decay"]) for g in given.param_groups] == [(0.5, 0.25)]


@pytest.mark.parametrize(
    ("specification", "name", "value"),
    [
        ("soap:precondition_frequency=3", "precondition_frequency", 3),
        ("soap", "precondition_frequency", 10),
        ("psgd-kron:momentum=0.5", "momentum", 0.5),
        ("psgd-kron", "momentum", 0.9),
        ("schedule-free:beta=0.8", "betas", (0.8, 0.999)),
        ("schedule-free", "betas", (0.9, 0.999)),
        ("schedule-free:warmup_steps=7", "warmup_steps", 7),
        ("schedule-free", "warmup_steps", 0),
        ("asnaq", "second_gradient", False),
        ("asnaq-paper", "second_gradient", True),
        ("asnaq-paper", "scaling", "history"),
        ("asnaq-authors", "scaling", "window"),
        ("asnaq-authors:momentum_range=0.2..0.9", "momentum_range", (0.2, 0.9)),
    ],
)
def test_options_and_presets_reach_the_optimizer(specification, name, value):
    model, _ = make_regression()
    (group,) = build_optimizer(specification, list(model.named_parameters())).param_groups
    assert group[name] == value


# -- they go on -----------------------------------------------------------------------------------

CONFIG = RunConfig(
    "digits-rows", model="gru", hidden=3, budget="16gradients", evaluate_every=5, dropout=0.2
)


@pytest.mark.parametrize("name", NEW)
def test_a_run_goes_on_bit_for_bit(name):
    # PSGD draws random numbers, as dropout does; SOAP finds its basis anew at the tenth step.
    config, task = replace(CONFIG, optimizer=name), build_task(CONFIG.task)
    if name == "psgd-kron":
        config = replace(config, budget="8gradients")
    whole = build_training(config, task)
    expected = records_on_the_way(whole)
    for stop_at in (0, 3) if name == "psgd-kron" else (0, 1, 5, 9, 10, 11):
        first = build_training(config, task)
        records = records_on_the_way(first, lambda first=first, n=stop_at: first.closure.calls == n)
        state = through_a_file(first.state_dict())
        torch.manual_seed(99)
        later = build_training(config, task)
        later.load_state_dict(state)
        records += records_on_the_way(later)
        assert repr(records) == repr(expected)
        assert equal(values_of(later.model), values_of(whole.model))
        assert equal(list(later.best_weights.values()), list(whole.best_weights.values()))
        assert torch.equal(later.state_dict()["random"], whole.state_dict()["random"])


@pytest.mark.parametrize("name", ["soap", "schedule-free"])
def test_a_run_folder_goes_on(name, tmp_path):
    config = replace(CONFIG, optimizer=name)
    count = iter(range(100))
    run(config, tmp_path / "run", stop_requested=lambda: next(count) == 7)
    resumed = run(RunConfig(), tmp_path / "run", resume=True)
    whole = run(config, tmp_path / "whole")
    for result in (resumed, whole):
        del result["seconds"]
    assert resumed == whole


# -- averaged weights -----------------------------------------------------------------------------


def test_schedule_free_commits_the_average_of_its_weights():
    # By the definition: z is stepped by Adam's rule from gradients at y = (1 - β) z + β x, and with
    # a constant rate x_t is the mean of z_1 … z_t.
    model, loss = make_regression()
    optimizer = ScheduleFreeAdamW(model.parameters(), lr=0.05, beta=0.7)
    z = values_of(model)
    second = [torch.zeros_like(value) for value in z]
    total = [torch.zeros_like(value) for value in z]
    for k in range(1, 9):
        loss()
        gradients = [p.grad.clone() for p in model.parameters()]
        optimizer.step()
        for i, g in enumerate(gradients):
            second[i] = 0.999 * second[i] + 0.001 * g * g
            z[i] = z[i] - 0.05 * g / ((second[i] / (1 - 0.999**k)).sqrt() + 1e-8)
            total[i] = total[i] + z[i]
        averages = [value / k for value in total]
        for p, x, newest in zip(model.parameters(), averages, z, strict=True):
            torch.testing.assert_close(p.detach(), 0.3 * newest + 0.7 * x, rtol=1e-4, atol=1e-5)
        with optimizer.committed():
            for p, x in zip(model.parameters(), averages, strict=True):
                torch.testing.assert_close(p.detach(), x, rtol=1e-4, atol=1e-5)


def test_schedule_free_takes_the_average_away_again_to_the_bit():
    model, loss = make_regression()
    optimizer = ScheduleFreeAdamW(model.parameters(), lr=0.05)
    with optimizer.committed():  # nothing to average yet
        assert all(not p.any() for p in model.parameters())
    for _ in range(20):
        loss()
        optimizer.step()
        before, state = values_of(model), through_a_file(optimizer.state_dict())
        with optimizer.committed():
            inside = values_of(model)
        assert equal(values_of(model), before)
        assert repr(through_a_file(optimizer.state_dict())) == repr(state)
    assert not equal(inside, before)
    with pytest.raises(RuntimeError, match="broke"), optimizer.committed():
        raise RuntimeError("it broke")
    assert equal(values_of(model), before)


def test_schedule_free_shows_weights_that_were_put_into_the_model():
    model, loss = make_regression()
    optimizer = ScheduleFreeAdamW(model.parameters(), lr=0.05)
    for _ in range(20):
        loss()
        optimizer.step()
    state = through_a_file(dict(model=model.state_dict(), optimizer=optimizer.state_dict()))
    with optimizer.committed():
        averages = values_of(model)
    with torch.no_grad():
        for p in model.parameters():
            p.fill_(7.0)
    with optimizer.committed():
        assert all((p == 7).all() for p in model.parameters())
    assert all((p == 7).all() for p in model.parameters())
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    with optimizer.committed():
        assert equal(values_of(model), averages)


def test_looking_at_the_average_changes_no_run():
    # However often.
    found = []
    for every in (1, 5):
        training = build_training(replace(CONFIG, optimizer="schedule-free", evaluate_every=every))
        for progress in training.run():
            if progress.record and progress.gradient_evaluations == 15:
                found.append(repr(progress.record["validation_loss"]))
        found.append(values_of(training.model))
    assert found[0] == found[2]
    assert equal(found[1], found[3])


def test_the_best_weights_of_schedule_free_are_averages():
    training = build_training(replace(CONFIG, optimizer="schedule-free"))
    for progress in training.run():
        if (
            progress.record
            and training.best["gradient_evaluations"] == progress.gradient_evaluations
        ):
            with training.optimizer.committed():
                expected = values_of(training.model)
    assert training.best["gradient_evaluations"] > 0
    assert equal([training.best_weights[n] for n, _ in training.model.named_parameters()], expected)


# -- Adam as released with IndRNN -----------------------------------------------------------------


def make_indrnn():
    torch.manual_seed(2)
    return SequenceModel(2, 3, 2, cell="indrnn", layers=2, batch_norm=True, initialization="indrnn")


def test_adam_of_indrnn_decays_all_but_recurrent_weights_and_biases():
    decayed = {
        "recurrent.0.weight_ih_l0", "recurrent.1.weight_ih_l0", "norms.0.weight", "norms.1.weight",
        "output.weight",
    }  # fmt: skip
    model = make_indrnn()
    optimizer = build_optimizer("indrnn-adam", list(model.named_parameters()))
    decay = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    assert len(decay) == len(list(model.parameters())) == 12
    for name, p in model.named_parameters():
        assert decay[id(p)] == (1e-4 if name in decayed else 0), name
    assert {group["lr"] for group in optimizer.param_groups} == {2e-4}
    assert {group["betas"] for group in optimizer.param_groups} == {(0.9, 0.999)}


def test_adam_of_indrnn_equals_adam_with_l2_in_the_gradient():
    # Coupled: the decay is part of the gradient, weight_decay · w, before Adam's scaling.
    first, second = make_indrnn(), make_indrnn()
    ours = build_optimizer("indrnn-adam:weight_decay=0.1", list(first.named_parameters()), lr=0.01)
    plain = torch.optim.Adam(second.parameters(), lr=0.01)
    rng = torch.Generator().manual_seed(4)
    for _ in range(5):
        inputs = torch.randn(6, 4, 2, generator=rng)
        for model, optimizer in ((first, ours), (second, plain)):
            model.zero_grad()
            model(inputs).square().mean().backward()
            if optimizer is plain:
                for name, p in model.named_parameters():
                    if name == "output.weight" or "weight_ih" in name or name[:5] == "norms":
                        p.grad += 0 if "bias" in name else 0.1 * p.detach()
            optimizer.step()
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_adam_of_indrnn_needs_no_tensor_of_either_kind():
    bias, weight = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    assert len(adam_of_indrnn([("output.bias", bias)]).param_groups) == 1
    assert len(adam_of_indrnn([("output.weight", weight)]).param_groups) == 1


# -- what is missing ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["soap", "psgd-kron", "schedule-free"])
def test_a_missing_library_is_one_sentence(name, monkeypatch):
    monkeypatch.setitem(sys.modules, "pytorch_optimizer", None)
    model, _ = make_regression()
    with pytest.raises(UserError) as raised:
        build_optimizer(name, list(model.named_parameters()))
    assert str(raised.value) == (
        "this optimizer needs the package 'pytorch_optimizer', which is not installed: install"
        ' rnnopt with its extra, pip install "rnnopt[baselines]".'
    )


@pytest.mark.parametrize("name", ["adam", "muon", "indrnn-adam", "frank-wolfe"])
def test_the_others_need_no_library(name, monkeypatch):
    monkeypatch.setitem(sys.modules, "pytorch_optimizer", None)
    model, _ = make_regression()
    build_optimizer(name, list(model.named_parameters()))


@pytest.mark.parametrize(
    ("specification", "word"),
    [
        ("soap:precondition_frequancy=3", "precondition_frequency"),
        ("schedule-free:beta=1.5", "beta"),
        ("indrnn-adam:lr=-1", "-1"),
        ("psgd-kron:momentum=7", "momentum"),
        ("soap:weight_decay=-1", "weight_decay"),
        ("indrnn-adam:weight_decay=-1", "weight_decay must be a finite number >= 0, got -1"),
        ("indrnn-adam:weight_decay=inf", "weight_decay"),
        ("indrnn-adam:weight_decay=nan", "weight_decay"),
    ],
)
def test_a_bad_option_is_named(specification, word):
    model, _ = make_regression()
    with pytest.raises(UserError, match=word):
        build_optimizer(specification, list(model.named_parameters()))


@pytest.mark.parametrize("name", ["muon", "soap", "psgd-kron", "schedule-free", "indrnn-adam"])
def test_a_closure_is_called_once_and_steps_alike(name):
    # As pytorch_optimizer's suite steps each of its own; without gradients nothing moves.
    seen = []
    for with_closure in (False, True):
        torch.manual_seed(0)
        model, loss = make_regression()
        optimizer = build_optimizer(name, list(model.named_parameters()), lr=0.1)
        optimizer.zero_grad(set_to_none=True)
        assert optimizer.step(lambda: 0.1) == 0.1
        assert not any(p.any() for p in model.parameters())
        losses = []
        with torch.no_grad():
            for _ in range(5):
                if with_closure:
                    losses.append(optimizer.step(closure=torch.enable_grad()(loss)))
                    continue
                with torch.enable_grad():
                    losses.append(loss())
                optimizer.step()
        seen.append((losses, values_of(model)))
    # The sums of psgd-kron come in an order of their own in each run.
    near = 1e-5 if name == "psgd-kron" else 0.0
    torch.testing.assert_close(*seen, rtol=near, atol=near)
