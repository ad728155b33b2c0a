"""What `rnnopt reproduce` promises: the paper's numbers, equal chances for every row, and results.

Everything runs on small stand-ins of the tasks, but for the last tests, of which some need the
environment variable RNNOPT_DATA to name a folder that has the data. What one run promises is in
test_training.py and test_run_folder.py, what a figure's line shows in test_report.py.
"""

import csv
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from cases import partly
from messages import naming

from rnnopt.config import seeds
from rnnopt.config.errors import UserError
from rnnopt.config.run_config import Budget
from rnnopt.experiments import reproduce, worker
from rnnopt.experiments.engine import Engine
from rnnopt.experiments.reproduce import engine, results
from rnnopt.experiments.reproduce.engine import (
    chosen_rate,
    grid_of,
    place,
    read_run,
    run_study,
)
from rnnopt.experiments.reproduce.frank_wolfe import a5_angle, grid, table_1, table_2, table_3
from rnnopt.experiments.reproduce.study import FORMS, Column, Form, Row, Study
from rnnopt.runs import runner
from rnnopt.runs.folder import RunFolder
from rnnopt.tasks import TASKS, Task, build_task
from rnnopt.tasks.examples import Examples
from rnnopt.tasks.text import next_character
from rnnopt.training.build import build_training

T_2 = 12.7062047  # 97.5 % point of Student's t for two values, from a table
PAPER = "frank-wolfe/"
NAMES = [PAPER + name for name in (
    "figure-3", "figure-4", "figure-5", "figure-6", "table-1", "table-2", "table-3", "a5-angle",
    "grid",
)] + [
    "asnaq/figure-1", "asnaq/figure-2", "asnaq/figure-3", "asnaq/table-1", "asnaq/gated",
    "asnaq/parts", "admm/figure-2", "admm/figure-3", "admm/figure-4", "admm/figure-5",
    "admm/figure-6", "admm/gated", "admm/convergence", "admm/table-2", "admm/table-3",
]  # fmt: skip
STUDIES = [item for item in reproduce.ALL if isinstance(item, Study)] + [grid.GRID]


