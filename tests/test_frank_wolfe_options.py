"""What FrankWolfe's options object promises, and what they are told who ask for what is gone.

What the options do is promised in test_frank_wolfe.py and beside it; that no public constructor has
more than twelve arguments, in test_constructors.py.
"""

import copy
import pickle

import pytest
import torch
from messages import naming
from stepping import feed, parameter, stream, through_a_file

from rnnopt import FrankWolfe, FrankWolfeOptions
from rnnopt.config.errors import UserError
from rnnopt.optimizers.frank_wolfe.options import PRESETS
from rnnopt.training.registry import build_optimizer

# A value of each field that is not the default, in a group that may have it.
OTHER = dict(
    radius=0.5, momentum=0.5, normalize=False, adapt=0.5, nesterov=False, scale="norm", eta=0.5,
    inner_weights="increasing", inner_iterate="cumulative", decoupled_weight_decay=False,
    spectral="svd", growth_decay=0.25,
)  # fmt: skip
OF_THE_OPTIMIZER = dict(communicate="commit", compression="int8", overlap=False)
# What version 0.1 held in every group besides, and what was gone when it was anything else.
OLDER = dict(vertex_momentum=0.0, radius_scale=1.0)
GONE = [
    (dict(vertex_momentum=0.97), ("vertex_momentum", "0.97", "frank-wolfe")),
    (dict(radius_scale=2), ("radius_scale", "2", "radius")),
    (dict(scale="muon"), ("scale", '"muon"', '"entry"')),
]


def test_every_field_is_in_the_group_or_an_attribute():
    options = FrankWolfeOptions(**OTHER, **OF_THE_OPTIMIZER)
    assert set(options.keys()) == OTHER.keys() | OF_THE_OPTIMIZER.keys()
    optimizer = FrankWolfe([parameter(1.0)], options=options)
    assert OTHER.items() <= optimizer.defaults.items()
    assert OTHER.items() <= optimizer.param_groups[0].items()
    assert {name: getattr(optimizer, name) for name in OF_THE_OPTIMIZER} == OF_THE_OPTIMIZER
    for again in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        assert {name: getattr(again, name) for name in OF_THE_OPTIMIZER} == OF_THE_OPTIMIZER
        assert OTHER.items() <= again.param_groups[0].items()


@pytest.mark.parametrize("name", OTHER)
def test_a_group_may_override_each_field(name):
    first, second = (
        dict(params=[parameter(1.0)]),
        {"params": [parameter(1.0)], name: OTHER[name]},
    )
    groups = FrankWolfe([first, second]).param_groups
    assert groups[0][name] == getattr(FrankWolfeOptions(), name) != OTHER[name]
    assert groups[1][name] == OTHER[name]


def test_a_group_takes_no_options_object():
    group = dict(params=[parameter(1.0)], options=FrankWolfeOptions(radius=0.5))
    with pytest.raises(ValueError, match=naming("options", "radius=0.5")):
        FrankWolfe([group])
    # One by one it does.
    group = {"params": [parameter(1.0)], **FrankWolfeOptions(radius=0.5)}
    assert FrankWolfe([group]).param_groups[0]["radius"] == 0.5


@pytest.mark.parametrize("name", [*OTHER, *OF_THE_OPTIMIZER])
def test_a_field_as_an_argument_is_taken_with_a_warning(name):
    value = (OTHER | OF_THE_OPTIMIZER)[name]
    options = FrankWolfeOptions(communicate="commit", momentum=0.7)
    with pytest.warns(DeprecationWarning, match=rf"FrankWolfeOptions\({name}=…\)") as warned:
        optimizer = FrankWolfe([parameter(1.0)], options=options, **{name: value})
    assert warned[0].filename == __file__
    group = optimizer.param_groups[0]
    assert (group if name in group else vars(optimizer))[name] == value
    assert name == "momentum" or group["momentum"] == 0.7


def test_options_of_another_kind_and_unknown_arguments_are_refused():
    with pytest.raises(TypeError, match="options must be of type FrankWolfeOptions"):
        FrankWolfe([parameter(1.0)], options=dict(radius=0.5))
    with pytest.raises(TypeError, match="unexpected keyword argument 'beta'"):
        FrankWolfe([parameter(1.0)], beta=0.5)


@pytest.mark.parametrize("preset", ["paper", "authors_code"])
def test_a_preset_is_arguments_with_options_among_them(preset):
    assert isinstance(PRESETS[preset]["options"], FrankWolfeOptions)
    group = FrankWolfe([parameter(1.0)], lr=1e-3, **PRESETS[preset]).param_groups[0]
    flat = {name: value for name, value in PRESETS[preset].items() if name != "options"}
    assert (flat | PRESETS[preset]["options"].of_groups()).items() <= group.items()


