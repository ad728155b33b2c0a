"""`rnnopt benchmark`: scores by hand, entries as files, a measured entry repeated to the digit."""

import hashlib
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rnnopt.config import seeds
from rnnopt.config.errors import UserError
from rnnopt.experiments.benchmark import leaderboard, measure, scores, suite
from rnnopt.experiments.benchmark.entry import (
    FOLDER,
    Entry,
    Measured,
    OnWorkload,
    Trial,
    checked_name,
    entries,
    load_entry,
)
from rnnopt.experiments.benchmark.suite import BY_NAME, QUICK, SUITES
from rnnopt.experiments.job import Job
from rnnopt.runs.collection import read_runs
from rnnopt.runs.folder import RunFolder
from rnnopt.training.imported import load

NAMES = [one.name for one in QUICK]


def runs_of(*to_target):
    return [
        Measured(seed, cost, cost and cost / 10, 30.0, 0.9, 0.8, "out of budget")
        for seed, cost in enumerate(to_target)
    ]


def entry_of(name, *to_target, track="tuned", trials=()):
    on = {one: OnWorkload(0.01, list(trials), runs_of(*to_target)) for one in NAMES}
    return Entry(name, name, track, {}, {"processor": "this"}, on)


# -- scores ----------------------------------------------------------------------------------------


def test_the_score_is_the_geometric_mean_of_ratios_of_medians():
    soap, other = entry_of("soap", 100, 300, 200), entry_of("other", 50, 50, 80)
    assert scores.ratios(other, soap, "quick", "gradients") == [0.25] * 5
    changed = dict(other.workloads)
    changed[NAMES[0]] = OnWorkload(0.01, [], runs_of(800, 800, 800))
    score = scores.score(replace(other, workloads=changed), soap, "quick")
    assert score.value == pytest.approx((0.25**4 * 4) ** (1 / 5))
    assert scores.score(other, soap, "quick", "seconds").value == pytest.approx(0.25)


def test_a_miss_costs_twice_the_budget_and_seconds_twice_the_run():
    name = NAMES[0]
    assert scores.costs(name, runs_of(10, None), "gradients") == [10, 2 * BY_NAME[name].budget]
    assert scores.costs(name, runs_of(10, None), "seconds") == [1, 60]


def test_the_reference_has_no_interval_and_equal_entries_have_one_around_one():
    soap = entry_of("soap", 100, 300, 200)
    assert scores.score(soap, soap, "quick") == scores.Score(1.0, 1.0, 1.0)
    twin = scores.score(entry_of("twin", 100, 300, 200), soap, "quick")
    assert twin.value == pytest.approx(1)
    assert twin.low < 1 < twin.high
    exact = scores.score(entry_of("exact", 50, 50), entry_of("soap", 100, 100), "quick")
    assert (exact.low, exact.high) == pytest.approx((0.5, 0.5))


def test_the_interval_is_that_of_an_exhaustive_bootstrap():
    # Two seeds: the median of a resample is a, (a + b)/2 or b, with weights 1/4, 1/2, 1/4.
    entry, soap = entry_of("one", 100, 400), entry_of("soap", 100, 100)
    logs = np.log([1.0, 2.5, 4.0])
    weights = np.array([0.25, 0.5, 0.25])
    mean, sums, chances = 0.0, logs / 5, weights
    for _ in range(4):
        sums = (sums[:, None] + logs / 5).ravel()
        chances = (chances[:, None] * weights).ravel()
    mean = float(sums @ chances)
    order = np.argsort(sums)
    cumulated = np.cumsum(chances[order])
    low, high = (math.exp(sums[order][np.searchsorted(cumulated, q)]) for q in (0.025, 0.975))
    score = scores.score(entry, soap, "quick")
    assert score.low == pytest.approx(low, rel=0.05)
    assert score.high == pytest.approx(high, rel=0.05)
    assert score.low < math.exp(mean) < score.high