def stand_in(name, steps, features=1, classes=10, option=False):
    """A builder of a small task: classes that the first step tells."""

    def build(steps=steps):
        generator = torch.Generator().manual_seed(1)

        def part(count):
            inputs = torch.randn(count, steps, features, generator=generator)
            if classes == 2:
                return Examples(inputs, (inputs[:, 0, :1] > 0).float())
            return Examples(inputs, (4 * inputs[:, 0, 0]).long() % classes)

        train = part(24)
        loss, outputs = ("binary-mse", 1) if classes == 2 else ("cross-entropy", classes)
        return Task(
            name, f"stand-in of {name}", features, outputs, loss, 0.9, train, part(8), part(12),
            len(train), hidden_size=3, batch_size=8,
        )  # fmt: skip

    def pooled(pool: int = 1):
        return build((28 // pool) ** 2)

    return pooled if option else lambda: build()


def text(name):
    """A builder of a small text."""

    def build(length: int = 25):
        return next_character(name, "stand-in", "to be or not to be, that is " * 200, length)

    return build


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    """A folder of the test's own, a wide terminal, stand-ins for tasks with data."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "250")
    monkeypatch.delenv("RNNOPT_DATA", raising=False)
    for name in ("har2", "noisy-har2", "hapt2", "noisy-hapt2"):
        monkeypatch.setitem(TASKS, name, stand_in(name, 128, 9, 2))
    for name in ("mnist-pixels", "mnist-permuted"):
        monkeypatch.setitem(TASKS, name, stand_in(name, 784, option=True))
    monkeypatch.setitem(TASKS, "mnist-rows", stand_in("mnist-rows", 28, 28))
    monkeypatch.setitem(TASKS, "toy", stand_in("toy", 4))
    for name in ("metamorphosis", "tinyshakespeare"):
        monkeypatch.setitem(TASKS, name, text(name))
    return tmp_path


@pytest.fixture
def short(monkeypatch):
    """Makes the windows 16 steps long, where their length does not matter."""
    for name in ("har2", "noisy-har2", "hapt2", "noisy-hapt2"):
        monkeypatch.setitem(TASKS, name, stand_in(name, 16, 9, 2))


@pytest.fixture
def trained(monkeypatch):
    """The folders of the runs that were trained, in order, with those that went on."""
    folders, train = [], runner._train

    def counted(training, folder, *rest):
        folders.append(folder.path)
        return train(training, folder, *rest)

    monkeypatch.setattr(runner, "_train", counted)
    return folders


TOY = Column("Toy", "toy")
ADAM = Row("Adam", dict(optimizer="adam"), {"Toy": 50.0}, shown=True)
SGD = Row("SGD (plain)", dict(optimizer="sgd", clip=1.0), rate_unit=100, shown=True)
HIDDEN = Row("Adam, 2 layers", dict(optimizer="adam", layers=2))
ELSEWHERE = Row("Elsewhere (literature)", None, {"Toy": 91.31})
FORM = Form(
    (TOY,), "6gradients", "3gradients", (1e-3, 1e-2), (0, 1), dict(evaluate_every=3)
)  # fmt: skip
STUDY = Study(
    "frank-wolfe/toy", "a toy", "it is a toy.", (ADAM, SGD, HIDDEN, ELSEWHERE),
    dict.fromkeys(FORMS, FORM), remarks=("Toys are small.",),
)  # fmt: skip


def configure(form, column, row, rate, seed):
    """The run of a row at a learning rate."""
    return engine.configure(form, column, row, rate, seed)


def silent(stage, jobs):
    pass


def do(form=FORM, out=Path("out"), stop=None, tell=silent, study=STUDY):
    """Runs the toy study; its failures."""
    with Engine(1) as workers:
        return run_study(study, form, out, workers, tell, stop or threading.Event())


# -- the list -------------------------------------------------------------------------------------


def test_list_names_every_table_and_figure(command):
    code, out, error = command("reproduce", "list")
    assert (code, error) == (0, "")
    for name in NAMES:
        assert re.search(rf"^│ {name} +│ \w", out, re.MULTILINE), name
    assert [item.name for item in reproduce.ALL] == NAMES


def assert_refused(result, *words):
    """Exit code 2 and one sentence on standard error that has the words."""
    code, out, error = result
    assert (code, out) == (2, "")
    assert len(error.strip().splitlines()) == 1, error
    for word in words:
        assert word in error


def test_an_unknown_name_is_refused_with_the_nearest(command, workplace):
    result = command("reproduce", "frank-wolfe/tabel-3", "--quick")
    assert_refused(result, "unknown table or figure", "Did you mean 'frank-wolfe/table-3'?")
    assert list(workplace.iterdir()) == []


@pytest.mark.parametrize("name", ["frank-wolfe/table-3", "frank-wolfe/table-1"])
def test_a_negative_number_of_workers_is_refused(command, name):
    assert_refused(command("reproduce", name, "--workers", "-1"), "at least 0, got -1")


def test_an_unknown_form_is_refused(command):
    code, _, error = command("reproduce", "frank-wolfe/table-3", "--form", "fast")
    assert code == 2
    assert "fast" in error
    assert "Traceback" not in error
    with pytest.raises(UserError, match=naming("'quik'", "'quick'")):
        reproduce.reproduce(NAMES[0], "quik", None, Engine(1), silent, threading.Event())


def test_help_tells_the_options(command):
    code, out, _ = command("reproduce", "--help")
    assert code == 0
    for word in ("--form", "[choices: cpu, full, quick]", "--quick", "--out", "--workers"):
        assert word in out


# -- published numbers, typed from the paper ------------------------------------------------------

# Table III: test accuracy in percent on HAR-2 and Noisy-HAR-2.
TABLE_III = {
    "SGD": (87.66, 74.38),
    "SGD+Clipping": (93.36, 74.38),
    "TBPTT": (93.62, 86.20),
    "LSTM+Adam": (94.40, 92.12),
    "Ours K=1": (93.52, 86.04),
    "Ours K=5": (94.11, 89.36),
    "Ours K=10": (93.65, 89.52),
    "Ours+BN": (94.37, 89.38),
    "TBPTT+Ours": (94.01, 89.28),
    "LSTM+Ours": (94.95, 92.41),
    "IndRNN": (95.73, 91.20),
    "IndRNN+Ours": (96.55, 92.15),
}
OUR_NAMES = {
    "SGD": "SGD (read as Adam)",
    "SGD+Clipping": "SGD + clipping",
    "TBPTT": "TBPTT, 8 segments of 16",
    "TBPTT+Ours": "TBPTT + ours",
    "LSTM+Ours": "LSTM + ours",
    "IndRNN+Ours": "IndRNN + ours",
}
# Of other papers on HAR-2.
LITERATURE = {"RNN": 91.31, "LSTM": 93.65, "FastGRNN": 95.59, "coRNN": 97.2}


def row_of(study, label):
    """The row of that label."""
    (found,) = (row for row in study.rows if row.label == label)
    return found


def test_table_3_has_the_papers_numbers():
    for name, (clean, noisy) in TABLE_III.items():
        label = OUR_NAMES.get(name, name.replace("+", " + "))
        assert row_of(table_3.TABLE_3, label).published == {"HAR-2": clean, "Noisy-HAR-2": noisy}
    run = [row for row in table_3.TABLE_3.rows if row.settings is not None and row.published]
    assert len(run) == len(TABLE_III)  # and no other row of ours claims to be the paper's
    for name, accuracy in LITERATURE.items():
        row = row_of(table_3.TABLE_3, f"{name} (literature)")
        assert (row.settings, row.published) == (None, {"HAR-2": accuracy})


def test_the_headline_is_the_difference_of_two_cells():
    ours = row_of(table_3.TABLE_3, "Ours K=10").published["Noisy-HAR-2"]
    baseline = row_of(table_3.TABLE_3, "SGD (read as Adam)").published["Noisy-HAR-2"]
    assert ours - baseline == pytest.approx(15.14)
    for number in ("15.14", "89.52", "74.38"):
        assert number in table_3.TABLE_3.claim


def test_table_2_has_the_papers_numbers():
    study = table_2.TABLE_2
    expected = {
        "IndRNN, Adam": {"Pixel-MNIST": 98.88, "Permute-MNIST": 93.00},
        "Ours K=1": {"Pixel-MNIST": 98.73, "Permute-MNIST": 92.87},
        "Ours K=5": {"Pixel-MNIST": 98.82, "Permute-MNIST": 92.59},
        "Ours K=30, p=inf": {"Pixel-MNIST": 98.37},
    }
    found = {row.label: row.published for row in study.rows if row.settings and row.published}
    assert found == expected
    assert "inner_steps=30" in row_of(study, "Ours K=30, p=inf").settings["optimizer"]
    assert "norm=inf" in row_of(study, "Ours K=30, p=inf").settings["optimizer"]
    for hours in ("4.84", "4.92", "2.55", "2.41"):
        assert hours in study.claim


def test_table_1_has_the_papers_sizes():
    sizes = {label: numbers for label, _, numbers in table_1.PRINTED if numbers}
    assert sizes == {
        "HAR-2": (7352, 2947, 128, 9),
        "Noisy-HAR-2": (7352, 2947, 128, 9),
        "Pixel-MNIST": (60_000, 10_000, 784, 1),
        "Permute-MNIST": (60_000, 10_000, 784, 1),
    }


def test_the_grid_is_the_papers():
    assert grid.RATES == (2e-5, 2e-4, 6e-4, 1e-3)
    assert grid.BATCHES == (32, 64, 128, 256, 512)
    assert grid.DECAYS == (0.1, 0.5, 0.9)
    for form in ("cpu", "full"):
        rows = engine.chosen_rows(grid.GRID, grid.GRID.forms[form])
        assert len(rows) * len(grid.GRID.forms[form].rates) == 60
    settings = {(row.settings["batch_size"], row.settings["decay"]) for row in grid.GRID.rows}
    assert settings == {(b, d) for b in grid.BATCHES for d in grid.DECAYS}


def test_figures_of_a_table_share_its_runs():
    for figure, table in (("figure-5", "table-2"), ("figure-6", "table-3")):
        one, other = reproduce.BY_NAME[PAPER + figure], reproduce.BY_NAME[PAPER + table]
        assert one.runs == other.name
        assert (one.rows, one.forms) == (other.rows, other.forms)


# -- every study ----------------------------------------------------------------------------------

every_study = pytest.mark.parametrize("study", STUDIES, ids=lambda study: study.name)


def runs_of(study, form):
    """(column, row) of everything that a form runs."""
    rows = engine.chosen_rows(study, form)
    return [(column, row) for column in form.columns for row in rows]


def training_of(form, column, row, task=None):
    """The training of a row, ready to run on a CPU."""
    config = configure(form, column, row, grid_of(form, row)[0], seed=0)
    return build_training(replace(config, device="cpu"), task)


@every_study
def test_every_row_of_every_form_can_be_built(study):
    pytest.importorskip("pytorch_optimizer")
    assert set(study.forms) == set(FORMS)
    for form in study.forms.values():
        tasks = {column.task: build_task(column.task) for column in form.columns}
        for column, row in runs_of(study, form):
            training_of(form, column, row, tasks[column.task])


@every_study
def test_every_row_has_the_same_budget_and_number_of_rates(study):
    for form in study.forms.values():
        Budget.parse(form.tuning_budget)
        pairs = runs_of(study, form)
        reported = {configure(form, c, r, 1e-3, seed).budget for c, r in pairs for seed in (0, 4)}
        tuning = {configure(form, c, r, 1e-3, seeds.TUNING).budget for c, r in pairs}
        assert (reported, tuning) == ({form.budget}, {form.tuning_budget})
        for _, row in pairs:  # a printed rate is not tuned
            expected = len(form.rates) if row.rate is None else 1
            assert len(set(grid_of(form, row))) == expected


CURVES = {
    PAPER + "figure-3": ["SGD (read as Adam)", "SGD + clipping", "Ours K=1", "Ours K=5"],
    PAPER + "figure-4": [
        "SGD (read as Adam)", "TBPTT, 4 segments", "Ours K=1", "Ours K=5", "TBPTT + ours, K=4",
    ],
    PAPER + "figure-5": ["IndRNN, Adam", "Ours K=1", "Ours K=5"],
    PAPER + "figure-6": [
        "SGD (read as Adam)", "SGD + clipping", "TBPTT, 8 segments of 16", "Ours K=1", "Ours K=5",
    ],
    "asnaq/figure-1": [
        "aSNAQ, as printed", "adaQN, as printed", "Adam, as printed", "Adagrad, as printed",
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", CURVES)
def test_a_figure_has_the_papers_curves_and_beside_them_our_defaults(name):
    drawn = [row.label for row in reproduce.BY_NAME[name].rows if row.shown]
    assert drawn[: len(CURVES[name])] == CURVES[name]
    others = [label.removesuffix(", orthogonal start") for label in drawn[len(CURVES[name]) :]]
    assert set(others) <= {"Muon", "SOAP", "Adam, tuned", "rnnopt ASNAQ", "rnnopt FrankWolfe"}
    assert others[-1] == "rnnopt FrankWolfe"


@every_study
def test_every_form_names_rows_and_changes_that_exist(study):
    labels = [row.label for row in study.rows]
    assert len(set(labels)) == len(labels)
    for form in study.forms.values():
        assert set(form.rows or ()) <= set(labels)
        assert set(form.changes) <= set(labels)
        assert any(row.shown for _, row in runs_of(study, form)) or study is grid.GRID
        for row in study.rows:
            columns = {c.label for f in study.forms.values() for c in f.columns}
            assert set(row.published) <= columns


@every_study
def test_no_two_runs_share_a_folder_and_no_reported_seed_was_tuned_on(study):
    for form in study.forms.values():
        assert seeds.TUNING not in form.seeds
        places = [
            place(Path(), column, row, configure(form, column, row, rate, seed))
            for column, row in runs_of(study, form)
            for seed in (seeds.TUNING, *form.seeds)
            for rate in grid_of(form, row)[: None if seed == seeds.TUNING else 1]
        ]
        assert len(set(places)) == len(places)
        assert all(re.fullmatch(r"[\w.=-]+", part) for path in places for part in path.parts)


LONG_ON_TWO_CORES = {
    "frank-wolfe/figure-4",
    "frank-wolfe/figure-5",
    "frank-wolfe/table-2",
    "asnaq/figure-3",
}  # full length, hours of work


@every_study
def test_a_form_that_is_reported_has_five_seeds_or_three_where_runs_are_long(study):
    for name in ("cpu", "full"):
        count = len(study.forms[name].seeds)
        long = name == "full" or study.name in LONG_ON_TWO_CORES
        assert count in ((0,) if study is grid.GRID else (3, 5, 10) if long else (5, 10))


def test_rates_are_in_the_units_of_a_row():
    assert grid_of(FORM, ADAM) == [1e-3, 1e-2]
    assert grid_of(FORM, SGD) == [0.1, 1.0]  # exactly: these are names of folders
    assert grid_of(replace(FORM, rates=(3e-4,)), replace(ADAM, rate_unit=0.1)) == [3e-5]


def test_a_rows_settings_go_over_the_forms_and_changes_over_both():
    settings = dict(clip=5.0, layers=3, evaluate_every=3)
    form = replace(FORM, settings=settings, changes={"SGD (plain)": {"layers": 4}})
    config = configure(form, TOY, SGD, 0.1, 0)
    assert (config.clip, config.layers, config.evaluate_every) == (1.0, 4, 3)
    assert configure(form, TOY, ADAM, 0.1, 0).layers == 3
    assert (config.task, config.lr, config.seed, config.optimizer) == ("toy", 0.1, 0, "sgd")


def inner_steps(training):
    """Of a FrankWolfe."""
    (count,) = {group["inner_steps"] for group in training.optimizer.param_groups}
    return count


@pytest.mark.parametrize("form", ["cpu", "full"])
def test_truncation_with_ours_has_an_inner_step_a_segment(form):
    # 128 steps are 8 segments of 16.
    form = table_3.TABLE_3.forms[form]
    for column in form.columns:
        training = training_of(form, column, row_of(table_3.TABLE_3, "TBPTT + ours"))
        assert inner_steps(training) == 8
        for label, count in (("TBPTT, 8 segments of 16", 8), ("TBPTT, 16 segments of 8", 16)):
            training = training_of(form, column, row_of(table_3.TABLE_3, label))
            assert len(training.closure.chunks.truncation.chunks(128)) == count


@pytest.mark.parametrize(("form", "length"), [("cpu", 196), ("full", 196), ("quick", 4)])
def test_figure_4_cuts_sequences_into_four_segments(form, length):
    study = reproduce.BY_NAME[PAPER + "figure-4"]
    form = study.forms[form]
    for column, row in runs_of(study, form):
        config = configure(form, column, row, 1e-3, 0)
        if "TBPTT" not in row.label:
            assert config.tbptt is None
            continue
        assert config.tbptt == length
        assert 4 * length == build_task(column.task).steps
        if "ours" in row.label:
            expected = 1 if row.label.endswith("K=1") else 4
            assert inner_steps(training_of(form, column, row)) == expected


@pytest.mark.parametrize("count", [1, 5, 10, 30])
def test_rows_of_ours_are_the_papers_method(count):
    # p = 2, one ball a tensor, radius tied to the rate, Adam outside.
    for study in STUDIES[:-1]:
        for row in study.rows:
            if row.label != f"Ours K={count}":
                continue
            form = study.forms["cpu"]
            training = training_of(form, form.columns[0], row)
            group = training.optimizer.param_groups[0]
            found = {name: group[name] for name in ("norm", "ball", "inner_steps", "momentum")}
            assert found == dict(norm=2, ball="tensor", inner_steps=count, momentum=0)
            assert isinstance(training.optimizer.outer_optimizer, torch.optim.Adam)
            assert (group["radius"], group["lr"]) == (None, grid_of(form, row)[0])


# -- the engine -----------------------------------------------------------------------------------


def record(evaluations, metric, loss=1.0, test=None):
    """A line of a run's history."""
    seen = {} if test is None else {"test_metric": test}
    return dict(
        gradient_evaluations=evaluations, seconds=evaluations / 10, epochs=1.0, train_loss=2.0,
        validation_loss=loss, validation_metric=metric, lr=0.1, fraction=1.0, **seen,
    )  # fmt: skip


def put(row, rate, seed, out=Path("out"), *, form=FORM, column=TOY, records=(), **result):
    """A run folder as a run leaves it: history and result."""
    config = configure(form, column, row, rate, seed)
    folder = RunFolder.create(place(out, column, row, config), config)
    for line in records:
        folder.append_record(line)
    facts = dict(
        status="out of budget", metric="accuracy", target=0.9, summary="", loss="cross-entropy",
        gradient_evaluations=20, seconds=2.0, test_metric=0.5,
    )  # fmt: skip
    folder.write_result(facts | result)
    return folder.path


def tuned(*found, metric="accuracy"):
    """The rate that is chosen where 1e-3, 1e-2, … led to the metrics (loss, status beside them)."""
    form = replace(FORM, rates=tuple(10.0 ** (i - 3) for i in range(len(found))), widen=False)
    for rate, (best, loss, status) in zip(form.rates, found, strict=True):
        put(
            ADAM, rate, seeds.TUNING, form=form, records=[record(3, best, loss)], metric=metric,
            best=dict(gradient_evaluations=3, validation_metric=best), status=status,
        )  # fmt: skip
    return chosen_rate(form, TOY, ADAM, Path("out"))


DONE = "out of budget"


@pytest.mark.parametrize(
    ("metric", "found", "expected"),
    [
        ("accuracy", [(0.5, 1, DONE), (0.7, 9, DONE), (0.6, 0, DONE)], 1e-2),
        ("mse", [(0.5, 1, DONE), (0.7, 0, DONE), (0.3, 9, DONE)], 1e-1),
        ("accuracy", [(0.5, 3, DONE), (0.5, 1, DONE), (0.5, 2, DONE)], 1e-2),
        ("mse", [(0.5, 3, DONE), (0.5, 2, DONE), (0.5, 1, DONE)], 1e-1),
        ("accuracy", [(math.nan, 0, "diverged"), (0.0, 9, DONE)], 1e-2),
        ("mse", [(math.nan, 0, "diverged"), (1e9, 9, DONE)], 1e-2),
        ("mse", [(math.inf, 0, "diverged"), (1e9, 9, DONE)], 1e-2),
        ("accuracy", [(0.5, math.nan, "diverged"), (0.5, 9, DONE)], 1e-2),
        ("accuracy", [(0.8, 0.1, "diverged"), (0.5, 9, DONE)], 1e-2),
        ("mse", [(0.1, 0.1, "diverged"), (0.5, 9, DONE)], 1e-2),
    ],
)  # fmt: skip
def test_the_rate_with_the_best_validation_metric_is_chosen(metric, found, expected):
    # Ties go to the lower loss, and what diverged comes last, however well it had begun.
    assert tuned(*found, metric=metric) == expected


def test_of_level_rates_the_loss_of_the_best_look_decides_not_that_of_the_last():
    form = replace(FORM, rates=(1e-3, 1e-2))
    for rate, losses in zip(form.rates, ((0.3, 9.0), (0.4, 0.1)), strict=True):
        records = [record(3, 0.8, losses[0]), record(6, 0.7, losses[1])]
        best = dict(gradient_evaluations=3, validation_metric=0.8)
        put(ADAM, rate, seeds.TUNING, form=form, records=records, best=best)
    assert chosen_rate(form, TOY, ADAM, Path("out")) == 1e-3


def test_where_everything_diverged_some_rate_of_the_grid_is_chosen():
    assert tuned((math.nan, math.nan, "diverged"), (math.nan, math.nan, "diverged")) in (1e-3, 1e-2)


def rates_with(metrics, form, row=ADAM, **result):
    """The rates of a row once those of its grid, and those they ask for, led to metrics.

    Args:
        metrics: function from a rate to the best validation metric.
        result: further facts of each trial.
    """
    done = set()
    while missing := set(rates := engine.rates_tried(form, TOY, row, Path("out"))) - done:
        for rate in missing:
            found = metrics(rate)
            put(
                row, rate, seeds.TUNING, form=form, records=[record(3, found)],
                best=dict(gradient_evaluations=3, validation_metric=found), **result,
            )  # fmt: skip
        done |= missing
    return rates


THREE = replace(FORM, rates=(1e-3, 3e-3, 1e-2))


@pytest.mark.parametrize(
    ("best", "expected"),
    [
        (3e-3, [1e-3, 3e-3, 1e-2]),
        (1e-2, [1e-3, 3e-3, 1e-2, 3e-2]),
        (0.1, [1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3]),
        (1e-3, [1e-3, 3e-3, 1e-2, 3e-4]),
        (1e9, [1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0]),  # four more at most
        (1e-9, [1e-3, 3e-3, 1e-2, 3e-4, 1e-4, 3e-5, 1e-5]),
    ],
)
def test_a_best_rate_at_an_end_asks_for_the_next_beyond(best, expected):
    assert rates_with(lambda rate: 1 / (1 + abs(math.log(rate / best))), THREE) == expected
    inner = best if expected[0] <= best <= expected[-1] else None
    assert inner is None or chosen_rate(THREE, TOY, ADAM, Path("out")) == best
    chosen = {1e9: 1.0, 1e-9: 1e-5}.get(best, best)
    run = read_run(put(ADAM, chosen, 0, form=THREE))
    assert results._at_edge(expected, run) is (best in (1e9, 1e-9))


def test_a_rate_is_left_at_the_end_where_the_grid_is_fixed_or_has_no_middle():
    rising = lambda rate: rate  # noqa: E731
    assert rates_with(rising, replace(THREE, widen=False)) == [1e-3, 3e-3, 1e-2]
    assert rates_with(rising, replace(FORM, rates=(1e-4, 1e-2)), SGD) == [1e-2, 1.0]


def test_rows_that_learn_nothing_ask_for_faster_rates_alone():
    nothing = dict(no_better="the network is no better than always answering 1")
    falling = rates_with(lambda rate: -rate, THREE, **nothing)
    assert falling == [1e-3, 3e-3, 1e-2]
    rising = rates_with(lambda rate: rate, replace(THREE, rates=(1e-4, 3e-4, 1e-3)), SGD, **nothing)
    assert rising == [1e-2, 3e-2, 0.1, 0.3, 1, 3, 10]


def test_unfinished_trials_ask_for_nothing():
    put(ADAM, 1e-2, seeds.TUNING, form=THREE, records=[record(3, 0.9)])
    assert engine.rates_tried(THREE, TOY, ADAM, Path("out")) == [1e-3, 3e-3, 1e-2]


@pytest.mark.parametrize(
    ("rate", "up", "expected"),
    [
        (1e-3, True, 3e-3),
        (3e-3, True, 1e-2),
        (3e-4, False, 1e-4),
        (1e-4, False, 3e-5),
        (3, True, 10),
    ],
)
def test_the_next_rate_is_half_a_decade_further(rate, up, expected):
    assert engine.beyond(rate, up) == expected


def test_a_study_widens_a_grid_and_reports_with_what_it_found(trained):
    form = replace(THREE, rows=(ADAM.label,))
    assert do(form) == []
    tuned = {float(path.name.removeprefix("tune-lr-")) for path in Path("out").rglob("tune-lr-*")}
    assert tuned >= set(THREE.rates)
    assert tuned == set(engine.rates_tried(form, TOY, ADAM, Path("out")))
    (run,) = {read_run(path.parent).config.lr for path in Path("out").rglob("seed-0/config.json")}
    assert run == chosen_rate(form, TOY, ADAM, Path("out"))


def test_reported_runs_of_another_rate_are_refused(trained):
    form = replace(FORM, rows=(ADAM.label,))
    assert do(form) == []
    chosen = chosen_rate(form, TOY, ADAM, Path("out"))
    (other,) = {1e-3, 1e-2} - {chosen}
    for rate, found in ((chosen, 0.1), (other, 0.9)):
        shutil.rmtree(place(Path("out"), TOY, ADAM, configure(form, TOY, ADAM, rate, seeds.TUNING)))
        put(
            ADAM, rate, seeds.TUNING, form=form, records=[record(3, found)],
            best=dict(gradient_evaluations=3, validation_metric=found),
        )  # fmt: skip
    with pytest.raises(UserError, match=rf"has lr={chosen}, and tuning chooses lr={other}"):
        do(form)


def test_one_rate_alone_is_not_tuned(trained):
    stages = []
    assert do(replace(FORM, rates=(0.01,)), tell=lambda stage, jobs: stages.append(stage)) == []
    assert set(stages) == {"training"}
    assert len(trained) == 6
    assert not list(Path("out").rglob("tune-*"))


def test_a_study_tunes_every_row_then_trains_it_with_each_seed(trained):
    stages = []
    assert do(tell=lambda stage, jobs: stages.append((stage, len(jobs)))) == []
    # Three rows and two rates, then three rows and two seeds.
    assert list(dict.fromkeys(stages)) == [("tuning", 6), ("training", 6)]
    assert len(trained) == 12
    assert len(set(trained)) == 12
    for row in (ADAM, SGD, HIDDEN):
        chosen = chosen_rate(FORM, TOY, row, Path("out"))
        reported = []
        for path in (
            place(Path("out"), TOY, row, configure(FORM, TOY, row, 1.0, s)) for s in (0, 1)
        ):
            config = RunFolder.open(path).read_config()
            assert (config.lr, config.budget) == (chosen, "6gradients")
            reported.append(config.seed)
        assert reported == [0, 1]
        for rate in grid_of(FORM, row):
            config = configure(FORM, TOY, row, rate, seeds.TUNING)
            saved = RunFolder.open(place(Path("out"), TOY, row, config)).read_config()
            assert saved == replace(config, readout="last", model="rnn")  # which are the task's
            assert config.budget == "3gradients"


def test_a_second_call_trains_nothing(trained):
    do()
    before = {path: path.read_bytes() for path in Path("out").rglob("*") if path.is_file()}
    trained.clear()
    assert do() == []
    assert trained == []
    assert {path: path.read_bytes() for path in before} == before


def test_only_what_is_missing_is_done_after_a_seed_more(trained):
    do()
    trained.clear()
    assert do(replace(FORM, seeds=(0, 1, 2))) == []
    assert {path.name for path in trained} == {"seed-2"}
    assert len(trained) == 3


def histories(out):
    """The records of all runs below a folder, without the clock."""
    return {
        path.parent.relative_to(out): [
            {k: v for k, v in r.items() if k != "seconds" and v == v}
            for r in RunFolder.open(path.parent).read_records()
        ]
        for path in Path(out).rglob("config.json")
    }


def interrupt(monkeypatch, number, action):
    """Does `action` when the run of that number begins, which ends at once."""
    train, count, before = runner._train, iter(range(1, 1000)), set(worker.halted)

    def interrupted(training, folder, listener, stop_requested):
        if next(count) == number:
            action()
            for _ in range(1000):
                if worker.halted - before:
                    break
                time.sleep(0.01)
        return train(training, folder, listener, stop_requested)

    monkeypatch.setattr(runner, "_train", interrupted)


@pytest.mark.parametrize("number", [1, 4, 8])  # in tuning, which has six runs, and after it
def test_an_interrupted_study_goes_on_as_if_nothing_had_happened(monkeypatch, number):
    do(out=Path("whole"))
    stop = threading.Event()
    with monkeypatch.context() as patch:
        interrupt(patch, number, stop.set)
        assert do(stop=stop) == []
    found = histories("out")
    assert len(found) == number  # the others never began
    results = [RunFolder.open(Path("out") / path).read_result()["status"] for path in found]
    assert results.count("interrupted") == 1
    assert do() == []
    assert histories("out") == histories("whole")


@pytest.mark.parametrize(
    ("form", "words"),
    [
        (dict(budget="9gradients"), "budget=6gradients, now 9gradients"),
        (dict(tuning_budget="4gradients"), "budget=3gradients, now 4gradients"),
        (dict(settings=dict(evaluate_every=2)), "evaluate_every=3, now 2"),
        (dict(columns=(Column("Toy", "hapt2"),)), "task=toy, now hapt2"),
        (dict(changes={"Adam": dict(model="gru")}), "model=rnn, now gru"),
    ],
)
def test_runs_that_were_begun_with_other_settings_are_refused(trained, form, words):
    do()
    trained.clear()
    with pytest.raises(UserError, match=f"was begun with other settings.*{words}.*--out"):
        do(replace(FORM, **form))
    assert trained == []


def test_a_row_that_cannot_be_built_is_refused_before_anything_is_trained(trained):
    broken = Row("Broken", dict(optimizer="adam:lern=1"))
    with pytest.raises(UserError, match="'lern'"):
        do(study=replace(STUDY, rows=(ADAM, broken)))
    assert trained == []
    with pytest.raises(UserError, match=naming("'adam'", "SGD")):
        do(replace(FORM, rows=("adam",)))


def test_only_the_rows_of_the_form_are_run():
    form = replace(FORM, rows=("SGD (plain)",), rates=(0.01,))
    assert do(form) == []
    assert {path.parts[-3] for path in Path("out").rglob("config.json")} == {"SGD__plain_"}


def test_only_the_rows_and_data_sets_that_are_named_are_run_and_written(command):
    rows = ("TBPTT, 8 segments of 16", "Ours K=5")
    for only in ([rows[0], "HAR-2"], [rows[1], "HAR-2"]):
        asked = ("frank-wolfe/table-3", "--quick", "--only", *only, "--out", "o", "--workers", "1")
        code, out, error = command("reproduce", *asked)
        assert code == 0, error
        assert "Noisy" not in out
        written = Path("o/results.csv").read_text()
        assert [row for row in rows if row in written] == [only[0]]
    begun = {path.parts[-4:-2] for path in Path("o").rglob("config.json")}
    assert {data for data, _ in begun} == {"HAR-2"}
    assert len({row for _, row in begun}) == 2


def test_only_the_seeds_that_are_named_are_run_and_written(command):
    asked = ("frank-wolfe/table-3", "--quick", "--only", "Ours K=5", "HAR-2", "--out", "o")
    for seed in ("1", "0"):
        code, _, error = command("reproduce", *asked, "--seeds", seed, "--workers", "1")
        assert code == 0, error
        with open("o/results.csv", newline="") as file:
            lines = [line for line in csv.DictReader(file) if line["method"] == "Ours K=5"]
        assert [line["seeds"] for line in lines] == ["1"]
        trained = {path.parent.name for path in Path("o").rglob("seed-*/result.json")}
        assert trained == ({"seed-1"} if seed == "1" else {"seed-0", "seed-1"})


@pytest.mark.parametrize(
    ("name", "part", "words"),
    [
        ("frank-wolfe/table-3", "--only Ours", ("unknown row or data set", "'Ours K=5'")),
        ("frank-wolfe/table-3", "--seeds 7", ("no seed 7", "0, 1")),
        ("frank-wolfe/table-3", "--seeds -1", ("no seed -1", "0, 1")),
        ("frank-wolfe/table-1", "--only HAR-2", ("is made in one piece", "--only")),
        ("frank-wolfe/table-1", "--seeds 0", ("is made in one piece", "--seeds")),
        ("frank-wolfe/table-3", "--seeds", ("at least one of --seeds",)),
        ("frank-wolfe/table-3", "--only", ("at least one of --only",)),
        ("list", "--only HAR-2", ("list takes no options", "--only")),
    ],
)
def test_what_cannot_be_run_alone_is_refused(command, workplace, name, part, words):
    quick = () if name == "list" else ("--quick",)
    assert_refused(command("reproduce", name, *quick, *part.split()), *words)
    assert list(workplace.iterdir()) == []


# torch's Adam refuses `capturable` on the CPU, but only at its first step.
FAILING = Row("Failing", dict(optimizer="adam:capturable=true"))


def test_failures_are_told_in_a_sentence_each_and_the_others_still_run():
    form = replace(FORM, rates=(0.01,))
    failures = do(form, study=replace(STUDY, rows=(FAILING, ADAM)))
    assert len(failures) == 2
    for seed, failure in enumerate(failures):
        assert failure.startswith(f"out/runs/Toy/Failing/seed-{seed}: ")
        assert "capturable" in failure
    assert all(
        run.result["status"] == DONE for run in engine.finished_runs(form, TOY, ADAM, Path("out"))
    )
    assert engine.finished_runs(form, TOY, FAILING, Path("out")) == []


def test_nothing_is_reported_where_tuning_failed(trained):
    assert len(do(study=replace(STUDY, rows=(FAILING, ADAM)))) == 2
    assert len(trained) == 4
    assert not list(Path("out").rglob("seed-*"))


def test_a_rate_is_at_an_edge_of_those_tried():
    rates = (0.1, 0.3, 0.03)
    runs = [SimpleNamespace(config=SimpleNamespace(lr=lr)) for lr in rates]
    assert [results._at_edge(rates, run) for run in runs] == [False, True, True]
    assert not results._at_edge((0.1,), runs[0])


# -- results, by hand from run folders ------------------------------------------------------------


def seeds_of(row, *, form=FORM, column=TOY, lr=1e-3, runs=()):
    """Run folders of a row: for each seed (records, result)."""
    for seed, (records, result) in enumerate(runs):
        put(row, lr, seed, form=form, column=column, records=records, **result)


def line_of(row, study=STUDY, form=FORM, column=TOY):
    """What is known of a row."""
    return results.line_of(study, form, column, row, Path("out"))


TWO = [
    ([record(0, 0.1, test=0.2), record(10, 0.95, test=0.8), record(20, 0.9, test=0.4)],
     dict(test_metric=0.8, seconds=2.0)),
    ([record(0, 0.1, test=0.1), record(10, 0.2, test=0.3), record(20, 0.90, test=0.6)],
     dict(test_metric=0.6, seconds=4.0)),
]  # fmt: skip


def test_a_line_by_hand():
    seeds_of(ADAM, runs=TWO)
    # Test accuracies 80 and 60 %: mean 70, deviation 10 √2, half width t 10. Best looks 80 and 60.
    # The target, 90 %, is met after 10 and 20 gradients.
    assert line_of(ADAM) == pytest.approx(
        dict(
            data="Toy", method="Adam", metric="accuracy", published=50.0,
            ours=70, half_width_95=10 * T_2, lowest=60,
            highest=80, difference=20, best_of_run=70, optimizer="adam", lr=1e-3,
            at_edge=True, seeds=2, reached=2, target=90,
            gradient_evaluations_to_target=15, gradient_evaluations=20, seconds=3, diverged=0,
        )
    )  # fmt: skip
    assert tuple(line_of(ADAM)) == results.FIELDS


def test_the_best_of_a_run_is_its_best_test_metric_at_any_look():
    records = [record(0, 0.1, test=0.2), record(10, 0.95, test=0.7), record(20, 0.9, test=0.75)]
    seeds_of(ADAM, runs=[(records, dict(test_metric=0.7))])
    line = line_of(ADAM)
    assert (line["ours"], line["best_of_run"]) == (pytest.approx(70), pytest.approx(75))
    assert line["half_width_95"] is None  # of one seed
    records = [record(0, 9.0, test=9.0), record(10, 0.1, test=0.3), record(20, 0.2, test=0.25)]
    seeds_of(SGD, runs=[(records, dict(metric="mse", target=0.15, test_metric=0.3))])
    line = line_of(SGD)
    assert (line["ours"], line["best_of_run"], line["target"]) == (0.3, 0.25, 0.15)  # no percent
    assert (line["published"], line["difference"]) == (None, None)
    assert line["gradient_evaluations_to_target"] == 10


def test_without_watched_tests_there_is_no_best_of_the_run():
    seeds_of(ADAM, runs=[([record(0, 0.1)], {}), ([record(0, 0.1, test=0.5)], {})])
    assert line_of(ADAM)["best_of_run"] is None


@pytest.mark.parametrize(
    ("costs", "median", "cell"),
    [
        ([10, 20, None], 20, "20 (2/3)"),
        ([10, None, None], math.inf, "never (1/3)"),
        ([None, None, None], math.inf, "never (0/3)"),
        ([0, 10, 40], 10, "10 (3/3)"),
        ([10, None], math.inf, "never (1/2)"),
    ],
)
def test_evaluations_to_the_target_are_the_median(costs, median, cell):
    form = replace(FORM, seeds=tuple(range(len(costs))))
    histories = [
        [record(0, 0.95 if c == 0 else 0.1), *([record(c, 0.9)] if c else []), record(50, 0.3)]
        for c in costs
    ]
    seeds_of(ADAM, form=form, runs=[(records, {}) for records in histories])
    line = line_of(ADAM, form=form)
    assert line["gradient_evaluations_to_target"] == median
    assert line["reached"] == sum(c is not None for c in costs)
    assert cell in results.cells(line)


def test_a_target_of_the_column_goes_before_the_tasks():
    column = replace(TOY, target=0.95)
    form = replace(FORM, columns=(column,))
    seeds_of(ADAM, runs=TWO)
    line = line_of(ADAM, form=form, column=column)
    assert (line["target"], line["reached"]) == (pytest.approx(95), 1)
    assert line["gradient_evaluations_to_target"] == math.inf
    (table,) = results.tables_of(form, [line])
    assert table.title == "Toy (toy); target, on validation data: 95"


def test_accuracies_are_in_percent_only_where_the_study_is():
    seeds_of(ADAM, runs=TWO)
    line = line_of(ADAM, study=replace(STUDY, percent=False))
    assert (line["ours"], line["target"]) == (pytest.approx(0.7), 0.9)
    assert line["difference"] == pytest.approx(0.7 - 50)


def test_diverged_runs_are_counted_and_unfinished_ones_left_out():
    form = replace(FORM, seeds=(0, 1, 2, 3, 4))
    runs = [([record(0, 0.1)], dict(status=s)) for s in (
        "diverged", "running", "interrupted", "failed", "reached target",
    )]  # fmt: skip
    seeds_of(ADAM, form=form, runs=runs)
    line = line_of(ADAM, form=form)
    assert (line["seeds"], line["diverged"]) == (2, 1)
    assert "2 (1 diverged)" in results.cells(line)


def test_a_number_from_the_literature_has_no_runs():
    line = line_of(ELSEWHERE)
    known = {name: value for name, value in line.items() if value is not None}
    assert known == dict(data="Toy", method="Elsewhere (literature)", published=91.31)
    assert results.cells(line) == ["Elsewhere (literature)", "91.31"] + ["–"] * 8
    other = replace(TOY, label="Other")
    lines = results.lines_of(STUDY, replace(FORM, columns=(TOY, other)), Path("out"))
    assert [(line["data"], line["method"]) for line in lines] == [
        ("Toy", "Adam"), ("Toy", "SGD (plain)"), ("Toy", "Adam, 2 layers"),
        ("Toy", "Elsewhere (literature)"),
        ("Other", "Adam"), ("Other", "SGD (plain)"), ("Other", "Adam, 2 layers"),
    ]  # fmt: skip


def test_data_sets_without_a_finished_run_have_no_panel():
    seeds_of(ADAM, runs=TWO)
    form = replace(FORM, columns=(TOY, replace(TOY, label="Other")))
    drawn = results.figure(STUDY, form, Path("out"))
    assert [axis.get_title() for axis in drawn.axes] == ["Toy", ""]


def test_an_old_figure_does_not_stay_beside_a_table_without_runs():
    old = Path("out/figure.png")
    old.parent.mkdir(parents=True)
    old.write_bytes(b"old")
    results.write_results(STUDY, FORM, Path("out"))
    assert not old.exists()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_numbers_that_are_not_finite_are_shown_as_none_or_infinite(value):
    bad = dict(metric="mse", target=0.1, test_metric=value, status="diverged")
    good = dict(metric="mse", target=0.1, test_metric=0.5)
    seeds_of(ADAM, runs=[([record(0, 5.0), record(10, value, value)], bad),
                         ([record(0, 5.0), record(10, 3.0)], good)])  # fmt: skip
    line = line_of(ADAM)
    assert line["half_width_95"] is None
    shown = results.cells(line)
    assert shown[2] == ("–" if math.isnan(value) else "inf")
    assert (shown[6], shown[7]) == ("never (0/2)", "2 (1 diverged)")
    results.write_results(STUDY, FORM, Path("out"))
    assert "gradient_evaluations_to_target" in Path("out/results.csv").read_text()


def test_results_are_written_as_csv_markdown_and_figure():
    seeds_of(ADAM, runs=TWO)
    (table,) = results.write_results(STUDY, FORM, Path("out"))
    with Path("out/results.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert list(lines[0]) == list(results.FIELDS)
    assert [line["method"] for line in lines] == [row.label for row in STUDY.rows]
    ours = {k: v for k, v in lines[0].items() if v}
    assert ours == dict(
        data="Toy", method="Adam", metric="accuracy", published="50", ours="70",
        half_width_95=f"{10 * T_2:.6g}",
        lowest="60", highest="80", difference="20", best_of_run="70", optimizer="adam",
        lr="0.001", at_edge="True", seeds="2",
        reached="2", target="90", gradient_evaluations_to_target="15", gradient_evaluations="20",
        seconds="3",
        diverged="0",
    )  # fmt: skip
    assert {k: v for k, v in lines[1].items() if v} == dict(data="Toy", method="SGD (plain)")
    assert lines[3]["published"] == "91.31"
    text = Path("out/results.md").read_text()
    assert text.startswith("## frank-wolfe/toy: a toy\n")
    assert "The paper: it is a toy." in text
    assert "- Toys are small." in text
    assert "(figure.png)" in text
    ours = f"70.00 ± {10 * T_2:.2f}"
    expected = f"| Adam | 50.00 | {ours} | +20.00 | 70.00 | 0.001* | 15 (2/2) | 2 | 20 | 3 |"
    assert expected in text.splitlines()
    assert table.rows[0] == expected.strip("| ").split(" | ")
    assert table.to_markdown() in text
    assert len({line.count("|") for line in text.splitlines() if line.startswith("|")}) == 1
    assert Path("out/figure.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in Path("out").iterdir()) == [
        "figure.png", "results.csv", "results.md", "runs",
    ]  # fmt: skip


def test_errors_have_four_digits_and_accuracies_two():
    seeds_of(ADAM, runs=[([record(0, 5.0)], dict(metric="mse", target=0.01, test_metric=0.01234))])
    assert results.cells(line_of(ADAM))[2] == "0.0123"


def test_without_runs_there_is_a_table_and_no_figure():
    Path("out").mkdir()
    (table,) = results.write_results(STUDY, FORM, Path("out"))
    assert [row[0] for row in table.rows] == [row.label for row in STUDY.rows]
    assert "figure.png" not in Path("out/results.md").read_text()
    assert not Path("out/figure.png").exists()


@pytest.mark.parametrize("name", ["results.csv", "results.md", "figure.png"])
def test_results_are_whole_or_the_old_ones(monkeypatch, name):
    seeds_of(ADAM, runs=TWO)
    results.write_results(STUDY, FORM, Path("out"))
    before, rename = (Path("out") / name).read_bytes(), os.replace

    def full(source, target):
        if Path(target).name == name:
            raise OSError(28, "No space left on device")
        rename(source, target)

    monkeypatch.setattr(os, "replace", full)
    study = replace(STUDY, title="another", rows=(ADAM, HIDDEN))
    with pytest.raises(OSError, match="No space"):
        results.write_results(study, FORM, Path("out"))
    assert (Path("out") / name).read_bytes() == before
    assert len(list(Path("out").iterdir())) == 4  # with the runs


def labels_of(axis):
    """The labels of an axis' lines."""
    return [line.get_label() for line in axis.lines]


def curve(*metrics):
    """A history with a look every ten evaluations."""
    return [record(10 * i, m, test=m / 2) for i, m in enumerate(metrics)]


def test_the_figure_has_a_line_for_every_row_that_is_shown():
    other = replace(TOY, label="Other")
    form = replace(FORM, columns=(TOY, other))
    for column in form.columns:
        for row in (ADAM, SGD, HIDDEN):
            runs = [(curve(0.1, 0.2, 0.4), {})] * 2
            seeds_of(row, column=column, form=form, runs=runs)
    drawn = results.figure(STUDY, form, Path("out"))
    axes = drawn.axes
    assert len(axes) == 4
    for axis in axes:
        assert labels_of(axis) == ["Adam", "SGD (plain)"]  # the third is not shown
    (legend,) = drawn.legends
    assert [text.get_text() for text in legend.get_texts()] == ["Adam", "SGD (plain)"]
    assert [axis.get_title() for axis in axes[:2]] == ["Toy", "Other"]
    assert list(axes[2].lines[0].get_ydata()) == pytest.approx([0.1, 0.2, 0.4])
    assert axes[2].get_ylabel() == "validation accuracy"
    assert axes[2].get_xlabel() == "gradient evaluations"
    tested = results.figure(replace(STUDY, curve="test_metric"), form, Path("out"))
    assert list(tested.axes[2].lines[0].get_ydata()) == pytest.approx([0.05, 0.1, 0.2])
    assert tested.axes[2].get_ylabel() == "test accuracy"


def test_a_row_keeps_its_colour_where_another_is_missing():
    other = replace(TOY, label="Other")
    form = replace(FORM, columns=(TOY, other))
    for column, rows in ((TOY, (ADAM, SGD)), (other, (SGD,))):
        for row in rows:
            seeds_of(row, column=column, form=form, runs=[(curve(0.1, 0.2), {})])
    axes = results.figure(STUDY, form, Path("out")).axes
    assert labels_of(axes[3]) == ["SGD (plain)"]
    assert axes[3].lines[0].get_color() == axes[2].lines[1].get_color()
    assert axes[3].lines[0].get_color() != axes[2].lines[0].get_color()


def test_a_form_of_rows_that_are_not_shown_is_drawn_all_the_same():
    form = replace(FORM, rows=("Adam, 2 layers",))
    seeds_of(HIDDEN, form=form, runs=[(curve(0.1, 0.2), {})])
    assert labels_of(results.figure(STUDY, form, Path("out")).axes[1]) == ["Adam, 2 layers"]


def test_a_data_set_without_runs_and_a_run_of_one_look_make_a_figure_too():
    form = replace(FORM, columns=(TOY, replace(TOY, label="Other")))
    seeds_of(ADAM, form=form, runs=[([record(0, 0.1)], {})])
    results.write_results(STUDY, form, Path("out"))
    assert Path("out/figure.png").read_bytes().startswith(b"\x89PNG")


# -- table 1 --------------------------------------------------------------------------------------


def missing():
    """Stands in for a task whose files are not there."""
    raise UserError("the windows need a file: put one there.")


def reproduced(name, form="quick", out=None, stop=None, tell=silent):
    """A table or figure done with one worker."""
    with Engine(1) as engine:
        stop = stop or threading.Event()
        return reproduce.reproduce(PAPER + name, form, out, engine, tell, stop)


def test_table_1_names_what_is_missing_with_the_reason(monkeypatch):
    monkeypatch.setitem(TASKS, "har2", missing)
    out, (table,), failures = reproduced("table-1", "cpu")
    assert (out, failures) == (Path("runs/reproduce/frank-wolfe/table-1-cpu"), [])
    by_data = {row[0]: row[1:] for row in table.rows}
    assert len(by_data) == 6
    assert by_data["HAR-2"] == ["7352, 2947, 128, 9", "not here", "–", "–"]
    assert {len(row) for row in table.rows} == {len(table.headings)}
    # The stand-ins have 24 + 8 and 12 sequences.
    assert by_data["Noisy-HAR-2"][1] == "24 + 8, 12, 128, 9"
    assert by_data["Pixel-MNIST"][:2] == ["60000, 10000, 784, 1", "24 + 8, 12, 784, 1"]
    assert by_data["HAPT windows (not in the paper)"][0] == "–"
    reason = "HAR-2 is not here: the windows need a file: put one there."
    assert reason in table.remarks
    assert f"- {reason}" in (out / "results.md").read_text().splitlines()
    with (out / "results.csv").open() as file:
        assert list(csv.reader(file)) == [list(table.headings), *map(list, table.rows)]


def test_table_1_has_moments_and_the_majority_by_hand(monkeypatch):
    # Inputs 1 and 3: mean 2, deviation √2. Targets 1 1 1 0: the majority is 75 %.
    train = Examples(torch.tensor([[[1.0]], [[3.0]]]), torch.tensor([[0.0], [1.0]]))
    test = Examples(torch.zeros(4, 1, 1), torch.tensor([[1.0], [1.0], [1.0], [0.0]]))
    task = Task("hapt2", "", 1, 1, "binary-mse", 0.9, train, train, test, 2)
    monkeypatch.setitem(TASKS, "hapt2", lambda: task)
    _, (table,), _ = reproduced("table-1")
    assert [row[0] for row in table.rows] == [
        "HAPT windows (not in the paper)", "noisy HAPT windows (not in the paper)"
    ]  # fmt: skip
    assert list(table.rows[0][2:]) == ["2 + 2, 4, 1, 1", "2.000, 1.414", "75.00 %"]


# -- the angle ------------------------------------------------------------------------------------


@pytest.fixture
def measured(monkeypatch, short):
    """What was measured: (task, inner steps, ball) of every call, of 20 gradients each."""
    calls, measure = [], a5_angle.measure

    def counted(task, budget, inner_steps, ball, stop):
        calls.append((task, inner_steps, ball))
        return measure(task, budget, inner_steps, ball, stop)

    monkeypatch.setattr(a5_angle, "measure", counted)
    forms = {form: (task, "20gradients") for form, (task, _) in a5_angle.FORMS.items()}
    monkeypatch.setattr(a5_angle, "FORMS", forms)
    return calls


def test_the_angle_of_one_inner_step_in_one_ball_is_zero(measured):
    out, (table,), failures = reproduced("a5-angle")
    assert failures == []
    assert {(k, ball) for _, k, ball in measured} == {
        (k, ball) for k in (1, 5, 10) for ball in ("global", "tensor")
    }  # fmt: skip
    rows = {row[0]: row for row in table.rows}
    assert len(rows) == 7
    assert rows["printed (K, ball not given)"][1:3] == ["-4.19 (signed)", "0.51"]
    assert rows["K=1, one ball"][1:5] == ["0.00", "0.00", "0.0", "100.0"]
    assert float(rows["K=1, one ball a tensor"][1]) > 1
    assert float(rows["K=5, one ball"][1]) > 1
    # 20 gradients are 20, 4 and 2 steps of K = 1, 5, 10.
    assert [rows[f"K={k}, one ball"][6] for k in (1, 5, 10)] == ["20", "4", "2"]
    saved = json.loads(next(out.glob("angles-*-K1-global-*.json")).read_text())
    assert max(saved["angles"]) < 0.01
    assert len(saved["ratios"]) == 20
    assert (out / "figure.png").read_bytes().startswith(b"\x89PNG")


def test_angles_by_hand_from_saved_files(measured):
    # 30° and 60°: mean 45, deviation 30/√2, half of them at most 45°. Ratios 1, 2, 9: median 2.
    out = Path("out")
    out.mkdir()
    for inner_steps in (1, 5, 10):
        for ball in ("global", "tensor"):
            values = dict(angles=[30.0, 60.0], ratios=[1.0, 9.0, 2.0], best=0.5)
            task = a5_angle.FORMS["quick"][0]
            for name in (f"{task}-K{inner_steps}-{ball}-20gradients",):
                (out / f"angles-{name}.json").write_text(json.dumps(values))
    _, (table,), _ = reproduced("a5-angle", out=out)
    assert measured == []
    row = ["45.00", f"{30 / math.sqrt(2):.2f}", "60.0", "50.0", "2", "2"]
    assert all(list(found[1:]) == row for found in table.rows[1:])


def test_angles_are_measured_once(measured):
    reproduced("a5-angle")
    measured.clear()
    reproduced("a5-angle")
    assert measured == []


def test_an_interrupted_measurement_keeps_what_is_whole(measured, monkeypatch):
    stop, counted = threading.Event(), a5_angle.measure

    def interrupted(*arguments):
        if len(measured) == 2:
            stop.set()
        return counted(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(a5_angle, "measure", interrupted)
        out, tables, failures = reproduced("a5-angle", stop=stop)
    assert (tables, failures) == ([], [])
    kept = list(out.iterdir())
    assert len(kept) == 2
    assert all(json.loads(path.read_text())["angles"] for path in kept)
    measured.clear()
    _, tables, _ = reproduced("a5-angle")
    assert len(measured) == 4
    assert len(tables) == 1


def test_angles_of_one_form_are_not_taken_for_anothers(measured):
    # Both forms train as long, one on the re-cut windows and one on the originals.
    reproduced("a5-angle", "cpu", out=Path("out"))
    measured.clear()
    _, (table,), _ = reproduced("a5-angle", "full", out=Path("out"))
    assert {task for task, _, _ in measured} == {"har2"}
    assert "har2" in table.title


# -- the grid -------------------------------------------------------------------------------------


def test_the_grid_trains_every_setting_once_and_writes_a_map(short, trained):
    out, (table,), failures = reproduced("grid")
    assert failures == []
    form = grid.GRID.forms["quick"]
    assert len(trained) == len(table.rows) == 2 * len(form.rates)
    for row in table.rows:
        assert re.fullmatch(r"batch (32|64), decay 0\.5, lr 0\.(0006|001)", row[0])
        assert row[2] == "out of budget"
    assert (out / "figure.png").read_bytes().startswith(b"\x89PNG")
    text = (out / "results.md").read_text()
    assert "frank-wolfe/grid" in text
    trained.clear()
    reproduced("grid")
    assert trained == []


def test_the_best_setting_of_the_grid_comes_first(monkeypatch, short):
    # In percent 100, 95, 9.5 and one that diverged before it was looked at.
    out, form = Path("out"), grid.GRID.forms["quick"]
    column, rows = form.columns[0], engine.chosen_rows(grid.GRID, form)
    pairs = [(row, rate) for row in rows for rate in form.rates]
    for (row, rate), best in zip(pairs, (0.095, 1.0, math.nan, 0.95), strict=True):
        found = {} if math.isnan(best) else dict(gradient_evaluations=0, validation_metric=best)
        status = "diverged" if math.isnan(best) else DONE
        put(row, rate, seeds.TUNING, out, form=form, column=column, best=found, status=status)
    _, (table,), _ = reproduced("grid", out=out)
    assert [row[1] for row in table.rows] == ["100.00", "95.00", "9.50", "nan"]
    assert table.rows[0][0] == f"{rows[0].label}, lr {form.rates[1]:g}"


def test_of_level_settings_of_the_grid_that_of_the_least_loss_comes_first(monkeypatch, short):
    out, form = Path("out"), grid.GRID.forms["quick"]
    column, rows = form.columns[0], engine.chosen_rows(grid.GRID, form)
    pairs = [(row, rate) for row in rows for rate in form.rates]
    for (row, rate), loss in zip(pairs, (0.4, 0.2, 0.1, 0.3), strict=True):
        best = dict(gradient_evaluations=0, validation_metric=0.9, validation_loss=loss)
        put(row, rate, seeds.TUNING, out, form=form, column=column, best=best)
    _, (table,), _ = reproduced("grid", out=out)
    order = [pairs[i] for i in (2, 1, 3, 0)]
    assert [row[0] for row in table.rows] == [f"{row.label}, lr {rate:g}" for row, rate in order]


def test_a_grid_that_failed_everywhere_tells_why(monkeypatch, short):
    def failing(*_, **__):
        raise RuntimeError("no memory")

    monkeypatch.setattr(runner, "run", failing)
    _, _, failures = reproduced("grid")
    assert len(failures) == 4
    assert all(failure.endswith(": no memory") for failure in failures)


def test_an_interrupted_grid_goes_on(short, trained, monkeypatch):
    stop = threading.Event()
    with monkeypatch.context() as patch:
        interrupt(patch, 2, stop.set)
        _, tables, failures = reproduced("grid", stop=stop)
    assert (tables, failures) == ([], [])
    assert len(trained) == 2
    trained.clear()
    _, (table,), _ = reproduced("grid")
    assert len(trained) == 3  # the interrupted one and two that had not begun
    assert len(table.rows) == 4


# -- the command ----------------------------------------------------------------------------------


@pytest.fixture
def toy(monkeypatch):
    """The toy study as a table of the paper; its name."""
    monkeypatch.setitem(reproduce.BY_NAME, STUDY.name, STUDY)
    return STUDY.name


def test_the_command_prints_the_tables(command, toy, trained):
    code, out, error = command("reproduce", toy, "--quick", "--workers", 1)
    assert code == 0, error
    for row in STUDY.rows:
        assert re.search(rf"^│ {re.escape(row.label)} +│", out, re.MULTILINE)
    for heading in results.HEADINGS:
        assert heading in out
    assert "91.31" in out
    folder = Path("runs/reproduce/frank-wolfe/toy-quick")
    assert out.splitlines()[-1] == f"results in {folder}"
    assert (folder / "results.md").exists()
    assert "6 of 6 runs" in error  # the bars are no part of the result
    trained.clear()
    assert command("reproduce", toy, "--form", "quick")[:2] == (0, out)
    assert trained == []
    assert command("reproduce", toy)[0] == 0
    assert Path("runs/reproduce/frank-wolfe/toy-cpu").is_dir()  # which is the default


@pytest.mark.parametrize("columns", ["60", "80", "139", "140"])
def test_printed_tables_fit_the_terminal(command, toy, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setitem(reproduce.BY_NAME, toy, replace(
        STUDY, forms={"quick": replace(FORM, rates=(0.01,), rows=("Adam",))}
    ))  # fmt: skip
    code, out, _ = command("reproduce", toy, "--quick")
    assert code == 0
    table = [line for line in out.splitlines() if line[:1] in "┏┃┡│└"]
    assert table
    assert all(len(line) <= int(columns) for line in table)
    assert ("difference" in out) == (int(columns) >= 140)


def test_ctrl_c_ends_with_130_and_the_same_command_continues(command, toy, monkeypatch, trained):
    repeat = ("reproduce", toy, "--quick", "--workers", 1)
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with monkeypatch.context() as patch:
        interrupt(patch, 8, lambda: os.kill(os.getpid(), signal.SIGINT))
        code, out, error = command(*repeat)
    assert code == 130, error
    assert out.splitlines()[-1] == "interrupted; the same command continues it."
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert len(trained) == 8
    trained.clear()
    assert command(*repeat)[0] == 0
    assert len(trained) == 5  # of 12, and the interrupted one again
    do(out=Path("whole"))
    assert histories("runs/reproduce/frank-wolfe/toy-quick") == histories("whole")


def test_a_failure_is_told_and_has_exit_code_1(command, toy, monkeypatch):
    study = replace(
        STUDY, rows=(FAILING, ADAM), forms={"quick": replace(FORM, rates=(0.01,), seeds=(0,))}
    )
    monkeypatch.setitem(reproduce.BY_NAME, toy, study)
    code, out, error = command("reproduce", toy, "--quick")
    assert code == 1
    assert re.search(r"^failed: .*Failing/seed-0: .*capturable", error, re.MULTILINE)
    assert "Traceback" not in error
    assert re.search(r"│ Adam +│ 50\.00 +│ \d", out)
    assert re.search(r"│ Failing +│ – +│ – ", out)


def test_an_out_folder_that_cannot_be_made_is_refused(command, toy):
    Path("file").write_text("in the way")
    code, _, error = command("reproduce", toy, "--quick", "--out", "file")
    assert code == 2
    assert "cannot write file" in error
    assert "Traceback" not in error


def test_data_that_are_not_there_are_told_in_one_sentence(command, monkeypatch):
    monkeypatch.setitem(TASKS, "hapt2", missing)
    code, _, error = command("reproduce", "frank-wolfe/table-3", "--quick")
    assert code == 2
    assert "the windows need a file" in error
    assert "Traceback" not in error


# Figures 5 and 6 have the forms of tables 2 and 3.
@pytest.mark.parametrize(
    "name",
    partly(
        [n for n in NAMES if not getattr(reproduce.BY_NAME[n], "runs", "")],
        [PAPER + "table-1", PAPER + "table-2", "asnaq/table-1", "admm/figure-2", "admm/table-2"],
    ),
)
def test_the_quick_form_of_every_table_and_figure_ends_well(command, short, measured, name):
    code, out, error = command("reproduce", name, "--quick", "--out", "out")
    assert code == 0, error
    assert "results in out" in out
    assert Path("out/results.csv").read_text().count("\n") > 2
    assert Path("out/results.md").read_text().startswith(f"## {name}: ")
    assert Path("out/figure.png").exists() == (
        name not in ("frank-wolfe/table-1", "admm/table-2", "admm/table-3")
    )


# -- in processes of their own, on the real data --------------------------------------------------

DATA = Path(os.environ.get("RNNOPT_DATA") or "/nonexistent")
real = pytest.mark.skipif(
    not (DATA / "har" / "har.npz").is_file(),
    reason="needs RNNOPT_DATA to name a folder that has har/har.npz",
)


@pytest.mark.parametrize("name", [pytest.param("grid", marks=real)])
@pytest.mark.process
@pytest.mark.full
def test_the_quick_form_ends_well_in_worker_processes(workplace, name):
    data = str(DATA) if DATA.is_dir() else ""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "rnnopt", "reproduce", PAPER + name, "--quick"]
        + ["--workers", "1"],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "RNNOPT_DATA": data},
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert f"results in runs/reproduce/{PAPER}{name}-quick" in done.stdout
    written = {path.name for path in Path(f"runs/reproduce/{PAPER}{name}-quick").iterdir()}
    assert written == {"figure.png", "results.csv", "results.md", "runs"}
