"""What diagnosing promises: true dL/dh_t of every cell, true figures, and a run left as it is.

Expected values are derived by hand or by finite differences. The verdict, the files and the verb
are promised here too.
"""

import gc
import json
import math
import subprocess
import sys
import weakref
from dataclasses import replace

import pytest
import torch
from cases import partly
from stepping import frank_wolfe
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

import rnnopt
from rnnopt import GRU, LSTM, ElmanRNN, GradientFlow, IndRNN, SequenceModel
from rnnopt.config.run_config import RunConfig
from rnnopt.diagnostics.curvature import ball_curvature
from rnnopt.diagnostics.diagnosis import Diagnosis
from rnnopt.diagnostics.noise_scale import noise_scale
from rnnopt.diagnostics.spectra import recurrent_spectra
from rnnopt.diagnostics.step_direction import (
    StepDirectionRecorder,
    direction_angle,
    direction_ratio,
)
from rnnopt.diagnostics.verdict import THRESHOLDS, verdict
from rnnopt.layers.kernels.batch_norm import normalize
from rnnopt.layers.kernels.portable import true_steps
from rnnopt.report.diagnosis import columns, rows
from rnnopt.tasks.examples import Examples
from rnnopt.tasks.task import Task
from rnnopt.training.build import build_training

DOUBLE = torch.float64
CELLS = {
    "ElmanRNN tanh": lambda **o: ElmanRNN(3, 4, dtype=DOUBLE, **o),
    "ElmanRNN relu": lambda **o: ElmanRNN(3, 4, nonlinearity="relu", dtype=DOUBLE, **o),
    "LSTM": lambda **o: LSTM(3, 4, dtype=DOUBLE, **o),
    "GRU": lambda **o: GRU(3, 4, dtype=DOUBLE, **o),
    "nn.RNN": lambda **o: nn.RNN(3, 4, dtype=DOUBLE, **o),
    "nn.LSTM": lambda **o: nn.LSTM(3, 4, dtype=DOUBLE, **o),
    "nn.GRU": lambda **o: nn.GRU(3, 4, dtype=DOUBLE, **o),
    "IndRNN": lambda **o: IndRNN(3, 4, dtype=DOUBLE, **o),
    "IndRNN tanh": lambda **o: IndRNN(3, 4, nonlinearity="tanh", dtype=DOUBLE, **o),
}
STEPS, BATCH = 6, 5


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    """Every test works in a folder of its own, on a wide terminal."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path


@pytest.fixture(autouse=True)
def seeded():
    """Layers draw their weights from torch's own generator."""
    torch.manual_seed(20201010)


def random(*shape):
    return torch.randn(*shape, dtype=DOUBLE)


def hidden_of(last):
    return last[0] if isinstance(last, tuple) else last


def flow_of(model, loss_of):
    """The records, by layer, of one backward pass."""
    with GradientFlow(model) as flow:
        loss_of().backward()
    return {record["layer"]: record for record in flow.records}


def weighted_loss(layer, inputs, direct, end, **options):
    """⟨direct, output⟩ + ⟨end, last state⟩."""
    output, last = layer(inputs, **options)
    return (direct * output).sum() + (end * hidden_of(last)).sum()


# -- dL/dh_t ---------------------------------------------------------------------------------------


def test_an_elman_layer_agrees_with_the_adjoint_by_hand():
    # g_T = e_T + end; g_t = e_t + W_hhᵀ ((1 - h²_{t+1}) ⊙ g_{t+1}), rows being sequences.
    layer, inputs = CELLS["ElmanRNN tanh"](), random(STEPS, BATCH, 3)
    direct, end = random(STEPS, BATCH, 4), random(1, BATCH, 4)
    states = layer(inputs)[0].detach()
    adjoint = direct[-1] + end[0]
    expected = [adjoint]
    for t in reversed(range(STEPS - 1)):
        adjoint = direct[t] + ((1 - states[t + 1] ** 2) * adjoint) @ layer.weight_hh_l0.detach()
        expected.insert(0, adjoint)
    norms = torch.stack([g.norm(dim=1).mean() for g in expected])
    record = flow_of(layer, lambda: weighted_loss(layer, inputs, direct, end))["ElmanRNN"]
    torch.testing.assert_close(record["norms"], norms)
    assert record["first"] == pytest.approx(float(norms[0]))
    assert record["last"] == pytest.approx(float(norms[-1]))
    assert record["ratio"] == pytest.approx(float(norms[0] / norms[-1]))


def test_an_indrnn_layer_agrees_with_the_adjoint_by_hand():
    layer, inputs = CELLS["IndRNN"](recurrent_bound=0.9), random(STEPS, BATCH, 3)
    direct, end = random(STEPS, BATCH, 4), random(1, BATCH, 4)
    states = layer(inputs)[0].detach()
    u = layer.weight_hh_l0.detach()
    adjoint = direct[-1] + end[0]
    expected = [adjoint]
    for t in reversed(range(STEPS - 1)):
        adjoint = direct[t] + u * (states[t + 1] > 0) * adjoint
        expected.insert(0, adjoint)
    record = flow_of(layer, lambda: weighted_loss(layer, inputs, direct, end))["IndRNN"]
    norms = torch.stack([g.norm(dim=1).mean() for g in expected])
    torch.testing.assert_close(record["norms"], norms)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("steps", [1, STEPS])
