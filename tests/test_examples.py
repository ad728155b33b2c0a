"""What the scripts in examples/ promise, with the real libraries: each runs at small size, learns,
and where it resumes from a checkpoint in mid-cycle, ends with the very same weights. What they say
of the libraries is tried too.
"""

import contextlib
import io
import os
import re
import runpy
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parent.parent / "examples"
# The library that a script shows, the accuracy that --quick reaches at the least (chance is 0.1),
# and how many resumed trainings it compares with uninterrupted ones.
SCRIPTS = {
    "accelerate_loop": ("accelerate", 0.6, 1),
    "accumulation_and_averaging": ("torch", 0.8, 0),
    "distributed_training": ("torch", 0.8, 0),
    "lightning_trainer": ("lightning", 0.6, 2),
    "mixed_precision": ("torch", 0.8, 0),
    "scikit_learn_search": ("sklearn", 0.7, 0),
    "skorch_net": ("skorch", 0.7, 0),
    "transformers_trainer": ("transformers", 0.6, 1),
}

# What these libraries warn of, about themselves and each other, is not ours to mend.
pytestmark = pytest.mark.filterwarnings("ignore")


@cache
def run(name):
    """Runs a script as `python examples/NAME.py --quick` does: its variables, and what it printed.

    In this process, so that torch is imported once; what a script changes here is put back.
    """
    pytest.importorskip(SCRIPTS[name][0])
    printed, environment, arguments = io.StringIO(), dict(os.environ), sys.argv
    random, modules = torch.random.get_rng_state(), set(sys.modules)
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        sys.argv, sys.path = [f"{name}.py", "--quick"], [str(FOLDER), *sys.path]
        try:
            with contextlib.redirect_stdout(printed):
                variables = runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")
        finally:
            sys.argv, sys.path = arguments, sys.path[1:]
            os.environ.clear()
            os.environ.update(environment)
            torch.random.set_rng_state(random)
            for added in {"digits"} - modules:
                sys.modules.pop(added, None)
        assert list(Path(folder).iterdir()) == []  # nothing is left where it was started
    return variables, printed.getvalue()


def test_every_script_is_tried_and_short():
    scripts = {path.stem: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.py")}
    assert set(SCRIPTS) == set(scripts) - {"digits"}
    lengths = {name: sum(map(bool, text.splitlines())) for name, text in scripts.items()}
    assert max(lengths.values()) < 60, lengths


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_script_learns_and_resumes_bit_for_bit(name):
    _, least, comparisons = SCRIPTS[name]
    printed = run(name)[1]
    reached = [float(number) for number in re.findall(r"accuracy (\d\.\d+)", printed)]
    assert reached, printed
    assert min(reached) > least, printed
    assert printed.count("resumed ends the same: True") == comparisons, printed
    assert "resumed ends the same: False" not in printed


def test_two_processes_train_together():
    script = [str(FOLDER / "distributed_training.py"), "--quick"]
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    done = subprocess.run(
        launch + script, capture_output=True, text=True, timeout=120,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = re.fullmatch(r"2 processes: test accuracy (.*), local steps (.*)\n", done.stdout)
    assert found, done.stdout
    assert min(map(float, found.groups())) > 0.8


def committed_accuracy(variables, optimizer, network):
    _, data = variables["digits"](True)
    with optimizer.committed(), torch.no_grad():
        answers = network.eval()(data.tensors[0]).argmax(1)
    return (answers == data.tensors[1]).float().mean().item()


def test_lightning_evaluates_the_committed_weights_in_mid_cycle():
    variables = run("lightning_trainer")[0]
    whole = variables["whole"]
    (optimizer,) = whole.optimizers
    assert optimizer.inner_step == 4 * 10 % 3
    expected = committed_accuracy(variables, optimizer, whole.lightning_module.network)
    assert whole.callback_metrics["accuracy"].item() == pytest.approx(expected)


def test_lightnings_closure_stays_on_one_minibatch_and_streaming_does_not():
    fit = run("lightning_trainer")[0]["fit"]
    closure, streaming = (fit(True, form, 2).optimizers[0] for form in (False, True))
    assert (closure.param_groups[0]["commits"], closure.inner_step) == (20, 0)
    assert (streaming.param_groups[0]["commits"], streaming.inner_step) == (20 // 3, 20 % 3)


def test_lightnings_manual_step_counts_one_gradient_three_times():
    lightning = pytest.importorskip("lightning")
    variables = run("lightning_trainer")[0]

    class Manual(variables["Digits"]):
        automatic_optimization = False

        def training_step(self, batch, number):
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(super().training_step(batch, number))
            optimizer.step()

    module, (data, _) = Manual(streaming=False), variables["digits"](True)
    options = dict.fromkeys(variables["QUIET"], False)
    trainer = lightning.Trainer("cpu", max_steps=1, **options)
    trainer.fit(module, torch.utils.data.DataLoader(data, 32))
    assert trainer.optimizers[0].param_groups[0]["commits"] == 1  # after one gradient, K = 3


def test_accelerates_and_trainers_optimizers_unwrap_to_ours():
    transformers = run("transformers_trainer")[0]
    trainer = transformers["whole"]
    network = trainer.model

    def logits(inputs):
        return super(type(network), network).forward(inputs)

    _, data = transformers["digits"](True)
    with trainer.optimizer.optimizer.committed(), torch.no_grad():
        right = logits(data.tensors[0]).argmax(1) == data.tensors[1]
    assert transformers["reached"] == pytest.approx(right.float().mean().item())


def test_skorchs_own_step_takes_three_gradients_of_one_minibatch():
    skorch = pytest.importorskip("skorch")
    variables = run("skorch_net")[0]
    inputs, targets = variables["digits"](True)[0].tensors
    options = dict(
        criterion=torch.nn.CrossEntropyLoss,
        optimizer=variables["FrankWolfe"],
        optimizer__inner_steps=3,
        max_epochs=1,
        batch_size=32,
        train_split=None,
        verbose=0,
    )
    calls = {}
    for kind in (skorch.NeuralNetClassifier, variables["FrankWolfeClassifier"]):

        class Counting(kind):
            def train_step_single(self, batch, **more):
                calls[kind] = calls.get(kind, 0) + 1  # noqa: B023
                return super().train_step_single(batch, **more)

        Counting(variables["Network"], **options).fit(inputs.numpy(), targets.numpy())
    assert list(calls.values()) == [30, 10]


def test_a_scaler_leaves_out_a_gradient_that_overflowed():
    variables = run("mixed_precision")[0]
    network = variables["Network"]()
    optimizer = variables["FrankWolfe"](network.parameters(), lr=1e-3)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    before = network.network.output.weight.detach().clone()
    loss = network(torch.ones(1, 8, 8)).sum()
    scaler.scale(loss * torch.inf).backward()
    scaler.step(optimizer)
    scaler.update()
    assert torch.equal(network.network.output.weight, before)
    assert scaler.get_scale() == 1.0
    assert variables["train"](True, scaled=False) > 0.8
