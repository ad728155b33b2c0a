"""What is promised when things break: a run comes to the same end, or says what is wrong.

Kills, damaged files, full disks, dead workers, two processes on one folder, threads. What a run
folder holds is promised in test_run_folder.py.
"""

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import forks
import numpy as np
import pytest
import torch
from cases import partly
from messages import naming
from same_runs import assert_equal_states, what_came
from waiting import holder_of

from rnnopt.config.errors import UserError
from rnnopt.config.run_config import RunConfig
from rnnopt.experiments.engine import Engine
from rnnopt.experiments.job import Job
from rnnopt.runs.checksums import pack
from rnnopt.runs.files import write_atomically
from rnnopt.runs.folder import RunFolder
from rnnopt.runs.runner import run

CONFIG = RunConfig(
    "digits-rows", hidden=4, budget="12gradients", evaluate_every=3, optimizer="adam", seed=5
)
CHECKPOINTS = ("checkpoint.pt", "checkpoint-previous.pt")
linux = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a run that nothing happened to."""
    path = tmp_path_factory.mktemp("whole") / "run"
    run(CONFIG, path)
    return path


@pytest.fixture(scope="module")
def halfway(tmp_path_factory):
    """The folder of the same run, interrupted after 7 of 12 gradients."""
    path = tmp_path_factory.mktemp("halfway") / "run"
    count = iter(range(100))
    run(CONFIG, path, stop_requested=lambda: next(count) == 7)
    return path


# -- kills ----------------------------------------------------------------------------------------


@linux
@pytest.mark.process
@pytest.mark.full
def test_a_killed_run_comes_to_the_same_end_wherever_it_was_killed(tmp_path):
    script = Path(__file__).parent / "kill_runs.py"
    done = subprocess.run(
        [sys.executable, "-W", "error", str(script), str(tmp_path)],
        capture_output=True, text=True, timeout=300, env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["wrong"] == {}, done.stderr
    assert found["moments"] == 50
    assert found["unfinished"] >= 10  # were killed before their end
    # Two files, "running", three looks with a line and a checkpoint, weights, result: 11 writes, of
    # which 8 are renamed, and two checkpoints moved aside.
    assert found["points"] == 3 * 11 + 2 * 10


@pytest.mark.parametrize("writes", [0, 1, 2, 3])
def test_a_run_of_own_data_that_dies_as_it_begins_is_begun_again(tmp_path, monkeypatch, writes):
    # environment.json, data.json, config.json: with the last the folder holds a run.
    inputs = np.random.default_rng(0).standard_normal((24, 5, 1))
    np.savez(tmp_path / "own.npz", X=inputs, y=np.arange(24) % 2)
    config = replace(CONFIG, task="", data=str(tmp_path / "own.npz"))
    write, left = RunFolder._write, iter(range(writes))

    def dying(self, name, content, *rest):
        if next(left, None) is None:
            raise KeyboardInterrupt
        write(self, name, content, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "_write", dying)
        with pytest.raises(KeyboardInterrupt):
            run(config, tmp_path / "run")
    begun = (tmp_path / "run" / "config.json").exists()
    assert begun == (writes == 3)
    run(config, tmp_path / "run", resume=begun)
    run(config, tmp_path / "whole")
    assert what_came(tmp_path / "run") == what_came(tmp_path / "whole")


def test_a_second_rename_that_fails_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    path, before = tmp_path / "file", tmp_path / "before"
    for content in (b"1", b"2"):
        write_atomically(path, content, keep=before)
    rename = os.replace

    def failing(old, new):
        if Path(old).suffix == ".part":
            raise OSError(errno.EIO, "input/output error")
        rename(old, new)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", failing)
        with pytest.raises(OSError, match="input/output error"):
            write_atomically(path, b"3", keep=before)
    assert path.read_bytes() == b"2"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


# -- damage ---------------------------------------------------------------------------------------


def damage(content, kind, rng):
    """The content with a bit flipped at a random place, or cut at a random length."""
    if kind == "cut":
        return content[: rng.randrange(len(content))]
    place = rng.randrange(len(content))
    flipped = content[place] ^ (1 << rng.randrange(8))
    return content[:place] + bytes([flipped]) + content[place + 1 :]


def error_of(act):
    """The sentence with which `act` is refused, "" if it is not."""
    try:
        act()
    except UserError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("kind", ["flip", "cut"])
@pytest.mark.parametrize(
    "names",
    [
        CHECKPOINTS[:1], CHECKPOINTS[1:], CHECKPOINTS, ("metrics.jsonl",), ("result.json",),
        ("config.json",), ("environment.json",), ("checkpoint.pt", "metrics.jsonl"),
    ],
    ids="+".join,
)  # fmt: skip
def test_a_damaged_run_comes_to_the_same_end_or_says_what_is_damaged(
    tmp_path, halfway, whole, caplog, names, kind
):
    rng = random.Random(f"{names} {kind}")
    right = what_came(whole)
    ends = {"right": 0, "error": 0}
    for attempt in range(12):
        path = tmp_path / str(attempt)
        shutil.copytree(halfway, path)
        for name in names:
            (path / name).write_bytes(damage((path / name).read_bytes(), kind, rng))
        caplog.clear()
        refused = error_of(lambda path=path: run(RunConfig(), path, resume=True))
        if refused:
            assert any(str(path / name) in refused for name in names), refused
            assert "\n" not in refused
            ends["error"] += 1
            continue
        assert what_came(path) == right
        ends["right"] += 1
        if names == CHECKPOINTS[:1]:
            (warning,) = caplog.messages
            assert f"{path / 'checkpoint.pt'} is not a readable checkpoint" in warning
            assert "the checkpoint before it" in warning
    if names in (CHECKPOINTS[:1], CHECKPOINTS[1:], ("result.json",), ("environment.json",)):
        assert ends["error"] == 0
    if names == CHECKPOINTS:
        assert ends["right"] == 0


@pytest.mark.parametrize("kind", ["flip", "cut"])
@pytest.mark.parametrize("name", ["best.pt", "metrics.jsonl", "result.json"])
def test_damage_to_a_run_that_is_over_never_changes_what_is_read(tmp_path, whole, name, kind):
    rng = random.Random(f"{name} {kind}")
    right = what_came(whole)
    path = tmp_path / "run"
    shutil.copytree(whole, path)
    content = (path / name).read_bytes()
    refused, came = 0, []
    for _ in range(60):
        (path / name).write_bytes(damage(content, kind, rng))
        error = error_of(lambda: came.append(what_came(path)))
        assert error == "" or str(path / name) in error
        refused += bool(error)
    assert set(came) <= {right}
    # The checkpoint has the weights too; white space may change in JSON.
    assert refused == 0 if name == "best.pt" else refused > 50


def test_damaged_weights_without_a_checkpoint_are_an_error(tmp_path, whole):
    path = tmp_path / "run"
    shutil.copytree(whole, path)
    for name in ("best.pt", "checkpoint.pt"):
        (path / name).write_bytes(b"torn")
    with pytest.raises(UserError, match=f"{path / 'best.pt'} is not a readable checkpoint"):
        RunFolder.open(path).read_weights()


def test_the_good_checkpoint_outlives_the_damaged_one(tmp_path, halfway, monkeypatch):
    # Were the damaged one kept as the one before, a kill between the renames would lose both.
    path = tmp_path / "run"
    shutil.copytree(halfway, path)
    good = (path / "checkpoint-previous.pt").read_bytes()
    (path / "checkpoint.pt").write_bytes(b"torn")
    folder = RunFolder.open(path)
    state = folder.read_checkpoint()
    folder.write_checkpoint(state)
    assert (path / "checkpoint-previous.pt").read_bytes() == good
    folder.write_checkpoint(state)
    assert (path / "checkpoint-previous.pt").read_bytes() == (path / "checkpoint.pt").read_bytes()


def test_a_folder_of_before_there_were_checksums_goes_on(tmp_path, halfway, whole):
    path = tmp_path / "run"
    shutil.copytree(halfway, path)
    for name in ("environment.json", "result.json"):
        value = json.loads((path / name).read_text())
        value.pop("checksums", None)
        value.pop("check", None)
        (path / name).write_text(json.dumps(value))
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        del line["check"]
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    state = torch.load(path / "checkpoint.pt", weights_only=True)
    del state["config"], state["nonfinite"]
    torch.save(state, path / "checkpoint.pt")
    (path / "checkpoint-previous.pt").unlink()
    run(RunConfig(), path, resume=True)
    assert what_came(path) == what_came(whole)


def test_nothing_is_unpickled_before_the_checksum_fits(tmp_path, halfway, monkeypatch):
    path = tmp_path / "run"
    shutil.copytree(halfway, path)
    content = pack({"anything": 1})
    for name in CHECKPOINTS:
        (path / name).write_bytes(content[:-1] + b"?")
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("loaded"))
    with pytest.raises(UserError, match="its checksum does not fit its content"):
        run(RunConfig(), path, resume=True)


# -- disks that are full or read-only -------------------------------------------------------------


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_a_write_that_fails_is_one_sentence_and_the_run_goes_on_later(
    tmp_path, whole, monkeypatch, code
):
    right = what_came(whole)
    for allowed in range(2, 13):
        path = tmp_path / f"{code}-{allowed}"
        left = iter(range(allowed))

        def full(descriptor, left=left):
            if next(left, None) is None:
                raise OSError(code, os.strerror(code))

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            with pytest.raises(UserError) as raised:
                run(CONFIG, path)
        text = str(raised.value)
        assert text.startswith(f"cannot write {path}/")
        assert os.strerror(code) in text
        assert "--resume" in text
        assert not [p.name for p in path.iterdir() if p.name.endswith(".part")]
        run(CONFIG, path, resume=True)
        assert what_came(path) == right


def test_a_disk_that_is_full_at_once_leaves_nothing_that_is_half_a_run(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(UserError, match=r"environment.json: No space left on device"):
            run(CONFIG, tmp_path / "run")
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"lock"}
    run(CONFIG, tmp_path / "run")


def test_a_folder_that_must_not_be_written_is_one_sentence(tmp_path, halfway, monkeypatch):
    path = tmp_path / "run"
    shutil.copytree(halfway, path)
    before = {p.name: p.read_bytes() for p in path.iterdir()}
    usual = os.open

    def read_only(name, flags, *args, **kwargs):
        if flags & (os.O_WRONLY | os.O_RDWR):
            raise PermissionError(errno.EACCES, "Permission denied", str(name))
        return usual(name, flags, *args, **kwargs)

    monkeypatch.setattr(os, "open", read_only)
    with pytest.raises(UserError, match=f"cannot write the run folder {path}: Permission denied"):
        run(RunConfig(), path, resume=True)
    assert {p.name: p.read_bytes() for p in path.iterdir()} == before


@linux
@pytest.mark.process
def test_a_limit_on_the_size_of_files_ends_the_command_with_2_and_it_goes_on_without(
    tmp_path, halfway, whole
):
    # The kernel cuts the write of a checkpoint in its middle.
    path = tmp_path / "run"
    shutil.copytree(halfway, path)
    size = (path / "checkpoint.pt").stat().st_size
    limited = (
        f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({size // 2},) * 2);"
        f"from rnnopt.cli.main import main; main(['train', '--resume', '--out', {str(path)!r}])"
    )
    done = forks.begin("forks:code", limited)
    error = done.communicate()[1]
    assert done.returncode == 2, error
    shown = " ".join(error.split())
    assert f"cannot write {path / 'checkpoint.pt'}: File too large" in shown
    assert "Traceback" not in shown
    run(RunConfig(), path, resume=True)
    assert what_came(path) == what_came(whole)


# -- workers and other processes ------------------------------------------------------------------


@linux
@pytest.mark.process
@pytest.mark.full
def test_the_run_of_a_killed_worker_process_continues_from_its_checkpoint(
    tmp_path, worker_processes
):
    long = replace(CONFIG, budget="300gradients", evaluate_every=30)
    jobs = [Job(replace(long, seed=seed), tmp_path / f"seed-{seed}") for seed in (1, 2, 3)]
    killed = []

    def kill_one(jobs):
        if not killed and RunFolder(jobs[0].path).read_records():
            killed.append(holder_of(jobs[0].path))
            os.kill(killed[0], signal.SIGKILL)
            kept.append((jobs[0].path / "metrics.jsonl").read_text().splitlines()[0])

    kept = []
    with Engine(2) as engine:
        assert engine.work(jobs, kill_one, threading.Event()) == []
    assert (jobs[0].path / "metrics.jsonl").read_text().startswith(kept[0])
    for job in jobs:
        run(job.config, tmp_path / "again" / job.path.name)
        assert what_came(job.path) == what_came(tmp_path / "again" / job.path.name)


@pytest.mark.process
@pytest.mark.full
def test_an_error_while_workers_train_waits_for_no_budget(tmp_path, worker_processes):
    job = Job(replace(CONFIG, budget="10m", evaluate_every=30), tmp_path / "run")

    def tell(jobs):
        if RunFolder(job.path).read_records():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), Engine(1) as engine:
        engine.work([job], tell, threading.Event())  # would be ten minutes
    assert RunFolder(job.path).read_result()["status"] == "interrupted"


@linux
@pytest.mark.parametrize("verb", ["compare", "sweep"])
@pytest.mark.process
@pytest.mark.full
def test_ctrl_c_while_workers_start_prints_no_traceback(tmp_path, verb):
    asked = ["--task", "counting", "--budget", "1h", "--workers", "1", "--out", tmp_path / "c"]
    with forks.begin("forks:rnnopt", verb, *asked, "--quiet") as process:

        def worker_starts():
            lists = Path(f"/proc/{process.pid}/task").glob("*/children")  # each thread has its own
            children = " ".join(one.read_text() for one in lists).split()
            lines = [Path(f"/proc/{child}/cmdline") for child in children]
            return any("spawn_main" in line.read_text() for line in lines)

        wait_until(worker_starts)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does it
        error = process.communicate(timeout=60)[1]
    assert (process.returncode, error) == (130, "")


@linux
@pytest.mark.process
@pytest.mark.full
def test_no_worker_outlives_a_comparison_that_is_killed(tmp_path):
    asked = [
        "--task", "counting", "--budget", "1h", "--evaluate-every", "10", "--optimizers", "adam",
        "--seeds", "0", "--workers", "1", "--out", tmp_path / "c", "--quiet",
    ]  # fmt: skip
    path = tmp_path / "c" / "adam" / "seed-0"
    with forks.begin("forks:rnnopt", "compare", *asked) as process:
        wait_until(lambda: len(RunFolder(path).read_records()) > 1)
        process.kill()

    def free():  # nobody is left that has it
        with suppress(UserError), RunFolder(path).locked():
            return True

    wait_until(free)


def wait_until(done, seconds=60):
    """Waits for something that another process does."""
    started = time.monotonic()
    while not done():
        assert time.monotonic() - started < seconds
        time.sleep(0.05)


def test_a_folder_that_another_process_begins_a_run_in_is_left_alone(tmp_path):
    refusal = pytest.raises(UserError, match=f"{tmp_path / 'run'} is in use by another process")
    with RunFolder(tmp_path / "run").locked(), refusal:
        run(CONFIG, tmp_path / "run")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["lock"]


def test_a_run_whose_best_weights_are_gone_has_those_of_its_checkpoint(whole, tmp_path, caplog):
    path = shutil.copytree(whole, tmp_path / "run")
    expected = RunFolder(path).read_weights()
    (path / "best.pt").unlink()
    assert_equal_states(RunFolder(path).read_weights(), expected)
    assert "the weights are taken from checkpoint.pt" in caplog.text
    (path / "checkpoint.pt").unlink()
    with pytest.raises(UserError, match=naming("best.pt", "checkpoint")):
        RunFolder(path).read_weights()


def test_metrics_without_a_checkpoint_are_not_begun_anew(halfway, tmp_path):
    path = shutil.copytree(halfway, tmp_path / "run")
    before = (path / "metrics.jsonl").read_bytes()
    for name in CHECKPOINTS:
        (path / name).unlink()
    with pytest.raises(UserError, match=naming("checkpoint.pt", "3")):
        run(CONFIG, path, resume=True)
    assert (path / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize("over", [True, False])
def test_a_line_of_metrics_that_is_gone_is_missed_wherever_it_was(whole, over, tmp_path):
    path = shutil.copytree(whole, tmp_path / "run")
    lines = (path / "metrics.jsonl").read_text().splitlines(keepends=True)
    (path / "metrics.jsonl").write_text("".join(lines[:1] + lines[2:]))
    if over:
        with pytest.raises(UserError, match=naming("metrics.jsonl", "5", "4")):
            run(CONFIG, path, resume=True)
        return
    # The four lines are as many as the checkpoint before had, but not those.
    (path / "result.json").unlink()
    with pytest.raises(UserError, match=r"cut short.*line 4 must be of 9 gradients, got 12"):
        run(CONFIG, path, resume=True)


def test_a_comparison_that_another_process_works_on_is_refused(tmp_path, command):
    given = ["--task", "counting", "--budget", "2gradients", "--out", tmp_path / "c"]
    with RunFolder(tmp_path / "c").locked():
        code, _, error = command("compare", *given)
    assert code == 2
    assert "in use by another process" in " ".join(error.split())


@pytest.mark.process
def test_a_lock_dies_with_its_process(tmp_path):
    code = (
        "import os, signal; from pathlib import Path; from rnnopt.runs.folder import RunFolder\n"
        f"with RunFolder(Path({str(tmp_path)!r})).locked():\n"
        "    os.kill(os.getpid(), signal.SIGKILL)"
    )
    forks.begin("forks:code", code).wait()
    assert (tmp_path / "lock").exists()
    with RunFolder(tmp_path).locked():
        pass


@linux
@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS])
def test_a_file_system_without_locks_is_named(code, tmp_path, monkeypatch):
    def no_locks(*how):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("fcntl.flock", no_locks)
    refusal = pytest.raises(UserError, match=f"{tmp_path} cannot be locked: {os.strerror(code)}")
    with refusal, RunFolder(tmp_path).locked():
        pass


# -- the same again -------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("optimizer", partly(["frank-wolfe", "asnaq", "admm"], ["asnaq"]))
def test_the_same_run_with_as_many_threads_is_the_same_bit_for_bit(tmp_path, optimizer, threads):
    config = replace(CONFIG, optimizer=optimizer, threads=threads, hidden=96, budget="4gradients")
    try:
        for name in ("one", "two"):
            run(config, tmp_path / name)
    finally:
        torch.set_num_threads(1)
    assert what_came(tmp_path / "one") == what_came(tmp_path / "two")
