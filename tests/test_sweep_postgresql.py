"""Trials recorded on a PostgreSQL server, which this file starts; a killed worker's goes on.

What a sweep promises on one machine is in test_sweep.py.
"""

import json
import os
import signal
import sys
from pathlib import Path

import pytest

pytest.importorskip("optuna")
pytest.importorskip("psycopg")


import forks
from waiting import holder_of, wait_for

from rnnopt.cli.main import main
from rnnopt.experiments.database import close, quiet
from rnnopt.experiments.sweeps.study import address
from rnnopt.runs.folder import RunFolder

TINY = ["--task", "counting:length=3", "--hidden", "3", "--budget", "2s", "--evaluate-every", "50"]
TINY += ["--optimizer", "adam", "--trials", "2"]


@pytest.fixture
def trials_of(postgresql):
    """Gives the trials of a study by name; [] before it stands."""
    from optuna.storages import RDBStorage

    opened = RDBStorage(address(postgresql, Path()))

    def trials(name):
        with quiet() as optuna:
            if name not in optuna.get_all_study_names(opened):
                return []
            return optuna.load_study(study_name=name, storage=opened).trials

    yield trials
    close(opened)


@pytest.mark.skipif(sys.platform != "linux", reason="finds the worker in /proc")
@pytest.mark.process
@pytest.mark.full
def test_a_killed_workers_trial_goes_on(postgresql, trials_of, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    asked = [*TINY, "--storage", postgresql, "--workers", "2", "--out", "s", "--json"]
    with forks.begin("forks:rnnopt", "sweep", *asked) as process:

        def under_way():
            return [
                t for t in trials_of("s") if t.state.name == "RUNNING" and t.intermediate_values
            ]

        lost = wait_for(under_way, process)[0]
        folder = RunFolder(tmp_path / "s" / lost.user_attrs["folder"])
        before = len(folder.read_records())
        assert folder.read_result()["status"] == "running"
        os.kill(holder_of(folder.path), signal.SIGKILL)
        out, error = process.communicate(timeout=120)
    assert process.returncode == 0, error
    found = json.loads(out)
    assert found["trials"] == dict(complete=2, pruned=0, failed=0, running=0, waiting=0)
    assert found["failures"] == []
    trials = trials_of("s")
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 2
    assert trials[lost.number].user_attrs["worker"] != lost.user_attrs["worker"]
    records = folder.read_records()
    assert len(records) > before
    spent = [record["gradient_evaluations"] for record in records]
    assert spent == sorted(set(spent))
    assert "postgres" not in (tmp_path / "s" / "best.json").read_text()

    # Another machine with a disk of its own: nothing is left to do, and it knows the best.
    elsewhere = tmp_path / "elsewhere"
    with pytest.raises(SystemExit) as ended:
        main(["sweep", *TINY, "--storage", postgresql, "--out", str(elsewhere / "s"), "--json"])
    assert ended.value.code == 0
    assert json.loads(capsys.readouterr().out)["best"] == found["best"]
