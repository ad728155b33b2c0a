"""What `rnnopt train` promises under torchrun: the run of one process in one folder, one sentence
where it cannot be shared, and after a process was killed the same end from the last checkpoint."""

import os
import signal
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import forks
import pytest
import torch
from cases import partly
from same_runs import curves
from stepping import frank_wolfe

from rnnopt import ADMM, SequenceModel
from rnnopt.config.errors import UserError
from rnnopt.config.run_config import Budget, RunConfig
from rnnopt.runs import shared_folder
from rnnopt.runs.folder import RunFolder
from rnnopt.runs.runner import run
from rnnopt.tasks import build_task
from rnnopt.tasks.batches import Batches
from rnnopt.tasks.examples import Examples
from rnnopt.tasks.task import Task
from rnnopt.training import data_parallel as several_processes
from rnnopt.training.data_parallel import SharedBatches
from rnnopt.training.learner import as_learner
from rnnopt.training.loop import Training
from rnnopt.training.registry import build_optimizer

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or not torch.distributed.is_gloo_available(),
    reason="needs torchrun with gloo, and /proc",
)
LIMIT = 90  # seconds
# Minibatches that two processes cannot halve; the last of an epoch is smaller.
SETTINGS = dict(
    task="digits-pixels", hidden=12, batch_size=33, evaluate_every=20, budget="120gradients"
)
OPTIMIZERS = {
    "frank-wolfe": "frank-wolfe:inner_steps=3,norm=spectral,lr=0.001",
    "asnaq": "asnaq:update_every=2",
}


def launch(out, optimizer, *more, restarts=2):
    settings = [f"--{k.replace('_', '-')}={v}" for k, v in SETTINGS.items()]
    return subprocess.Popen(
        [
            sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2",
            f"--max-restarts={restarts}", "-m", "rnnopt", "train", *settings,
            f"--optimizer={optimizer}", f"--out={out}", *more,
        ],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
    )  # fmt: skip


def ended(process):
    try:
        printed, _ = process.communicate(timeout=LIMIT)
    except subprocess.TimeoutExpired:
        process.terminate()  # which the agent hands on to its processes
        printed, _ = process.communicate()
        pytest.fail(f"not over after {LIMIT} s:\n{printed}")
    return process.returncode, printed


@pytest.fixture(scope="module")
def of_two(tmp_path_factory):
    """The undisturbed run of two processes, by optimizer."""
    found = {}

    def of(optimizer):
        if optimizer not in found:
            out = tmp_path_factory.mktemp("two") / "run"
            code, printed = ended(launch(out, OPTIMIZERS[optimizer]))
            assert code == 0, printed
            assert printed.count("status out of budget") == 1  # one of them speaks
            found[optimizer] = RunFolder.open(out)
        return found[optimizer]

    return of


@pytest.mark.process
@pytest.mark.parametrize("optimizer", partly(OPTIMIZERS, ["frank-wolfe"]))
def test_two_processes_make_the_run_of_one(optimizer, of_two, tmp_path):
    config = RunConfig(**SETTINGS, optimizer=OPTIMIZERS[optimizer])
    result = run(config, tmp_path / "one")
    several = of_two(optimizer)
    assert several.read_config() == RunFolder.open(tmp_path / "one").read_config()
    pairs = zip(curves(several.path), curves(tmp_path / "one"), strict=True)
    for found, expected in pairs:
        assert found == pytest.approx(expected, rel=1e-3, nan_ok=True)
    assert several.read_result()["test_loss"] == pytest.approx(result["test_loss"], rel=1e-3)
    one = RunFolder.open(tmp_path / "one").read_weights()
    torch.testing.assert_close(several.read_weights(), one, rtol=1e-3, atol=1e-4)


def workers_of(agent):
    """Process ids of the agent's children that run rnnopt."""
    children = Path(f"/proc/{agent}/task/{agent}/children").read_text().split()
    commands = {c: Path(f"/proc/{c}/cmdline").read_bytes() for c in children}
    return [int(child) for child, command in commands.items() if b"rnnopt" in command]


@pytest.mark.process
@pytest.mark.full
def test_after_a_process_was_killed_the_restarted_ones_reach_the_same_end(of_two, tmp_path):
    out = tmp_path / "run"
    process = launch(out, OPTIMIZERS["frank-wolfe"])
    deadline = time.monotonic() + LIMIT
    while time.monotonic() < deadline and len(RunFolder(out).read_records()) < 2:
        time.sleep(0.002)
    assert RunFolder(out).read_result()["status"] == "running"
    os.kill(workers_of(process.pid)[-1], signal.SIGKILL)
    code, printed = ended(process)
    assert code == 0, printed
    assert "SIGKILL" in printed or "exitcode: -9" in printed
    assert "failed with RuntimeError" not in printed
    undisturbed = of_two("frank-wolfe")
    assert curves(out) == curves(undisturbed.path)
    same = [RunFolder(out).read_weights(), undisturbed.read_weights()]
    assert all(torch.equal(*pair) for pair in zip(*(s.values() for s in same), strict=True))


