"""What the command line promises for a user's own data: train, resume, compare, inspect, predict.

The readers are promised in test_readers.py, `export` in test_export.py. Accuracies on the UCR
archive are measured in docs/own-data.md.
"""

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest
from cases import partly

from rnnopt.config.data_files import data_name
from rnnopt.config.errors import UserError
from rnnopt.config.run_config import RunConfig, SharedConfig
from rnnopt.experiments.jobs import plan_jobs
from rnnopt.runs.folder import RunFolder
from rnnopt.runs.runner import run as run_one

REAL = Path(os.environ.get("RNNOPT_DATA", ""), "ucr")
TINY = ["--hidden", "4", "--budget", "30gradients", "--optimizer", "adam:lr=0.02", "--quiet"]


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path


def write_waves(path, count=60, seed=0, labelled=True):
    """Rising and falling series of 12 steps, as text without names."""
    generator = np.random.default_rng(seed)
    rows = []
    for i in range(count):
        slope = 1.0 if i % 2 else -1.0
        values = 50 + slope * np.arange(12) + generator.normal(size=12)
        label = ["rise" if i % 2 else "fall"] if labelled else []
        rows.append(",".join([*label, *(f"{value:.4f}" for value in values)]))
    Path(path).write_text("\n".join(rows) + "\n")


@pytest.fixture
def waves(workplace):
    write_waves("waves.csv")
    return workplace / "waves.csv"


@pytest.fixture
def run(waves, command):
    code, _, error = command("train", "--data", "waves.csv", "--out", "run", *TINY)
    assert code == 0, error
    return Path("run")


def assert_refused(result, *words):
    code, out, error = result
    assert (code, out) == (2, ""), error
    assert error.strip().count("\n") == 0, error
    for word in words:
        assert word in error


# -- train, resume, compare -----------------------------------------------------------------------


def test_train_says_what_it_understood_before_it_trains(waves, command):
    code, out, _ = command("train", "--data", "waves.csv", "--out", "run", *TINY[:-1])
    assert code == 0
    assert out.index("38 training, 10 validation, 12 test") < out.index("test accuracy")
    for words in ("12, all alike", "2 classes", "fall: 19 (50%), rise: 19 (50%)", "none"):
        assert words in out


def test_the_folder_keeps_what_predicting_needs(run, waves):
    data = json.loads((run / "data.json").read_text())
    assert data["sources"]["data"]["path"] == str(waves)
    assert len(data["sources"]["data"]["sha256"]) == 64
    assert data["preparation"]["classes"] == ["fall", "rise"]
    assert data["preparation"]["mean"][0] == pytest.approx(50, abs=2)
    assert data["model"]["input_size"] == 1
    assert RunFolder.open(run).read_config().task == "waves"
    assert RunFolder.open(run).read_result()["test_metric"] > 0.9


def test_the_config_alone_repeats_the_run(run, command):
    saved = RunConfig.from_dict(json.loads((run / "config.json").read_text()))
    assert saved.data is not None
    again = ["train", "--data", saved.data, "--out", "again", *TINY]
    assert command(*again)[0] == 0
    results = [RunFolder.open(Path(p)).read_result() for p in ("run", "again")]
    assert results[0]["test_loss"] == results[1]["test_loss"]


def test_resume_refuses_a_file_that_has_changed(run, command):
    result = RunFolder(run).read_result()
    RunFolder(run).write_result(result | {"status": "interrupted"})
    assert command("train", "--out", run, "--resume", "--quiet")[0] == 0
    RunFolder(run).write_result(result | {"status": "interrupted"})
    write_waves("waves.csv", seed=1)
    assert_refused(
        command("train", "--out", run, "--resume"), "waves.csv has changed since the run", "sha256"
    )


def test_compare_takes_data_too(waves):
    announced = []
    shared = SharedConfig(data="waves.csv", hidden=4, budget="6gradients")
    jobs = plan_jobs(
        shared, ["adam", "sgd"], [0, 1], Path("c"), False, lambda task, told: announced.append(task)
    )
    assert [job.config.optimizer for job in jobs] == ["adam", "sgd"] * 2
    assert announced[0].name == "waves"
    run_one(jobs[0].config, jobs[0].path)
    again = plan_jobs(shared, ["adam", "sgd"], [0, 1], Path("c"), True)
    assert again == jobs
    write_waves("waves.csv", seed=1)
    with pytest.raises(UserError, match="waves.csv has changed"):
        plan_jobs(shared, ["adam", "sgd"], [0, 1], Path("c"), True)


