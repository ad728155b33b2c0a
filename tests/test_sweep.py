"""What a sweep promises on one machine: exactly so many trials, each a run folder, and it goes on
after whatever ended it, where it stood.

Spaces are promised in test_sweep_spaces.py, many machines in test_sweep_postgresql.py.
"""

import json
import math
import shlex
import signal
import threading
import time
import warnings
from dataclasses import replace

import numpy as np
import pytest
from cases import partly

pytest.importorskip("optuna")

import forks
import quick_sqlite  # noqa: F401
from optuna.trial import TrialState

from rnnopt.cli.commands import sweep as sweeping
from rnnopt.cli.main import main
from rnnopt.config.errors import UserError
from rnnopt.config.run_config import RunConfig
from rnnopt.experiments import worker
from rnnopt.experiments.engine import Engine
from rnnopt.experiments.sweeps import pruning, results
from rnnopt.experiments.sweeps import trials as queued
from rnnopt.experiments.sweeps.spaces import Choices, Range
from rnnopt.experiments.sweeps.study import Sweep, address, begin, counted, put_back_running
from rnnopt.runs.folder import RunFolder

CONFIG = RunConfig(
    task="counting:length=3", hidden=3, budget="20gradients", evaluate_every=5,
    optimizer="adam", seed=1000,
)  # fmt: skip
SPACE = {"lr": Range(1e-3, 1e-1, log=True), "clip": Choices((None, 1.0))}
TINY = ["--task", "counting:length=3", "--hidden", "3", "--budget", "20gradients"]
TINY += ["--optimizer", "adam"]


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    """Every test works in a folder of its own, on a wide terminal."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path


@pytest.fixture
def plan(workplace):
    """A sweep of four trials."""
    out = workplace / "s"
    return Sweep(CONFIG, SPACE, 4, out, address(None, out), "mse", heartbeat=1)


def ask(study, distributions=None):
    """A trial that is under way, though nobody works on it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optuna's, that asking alone gives no sign of life
        return study.ask(distributions)


def sweep(plan, study, stop=None):
    """Does what is left of a sweep, with one worker."""
    with Engine(1) as engine:
        queued.run_sweep(plan, study, engine, lambda jobs: None, stop or threading.Event())


def done(plan):
    """The trials of a sweep once it is done."""
    study = begin(plan)
    sweep(plan, study)
    return study.get_trials()


def interrupted(plan, monkeypatch, calls):
    """The trials of a sweep that is interrupted before so many steps."""
    study, event, count = begin(plan), threading.Event(), iter(range(10**6))

    def stop():
        if next(count) >= calls:
            event.set()
        return event.is_set()

    with monkeypatch.context() as patch:
        patch.setattr(worker, "_stop_of", lambda order, worker: stop)
        sweep(plan, study, event)
    return study.get_trials()


def states(trials):
    return [trial.state.name for trial in trials]


# -- trials ----------------------------------------------------------------------------------------


def test_each_trial_is_a_run_folder_judged_by_its_best_validation_metric(plan):
    trials = done(plan)
    assert states(trials) == ["COMPLETE"] * 4
    assert [t.user_attrs["folder"] for t in trials] == [f"trial-{i:04d}" for i in range(4)]
    for trial in trials:
        folder = RunFolder.open(plan.out / trial.user_attrs["folder"])
        config = folder.read_config()
        assert (config.lr, config.clip) == (trial.params["lr"], trial.params["clip"])
        assert config.seed == 1000
        assert trial.value == folder.read_result()["best"]["validation_metric"]
        assert trial.value == min(r["validation_metric"] for r in folder.read_records())


def test_the_same_sweep_draws_the_same_values(plan, workplace):
    other = workplace / "other"
    twin = replace(plan, out=other, storage=address(None, other))
    assert [t.params for t in done(plan)] == [t.params for t in done(twin)]


def test_a_finished_sweep_goes_on_to_a_greater_number(plan):
    before = done(replace(plan, trials=2))
    assert len(before) == 2
    after_it = done(plan)
    assert [t.params for t in after_it[:2]] == [t.params for t in before]
    assert len(after_it) == 4
    # A sampler that began anew with the same seed would draw the first values again.
    assert len({trial.params["lr"] for trial in after_it}) == 4
    assert len(done(plan)) == 4


def test_a_sweep_in_a_folder_of_another_name_is_the_same_sweep(plan, workplace):
    done(plan)
    plan.out.rename(workplace / "moved")
    out = workplace / "moved"
    moved = replace(plan, out=out, storage=address(None, out))
    assert len(begin(moved).get_trials()) == 4


