"""Optimizers by import path: what a name means, what is refused, and that a run is exact."""

import sys
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rnnopt import RNNClassifier
from rnnopt.cli.commands.compare import again as again_compare
from rnnopt.cli.commands.sweep import _plan
from rnnopt.cli.commands.train import again as again_train
from rnnopt.config.errors import UserError
from rnnopt.config.run_config import RunConfig, SharedConfig
from rnnopt.config.specs import is_import_path, parse, write
from rnnopt.experiments.comparison import ComparisonSpec
from rnnopt.experiments.job import Job
from rnnopt.experiments.jobs import check_saved, plan_jobs
from rnnopt.report.best_weights import examine
from rnnopt.runs.collection import read_runs
from rnnopt.runs.folder import RunFolder, folder_of
from rnnopt.runs.runner import run
from rnnopt.training.build import build_training, task_of
from rnnopt.training.imported import load, source_of
from rnnopt.training.learner import ClosureLearner, GradientLearner, as_learner
from rnnopt.training.registry import build_optimizer, entry_of

SIGN = '''
import enum

import torch

Kind = enum.IntEnum("Kind", ["ODD", "EVEN"])

class Sign(torch.optim.Optimizer):
    """Steps by the sign of the gradient."""

    def __init__(self, params, lr=0.5, decay=0.0):
        super().__init__(params, dict(lr=lr, decay=decay))

    @torch.no_grad()
    def step(self, closure=None):
        with torch.enable_grad():
            loss = None if closure is None else closure()
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                state["steps"] = state.get("steps", 0) + 1
                p.sub_(p.grad.sign() + group["decay"] * p, alpha=group["lr"])
        return loss


class Twice(Sign):
    def step(self, closure=None):
        loss = closure()
        super().step(closure)
        return loss


class Broken(Sign):
    def step(self, closure=None):
        closure()
        raise KeyError("momentum")


class Decomposes(Sign):
    """Fails from the fourth step on, as optimizers with a decomposition of the gradients do."""

    @torch.no_grad()
    def step(self, closure=None):
        loss = super().step(closure)
        steps = self.state[self.param_groups[0]["params"][0]]["steps"]
        torch.linalg.cholesky(torch.eye(2) if steps < 4 else -torch.eye(2))
        return loss


class DecomposesFirst(Decomposes):
    """Does so before it calls the closure."""

    def step(self, closure=None):
        steps = self.state[self.param_groups[0]["params"][0]].get("steps", 0)
        torch.linalg.cholesky(torch.eye(2) if steps < 3 else -torch.eye(2))
        return super().step(closure)


class Lazy(Sign):
    def step(self, closure=None):
        return None


class Thing:
    pass


class Strange(Sign):
    def step(self, closure=None):
        super().step(closure)
        for p in self.param_groups[0]["params"]:
            self.state[p]["thing"] = Thing()


class NoDefault(Sign):
    def __init__(self, params, lr):
        super().__init__(params, lr)


class NoRate(Sign):
    def __init__(self, params, rate=0.1):
        super().__init__(params, rate)


class Modes(Sign):
    """Evaluates twice the weights it trains."""

    training = True

    def train(self):
        self._scale(0.5, not self.training)
        self.training = True

    def eval(self):
        self._scale(2.0, self.training)
        self.training = False

    @torch.no_grad()
    def _scale(self, factor, changes):
        for p in self.param_groups[0]["params"]:
            p.mul_(factor if changes else 1.0)


def signs(params, lr=0.5):
    return Sign(params, lr)


def nothing(params, lr=0.5):
    return None


class NoGroups:
    def __init__(self, params, lr=0.5):
        pass

    step = state_dict = load_state_dict = __init__


class NoLr(Sign):
    def __init__(self, params, lr=0.5):
        torch.optim.Optimizer.__init__(self, params, dict(rate=lr))


class Needs(Sign):
    def __init__(self, params, model, lr=0.5):
        super().__init__(params, lr)


class Fails(Sign):
    def __init__(self, params, lr=0.5, decay=0.0):
        raise KeyError("zap")


class Exits(Sign):
    def __init__(self, params, lr=0.5):
        raise SystemExit(3)


class ExitsLater(Sign):
    def step(self, closure=None):
        raise SystemExit(3)


class Grows(Sign):
    def step(self, closure=None):
        loss = super().step(closure)
        self.add_param_group({"params": [torch.zeros(1, requires_grad=True)]})
        return loss


class Local(Sign):
    def step(self, closure=None):
        super().step(closure)
        self.state[self.param_groups[0]["params"][0]]["thing"] = lambda: 1


class InGroup(Sign):
    def __init__(self, params, lr=0.5):
        super().__init__(params, lr)
        self.param_groups[0]["thing"] = lambda: 1


class NoState(Sign):
    def state_dict(self):
        raise KeyError("zap")


class WithoutClosure(Sign):
    training = False

    def train(self):
        self.training = True

    def eval(self):
        # Without steps there is nothing to evaluate otherwise.
        self.training = not all(self.state[p]["steps"] for p in self.param_groups[0]["params"])

    def step(self):
        assert self.training
        super().step()


class WithoutGrad(Sign):
    @torch.no_grad()
    def step(self, closure):
        loss = closure()
        super().step()
        return loss


class Sums(Sign):
    """Keeps sums in float64 and a setting that is no plain number, and steps by them."""

    @torch.no_grad()
    def step(self, closure=None):
        with torch.enable_grad():
            loss = closure()
        self.param_groups[0].setdefault("kind", Kind.EVEN)
        for p in self.param_groups[0]["params"]:
            state = self.state[p]
            assert state.setdefault("phase", "warm") == "warm"
            sums = state.setdefault("sums", [torch.full_like(p, 1e6, dtype=torch.float64)])
            sums[0] += p.grad.double() / 3
            state.setdefault("inner", {0: (sums[0] * 0,)})
            state["inner"][0][0].add_(sums[0])
            move = sums[0] - 1e6 + state["inner"][0][0] / 1e9
            p.sub_(move.float(), alpha=self.param_groups[0]["lr"])
        return loss


class Unpickles(Sign):
    """Keeps a pickled setting."""

    kept = b"0"

    def state_dict(self):
        return super().state_dict() | {"setting": {"kept": self.kept}}

    def load_state_dict(self, state_dict):
        self.kept = state_dict.pop("setting")["kept"]
        super().load_state_dict(state_dict)


class Hessian(Sign):
    def step(self, closure=None):
        loss = closure()
        p = self.param_groups[0]["params"][0]
        torch.autograd.grad(p.grad.sum(), p)
        return loss


class Zero(Sign):
    def __init__(self, params, lr=0.0):
        super().__init__(params, lr)


NUMBER = 3
'''


