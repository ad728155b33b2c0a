"""Which weights FrankWolfe shows: what was put into the model after the last step is evaluated.

`eval()` and `committed()` put the mean of the weights, or the last committed ones, in place; here
other people's loops load, freeze, clamp, save and resume around them.
"""

import copy
import itertools
import pickle

import pytest
import torch
from cases import crossed
from stepping import feed, frank_wolfe, normals, through_a_file
from torch.distributed import checkpoint
from torch.distributed.checkpoint.state_dict import (
    get_optimizer_state_dict,
    get_state_dict,
    set_state_dict,
)

from rnnopt import IndRNN

SHAPES = [(3, 4), (5,), ()]
OPTIONS = [dict(), dict(inner_steps=4), dict(inner_steps=4, average=None), dict(average=None)]
OPTIONS += [
    dict(communicate="commit"),
    dict(inner_steps=3, inner_iterate="cumulative"),
    dict(inner_steps=2, outer="adam"),
    dict(norm="learnt", inner_steps=2),
]
every_option = pytest.mark.parametrize("options", OPTIONS, ids=str)
STEPS = range(5, 9)  # steps before the look: commits, and every place of a cycle


class Model(torch.nn.Module):
    """Weights of several shapes."""

    def __init__(self, seed=0):
        super().__init__()
        rng = torch.Generator().manual_seed(seed)
        values = [torch.randn(shape, generator=rng) for shape in SHAPES]
        self.weights = torch.nn.ParameterList(map(torch.nn.Parameter, values))

    def values(self):
        return [w.detach().clone() for w in self.weights]


def trained(options, steps, seed=0):
    """A model and its optimizer after some steps."""
    model = Model(seed)
    optimizer = frank_wolfe(model.parameters(), lr=0.1, **options)
    go_on(model, optimizer, steps, seed=1)
    return model, optimizer


def go_on(model, optimizer, steps, seed):
    rng = torch.Generator().manual_seed(seed)
    for gradients in normals(SHAPES, rng, steps):
        feed(optimizer, list(model.weights), gradients)