def test_a_trial_of_which_the_database_knows_nothing_is_left_alone(plan):
    """The database is older than the folder: of a mirror, say."""
    study = begin(plan)
    other = replace(CONFIG, lr=0.5, clip=0.5)
    RunFolder.create(plan.out / "trial-0000", other)
    trials = queued.TrialQueue(plan, study)
    assert trials.take().path == plan.out / "trial-0000b"
    job = trials.take()
    assert not trials._is_taken("trial-0009", job.config)
    RunFolder.create(plan.out / "trial-0009", replace(job.config, readout="every"))  # it is filled
    assert not trials._is_taken("trial-0009", job.config)


def test_two_commands_do_no_trial_too_many(plan, monkeypatch):
    # The second asks for a trial while the first, between look and question, took the last.
    queue = queued.TrialQueue(plan, begin(plan))
    for _ in range(4):
        ask(queue.study)
    assert queue.take() is None
    with monkeypatch.context() as patch:
        patch.setattr(queued, "left", lambda *_: "to begin")
        assert queue.take() is None
    assert states(queue.study.get_trials()) == ["RUNNING"] * 4 + ["FAIL"]
    assert counted(queue.study.get_trials()) == 4


def test_an_interrupted_trial_goes_on_from_its_checkpoint(plan, workplace, monkeypatch):
    whole = done(replace(plan, trials=1))[0]
    out = workplace / "interrupted"
    cut = replace(plan, trials=1, out=out, storage=address(None, out))
    trials = interrupted(cut, monkeypatch, 10)
    assert states(trials) == ["FAIL", "WAITING"]
    reached = RunFolder.open(out / "trial-0000").read_result()
    assert reached["status"] == "interrupted"
    assert 0 < reached["gradient_evaluations"] < 20
    trials = done(cut)
    assert states(trials) == ["FAIL", "COMPLETE"]
    assert counted(trials) == 1
    assert trials[1].user_attrs["folder"] == "trial-0000"
    assert trials[1].params == whole.params
    assert trials[1].value == whole.value
    assert trials[1].intermediate_values == whole.intermediate_values
    assert not (out / "trial-0001").exists()


def test_a_trial_whose_command_died_is_retried_once_its_heartbeat_is_missed(plan, workplace):
    plan = replace(plan, storage=f"sqlite:///{workplace}/elsewhere.db")
    study = begin(plan)
    lost = ask(study)  # by a command that dies at once
    study._storage.record_heartbeat(lost._trial_id)
    time.sleep(2.1)
    trials = done(replace(plan, trials=1))
    assert states(trials) == ["FAIL", "COMPLETE"]
    assert trials[1].system_attrs["failed_trial"] == 0


def test_trials_under_way_in_a_dead_command_are_queued_at_once(plan):
    study = begin(plan)
    ask(study)
    put_back_running(study)
    assert states(study.get_trials()) == ["FAIL", "WAITING"]
    assert states(done(replace(plan, trials=1))) == ["FAIL", "COMPLETE"]


def test_a_trial_worse_than_the_median_is_stopped_early(plan):
    config = replace(CONFIG, budget="2000gradients", evaluate_every=100)
    bad = replace(plan, config=config, space={"lr": Range(1e-3, 1e-1, log=True)}, trials=6)
    study = begin(bad)
    for i in range(5):  # five that were good from the beginning
        trial = ask(study, {"lr": _float(1e-3, 1e-1)})
        for step in range(queued.STEPS + 1):
            trial.report(1e-30, step)
        study.tell(trial, 1e-30 * (i + 1))
    sweep(bad, study)
    last = study.get_trials()[-1]
    assert last.state.name == "PRUNED"
    folder = RunFolder.open(bad.out / last.user_attrs["folder"])
    assert folder.read_result()["status"] == "interrupted"
    # Steps are twentieths of the budget, none is stopped in the first four; the run goes on until
    # the news has come here and back.
    assert max(last.intermediate_values) == pruning.WARM_UP
    assert pruning.WARM_UP / queued.STEPS <= folder.read_records()[-1]["fraction"] < 0.9
    assert states(done(replace(bad, prune=False, trials=7)))[-1] == "COMPLETE"


def complete_trials(study, metric, losses):
    """Trials that are over, level in their metric at every step."""
    for loss in losses:
        trial = ask(study)
        for step in range(queued.STEPS + 1):
            trial.report(metric, step)
        trial.set_user_attr("losses", {str(step): loss for step in range(queued.STEPS + 1)})
        trial.set_user_attr("validation_loss", loss)
        study.tell(trial, metric)


