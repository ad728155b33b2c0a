"""`rnnopt list NAME`: what a task, model or optimizer is, from its docstring and signature.

That the names are all listed is promised in test_command_line.py.
"""

import inspect
import json
import re

import pytest
from messages import naming

from rnnopt.cli.commands import catalogue
from rnnopt.cli.docstrings import arguments_of
from rnnopt.cli.main import read
from rnnopt.config.errors import UserError
from rnnopt.config.run_config import MODELS, RunConfig
from rnnopt.config.specs import INTERNAL, parse
from rnnopt.optimizers.quasi_newton.naq import LNAQ
from rnnopt.tasks import TASKS, download
from rnnopt.tasks.sources import SOURCES
from rnnopt.training.build import build_training
from rnnopt.training.registry import OPTIMIZERS, build_optimizer
from rnnopt.training.resolve import loop_options_of


@pytest.fixture(autouse=True)
def no_data(tmp_path, monkeypatch):
    """Nothing but what comes with the installation is here."""
    monkeypatch.setenv("RNNOPT_DATA", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "120")


@pytest.mark.parametrize("name", [*TASKS, *MODELS, *OPTIMIZERS])
def test_every_name_has_explained_options_and_commands_that_can_be_read(name):
    entry = catalogue.describe(name)
    assert entry.summary
    for option in entry.options:
        assert len(option.sentence) > 5, option
        assert "default:" not in option.sentence
        assert "as in `" not in option.sentence
        assert option.default is not inspect.Parameter.empty
    # Each option is told on its own: it stands alone in the table.
    assert len({option.sentence for option in entry.options}) == len(entry.options)
    assert not [o for o in entry.options if re.search(r"see the module|as all that", o.text)]
    assert entry.examples
    for line in entry.examples:
        assert read(line.split()[1:])


def test_defaults_are_those_that_count_here():
    def default(name, option):
        return {o.name: o.default for o in catalogue.describe(name).options}[option]

    assert default("adam", "lr") == OPTIMIZERS["adam"].lr
    assert default("momentum", "momentum") == 0.9  # torch's own is 0
    assert default("asnaq-paper", "update_every") == 5  # asnaq's own is 20
    assert default("adding", "length") == 100


@pytest.mark.parametrize("name", [n for n in OPTIMIZERS if n not in ("admm",)])
def test_an_optimizers_example_can_be_built(name):
    import torch

    if name in ("soap", "psgd-kron", "schedule-free"):
        pytest.importorskip("pytorch_optimizer")
    weight = torch.nn.Parameter(torch.ones(2, 2))
    for line in catalogue.describe(name).examples:
        specification = line.split()[line.split().index("--optimizer") + 1]
        assert parse(specification)[0] == name
        assert build_optimizer(specification, [("weight_ih", weight)])


def test_a_task_tells_its_sizes_and_where_its_data_come_from(command):
    code, out, error = command("list", "digits-pixels")
    assert (code, error) == (0, "")
    for words in ("steps", "64", "accuracy", "target", "0.9", "scikit-learn", "397"):
        assert words in out
    assert set(SOURCES) == set(TASKS)


@pytest.mark.parametrize(
    ("name", "headings"), [("lstm", ["setting", "value"]), ("adding", ["what", "found"])]
)
def test_settings_of_a_model_are_called_so(command, name, headings):
    out = command("list", name)[1]
    assert re.search(r"^┃ (\S+) +┃ (\S+) +┃$", out, re.MULTILINE).groups() == tuple(headings)


def test_nothing_is_downloaded_to_tell_of_a_task(monkeypatch):
    def fail(*arguments):
        raise AssertionError("a download")

    monkeypatch.setattr(download, "_download", fail)
    facts = catalogue.describe("mnist-rows").facts
    assert "not on this machine" in facts["sizes"]
    assert "downloaded once" in facts["data"]
    with pytest.raises(AssertionError, match="a download"):  # a run would
        TASKS["mnist-rows"]()


def test_what_a_model_has_settled_is_no_option():
    entry = catalogue.describe("indrnn-6")
    assert entry.facts["layers"] == 6
    names = [option.name for option in entry.options]
    assert names == ["--hidden", "--bidirectional", "--stem", "--readout"]


def test_an_unknown_name_brings_the_nearest(command):
    code, out, error = command("list", "admw")
    assert (code, out) == (2, "")
    assert len(error.splitlines()) == 1
    assert "Did you mean 'adamw'" in error
    with pytest.raises(UserError, match=naming("'adam'", "'adam:lr=1'")):
        catalogue.describe("adam:lr=1")


def test_list_of_a_name_for_scripts(command):
    code, out, _ = command("list", "muon", "--json")
    found = json.loads(out)
    assert (code, found["kind"], found["name"]) == (0, "optimizer", "muon")
    assert found["options"][0] == {"name": "lr", "default": 0.003, "text": "learning rate of both."}
    assert command("list", "muon", "--quiet") == (0, "lr\nmomentum\nweight_decay\n", "")


def test_texts_of_arguments_follow_classes_and_references():
    from rnnopt.optimizers.quasi_newton.bfgs import BFGS

    bare, followed = arguments_of(LNAQ), arguments_of(LNAQ, {"BFGS": BFGS})
    assert bare["line_search"] == "as in `BFGS`."
    assert followed["line_search"] == arguments_of(BFGS)["line_search"]
    assert not set(INTERNAL) & {o.name for o in catalogue.describe("lnaq").options}


@pytest.mark.parametrize("name", ["adam", "frank-wolfe", "asnaq", "lnaq", "admm"])
@pytest.mark.parametrize("option", ["clip=1.0", "clip_value=1.0", "tbptt=2"])
def test_the_loops_options_that_are_named_are_those_that_are_taken(name, option):
    config = RunConfig("digits-rows", optimizer=f"{name}:{option}", hidden=2)
    if option.partition("=")[0] in loop_options_of(name):
        build_training(config)
    else:
        with pytest.raises(UserError, match="cannot go with"):
            build_training(config)