@pytest.mark.process
@pytest.mark.full
def test_a_folder_that_holds_a_run_is_refused_once(of_two):
    folder = of_two("frank-wolfe")
    before = {path: path.read_bytes() for path in folder.path.iterdir()}
    code, printed = ended(launch(folder.path, "frank-wolfe", "--quiet", restarts=1))
    assert code != 0
    assert "already holds a run" in printed  # again in each restart: torchrun knows no final error
    assert "rnnopt: failed" not in printed
    assert {path: path.read_bytes() for path in folder.path.iterdir()} == before


@pytest.mark.process
def test_a_process_that_loses_the_other_says_so_and_an_error_of_its_own_stays_what_it_is():
    left, gone = forks.as_torchrun("shared_runs:breaks", "lost")
    assert "process 0: another process has ended" in left.communicate()[1]
    assert gone.wait() == 3
    for process in forks.as_torchrun("shared_runs:breaks", "own"):
        error = process.communicate()[1].splitlines()
        assert error[-1] == "RuntimeError: of ours"


def test_other_verbs_are_refused_under_torchrun(command, monkeypatch):
    for name, value in dict(TORCHELASTIC_RUN_ID="x", WORLD_SIZE="2", RANK="0").items():
        monkeypatch.setenv(name, value)
    code, output, error = command("compare", "--task", "digits-pixels")
    assert (code, output) == (2, "")
    assert error == "rnnopt: compare works in one process: start it without torchrun.\n"
    monkeypatch.setenv("RANK", "1")
    assert command("compare")[::2] == (2, "")


def test_what_one_process_meets_alone_is_said_with_its_number(command, monkeypatch):
    for name, value in dict(TORCHELASTIC_RUN_ID="x", WORLD_SIZE="2", RANK="1").items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("rnnopt.layers.kernels.cpu.SWITCH", "RNNOPT_TEST_SWITCH")
    monkeypatch.setenv("RNNOPT_TEST_SWITCH", "fast")  # perhaps on this machine alone
    code, output, error = command("train")
    assert (code, output) == (2, "")
    sentence = "RNNOPT_TEST_SWITCH must be plain or unset, got 'fast'."
    assert error == f"rnnopt: process 1: {sentence}\n"


def test_the_first_process_says_what_all_meet_and_another_what_it_meets_alone(monkeypatch):
    store = torch.distributed.HashStore()
    monkeypatch.setattr(several_processes, "WAIT", timedelta(seconds=0.05))
    assert not several_processes._first_prints(store, "a file is missing.")
    store.set(several_processes.ERROR_KEY, "a file is missing.")
    assert several_processes._first_prints(store, "a file is missing.")
    assert not several_processes._first_prints(store, "another is.")


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (RuntimeError("[gloo/transport/tcp/pair.cc] Connection closed by peer"), True),
        (torch.distributed.DistNetworkError("the store is gone"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
    ],
)
def test_a_process_that_is_left_alone_knows_it(error, lost):
    assert several_processes._is_lost_process(error) == lost


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (UserError("too large."), "too large."),
        (ValueError("of ours"), "the first process failed with ValueError: of ours"),
        (KeyboardInterrupt(), "the first process failed with KeyboardInterrupt: "),
    ],
)
def test_whatever_the_first_process_meets_the_others_are_told(error, told, monkeypatch):
    heard = []
    monkeypatch.setattr(
        shared_folder.distributed, "broadcast_object_list", lambda m, src: heard.extend(m)
    )
    with pytest.raises(type(error)), shared_folder.broadcast_error():
        raise error
    assert heard == [told]


@pytest.fixture
def first_of_torchrun(monkeypatch):
    """This process as the first that torchrun has started again, whose words nobody hears."""
    for name, value in dict(
        TORCHELASTIC_RUN_ID="x", WORLD_SIZE="2", RANK="0", TORCHELASTIC_RESTART_COUNT="1"
    ).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(
        shared_folder.distributed, "broadcast_object_list", lambda message, src: None
    )


def test_a_folder_without_a_config_is_begun_anew_and_with_one_gone_on_with(
    first_of_torchrun, monkeypatch, tmp_path
):
    def killed(*_):
        raise KeyboardInterrupt

    out = tmp_path / "run"
    with monkeypatch.context() as patches:
        patches.setattr(shared_folder.RunFolder, "create", killed)
        with pytest.raises(KeyboardInterrupt):
            shared_folder.LeaderFolder.create(out, RunConfig())
    assert [path.name for path in out.iterdir()] == ["torchrun.json"]
    assert not shared_folder.goes_on(out, False)
    shared_folder.LeaderFolder.create(out, RunConfig())
    assert shared_folder.goes_on(out, False)
    with pytest.raises(UserError, match="already holds a run"):
        shared_folder.LeaderFolder.create(out, RunConfig())


def test_a_note_that_cannot_be_written_is_one_sentence(first_of_torchrun, tmp_path):
    (tmp_path / "run" / "torchrun.json").mkdir(parents=True)
    with pytest.raises(UserError, match=r"^cannot write .*torchrun\.json: "):
        shared_folder.LeaderFolder.create(tmp_path / "run", RunConfig())
    assert not (tmp_path / "run" / "config.json").exists()


