"""Many workers share a PostgreSQL server, which this file starts; a killed one's trial is retried.

What a sweep promises on one machine is in test_sweep.py.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

pytest.importorskip("optuna")
pytest.importorskip("psycopg")

from postgresql_server import binaries, server

from rnnopt.command_line import main
from rnnopt.run_folder import RunFolder
from rnnopt.sweeps.study import address, close, quiet

TINY = ["--task", "counting:length=3", "--hidden", "3", "--budget", "2s", "--evaluate-every", "50"]
TINY += ["--optimizer", "adam", "--trials", "2", "--heartbeat", "1"]


@pytest.fixture
def storage():
    """The address of an empty database."""
    if binaries() is None:
        pytest.skip("PostgreSQL's programs are not installed: apt-get install postgresql")
    # A socket's path may have 107 characters, and the server's user must be able to reach it.
    with (
        tempfile.TemporaryDirectory(prefix="rnnopt-", dir="/tmp") as folder,
        server(Path(folder)) as url,
    ):
        yield url


@pytest.fixture
def trials_of(storage):
    """Gives the trials of a study by name; [] before it stands."""
    from optuna.storages import RDBStorage

    opened = RDBStorage(address(storage, Path()))

    def trials(name):
        with quiet() as optuna:
            if name not in optuna.get_all_study_names(opened):
                return []
            return optuna.load_study(study_name=name, storage=opened).trials

    yield trials
    close(opened)


def wait_for(condition, process):
    """What `condition` gives once it is true."""
    end = time.monotonic() + 90
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    raise AssertionError("not within 90 s")


def test_a_killed_workers_trial_is_retried_by_the_other(
    storage, trials_of, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    command = [sys.executable, "-m", "rnnopt", "sweep", *TINY, "--storage", storage]
    with subprocess.Popen(
        [*command, "--workers", "2", "--out", "s", "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    ) as process:  # fmt: skip

        def under_way():
            return [
                t for t in trials_of("s") if t.state.name == "RUNNING" and t.intermediate_values
            ]

        lost = wait_for(under_way, process)[0]
        folder = RunFolder(tmp_path / "s" / lost.user_attrs["folder"])
        before = len(folder.read_records())
        assert folder.read_result()["status"] == "running"
        os.kill(int(lost.user_attrs["worker"].rpartition(":")[2]), signal.SIGKILL)
        out, error = process.communicate(timeout=120)
    assert process.returncode == 0, error
    found = json.loads(out)
    assert found["trials"] == dict(complete=2, pruned=0, failed=0, running=0, waiting=0)
    assert found["failures"] == ["a worker process died (out of memory?)"]
    trials = trials_of("s")
    states = [trial.state.name for trial in trials]
    assert states.count("COMPLETE") == 2
    assert trials[lost.number].state.name == "FAIL"
    again = next(t for t in trials if t.system_attrs.get("failed_trial") == lost.number)
    assert again.state.name == "COMPLETE"
    assert again.params == lost.params
    assert again.user_attrs["folder"] == lost.user_attrs["folder"]  # it went on from there
    assert again.user_attrs["worker"] != lost.user_attrs["worker"]
    records = folder.read_records()
    assert len(records) > before
    spent = [record["evaluations"] for record in records]
    assert spent == sorted(set(spent))
    assert "postgres" not in (tmp_path / "s" / "best.json").read_text()

    # Another machine with a disk of its own: nothing is left to do, and it knows the best.
    elsewhere = tmp_path / "elsewhere"
    with pytest.raises(SystemExit) as ended:
        main(["sweep", *TINY, "--storage", storage, "--out", str(elsewhere / "s"), "--json"])
    assert ended.value.code == 0
    assert json.loads(capsys.readouterr().out)["best"] == found["best"]
