"""What the engine promises: whatever the cluster, the same runs, each done once, to their end.

Schedulers and workers are processes of their own on loopback. What a killed run comes to by itself
is in test_faults.py, sweeps in test_sweep.py.
"""

import json
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from cases import partly

pytest.importorskip("distributed")

import forks
from same_runs import curves, result_of, what_came
from waiting import wait_for

from rnnopt.cli.commands import compare
from rnnopt.config.errors import UserError
from rnnopt.config.run_config import RunConfig
from rnnopt.experiments import cluster, worker
from rnnopt.experiments.engine import Engine
from rnnopt.experiments.job import Job
from rnnopt.experiments.queues import Queue
from rnnopt.runs.folder import RunFolder
from rnnopt.runs.runner import run

TASK = ["--task", "counting:length=4", "--hidden", "3", "--evaluate-every", "25", "--quiet"]
TINY = [*TASK, "--budget", "50gradients", "--optimizers", "adam", "sgd", "--seeds", "0", "1"]
TINY += ["--tune", "2", "--tune-budget", "25gradients"]
LONG = [*TASK, "--budget", "1000gradients", "--optimizers", "sgd:lr=0.001", "--seeds", "0"]
RUN = "sgd_lr=0.001/seed-0"
RUNS = 4 + 4  # of TINY: two rates and two seeds of two optimizers
CONFIG = RunConfig("counting:length=3", hidden=3, budget="10gradients", optimizer="adam")


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    """Every test works in a folder of its own, and draws no report."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(compare, "show_report", lambda *arguments: None)
    return tmp_path


@pytest.fixture(scope="module")
def references(tmp_path_factory):
    """The folder of comparisons on one machine, each made once."""
    return tmp_path_factory.mktemp("references")


@pytest.fixture
def alone(command, references):
    """Makes a comparison in this process; its folder."""

    def made(name, arguments):
        if not (references / name).exists():
            asked = [*arguments, "--workers", 1, "--out", references / name]
            code, _, error = command("compare", *asked)
            assert (code, error) == (0, "")
        return references / name

    return made


class Machines:
    """A scheduler, its workers, and commands that use them."""

    def __init__(self):
        self.running = [forks.begin("dask_processes:scheduler", "s.json")]
        self.scheduler = self.running[0]

    def begin(self, *call):
        """A process, which does not outlive the test."""
        self.running.append(forks.begin(*call, environment={"RNNOPT_DATA": ""}))
        return self.running[-1]

    def worker(self, *words):
        """A worker with a folder of its own, `w1` for the first."""
        folder = f"w{len(self.running)}"
        return self.begin("dask_processes:worker", "s.json", folder, *words)

    def command(self, *arguments, out="c"):
        """A command that has begun, on this cluster."""
        wait_for(lambda: Path("s.json").exists() and Path("s.json").read_text(), self.scheduler)
        asked = [*arguments, "--cluster", "s.json", "--out", out]
        return self.begin("forks:alone", "compare", *asked)


@pytest.fixture
def machines(workplace):
    """A cluster on loopback, with its scheduler and no worker yet."""
    machines = Machines()
    yield machines
    for process in machines.running:
        with process:
            pass


def ended(process, code=0):
    """What a process printed on standard error; it must end with the code."""
    printed, error = process.communicate()
    assert process.returncode == code, (printed, error)
    return error


def came(out):
    """What the runs below a folder came to, weights too, without the clock."""
    configs = sorted(Path(out).rglob("config.json"))
    assert configs
    runs = [config.parent for config in configs]
    return {run.relative_to(out): [config_of(run), what_came(run)] for run in runs}


def config_of(run):
    return RunFolder.open(run).read_config()


def lines(place):
    """The lines of metrics so far of the one run of LONG, in a folder or a worker's own."""
    found = list(Path(place).rglob("metrics.jsonl"))
    return found[0].read_text().splitlines() if found else []


# -- clusters --------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [["apart"], pytest.param([], marks=pytest.mark.full)])
@pytest.mark.process
def test_a_cluster_comes_to_what_one_machine_comes_to(machines, alone, words):
    for _ in range(2):
        machines.worker(*words)
    ended(machines.command(*TINY))
    plain = alone("tiny", TINY)
    assert len(came(plain)) == RUNS
    assert came("c") == came(plain)
    assert Path("c/tuning.json").read_text() == (plain / "tuning.json").read_text()
    assert not list(Path("c").glob(".rnnopt-cluster*"))
    made_apart = list(Path().glob("w*/**/config.json"))
    assert len(made_apart) == (RUNS if words else 0)  # no run was done twice


@pytest.mark.parametrize("words", partly([[], ["apart"]], [[]]))
@pytest.mark.process
def test_the_run_of_a_killed_worker_goes_on_with_another(machines, alone, words):
    lost = machines.worker(*words)
    process = machines.command(*LONG)
    place = "w1" if words else "c"
    wait_for(lambda: len(lines(place)) >= 3, process)
    machines.worker(*words)
    lost.kill()
    before = lines(place)
    ended(process)
    assert came("c") == came(alone("long", LONG))
    # All but the last interval before the kill is as it was, clock included: it was not repeated.
    assert (lines("c")[: len(before) - 1] == before[:-1]) == (not words)