@pytest.mark.parametrize(
    ("metric", "loss", "stopped"),
    partly(
        [
            (0.9, 3.5, True),  # level, and the median loss is 3
            (0.9, 3.0, False),
            (0.9, 2.5, False),
            (0.91, 9.0, False),
            (0.89, 0.1, True),
            (0.99, math.nan, True),  # a network of NaN may well have a good accuracy
        ],
        [(0.9, 3.5, True), (0.91, 9.0, False)],
    ),
)
def test_of_level_trials_those_of_a_greater_loss_are_stopped(plan, metric, loss, stopped):
    study = begin(replace(plan, metric="accuracy"))
    complete_trials(study, 0.9, (1.0, 2.0, 3.0, 4.0, 5.0))
    watch = queued.Pruning(ask(study), prune=True)
    for step in range(pruning.WARM_UP + 1):
        assert not watch.pruned
        watch.report(
            dict(fraction=step / queued.STEPS, validation_metric=metric, validation_loss=loss)
        )
    assert watch.pruned == stopped
    without = queued.Pruning(ask(study), prune=False)
    without.report(dict(fraction=1.0, validation_metric=metric, validation_loss=loss))
    assert not without.pruned


@pytest.mark.full
def test_the_median_is_that_of_optunas_pruner(plan):
    # Where metric and loss are the same, as with "mse".
    from optuna.pruners import MedianPruner

    study = begin(plan)
    rng = np.random.default_rng(0)
    found = set()
    for number in range(24):
        trial = ask(study)
        watch = queued.Pruning(trial, prune=True)
        pruner = MedianPruner(pruning.COMPARED, pruning.WARM_UP)
        for step in range(queued.STEPS + 1):
            value = float(rng.lognormal() / (step + 1)) if number != 9 else math.nan
            watch.report(
                dict(fraction=step / queued.STEPS, validation_metric=value, validation_loss=value)
            )
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)  # of NaN alone
                expected = pruner.prune(study, study.get_trials(deepcopy=False)[number])
            assert watch.pruned == expected
            found.add(expected)
        if number != 9:
            study.tell(trial, value)
    assert found == {False, True}


def test_the_best_of_level_trials_has_the_least_loss(plan):
    study = begin(replace(plan, metric="accuracy"))
    complete_trials(study, 0.9, (3.0, 1.0, 1.0, 2.0))
    complete_trials(study, 0.8, (0.1,))
    study.tell(ask(study), 0.9)  # of a version that kept no loss
    assert [trial.number for trial in results.complete(study)] == [1, 2, 3, 0, 5, 4]


def test_the_table_has_the_loss_beside_the_accuracy(plan):
    sweep = replace(plan, metric="accuracy", space={})
    study = begin(sweep)
    complete_trials(study, 0.9, (0.25,))
    study.tell(ask(study), 0.8)  # of a version that kept no loss
    found = results.complete(study)
    for trial in found:
        trial.user_attrs["gradient_evaluations"] = 20
    assert results.columns(sweep) == [
        "trial",
        "best validation accuracy",
        "its loss",
        "gradients",
    ]
    rows = [results.row(sweep, trial) for trial in found]
    assert rows == [["0", "0.9", "0.25", "20"], ["1", "0.8", "–", "20"]]
    mse = replace(sweep, metric="mse")
    assert (len(results.columns(mse)), len(results.row(mse, found[0]))) == (3, 3)


def test_a_trial_keeps_the_losses_of_its_run(plan):
    (trial,) = done(replace(plan, trials=1))
    folder = RunFolder.open(plan.out / trial.user_attrs["folder"])
    assert trial.user_attrs["validation_loss"] == folder.read_result()["best"]["validation_loss"]
    losses = [record["validation_loss"] for record in folder.read_records()]
    assert list(trial.user_attrs["losses"].values()) == losses


def _float(low, high):
    from optuna.distributions import FloatDistribution

    return FloatDistribution(low, high, log=True)


def test_a_trial_that_diverges_is_worth_less_than_any_other(plan):
    # The rate of 1e30 throws the weights far away: the squared error is infinite, or no number.
    space = {"lr": Choices((1e30,))}
    trials = done(replace(plan, config=replace(CONFIG, optimizer="sgd"), space=space, trials=1))
    assert states(trials) == ["PRUNED"]
    assert trials[0].user_attrs["status"] == "diverged"