@pytest.fixture
def file(tmp_path, monkeypatch):
    """my_optimizer.py in the current folder."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "my_optimizer.py"
    path.write_text(SIGN)
    return path


def config(optimizer, budget="12gradients", **rest):
    return RunConfig(task="digits-rows", optimizer=optimizer, hidden=4, budget=budget, **rest)


NAMES = st.from_regex(r"[a-z]\w{0,4}", fullmatch=True)
VALUES = st.one_of(
    st.integers(-9, 9), st.floats(-9, 9), st.sampled_from((True, None, (0.5, 0.9), (0.9, 0.1, 1.0)))
)


@given(
    st.lists(NAMES, min_size=1, max_size=3),
    NAMES,
    st.booleans(),
    st.dictionaries(NAMES.map(str.lower), VALUES, max_size=3),
)
def test_an_import_path_with_options_is_read_as_written(modules, attribute, is_file, options):
    place = "/".join(modules) + ".py" if is_file else ".".join(modules)
    name = f"{place}:{attribute.capitalize()}"
    assert is_import_path(name)
    assert parse(write(name, options)) == (name, options)


def test_names_with_options_stay_names():
    for text in (
        "adam",
        "adam:lr=1",
        "adam:clip",
        "mnist-pixels:pool=2",
        "a.py",
        "x:",
        ":Y",
        "a:1",
    ):
        assert not is_import_path(text)
    with pytest.raises(UserError, match="must read name:option=value"):
        parse("adam:clip")


def test_a_file_is_imported_once_by_its_content(file):
    first = load("my_optimizer.py:Sign")
    assert load(f"{file}:Sign") is first
    assert load("my_optimizer.py:signs")([torch.zeros(1)]).__class__ is first
    file.write_text(SIGN + "\n# another\n")
    assert load("my_optimizer.py:Sign") is not first


def test_options_and_rate_come_from_the_signature(file):
    w = torch.tensor([1.0, -2.0], requires_grad=True)
    optimizer = build_optimizer("my_optimizer.py:Sign,decay=0.25", [("w", w)], lr=0.1)
    w.grad = torch.tensor([3.0, -1.0])
    optimizer.step()
    torch.testing.assert_close(w.detach(), torch.tensor([1 - 0.1 * 1.25, -2 + 0.1 * 1.5]))
    assert entry_of("my_optimizer.py:Sign").lr == 0.5
    with pytest.raises(UserError, match="Did you mean 'decay'"):
        build_optimizer("my_optimizer.py:Sign,decey=1", [("w", w)])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("my_optimizer.py:Sing", "unknown class in my_optimizer.py: 'Sing'.* Did you mean 'Sign'"),
        ("my_optimizer.py:NUMBER", "must be a class of optimizers, got 3"),
        ("my_optimizer.py:torch.Tensor", "must (take the parameters|be a class of optimizers)"),
        ("my_optimizer.py:NoRate", r"an argument lr, .* got \(params, rate\)"),
        ("other.py:Sign", "other.py cannot be read: No such file"),
        ("quits.py:Sign", "quits.py cannot be imported: SystemExit: 7"),
        ("empty.py:Sign", "empty.py must have the class 'Sign', it has none"),
        ("my_optimizer.py", "must read my_optimizer.py:Class, with options after a comma"),
        ("my_optimizer.py:decay=1", "must read my_optimizer.py:Class"),
        ("my_optimizer.py:nothing", "must make an optimizer, .* got NoneType"),
        ("my_optimizer.py:NoGroups", "must make an optimizer, .* got NoGroups"),
        ("my_optimizer.py:NoLr", "must have lr in each of its param_groups"),
        ("my_optimizer.py:Needs", "needs model: give options after a comma"),
        ("my_optimizer.py:NoDefault", "needs lr: give options after a comma"),
        ("my_optimizer.py:Fails", "building my_optimizer.py:Fails failed: KeyError: 'zap' .*line"),
        ("my_optimizer.py:Fails,decay=1", r"cannot take decay=1, .* \(KeyError: 'zap'\)"),
        ("my_optimizer.py:Exits", "building my_optimizer.py:Exits failed: SystemExit: 3"),
        ("broken.py:Sign", "broken.py cannot be imported: SyntaxError"),
        ("exits.py:Sign", "exits.py cannot be imported: ZeroDivisionError: division by zero"),
        ("my_optimizer_:Sign", "no module 'my_optimizer_' is installed.$"),
        ("torch.nope:Sign", "no module 'torch.nope' is installed"),
        ("adam:Clip", "no module 'adam' is installed"),
    ],
)
def test_what_cannot_be_imported_is_said_in_a_sentence(file, name, message):
    file.with_name("broken.py").write_text("def (")
    file.with_name("exits.py").write_text("1 / 0")
    file.with_name("quits.py").write_text("raise SystemExit(7)")
    file.with_name("empty.py").write_text("")
    with pytest.raises(UserError, match=message):
        build_optimizer(name, [("w", torch.zeros(1))])
    assert not any("rnnopt_broken" in module for module in sys.modules)


def test_a_file_without_py_is_hinted_at(file):
    with pytest.raises(UserError, match="write my_optimizer.py:Class for the file here"):
        load("my_optimizer:Sign")


@pytest.mark.parametrize("name", ["NoDefault", "Zero"])
def test_a_rate_without_default_is_asked_for(file, name):
    with pytest.raises(UserError, match="has no default for lr: give --lr"):
        _ = entry_of(f"my_optimizer.py:{name}").lr


def test_where_it_comes_from(file):
    assert source_of("adam") == {}
    assert source_of("pytorch_optimizer:Lion")["package"] == "pytorch_optimizer"
    before = source_of("my_optimizer.py:Sign")
    file.write_text(SIGN + " ")
    assert source_of("my_optimizer.py:Sign")["sha256"] != before["sha256"]


@pytest.mark.parametrize("name", ["SGD", "Adam", "NAdam"])
def test_torchs_optimizers_by_path_train_as_by_name(name, tmp_path):
    by_name, by_path = (
        run(config(one, lr=0.01), tmp_path / one[:5])
        for one in (name.lower(), f"torch.optim:{name}")
    )
    for result in (by_name, by_path):
        del result["seconds"]
    assert by_path == by_name


def test_gradients_of_one_step_all_count(file):
    training = build_training(config("my_optimizer.py:Twice"))
    assert isinstance(training.learner, ClosureLearner)
    training._step(0.0)
    assert training.closure.gradient_evaluations == 2
    lbfgs = build_training(config("torch.optim:LBFGS,max_iter=3", lr=0.1))
    lbfgs._step(0.0)
    assert lbfgs.closure.gradient_evaluations == 3


def test_plain_optimizers_of_torch_and_ours_are_stepped_without_a_closure():
    w = [torch.zeros(1, requires_grad=True)]
    assert type(as_learner(torch.optim.Adam(w))) is GradientLearner
    assert type(as_learner(torch.optim.LBFGS(w))) is ClosureLearner


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Broken", r"the step of Broken failed: KeyError: 'momentum' \(.*my_optimizer"),
        ("Lazy", "of Lazy must call the closure"),
        ("Strange", r"the state of Strange must be of tensors, numbers.*, got .*\.Thing\.$"),
        ("Hessian", r"of Hessian failed: .*line.*differentiating gradients \(create_graph=True\)"),
        ("Local", "the state of Local must be of tensors, numbers"),
        ("InGroup", "the state of InGroup must be of tensors, numbers"),
        ("NoState", r"state_dict\(\) of NoState failed: KeyError: 'zap'"),
        ("Grows", "a step of Grows must leave the number of its param_groups"),
        ("ExitsLater", "the step of ExitsLater failed: SystemExit: 3"),
    ],
)
def test_a_faulty_step_is_said_in_a_sentence(file, tmp_path, name, message):
    with pytest.raises(UserError, match=message):
        run(config(f"my_optimizer.py:{name}"), tmp_path / "run")


@pytest.mark.parametrize("name", ["Decomposes", "DecomposesFirst"])
@pytest.mark.parametrize(("policy", "spent"), [("stop", 10), ("skip", 24), ("restore", 44)])
def test_a_decomposition_that_fails_is_a_divergence(file, tmp_path, name, policy, spent):
    settings = dict(budget="60gradients", evaluate_every=60, on_nonfinite=policy)
    result = run(config(f"my_optimizer.py:{name}", **settings), tmp_path / "run")
    assert result["status"] == "diverged"
    assert result["gradient_evaluations"] == spent


def test_a_decomposition_that_fails_is_named(file):
    training = build_training(config("my_optimizer.py:Decomposes", on_nonfinite="raise"))
    with pytest.raises(FloatingPointError, match=r"step 4 .*of Decomposes failed: _?LinAlgError"):
        list(training.run())


def test_the_closures_own_errors_are_not_the_optimizers(file):
    training = build_training(config("my_optimizer.py:Twice"))
    training.closure._loss = lambda batch: 1 / 0
    with pytest.raises(ZeroDivisionError):
        training._step(0.0)


@pytest.mark.parametrize("name", ["WithoutClosure", "WithoutGrad"])
def test_steps_of_other_forms_are_the_same_steps(file, tmp_path, name):
    results = [run(config(f"my_optimizer.py:{one}"), tmp_path / one) for one in ("Sign", name)]
    assert results[0]["test_loss"] == results[1]["test_loss"]


def test_modes_are_used_and_undone_to_the_bit(file):
    training = build_training(config("my_optimizer.py:Modes"))
    training._step(0.0)
    weights = [p.detach().clone() for p in training.model.parameters()]
    with training.learner.committed():
        assert not training.optimizer.training
        assert all(
            torch.equal(2 * w, p) for w, p in zip(weights, training.model.parameters(), strict=True)
        )
    assert training.optimizer.training
    assert all(torch.equal(w, p) for w, p in zip(weights, training.model.parameters(), strict=True))


@pytest.mark.parametrize(
    "name",
    [
        "my_optimizer.py:Sign",
        "my_optimizer.py:Sums",
        "my_optimizer.py:Unpickles",
        "pytorch_optimizer:Lion",
        "pytorch_optimizer:SCION",
    ],
)
def test_an_interrupted_run_ends_as_an_unbroken_one(file, tmp_path, name):
    whole = run(config(name, lr=1e-3), tmp_path / "whole")
    steps = iter(range(100))
    run(config(name, lr=1e-3), tmp_path / "cut", stop_requested=lambda: next(steps) > 5)
    resumed = run(config(name, lr=1e-3), tmp_path / "cut", resume=True)
    assert resumed["status"] == whole["status"] == "out of budget"
    assert resumed["test_loss"] == whole["test_loss"]


def test_a_warm_start_keeps_the_types_of_a_state(file):
    x, y = torch.randn(12, 5, 1).numpy(), ["a", "b"] * 6
    asked = dict(optimizer="my_optimizer.py:Sums", lr=1e-3, hidden=4, epochs=1, random_state=0)
    network = RNNClassifier(**asked, warm_start=True).fit(x, y)
    network.fit(x, y)  # its step looks at the text in its state
    state = next(iter(network._ended["optimizer"]["state"].values()))
    assert state["sums"][0].dtype == torch.float64


def test_bytes_that_an_optimizer_may_unpickle_are_its_own(file):
    learner = build_training(config("my_optimizer.py:Unpickles")).learner
    state = learner.state_dict()
    many: list = []
    for _ in range(60):  # 2**60 places
        many = [many, many]
    for forged in (b"1", bytearray(b"1"), {b"1"}, {b"1": 0}, {(0, b"1"): 0}, [many, [b"1"]]):
        with pytest.raises(UserError, match="no other bytes .* got others in setting/kept"):
            learner.load_state_dict(state | {"setting": {"kept": forged}})
        assert learner.optimizer.kept == b"0"
    learner.load_state_dict(state)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("pytorch_optimizer:Lion:lr=0.1", "follow a comma: write pytorch_optimizer:Lion,lr=0.1, "),
        ("pytorch_optimizer:Lion:", "follow a comma: write pytorch_optimizer:Lion, got"),
        (
            "pytorch_optimizer.Lion",
            "must read package.module:Class, .* is it pytorch_optimizer:Lion?",
        ),
        ("adam,eps=1e-6", "options follow a colon: write adam:eps=1e-6, got adam,eps=1e-6"),
        ("adam,lr=1:eps=2", "follow a colon: write adam:lr=1,eps=2, got adam,lr=1:eps=2"),
        ("Adam(lr=0.1, eps=2)", "follow a colon: write adam:lr=0.1,eps=2, got"),
        ("torch.optim:AdamW(lr=1)", "follow a comma: write torch.optim:AdamW,lr=1, got"),
        ("torch.optim.AdamW:lr=1", "follow a comma: write torch.optim:AdamW,lr=1, got"),
        ("torch.optim.AdamW,lr=1", "follow a comma: write torch.optim:AdamW,lr=1, got"),
        ("adam,=3", "unknown optimizer 'adam,=3'"),
        ("0.01", r"unknown optimizer '0.01': .* file.py:Class\.$"),
        ("data.csv", "Did you mean '--data data.csv'"),
        ("lions", r"unknown optimizer .* schedule-free, package.module:Class, file.py:Class\."),
        ("pytorch_optimizer:lion", "of the package pytorch_optimizer begins with a capital"),
        ("pytorch_optimizer:Muon", "needs groups of parameters .* wrap it in a file of yours"),
        ("pytorch_optimizer:AdamMini", "AdamMini failed: .* wrap it in a file of yours"),
        ("pytorch_optimizer:SAM", r"first and an argument lr, .*\): wrap it in a file of yours"),
    ],
)
def test_what_a_package_offers_otherwise_comes_with_advice(name, message):
    with pytest.raises(UserError, match=message):
        build_optimizer(name, [("w", torch.zeros(1, 1))])


def test_a_changed_file_is_not_executed_on_resuming(file, tmp_path):
    steps = iter(range(100))
    asked = config("my_optimizer.py:Sign")
    run(asked, tmp_path / "run", stop_requested=lambda: next(steps) > 5)
    file.write_text("raise SystemExit(5)")
    with pytest.raises(UserError, match="my_optimizer.py has changed since the run"):
        run(asked, tmp_path / "run", resume=True)


def test_code_that_only_a_folder_names_is_not_executed(file, command):
    name = "my_optimizer.py:Sign"
    common = ("--task", "digits-rows", "--budget", "6gradients", "--hidden", "4")
    assert command("train", *common, "--optimizer", name, "--out", "one")[0] == 0
    assert command("compare", *common, "--optimizers", name, "--seeds", 0, "--out", "two")[0] == 0
    file.write_text("raise SystemExit(5)")
    (file.parent / "one" / "result.json").unlink()
    for words in (("train", "--resume", "--out", "one"), ("compare", "--resume", "--out", "two")):
        code, _, error = command(*words)
        assert code == 2
        assert "say that you trust the code by --optimizer" in " ".join(error.split())


def test_a_report_executes_no_code_of_a_run(file, tmp_path):
    run(config("my_optimizer.py:Sign,batch_size=16"), tmp_path / "run")
    file.write_text("raise SystemExit(5)")
    (found,) = read_runs([RunFolder.open(tmp_path / "run")])
    assert examine(found)[0].scores is not None


def test_folds_go_on_where_the_command_names_the_code(file, command):
    rows = [f"{i},{s},{i % 2 + s},{i % 2}" for i in range(20) for s in range(3)]
    file.with_name("data.csv").write_text("\n".join(("id,time,a,label", *rows)))
    columns = ("--id", "id", "--time", "time", "--label", "label")
    name = ("--optimizer", "my_optimizer.py:Sign")
    asked = ("--data", "data.csv", *columns, "--folds", 2, "--budget", "3gradients", "--hidden", 4)
    assert command("train", *asked, *name, "--out", "f")[0] == 0
    for unfinished in ("fold-1/result.json", "fold-2/config.json"):
        (file.parent / "f" / unfinished).unlink()
    for path in (file.parent / "f" / "fold-2").iterdir():
        path.unlink()
    code, _, error = command("train", "--resume", "--out", "f")
    assert code == 2
    assert "trust the code by --optimizer my_optimizer.py:Sign" in " ".join(error.split())
    code, _, error = command("train", "--resume", "--out", "f", *name)
    assert code == 0, error


def test_runs_of_a_comparison_have_one_version_of_the_code(file, tmp_path):
    asked = config("my_optimizer.py:Sign")
    path = tmp_path / "out" / "seed-0"
    run(asked, path)
    task = task_of(asked)
    saved = Job(RunFolder.open(path).read_config(), path)
    check_saved([saved], task, tmp_path / "out", resume=True)
    file.write_text(SIGN + "# another")
    with pytest.raises(UserError, match="my_optimizer.py has changed since the run"):
        check_saved([saved], task, tmp_path / "out", resume=True)


def test_trials_of_a_sweep_have_one_version_of_the_code(file, tmp_path):
    def settings():
        asked = config("my_optimizer.py:Sign")
        return _plan(asked, ["lr=0.1..0.2"], 1, tmp_path, None, True, True, ()).settings()

    before = settings()
    assert settings() == before
    file.write_text(SIGN + "# another")
    assert settings() != before


def test_optimizers_whose_folders_would_be_one_are_refused(file, tmp_path):
    (file.parent / "a").mkdir()
    for name in ("a/b.py", "a_b.py"):
        (file.parent / name).write_text(SIGN)
    shared = SharedConfig(task="digits-rows", hidden=4)
    with pytest.raises(UserError, match="--optimizers must differ in letters and digits"):
        plan_jobs(shared, ["a/b.py:Sign", "a_b.py:Sign"], [0], tmp_path / "out", False)


def test_what_goes_on_with_a_run_names_its_code(tmp_path):
    spec = ComparisonSpec(SharedConfig(), ["adam"], [0], None, None, tmp_path, False)
    assert again_compare(spec) == f"rnnopt compare --out {tmp_path} --resume"
    code = replace(spec, optimizers=["adam", "a b.py:Sign"])
    assert again_compare(code).endswith("--resume --optimizers adam 'a b.py:Sign'")
    assert again_train(tmp_path, (), "adam") == f"rnnopt train --out {tmp_path} --resume"
    assert again_train(tmp_path, (), "a.py:S").endswith("--resume --optimizer a.py:S")


@given(st.text(min_size=1, max_size=600))
def test_every_name_gives_a_folder(name):
    assert 0 < len(folder_of(name).encode()) <= 200
    assert "/" not in folder_of(name)


def test_a_step_that_is_not_finite_is_left_out(file):
    training = build_training(config("my_optimizer.py:Twice", on_nonfinite="skip"))
    for p in training.model.parameters():
        p.register_hook(lambda gradient: gradient * float("nan"))
    before = [p.detach().clone() for p in training.model.parameters()]
    training._step(0.0)
    assert training.nonfinite.skipped == 1
    assert all(torch.equal(b, p) for b, p in zip(before, training.model.parameters(), strict=True))


def test_command_names_and_diagnoses_it(file, command):
    code, out, _ = command("list", "my_optimizer.py:Sign")
    assert code == 0
    assert "decay" in out
    code, _, err = command(
        "diagnose", "--task", "digits-rows", "--hidden", "4", "--optimizer", "my_optimizer.py:Sign",
        "--lr", "0.001", "--budget", "12gradients", "--out", "runs/d",
    )  # fmt: skip
    assert code == 0, err
