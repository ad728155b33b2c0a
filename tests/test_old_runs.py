"""Run folders of version 0.1, kept in old_runs/, read, reported on and resumed like new ones."""

import re
import shutil
from pathlib import Path

import pytest

from rnnopt.config.errors import UserError
from rnnopt.experiments.database import check_same
from rnnopt.runs.collection import group_runs, read_runs
from rnnopt.runs.export.export import open_run
from rnnopt.runs.export.model_card import settings_used
from rnnopt.runs.folder import RunFolder
from rnnopt.runs.runner import run

OLD = Path(__file__).parent / "old_runs" / "0.1"
# What version 0.1 itself came to when it resumed the interrupted one.
TEST = dict(test_loss=2.487001419067383, test_metric=0.042821158690176324)


@pytest.fixture
def old(tmp_path):
    return Path(shutil.copytree(OLD, tmp_path / "old"))


def test_names_of_before_are_read_as_those_of_now(old):
    folder = RunFolder.open(old / "whole")
    assert [record["gradient_evaluations"] for record in folder.read_records()] == [
        0, 8, 16, 24, 32, 40,
    ]  # fmt: skip
    result = folder.read_result()
    assert (result["gradient_evaluations"], result["best"]["gradient_evaluations"]) == (40, 40)
    assert folder.read_config().budget == "40gradients"
    assert not any("evaluations" in one for one in (result, result["best"]))


def test_they_are_reported_on(old):
    runs = read_runs([RunFolder.open(old / "whole"), RunFolder.open(old / "interrupted")])
    assert [group.label for group in group_runs(runs)["digits-rows"]] == ["frank-wolfe", "adam"]
    assert runs[0].rank == (0.075, -runs[0].result["best"]["validation_loss"])


@pytest.mark.parametrize("budget", ["40gradients", "40evaluations"])
def test_an_interrupted_one_is_resumed_to_the_same_end(old, budget):
    from dataclasses import replace

    path = old / "interrupted"
    config = replace(RunFolder.open(path).read_config(), budget=budget)
    result = run(config, path, resume=True)
    assert result["status"] == "out of budget"
    assert {name: result[name] for name in TEST} == pytest.approx(TEST, rel=1e-4)
    spent = [record["gradient_evaluations"] for record in RunFolder.open(path).read_records()]
    assert spent == [0, 8, 16, 24, 32, 40]


def renamed(folder, optimizer):
    """The run of another optimizer, as far as its settings tell."""
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(
        re.sub(r'"optimizer": "[^"]*"', f'"optimizer": "{optimizer}"', text)
    )
    return folder


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "lock"}


def test_runs_of_an_optimizer_that_is_gone_are_read_and_reported_on(old, command):
    names = ("frank-wolfe-long", "frank-wolfe-long:inner_steps=2")
    folders = [renamed(old / n, o) for n, o in zip(("whole", "interrupted"), names, strict=True)]
    runs = read_runs([RunFolder.open(folder) for folder in folders])
    assert tuple(group.label for group in group_runs(runs)["digits-rows"]) == names
    code, out, error = command("report", *folders, "--out", old / "report")
    assert (code, error) == (0, "")
    assert "frank-wolfe-long" in (old / "report" / "report.md").read_text()
    assert "frank-wolfe-long" in out
    # Its rate stood nowhere but in the version that ran it.
    assert ("lr", "0.03") in settings_used(open_run(old / "whole")[0])


def test_a_run_of_an_optimizer_that_is_gone_is_not_resumed(old, command):
    folder = renamed(old / "interrupted", "frank-wolfe-long")
    before = contents(folder)
    code, _, error = command("train", "--out", folder, "--resume")
    assert code == 2
    assert all(part in error for part in ("'frank-wolfe-long' is gone", "use frank-wolfe"))
    assert "Traceback" not in error
    assert contents(folder) == before


def test_settings_of_a_sweep_or_a_comparison_are_the_same_in_old_words():
    old = {
        "run": {"budget": "60evaluations", "lr": None},
        "comparison": {"tune_budget": "1evaluation"},
    }
    now = {"run": {"budget": "60gradients", "lr": None}, "comparison": {"tune_budget": "1gradient"}}
    check_same(old, now, "out")
    now["run"]["budget"] = "70gradients"
    with pytest.raises(UserError, match="budget was 60gradients, is 70gradients"):
        check_same(old, now, "out")


def test_trials_of_a_sweep_are_tabulated():
    optuna = pytest.importorskip("optuna")
    from rnnopt.config.run_config import RunConfig
    from rnnopt.experiments.sweeps.results import row
    from rnnopt.experiments.sweeps.study import Sweep

    trial = optuna.trial.create_trial(value=0.5, user_attrs={"evaluations": 60.0})
    sweep = object.__new__(Sweep)
    object.__setattr__(sweep, "space", {})
    object.__setattr__(sweep, "metric", "mse")
    assert row(sweep, trial)[-1] == "60"
    assert RunConfig(budget="60evaluations").budget == "60gradients"
