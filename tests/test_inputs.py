"""What the workers of a cluster read is what the command reads, or their runs are refused."""

from dataclasses import replace

import pytest

from rnnopt.config.errors import UserError
from rnnopt.config.run_config import RunConfig
from rnnopt.experiments.inputs import check_inputs, inputs_of
from rnnopt.experiments.worker import _check_inputs

CONFIG = RunConfig("counting:length=3")


@pytest.fixture(params=["data", "test", "optimizer", "folder"])
def config(request, tmp_path, monkeypatch):
    """Settings that name `input.py`, a file or, as data, a folder."""
    monkeypatch.chdir(tmp_path)
    if request.param == "folder":
        (tmp_path / "input.py").mkdir()
        (tmp_path / "input.py" / "a.csv").write_text("1")
        return replace(CONFIG, data="input.py")
    (tmp_path / "input.py").write_text("1")
    if request.param == "optimizer":
        return replace(CONFIG, optimizer="input.py:Mine,lr=1")
    return (
        replace(CONFIG, data="input.py")
        if request.param == "data"
        else replace(CONFIG, data="input.py", **{request.param: "input.py"})
    )


def test_the_same_inputs_pass_others_and_missing_ones_are_refused(config, tmp_path):
    wanted = inputs_of(config)
    assert [name.rpartition("/")[2] for name in wanted] == ["input.py"]
    check_inputs(config, wanted, "tcp://w")
    path = tmp_path / "input.py"
    file = path / "a.csv" if path.is_dir() else path
    file.write_text("other")
    with pytest.raises(UserError, match="input.py must be the same on all .* worker tcp://w has"):
        check_inputs(config, wanted, "tcp://w")
    path.rename(tmp_path / "away")
    with pytest.raises(UserError, match="worker tcp://w needs .*input.py cannot be read: No such"):
        check_inputs(config, wanted, "tcp://w")


def test_of_a_package_the_version_counts():
    config = replace(CONFIG, optimizer="torch.optim:NAdam")
    ((name, version),) = inputs_of(config).items()
    assert name == "torch"
    with pytest.raises(UserError, match=f"torch must be the same .* has 0, .* has {version[:3]}"):
        check_inputs(config, {"torch": "0"}, "tcp://w")
    assert inputs_of(CONFIG) == {}


def test_a_worker_looks_before_it_trains(tmp_path):
    (tmp_path / "mine.py").write_text("raise SystemError  # is never executed")
    config = replace(CONFIG, optimizer=f"{tmp_path / 'mine.py'}:Mine,lr=1")
    order = {"config": config.to_dict(), "inputs": inputs_of(config)}
    _check_inputs(order, "tcp://w")
    order["inputs"] = dict.fromkeys(order["inputs"], "0")
    with pytest.raises(UserError, match="mine.py must be the same on all of a cluster"):
        _check_inputs(order, "tcp://w")
