"""What the command line makes of files as spreadsheets and loggers write them.

Labels at another place, decimal commas, times with gaps, several labels a series. What the readers
make of each is promised in test_readers.py and test_table_columns.py.
"""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from cases import partly

TINY = ["--hidden", "4", "--budget", "20gradients", "--optimizer", "adam:lr=0.02", "--quiet"]
COUNT, STEPS = 40, 6


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path


def values():
    """Rising and falling series (count, time)."""
    slopes = np.where(np.arange(COUNT) % 2, 1.0, -1.0)
    noise = np.random.default_rng(0).normal(size=(COUNT, STEPS))
    return slopes[:, None] * np.arange(STEPS) + noise


def cells():
    return [[f"{value:.4f}" for value in row] for row in values()]


def labels():
    return ["rise" if i % 2 else "fall" for i in range(COUNT)]


def write(path, rows, separator=",", comma=False, start="", end="\n"):
    text = end.join(separator.join(row) for row in rows) + end
    Path(path).write_bytes((start + (text.replace(".", ",") if comma else text)).encode())
    return path


def spreadsheet(path, **form):
    """A table with the label last."""
    names = [*(f"w{i}" for i in range(STEPS)), "Klasse"]
    rows = [[*row, label] for row, label in zip(cells(), labels(), strict=True)]
    return write(path, [names, *rows], **form)


def answers(path="predictions.csv"):
    return list(csv.reader(Path(path).read_text().splitlines()))


def done(result):
    code, out, error = result
    assert code == 0, error
    return out


def trained(command, data, *options, out="run"):
    done(command("train", "--data", data, "--out", out, *options, *TINY))
    return out


def assert_refused(result, *words):
    code, out, error = result
    assert (code, out) == (2, ""), error
    assert error.strip().count("\n") == 0, error
    for word in words:
        assert word in error


# -- the label's place ----------------------------------------------------------------------------


@pytest.fixture
def last():
    rows = [[*row, label] for row, label in zip(cells(), labels(), strict=True)]
    return write("last.csv", rows)


@pytest.mark.parametrize("label", ["last", "-1", "6"])
def test_a_label_that_stands_last_is_that_which_stands_first(command, last, label):
    first = write("first.csv", [[one, *row] for row, one in zip(cells(), labels(), strict=True)])
    done(command("predict", trained(command, first), "--data", first))
    expected = answers()
    run = trained(command, last, "--label", label, out="other")
    assert json.loads(Path(run, "config.json").read_text())["label"] == label
    out = done(command("predict", run, "--data", last))
    assert answers() == expected
    assert "read as: lines without names, the label" in out
    bare = write("bare.csv", cells())
    done(command("predict", run, "--data", bare))
    assert [row[1:] for row in answers()] == [row[2:] for row in expected]
    out = done(command("predict", run, "--data", spreadsheet("named.csv")))
    assert answers() == expected


def test_every_verb_takes_the_place_of_the_label(command, last):
    out = done(command("inspect", last, "--label", "-1"))
    assert "fall: 20 (50%), rise: 20 (50%)" in out
    tiny = [*TINY[:4], "--quiet"]
    command_line = ["--data", last, "--label", "last", *tiny]
    done(command("diagnose", *command_line, "--out", "d"))
    compare = ["--optimizers", "adam", "--seeds", "0", "--workers", "1"]
    done(command("compare", *command_line, *compare, "--out", "c"))


def test_the_place_is_that_of_the_training_table_and_names_count_later(command):
    run = trained(command, spreadsheet("a.tsv", separator="\t"), "--label", "-1")
    expected = done(command("predict", run, "--data", "a.tsv"))
    named = [line.split("\t") for line in Path("a.tsv").read_text().splitlines()]
    turned = write("b.csv", [row[::-1] for row in named])
    assert done(command("predict", run, "--data", turned)) == expected
    without = write("c.csv", [row[:-1] for row in named])
    assert "label none" in done(command("predict", run, "--data", without))
    bare = write("d.csv", named[1:])
    assert "the label last" in done(command("predict", run, "--data", bare))


@pytest.mark.parametrize("label", ["7", "-8", "kind"])
@pytest.mark.parametrize("verb", ["train", "compare", "diagnose", "inspect"])
def test_a_label_that_is_not_there_is_refused(command, last, verb, label):
    data = [last] if verb == "inspect" else ["--data", last]
    assert_refused(command(verb, *data, "--label", label), "there is no column", label)
    table = spreadsheet("a.csv")
    data = [table] if verb == "inspect" else ["--data", table]
    assert_refused(command(verb, *data, "--label", label), "there is no column", "w0, w1, w2")


def test_a_config_takes_the_place_as_a_number():
    from rnnopt.config.run_config import RunConfig

    config = RunConfig(data="a.csv", label=-1)  # type: ignore[arg-type]
    assert RunConfig.from_dict(config.to_dict()).label == "-1"


# -- decimal commas -------------------------------------------------------------------------------

FORMS = {
    "points": dict(separator=","),
    "semicolons": dict(separator=";"),
    "German": dict(separator=";", comma=True, start="\ufeff", end="\r\n"),
    "with its separator": dict(
        separator=";", comma=True, start="\ufeffsep=;\r\n", end="\r\n"
    ),
    "tabs": dict(separator="\t", comma=True),
}  # fmt: skip