def test_a_test_file_takes_the_place_of_the_split(waves, command):
    write_waves("other.csv", count=14, seed=3)
    code, out, _ = command(
        "train", "--data", "waves.csv", "--test", "other.csv", "--out", "run", *TINY[:-1]
    )
    assert code == 0
    assert "48 training, 12 validation, 14 test" in out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--data", "none.csv"], ["none.csv does not exist"]),
        (["--data", "waves.csv", "--task", "adding"], ["--data takes the place of --task"]),
        (["--test", "waves.csv"], ["test needs --data"]),
        (["--missing", "mean"], ["--missing needs --data, got none."]),
        (["--data", "waves.csv", "--validation", "1"], ["validation must be in (0, 1), got 1.0"]),
        (["--data", "waves.csv", "--subsample", "0"], ["subsample must be at least 1"]),
        (["--data", "waves.csv", "--kind", "regression"], ["regression needs numbers", "'fall'"]),
        (
            ["--data", "gap.csv"],
            [
                "are missing in",
                "the first in series",
                "choose --missing zero, mean or interpolate, or --padded",
            ],
        ),
    ],
)
def test_bad_input_is_refused_and_leaves_nothing(waves, command, options, words):
    cells = waves.read_text().splitlines()
    Path("gap.csv").write_text("\n".join(cells + ["rise,1,?,3"] * 9))
    assert_refused(command("train", *options, "--out", "run", *TINY), *words)
    assert not Path("run").exists()


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/a/CricketX_TRAIN.tsv", "CricketX"),
        ("/a/my set/train.npz", "my-set"),
        ("/a/heart rate.csv", "heart-rate"),
        ("/train.npz", "data"),
    ],
)
def test_the_task_is_called_after_the_file(path, name):
    assert data_name(path) == name


def test_a_config_of_data_checks_its_choices():
    with pytest.raises(UserError, match="unknown missing 'drop'"):
        RunConfig(data="a.csv", missing="drop")  # type: ignore[arg-type]


# -- inspect --------------------------------------------------------------------------------------


def test_inspect_prints_a_table_and_draws(waves, command):
    code, out, _ = command("inspect", "waves.csv")
    assert code == 0
    for words in (
        "60",
        "12, all alike",
        "fall: 30 (50%)",
        "deviation",
        "right in 50.0 %",
        "wrote waves.png",
    ):
        assert words in out
    assert Path("waves.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize(
    "kind",
    partly(["regression", "lengths", "unlabelled", "many classes", "gaps"], ["lengths", "gaps"]),
)
def test_inspect_draws_whatever_there_is(command, kind):
    generator = np.random.default_rng(0)
    x, arrays = generator.normal(size=(50, 9, 2)), {}
    if kind == "lengths":
        arrays["lengths"] = generator.integers(3, 10, 50)
    if kind == "gaps":
        x[3], x[5, 2, 1] = np.nan, np.nan
    if kind != "unlabelled":
        arrays["y"] = generator.random(50) if kind == "regression" else np.arange(50) % 15
    np.savez("a.npz", X=x, **arrays)
    code, out, error = command("inspect", "a.npz", "--out", "pictures/a.svg")
    assert code == 0, error
    assert "wrote pictures/a.svg" in out
    assert ("19 (2.11%) in 2 series" in out) == (kind == "gaps")


@pytest.mark.parametrize("file", ["train.csv", "arrays.v1", "waves_TRAIN.csv"])
def test_inspect_names_the_picture_after_the_file(waves, command, file):
    if file == "arrays.v1":
        Path(file).mkdir()
        np.save(Path(file, "X.npy"), np.random.default_rng(0).normal(size=(20, 5, 1)))
        np.save(Path(file, "y.npy"), np.arange(20) % 2)
    else:
        Path("waves.csv").rename(file)
    code, out, error = command("inspect", file)
    picture = f"{file.removesuffix('.csv')}.png"
    assert (code, error, out.splitlines()[-1]) == (0, "", f"wrote {picture}")
    assert Path(picture).exists()


def test_inspect_refuses_what_it_cannot_write(waves, command):
    code, _, error = command("inspect", "waves.csv", "--out", "a.doc")
    assert code == 2
    assert "a.doc must end in .png" in error


# -- predict --------------------------------------------------------------------------------------


