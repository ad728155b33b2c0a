"""What is promised of several files as one data set: by a list, a pattern or a repeated option."""

from pathlib import Path

import numpy as np
import pytest
from messages import naming

from rnnopt.config.data_config import DataConfig
from rnnopt.config.data_files import absolute, data_name, files_of, inputs_in, names_in
from rnnopt.config.errors import UserError
from rnnopt.tasks.user_data.load import own_task, read_parts
from rnnopt.tasks.user_data.readers.columns import Columns
from rnnopt.tasks.user_data.readers.several import read_data, sha256_of


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(name, *lines):
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return name


def day(name, *rows, head="time,x,y,activity"):
    """A recording of its own, without an id."""
    return write(name, head, *rows)


def test_files_are_named_by_a_pattern_a_list_or_a_comma_in_a_name():
    for name in ("a.csv", "b.csv", "b,c.csv", "deep/in/d.csv"):
        write(name, "x")
    assert [str(one) for one in files_of("[ab].csv")] == ["a.csv", "b.csv"]
    assert [str(one) for one in files_of("**/d.csv")] == ["deep/in/d.csv"]
    assert names_in("a.csv,b.csv") == ["a.csv", "b.csv"]
    assert names_in("b,c.csv") == ["b,c.csv"]  # a file is called so
    assert names_in("a.csv,b,c.csv") == ["a.csv", "b,c.csv"]
    assert names_in("a.csv,b*.csv") == ["a.csv", "b*.csv"]
    assert names_in("a.csv,gone.csv") == ["a.csv", "gone.csv"]
    assert names_in("no,folder/gone") == ["no,folder/gone"]
    assert inputs_in("a.csv,gone.csv") == ["a.csv"]
    assert names_in("x" * 5000 + ",a.csv") == ["x" * 5000 + ",a.csv"]
    here = absolute("a.csv,b*.csv")
    assert here == absolute(here) == f"{Path('a.csv').absolute()},{Path('b*.csv').absolute()}"


@pytest.mark.parametrize(
    ("text", "name"),
    [("day*.csv", "day"), ("a.csv,b.csv,c.csv", "a-and-2-more"), ("walk[0-9]_TRAIN.csv", "walk"),
     ("days/*.csv", "days")],
)  # fmt: skip
def test_data_of_several_files_have_a_name(text, name):
    assert data_name(text) == name


def test_recordings_of_several_tables_are_one_data_set_in_the_first_ones_order():
    day("mon.csv", "0,1,2,a", "1,3,4,b")
    day("tue.csv", "6,0,5,b", "8,1,7,c", head="y,time,x,activity")
    columns = Columns(label="activity", varying=True, window=2)
    data, test = read_data("mon.csv,tue.csv", columns)
    assert test is None
    assert data.channels == ("x", "y")
    assert data.names == ("mon", "tue")  # each file is a recording
    np.testing.assert_array_equal(data.series[0], [[1, 2], [3, 4]])
    np.testing.assert_array_equal(data.series[1], [[5, 6], [7, 8]])
    assert data.steps.words == ("a", "b", "c")  # those of both files together
    labels = [data.steps.labels(one[:, 0]) for one in data.steps.values]
    assert labels == [["a", "b"], ["b", "c"]]
    assert "2 files" in data.notes


def test_a_file_of_one_label_stands_beside_one_whose_label_changes():
    day("mon.csv", "0,1,2,3", "1,3,4,3")
    day("tue.csv", "0,5,6,3", "1,7,8,4")
    data, _ = read_data("???.csv", Columns(label="activity", varying=True, window=2))
    labels = [data.steps.labels(one[:, 0]) for one in data.steps.values]
    assert labels == [["3", "3"], ["3", "4"]]


def test_series_of_a_file_keep_their_names_behind_the_files_stem():
    for name in ("mon", "tue"):
        write(f"{name}.csv", "id,t,x,label", "p,1,1,u", "p,2,2,u", "q,1,3,v", "q,2,4,v")
    assert read_data("*.csv", Columns())[0].names == ("mon/p", "mon/q", "tue/p", "tue/q")
    for name in ("one/a", "two/a"):
        write(f"{name}.tsv", "u\t1\t2", "v\t3\t4")
    data = read_data("one/a.tsv,two/a.tsv", Columns())[0]
    assert data.names == ("one/a/1", "one/a/2", "two/a/1", "two/a/2")


def test_words_and_numbers_as_labels_of_two_files_are_words_of_both():
    write("a.csv", "1,5,6", "2,7,8")
    write("b.csv", "up,5,6", "2,7,8")
    assert list(read_data("a.csv,b.csv", Columns())[0].targets) == ["1", "2", "up", "2"]


def test_test_and_validation_arrays_of_all_files_are_joined():
    for i, name in enumerate("ab"):
        x = np.full((2, 3), float(i))
        np.savez(
            name, X_train=x, y_train=[0, 1], X_test=x + 5, y_test=[1, 1], X_val=x, y_val=x[:, 0]
        )
    data, test = read_data("a.npz,b.npz", Columns())
    assert [len(data), len(test), len(data.validation)] == [4, 4, 4]
    assert [one[0, 0] for one in test.series] == [5, 5, 6, 6]
    np.savez("c", X=x, y=[0, 1])
    with pytest.raises(UserError, match=r"c\.npz lacks them"):
        read_data("a.npz,c.npz", Columns())