def of_sequences(count, batch_size):
    """Batches of stored sequences."""
    examples = Examples(torch.zeros(count, 2, 2), torch.zeros(count, dtype=torch.long))
    task = Task("t", "", 2, 3, "cross-entropy", 1.0, examples, examples, examples, count)
    return Batches(task, batch_size, seed=0)


@pytest.mark.parametrize(
    ("config", "model", "communicate", "batches", "reason"),
    [
        (RunConfig(), {}, "gradient", of_sequences(8, 1), "minibatches of 1, too few"),
        (
            RunConfig(optimizer="admm"),
            {},
            None,
            of_sequences(9, 4),
            "admm, whose last minibatch of an epoch has 1",
        ),
        (RunConfig(), dict(batch_norm=True), "commit", of_sequences(8, 4), ".* normalisation"),
        (RunConfig(on_nonfinite="skip"), {}, "commit", of_sequences(8, 4), ".* on-nonfinite skip"),
    ],
)
def test_what_cannot_be_shared_is_refused(config, model, communicate, batches, reason, monkeypatch):
    network = SequenceModel(2, 3, 3)
    optimizer = ADMM(network, "cross-entropy")
    if communicate:
        optimizer = frank_wolfe(network.parameters(), communicate=communicate)
    monkeypatch.setattr(several_processes, "processes", lambda: 2)
    with pytest.raises(UserError, match=f"^2 processes cannot share a run with {reason}"):
        several_processes.check_shareable(config, model, as_learner(optimizer), batches)


def test_small_last_minibatches_are_for_all_but_admm(monkeypatch):
    monkeypatch.setattr(several_processes, "processes", lambda: 2)
    network = SequenceModel(2, 3, 3)
    kept = ADMM(network, "cross-entropy", variant="blocks", keep_batch=True)
    for optimizer in (kept, build_optimizer("muon", list(network.named_parameters()))):
        several_processes.check_shareable(
            RunConfig(), {}, as_learner(optimizer), of_sequences(9, 4)
        )


@pytest.mark.parametrize("each_step", [False, True])
def test_the_shares_of_a_batch_weighted_make_its_mean(each_step, monkeypatch):
    rng = torch.Generator().manual_seed(0)
    lengths = torch.tensor([1, 4, 2, 3, 4, 1, 2])
    inputs, targets = torch.randn(7, 4, 2, generator=rng), torch.randint(3, (7,), generator=rng)
    examples = Examples(inputs, targets, lengths)
    task = Task("t", "", 2, 3, "cross-entropy", 1.0, examples, examples, examples, 7)

    def losses(batches):
        found = []
        for _ in range(4):  # of 5 and of 2 sequences, in turn
            batch = batches.draw()
            outputs = batch.inputs.tanh() @ torch.ones(2, 3).cumsum(1)
            outputs = outputs if each_step else outputs[0]
            share = 1.0 if batches.part is None else batches.share(batches.part)
            found.append(float(task.loss_of(outputs, batch)) * share)
        return torch.tensor(found)

    expected = losses(Batches(task, 5, seed=1))
    monkeypatch.setattr(several_processes, "processes", lambda: 3)
    parts = []
    for rank in range(3):
        monkeypatch.setattr(several_processes.distributed, "get_rank", lambda rank=rank: rank)
        parts.append(losses(SharedBatches(task, 5, 1, each_step)))
    torch.testing.assert_close(torch.stack(parts).mean(0), expected)


@pytest.mark.parametrize(("communicate", "every"), [("gradient", 1), ("commit", 5)])
def test_processes_agree_on_losses_when_they_commit(communicate, every, monkeypatch):
    monkeypatch.setattr(several_processes.distributed, "get_rank", lambda: 0)
    task = build_task("digits-rows")
    model = SequenceModel(task.input_size, 4, task.output_size)
    optimizer = frank_wolfe(model.parameters(), inner_steps=5, communicate=communicate)
    batches = SharedBatches(task, 64, 0, answers_each_step=False)
    training = Training(model, optimizer, task, batches, Budget.parse("22gradients"),
                        evaluate_every=9)  # fmt: skip
    met = []

    def log(numbers):
        met.append((training.closure.calls, len(numbers)))
        return numbers

    monkeypatch.setattr("rnnopt.training.loop.mean_numbers", log)
    monkeypatch.setattr("rnnopt.training.loop.any_of", lambda decision: log([decision])[0])
    losses = [p.record["train_loss"] for p in training.run() if p.record]
    agreed, looks = set(range(every, 23, every)), {0, 9, 18, 22}
    assert {calls for calls, count in met if count == 3} == agreed | looks
    assert {calls for calls, count in met if count == 2} == looks
    assert {calls for calls, count in met if count == 1} == (agreed | looks) - {22}
    assert training.own_sums == [0.0, 0.0, 0.0]
    assert training.seconds > 0
    assert all(loss > 1 for loss in losses[1:])