def test_the_profile_counts_misses_by_half_of_the_runs_as_unsolved():
    found = scores.profile([entry_of("a", 100, 100), entry_of("b", 250, 250)], "quick")
    assert found == {"a": [1.0] * 5, "b": [2.5] * 5}
    found = scores.profile([entry_of("a", 100), entry_of("b", 10, None, None)], "quick")
    assert found["b"] == [math.inf] * 5
    assert scores.reached(entry_of("b", 10, None, None), "quick") == 0
    assert scores.reached(entry_of("b", 10, 10, None), "quick") == 5


@pytest.mark.parametrize(
    ("costs", "expected"),
    [
        ((None, 150, 100, 150, None), True),
        ((None, 151, 100, 100, None), False),
        ((100, None, 100, 100, 100), False),
        ((None,) * 5, False),
    ],
)
def test_a_robust_rate_has_neighbours_that_cost_little_more(costs, expected):
    rates = (0.001, 0.00316, 0.01, 0.0316, 0.1)
    trials = [Trial(lr, cost, 0.5) for lr, cost in zip(rates, costs, strict=True)]
    assert scores.robust(OnWorkload(0.01, trials, runs_of(1))) is expected
    assert scores.robust(OnWorkload(0.1, trials, runs_of(1))) is None
    assert scores.robust(OnWorkload(0.01, [], runs_of(1))) is None


@given(st.lists(st.integers(1, 4000), min_size=1, max_size=5), st.integers(2, 9))
def test_a_score_scales_with_the_costs(costs, factor):
    soap = entry_of("soap", 100, 200)
    once = scores.score(entry_of("a", *costs), soap, "quick")
    times = scores.score(entry_of("a", *(factor * cost for cost in costs)), soap, "quick")
    assert times.value == pytest.approx(factor * once.value)
    assert times.high == pytest.approx(factor * once.high)


# -- entries as files ------------------------------------------------------------------------------


def test_an_entry_is_read_as_it_was_written(tmp_path):
    trials = [Trial(0.01, None, None), Trial(0.1, 20, 0.5)]
    entry = entry_of("one", 10, None, trials=trials)
    entry.save(tmp_path / "one.json")
    assert load_entry(tmp_path / "one.json") == entry
    assert entries(tmp_path) == [entry]


def twice(found):
    found["runs"] *= 2


def broken(change):
    saved = json.loads(json.dumps(SAVED))
    change(saved)
    return saved


SAVED = dict(
    name="one", optimizer="adam", track="tuned", source={}, environment={},
    workloads={NAMES[0]: dict(lr=0.1, trials=[], runs=[dict(
        seed=0, to_target=None, seconds_to_target=None, seconds=1.0, best=None, test=None,
        status="diverged")])},
)  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("name"), "an entry must be"),
        (lambda s: s.update(more=1), "unknown field of an entry: 'more'"),
        (lambda s: s.update(track="free"), "track must be 'tuned' or 'self-tuning', got 'free'"),
        (lambda s: s.update(name="../up"), "--name must be of small letters"),
        (lambda s: s["workloads"].update(none=s["workloads"][NAMES[0]]), "unknown workload"),
        (lambda s: s["workloads"][NAMES[0]].update(runs=[]), "must have runs, got none"),
        (lambda s: s["workloads"][NAMES[0]].update(lr=-1), "workloads must be"),
        (lambda s: s.update(workloads={}), "must have workloads, got none"),
        (lambda s: s.update(optimizer="adam:lr"), "must read name:option=value"),
        (lambda s: twice(s["workloads"][NAMES[0]]), "must have different seeds"),
        (lambda s: s["workloads"][NAMES[0]]["runs"][0].update(seconds=0.0), "workloads must be"),
        (lambda s: s["workloads"][NAMES[0]]["runs"][0].update(to_target=9), "must both be numbers"),
        (
            lambda s: s["workloads"][NAMES[0]]["runs"][0].update(
                to_target=3001, seconds_to_target=1.0
            ),
            "must be within its budget of 3000",
        ),
        *(
            (
                lambda s, rates=rates: s["workloads"][NAMES[0]].update(
                    trials=[dict(lr=lr, to_target=None, best=None) for lr in rates]
                ),
                "must have rising rates, lr=0.1 among them",
            )
            for rates in ((0.2, 0.3), (0.2, 0.1), (0.1, 0.1))
        ),
        (lambda s: s["workloads"][NAMES[0]]["runs"][0].update(best="x"), "workloads must be"),
    ],
)
def test_a_file_that_is_no_entry_is_refused_in_a_sentence(tmp_path, change, message):
    path = tmp_path / "one.json"
    path.write_text(json.dumps(broken(change)))
    with pytest.raises(UserError, match=message):
        load_entry(path)


