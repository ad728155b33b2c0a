"""What compare --tune promises: the same trials for everybody, and the best rate for the report.

How the best of several trials is found is promised in test_reproduce.py, which shares it.
"""

import json
from pathlib import Path

import pytest

from rnnopt.cli.main import main
from rnnopt.config import seeds
from rnnopt.config.errors import UserError
from rnnopt.config.run_config import SharedConfig
from rnnopt.experiments import tuning
from rnnopt.runs.folder import RunFolder

TINY = ["--task", "counting:length=3", "--hidden", "3", "--budget", "30gradients"]
TINY += ["--evaluate-every", "10"]
SHARED = SharedConfig(task="counting:length=3", hidden=3, budget="30gradients")
PAIR = ["adam", "sgd:lr=0.2,clip=1"]


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    """Every test works in a folder of its own, on a wide terminal."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "250")
    return tmp_path


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """The folder of a tuned comparison, which no test changes."""
    path = tmp_path_factory.mktemp("compared") / "c"
    settings = [*TINY, "--optimizers", *PAIR, "--seeds", "0", "1", "--workers", "1"]
    settings += ["--tune", "3", "--tune-budget", "20gradients", "--out", str(path)]
    with pytest.raises(SystemExit) as ended:
        main(["compare", *settings, "--quiet"])
    assert ended.value.code == 0
    return path


@pytest.mark.parametrize(
    ("trials", "rates"),
    [
        (2, [0.3162, 1.0]),
        (3, [0.3162, 1.0, 3.162]),
        (4, [0.1, 0.3162, 1.0, 3.162]),
        (9, [0.01, 0.03162, 0.1, 0.3162, 1.0, 3.162, 10.0, 31.62, 100.0]),
    ],
)
def test_the_grid_goes_in_half_decades_around_the_default(trials, rates):
    assert tuning.grid(1.0, trials) == rates


def test_many_trials_make_the_grid_finer_not_wider():
    rates = tuning.grid(1e-3, 17)
    assert (len(rates), rates[0], rates[8], rates[-1]) == (17, 1e-5, 1e-3, 1e-1)


def test_every_optimizer_has_the_same_trials_on_the_tuning_seed(workplace):
    names = [*PAIR, "frank-wolfe", "bfgs"]
    candidates = tuning.plan_trials(SHARED, names, 3, "20gradients", workplace, False)
    assert [c.optimizer for c in candidates] == names
    for candidate in candidates:
        assert len(candidate.jobs) == 3
        for job in candidate.jobs:
            assert job.config.seed == seeds.TUNING
            assert job.config.budget == "20gradients"
    # In the middle is the rate that stands with the optimizer, else the default.
    assert [c.jobs[1].config.lr for c in candidates] == [3e-3, 0.2, 1e-2, 1.0]
    assert candidates[1].jobs[0].config.clip == 1


def test_the_reported_seeds_run_with_the_best_rate_of_the_tuning_runs(compared):
    found = json.loads((compared / "tuning.json").read_text())["tuned"]
    assert [one["optimizer"] for one in found] == PAIR
    for one in found:
        folder = compared / "tuning" / tuning.folder_of(one["optimizer"])
        runs = [RunFolder.open(path.parent) for path in folder.rglob("config.json")]
        assert len(runs) == 3
        best = {r.read_config().lr: r.read_result()["best"]["validation_metric"] for r in runs}
        assert one["lr"] == min(best, key=best.get)
        assert one["at_edge"] == (one["lr"] in (min(best), max(best)))
        assert {t["lr"]: t["validation_metric"] for t in one["trials"]} == best
    reported = [
        RunFolder.open(p.parent).read_config() for p in compared.glob("*/seed-*/config.json")
    ]
    assert len(reported) == 4
    assert {config.seed for config in reported} == {0, 1}
    assert {config.budget for config in reported} == {"30gradients"}
    rates = {one["lr"] for one in found}
    assert {
        float(config.optimizer.rpartition("lr=")[2].split(",")[0]) for config in reported
    } == rates


def test_the_report_names_the_rate_and_leaves_the_tuning_runs_out(compared, workplace, command):
    found = json.loads((compared / "tuning.json").read_text())["tuned"]
    text = (compared / "report.md").read_text()
    for one in found:
        assert f"lr={one['lr']}" in text
    assert text.count("| 2 out of budget |") + text.count("| 2 reached target |") >= 1
    assert command("report", compared, "--out", workplace / "r")[0] == 0
    assert (workplace / "r" / "report.md").read_text() == text
    # The tuning runs can be looked at by themselves.
    assert command("report", compared / "tuning", "--out", workplace / "t")[0] == 0
    assert "lr=0.2" in (workplace / "t" / "report.md").read_text()


def test_a_tuned_comparison_goes_on_with_what_is_missing(compared, command):
    gone = next(compared.glob("sgd*/seed-1"))
    times = {
        p: p.stat().st_mtime_ns for p in compared.rglob("metrics.jsonl") if gone not in p.parents
    }
    before = (gone / "metrics.jsonl").read_text()
    for path in gone.iterdir():
        path.unlink()
    settings = [*TINY, "--optimizers", *PAIR, "--seeds", "0", "1", "--workers", "1"]
    settings += ["--tune", "3", "--tune-budget", "20gradients", "--out", compared, "--resume"]
    chosen = (compared / "tuning.json").read_text()
    code, out, error = command("compare", *settings, "--quiet")
    assert (code, error) == (0, "")
    names = ("report.md", "report.png", "report.html")
    assert out.splitlines() == [f"wrote {compared / name}" for name in names]
    assert (compared / "tuning.json").read_text() == chosen
    assert {path: path.stat().st_mtime_ns for path in times} == times

    def without_clock(text):
        return [{**json.loads(line), "seconds": 0, "check": ""} for line in text.splitlines()]

    assert without_clock((gone / "metrics.jsonl").read_text()) == without_clock(before)


def test_what_a_tuned_comparison_is_resumed_with_is_checked(compared, command):
    code, _, error = command("compare", "--out", compared, "--resume", "--seeds", "1000")
    assert code == 2
    assert "seed 1000 is for tuning" in error
    asked = ["--tune-budget", "20gradients", "--seeds", "0", "--quiet"]  # as it was begun with
    assert command("compare", "--out", compared, "--resume", *asked)[0] == 0


def test_a_tuned_comparison_is_not_begun_again(compared, command):
    settings = [*TINY, "--optimizers", *PAIR, "--seeds", "0", "1", "--out", compared]
    code, _, error = command("compare", *settings, "--tune", 3)
    assert code == 2
    assert "already holds runs" in error


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--tune", 1], ["tune must be at least 2"]),
        (["--tune-budget", "3epochs"], ["--tune-budget needs --tune"]),
        (["--tune", 2, "--tune-budget", "soon"], ["budget must read like"]),
        (["--tune", 2, "--seeds", "1000"], ["seed 1000 is for tuning"]),
        (["--tune", 2, "--optimizers", "adam", "adam:lr=0.1"], ["more than lr"]),
        (["--tune", 2, "--optimizers", "adams"], ["Did you mean 'adam'?"]),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(workplace, command, options, words):
    code, out, error = command("compare", *TINY, *options)
    assert (code, out) == (2, "")
    assert len(error.splitlines()) == 1
    for word in words:
        assert word in error
    assert not list(workplace.iterdir())


def test_a_tuning_run_that_fails_is_told_and_nothing_is_reported(workplace, command):
    # torch's Adam refuses `capturable` on the CPU, but only at its first step.
    settings = [*TINY, "--optimizers", "adam:capturable=true", "--tune", 2, "--workers", 1]
    code, _, error = command("compare", *settings, "--out", "c")
    assert code == 1
    assert error.count("failed: c/tuning/adam_capturable=true/lr-") == 2
    assert not (workplace / "c" / "tuning.json").exists()
    assert not list(workplace.glob("c/*/seed-*"))


def test_a_grid_of_one_is_no_tuning(workplace):
    with pytest.raises(UserError, match="at least 2"):
        tuning.plan_trials(SHARED, PAIR, 1, "20gradients", workplace, False)


def test_a_rate_for_all_is_the_middle_of_the_grid_and_not_that_of_the_reported_runs(command):
    options = ["--optimizers", "sgd", "--seeds", 0, "--tune", 2, "--lr", 0.01]
    code, _, error = command("compare", *TINY, *options, "--out", "c", "--quiet")
    assert code == 0, error
    rate = json.loads(Path("c/tuning.json").read_text())["tuned"][0]["lr"]
    (saved,) = Path("c").glob("sgd*/seed-0/config.json")
    config = RunFolder.open(saved.parent).read_config()
    assert (config.optimizer, config.lr) == (f"sgd:lr={rate}", None)