@pytest.mark.parametrize("form", partly(FORMS, ["points", "German"]))
def test_the_same_numbers_are_learnt_and_answered_to_however_they_are_written(command, form):
    plain = spreadsheet("plain.csv")
    done(command("predict", trained(command, plain, "--label", "Klasse"), "--data", plain))
    expected = answers()
    written = spreadsheet("written.csv", **FORMS[form])
    told = done(command("predict", "run", "--data", written))
    assert answers() == expected
    assert ("decimal commas" in told) == ("comma" in FORMS[form])
    run = trained(command, written, "--label", "last", out="other")
    done(command("predict", run, "--data", plain))
    assert answers() == expected
    out = done(command("inspect", written, "--label", "last"))
    assert ("decimal commas" in out) == ("comma" in FORMS[form])


def test_decimals_can_be_said(command):
    written = write("a.txt", [["1" if i % 2 else "0", *row] for i, row in enumerate(cells())],
                    separator=" ", comma=True)  # fmt: skip
    assert_refused(command("train", "--data", written, *TINY), "--decimal ,")
    run = trained(command, written, "--decimal", ",")
    done(command("predict", run, "--data", written))
    expected = answers()
    points = write("b.txt", [["1" if i % 2 else "0", *row] for i, row in enumerate(cells())])
    assert_refused(command("predict", run, "--data", points), "no separator", "--decimal .")
    done(command("predict", run, "--data", points, "--decimal", "."))
    assert answers() == expected
    assert_refused(command("train", "--data", written, "--decimal", ";"), "--decimal", '";"')
    assert_refused(command("train", "--task", "adding", "--decimal", ","), "--decimal needs --data")


# -- times ----------------------------------------------------------------------------------------


def test_gaps_are_told_by_every_verb_once(command):
    hours = [0, 1, 2, 3, 4, 9]
    rows = [["id", "time", "x", "label"]] + [
        [f"s{i:02d}", f"2024-03-10T{hours[t]:02d}:00:00", cell, label]
        for i, (row, label) in enumerate(zip(cells(), labels(), strict=True))
        for t, cell in enumerate(row)
    ]
    data = write("hours.csv", rows)
    told = "median gap 1 h, largest 5 h (series 's00', after 2024-03-10T04:00:00); 40 of 200"
    options = ["--out", "run", *TINY[:-1]]
    for arguments in (["inspect", data], ["train", "--data", data, *options]):
        out = " ".join(done(command(*arguments)).replace("│", " ").split())
        assert out.count("irregular, but steps are taken as equally spaced") == 1
        assert "median gap 1 h, largest 5 h" in out
    out = done(command("predict", "run", "--data", data))
    assert out.count(told) == 1
    kept = json.loads(Path("run", "data.json").read_text())["understood"]
    assert told in kept["times"]


# -- several labels a series ----------------------------------------------------------------------


def test_several_labels_a_series_are_refused_in_a_sentence(command):
    hot = np.random.default_rng(1).integers(0, 2, (COUNT, 3))
    for name, y in {"several": hot, "truths": hot > 0, "one-hot": np.eye(3)[hot[:, 0]]}.items():
        np.savez(f"{name}.npz", X=values(), y=y)
        words = "rows of the targets (40, 3)", "kind regression"
        for verb in (["inspect", f"{name}.npz"], ["train", "--data", f"{name}.npz", "--out", "r"]):
            assert_refused(command(*verb), *words)
        trained(command, f"{name}.npz", "--kind", "regression", out=f"run-{name}")
        done(command("predict", f"run-{name}", "--data", f"{name}.npz"))
    assert not Path("r").exists()


# -- runs of before -------------------------------------------------------------------------------


def changed(run, **settings):
    """The run with another config; None takes a setting out."""
    path = Path(run, "config.json")
    config = {k: v for k, v in json.loads(path.read_text()).items() if k not in settings}
    path.write_text(json.dumps(config | {k: v for k, v in settings.items() if v is not None}))


def test_runs_of_before_there_was_a_sign_of_decimals_predict(command):
    data = spreadsheet("a.csv")
    run = trained(command, data, "--label", "Klasse")
    expected = done(command("predict", run, "--data", data))
    changed(run, decimal=None)
    assert "decimal" not in Path(run, "config.json").read_text()
    assert done(command("predict", run, "--data", data)) == expected


def test_runs_that_took_the_time_of_a_folder_for_a_channel_predict(command):
    for i, (row, label) in enumerate(zip(cells(), labels(), strict=True)):
        Path("folder", label).mkdir(parents=True, exist_ok=True)
        lines = [[str(t), cell] for t, cell in enumerate(row)]
        write(Path("folder", label, f"{i}.csv"), [["time", "x"], *lines])
    run = trained(command, "folder")
    expected = done(command("predict", run, "--data", "folder"))
    changed(run, time="time")
    assert done(command("predict", run, "--data", "folder")) == expected
    taken = trained(command, "folder", "--time", "time", out="other")
    assert json.loads(Path(taken, "data.json").read_text())["preparation"]["channels"] == ["x"]
    done(command("predict", taken, "--data", "folder"))