def test_entries_are_named_as_their_files(tmp_path):
    entry_of("one", 10).save(tmp_path / "two.json")
    with pytest.raises(UserError, match=r"two.json must hold the entry two, got one"):
        entries(tmp_path)


def test_the_entries_on_board_can_be_read_and_are_named_as_their_files():
    for path in FOLDER.glob("*.json"):
        assert load_entry(path).name == checked_name(path.stem)


def test_workloads_have_names_of_their_own_and_budgets_that_end_with_a_look():
    for one in suite.FULL:
        assert BY_NAME[one.name] is one
        assert one.look < one.budget
    assert set(SUITES["quick"]) < set(SUITES["full"])
    assert {one.model for one in suite.FULL} == {"rnn", "gru", "lstm", "indrnn-6"}


# -- measuring -------------------------------------------------------------------------------------


@pytest.fixture
def tiny(monkeypatch):
    """A workload that takes a moment, as the whole quick suite."""
    one = suite.Workload("digits-pixels", "digits-rows", 0.5, 40, 5, 8)
    monkeypatch.setitem(BY_NAME, one.name, one)
    for name in SUITES:
        monkeypatch.setitem(SUITES, name, (one,))
    monkeypatch.setattr(measure, "SEEDS", (0, 1))
    # Those on board are of the whole workloads.
    monkeypatch.setattr("rnnopt.cli.commands.benchmark.entries", lambda: [])
    return one


def in_this_process(stage, jobs):
    from rnnopt.runs.runner import run

    for job in jobs:
        run(job.config, job.path, resume=(job.path / "config.json").exists())
    return []


def test_a_measured_entry_has_what_its_runs_say(tiny, tmp_path):
    asked = []

    def do(stage, jobs):
        asked.append((stage, [(job.config.lr, job.config.seed) for job in jobs]))
        return in_this_process(stage, jobs)

    entry, failures = measure.measure("adam", "adam:clip=1", "tuned", [tiny], tmp_path, do)
    assert failures == []
    assert asked[0][0] == "tuning"
    assert asked[0][1] == [(lr, seeds.TUNING) for lr in (3e-4, 9.487e-4, 3e-3, 9.487e-3, 0.03)]
    found = entry.workloads[tiny.name]
    assert asked[-1] == ("training", [(found.lr, 0), (found.lr, 1)])
    rates = [lr for stage, runs in asked if stage == "tuning" for lr, _ in runs]
    assert sorted(set(rates)) == [trial.lr for trial in found.trials]
    assert not found.at_edge or len(found.trials) == suite.TRIALS + suite.FURTHER
    costs = [(trial.to_target or math.inf, -(trial.best or 0)) for trial in found.trials]
    assert found.lr == found.trials[costs.index(min(costs))].lr
    (folder,) = tmp_path.glob(f"{tiny.name}/lr-{found.lr:g}/seed-1")
    result = json.loads((folder / "result.json").read_text())
    assert found.runs[1].test == result["test_metric"]
    records = read_runs([RunFolder.open(folder)])[0].records
    met = [r["gradient_evaluations"] for r in records if r["validation_metric"] >= tiny.target]
    assert found.runs[1].to_target == (met[0] if met else None)
    # The load is that with which the reported runs began, whenever the entry is written.
    facts = json.loads((folder / "environment.json").read_text())
    (folder / "environment.json").write_text(json.dumps(facts | {"load": 7.5}))
    # Once more: nothing is trained again, and a run repeats to the digit.
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("result.json")}
    again, _ = measure.measure("adam", "adam:clip=1", "tuned", [tiny], tmp_path, do)
    assert again.workloads == entry.workloads
    assert again.environment["load"] == 7.5
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("result.json")}
    said, again = measure.repeat(entry, tiny.name, 1, tmp_path / "again", in_this_process)
    assert measure.differences(said, again) == []
    assert measure.differences(said, replace(again, test=0.1)) == [f"test was {said.test}, got 0.1"]