def equal(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def load(model, values):
    model.load_state_dict(dict(zip(model.state_dict(), values, strict=True)))


def copy_in(model, values):
    with torch.no_grad():
        for w, value in zip(model.weights, values, strict=True):
            w.copy_(value)


def copy_through_data(model, values):
    for w, value in zip(model.weights, values, strict=True):
        w.data.copy_(value)


def rebind_data(model, values):
    for w, value in zip(model.weights, values, strict=True):
        w.data = value.clone()


def from_vector(model, values):
    vector = torch.cat([value.reshape(-1) for value in values])
    torch.nn.utils.vector_to_parameters(vector, model.parameters())


WAYS = [load, copy_in, copy_through_data, rebind_data, from_vector]


@crossed(
    ("put", WAYS),
    ("steps", STEPS),
    ("options", OPTIONS),
    rest=False,
)
def test_weights_put_into_the_model_are_those_evaluated(options, steps, put):
    model, optimizer = trained(options, steps)
    best = Model(seed=7).values()
    put(model, best)
    with optimizer.committed():
        assert equal(model.values(), best)
    assert equal(model.values(), best)
    optimizer.eval()
    assert equal(through_a_file(model.state_dict()).values(), best)
    optimizer.train()
    assert equal(model.values(), best)


@pytest.mark.parametrize("put", WAYS)
@every_option
def test_weights_put_into_the_model_in_eval_mode_stay(options, put):
    for steps in STEPS:
        model, optimizer = trained(options, steps)
        best = Model(seed=7).values()
        optimizer.eval()
        put(model, best)
        optimizer.eval()
        assert equal(model.values(), best)
        optimizer.train()
        assert equal(model.values(), best)
        with optimizer.committed():
            assert equal(model.values(), best)


def test_the_mean_that_was_shown_is_good_to_load_again():
    model, optimizer = trained({}, 6)
    with optimizer.committed():
        best = copy.deepcopy(model.state_dict())
    go_on(model, optimizer, 3, seed=2)
    model.load_state_dict(best)
    with optimizer.committed():
        assert equal(model.values(), best.values())


def test_of_a_model_loaded_in_part_the_rest_shows_its_mean():
    model, optimizer = trained({}, 6)
    with torch.no_grad():
        model.weights[1].fill_(2.0)
    with optimizer.committed():
        assert torch.equal(model.weights[0], optimizer.state[model.weights[0]]["average"])
        assert torch.equal(model.weights[1], torch.full((5,), 2.0))


@crossed(
    ("put", [load, copy_in, rebind_data, from_vector]),
    ("steps", STEPS),
    ("options", OPTIONS),
    rest=False,
)
def test_training_goes_on_from_the_weights_that_were_put_in(options, steps, put):
    # No step leads further than lr from them, and the mean forgets what was before.
    model, optimizer = trained(options | dict(norm=torch.inf, adapt=0.0), steps)
    best = [value + 100 for value in Model(seed=7).values()]
    put(model, best)
    go_on(model, optimizer, optimizer.param_groups[0]["inner_steps"], seed=3)
    with optimizer.committed():
        pairs = zip(model.values(), best, strict=True)
        distances = [float((found - value).abs().max()) for found, value in pairs]
    assert max(distances) < 1
    assert distances[0] > 0  # the vertices of a single number may cancel out


@pytest.mark.parametrize("look_first", [True, False])
@every_option
def test_training_goes_on_from_what_a_look_found_written_through_data(options, look_first):
    # No step sees such a write by itself; a look compares values.
    for steps in STEPS:
        model, optimizer = trained(options | dict(norm=torch.inf, adapt=0.0), steps)
        best = [value + 100 for value in Model(seed=7).values()]
        if look_first:
            copy_through_data(model, best)
            optimizer.eval()
        else:
            optimizer.eval()
            copy_through_data(model, best)
        optimizer.train()
        assert equal(model.values(), best)
        go_on(model, optimizer, optimizer.param_groups[0]["inner_steps"], seed=3)
        with optimizer.committed():
            pairs = zip(model.values(), best, strict=True)
            assert all((found - value).abs().max() < 1 for found, value in pairs)


@every_option
def test_looking_changes_no_step_and_no_state(options):
    (model, optimizer), (other, unwatched) = trained(options, 0), trained(options, 0)
    for seed in range(2, 11):
        go_on(model, optimizer, 1, seed)
        go_on(other, unwatched, 1, seed)
        before = model.values()
        optimizer.eval()
        optimizer.eval()
        optimizer.train()
        optimizer.train()
        assert equal(model.values(), before)
    assert equal(model.values(), other.values())
    states = (one.state_dict()["state"] for one in (optimizer, unwatched))
    for mine, theirs in zip(*(state.values() for state in states), strict=True):
        assert mine.keys() == theirs.keys()


def resumed(options, saved, model_first):
    """A new model and optimizer that read a checkpoint."""
    model = Model(seed=5)
    optimizer = frank_wolfe(model.parameters(), lr=0.1, **options)
    pieces = [(model, saved["model"]), (optimizer, saved["optimizer"])]
    for piece, state in pieces if model_first else reversed(pieces):
        piece.load_state_dict(state)
    return model, optimizer


@pytest.mark.parametrize("model_first", [True, False])
@pytest.mark.parametrize("in_eval_mode", [True, False])
@every_option
def test_a_checkpoint_of_either_mode_resumes_to_the_bit(options, in_eval_mode, model_first):
    for steps in STEPS:
        model, optimizer = trained(options, steps)
        if in_eval_mode:
            optimizer.eval()
        saved = dict(model=model.state_dict(), optimizer=optimizer.state_dict())
        saved = through_a_file(saved)
        other, second = resumed(options, saved, model_first)
        for one in (second, optimizer):
            one.eval()
        assert equal(model.values(), other.values())
        for one in (second, optimizer):
            one.train()
        assert equal(model.values(), other.values())
        for a_model, one in ((model, optimizer), (other, second)):
            go_on(a_model, one, 7, seed=4)
        assert equal(model.values(), other.values())
        for one in (second, optimizer):
            one.eval()
        assert equal(model.values(), other.values())


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")  # torch 2.10's own
@pytest.mark.parametrize("in_eval_mode", [True, False])
@every_option
def test_torchs_distributed_checkpoint_of_either_mode_resumes_to_the_bit(
    options, in_eval_mode, tmp_path
):
    # It fills the entries that a fresh optimizer has after a step at lr 0, and no others.
    model, optimizer = trained(options, 6)
    if in_eval_mode:
        optimizer.eval()

    def parts(model, optimizer):
        return dict(zip(("model", "optimizer"), get_state_dict(model, optimizer), strict=True))

    checkpoint.save(parts(model, optimizer), checkpoint_id=tmp_path, no_dist=True)
    other = Model(seed=5)
    second = frank_wolfe(other.parameters(), lr=0.1, **options)
    saved = parts(other, second)
    checkpoint.load(saved, checkpoint_id=tmp_path, no_dist=True)
    set_state_dict(
        other, second, model_state_dict=saved["model"], optim_state_dict=saved["optimizer"]
    )
    for a_model, one in ((model, optimizer), (other, second)):
        one.train()
        go_on(a_model, one, 5, seed=4)
    assert equal(model.values(), other.values())


def test_a_fresh_optimizer_in_eval_mode_is_saved_by_torch():
    model, optimizer = trained({}, 0)
    before = model.values()
    optimizer.eval()
    assert len(get_optimizer_state_dict(model, optimizer)["state"]) == len(SHAPES)
    optimizer.train()
    assert equal(model.values(), before)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))])