def predictions(path="predictions.csv"):
    return list(csv.DictReader(Path(path).read_text().splitlines()))


def test_predict_answers_as_the_run_was_tested(run, command):
    write_waves("new.csv", count=20, seed=5)
    code, out, error = command("predict", run, "--data", "new.csv")
    assert code == 0, error
    found = predictions()
    assert [row["label"] for row in found[:2]] == ["fall", "rise"]
    right = sum(row["label"] == row["predicted"] for row in found) / 20
    assert f"accuracy {right:.4f}" in out
    for row in found:
        chances = {n: float(row[f"probability of {n}"]) for n in ("fall", "rise")}
        assert sum(chances.values()) == pytest.approx(1, abs=1e-5)
        assert max(chances, key=chances.__getitem__) == row["predicted"]


def test_the_test_file_scores_as_in_training(waves, command):
    write_waves("other.csv", count=14, seed=3)
    command("train", "--data", "waves.csv", "--test", "other.csv", "--out", "run", *TINY)
    result = RunFolder.open(Path("run")).read_result()
    _, out, _ = command("predict", "run", "--data", "other.csv")
    assert f"accuracy {result['test_metric']:.4f}" in out
    assert f"log loss {result['test_loss']:.4f}" in out


def test_unlabelled_series_get_the_same_answers(run, command):
    write_waves("new.csv", count=8, seed=5)
    write_waves("bare.csv", count=8, seed=5, labelled=False)
    command("predict", run, "--data", "new.csv", "--out", "a.csv")
    code, out, _ = command("predict", run, "--data", "bare.csv", "--out", "b.csv")
    assert code == 0
    assert "accuracy" not in out
    labelled, bare = predictions("a.csv"), predictions("b.csv")
    for row in labelled:
        del row["label"]
    assert labelled == bare


def write_table(path, order, count=40):
    """A wide table of rising and falling series, with a gap at the end of every other one."""
    generator = np.random.default_rng(0)
    lines = [",".join(order)]
    for i in range(count):
        slope = 1.0 if i % 2 else -1.0
        cells = {f"s{t}": f"{slope * t + generator.normal():.4f}" for t in range(6)}
        cells |= {"s5": ""} if i % 4 < 2 else {}
        cells["slope"] = str(slope + 0.01 * i)
        lines.append(",".join(cells[name] for name in order))
    Path(path).write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("label", [[], ["--label", "slope"]])
def test_predict_finds_steps_and_label_by_name(command, label):
    steps = [f"s{t}" for t in range(6)]
    write_table("data.csv", ["slope", *steps])
    options = ["--data", "data.csv", "--out", "run", "--padded", *label, *TINY]
    code, _, error = command("train", *options)
    assert code == 0, error
    orders = {"same": ["slope", *steps], "other": [*steps[::-1], "slope"], "bare": steps[::-1]}
    answers = {}
    for name, order in orders.items():
        write_table(f"{name}_in.csv", order)
        code, out, error = command("predict", "run", "--data", f"{name}_in.csv")
        assert code == 0, error
        assert ("root mean squared error" in out) == (name != "bare")
        answers[name] = [row["predicted"] for row in predictions()]
    assert answers["same"] == answers["other"] == answers["bare"]
    write_table("less.csv", steps[:-1])
    assert_refused(command("predict", "run", "--data", "less.csv"), "lacks 's5'")
    text = Path("same_in.csv").read_text().splitlines()
    lines = [
        "grade," + text[0].partition(",")[2],
        *("a," + row.partition(",")[2] for row in text[1:]),
    ]
    Path("renamed.csv").write_text("\n".join(lines))
    words = ("column 'grade'", "give it the name that it has in the training data")
    assert_refused(command("predict", "run", "--data", "renamed.csv"), *words)


def test_regression_comes_back_in_its_own_units(command):
    generator = np.random.default_rng(0)
    y = generator.uniform(1000, 3000, 80)
    x = y[:, None, None] / 500 + 0.1 * generator.normal(size=(80, 6, 1))
    np.savez("r.npz", X=x, y=y)
    options = ["--hidden", "8", "--budget", "300gradients", "--optimizer", "adam:lr=0.02"]
    assert command("train", "--data", "r.npz", "--out", "run", "--quiet", *options)[0] == 0
    _, out, _ = command("predict", "run", "--data", "r.npz")
    found = np.array([[float(row["label"]), float(row["predicted"])] for row in predictions()])
    np.testing.assert_allclose(found[:, 0], y)
    error = np.sqrt(np.mean((found[:, 0] - found[:, 1]) ** 2))
    assert error < 300  # of a deviation of 580
    assert "root mean squared error" in out
    assert "R²" in out


