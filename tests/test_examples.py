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
from cases import partly

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
pytestmark = [pytest.mark.docs, pytest.mark.filterwarnings("ignore")]


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


@pytest.mark.parametrize("name", partly(SCRIPTS, ["accumulation_and_averaging", "skorch_net"]))
def test_the_script_learns_and_resumes_bit_for_bit(name):
    _, least, comparisons = SCRIPTS[name]
    printed = run(name)[1]
    reached = [float(number) for number in re.findall(r"accuracy (\d\.\d+)", printed)]
    assert reached, printed
    assert min(reached) > least, printed
    assert printed.count("resumed ends the same: True") == comparisons, printed
    assert "resumed ends the same: False" not in printed


@pytest.mark.process
@pytest.mark.full
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


# Too large a rate: the best epoch is not the last one, and the mean is not the weights trained.
WILD = 0.6


@pytest.mark.full
def test_lightnings_best_checkpoint_holds_the_weights_that_were_scored():
    variables = run("lightning_trainer")[0]

    class Wild(variables["Digits"]):
        def configure_optimizers(self):
            optimizer = super().configure_optimizers()
            optimizer.param_groups[0]["lr"] = WILD
            return optimizer

        def on_train_epoch_start(self):
            super().on_train_epoch_start()
            if self.current_epoch == 5:  # whatever the processor rounds, the last is not the best
                self.optimizers().param_groups[0]["lr"] = 1e3

    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setitem(variables["fit"].__globals__, "Digits", Wild)
        trainer, accuracy = variables["fit"](True, True, 6, folder)
        best = torch.load(f"{folder}/best.ckpt", weights_only=True)
    (checkpoint,) = trainer.checkpoint_callbacks
    assert best["epoch"] < 5
    assert accuracy == pytest.approx(float(checkpoint.best_model_score))
    # The model of a checkpoint is the mean, what is trained is in the optimizer's state.
    (group,) = best["optimizer_states"][0]["param_groups"]
    assert not group["train_mode"]
    state = best["optimizer_states"][0]["state"]
    for number, value in enumerate(best["state_dict"].values()):
        assert torch.equal(value, state[number]["average"])
        assert not torch.equal(value, state[number]["written"])


@pytest.mark.full
def test_lightnings_closure_accumulates_where_minibatches_are():
    # Three calls on the second of two minibatches: its gradient counts three times, the first once.
    lightning = pytest.importorskip("lightning")
    variables = run("lightning_trainer")[0]
    seen = []

    class Counting(variables["Digits"]):
        def training_step(self, batch, number):
            seen.append(number)
            return super().training_step(batch, number)

    data = torch.utils.data.DataLoader(variables["digits"](True)[0], 32)
    for streaming in (False, True):
        seen.clear()
        trainer = lightning.Trainer(
            "cpu", max_steps=1, accumulate_grad_batches=2, enable_checkpointing=False,
            **variables["QUIET"],
        )  # fmt: skip
        trainer.fit(Counting(streaming), data)
        assert seen == ([0, 1] if streaming else [0, 1, 1, 1])


@pytest.mark.full
def test_trainers_best_model_is_the_one_that_was_scored():
    variables = run("transformers_trainer")[0]
    with tempfile.TemporaryDirectory() as folder:
        trainer = variables["build"](True, folder)
        trainer.args.num_train_epochs = 7  # the last one is not the best
        trainer.optimizer.param_groups[0]["lr"] = trainer.lr_scheduler.base_lrs[0] = WILD
        trainer.train()
        scores = [row["eval_accuracy"] for row in trainer.state.log_history if "eval_loss" in row]
        assert scores[-1] < max(scores) == trainer.state.best_metric
        assert trainer.evaluate()["eval_accuracy"] == trainer.state.best_metric
        # From a checkpoint of eval mode, in mid-cycle, training goes on to the bit.
        other = variables["build"](True, folder)
        other.args.num_train_epochs = 7
        other.train(resume_from_checkpoint=f"{folder}/checkpoint-10")
        again = [row["eval_accuracy"] for row in other.state.log_history if "eval_loss" in row]
        assert again == scores


def test_skorchs_early_stopping_loads_the_weights_that_were_scored():
    variables = run("skorch_net")[0]
    stopping, classifier = variables["EarlyStopping"], variables["FrankWolfeClassifier"]
    inputs, targets = (tensor.numpy() for tensor in variables["digits"](True)[0].tensors)
    torch.manual_seed(1)  # one whose last epoch is not the best
    net = classifier(
        variables["Network"], criterion=torch.nn.CrossEntropyLoss,
        optimizer=variables["FrankWolfe"], optimizer__inner_steps=3, lr=WILD, batch_size=32,
        max_epochs=12, verbose=0,
        callbacks=[stopping("valid_acc", patience=20, lower_is_better=False, load_best=True)],
    )  # fmt: skip
    net.fit(inputs, targets)
    scores = net.history[:, "valid_acc"]
    assert scores[-1] < max(scores)
    held_out = net.get_split_datasets(inputs, targets)[1]
    answers = net.predict(held_out)
    assert (answers == targets[held_out.indices]).mean() == max(scores)
    net.partial_fit(inputs, targets)  # goes on from them


def test_lightnings_closure_stays_on_one_minibatch_and_streaming_does_not():
    fit = run("lightning_trainer")[0]["fit"]
    with tempfile.TemporaryDirectory() as folder:
        trainers = [fit(True, form, 2, f"{folder}/{form}")[0] for form in (False, True)]
    closure, streaming = (trainer.optimizers[0] for trainer in trainers)
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
    trainer = lightning.Trainer("cpu", max_steps=1, enable_checkpointing=False, **options)
    trainer.fit(module, torch.utils.data.DataLoader(data, 32))
    assert trainer.optimizers[0].param_groups[0]["commits"] == 1  # after one gradient, K = 3


@pytest.mark.full
def test_accelerates_and_trainers_wrappers_pass_the_mode_on():
    for name in ("accelerate_loop", "transformers_trainer"):
        variables = run(name)[0]
        optimizer = variables["whole"].optimizer if "whole" in variables else None
        if optimizer is None:
            accelerate = variables["Accelerator"](cpu=True)
            ours = variables["FrankWolfe"](variables["Network"]().parameters())
            optimizer = accelerate.prepare(ours)
        for mode in (False, True):
            (optimizer.train if mode else optimizer.eval)()
            assert optimizer.optimizer.param_groups[0]["train_mode"] == mode


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
