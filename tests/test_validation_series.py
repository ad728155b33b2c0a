"""What validation series of the user's own promise: they alone choose the weights.

How series are held out where there are none is promised in test_own_arrays.py.
"""

from pathlib import Path

import numpy as np
import pytest
from messages import naming

from rnnopt.config.errors import UserError
from rnnopt.config.run_config import RunConfig
from rnnopt.tasks import from_arrays
from rnnopt.training.build import build_training


def arrays(count, seed):
    """Series (count, 6, 2) with classes low and high."""
    generator = np.random.default_rng(seed)
    y = np.arange(count) % 2
    return generator.normal(size=(count, 6, 2)) + 3 * y[:, None, None], np.array(["low", "high"])[y]


@pytest.fixture
def parts():
    return {"train": arrays(30, 0), "val": arrays(8, 1), "test": arrays(10, 2)}


def save(path, parts, names=None):
    names = names or {part: part for part in parts}
    named = {f"X_{names[p]}": x for p, (x, _) in parts.items()}
    np.savez(path, **named, **{f"y_{names[p]}": y for p, (_, y) in parts.items()})


def task_of(**settings):
    return build_training(RunConfig(hidden=3, budget="5gradients", **settings)).task


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_arrays_of_validation_series_are_taken_as_such(tmp_path, parts, name):
    save(tmp_path / "a.npz", parts, dict(train="train", val=name, test="test"))
    task = task_of(data=str(tmp_path / "a.npz"))
    assert [len(e) for e in (task.train, task.validation, task.test)] == [30, 8, 10]
    mean, deviation = parts["train"][0].mean((0, 1)), parts["train"][0].std((0, 1))
    np.testing.assert_allclose(
        task.validation.inputs, (parts["val"][0] - mean) / deviation, atol=1e-5
    )
    assert "30 training, 8 validation, 10 test" in dict(task.data.understood)["series"]


def test_a_folder_may_hold_them_too(tmp_path, parts):
    for part, (x, y) in parts.items():
        (tmp_path / part).mkdir()
        np.save(tmp_path / part / "X.npy", x)
        np.save(tmp_path / part / "y.npy", y)
    task = task_of(data=str(tmp_path))
    assert [len(e) for e in (task.train, task.validation, task.test)] == [30, 8, 10]


def test_without_test_series_these_are_held_out_of_the_training_ones(tmp_path, parts):
    del parts["test"]
    save(tmp_path / "a.npz", parts)
    task = task_of(data=str(tmp_path / "a.npz"))
    assert [len(e) for e in (task.train, task.validation, task.test)] == [24, 8, 6]


def test_from_arrays_takes_them(parts):
    task = from_arrays(*parts["train"], validation=parts["val"], test=parts["test"])
    assert [len(e) for e in (task.train, task.validation, task.test)] == [30, 8, 10]


def test_the_best_weights_are_best_on_them(tmp_path, parts, command, monkeypatch):
    # The other way round: what is learnt in training is wrong there, so the first weights are kept.
    monkeypatch.chdir(tmp_path)
    x, y = parts["val"]
    parts["val"] = x, np.where(y == "low", "high", "low")
    save("a.npz", parts)
    options = ["--budget", "60gradients", "--optimizer", "adam:lr=0.03", "--json"]
    assert command("train", "--data", "a.npz", "--out", "run", *options)[0] == 0
    from rnnopt.runs.folder import RunFolder

    run = RunFolder.open(Path("run"))
    assert run.read_records()[-1]["validation_metric"] == 0
    best = run.read_result()["best"]
    assert best["validation_metric"] == max(r["validation_metric"] for r in run.read_records()) > 0
    assert best["gradient_evaluations"] < 60


def test_inspect_shows_them(tmp_path, parts, command, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    save("a.npz", parts)
    code, out, _ = command("inspect", "a.npz")
    assert code == 0
    assert "a.npz, its validation part" in out
    assert "8, all alike" not in out


def test_what_contradicts_them_is_refused(tmp_path, parts):
    save(tmp_path / "a.npz", parts)
    with pytest.raises(UserError, match=naming("--validation", "validation")):
        task_of(data=str(tmp_path / "a.npz"), validation=0.3)
    np.savez(tmp_path / "b.npz", X=parts["train"][0], y=parts["train"][1], X_val=parts["val"][0])
    with pytest.raises(UserError, match="needs a target for each series"):
        task_of(data=str(tmp_path / "b.npz"))
    x, y = parts["train"]
    np.savez(tmp_path / "c.npz", X=x, y=y, X_val=x, y_val=y, X_valid=x, y_valid=y)
    with pytest.raises(UserError, match=naming("X_val", "X_valid")):
        task_of(data=str(tmp_path / "c.npz"))
    parts["val"] = parts["val"][0], np.array(["middle"] * 8)
    save(tmp_path / "d.npz", parts)
    with pytest.raises(UserError, match=naming("'middle'", "validation")):
        task_of(data=str(tmp_path / "d.npz"))
    with pytest.raises(ValueError, match="validation needs \\(inputs, targets\\)"):
        from_arrays(*parts["train"], validation=(parts["val"][0],))