@pytest.mark.process
def test_with_a_mirror_a_killed_worker_of_another_machine_costs_no_more(machines, alone, command):
    lost = machines.worker("apart")
    url = Path("far").absolute().as_uri()
    process = machines.command(*LONG, "--mirror", url)
    wait_for(lambda: len(lines("far")) >= 3, process)
    machines.worker("apart")
    before = lines("far")
    lost.kill()
    ended(process)
    assert came("c") == came(alone("long", LONG))
    assert lines("c")[: len(before) - 1] == before[:-1]
    # All is there, and comes home to another machine.
    assert came("far") == came("c")
    Path("c").rename("first")
    code, _, error = command("compare", "--resume", "--out", "c", "--mirror", url, "--workers", 1)
    assert code == 0, error
    assert lines("c") == lines("first")


@pytest.mark.process
def test_a_run_that_kills_three_workers_has_failed_and_the_rest_goes_on(machines):
    for _ in range(4):
        machines.worker("dies of sgd")
    asked = [*TASK, "--budget", "50gradients", "--optimizers", "sgd", "adam", "--seeds", "0"]
    error = ended(machines.command(*asked), 1)
    assert error.startswith("failed: c/sgd/seed-0: its worker process died 3 times")
    assert error.count("\n") == 1
    assert RunFolder(Path("c/adam/seed-0")).is_over()
    assert sum(process.poll() is not None for process in machines.running) == 3 + 1


@pytest.mark.process
def test_an_error_a_thousand_calls_deep_fails_its_run(machines):
    machines.worker("calls itself")
    error = ended(machines.command(*LONG), 1)
    assert error == f"failed: c/{RUN}: maximum recursion depth exceeded\n"


@pytest.mark.process
def test_ctrl_c_saves_the_run_and_resume_goes_on(machines, alone):
    machines.worker()
    process = machines.command(*LONG)
    wait_for(lambda: len(lines("c")) >= 3, process)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert ended(process, 130) == ""
    assert time.monotonic() - began < 20
    assert result_of(Path("c", RUN))["status"] == "interrupted"
    before = lines("c")
    ended(machines.command("--resume", "--quiet"))  # the worker is free again
    assert lines("c")[: len(before)] == before
    assert curves(Path("c", RUN)) == curves(alone("long", LONG) / RUN)


@pytest.mark.process
def test_a_lost_scheduler_is_one_sentence_and_nothing_is_lost(machines, command, alone):
    machines.worker()
    process = machines.command(*LONG)
    wait_for(lambda: len(lines("c")) >= 3, process)
    machines.scheduler.kill()
    error = ended(process, 2)
    assert error.startswith("rnnopt: --cluster s.json was lost")
    assert error.count("\n") == 1
    path = Path("c", RUN)
    wait_for(lambda: RunFolder(path).read_result()["status"] == "interrupted")
    before = lines("c")
    assert command("compare", "--out", "c", "--resume", "--workers", 1)[0] == 0
    assert lines("c")[: len(before)] == before
    assert came("c") == came(alone("long", LONG))


@pytest.mark.process
def test_another_version_of_torch_is_refused(machines):
    machines.worker("old torch")
    error = ended(machines.command(*LONG), 2)
    assert "all of a cluster must have one version of torch" in error
    assert "1.0.0" in error
    assert error.count("\n") == 1
    assert not list(Path("c").rglob("config.json"))


# -- runs ------------------------------------------------------------------------------------------


def test_a_finished_run_is_found_in_its_folder(workplace):
    jobs = [Job(CONFIG, workplace / "done"), Job(CONFIG, workplace / "new")]
    run(CONFIG, workplace / "done")
    todo = Queue(jobs)
    assert todo.take() == jobs[1]
    assert not todo.left()
    (workplace / "done/metrics.jsonl").write_text("damaged\n")
    assert "metrics.jsonl, line 1" in Queue(jobs).failures[0]


def test_a_run_waits_at_the_scheduler_not_at_a_worker_behind_another(workplace, monkeypatch):
    # One worker, three runs: the first goes on until the others are seen to wait.
    seen = threading.Event()
    monkeypatch.setattr(worker, "_train", lambda *arguments: seen.wait(90))
    with Engine(3) as engine:

        def tell(jobs):
            tasks = engine._client.cluster.scheduler.tasks.values()
            if sorted(task.state for task in list(tasks)) == ["processing", "queued", "queued"]:
                seen.set()

        jobs = [Job(CONFIG, workplace / str(number)) for number in range(3)]
        assert engine.work(jobs, tell, threading.Event()) == []
    assert seen.is_set()


