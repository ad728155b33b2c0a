"""What a sweep varies: every optimizer's space makes runs, ranges are read or refused.

The sweep itself is promised in test_sweep.py.
"""

import pytest

from rnnopt.config.errors import UserError
from rnnopt.config.run_config import RunConfig
from rnnopt.config.specs import INTERNAL
from rnnopt.experiments.sweeps.spaces import (
    SPACES,
    Choices,
    Range,
    configure,
    parse_range,
    space_of,
)
from rnnopt.tasks import build_task
from rnnopt.training.build import build_training
from rnnopt.training.registry import OPTIMIZERS
from rnnopt.training.resolve import resolve

TINY = dict(task="counting:length=3", hidden=2, budget="2gradients")


def ends_of(space):
    """The first values of a space and the last."""
    for end in (0, -1):
        yield {
            name: one.values[end] if isinstance(one, Choices) else (one.low, one.high)[end]
            for name, one in space.items()
        }


def test_spaces_are_those_of_optimizers():
    assert SPACES.keys() <= OPTIMIZERS.keys()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_both_ends_of_a_space_make_a_run(name):
    config = RunConfig(**TINY, optimizer=name)
    task = build_task(config.task)
    space = space_of(config, [])
    assert next(iter(space)) == "lr"
    assert len(space) == 1 + len(SPACES.get(name, {})) <= 4
    for values in ends_of(space):
        trial = configure(config, values)
        build_training(trial, task)
        assert trial.lr == values["lr"]


def test_the_rate_is_log_uniform_around_the_default():
    rate = space_of(RunConfig(optimizer="adam"), [])["lr"]
    assert rate == Range(1e-4, 9e-2, log=True)  # 3e-3 / 30 … 3e-3 · 30


@pytest.mark.parametrize(
    ("optimizer", "settings", "fixed"),
    [
        ("adamw:lr=0.01", {}, "lr"),
        ("adamw", {"lr": 0.01}, "lr"),
        ("adamw:weight_decay=0", {}, "weight_decay"),
        ("adamw", {"clip": 2.0}, "clip"),
        ("adamw:clip=2", {}, "clip"),
    ],
)
def test_what_the_user_gives_is_fixed(optimizer, settings, fixed):
    space = space_of(RunConfig(optimizer=optimizer, **settings), [])
    assert space.keys() == {"lr", "clip", "weight_decay"} - {fixed}


def test_what_the_user_gives_is_fixed_even_at_its_default():
    assert "clip" not in space_of(RunConfig(optimizer="adam"), [], given={"clip", "seed"})


@pytest.mark.parametrize(
    ("text", "name", "values"),
    [
        ("lr=1e-4..1e-1:log", "lr", Range(1e-4, 1e-1, log=True)),
        ("momentum=0.5..0.9", "momentum", Range(0.5, 0.9)),
        ("layers=1..4", "layers", Range(1, 4)),
        ("hidden=32,64,128", "hidden", Choices((32, 64, 128))),
        ("weight-decay=0.1,none", "weight_decay", Choices((0.1, None))),
        ("norm=2,inf,spectral", "norm", Choices((2, float("inf"), "spectral"))),
    ],
)
def test_ranges_are_read(text, name, values):
    assert parse_range(text) == (name, values)


@pytest.mark.parametrize(
    "text",
    [
        "lr", "=1", "lr=", "lr=1..", "lr=..1", "lr=2..1", "lr=1..1", "lr=a..b", "lr=0..1:log",
        "lr=1..2:lin", "lr=1..inf", "hidden=1,1", "hidden=,", "lr=nan..1", "lr=true..2",
    ],
)  # fmt: skip
def test_a_range_that_cannot_be_read_is_refused_by_its_text(text):
    with pytest.raises(UserError, match="got '"):
        parse_range(text)


@pytest.mark.parametrize("text", ["lr=1..0", "lr=1..1"])
def test_a_range_that_ends_where_it_should_begin_is_told_so(text):
    with pytest.raises(UserError, match=f"^a range must begin below its end, .* got '{text}'"):
        parse_range(text)


def test_ranges_take_the_place_of_the_optimizers_own_or_are_added():
    space = space_of(RunConfig(optimizer="adam"), ["lr=1..2", "hidden=8,16", "eps=1e-8..1e-4:log"])
    assert space["lr"] == Range(1, 2)
    assert space["hidden"] == Choices((8, 16))
    assert space["eps"] == Range(1e-8, 1e-4, log=True)
    assert "clip" in space


@pytest.mark.parametrize(
    ("ranges", "words"),
    [
        (["hiden=1,2"], ["'hiden'", "Did you mean 'hidden'?"]),
        (["amsgrad_=true,false"], ["Did you mean 'amsgrad'?"]),
        (["lr=1..2", "lr=1..3"], ["lr must have one --range"]),
        (["clip=1,2"], ["clip is fixed"]),
        (["budget=1epochs,2epochs"], ["'budget'"]),
    ],
)
def test_a_range_that_does_not_go_is_refused(ranges, words):
    with pytest.raises(UserError) as raised:
        space_of(RunConfig(optimizer="adam:clip=1"), ranges)
    for word in words:
        assert word in str(raised.value)


@pytest.mark.parametrize("optimizer", ["frank-wolfe", "adam"])
@pytest.mark.parametrize("name", ["nothing", "process_group", "maximize"])
def test_options_that_no_user_sets_are_neither_varied_nor_offered(optimizer, name):
    with pytest.raises(UserError) as raised:
        space_of(RunConfig(optimizer=optimizer), [f"{name}=1..2"])
    offered = str(raised.value).partition("must be one of ")[2]
    assert "weight_decay" in offered
    assert not [one for one in INTERNAL if one in offered]


def test_a_sweep_of_nothing_is_refused():
    with pytest.raises(UserError, match="everything is fixed"):
        space_of(RunConfig(optimizer="adam:lr=0.1,clip=1"), [])


def test_a_trial_keeps_the_options_that_were_given():
    config = RunConfig(**TINY, optimizer="frank-wolfe:norm=2,lr=0.5")
    trial = configure(config, {"momentum": 0.85, "hidden": 3, "clip": None})
    assert trial.optimizer == "frank-wolfe:norm=2,momentum=0.85"
    assert (trial.hidden, trial.clip, trial.lr) == (3, None, 0.5)
    assert resolve(trial) == trial


def test_a_value_of_the_wrong_kind_is_refused():
    with pytest.raises(UserError, match="hidden"):
        configure(RunConfig(**TINY), {"hidden": 2.5})
