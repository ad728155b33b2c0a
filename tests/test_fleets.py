"""What a fleet promises: several workers on one comparison or study come to what one comes to.

Workers are processes, on SQLite and on a PostgreSQL server of the tests' own. What claims promise
is in test_fleet_claims.py, what a killed run comes to by itself in test_faults.py.
"""

import csv
import json
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from cases import partly

pytest.importorskip("optuna")

import forks
import quick_sqlite  # noqa: F401
import sqlalchemy.exc
from same_runs import curves, result_of, without_clock
from waiting import wait_for

from rnnopt.config.errors import UserError
from rnnopt.config.run_config import RunConfig
from rnnopt.experiments import executors as crew
from rnnopt.experiments.database import with_driver
from rnnopt.experiments.executors import LeaseQueue
from rnnopt.experiments.leases import Claims
from rnnopt.experiments.worker_pool import Job
from rnnopt.runs.folder import InUse, RunFolder
from rnnopt.runs.runner import run

TASK = ["--task", "counting:length=4", "--hidden", "3", "--evaluate-every", "50", "--workers", "1"]
TINY = [*TASK, "--budget", "100gradients", "--optimizers", "adam", "sgd", "--seeds", "0", "1"]
TINY += ["--tune", "2", "--tune-budget", "50gradients"]
LONG = [*TASK, "--budget", "3000gradients", "--optimizers", "sgd:lr=0.001", "--seeds", "0"]
RUNS = 4 + 4  # of TINY: two rates and two seeds of two optimizers


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    """Every test works in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


NO_DATA = {"RNNOPT_DATA": ""}


class Commands:
    """Begins commands, kills them and waits for them."""

    def __init__(self):
        self.running = []

    def begin(self, *arguments):
        """The process."""
        self.running.append(forks.begin("forks:alone", *arguments, environment=NO_DATA))
        return self.running[-1]

    def end(self, process, code=0):
        """Waits for a process; it must end with the code."""
        printed = process.communicate()
        assert process.returncode == code, printed

    def kill(self, process):
        """kill -9."""
        process.kill()
        self.end(process, -signal.SIGKILL)

    def do(self, *arguments):
        """Begins a command and waits for it."""
        self.end(self.begin(*arguments))


@pytest.fixture
def commands(workplace):
    """Commands in processes, none of which outlives the test."""
    commands = Commands()
    yield commands
    for process in commands.running:
        with process:
            pass


def wait_for_lines(count):
    """Waits for so many lines of metrics of the one run of LONG."""
    wait_for(lambda: len(lines("c")) >= count)


def came(out):
    """What the runs below a folder came to, without the clock, by their places in it."""
    found = {}
    for config in Path(out).rglob("config.json"):
        run = config.parent
        settings = RunFolder.open(run).read_config().to_dict()
        found[run.relative_to(out).as_posix()] = json.dumps([settings, curves(run), result_of(run)])
    return found


def claims_of(storage, name):
    """All claims of a fleet."""
    from optuna.storages import RDBStorage

    database = RDBStorage(with_driver(storage))
    try:
        return database.get_all_trials(database.get_study_id_from_name(name))
    finally:
        database.remove_session()
        database.engine.dispose()


def check_workers(storage, folders, commands):
    """A comparison by a worker a folder comes to what it is alone, in each folder."""
    command = ["compare", *TINY, "--storage", storage, "--quiet", "--out"]
    for number in [commands.begin(*command, out) for out in folders]:
        commands.end(number)
    trials = claims_of(storage, "compare c")
    complete = [t.user_attrs["run"] for t in trials if t.state.name == "COMPLETE"]
    assert len(complete) == len(set(complete)) == RUNS
    ended = {t.user_attrs["end"] for t in trials if t.state.name == "FAIL"}
    assert ended <= {"late"}  # nothing was begun twice
    commands.do("compare", *TINY, "--out", "plain", "--quiet")
    plain = came("plain")
    assert len(plain) == RUNS
    assert came("c") == plain
    assert came("elsewhere/c") == plain
    assert Path("c/tuning.json").read_text() == Path("plain/tuning.json").read_text()
    # Weights are where the run was made, and the other machine knows where that is.
    for place in complete:
        homes = [Path(out, place) for out in ("c", "elsewhere/c")]
        assert [(home / "best.pt").exists() for home in homes].count(True) == 1
        assert [(home / "elsewhere.json").exists() for home in homes].count(True) == 1


@pytest.mark.parametrize("folders", [("c", "elsewhere/c"), ("c", "c", "elsewhere/c")])
@pytest.mark.process
def test_workers_on_sqlite_come_to_what_one_comes_to(commands, folders):
    check_workers("sqlite:///fleet.db", folders, commands)


@pytest.mark.process
def test_workers_on_postgresql_come_to_what_one_comes_to(postgresql, commands):
    check_workers(postgresql, ("c", "c", "elsewhere/c"), commands)


@pytest.mark.process
@pytest.mark.full
def test_reports_are_the_same_everywhere(command):
    arguments = ["compare", *TASK, "--quiet", "--storage", "sqlite:///fleet.db"]
    arguments += ["--budget", "100gradients", "--optimizers", "adam", "--seeds", "0", "1"]
    done = forks.begin("forks:rnnopt", *arguments, "--out", "c", environment=NO_DATA)
    error = done.communicate()[1]
    assert (done.returncode, error) == (0, "")
    # Another machine, which has no run to do, and no weights.
    assert command(*arguments, "--out", "elsewhere/c")[0] == 0
    written = Path("c/report.md").read_text()
    assert "| adam | 2 |" in written
    assert Path("elsewhere/c/report.md").read_text() == written
    assert Path("elsewhere/c/report.html").exists()


def lines(out):
    """The lines of metrics so far of the one run of LONG."""
    try:
        return Path(out, "sgd_lr=0.001/seed-0/metrics.jsonl").read_text().splitlines()
    except FileNotFoundError:
        return []


@pytest.mark.parametrize("shared", partly([True, False], [True]))
@pytest.mark.process
def test_the_run_of_a_killed_worker_goes_on_with_another(postgresql, commands, shared):
    command = ["compare", *LONG, "--storage", postgresql, "--heartbeat", "2", "--quiet", "--out"]
    out = "c" if shared else "elsewhere/c"
    lost = commands.begin(*command, "c")
    wait_for_lines(3)
    other = commands.begin(*command, out)
    commands.kill(lost)
    before = lines("c")
    assert RunFolder(Path("c/sgd_lr=0.001/seed-0")).read_result()["status"] == "running"
    commands.end(other)
    trials = claims_of(postgresql, "compare c")
    assert [t.state.name for t in trials] == ["FAIL", "COMPLETE"]
    assert trials[0].user_attrs["end"] == "lost"
    assert trials[0].user_attrs["worker"] != trials[1].user_attrs["worker"]
    commands.do("compare", *LONG, "--out", "plain", "--quiet")
    assert came(out) == came("plain")
    # All but the last interval before the kill is as it was, clock included: it was not repeated.
    kept = lines(out)[: len(before) - 1] == before[:-1]
    assert kept == shared
    if not shared:  # the machine that was killed comes back: it trains nothing and knows all
        commands.do(*command, "c")
        assert came("c") == came("plain")
        assert len(claims_of(postgresql, "compare c")) == 2


@pytest.mark.process
def test_ctrl_c_sets_a_run_free_at_once(commands):
    command = ["compare", *LONG, "--storage", "sqlite:///fleet.db", "--out", "c", "--quiet"]
    process = commands.begin(*command)
    wait_for_lines(3)
    process.send_signal(signal.SIGINT)
    commands.end(process, 130)
    trials = claims_of("sqlite:///fleet.db", "compare c")
    assert [(t.state.name, t.user_attrs["end"]) for t in trials] == [("FAIL", "released")]
    before = lines("c")
    commands.do(*command)
    assert lines("c")[: len(before)] == before
    trials = claims_of("sqlite:///fleet.db", "compare c")
    assert [t.state.name for t in trials] == ["FAIL", "COMPLETE"]
    waited = trials[1].datetime_start - trials[0].datetime_complete
    assert waited.total_seconds() < 30  # one interval; a dead worker's claim would stand for two


@pytest.mark.process
@pytest.mark.full
def test_a_study_by_two_workers_has_the_table_of_one(commands):
    command = ["reproduce", "frank-wolfe/figure-3", "--quick", "--workers", "1", "--out"]
    commands.do(*command, "plain")
    storage = ["--storage", "sqlite:///fleet.db"]
    for number in [commands.begin(*command, out, *storage) for out in ("s", "other/s")]:
        commands.end(number)
    assert len(came("plain")) == 3 * 2 + 3 * 2  # rows and rates, rows and seeds
    assert came("s") == came("other/s") == came("plain")
    assert Path("s/results.csv").read_text() == Path("other/s/results.csv").read_text()

    def values(out):
        rows = csv.DictReader(Path(out, "results.csv").read_text().splitlines())
        return [without_clock(row) for row in rows]

    assert values("s") == values("plain")
    trials = claims_of("sqlite:///fleet.db", "reproduce s")
    assert sum(t.state.name == "COMPLETE" for t in trials) == 12


# -- in this process -------------------------------------------------------------------------------


def test_other_settings_are_refused(command):
    storage = ["--storage", "sqlite:///fleet.db"]
    short = [*TINY[:-4], "--quiet"]
    settings = {"shared": {"hidden": 4}, "comparison": {}}
    Claims(storage[1], "compare c", settings, 30).close()
    code, _, error = command("compare", *short, *storage, "--out", "c")
    assert code == 2
    assert "'compare c' in the storage was begun with other settings" in error
    assert "hidden was 4, is 3" in error
    assert error.count("\n") == 1
    assert not Path("c").exists()


@pytest.mark.parametrize(
    ("storage", "words"),
    [
        ("postgresql://nobody@127.0.0.1:1/none", "Connection refused"),
        ("sqlite:////nowhere/to/be/found.db", "unable to open database file"),
        ("fleet.db", "must read like postgresql://"),
    ],
)
def test_a_storage_that_cannot_be_reached_is_one_sentence(command, storage, words):
    for verb in (["compare", *TINY], ["reproduce", "frank-wolfe/figure-3", "--quick"]):
        code, _, error = command(*verb, "--storage", storage, "--out", "c")
        assert code == 2
        assert words in error
        assert error.strip().count("\n") == 0
    assert not Path("c").exists()


def test_a_comparison_of_many_machines_needs_a_name(command):
    code, _, error = command("compare", *TINY, "--storage", "sqlite:///fleet.db")
    assert (code, error) == (2, "rnnopt: --storage needs the comparison's folder: give --out.\n")


def test_what_is_no_study_of_runs_is_made_by_one_process(command):
    code, _, error = command("reproduce", "frank-wolfe/table-1", "--storage", "sqlite:///f.db")
    assert code == 2
    assert "leave out --storage" in error


def test_a_folder_in_use_is_no_failure_but_waited_for(workplace, monkeypatch):
    claims = Claims("sqlite:///fleet.db", "compare c", {"part": {}}, 30)
    now = [time.monotonic()]
    monkeypatch.setattr(crew, "time", SimpleNamespace(monotonic=lambda: now[0]))
    config = RunConfig("counting:length=3", hidden=3, budget="10gradients", optimizer="adam")
    job = Job(config, workplace / "c/run")
    shared = LeaseQueue(claims, {"run": job})
    shared.poll()
    assert shared.take() == job
    with RunFolder(job.path).locked():
        shared.ended(job, InUse("in use"))
        shared.poll()
    assert shared.failures() == []
    assert shared.left()
    assert shared.take() is None  # not at once
    now[0] += 31
    assert shared.take() == job
    run(config, job.path)
    shared.ended(job, None)
    shared.poll()
    assert not shared.left()
    claims.close()


def test_a_storage_that_is_lost_for_long_ends_the_worker(workplace, monkeypatch):
    claims = Claims("sqlite:///fleet.db", "compare c", {"part": {}}, 0.2)
    shared = LeaseQueue(claims, {"run": Job(RunConfig(), workplace / "c/run")})

    def lost():
        raise sqlalchemy.exc.OperationalError("select", {}, OSError("server gone"))

    monkeypatch.setattr(claims, "read", lost)
    shared.poll()
    time.sleep(0.5)
    with pytest.raises(UserError, match=r"storage was lost \(server gone\).*the same command"):
        shared.poll()
    claims.close()