def test_labels_that_are_no_class_of_the_run_are_told(run, command):
    write_waves("new.csv", count=4, seed=5)
    rows = Path("new.csv").read_text()
    Path("new.csv").write_text(rows.replace("fall", "left", 1))
    _, out, _ = command("predict", run, "--data", "new.csv")
    assert "1 labels are none of the run's classes: they count as wrong." in out
    Path("new.csv").write_text(rows.replace("fall", "left").replace("rise", "right"))
    assert_refused(command("predict", run, "--data", "new.csv"), "no label", "--unlabelled")


def test_predict_refuses_other_runs_and_other_shapes(run, command):
    assert_refused(command("predict", "nowhere", "--data", "waves.csv"), "must be a run folder")
    np.savez("wide.npz", X=np.ones((3, 12, 2)))
    assert_refused(
        command("predict", run, "--data", "wide.npz"), "need 1 channels, as in training, got 2"
    )
    assert not Path("predictions.csv").exists()
    command("train", "--task", "digits-rows", "--out", "digits", *TINY)
    assert_refused(
        command("predict", "digits", "--data", "waves.csv"), "data of your own", "digits-rows"
    )


@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_a_network_that_answers_at_every_step_is_tested_as_it_predicts(command, kind):
    # Only the last two true steps tell the target, so that the mean over steps is much worse.
    generator = np.random.default_rng(0)
    lengths = generator.integers(6, 12, 60)
    x, y = generator.normal(size=(60, 12, 1)), np.arange(60) % 2
    for one, length, target in zip(x, lengths, y, strict=True):
        one[length - 2 : length] += 4 * target
    np.savez("a.npz", X=x[:40], y=y[:40], lengths=lengths[:40])
    np.savez("b.npz", X=x[40:], y=y[40:], lengths=lengths[40:])
    options = ["--kind", kind, "--test", "b.npz", "--readout", "every", "--out", "run", *TINY]
    code, _, error = command("train", "--data", "a.npz", *options)
    assert code == 0, error
    result = RunFolder.open(Path("run")).read_result()
    _, out, _ = command("predict", "run", "--data", "b.npz")
    if kind == "classification":
        assert f"accuracy {result['test_metric']:.4f}" in out
        assert f"log loss {result['test_loss']:.4f}" in out
        return
    deviation = json.loads(Path("run/data.json").read_text())["preparation"]["target_deviation"][0]
    assert f"squared error {result['test_loss'] ** 0.5 * deviation:.4f}" in out


@pytest.mark.parametrize("out", ["new.csv", "waves.csv", "./waves.csv"])
def test_predict_writes_over_nothing_that_is_read(run, command, out):
    write_waves("new.csv", count=8, seed=5)
    before = [Path(name).read_text() for name in ("new.csv", "waves.csv")]
    result = command("predict", run, "--data", "new.csv", "--out", out)
    assert_refused(result, "--out must not be", "which is read")
    assert [Path(name).read_text() for name in ("new.csv", "waves.csv")] == before
    assert_refused(command("predict", run, "--data", "new.csv", "--out", "a.npz"), "end in .csv")


def test_predict_with_a_run_that_is_not_over_says_how_to_finish_it(run, command):
    (run / "best.pt").unlink()
    result = RunFolder(run).read_result()
    RunFolder(run).write_result(result | {"status": "interrupted"})
    refused = command("predict", run, "--data", "waves.csv")
    assert_refused(refused, "(status: interrupted)", "rnnopt train --resume --out run")
    assert command("train", "--resume", "--out", "run", "--quiet")[0] == 0
    assert command("predict", run, "--data", "waves.csv")[0] == 0


# -- real data ------------------------------------------------------------------------------------


@pytest.mark.skipif(not REAL.is_dir(), reason="RNNOPT_DATA has no ucr")
def test_japanese_vowels_are_learnt_from_the_archives_own_files(command):
    data, test = (REAL / "JapaneseVowels" / f"JapaneseVowels_{p}.ts" for p in ("TRAIN", "TEST"))
    options = ["--model", "gru", "--hidden", "32", "--budget", "8epochs", "--quiet"]
    code, _, _ = command("train", "--data", data, "--test", test, "--out", "run", *options)
    assert code == 0
    assert RunFolder.open(Path("run")).read_result()["test_metric"] > 0.9