# -- what is gone ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("asked", "words"), GONE)
def test_an_option_that_is_gone_is_one_sentence_wherever_it_is_asked_for(asked, words):
    given = dict(options=FrankWolfeOptions(**asked)) if "scale" in asked else asked
    with pytest.raises(ValueError, match=naming(*words)):
        FrankWolfe([parameter(1.0)], **given)
    with pytest.raises(ValueError, match=naming(*words)):
        FrankWolfe([dict(params=[parameter(1.0)], **asked)])
    optimizer = FrankWolfe([parameter(1.0)])
    with pytest.raises(ValueError, match=naming(*words)):
        optimizer.add_param_group(dict(params=[parameter(1.0)], **asked))
    assert len(optimizer.param_groups) == 1
    [(name, value)] = asked.items()
    with pytest.raises(UserError, match=naming("frank-wolfe", *words)):
        build_optimizer(f"frank-wolfe:{name}={value}", [("w", parameter(1.0))])


@pytest.mark.parametrize(("asked", "words"), GONE)
def test_a_state_saved_with_it_is_refused_and_changes_nothing(asked, words):
    weight = parameter(1.0)
    optimizer = FrankWolfe([weight])
    feed(optimizer, [weight], [torch.ones(1)])
    state, before = copy.deepcopy(optimizer.state_dict()), copy.deepcopy(optimizer.state_dict())
    state["param_groups"][0] |= asked
    with pytest.raises(ValueError, match=naming(*words)):
        optimizer.load_state_dict(state)
    assert str(optimizer.state_dict()) == str(before)


@pytest.mark.parametrize("inner_steps", [1, 3])
def test_a_state_of_an_earlier_version_without_it_goes_on_to_the_bit(inner_steps, rng):
    weight, twin = (torch.nn.Parameter(torch.ones(3, 4)) for _ in range(2))
    options = dict(lr=0.1, inner_steps=inner_steps)
    optimizer, other = FrankWolfe([weight], **options), FrankWolfe([twin], **options)
    gradients = [torch.randn(3, 4, generator=rng) for _ in range(10)]
    stream(optimizer, weight, gradients[:5])
    state = through_a_file(optimizer.state_dict())
    state["param_groups"][0] |= OLDER
    with torch.no_grad():
        twin.copy_(weight)
    other.load_state_dict(state)
    assert not OLDER.keys() & other.param_groups[0].keys()
    expected = stream(optimizer, weight, gradients[5:])
    assert torch.equal(stream(other, twin, gradients[5:]), expected)


def test_a_group_of_an_earlier_version_loses_what_has_no_effect():
    optimizer = FrankWolfe([dict(params=[parameter(1.0)], **OLDER)])
    optimizer.add_param_group(dict(params=[parameter(1.0)], **OLDER))
    assert not any(OLDER.keys() & group.keys() for group in optimizer.param_groups)
    optimizer.defaults |= OLDER  # as in a copy that an earlier version pickled
    for group in optimizer.param_groups:
        group |= OLDER
    again = pickle.loads(pickle.dumps(optimizer))
    assert not any(OLDER.keys() & group.keys() for group in (again.defaults, *again.param_groups))


def test_the_preset_that_is_gone_says_what_to_use():
    with pytest.raises(KeyError, match=naming("long_memory", "FrankWolfe(params")):
        PRESETS["long_memory"]
    with pytest.raises(KeyError, match="^'short'$"):
        PRESETS["short"]
    assert "long_memory" not in PRESETS


RUN = ("--task", "digits-rows", "--budget", "8gradients")


@pytest.mark.parametrize(
    "arguments",
    [
        ("train", *RUN, "--optimizer", "frank-wolfe-long"),
        ("train", *RUN, "--optimizer", "frank-wolfe-long:inner_steps=2"),
        ("compare", *RUN, "--optimizers", "adam", "frank-wolfe-long"),
        ("compare", *RUN, "--optimizers", "adam", "frank-wolfe-long", "--tune", "2"),
        ("diagnose", *RUN, "--optimizer", "frank-wolfe-long"),
        ("list", "frank-wolfe-long"),
    ],
)
def test_the_name_that_is_gone_says_what_to_use(arguments, command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, error = command(*arguments)
    assert code == 2
    assert all(word in error for word in ("'frank-wolfe-long'", "use frank-wolfe"))
    assert "Traceback" not in error
    assert not list(tmp_path.iterdir())


def test_a_sweep_of_the_name_that_is_gone_says_what_to_use(command, tmp_path, monkeypatch):
    pytest.importorskip("optuna")
    monkeypatch.chdir(tmp_path)
    code, _, error = command("sweep", *RUN, "--optimizer", "frank-wolfe-long")
    assert code == 2
    assert "'frank-wolfe-long'" in error
    assert "use frank-wolfe" in error


@pytest.mark.parametrize("option", ["vertex_momentum=0.97", "scale=muon", "radius_scale=2"])
def test_on_the_command_line_it_has_exit_code_2(option, command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, error = command("train", *RUN, "--optimizer", f"frank-wolfe:{option}")
    assert code == 2
    assert "no longer has" in error
    assert option.partition("=")[0] in error
    assert "Traceback" not in error