def test_a_trial_that_fails_counts_and_says_why(plan):
    # torch's Adam refuses `capturable` on the CPU, but only at its first step.
    space = {"capturable": Choices((True,))}
    trials = done(replace(plan, space=space, trials=2))
    assert states(trials) == ["FAIL", "FAIL"]
    assert counted(trials) == 2
    study = begin(replace(plan, space=space, trials=2))
    assert results.counts(study)["failed"] == 2
    assert "trial 0: AssertionError" in results.errors_of(study)[0]
    assert results.write_results(plan, study) == []


def test_a_sweep_does_not_go_on_with_other_settings(plan):
    begin(plan)
    begin(replace(plan, trials=9, prune=False))
    with pytest.raises(UserError, match="hidden was 3, is 5"):
        begin(replace(plan, config=replace(CONFIG, hidden=5)))
    with pytest.raises(UserError, match=r"lr was 0.001..0.1:log, is 1..2"):
        begin(replace(plan, space={**SPACE, "lr": Range(1, 2)}))
    with pytest.raises(UserError, match=r"begun with the storage sweep.db"):
        begin(replace(plan, storage=f"sqlite:///{plan.out}/other.db"))


# -- results ---------------------------------------------------------------------------------------


def test_the_best_trial_comes_first_and_its_command_repeats_it(plan, workplace):
    study = begin(plan)
    sweep(plan, study)
    written = results.write_results(plan, study)
    assert [path.name for path in written] == ["best.json", "slices.png", "importance.png"]
    for path in written[1:]:
        assert path.read_bytes().startswith(b"\x89PNG")
    best = json.loads(written[0].read_text())
    assert best["value"] == min(trial.value for trial in study.get_trials())
    words = shlex.split(best["command"])
    assert words[:2] == ["rnnopt", "train"]
    with pytest.raises(SystemExit) as ended:
        main([*words[1:], "--out", "again", "--quiet"])
    assert ended.value.code == 0
    again = RunFolder.open(workplace / "again")
    assert again.read_result()["best"]["validation_metric"] == best["value"]
    first = RunFolder.open(plan.out / best["folder"])
    assert again.read_config() == first.read_config()


@pytest.mark.parametrize("metric", ["mse", "accuracy"])
def test_the_better_metric_wins_in_its_direction(plan, metric):
    study = begin(replace(plan, metric=metric))
    for value in (0.5, 0.1, 0.9):
        study.tell(ask(study), value)
    assert results.complete(study)[0].value == (0.1 if metric == "mse" else 0.9)


def test_importances_name_what_mattered(plan):
    study = begin(replace(plan, space={**SPACE, "hidden": Choices((1, 2))}))
    from optuna.distributions import CategoricalDistribution

    for i in range(12):
        study.enqueue_trial({"lr": 1e-3 * (1 + 7 * i % 12), "hidden": 1 + i % 2})
        trial = ask(study, {"lr": _float(1e-3, 1e-1), "hidden": CategoricalDistribution((1, 2))})
        study.tell(trial, float(trial.params["hidden"]) + 1e-3 * (i % 3))
    shares = results.importances(study)
    assert shares["hidden"] > 0.9
    assert sum(shares.values()) == pytest.approx(1)


# -- the command -----------------------------------------------------------------------------------


def test_the_command_sweeps_and_shows_the_best(command, workplace):
    code, out, error = command("sweep", *TINY, "--trials", 3, "--range", "hidden=2,4")
    assert code == 2
    assert "hidden is fixed" in error
    settings = [*TINY, "--range", "lr=1e-3..1e-1:log"]
    code, out, error = command("sweep", *settings, "--trials", 2, "--quiet")
    assert code == 0
    assert error == ""
    assert out.splitlines()[0].startswith("best validation mse")
    assert out.splitlines()[1].startswith("  rnnopt train --task counting:length=3 --lr ")
    assert out.splitlines()[2:] == ["sweep folder runs/sweep-counting-adam"]
    code, out, error = command("sweep", *settings, "--trials", 2, "--json")
    assert (code, error) == (0, "")
    found = json.loads(out)
    assert found["trials"]["complete"] == 2
    best = json.loads((workplace / "runs" / "sweep-counting-adam" / "best.json").read_text())
    assert found["best"] == best
    code, out, error = command("sweep", *settings, "--trials", 2)
    assert code == 0
    assert "counting:length=3, adam: 2 complete trials" in out
    assert "wrote runs/sweep-counting-adam/slices.png" in out


