"""Every learner and option of the loop in two processes, which make the run of one."""

import json
import shutil
import sys

import forks
import pytest
import shared_runs
import torch
from same_runs import assert_same_run, curves

from rnnopt.config.errors import UserError
from rnnopt.config.run_config import RunConfig
from rnnopt.runs.folder import RunFolder
from rnnopt.runs.runner import run

pytestmark = [
    pytest.mark.full,
    pytest.mark.process,
    pytest.mark.skipif(
        sys.platform != "linux" or not torch.distributed.is_gloo_available(),
        reason="needs gloo",
    ),
]
LIMIT = 240  # seconds
DIGITS = dict(task="digits-rows", hidden=8, batch_size=33, evaluate_every=10, budget="40gradients")
# A minibatch of three, of which a process soon has none that goes on, or from the start none.
SERIES = dict(data="{folder}/series.csv", hidden=6, batch_size=3, evaluate_every=9,
              budget="45gradients")  # fmt: skip
NORMED = dict(model="indrnn", layers=2, batch_norm=True, dropout=0.3)
RUNS = {
    "admm": DIGITS | dict(optimizer="admm"),
    "admm-gru": DIGITS | dict(optimizer="admm", model="gru", budget="10gradients"),
    "admm-series": SERIES | dict(optimizer="admm", batch_size=7, budget="20gradients"),
    "admm-kept": DIGITS
    | dict(optimizer="admm:variant=blocks,keep_batch=True", batch_size=None, budget="60gradients",
           interrupt=2),
    "lbfgs": DIGITS | dict(optimizer="lbfgs:lr=0.5", batch_size=None, budget="200gradients"),
    "normed": DIGITS | NORMED | dict(optimizer="adam"),
    "normed-series": SERIES | NORMED | dict(optimizer="frank-wolfe:norm=spectral", lr=1e-3),
    "normed-adaqn": DIGITS | NORMED | dict(optimizer="adaqn:memory=3", lr=0.05),
    "dropout-asnaq": DIGITS | dict(optimizer="asnaq", dropout=0.4, model="lstm"),
    "tbptt": DIGITS
    | dict(optimizer="frank-wolfe:norm=spectral", lr=1e-3, tbptt=3, interrupt=7),
    "tbptt-series": SERIES | NORMED
    | dict(optimizer="adam", tbptt=2, tbptt_backward=3),
    "tbptt-every": SERIES | dict(optimizer="adam", tbptt=3, readout="every"),
    "refit": SERIES | dict(optimizer="sgd", model="gru", lr=0.1, refit=True, warp=0.2),
    "skip": DIGITS | dict(optimizer="adam", on_nonfinite="skip", poison=[3, 11, 12]),
    "skip-asnaq": DIGITS | dict(optimizer="asnaq", on_nonfinite="skip", poison=[3, 12]),
    "restore": DIGITS | NORMED | dict(optimizer="adam", on_nonfinite="restore", poison=[13]),
    "skip-admm": DIGITS | dict(optimizer="admm", on_nonfinite="skip"),
}  # fmt: skip
COMMIT = DIGITS | dict(optimizer="frank-wolfe:communicate=commit,inner_steps=3", dropout=0.2)
KEPT = RUNS["admm-kept"] | dict(evaluate_every=19, budget="260gradients")
RESTART = dict(schedule="plateau-restart", patience=1.0)  # an epoch, after which the best goes on
# Each also interrupted after so many steps and resumed: the same to the bit.
RESUMED = {
    "commit": (COMMIT, 13),
    "commit-tbptt": (COMMIT | dict(tbptt=5), 7),
    "commit-restart": (
        COMMIT | RESTART
        | dict(optimizer=COMMIT["optimizer"] + ",norm=spectral,momentum=0.9", lr=0.1, decay=0.8,
               evaluate_every=19, budget="230gradients"), 100,
    ),
    "kept-restart": (KEPT | RESTART, 8),
    "kept-restored": (KEPT | dict(on_nonfinite="restore", broken=9), 8),
    "tbptt-series": (RUNS["tbptt-series"], 13),
}  # fmt: skip
ALONE = {"raise": DIGITS | dict(optimizer="adam", on_nonfinite="raise", poison=[5])}
for name, (settings, steps) in RESUMED.items():
    ALONE |= {f"{name}-whole": settings, f"{name}-resumed": settings | dict(interrupt=steps)}