def test_groups_are_the_files_unless_a_column_is_called_so():
    rows = ("p,1,1,u,k", "p,2,2,u,k", "q,1,3,v,m", "q,2,4,v,m")
    for name in ("mon", "tue"):
        write(f"{name}.csv", "id,t,x,label,who", *rows)
        write(f"{name}.txt", "id,t,x,label,file", *rows)
    columns = Columns(group="file", drop=("who",))
    assert list(read_data("*.csv", columns)[0].groups) == ["mon", "mon", "tue", "tue"]
    assert list(read_data("*.txt", Columns(group="file"))[0].groups) == ["k", "m", "k", "m"]
    with pytest.raises(UserError, match="'nobody'"):
        read_data("*.csv", Columns(group="nobody"))


WRONG = {
    "nothing matches": ({}, "gone*.csv", ["gone*.csv"]),
    "a file is missing": ({"a.csv": "u,1,2\n"}, "a.csv,gone.csv", ["gone.csv", "not exist"]),
    "kinds": ({"a.csv": "u,1,2\n", "b.ts": "@data\n1,2\n"}, "a.csv,b.ts", ["a.csv", "b.ts"]),
    "twice": ({"a.csv": "u,1,2\n"}, "a.csv,*.csv", ["a.csv", "twice"]),
    "channels": (
        {"a.csv": "id,t,x,label\np,1,1,u\np,2,1,u\n", "b.csv": "id,t,z,label\np,1,1,u\np,2,1,u\n"},
        "a.csv,b.csv",
        ["b.csv", "a.csv", "lacks 'x'", "has 'z'"],
    ),
    "labels": (
        {"a.csv": "id,t,x,label\np,1,1,u\np,2,1,u\n", "b.csv": "id,t,x\np,1,1\np,2,1\n"},
        "a.csv,b.csv",
        ["b.csv", "a.csv", "labels"],
    ),
    "steps": ({"a.csv": "label,s,q\nu,1,2\nv,1,2\n", "b.csv": "label,s,r\nu,1,2\nv,1,2\n"},
              "a.csv,b.csv", ["a.csv", "'q'", "'r'"]),
    "a damaged one": ({"a.csv": "u,1,2\n", "b.csv": "u,1,x\n"}, "a.csv,b.csv", ["b.csv", "'x'"]),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_files_that_do_not_go_together_are_refused_by_name(case):
    files, text, words = WRONG[case]
    for name, content in files.items():
        Path(name).write_text(content)
    with pytest.raises(UserError, match=naming(*words)):
        read_data(text, Columns())


def test_the_hash_of_a_config_covers_all_files_and_new_ones_of_a_pattern():
    for name in ("a.csv", "b.csv"):
        write(name, *["u,1,2", "v,3,4"] * 5)
    task = own_task(DataConfig(data="*.csv"), "t")
    known = task.data.sources["data"]
    assert known["path"] == str(Path("*.csv").absolute())  # the pattern, found from anywhere
    before = known["sha256"]
    assert before == sha256_of("a.csv,b.csv") != sha256_of("b.csv")
    write("b.csv", "u,1,2", "v,3,4.5")
    changed = sha256_of("*.csv")
    write("c.csv", "u,1,2")
    assert len({before, changed, sha256_of("*.csv")}) == 3


def test_a_run_on_several_files_is_inspected_trained_and_predicts(command):
    for i in range(4):
        rows = [f"{t},{(t // 10) % 2 + 0.01 * i},{'uv'[(t // 10) % 2]}" for t in range(40)]
        day(f"day{i}.csv", *rows, head="time,x,mode")
    own = ["--label", "mode", "--window", "5"]
    code, out, error = command("inspect", "day0.csv", "day1.csv", *own)
    assert (code, "16 of 5 steps" in out) == (0, True), error
    tiny = ["--hidden", "3", "--model", "rnn", "--budget", "4gradients", "--quiet"]
    data = ["--data", "day0.csv", "--data", "day1.csv", "day2.csv", "--test", "day3.csv"]
    code, _, error = command("train", *data, *own, "--group", "file", *tiny, "--out", "run")
    assert code == 0, error
    code, _, error = command("predict", "run", "--data", "day[23].csv", "--out", "p.csv")
    assert code == 0, error
    names = [line.split(",")[0] for line in Path("p.csv").read_text().splitlines()[1:]]
    assert names == ["day2"] * 8 + ["day3"] * 8
    code, _, error = command("predict", "run", "--data", "*.csv", "--out", "p.csv")
    assert (code, "p.csv" in error) == (2, True)  # it would be read, too
    write("day1.csv", "changed")
    code, _, error = command("train", "--resume", "--out", "run")
    assert code == 0  # it is over
    assert read_parts(DataConfig(data="day0.csv", label="mode", window=5))[0].names == ("day0",)