def test_the_results_of_a_sweep_are_in_its_mirror(command, workplace):
    mirror = workplace / "m"
    code, _, error = command(
        "sweep", *TINY, "--trials", "1", "--out", "s", "--quiet", "--mirror", f"file://{mirror}"
    )
    assert code == 0, error
    for file in (workplace / "s").rglob("*"):
        if file.is_file() and file.name != "lock" and not file.name.startswith("."):
            there = mirror / file.relative_to(workplace / "s")
            assert there.read_bytes() == file.read_bytes()
    assert (mirror / "best.json").exists()


def test_the_table_of_a_sweep_without_trials_says_so(plan, capsys):
    sweeping._show(plan, begin(plan), [], quiet=False)
    assert "counting:length=3, adam: 0 trials" in capsys.readouterr().out


def test_a_sweep_of_own_data_says_what_it_read_and_gives_a_command_that_runs(command, workplace):
    generator = np.random.default_rng(0)
    np.savez("own.npz", X=generator.normal(size=(40, 5)), y=np.repeat(["low", "high"], 20))
    settings = ["--data", "own.npz", "--hidden", "3", "--budget", "10gradients", "--trials", 1]
    code, out, error = command("sweep", *settings, "--optimizer", "adam", "--seed", 3)
    assert code == 0, error
    assert "26 training, 6 validation, 8 test" in out
    best = json.loads((workplace / "runs" / "sweep-own-adam" / "best.json").read_text())
    code, _, error = command(*shlex.split(best["command"])[1:], "--out", "again", "--quiet")
    assert code == 0, error
    again = RunFolder.open(workplace / "again").read_result()
    assert again["best"]["validation_metric"] == best["value"]


@pytest.mark.process
def test_ctrl_c_leaves_a_sweep_that_goes_on(workplace):
    settings = ["--task", "counting:length=3", "--hidden", "3", "--optimizer", "adam"]
    settings += ["--budget", "1h", "--evaluate-every", "10", "--trials", "2", "--json"]
    path = workplace / "runs" / "sweep-counting-adam"
    with forks.begin("forks:rnnopt", "sweep", *settings) as process:
        end = time.monotonic() + 60
        while len(RunFolder(path / "trial-0000").read_records()) < 2:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < end
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        out, error = process.communicate(timeout=60)
    assert (process.returncode, error) == (130, "")
    found = json.loads(out)
    assert found["status"] == "interrupted"
    assert found["trials"] == dict(complete=0, pruned=0, failed=0, running=0, waiting=1)
    assert RunFolder(path / "trial-0000").read_result()["status"] == "interrupted"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--trials", 0], ["trials must be at least 1"]),
        (["--workers", -1], ["workers must be at least 0"]),
        (["--cluster", "nowhere"], ["--cluster must be", "'nowhere'"]),
        (["--range", "hiden=1,2"], ["Did you mean 'hidden'?"]),
        (["--range", "layers=0..2"], ["layers must be at least 1"]),
        (["--storage", "nowhere"], ["storage must read like", "'nowhere'"]),
        (["--storage", "oracle://x/y"], ["needs a driver"]),
        (["--storage", "nonsense://x/y"], ["storage cannot be used", "nonsense"]),
        (["--storage", "postgresql://u:secret@127.0.0.1:1/x"], ["cannot be used", "refused"]),
        (["--optimizer", "adams"], ["Did you mean 'adam'?"]),
    ],
)
def test_bad_input_is_refused_in_one_sentence_before_anything_is_written(
    command, workplace, options, words
):
    settings = TINY[: -2 if "--optimizer" in options else None]
    code, out, error = command("sweep", *settings, *options)
    assert code == 2
    assert out == ""
    assert error.startswith("rnnopt: ")
    assert len(error.splitlines()) == 1
    for word in words:
        assert word in error
    assert "secret" not in error
    assert not list(workplace.glob("runs/*/*"))


def test_a_sweep_does_not_go_on_over_changed_data(plan):
    first = replace(plan, files={"data": "aa"})
    begin(first)
    begin(first)
    with pytest.raises(UserError, match="sha256 of data was aa, is bb"):
        begin(replace(plan, files={"data": "bb"}))


def test_commands_of_two_machines_draw_different_trials(plan, tmp_path):
    shared = replace(plan, storage=f"sqlite:///{tmp_path / 'elsewhere.db'}")
    study = begin(shared)
    drawn = []
    for _ in range(2):
        queued.seed_sampler(shared, study)
        trial = ask(study)
        drawn.append(trial.suggest_float("lr", 1e-3, 1e-1, log=True))
        study.tell(trial, state=TrialState.FAIL)
    assert drawn[0] != drawn[1]
