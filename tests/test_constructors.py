"""What the public constructors promise together: few arguments, and each default in one place."""

import inspect
from functools import partial

import pytest
import torch

import rnnopt
from rnnopt.config.options import Options
from rnnopt.training.registry import OPTIMIZERS, build_optimizer

MOST = 12
PUBLIC = [*rnnopt.__all__, *rnnopt.ESTIMATORS]
CONSTRUCTORS = [n for n in PUBLIC if not issubclass(getattr(rnnopt, n), Options)]


def arguments(function):
    parameters = inspect.signature(function).parameters.values()
    return [p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]


@pytest.mark.parametrize("name", CONSTRUCTORS)
def test_no_public_constructor_takes_more_than_twelve_arguments(name):
    assert len(arguments(getattr(rnnopt, name))) <= MOST


@pytest.mark.parametrize("name", [n for n in PUBLIC if n not in CONSTRUCTORS])
def test_options_objects_are_frozen_and_every_one_is_an_argument_s_default(name):
    kind = getattr(rnnopt, name)
    with pytest.raises(AttributeError, match="cannot assign to field"):
        kind().__setattr__(kind().keys()[0], None)
    owner = getattr(rnnopt, "RNNClassifier" if name == "RNNOptions" else name[: -len("Options")])
    default = inspect.signature(owner).parameters["options"].default
    assert default in (kind(), None)  # scikit-learn allows no object there
    # An option has one place: none is an argument too.
    assert not set(arguments(owner)) & set(kind().keys())


# -- learning rates --------------------------------------------------------------------------------

# Those that comparisons without --lr, published tables among them, were made with.
RATES = {
    "frank-wolfe": 1e-2, "asnaq": 3e-2, "asnaq-paper": 1e-2,
    "asnaq-authors": 1e-2, "adaqn": 1e-2, "bfgs": 1.0, "lbfgs": 1.0, "naq": 1.0, "lnaq": 1.0,
    "admm": 1.0, "sgd": 1e-1, "momentum": 1e-2, "adagrad": 1e-2, "rmsprop": 1e-3, "adam": 3e-3,
    "indrnn-adam": 2e-4, "adamw": 3e-3, "nadam": 3e-3, "muon": 3e-3, "soap": 3e-3,
    "psgd-kron": 1e-3, "schedule-free": 3e-3,
}  # fmt: skip


def test_the_registrys_rates_are_those_of_the_published_tables():
    assert {name: entry.lr for name, entry in OPTIMIZERS.items()} == RATES


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_class_of_this_library_has_the_registrys_rate_as_its_default(name):
    build = OPTIMIZERS[name].build
    if isinstance(build, partial):  # of torch's class, or of a preset
        assert "lr" in build.keywords
    else:
        assert inspect.signature(build).parameters["lr"].default == RATES[name]


@pytest.mark.parametrize("name", ["asnaq", "adaqn", "muon", "adam", "momentum", "indrnn-adam"])
def test_what_is_built_by_name_has_that_rate(name):
    params = [("weight", torch.nn.Parameter(torch.ones(2, 2)))]
    for lr, wanted in ((None, RATES[name]), (0.5, 0.5)):
        groups = build_optimizer(name, params, lr).param_groups
        assert {group["lr"] for group in groups} == {wanted}