@pytest.mark.parametrize("in_eval_mode", [True, False])
@every_option
def test_a_copy_of_either_mode_goes_on_to_the_bit(options, in_eval_mode, duplicate):
    model, optimizer = trained(options, 6)
    if in_eval_mode:
        optimizer.eval()
    other, second = duplicate((model, optimizer))
    for a_model, one in ((model, optimizer), (other, second)):
        one.train()
        go_on(a_model, one, 5, seed=4)
        one.eval()
    assert equal(model.values(), other.values())


def test_a_checkpoint_of_before_shows_its_mean():
    # It says neither what was written nor which mode it was in.
    model, optimizer = trained(dict(inner_steps=3), 7)
    saved = copy.deepcopy(optimizer.state_dict())
    for entries in saved["state"].values():
        del entries["written"], entries["at_rest"], entries["shown"]
    for group in saved["param_groups"]:
        del group["train_mode"], group["maximize"]
    other, second = resumed(
        dict(inner_steps=3), dict(model=model.state_dict(), optimizer=saved), model_first=True
    )
    for a_model, one in ((model, optimizer), (other, second)):
        expected = [one.state[w]["average"].clone() for w in a_model.weights]
        with one.committed():
            assert equal(a_model.values(), expected)
        go_on(a_model, one, 5, seed=4)
    assert equal(model.values(), other.values())
    assert second.param_groups[0].keys() == optimizer.param_groups[0].keys()


def test_a_group_added_in_eval_mode_is_in_it():
    model, optimizer = trained({}, 4)
    optimizer.eval()
    late = torch.nn.Parameter(torch.ones(2))
    optimizer.add_param_group(dict(params=[late]))
    with pytest.raises(RuntimeError, match="in eval mode"):
        optimizer.step()
    optimizer.train()
    feed(optimizer, [*model.weights, late], [*(w * 0 + 1 for w in model.weights), torch.ones(2)])
    assert not torch.equal(late, torch.ones(2))


@pytest.mark.parametrize("way", ["requires_grad", "no graph"])
@every_option
def test_a_tensor_frozen_during_training_shows_its_own_value(options, way):
    encoder, head = torch.nn.Linear(4, 4), torch.nn.Linear(4, 1)
    optimizer = frank_wolfe([*encoder.parameters(), *head.parameters()], lr=0.01, **options)
    x = torch.randn(32, 4)

    def train(steps, frozen=False):
        for _ in range(steps):
            optimizer.zero_grad()
            with torch.set_grad_enabled(not frozen or way == "requires_grad"):
                hidden = encoder(x).tanh()
            (head(hidden) - x[:, :1]).square().mean().backward()
            optimizer.step()

    for steps in STEPS:
        encoder.requires_grad_(True)
        train(steps)
        encoder.requires_grad_(way != "requires_grad")
        before = encoder.weight.detach().clone()
        for _ in range(9):
            train(1, frozen=True)
            with optimizer.committed():
                assert torch.equal(encoder.weight, before)
        encoder.requires_grad_(True)
        train(optimizer.param_groups[0]["inner_steps"])
        with optimizer.committed():  # the mean begins anew, not with what was before
            assert 0 < (encoder.weight - before).abs().max() < 0.2