@pytest.mark.parametrize(
    ("costs", "expected"),
    [
        ({0.01: 90, 0.03162: 50, 0.1: 70}, None),
        ({0.01: 90, 0.03162: 50, 0.1: 40}, 0.3162),
        ({0.01: 30, 0.03162: 50, 0.1: 40}, 0.003162),
        ({0.1 * 2**i: 9 - i for i in range(suite.TRIALS + suite.FURTHER)}, None),
        ({}, None),
    ],
)
def test_a_best_rate_at_an_end_asks_for_the_next_beyond(monkeypatch, costs, expected):
    jobs = [Job(BY_NAME[NAMES[0]].config("adam", lr, seeds.TUNING), Path()) for lr in costs]
    monkeypatch.setattr(measure, "_runs", lambda jobs: jobs)
    monkeypatch.setattr(measure, "cost_of_trial", lambda job, _: costs[job.config.lr])
    assert measure.rate_beyond(jobs, BY_NAME[NAMES[0]]) == expected


def test_a_self_tuning_entry_is_not_tuned(tiny, tmp_path):
    stages = []

    def do(stage, jobs):
        stages.append(stage)
        return in_this_process(stage, jobs)

    entry, _ = measure.measure("fw", "frank-wolfe", "self-tuning", [tiny], tmp_path, do)
    assert stages == ["training"]
    assert entry.workloads[tiny.name].trials == []
    assert entry.workloads[tiny.name].lr == 0.01
    assert not entry.workloads[tiny.name].at_edge


def test_a_target_that_is_met_past_the_budget_is_missed(tiny, tmp_path):
    in_this_process("training", [Job(tiny.config("sgd", 0.1, 0), tmp_path / "run")])
    (run,) = read_runs([RunFolder.open(tmp_path / "run")])
    metrics = [record["validation_metric"] for record in run.records]
    last = replace(tiny, target=max(metrics))  # an accuracy that the last evaluation reaches
    run.records[-1]["validation_metric"] = last.target + 0.1
    run.records[:-1] = [record | {"validation_metric": 0.0} for record in run.records[:-1]]
    assert measure.measured(run, last).to_target == 40
    run.records[-1]["gradient_evaluations"] = 42  # after a step of three gradients
    found = measure.measured(run, last)
    assert (found.to_target, found.seconds_to_target) == (None, None)
    assert found.status == "out of budget"


@pytest.mark.parametrize(("task", "better"), [("digits-rows", 0.01), ("counting", -0.01)])
def test_the_target_is_the_workloads_and_not_its_tasks(tmp_path, task, better):
    one = suite.Workload("one", task, math.nan, 40, 5, 8)
    in_this_process("training", [Job(one.config("adam", 0.01, 0), tmp_path / "run")])
    (run,) = read_runs([RunFolder.open(tmp_path / "run")])
    assert run.result["status"] == "out of budget"  # by the task's target
    best = run.result["best"]
    found = measure.measured(run, replace(one, target=best["validation_metric"]))
    assert found.to_target == best["gradient_evaluations"]
    assert 0 < found.seconds_to_target <= found.seconds
    assert found.status == "reached target"
    found = measure.measured(run, replace(one, target=best["validation_metric"] + better))
    assert (found.to_target, found.seconds_to_target) == (None, None)
    assert found.status == "out of budget"