def test_a_folder_that_a_lost_worker_still_holds_is_waited_for(workplace):
    order = {"config": CONFIG.to_dict(), "token": ""}
    with RunFolder(workplace / "run").locked():
        stop = lambda progress: None  # noqa: E731
        arguments = (order, workplace / "run", stop, lambda: False)
        waiting = threading.Thread(target=worker._train, args=arguments)
        waiting.start()
        time.sleep(0.2)
        assert waiting.is_alive()
        assert not (workplace / "run/config.json").exists()
    waiting.join()
    assert RunFolder(workplace / "run").is_over()


# -- addresses and files ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("nowhere", "--cluster must be a scheduler's address"),
        ("none.yaml", "--cluster none.yaml: there is no such file"),
        ("tcp://127.0.0.1:1", "--cluster tcp://127.0.0.1:1 does not answer"),
        ("nonsense://x", "--cluster nonsense://x does not answer"),
    ],
)
@pytest.mark.parametrize("verb", ["compare", "reproduce"])
def test_a_cluster_that_cannot_be_reached_is_one_sentence(
    command, monkeypatch, verb, address, words
):
    monkeypatch.setattr(cluster, "PATIENCE", 1)
    asked = ["frank-wolfe/figure-3", "--quick"] if verb == "reproduce" else LONG
    code, _, error = command(verb, *asked, "--cluster", address, "--out", "c")
    assert code == 2
    assert words in error
    assert error.count("\n") == 1
    assert not list(Path("c").rglob("config.json"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[", "not a readable YAML file"),
        ("options: {}", "must have class"),
        ("{class: distributed.LocalCluster, workers: 2}", "may have options and scale"),
        ("class: distributed.LocalClusters", "'distributed.LocalClusters' cannot be imported"),
        ("class: Cluster", "'Cluster' cannot be imported"),
        (
            "{class: distributed.LocalCluster, options: 3}",
            "options must be names and values, got 3",
        ),
        ("{class: distributed.LocalCluster, scale: many}", "scale must be"),
    ],
)
def test_a_description_of_a_cluster_that_is_none_is_one_sentence(workplace, text, words):
    Path("c.yaml").write_text(text)
    with pytest.raises(UserError, match=words):
        cluster.read(Path("c.yaml"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{class: datetime.date, options: {day: today}}", "date cannot be begun"),
        ("{class: dask_jobqueue.SLURMCluster}", "SLURMCluster needs the command sbatch"),
    ],
)
def test_a_cluster_that_cannot_be_begun_writes_nothing(command, monkeypatch, text, words):
    pytest.importorskip("dask_jobqueue")
    monkeypatch.setenv("PATH", "")
    Path("c.yaml").write_text(text)
    code, _, error = command("compare", *LONG, "--cluster", "c.yaml", "--out", "c")
    assert code == 2
    assert f"c.yaml: {words}" in error
    assert error.count("\n") == 1
    assert not Path("c").exists()


def test_a_class_of_clusters_trains_the_runs(command, alone):
    options = {"processes": False, "n_workers": 0, "threads_per_worker": 1}
    options |= {"dashboard_address": "127.0.0.1:0"}
    described = {"class": "distributed.LocalCluster", "options": options, "scale": 1}
    Path("c.yaml").write_text(json.dumps(described))  # YAML has JSON in it
    asked = [*TASK, "--budget", "50gradients", "--optimizers", "sgd", "--seeds", "0"]
    assert command("compare", *asked, "--cluster", "c.yaml", "--out", "c")[0] == 0
    assert came("c") == came(alone("described", asked))


def test_the_job_of_slurm_is_what_the_description_says(workplace):
    pytest.importorskip("dask_jobqueue")
    Path("slurm.yaml").write_text(
        "class: dask_jobqueue.SLURMCluster\n"
        "options: {cores: 1, memory: 4GB, walltime: '02:00:00', queue: long}\n"
        "scale: 8\n"
    )
    kind, options, scale = cluster.read(Path("slurm.yaml"))
    with kind(**options, scheduler_options={"dashboard_address": ":0"}) as made:
        script = made.job_script()
    assert scale == 8
    for line in ("#SBATCH -p long", "#SBATCH -t 02:00:00", "#SBATCH --mem=4G", "--nthreads 1"):
        assert line in script


def test_a_search_of_estimators_runs_on_a_cluster(workplace):
    joblib = pytest.importorskip("joblib")
    from distributed import Client, LocalCluster
    from sklearn.model_selection import GridSearchCV

    from rnnopt import RNNClassifier

    generator = np.random.default_rng(0)
    series = generator.normal(size=(24, 5, 1))
    labels = (series.sum((1, 2)) > 0).astype(int)
    network = RNNClassifier(hidden=2, epochs=1, optimizer="adam", random_state=0)
    search = GridSearchCV(network, {"hidden": [2, 3]}, cv=2, refit=False)
    page = {"dashboard_address": "127.0.0.1:0", "scheduler_kwargs": {"dashboard": False}}
    cluster = LocalCluster(n_workers=1, threads_per_worker=1, processes=False, **page)
    with cluster, Client(cluster), joblib.parallel_config("dask"):
        search.fit(series, labels)
    found = search.cv_results_["mean_test_score"]
    assert (found == search.fit(series, labels).cv_results_["mean_test_score"]).all()
