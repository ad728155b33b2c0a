"""What the texts on the command line promise: names with options, budgets, settings, their errors.

Whatever a user types, the only error is UserError, which says what was wrong and what is allowed.
What the verbs do with them is promised in test_command_line.py.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from messages import naming

from rnnopt.config.errors import UserError, unknown_name
from rnnopt.config.options import Options, call_flat
from rnnopt.config.run_config import Budget, RunConfig, SharedConfig
from rnnopt.config.specs import call_with, option_names, parse, write
from rnnopt.training.registry import build_optimizer
from rnnopt.training.resolve import resolve

# -- names with options ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "name", "options"),
    [
        ("adam", "adam", {}),
        ("adam:", "adam", {}),
        (" adam : lr = 0.5 ", "adam", {"lr": 0.5}),
        ("adam:lr=1,", "adam", {"lr": 1}),
        ("fw:norm=inf,inner_steps=1", "fw", {"norm": math.inf, "inner_steps": 1}),
        ("fw:inner-steps=1", "fw", {"inner_steps": 1}),
        ("fw:a=true,b=False,c=None", "fw", {"a": True, "b": False, "c": None}),
        ("fw:outer=plain", "fw", {"outer": "plain"}),
        ("fw:a=-1e-3", "fw", {"a": -1e-3}),
        ("fw:path=x=y:z", "fw", {"path": "x=y:z"}),
        ("fw:a=0.1..0.9,b=0..1", "fw", {"a": (0.1, 0.9), "b": (0.0, 1.0)}),
        ("fw:path=../x..", "fw", {"path": "../x.."}),
    ],
)
def test_parse_reads_names_numbers_words_and_booleans(text, name, options):
    assert parse(text) == (name, options)
    types = {option: type(value) for option, value in options.items()}
    assert {option: type(value) for option, value in parse(text)[1].items()} == types


@pytest.mark.parametrize("text", ["adam:lr", "adam:lr=", "adam:=1", "adam:lr=1,clip", "adam: = "])
def test_parse_quotes_what_is_not_an_option(text):
    with pytest.raises(UserError, match="name:option=value") as error:
        parse(text)
    assert repr(text) in str(error.value)


@given(st.text())
@example("a:b=" + "9" * 5000)
@example("a:b=1_0")
@example("::==,,")
def test_parse_raises_nothing_but_user_errors(text):
    try:
        name, options = parse(text)
    except UserError:
        return
    assert name == text.partition(":")[0].strip()
    kinds = (bool, int, float, str, tuple, type(None))
    assert all(isinstance(value, kinds) for value in options.values())
    if not any(value != value for value in options.values()):
        assert parse(write(name, options)) == (name, options)


def build(params, size: int = 1, *, word: str = "a"):
    """A function to call by name."""
    if size < 0:
        raise ValueError(f"size must not be negative, got size={size}.")
    return params, size, word


def test_call_with_passes_positional_arguments_and_options():
    assert call_with("thing", "x", build, {"size": 2, "word": "b"}, "p") == ("p", 2, "b")


def test_call_with_names_the_options_that_exist():
    with pytest.raises(UserError, match=naming("'x'", "'sise'", "'size'")):
        call_with("thing", "x", build, {"sise": 2}, "p")


def test_call_with_does_not_let_an_option_stand_for_a_positional_argument():
    with pytest.raises(UserError, match="'params'"):
        call_with("thing", "x", build, {"params": 2}, "p")


def test_call_with_says_that_there_are_no_options():
    with pytest.raises(UserError, match=naming("'x'", "'size'")):
        call_with("thing", "x", lambda: None, {"size": 2})


@pytest.mark.parametrize("size", [-1, "many"])
def test_call_with_turns_a_bad_value_into_a_user_error_that_names_the_thing(size):
    with pytest.raises(UserError, match="thing 'x': "):
        call_with("thing", "x", build, {"size": size}, "p")


def test_call_with_sees_through_partial():
    assert call_with("thing", "x", partial(build, word="c"), {"size": 3}, "p") == ("p", 3, "c")


@dataclass(frozen=True)
class ThingOptions(Options):
    removed: ClassVar = {"shape": "round"}

    colour: str = "red"
    pair: tuple[float, float] = (0.0, 1.0)


def with_options(params, size: int = 1, *, options: ThingOptions = ThingOptions(), **keywords):
    """A function whose rarer options lie in one object."""
    return params, size, options


def test_a_text_names_arguments_and_fields_of_the_options_object_alike():
    paired = partial(with_options, options=ThingOptions(pair=(0.5, 0.6)))
    assert option_names(paired, 1) == ["size", "colour", "pair"]
    found = call_with("thing", "x", paired, {"colour": "blue", "size": 2}, "p")
    assert found == ("p", 2, ThingOptions("blue", (0.5, 0.6)))
    with pytest.raises(UserError, match=r"'color'.*size, colour, pair.*Did you mean 'colour'"):
        call_with("thing", "x", with_options, {"color": "blue"}, "p")
    with pytest.raises(UserError, match="unknown option of thing 'x': 'options'"):
        call_with("thing", "x", with_options, {"options": 3}, "p")


def test_a_call_by_flat_names_keeps_the_options_object_that_it_gets():
    given = ThingOptions(colour="blue")
    assert call_flat(with_options, "p", options=given)[2] == given
    found = call_flat(with_options, "p", options=given, pair=(0.5, 0.6))[2]
    assert found == ThingOptions("blue", (0.5, 0.6))


def test_an_option_that_is_gone_may_have_the_value_that_all_have_now():
    assert call_with("thing", "x", with_options, {"shape": "round"}, "p")[2] == ThingOptions()
    with pytest.raises(
        UserError, match="thing 'x': Thing no longer has the option shape, always 'round'"
    ):
        call_with("thing", "x", with_options, {"shape": "flat"}, "p")
    assert "shape" not in option_names(with_options, 1)


def test_the_options_of_earlier_versions_still_stand_in_texts():
    paper = "asnaq:second_gradient=true,clear=all,update_every=5,fisher_memory=100,scaling=history"
    weight = torch.nn.Parameter(torch.ones(2))
    group = build_optimizer(paper, [("weight", weight)]).param_groups[0]
    assert (group["second_gradient"], group["update_every"], group["lr"]) == (True, 5, 0.03)
    with pytest.raises(UserError, match="optimizer 'asnaq': ASNAQ no longer has the option clear"):
        build_optimizer("asnaq:clear=pairs", [("weight", weight)])


def test_unknown_name_lists_all_names_and_the_nearest():
    message = str(unknown_name("fruit", "aple", ["apple", "pear"]))
    assert message == ("unknown fruit 'aple': it must be one of apple, pear. Did you mean 'apple'?")


def test_unknown_name_suggests_nothing_when_nothing_is_near():
    assert "Did you mean" not in str(unknown_name("fruit", "zzz", ["apple", "pear"]))


# -- budgets --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "amount", "unit"),
    [
        ("30s", 30, "seconds"),
        ("5m", 300, "seconds"),
        ("1.5h", 5400, "seconds"),
        ("20epochs", 20, "epochs"),
        ("1epoch", 1, "epochs"),
        ("0.5epochs", 0.5, "epochs"),
        ("5000gradients", 5000, "gradient_evaluations"),
        (" 1 evaluation ", 1, "gradient_evaluations"),
    ],
)
def test_budget_reads_an_amount_and_a_unit(text, amount, unit):
    assert Budget.parse(text) == Budget(amount, unit)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "20",
        "epochs",
        "-5s",
        "0s",
        "0.0epochs",
        "1e3epochs",
        "1,000gradients",
        "5 weeks",
        "nan s",
        "infs",
        "5s5s",
        "5S",
    ],
)
def test_budget_quotes_what_it_cannot_read(text):
    with pytest.raises(UserError, match="budget must read like 30s") as error:
        Budget.parse(text)
    assert repr(text) in str(error.value)


@given(st.text() | st.from_regex(r"\A\s*\d+(\.\d+)?\s*(s|m|h|epochs|evaluations)\s*\Z"))
@example("9" * 400 + "gradients")
@example("9" * 308 + "h")
def test_budget_is_positive_and_finite_or_a_user_error(text):
    try:
        budget = Budget.parse(text)
    except UserError:
        return
    assert 0 < budget.amount < math.inf


# -- settings -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["batch_size", "hidden", "layers", "evaluate_every", "threads"])
@pytest.mark.parametrize("value", [0, -1])
def test_counts_are_at_least_one(name, value):
    with pytest.raises(
        UserError, match=f"{name.replace('_', '-')} must be at least 1, got {value}"
    ):
        RunConfig(**{name: value})


@pytest.mark.parametrize("name", ["lr", "clip"])
@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_rates_are_positive_numbers(name, value):
    with pytest.raises(UserError, match=f"{name} must be a positive number, got {value}"):
        RunConfig(**{name: value})


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_seed_is_in_the_range_of_the_generators(seed):
    with pytest.raises(UserError, match=f"seed must be in .* got {seed}"):
        RunConfig(seed=seed)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model", "lstn"), ("schedule", "cosin"), ("budget", "often"), ("on_nonfinite", "go"),
        ("readout", "first"), ("initialization", "zero"),
    ],
)  # fmt: skip
def test_a_bad_word_is_quoted(name, value):
    with pytest.raises(UserError, match=f"'{value}'"):
        SharedConfig(**{name: value})


def test_config_survives_saving():
    config = RunConfig("adding", "gru", lr=0.1, clip=2.0, optimizer="adam", seed=2**63 - 1)
    assert RunConfig.from_dict(config.to_dict()) == config


def test_a_saved_config_may_lack_fields_but_not_have_others():
    assert RunConfig.from_dict({"seed": 3}) == RunConfig(seed=3)
    with pytest.raises(UserError, match=naming("'sede'", "'seed'")):
        RunConfig.from_dict({"sede": 3})


def test_a_saved_config_may_name_a_file_whose_name_is_no_unicode():
    config = RunConfig(data="/data/caf\udce9.csv")  # as Python reads the bytes caf\xe9
    assert RunConfig.from_dict(config.to_dict()) == config


# -- options of the loop that stand with the optimizer --------------------------------------------


def test_resolve_moves_the_options_of_the_loop():
    config = RunConfig(optimizer="adam:lr=0.5,eps=1e-6,clip=2,schedule=linear", lr=0.1)
    resolved = resolve(config)
    assert (resolved.lr, resolved.clip, resolved.schedule) == (0.5, 2, "linear")
    assert parse(resolved.optimizer) == ("adam", {"eps": 1e-6})


def test_resolve_leaves_a_plain_name_and_the_shared_settings_alone():
    config = RunConfig(optimizer="adam", lr=0.1, clip=1.0)
    assert resolve(config) == config


scalars = st.one_of(
    st.booleans(), st.none(), st.integers(), st.floats(allow_nan=False), st.just("word")
)


@given(st.dictionaries(st.sampled_from(["a", "b_c", "d"]), scalars))
def test_resolve_loses_no_other_option(options):
    text = "x:lr=1," + ",".join(f"{name}={value}" for name, value in options.items())
    assert parse(resolve(RunConfig(optimizer=text)).optimizer) == ("x", options)


@pytest.mark.parametrize(
    "option",
    [
        "lr=abc",
        "lr=none",
        "lr=-1",
        "lr=nan",
        "clip=none",
        "clip=0",
        "schedule=cosin",
        "schedule=3",
        "schedule=none",
        "schedule=true",
    ],
)
def test_resolve_refuses_values_that_the_loop_cannot_use(option):
    with pytest.raises(UserError, match=option.partition("=")[0]):
        resolve(RunConfig(optimizer=f"adam:{option}"))


def test_an_option_stands_once():
    with pytest.raises(UserError, match=naming("inner_steps", "inner-steps=1")):
        parse("fw:inner-steps=1,inner_steps=2")