def test_reported_runs_of_another_optimizer_are_refused(tiny, tmp_path):
    measure.measure("fw", "adam", "self-tuning", [tiny], tmp_path, in_this_process)
    with pytest.raises(UserError, match="was begun with other settings"):
        measure.measure("fw", "adam:clip=1", "self-tuning", [tiny], tmp_path, in_this_process)


def test_code_that_only_an_entry_names_is_not_executed(tiny, command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = b"raise SystemExit(5)"
    Path("theirs.py").write_bytes(code)
    source = {"file": "theirs.py", "sha256": hashlib.sha256(code).hexdigest()}
    name = "theirs.py:Sign"
    entry = replace(entry_of("one", 10), optimizer=name, source=source)
    entry = replace(entry, workloads={tiny.name: next(iter(entry.workloads.values()))})
    entry.save(Path("one.json"))
    for words, message in (
        ((), "say that you trust the code by --optimizer theirs.py:Sign"),
        (("--optimizer", "adam"), "entry one is of theirs.py:Sign, got --optimizer adam"),
        (("--optimizer", name), "theirs.py cannot be imported: SystemExit: 5"),
        (("--optimizer", name, "--quick"), "--quick cannot go with --verify"),
    ):
        exit_code, _, error = command("benchmark", "--verify", "one.json", "--workers", 1, *words)
        assert exit_code == 2
        assert message in " ".join(error.split())


def test_an_unfinished_entry_is_none(tiny, tmp_path):
    assert measure.measure("a", "adam", "tuned", [tiny], tmp_path, lambda stage, jobs: ["it"]) == (
        None,
        ["it"],
    )


def test_what_cannot_be_repeated_is_said(tiny, tmp_path):
    entry = Entry("a", "adam", "tuned", {}, {}, {tiny.name: OnWorkload(0.01, [], runs_of(1))})
    for workload, seed, message in (("text", 0, "has no workload"), (tiny.name, 7, "with seed 7")):
        with pytest.raises(UserError, match=message):
            measure.repeat(entry, workload, seed, tmp_path, in_this_process)
    changed = replace(entry, source={"package": "torch", "version": "1"})
    with pytest.raises(UserError, match="the entry's optimizer was"):
        measure.repeat(changed, tiny.name, 0, tmp_path, in_this_process)


# -- the leaderboard and the command ---------------------------------------------------------------


def test_the_fastest_comes_first_and_incomplete_entries_are_left_out():
    soap, fast = entry_of("soap", 100, 100), entry_of("fast", 50, 50)
    part = replace(fast, name="part", workloads={NAMES[0]: fast.workloads[NAMES[0]]})
    free = entry_of("free", 70, track="self-tuning")
    rows = leaderboard.standings([soap, part, fast, free], "quick", "tuned")
    assert [row[:2] for row in rows] == [["fast", "0.50"], ["soap", "1.00"]]
    assert [r[0] for r in leaderboard.standings([soap, free], "quick", "self-tuning")] == ["free"]
    assert leaderboard.standings([fast], "quick", "tuned") == []


def test_seconds_of_a_busy_machine_are_not_shown():
    soap, fast = entry_of("soap", 100), entry_of("fast", 50)
    assert [row[2] for row in leaderboard.standings([soap, fast], "quick", "tuned")] == ["–", "–"]
    quiet = [
        replace(one, environment={"processors": 2, "load": load})
        for one, load in ((soap, 2.5), (fast, 2.6))
    ]
    assert [r[2] for r in leaderboard.standings(quiet, "quick", "tuned")] == ["–", "1.00"]


def test_seconds_of_another_machine_are_not_shown():
    machine = {"processors": 2, "load": 1.0, "cpu_kernels": "AVX2", "processor": "x", "threads": 1}
    soap, fast = (
        replace(entry_of(*one), environment=machine) for one in (("soap", 9), ("fast", 5))
    )
    other = replace(fast, environment=machine | {"cpu_kernels": "AVX512"})
    shown = [leaderboard.standings([soap, one], "quick", "tuned")[0][2] for one in (fast, other)]
    assert shown == ["0.56", "–"]


def test_the_page_is_written_between_its_marks(tmp_path):
    page = tmp_path / "benchmark.md"
    page.write_text(f"# Rules\n\n{leaderboard.BEGIN}\nold\n{leaderboard.END}\n\nafter\n")
    found = [entry_of("soap", 100, 100), entry_of("slow", 300, None, None)]
    written = leaderboard.write_page(page, found)
    text = page.read_text()
    assert written == [page, tmp_path / "images" / "benchmark-quick.png"]
    assert text.startswith("# Rules\n")
    assert text.endswith("\n\nafter\n")
    assert "old" not in text
    assert "| slow |" in text
    assert "| – (1/3) |" in text
    assert leaderboard.write_page(page, found) == written
    assert page.read_text() == text
    page.write_text("# Rules\n")
    with pytest.raises(UserError, match="must have the lines"):
        leaderboard.write_page(page, found)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--optimizer", "adam", "--write", "x.md"), "takes one of --optimizer, --verify, --write"),
        (("--optimizer", "adam", "--workloads", "nope"), "unknown workload 'nope'"),
        (("--optimizer", "nope"), "unknown optimizer"),
        (("--optimizer", "adam", "--name", "A B"), "--name must be of small letters"),
        (("--optimizer", "adam", "--workers", "-1"), "--workers must be at least 0"),
        (("--quick",), "--quick needs --optimizer"),
        (("--workloads", "counting"), "--workloads needs --optimizer or --verify"),
        (("--seed", "3"), "--seed needs --verify"),
        (("--verify", "none.json"), "none.json is not a readable JSON file"),
        (("--write", "none.md"), "none.md cannot be read"),
    ],
)
def test_bad_input_is_a_sentence(command, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    code, _, error = command("benchmark", *words)
    assert code == 2
    assert message in " ".join(error.split())
    assert not any(Path().iterdir())


def test_the_command_measures_prints_and_verifies(tiny, command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, error = command("benchmark", "--optimizer", "soap", "--quick", "--workers", 1)
    assert code == 0, error
    assert "wrote runs/benchmark/soap/entry.json" in out
    code, out, _ = command("benchmark", "--verify", "runs/benchmark/soap/entry.json", "--seed", 1)
    assert code == 0
    assert "every figure of soap is the same" in out
    saved = json.loads(Path("runs/benchmark/soap/entry.json").read_text())
    saved["workloads"][tiny.name]["runs"][0]["test"] = 0.123
    Path("other.json").write_text(json.dumps(saved))
    code, out, error = command("benchmark", "--verify", "other.json")
    assert code == 1
    assert "test was 0.123" in error


def test_an_entry_with_the_mean_shows_it_and_trains_as_without():
    place = Path(__file__).parent.parent / "benchmarks/entries/with_mean.py"
    weight, plain = (torch.tensor([1.0, -2.0], requires_grad=True) for _ in range(2))
    optimizer = load(f"{place}:Adam")([weight], lr=0.5)
    adam = torch.optim.Adam([plain], lr=0.5)
    mean, peak = plain.detach().clone(), 0.0
    for step, lr in enumerate((0.5, 0.25, 0.125), start=1):
        adam.param_groups[0]["lr"] = optimizer.param_groups[0]["lr"] = lr
        for one, by in ((weight, optimizer), (plain, adam)):
            one.grad = None
            one.square().sum().backward()
            by.step()
        peak = max(peak, lr)
        mean += min(1.0, 9 / (step + 8) * peak / lr) * (plain.detach() - mean)
        optimizer.eval()
        torch.testing.assert_close(weight.detach(), mean)
        optimizer.train()
        assert torch.equal(weight, plain)