def test_every_cell_agrees_with_finite_differences_of_its_states(cell, steps):
    # dL/dh_t by moving h_t and running the layer itself on from there; one sequence.
    layer, inputs = CELLS[cell](), random(steps, 1, 3)
    direct, end = random(steps, 1, 4), random(1, 1, 4)
    record = next(iter(flow_of(layer, lambda: weighted_loss(layer, inputs, direct, end)).values()))
    move = 1e-6
    with torch.no_grad():
        for t in range(steps):
            last = layer(inputs[: t + 1])[1]
            slopes = []
            for unit in range(4):
                losses = []
                for sign in (1, -1):
                    h = hidden_of(last).clone()
                    h[0, 0, unit] += sign * move
                    loss = (direct[t] * h[0]).sum()
                    if t + 1 < steps:
                        state = (h, last[1]) if isinstance(last, tuple) else h
                        output, h_end = layer(inputs[t + 1 :], state)
                        loss = loss + (direct[t + 1 :] * output).sum()
                        h = hidden_of(h_end)
                    losses.append(loss + (end * h).sum())
                slopes.append((losses[0] - losses[1]) / (2 * move))
            norm = torch.stack(slopes).norm()
            torch.testing.assert_close(record["norms"][t], norm, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("cell", CELLS)
def test_layers_inside_a_layer_are_those_of_single_layers(cell):
    # The same weights, once as num_layers=2 and once as a stack of two.
    double = CELLS[cell](num_layers=2)
    first, second = CELLS[cell](), type(double)(4, 4, dtype=DOUBLE)
    if "relu" in cell or "tanh" in cell:
        second = type(double)(4, 4, nonlinearity=cell.split()[1], dtype=DOUBLE)
    weights = double.state_dict()
    first.load_state_dict({k: v for k, v in weights.items() if k.endswith("l0")})
    second.load_state_dict(
        {k.replace("l1", "l0"): v for k, v in weights.items() if k.endswith("l1")}
    )
    inputs, direct = random(STEPS, BATCH, 3), random(STEPS, BATCH, 4)
    inside = flow_of(nn.ModuleList([double]), lambda: (direct * double(inputs)[0]).sum())
    stack = nn.ModuleList([first, second])
    apart = flow_of(stack, lambda: (direct * second(first(inputs)[0])[0]).sum())
    for k in (0, 1):
        torch.testing.assert_close(inside[f"0.l{k}"]["norms"], apart[f"{k}"]["norms"])
        assert inside[f"0.l{k}"]["saturated"] == apart[f"{k}"]["saturated"]


@pytest.mark.parametrize("cell", [cell for cell in CELLS if "Ind" not in cell])
def test_the_backward_direction_is_a_forward_one_of_the_reversed_sequence(cell):
    both, one = CELLS[cell](bidirectional=True), CELLS[cell]()
    names = list(one.state_dict())
    one.load_state_dict({name: both.state_dict()[f"{name}_reverse"] for name in names})
    inputs, direct = random(STEPS, BATCH, 3), random(STEPS, BATCH, 8)
    two = flow_of(nn.ModuleList([both]), lambda: (direct * both(inputs)[0]).sum())
    alone = flow_of(one, lambda: (direct.flip(0)[..., 4:] * one(inputs.flip(0))[0]).sum())
    alone = next(iter(alone.values()))
    torch.testing.assert_close(two["0.l0_reverse"]["norms"], alone["norms"].flip(0))
    for key in ("first", "last", "ratio"):
        assert two["0.l0_reverse"][key] == pytest.approx(alone[key])


@pytest.mark.parametrize("cell", CELLS)
def test_batch_first_first_states_and_keywords_change_nothing(cell):
    layer, other = CELLS[cell](), CELLS[cell](batch_first=True)
    other.load_state_dict(layer.state_dict())
    inputs, h = random(STEPS, BATCH, 3), random(1, BATCH, 4)
    state = (h, h.clone()) if cell.endswith("LSTM") else h
    direct, end = random(STEPS, BATCH, 4), random(1, BATCH, 4)
    one = flow_of(layer, lambda: weighted_loss(layer, inputs, direct, end, hx=state))
    turned = direct.transpose(0, 1)
    two = flow_of(
        other, lambda: weighted_loss(other, inputs.transpose(0, 1), turned, end, hx=state)
    )
    without = flow_of(layer, lambda: weighted_loss(layer, inputs, direct, end))
    (one,), (two,), (without,) = one.values(), two.values(), without.values()
    torch.testing.assert_close(one["norms"], two["norms"])
    if cell != "IndRNN":  # the relu of which has the same slope
        assert not torch.allclose(one["norms"], without["norms"])


def test_a_single_sequence_without_a_batch_is_a_batch_of_one():
    layer, inputs, direct, end = nn.LSTM(3, 4), torch.randn(6, 3), torch.randn(6, 4), torch.zeros(1)
    one = flow_of(layer, lambda: weighted_loss(layer, inputs, direct, end))["LSTM"]
    two = flow_of(layer, lambda: weighted_loss(layer, inputs[:, None], direct[:, None], end))
    torch.testing.assert_close(one["norms"], two["LSTM"]["norms"])


LENGTHS = torch.tensor([6, 1, 4, 2, 4])


@pytest.mark.parametrize(
    "cell", ["ElmanRNN tanh", "LSTM", "GRU", "nn.RNN", "nn.LSTM", "nn.GRU", "IndRNN tanh"]
)
def test_padded_sequences_count_where_they_are(cell):
    # Sequence by sequence, cut to its length: the mean over those that have step t.
    layer, inputs, weights = CELLS[cell](), random(STEPS, BATCH, 3), random(BATCH, 4)
    alone = []
    for i, length in enumerate(LENGTHS.tolist()):
        cut = inputs[:length, i : i + 1]
        found = flow_of(layer, lambda cut=cut, i=i: (weights[i] * layer(cut)[0]).sum())
        alone.append(next(iter(found.values())))
    norms = [
        torch.stack([one["norms"][t] for one in alone if len(one["norms"]) > t]).mean()
        for t in range(STEPS)
    ]
    valid = true_steps(STEPS, LENGTHS)

    def padded():
        output = layer(inputs)[0]
        return (weights * torch.where(valid, output, 0)).sum()

    ways = {"told apart": (padded, LENGTHS)}
    if isinstance(layer, (ElmanRNN, GRU, LSTM, IndRNN)):
        ways["lengths"] = (lambda: (weights * layer(inputs, lengths=LENGTHS)[0]).sum(), None)
    if isinstance(layer, nn.RNNBase):
        packed = pack_padded_sequence(inputs, LENGTHS, enforce_sorted=False)
        order = pack_padded_sequence(weights.expand(STEPS, -1, -1), LENGTHS, enforce_sorted=False)
        ways["packed"] = (lambda: (order.data * layer(packed)[0].data).sum(), None)
    for way, (loss_of, lengths) in ways.items():
        with GradientFlow(layer, lengths=lengths) as flow:
            loss_of().backward()
        (record,) = flow.records
        torch.testing.assert_close(record["norms"], torch.stack(norms), msg=way)
        for key in ("first", "last", "saturated"):
            if key == "saturated":
                expected = sum(one[key] * len(one["norms"]) for one in alone) / int(LENGTHS.sum())
            else:
                expected = sum(one[key] for one in alone) / BATCH
            assert record[key] == pytest.approx(expected), (way, key)


def test_packed_sequences_run_backward_from_their_own_ends():
    layer, inputs = CELLS["nn.GRU"](bidirectional=True), random(STEPS, BATCH, 3)
    end = random(2, BATCH, 4)
    packed = pack_padded_sequence(inputs, LENGTHS, enforce_sorted=False)
    record = flow_of(layer, lambda: (end * layer(packed)[1]).sum())["l0_reverse"]
    firsts = []
    for i, length in enumerate(LENGTHS.tolist()):
        cut, mine = inputs[:length, i : i + 1], end[:, i : i + 1]
        alone = flow_of(layer, lambda cut=cut, mine=mine: (mine * layer(cut)[1]).sum())
        firsts.append(alone["l0_reverse"]["first"])
    assert record["first"] == pytest.approx(sum(firsts) / BATCH)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("lengths", [None, LENGTHS])
def test_batch_norm_inside_indrnn_is_batch_norm_outside_it(training, lengths):
    inputs, direct = random(STEPS, BATCH, 3), random(STEPS, BATCH, 4)
    valid = None if lengths is None else true_steps(STEPS, lengths)
    for place in ("before", "after"):
        layer = CELLS["IndRNN"](batch_norm=place).train(training)
        nn.init.normal_(layer.norms[0].weight)
        layer.norms[0].running_mean.normal_()
        outside = IndRNN(3 if place == "after" else 4, 4, dtype=DOUBLE, bias=place == "after")
        norm = nn.BatchNorm1d(4, dtype=DOUBLE).train(training)
        norm.load_state_dict(layer.norms[0].state_dict())
        weights = {k: v for k, v in layer.state_dict().items() if "norms" not in k}
        if place == "before":
            del weights["bias_ih_l0"]
            weights["weight_ih_l0"] = torch.eye(4, dtype=DOUBLE)
        outside.load_state_dict(weights)

        def apart(place=place, layer=layer, outside=outside, norm=norm):
            if place == "after":
                states = normalize(norm, outside(inputs, lengths=lengths)[0], valid)
            else:
                reaching = nn.functional.linear(inputs, layer.weight_ih_l0, layer.bias_ih_l0)
                states = outside(normalize(norm, reaching, valid), lengths=lengths)[0]
            return (direct * (states if valid is None else torch.where(valid, states, 0))).sum()

        running = layer.norms[0].running_mean.clone()
        whole = flow_of(
            layer, lambda layer=layer: (direct * layer(inputs, lengths=lengths)[0]).sum()
        )["IndRNN"]
        torch.testing.assert_close(whole["norms"], flow_of(outside, apart)["IndRNN"]["norms"])
        if not training:
            assert torch.equal(layer.norms[0].running_mean, running)


def test_running_statistics_move_once_a_pass():
    layer, other = (IndRNN(3, 4, batch_norm="before") for _ in range(2))
    other.load_state_dict(layer.state_dict())
    inputs = torch.randn(STEPS, BATCH, 3)
    flow_of(layer, lambda: layer(inputs)[0].sum())
    other(inputs)[0].sum().backward()
    assert torch.equal(layer.norms[0].running_var, other.norms[0].running_var)
    assert int(layer.norms[0].num_batches_tracked) == 1


def test_share_of_saturated_states_and_of_dead_units():
    layer = ElmanRNN(1, 4)
    with torch.no_grad():
        layer.weight_hh_l0.zero_()
        layer.bias_hh_l0.zero_()
        layer.bias_ih_l0.zero_()
        layer.weight_ih_l0.copy_(torch.tensor([[10.0], [0.1], [0.0], [-10.0]]))
    inputs = torch.tensor([1.0, 1.0, 1.0, 0.0]).view(4, 1, 1)
    # Units 0 and 3 are at ±1 in three steps of four: 6 of 16 states.
    assert flow_of(layer, lambda: layer(inputs)[0].sum())["ElmanRNN"]["saturated"] == 6 / 16
    relu = ElmanRNN(1, 4, nonlinearity="relu")
    relu.load_state_dict(layer.state_dict())
    # Units 2 and 3 are 0 throughout; a step of zeros alone is no death.
    assert flow_of(relu, lambda: relu(inputs)[0].sum())["ElmanRNN"]["saturated"] == 2 / 4


def test_no_gradient_at_all_has_ratio_zero():
    layer = ElmanRNN(1, 4)
    record = flow_of(layer, lambda: 0 * layer(torch.ones(5, 2, 1))[0].sum())["ElmanRNN"]
    assert (record["first"], record["ratio"], record["finite"]) == (0.0, 0.0, True)


def test_a_gradient_that_is_no_number_is_told_and_breaks_nothing():
    layer = nn.LSTM(1, 4)
    with GradientFlow(layer) as flow:
        (math.nan * layer(torch.ones(5, 2, 1))[0]).sum().backward()
    assert not flow.records[0]["finite"]
    assert math.isnan(flow.summary()["LSTM"]["ratio"])


# -- the hook --------------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru", "indrnn"])
def test_training_is_the_same_with_the_hook_bit_for_bit_but_for_a_stack(cell):
    def train(watched):
        torch.manual_seed(3)
        model = SequenceModel(2, 5, 1, cell, layers=2, batch_norm=True, dropout=0.2)
        optimizer = torch.optim.Adam(model.parameters())
        flow = GradientFlow(model)
        if watched:
            flow.attach()
        for _ in range(5):
            optimizer.zero_grad()
            model(torch.randn(7, 3, 2)).square().mean().backward()
            optimizer.step()
        return [*model.state_dict().values(), torch.get_rng_state()], flow

    plain, _ = train(False)
    watched, flow = train(True)
    assert [record["layer"] for record in flow.records[:2]] == ["recurrent.1", "recurrent.0"]
    assert len(flow.records) == 10
    assert torch.equal(plain[-1], watched[-1])  # as many random numbers were drawn
    for one, other in zip(plain, watched, strict=True):
        if cell == "indrnn":  # one operator for all layers, which the hook takes apart
            torch.testing.assert_close(one, other)
        else:
            assert torch.equal(one, other)


def test_the_hook_records_every_nth_pass_while_attached_and_summarises():
    model = SequenceModel(2, 5, 1)
    flow = GradientFlow(model, every=3)

    def step(factor=1.0):
        (factor * model(torch.ones(7, 3, 2)).square().mean()).backward()

    step()
    with flow:
        for _ in range(4):
            step()
        with torch.no_grad():
            model(torch.ones(7, 3, 2))
    step()
    assert [record["backward"] for record in flow.records] == [0, 3]
    flow.attach()
    flow.attach()  # twice is once
    for factor in (1.0, 1.0, 5.0):
        step(factor)
    flow.detach()
    assert [record["backward"] for record in flow.records] == [0, 3, 6]
    firsts = sorted(record["first"] for record in flow.records)
    assert firsts[2] == pytest.approx(5 * firsts[0])
    assert flow.summary()["recurrent.0"]["first"] == firsts[1]


def test_the_hook_keeps_no_graph_and_no_hook():
    layer = ElmanRNN(2, 3)
    with GradientFlow(layer) as flow:
        output, _ = layer(torch.ones(4, 2, 2))
        output.sum().backward()
    kept = weakref.ref(output)
    del output
    gc.collect()
    assert kept() is None
    assert not layer._forward_hooks
    assert not any(t.requires_grad for r in flow.records for t in r.values() if torch.is_tensor(t))


def test_the_hook_says_what_it_cannot_do():
    with pytest.raises(ValueError, match="recurrent layer.*Linear without one"):
        GradientFlow(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="every=0"):
        GradientFlow(nn.GRU(2, 2), every=0)
    for layer in (nn.LSTM(2, 2, num_layers=2, dropout=0.3), IndRNN(2, 2, dropout=0.3)):
        with GradientFlow(layer) as flow, pytest.raises(ValueError, match=r"dropout=0\.3"):
            layer(torch.ones(3, 1, 2))
        with flow:
            layer.eval()(torch.ones(3, 1, 2))[0].sum().backward()
        assert flow.records
    with pytest.raises(ValueError, match="proj_size=0, got 1"):
        GradientFlow(nn.LSTM(2, 2, proj_size=1))
    layer = nn.GRU(2, 2)
    with (
        pytest.raises(ValueError, match="3 lengths, got 2"),
        GradientFlow(layer, lengths=torch.tensor([1, 2])),
    ):
        layer(torch.ones(2, 3, 2))


@pytest.mark.process
def test_it_is_public_and_needs_torch_alone():
    assert rnnopt.GradientFlow is GradientFlow
    heavy = "cyclopts", "rich", "matplotlib", "sklearn", "scipy"
    code = f"import sys, rnnopt; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


# -- directions ------------------------------------------------------------------------------------


def vector(*numbers):
    return torch.tensor(numbers, dtype=DOUBLE)


@pytest.mark.parametrize(
    ("change", "degrees"),
    [((-2.0, 0.0), 0), ((0.0, 3.0), 90), ((0.0, -3.0), 90), ((5.0, 0.0), 180), ((-1.0, 1.0), 45)],
)
def test_angle_by_hand(change, degrees):
    gradient = vector(1.0, 0.0)
    assert direction_angle([gradient], [vector(*change)]) == pytest.approx(degrees, abs=1e-12)
    parts = [vector(x) for x in change]  # all tensors are one vector, a missing gradient is zero
    assert direction_angle([vector(1.0), None], parts) == pytest.approx(degrees, abs=1e-12)


def test_small_angles_are_accurate_and_of_no_length():
    tiny = math.degrees(1e-10)
    for size in (1e-30, 1.0, 1e30):
        change = size * vector(-1.0, 1e-10)
        assert direction_angle([vector(1.0, 0.0)], [change]) == pytest.approx(tiny, rel=1e-6)
    assert math.isnan(direction_angle([vector(0.0)], [vector(1.0)]))
    assert math.isnan(direction_angle([vector(1.0)], [vector(0.0)]))
    assert math.isnan(direction_angle([vector(math.nan)], [vector(1.0)]))


def test_ratio_by_hand():
    # ‖(3, 0) + (0, -4)‖ / ‖(0, -4)‖
    assert direction_ratio([vector(3.0, 0.0)], [vector(0.0, -4.0)]) == 5 / 4
    assert math.isnan(direction_ratio([vector(1.0)], [vector(0.0)]))


NO_MOMENTUM = dict(momentum=0.0, nesterov=False, average=None)


def watched_steps(optimizer, weight, gradients):
    """The records of steps with prescribed gradients."""
    with StepDirectionRecorder(optimizer) as directions:
        for gradient in gradients:
            weight.grad = gradient.clone()
            optimizer.step()
    return directions.records


@pytest.mark.parametrize("outer", ["plain", "adam"])
@pytest.mark.parametrize("options", [{}, dict(weight_decay=0.3), dict(radius=0.2), dict(eta=2.0)])
def test_one_inner_step_in_the_global_ball_points_along_the_gradient(outer, options, rng):
    weight = nn.Parameter(random(6))
    if outer == "adam" and "eta" in options:
        options = {}
    settings = dict(lr=0.1, norm=2, ball="global", scale="norm", outer=outer, **NO_MOMENTUM)
    optimizer = frank_wolfe([weight], **(settings | options))
    gradients = list(torch.randn(4, 6, generator=rng, dtype=DOUBLE))
    for record, gradient in zip(
        watched_steps(optimizer, weight, gradients), gradients, strict=True
    ):
        assert record["angle"] == pytest.approx(0, abs=1e-6)
        radius = options.get("radius", 0.1)
        # Δω = -r g/‖g‖, so ‖g + Δω‖ / ‖Δω‖ = |‖g‖ - r| / r.
        assert record["ratio"] == pytest.approx(abs(float(gradient.norm()) - radius) / radius)


@pytest.mark.parametrize("outer", ["plain", "adam", lambda p, lr: torch.optim.SGD(p, lr)])
def test_three_inner_steps_by_hand(outer):
    # Vertices -r (1, 0), -r (0, 1), -r (0, 1): Δω = -r (1/3, 2/3), at arctan 2 from g_1 = (4, 0).
    right, up = vector(4.0, 0.0), vector(0.0, 7.0)
    weight = nn.Parameter(vector(1.0, 1.0))
    optimizer = frank_wolfe(
        [weight],
        lr=0.1,
        radius=0.5,
        inner_steps=3,
        norm=2,
        scale="norm",
        outer=outer,
        **NO_MOMENTUM,
    )
    records = watched_steps(optimizer, weight, [right, up, up] * 2)
    assert [record["step"] for record in records] == [1, 2]
    for record in records:
        assert record["angle"] == pytest.approx(math.degrees(math.atan(2)))
        length = 0.5 * math.hypot(1 / 3, 2 / 3)
        assert record["ratio"] == pytest.approx(math.hypot(4 - 0.5 / 3, 0.5 * 2 / 3) / length)


def test_a_loaded_state_does_not_lose_the_outer_optimizer(rng):
    weight = nn.Parameter(random(6))
    settings = dict(lr=0.1, norm=2, ball="global", scale="norm", outer="adam", **NO_MOMENTUM)
    optimizer = frank_wolfe([weight], **settings)
    with StepDirectionRecorder(optimizer) as directions:
        for _ in range(3):
            weight.grad = torch.randn(6, generator=rng, dtype=DOUBLE)
            optimizer.step()
            optimizer.load_state_dict(optimizer.state_dict())
    assert max(record["angle"] for record in directions.records) < 1e-6
    outer = optimizer.outer_optimizer
    assert not outer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_pre_hooks


def test_gradient_descent_points_along_the_gradient_and_adam_elsewhere():
    weight = nn.Parameter(vector(1.0, 1.0))
    (record,) = watched_steps(torch.optim.SGD([weight], lr=0.25), weight, [vector(2.0, 1.0)])
    assert record["angle"] == pytest.approx(0, abs=1e-6)
    assert record["ratio"] == pytest.approx(3)  # (1 - lr) / lr
    # Adam's first step is lr times the sign: (1, 1) is at 45° from (1, 0) up to Adam's epsilon.
    (record,) = watched_steps(torch.optim.Adam([weight], lr=0.1), weight, [vector(1.0, 1e-4)])
    assert record["angle"] == pytest.approx(45, abs=0.02)


def test_directions_of_optimizers_in_parts_and_every_so_many_steps():
    model = nn.Linear(3, 2)
    parts = [torch.optim.SGD([model.weight], 0.1), torch.optim.Adam([model.bias], 0.2)]

    class Together:
        def step(self):
            for part in self.parts:
                part.step()

    optimizer = Together()
    optimizer.parts = parts
    with StepDirectionRecorder(optimizer, every=2) as directions:
        for _ in range(5):
            model.zero_grad()
            model(torch.ones(4, 3)).square().sum().backward()
            gradients = [p.grad.clone() for p in model.parameters()]
            before = [p.detach().clone() for p in model.parameters()]
            optimizer.step()
    assert [record["step"] for record in directions.records] == [1, 3, 5]
    changes = [p.detach() - old for p, old in zip(model.parameters(), before, strict=True)]
    expected = direction_angle(gradients, changes)
    assert directions.records[-1]["angle"] == pytest.approx(expected, abs=1e-6)
    assert expected > 1


def test_directions_refuse_a_closure_and_a_bad_every():
    weight = nn.Parameter(vector(1.0))
    optimizer = frank_wolfe([weight])
    with StepDirectionRecorder(optimizer), pytest.raises(ValueError, match="without a closure"):
        optimizer.step(lambda: weight.sum())
    with pytest.raises(ValueError, match="every=0"):
        StepDirectionRecorder(optimizer, every=0)


# -- noise, spectra, curvature ---------------------------------------------------------------------


def test_noise_scale_by_hand():
    # Gradients (1, 0) and (3, 0) of 4 sequences: S = 2, so tr Σ = 8 and ‖G‖² = 4 - 2/2 = 3.
    noise = noise_scale([[vector(1.0), vector(0.0)], [vector(3.0), vector(0.0)]], 4)
    assert (noise.trace, noise.squared_norm) == (8.0, 3.0)
    assert noise.scale == pytest.approx(8 / 3)
    assert noise_scale([[vector(1.0)], [vector(-1.0)]], 4).scale == math.inf
    assert math.isnan(noise_scale([[vector(math.nan)], [vector(1.0)]], 4).scale)
    with pytest.raises(ValueError, match="at least 2 gradients, got 1"):
        noise_scale([[vector(1.0)]], 4)


def test_noise_scale_of_a_quadratic_is_unbiased(rng):
    # F_x(w) = ½ ‖w - x‖², x ~ N(m, diag(1, 4, 9)): G = w - m = (1, 2, 2), Σ of trace 14, ‖G‖² = 9.
    mean, deviation = vector(1.0, 2.0, 2.0), vector(1.0, 2.0, 3.0)
    traces, squares = [], []
    for _ in range(2000):
        draws = mean + deviation * torch.randn(3, 5, 3, generator=rng, dtype=DOUBLE)
        noise = noise_scale([[minibatch.mean(0)] for minibatch in draws], batch_size=5)
        traces.append(noise.trace)
        squares.append(noise.squared_norm)
    # Standard errors of the two means are about 0.23 and 0.11: four of them, but the bias ‖ḡ‖²
    # would have, 14/15, is twice that.
    assert sum(traces) / 2000 == pytest.approx(14, abs=0.9)
    assert sum(squares) / 2000 == pytest.approx(9, abs=0.45)


def test_spectra_by_hand():
    layer = ElmanRNN(1, 2)
    with torch.no_grad():
        layer.weight_hh_l0.copy_(torch.tensor([[0.5, 1.0], [0.0, 0.5]]))
    # Both eigenvalues are ½; the norm is the root of the larger eigenvalue of WWᵀ, which has trace
    # 3/2 and determinant 1/16.
    norm = math.sqrt((1.5 + math.sqrt(1.5**2 - 4 / 16)) / 2)
    assert recurrent_spectra(layer)["l0"] == pytest.approx(dict(radius=0.5, norm=norm), rel=1e-6)
    with torch.no_grad():
        layer.weight_hh_l0[0, 0] = math.nan
    assert all(map(math.isnan, recurrent_spectra(layer)["l0"].values()))


@pytest.mark.parametrize(
    ("kind", "gates"),
    [
        (LSTM, ["input", "forget", "cell", "output"]), (GRU, ["reset", "update", "new"]),
        (nn.LSTM, ["input", "forget", "cell", "output"]), (nn.GRU, ["reset", "update", "new"]),
    ],
)  # fmt: skip
def test_spectra_go_gate_by_gate(kind, gates):
    layer = kind(1, 3, num_layers=2, bidirectional=True)
    with torch.no_grad():
        for g in range(len(gates)):
            layer.weight_hh_l1_reverse[3 * g : 3 * g + 3] = -(g + 1) * torch.eye(3)
    found = recurrent_spectra(layer)
    assert len(found) == 4 * len(gates)
    for g, gate in enumerate(gates):
        assert found[f"l1_reverse.{gate}"] == pytest.approx(dict(radius=g + 1, norm=g + 1))


def test_spectrum_of_indrnn_is_the_largest_bounded_weight():
    layer = IndRNN(1, 3)
    with torch.no_grad():
        layer.weight_hh_l0.copy_(torch.tensor([0.2, -1.5, 0.9]))
    assert recurrent_spectra(layer)["l0"] == dict(radius=1.5, norm=1.5)
    layer.recurrent_bound = 1.25
    assert recurrent_spectra(layer)["l0"] == dict(radius=1.25, norm=1.25)


def test_curvature_of_a_quadratic_by_hand():
    # F = 3/2 ‖w‖²: 2/γ² (F(y) - F(x) - ⟨y - x, ∇F(x)⟩) = 3 ‖s - x‖², and 3 in every direction. The
    # first vertex is at distance r from the centre, so the first value is 3 r².
    weight = nn.Parameter(vector(0.3, -0.4))
    weight.grad = vector(7.0, 7.0)
    kept = weight.detach().clone()
    found = ball_curvature(
        lambda: 1.5 * weight.square().sum(), [weight], 4, lr=0.6, norm=2, scale="norm"
    )
    assert [step["directional"] for step in found] == pytest.approx([3.0] * 4)
    assert found[0]["curvature"] == pytest.approx(3 * 0.6**2)
    # s_1 = -0.6 (0.6, -0.8): 0.1 past the origin, where the gradient points the other way. So
    # s_2 = -s_1, at 1.2 from Δ_1.
    assert found[1]["curvature"] == pytest.approx(3 * 1.2**2)
    assert torch.equal(weight.detach(), kept)
    assert torch.equal(weight.grad, vector(7.0, 7.0))


def test_curvature_is_that_along_the_step_and_none_where_nothing_moves():
    # F = ½ (w_0² + 9 w_1²) with the p = 1 ball, whose vertex is along the steeper axis alone.
    weight = nn.Parameter(vector(5.0, 0.1))
    scales = vector(1.0, 9.0)
    found = ball_curvature(
        lambda: (scales * weight.square()).sum() / 2, [weight], 1, lr=0.01, norm=1, scale="norm"
    )
    assert found[0]["directional"] == pytest.approx(1.0)
    still = ball_curvature(lambda: weight.square().sum(), [weight], 2, lr=0.0)
    assert all(math.isnan(step["directional"]) for step in still)


def test_curvature_uses_the_points_at_which_weights_were_clipped():
    # The weight is clipped to 1 where the loss is taken: from 0.45 a step of 5 ends at 1.
    weight = nn.Parameter(vector(0.9))

    def loss():
        weight.data.clamp_(max=1.0)
        return -weight.sum() + weight.square().sum()

    assert ball_curvature(loss, [weight], 1, lr=0.5, norm=2)[0]["directional"] == pytest.approx(2)
    weight.data.fill_(0.45)
    assert ball_curvature(loss, [weight], 1, lr=5, norm=2)[0]["directional"] == pytest.approx(2)
    assert weight.item() == 0.45


# -- a run under observation -----------------------------------------------------------------------

TINY = RunConfig(task="digits-rows", hidden=6, budget="20gradients", dropout=0.2, batch_norm=True)


def watch(config, snapshots=4, task=None, **options):
    diagnosis = Diagnosis(build_training(config, task), snapshots, **options)
    for _ in diagnosis.run():
        pass
    return diagnosis


@pytest.mark.parametrize(
    ("model", "optimizer"),
    [
        ("rnn", "frank-wolfe"),
        ("indrnn", "frank-wolfe:inner_steps=3,lr=0.05"),
        ("lstm", "frank-wolfe:inner_steps=4,outer=adam,norm=2,ball=global,scale=norm"),
        ("gru", "muon"),
        ("rnn-relu", "adam"),
    ],
)
@pytest.mark.parametrize("task", partly(["digits-rows", "adding:length=5"], ["digits-rows"]))
def test_a_watched_run_is_bit_for_bit_an_unwatched_one(model, optimizer, task):
    config = replace(TINY, model=model, optimizer=optimizer, layers=2, task=task)
    states, random_states = [], []
    for watched in (False, True):
        training = build_training(config)
        for _ in Diagnosis(training, 5).run() if watched else training.run():
            pass
        states.append(training.state_dict())
        random_states.append(torch.get_rng_state())
        batches = training.batches.state_dict()
        states[-1] = [
            *training.model.state_dict().values(),
            *[p.grad for p in training.model.parameters()],
            training.loss_sum,
            batches["order"],
            torch.tensor(batches["cursor"]),
            batches["generator"],
            torch.get_rng_state(),
            *tensors_of(training.optimizer.state_dict()),
        ]
        assert training.model.training
        assert not any(m._forward_hooks for m in training.model.modules())
    for one, other in zip(*states, strict=True):
        assert torch.equal(one, other)


def tensors_of(state):
    """Every tensor in nested dicts and lists, in order."""
    if torch.is_tensor(state):
        return [state]
    items = state.values() if isinstance(state, dict) else state
    return [t for item in items for t in tensors_of(item)] if isinstance(state, dict | list) else []


def test_looks_are_spread_over_the_budget_and_hold_every_figure():
    diagnosis = watch(TINY, snapshots=5)
    at = [look["gradient_evaluations"] for look in diagnosis.snapshots]
    assert at == [0, 5, 10, 15, 20]
    for look in diagnosis.snapshots:
        record = look["layers"]["recurrent.0"]
        assert len(record["norms"]) == 8
        assert record["ratio"] == pytest.approx(record["norms"][0] / record["norms"][-1])
        assert look["noise"]["trace"] > 0
        assert len(look["curvature"]) == 5
    assert math.isnan(diagnosis.snapshots[0]["angle"])
    assert all(0 < look["angle"] < 90 for look in diagnosis.snapshots[1:])
    assert len(diagnosis.directions.records) == 20
    assert diagnosis.records
    json.dumps(diagnosis.snapshots)  # plain numbers alone


def test_one_look_is_at_both_ends():
    assert [look["gradient_evaluations"] for look in watch(TINY, snapshots=1).snapshots] == [0, 20]


@pytest.mark.parametrize("options", [dict(snapshots=0), dict(noise_batches=1)])
def test_diagnosis_refuses_numbers_that_mean_nothing(options):
    with pytest.raises(ValueError, match=">= "):
        Diagnosis(build_training(TINY), **options)


def test_looks_are_at_the_committed_weights():
    # More inner steps than the budget has: nothing is ever committed.
    config = replace(TINY, optimizer="frank-wolfe:inner_steps=1000", batch_norm=False, lr=0.1)
    losses = [look["loss"] for look in watch(config, curvature_steps=2).snapshots]
    assert losses == [losses[0]] * 4


def padded_task(lengths):
    """Sequences of noise with the answer 0 or 1; those that end early are followed by NaN."""
    inputs = torch.randn(48, 5, 2, generator=torch.Generator().manual_seed(1))
    if lengths is not None:
        inputs[~true_steps(5, lengths)[..., 0].T] = math.nan
    examples = Examples(inputs, torch.arange(48) % 2, lengths)
    return Task("noise", "", 2, 2, "cross-entropy", 1.0, *[examples] * 3, 48, batch_size=16)


@pytest.mark.parametrize("model", ["rnn", "lstm", "gru", "indrnn"])
@pytest.mark.parametrize("readout", ["last", "mean", "every"])
def test_lengths_are_respected(model, readout):
    config = RunConfig(model=model, readout=readout, budget="4gradients", hidden=3, layers=2)
    diagnosis = watch(config, 2, padded_task(torch.arange(48) % 5 + 1))
    for look in diagnosis.snapshots:
        assert math.isfinite(look["loss"])
        assert all(layer["finite"] for layer in look["layers"].values())
        assert list(look["layers"]) == ["recurrent.0", "recurrent.1"]
        assert all(map(math.isfinite, look["layers"]["recurrent.0"]["norms"]))
        assert math.isfinite(look["noise"]["trace"])


def test_the_last_step_is_each_sequences_own():
    # Only the true first step of each is ever read, and it is the last one too.
    for model in ("rnn", "lstm"):
        config = RunConfig(model=model, budget="4gradients", hidden=3)
        task = padded_task(torch.ones(48, dtype=torch.long))
        for look in watch(config, 2, task).snapshots:
            assert look["layers"]["recurrent.0"]["ratio"] == 1.0


def test_noise_is_measured_on_full_minibatches_alone():
    config = RunConfig(budget="4gradients", hidden=3, batch_size=20)  # 20, 20, 8
    diagnosis = Diagnosis(build_training(config, padded_task(None)))
    assert [len(diagnosis._draw()) for _ in range(7)] == [20] * 7


def test_sequences_of_one_step_and_batches_larger_than_the_data():
    config = RunConfig(task="counting:length=1", budget="4gradients", hidden=3)
    for look in watch(config, 2).snapshots:
        assert look["layers"]["recurrent.0"]["ratio"] == 1.0
    config = RunConfig(budget="4gradients", hidden=3, batch_size=1000)
    diagnosis = watch(config, 2, padded_task(None))
    assert diagnosis.batch_size == 48
    assert diagnosis.snapshots[0]["noise"]["trace"] == pytest.approx(0, abs=1e-9)  # all the data


def test_known_noise_of_a_model_that_only_adds_is_found():
    # With all weights zero the read-out's bias b alone has a gradient, 2 (b - y) for a target y:
    # tr Σ = 4 var y. Targets of the adding problem have variance 1/6.
    diagnosis = Diagnosis(build_training(RunConfig(task="adding:length=4", hidden=1)), 1)
    with torch.no_grad():
        for parameter in diagnosis.training.model.parameters():
            parameter.zero_()
    look = diagnosis._snapshot(0)
    assert look["noise"]["trace"] == pytest.approx(4 / 6, rel=0.5)
    assert look["noise"]["squared_norm"] == pytest.approx(4, rel=0.2)  # the mean target is 1


# -- verdict ---------------------------------------------------------------------------------------


def look_at(
    gradient_evaluations=0, ratio=0.5, scale=50.0, finite=True, loss=1.0, saturated=0.25, **other
):
    layer = dict(
        norms=[ratio, 1.0], first=ratio, last=1.0, ratio=ratio, saturated=saturated, finite=finite
    )
    steady = layer | dict(first=1.0, ratio=1.0, norms=[1.0, 1.0])
    return (
        dict(
            gradient_evaluations=gradient_evaluations,
            loss=loss,
            layers={"recurrent.0": layer, "recurrent.1": steady},
            spectra={"recurrent.0": {"l0": dict(radius=0.5, norm=0.75)}},
            noise=dict(trace=scale, squared_norm=1.0, scale=scale),
            curvature=[dict(curvature=1.0, directional=2.0)],
            angle=60.0,
        )
        | other
    )


def kinds(*looks, status="out of budget", **settings):
    return [finding.kind for finding in verdict(looks, status, 100, RunConfig(**settings))]


@pytest.mark.parametrize(
    ("look", "kind"),
    [
        (dict(ratio=0.99 * THRESHOLDS["vanishing"]), "vanishing"),
        (dict(ratio=1.01 * THRESHOLDS["vanishing"]), "healthy"),
        (dict(ratio=0.0), "vanishing"),
        (dict(ratio=1.01 * THRESHOLDS["exploding"]), "exploding"),
        (dict(ratio=0.99 * THRESHOLDS["exploding"]), "healthy"),
        (dict(ratio=math.inf), "exploding"),
        (dict(scale=100 * 1.01 * THRESHOLDS["noisy"]), "noisy"),
        (dict(scale=100 * 0.99 * THRESHOLDS["noisy"]), "healthy"),
        (dict(scale=math.inf), "healthy"),
        (dict(finite=False), "not finite"),
        (dict(loss=math.nan), "not finite"),
    ],
)
def test_thresholds_of_the_verdict(look, kind):
    assert THRESHOLDS == {"vanishing": 1e-4, "exploding": 1e4, "noisy": 10.0}
    assert kinds(look_at(**look), look_at(**look)) == [kind]


def test_looks_without_an_estimate_do_not_count_as_noise():
    drowned, noisy = look_at(scale=math.inf), look_at(scale=2500.0)
    (finding,) = verdict([drowned, noisy, drowned, noisy], "out of budget", 100, RunConfig())
    assert "2.5e+03 sequences" in finding.sentence
    for looks in ([drowned, noisy, drowned], [drowned] * 3):
        (finding,) = verdict(looks, "out of budget", 100, RunConfig())
        assert finding.kind == "healthy"
        assert f"too few snapshots with an estimate ({looks.count(noisy)} of 3)" in finding.sentence
        assert "inf" not in finding.sentence


def test_of_a_run_that_reached_its_target_it_is_said_first_that_it_learns():
    looks = [look_at(scale=2500.0)] * 2
    learns, noise = verdict(looks, "reached target", 100, RunConfig())
    assert learns.sentence.startswith("learns: the run reached its target")
    assert noise.sentence.startswith("a remark: the noise scale is 2.5e+03 sequences")
    assert noise.advice == ()
    assert kinds(look_at(), look_at(), status="reached target") == ["learns", "healthy"]


def test_the_median_look_decides_and_the_gravest_comes_first():
    assert kinds(look_at(ratio=1e-9), look_at(), look_at(10)) == ["healthy"]
    assert kinds(look_at(ratio=1e-9), look_at(ratio=1e-9), look_at(10)) == ["vanishing"]
    both = look_at(ratio=1e-9, scale=1e9)
    both["layers"]["recurrent.1"] |= dict(ratio=1e9)
    assert kinds(both, both) == ["exploding", "vanishing", "noisy"]
    assert kinds(look_at(ratio=1e-9), look_at(10, finite=False)) == ["not finite", "vanishing"]
    assert kinds(look_at(), status="diverged") == ["not finite"]


def test_the_sentence_has_its_numbers():
    (finding,) = verdict([look_at(ratio=2.5e-7)] * 3, "out of budget", 100, RunConfig())
    for part in ("recurrent.0", "2.5e-07", "3 snapshots", "0.0001", "0.5", "25% of the states"):
        assert part in finding.sentence
    (finding,) = verdict([look_at(scale=2500.0)] * 2, "out of budget", 100, RunConfig())
    for part in ("2.5e+03 sequences", "25 times", "size 100"):
        assert part in finding.sentence
    looks = [look_at(), look_at(40, finite=False), look_at(80, finite=False)]
    finding = verdict(looks, "diverged", 100, RunConfig())[0]
    assert "at 40 gradients" in finding.sentence
    assert "status diverged" in finding.sentence
    (finding,) = verdict([look_at()], "out of budget", 100, RunConfig())
    assert "0.5 of that" in finding.sentence
    relu = RunConfig(model="indrnn-6")
    (finding,) = verdict([look_at(ratio=0.0)], "out of budget", 100, relu)
    assert "25% of the units are dead" in finding.sentence


def advice_of(look, **settings):
    (finding,) = verdict([look, look], "out of budget", 100, RunConfig(**settings))
    return " ".join(finding.advice)


def test_what_is_advised_is_new():
    vanishing, exploding = look_at(ratio=1e-9), look_at(ratio=1e9)
    advice = advice_of(vanishing, optimizer="adam")
    for word in ("orthogonal", "lstm", "frank-wolfe", "readout mean"):
        assert word in advice
    settled = dict(model="indrnn", optimizer="frank-wolfe:norm=2", readout="mean")
    assert advice_of(vanishing, **settled) == ""
    assert "lower --lr" in advice_of(look_at(ratio=1e-9, saturated=0.9))
    assert "clip 1" in advice_of(exploding)
    assert "clip" not in advice_of(exploding, clip=1.0)
    assert "tbptt" not in advice_of(exploding, tbptt=5)
    assert "identity" in advice_of(exploding, model="rnn-relu")
    noisy = look_at(scale=1e9)
    assert "--batch-size 400" in advice_of(noisy)
    assert "inner_steps=5" in advice_of(noisy)
    assert "inner_steps" not in advice_of(noisy, optimizer="frank-wolfe:inner_steps=2")


def test_table_by_hand():
    looks = [look_at(at, ratio=0.5 + at) for at in range(5)]
    looks[4]["angle"] = math.nan
    assert columns(looks) == ["what", "at 0", "at 2", "at 4"]
    table = {row[0]: row[1:] for row in rows(looks)}
    assert table["recurrent.0: ‖dL/dh‖ first / last step"] == ["0.5", "2.5", "4.5"]
    assert table["recurrent.0: spectral radius"] == ["0.5"] * 3
    assert table["recurrent.0: spectral norm"] == ["0.75"] * 3
    assert table["recurrent.1: saturated share"] == ["25%"] * 3
    assert table["noise scale, sequences"] == ["50"] * 3
    assert table["angle of the steps to the gradient"] == ["60°", "60°", "–"]
    assert table["curvature in the ball"] == ["2"] * 3


# -- figure ----------------------------------------------------------------------------------------


def test_heat_maps_show_the_logarithms():
    from rnnopt.report.diagnosis_figure import figure

    looks = [look_at(0, ratio=1e-3), look_at(10, ratio=1e-5)]
    drawn = figure(looks, [], [dict(step=1, angle=30.0, ratio=1.0)], "title")
    maps = [axis for axis in drawn.axes if axis.get_title() == "recurrent.0"]
    (mesh,) = maps[0].collections
    shown = mesh.get_array()
    assert shown.tolist() == [pytest.approx([-3, -5]), pytest.approx([0, 0])]
    assert maps[0].get_xlim() == (0, 10)
    assert maps[0].get_ylim() == (0.5, 2.5)
    spent = [axis for axis in drawn.axes if axis.get_xlabel() == "gradient evaluations"]
    assert {axis.get_xlim() for axis in spent} == {(0, 10)}


def test_a_legend_names_what_can_be_seen():
    from rnnopt.report.diagnosis_figure import figure

    looks = [look_at(0, angle=math.nan), look_at(10)]
    drawn = figure(looks, [], [dict(step=1, angle=math.nan, ratio=1.0)], "title")
    (angles,) = [axis for axis in drawn.axes if axis.get_ylabel().startswith("angle")]
    (line,) = angles.lines
    assert (line.get_label(), line.get_marker()) == ("median", ".")
    assert angles.get_legend_handles_labels()[1] == ["median"]


@pytest.mark.parametrize("layers", [1, 9])
def test_any_run_can_be_drawn(layers):
    from rnnopt.report.diagnosis_figure import figure

    for look in (
        look_at(ratio=0.0),
        look_at(ratio=math.nan, scale=math.inf, loss=math.nan, angle=math.nan),
    ):
        layer = look["layers"]["recurrent.0"] | dict(norms=[0.0, 0.0])
        look["layers"] = {f"recurrent.{k}": layer for k in range(layers)}
        drawn = figure([look], [], [], "title")
        drawn.canvas.draw()
        maps = [axis.get_title() for axis in drawn.axes if axis.get_title()]
        assert maps == ["recurrent.0"] if layers == 1 else len(maps) == 4
        assert maps[-1] == f"recurrent.{layers - 1}"


# -- the verb --------------------------------------------------------------------------------------

SMALL = ["--task", "digits-rows", "--hidden", "4", "--budget", "12gradients", "--snapshots", "3"]


def test_the_verb_writes_two_files_and_prints_table_and_verdict(command, workplace):
    code, out, error = command("diagnose", *SMALL, "--model", "gru", "--out", "d")
    assert code == 0, error
    assert {path.name for path in (workplace / "d").iterdir()} == {
        "diagnosis.json",
        "diagnosis.png",
    }
    assert (workplace / "d" / "diagnosis.png").read_bytes().startswith(b"\x89PNG")
    saved = json.loads((workplace / "d" / "diagnosis.json").read_text())
    assert RunConfig.from_dict(saved["config"]).model == "gru"
    assert [look["gradient_evaluations"] for look in saved["looks"]] == [0, 6, 12]
    assert len(saved["directions"]) == 12
    assert saved["status"] == "out of budget"
    assert saved["batch_size"] == 64
    assert saved["looks"][0]["angle"] is None
    assert "recurrent.0: spectral radius" in out
    assert saved["verdict"][0]["sentence"] in out.splitlines()
    assert out.splitlines()[-3:] == [
        "status out of budget",
        "wrote d/diagnosis.json",
        "wrote d/diagnosis.png",
    ]


def test_the_verb_finds_a_vanishing_gradient_and_prints_only_that_when_quiet(command):
    settings = ["--task", "digits-pixels", "--initialization", "normal", "--quiet"]
    code, out, error = command("diagnose", *SMALL[2:], *settings)
    assert (code, error) == (0, "")
    lines = out.splitlines()
    assert lines[0].startswith("vanishing: in recurrent.0 the gradient at the first step is")
    assert any(line.startswith("  try --initialization orthogonal") for line in lines)
    assert lines[-1] == "wrote runs/diagnose-digits-pixels/diagnosis.png"


def test_a_run_that_diverges_is_told_and_exits_with_one(command, workplace):
    settings = ["--model", "rnn-relu", "--optimizer", "sgd:lr=1e30", "--out", "d"]
    code, out, _ = command("diagnose", *SMALL, *settings)
    assert code == 1
    assert "not finite: at 2 gradients the gradients held NaN" in out
    assert "status diverged" in out
    assert json.loads((workplace / "d" / "diagnosis.json").read_text())["looks"]


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--looks", "0"], "snapshots must be at least 1, got 0"),
        (["--model", "tree"], "unknown model 'tree'"),
        (["--budget", "soon"], "budget must read like"),
        (["--optimizer", "magic"], "unknown optimizer 'magic'"),
        (["--out", "taken"], "taken already holds a diagnosis"),
        (["--out", "file"], "cannot write the diagnosis to file"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(command, workplace, arguments, word):
    (workplace / "taken").mkdir()
    (workplace / "taken" / "diagnosis.json").write_text("{}")
    (workplace / "file").write_text("in the way")
    pairs = zip(SMALL[::2], SMALL[1::2], strict=True)
    alone = {"--looks": "--snapshots"}.get(arguments[0], arguments[0])
    settings = [word for pair in pairs if pair[0] != alone for word in pair]
    code, out, error = command("diagnose", *settings, *arguments, "--quiet")
    assert (code, out) == (2, "")
    assert len(error.strip().splitlines()) == 1, error
    assert word in error