@pytest.mark.parametrize(("steps", "warned"), [(12, False), (13, False), (30, True), (6, True)])
def test_predict_warns_of_series_of_other_lengths_than_those_trained_on(
    run, command, steps, warned
):
    rows = [",".join(["rise", *(f"{step}.5" for step in range(steps))]) for _ in range(3)]
    Path("new.csv").write_text("\n".join(rows) + "\n")
    code, _, error = command("predict", run, "--data", "new.csv")
    told = f"warning: 3 of 3 series have {steps} steps, and the network was trained on 12:"
    assert (code, error.startswith(told), len(error.splitlines())) == (0, warned, int(warned))


def test_a_class_with_too_few_series_is_warned_of(waves, command):
    rows = waves.read_text().splitlines()
    flat = ",".join(["flat", *["50"] * 12])
    steep = ",".join(["steep", *(str(9 * step) for step in range(12))])
    Path("own.csv").write_text("\n".join([*rows, flat, steep, steep]) + "\n")
    loud = TINY[:-1]
    code, _, error = command("train", "--data", "own.csv", "--out", "r", *loud)
    (line,) = [line for line in error.splitlines() if "warning" in line]
    assert (code, line.count("class ")) == (0, 2)
    assert line.startswith("warning: class 'flat' has one series: none to validate or test on;")
    assert "class 'steep' has 2 series: none to " in line
    assert "warning" not in command("train", "--data", "waves.csv", "--out", "s", *loud)[2]


@pytest.fixture
def rare(tmp_path):
    """A file of three classes of waves, one of them rare and of no other shape than the first."""
    rng = np.random.default_rng(0)
    y = np.repeat(["calm", "fast", "odd"], [60, 30, 6])
    speed = np.where(y == "fast", 1.6, 0.5)[:, None]
    X = np.sin(speed * np.arange(20) + rng.uniform(0, 6, (96, 1))) + 0.1 * rng.normal(size=(96, 20))
    path = tmp_path / "rare.npz"
    np.savez(path, X=X, y=y)
    return path


def test_a_metric_weights_of_classes_and_patience_go_through_the_command_line(
    rare, command, tmp_path
):
    out = tmp_path / "run"
    options = ["--metric", "balanced_accuracy", "--class-weight", "balanced", "--patience", 2]
    code, printed, _ = command(
        "train", "--data", rare, *options, "--budget", "100epochs", "--hidden", 4, "--out", out
    )
    result = json.loads((out / "result.json").read_text())
    assert (code, result["status"]) == (0, "stopped early")
    assert (result["metric"], result["target"]) == ("balanced-accuracy", 1.0)
    assert "test balanced-accuracy" in printed
    assert result["constant_metric"] == pytest.approx(1 / 3)
    config = json.loads((out / "config.json").read_text())
    assert (config["metric"], config["class_weight"]) == ("balanced-accuracy", "balanced")
    code, printed, _ = command("train", "--out", out, "--resume")
    assert (code, "nothing was left to do" in printed) == (0, True)
    code, printed, _ = command("report", out, "--no-html", "--out", tmp_path / "report")
    table = (tmp_path / "report" / "report.md").read_text()
    assert (code, "test balanced-accuracy" in table, "1 stopped early" in table) == (0, True, True)


def test_a_network_that_is_no_better_than_the_commonest_class_is_told(rare, command, tmp_path):
    options = ["--optimizer", "sgd", "--lr", 1e-12, "--budget", "2gradients", "--hidden", 2]
    code, printed, _ = command("train", "--data", rare, *options, "--out", tmp_path / "run")
    assert code == 0
    assert "no better than always answering the commonest class, calm" in printed.replace("\n", " ")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ("--label y --window 3", "--label, --window"),
        ("--target 0.5", "--target"),
        ("--calibrate", "--calibrate"),
        ("--no-normalize", "--no-normalize"),
    ],
)
def test_resume_alone_takes_no_options_of_data(run, command, options, named):
    refused = command("train", "--out", run, "--resume", *options.split())
    assert_refused(refused, f"--resume goes on with the run as it was begun: leave out {named}.")


def test_resume_takes_the_same_options_of_data_again(run, command):
    assert command("train", "--out", run, "--resume", "--split-seed", "0", "--quiet")[0] == 0