def test_a_frozen_tensor_that_is_loaded_shows_what_was_loaded():
    model, optimizer = trained({}, 5)
    frozen, *rest = model.weights
    rng = torch.Generator().manual_seed(3)
    for _, *gradients in normals(SHAPES, rng, 3):
        feed(optimizer, [frozen, *rest], [None, *gradients])
    with torch.no_grad():
        frozen.fill_(3.0)
    with optimizer.committed():
        assert torch.equal(frozen, torch.full((3, 4), 3.0))


def test_a_frozen_tensor_that_is_loaded_is_trained_from_what_was_loaded():
    model, optimizer = trained({}, 20)
    frozen, *rest = model.weights
    rng = torch.Generator().manual_seed(3)
    for _, *gradients in normals(SHAPES, rng, 3):
        feed(optimizer, [frozen, *rest], [None, *gradients])
    frozen.data.fill_(300.0)
    go_on(model, optimizer, 1, seed=4)
    with optimizer.committed():
        assert (frozen - 300).abs().max() < 2


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
@every_option
def test_of_a_model_turned_into_another_type_the_mean_is_shown_in_it(options, dtype):
    for steps in STEPS:
        model, optimizer = trained(options, steps)
        with optimizer.committed():
            shown = model.values()
        before = model.values()
        model.to(dtype)
        with optimizer.committed():
            assert equal(model.values(), [value.to(dtype) for value in shown])
        assert equal(model.values(), [value.to(dtype) for value in before])


def test_entries_clamped_after_each_step_are_shown_as_they_were_put():
    model, optimizer = trained({}, 0)
    rng = torch.Generator().manual_seed(1)
    for gradients in normals(SHAPES, rng, 8):
        feed(optimizer, list(model.weights), gradients)
        with torch.no_grad():
            for w in model.weights:
                w.clamp_(-0.3, 0.3)
        with optimizer.committed():
            assert all((w.abs() <= 0.3).all() for w in model.weights)


@pytest.mark.parametrize("training", [True, False])
def test_looking_through_a_bounded_layer_changes_no_training(training):
    # An IndRNN clamps its recurrent weights in place; of an evaluation nothing must stay.
    def run(look):
        torch.manual_seed(0)
        layer = IndRNN(2, 4, recurrent_bound=0.5)
        optimizer = frank_wolfe(layer.parameters(), lr=0.2)
        for seed in range(12):
            x = torch.randn(6, 3, 2, generator=torch.Generator().manual_seed(seed))
            optimizer.zero_grad()
            (-layer(x)[0].square().mean()).backward()
            optimizer.step()
            if look:
                with optimizer.committed(), torch.no_grad():
                    layer.train(training)(x)
                layer.train()
        return [p.detach().clone() for p in layer.parameters()]

    assert equal(run(look=True), run(look=False))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_in_every_precision(dtype):
    model = Model().to(dtype)
    optimizer = frank_wolfe(model.parameters(), lr=0.1)
    go_on(model, optimizer, 6, seed=1)
    before = model.values()
    with optimizer.committed():
        assert not equal(model.values(), before)
    assert equal(model.values(), before)
    best = Model(seed=7).to(dtype).values()
    load(model, best)
    with optimizer.committed():
        assert equal(model.values(), best)
    assert equal(model.values(), best)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("before", [torch.bfloat16, torch.float32, torch.float64])
def test_means_loaded_from_another_type_are_as_exact_as_the_weights(before, dtype):
    options = dict(lr=0.1)
    model, other = Model().to(before), Model().to(dtype)
    optimizer, second = (frank_wolfe(one.parameters(), **options) for one in (model, other))
    go_on(model, optimizer, 3, seed=1)
    second.load_state_dict(optimizer.state_dict())
    wanted = torch.promote_types(dtype, torch.float32)
    for _ in range(2):
        for state in second.state.values():
            assert state["average"].dtype == wanted
        go_on(other, second, 2, seed=2)


def test_modes_and_commits_in_every_order():
    # Whatever the order of looks, loads and steps, eval mode shows the last load if no step came
    # after it, and training goes on from where the model stood.
    moves = ("step", "eval", "train", "load")
    for order in itertools.product(moves, repeat=3):
        model, optimizer = trained(dict(inner_steps=2), 3)
        loaded = None
        for seed, move in enumerate(order):
            if move == "step":
                optimizer.train()
                go_on(model, optimizer, 1, seed)
                loaded = None
            elif move == "load":
                loaded = Model(seed=20 + seed).values()
                load(model, loaded)
            else:
                getattr(optimizer, move)()
            assert loaded is None or equal(model.values(), loaded)