def placed(runs, folder):
    """The runs with the data of a folder."""
    return {
        name: {k: v.format(folder=folder) if k == "data" else v for k, v in settings.items()}
        for name, settings in runs.items()
    }


def write_series(folder):
    """Series of 1 to 9 steps, labelled by whether they rise."""
    rng = torch.Generator().manual_seed(3)
    lines = ["id,time,a,label"]
    for series in range(60):
        length = int(torch.randint(1, 10, (), generator=rng))
        slope = 1 if series % 2 else -1
        for step in range(length):
            value = slope * step / 9 + float(torch.randn((), generator=rng)) / 5
            lines.append(f"{series},{step},{value:.4f},{'up' if slope > 0 else 'down'}")
    (folder / "series.csv").write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def of_two(tmp_path_factory):
    """The folder with what two processes made."""
    folder = tmp_path_factory.mktemp("two")
    write_series(folder)
    (folder / "runs.json").write_text(json.dumps(placed(RUNS | ALONE, folder)))
    for process in forks.as_torchrun("shared_runs:main", folder):
        printed = process.communicate(LIMIT)
        assert process.returncode == 0, printed
    return folder


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_make_the_run_of_one(name, of_two, tmp_path):
    settings = placed(RUNS, of_two)[name]
    shared_runs.make({k: v for k, v in settings.items() if k != "interrupt"}, tmp_path / "one")
    found, expected = curves(of_two / name), curves(tmp_path / "one")
    assert len(found) >= 2
    for pair in zip(found, expected, strict=True):
        assert pair[0] == pytest.approx(pair[1], rel=1e-3, abs=1e-5, nan_ok=True)
    folders = [RunFolder.open(path) for path in (of_two / name, tmp_path / "one")]
    weights = [folder.read_weights() for folder in folders]
    torch.testing.assert_close(*weights, rtol=1e-3, atol=2e-4)
    if "poison" in settings:
        met = [folder.read_result()["nonfinite"] for folder in folders]
        assert met == [len(settings["poison"])] * 2


@pytest.mark.parametrize("name", RESUMED)
def test_a_shared_run_resumes_to_the_bit(name, of_two):
    assert_same_run(of_two / f"{name}-whole", of_two / f"{name}-resumed")


@pytest.mark.parametrize(("name", "gradients"), [("commit", 40), ("commit-tbptt", 80)])
def test_between_two_commits_each_process_is_elsewhere(name, gradients, of_two):
    checkpoint = RunFolder.open(of_two / f"{name}-whole").read_checkpoint()
    assert checkpoint["optimizer"]["param_groups"][0]["commits"] == gradients // 3
    probes = [own["model"]["output.weight"] for own in checkpoint["of_processes"]]
    assert not torch.equal(*probes)  # the last gradient is between two commits


def test_restarts_and_restores_have_happened(of_two):
    assert RunFolder.open(of_two / "kept-restored-whole").read_result()["nonfinite"] == 1
    for name in ("kept-restart", "commit-restart"):
        rates = [r["lr"] for r in RunFolder.open(of_two / f"{name}-whole").read_records()]
        assert rates[-1] < rates[0]


def test_states_of_two_processes_are_refused_by_one(of_two, tmp_path):
    shutil.copytree(of_two / "commit-whole", tmp_path / "run")
    (tmp_path / "run" / "result.json").unlink()
    with pytest.raises(UserError, match="was begun by 2 processes with states .* needs as many"):
        run(RunConfig(), tmp_path / "run", resume=True)


def test_a_loss_that_is_not_finite_in_one_process_is_raised_in_all(of_two):
    sentence = (of_two / "raise" / "sentence").read_text()
    assert sentence.startswith("step 5 (5 gradients): the loss is nan. Take a smaller lr")
    assert RunFolder.open(of_two / "raise").read_result()["status"] == "failed"
