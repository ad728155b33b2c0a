"""What the command line promises: its verbs, its exit codes, and runs that survive being killed.

Exit code 0 is done, 1 a run that failed or diverged, 2 bad input told in one sentence without a
traceback, 130 interrupted. The figures in a report are promised in test_report.py.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import forks
import pytest
import torch
from same_runs import assert_same_run, records_of

import rnnopt
from rnnopt.cli.commands.train import again
from rnnopt.cli.main import main
from rnnopt.config.run_config import MODELS
from rnnopt.config.specs import INTERNAL
from rnnopt.layers.kernels import cpu, half_linear
from rnnopt.runs import doctor, runner
from rnnopt.runs.folder import RunFolder
from rnnopt.tasks import TASKS, build_task, download
from rnnopt.training import build as building
from rnnopt.training.registry import OPTIMIZERS

TINY = ["--task", "digits-rows", "--hidden", "4", "--budget", "12gradients"]
TINY += ["--evaluate-every", "3"]
FILES = {
    "config.json", "environment.json", "metrics.jsonl", "checkpoint.pt", "checkpoint-previous.pt",
    "best.pt", "result.json",
    "lock",
}  # fmt: skip


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    """Every test works in a folder of its own, on a wide terminal."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path / "work"


def assert_refused(result, *words):
    """Exit code 2 and one sentence on standard error that has the words."""
    code, out, error = result
    assert code == 2, error
    assert out == ""
    lines = error.splitlines()
    assert len(lines) == 1, error
    assert lines[0].startswith("rnnopt: ")
    for word in words:
        assert word in error


# -- help, list -----------------------------------------------------------------------------------


def test_version(command):
    assert command("--version") == (0, f"rnnopt {rnnopt.__version__}\n", "")


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_help_names_every_verb(command, arguments):
    code, out, _ = command(*arguments)
    assert code == 0
    for verb in ("list", "train", "compare", "report", "doctor"):
        assert re.search(rf"^│ {verb} ", out, re.MULTILINE)


@pytest.mark.parametrize(
    ("verb", "options"),
    [
        ("list", []),
        ("train", ["--task", "--optimizer", "--seed", "--out", "--resume", "--quiet", "--budget"]),
        ("compare", ["--task", "--optimizers", "--seeds", "--out", "--workers", "--resume"]),
        ("report", ["RUNS", "--out", "--html", "--no-html", "--scores", "--no-scores"]),
        ("doctor", []),
    ],
)
def test_help_of_a_verb_explains_its_options(command, verb, options):
    code, out, _ = command(verb, "--help")
    assert code == 0
    assert f"Usage: rnnopt {verb}" in out
    for option in options:
        assert option in out


def test_list_names_everything_there_is(command):
    code, out, error = command("list")
    assert (code, error) == (0, "")
    for name in [*TASKS, *MODELS, *OPTIMIZERS]:
        assert re.search(rf"^│ {re.escape(name)} +│", out, re.MULTILINE), name


@pytest.mark.parametrize(
    ("found", "record", "words"),
    [
        (
            cpu.Kernels("AVX2", "why"),
            dict(built={"AVX2": 1}),
            ["in use, AVX2: why", "times as long"],
        ),
        (cpu.Kernels("AVX2", "why"), dict(built={"AVX2": 1}, openmp=False), ["libomp"]),
        (
            cpu.Kernels(None, "why"),
            None,
            ["not in use: why", f"Run: {cpu.REBUILD}"],
        ),
        (cpu.Kernels(None, f"{cpu.UNSUITABLE} (X)"), dict(built={"AVX2": 1}), [cpu.UNSUITABLE]),
        (
            cpu.Kernels(None, "why"),
            dict(built={}, compiler=None, error="no compiler"),
            ["not in use: why", "Install a C++ compiler", cpu.REBUILD],
        ),
        (cpu.Kernels(None, "why"), dict(built={"AVX2": 1}), [f"Run: {cpu.REBUILD}"]),
        (cpu.Kernels(None, "RNNOPT_KERNELS=plain is set"), None, ["Unset RNNOPT_KERNELS"]),
    ],
)
def test_doctor_says_what_runs_why_and_what_would_help(command, monkeypatch, found, record, words):
    whole = dict(compiler="a compiler", openmp=True, error=None, source="") | (record or {})
    monkeypatch.setattr(cpu, "kernels", lambda: found)
    monkeypatch.setattr(doctor, "read_record", lambda folder: record and whole)
    monkeypatch.setattr(doctor, "measure", lambda: (0.001, 0.004))
    code, out, error = command("doctor")
    assert (code, error) == (0, "")
    for word in words:
        assert word in " ".join(out.replace("│", " ").split()), out


@pytest.mark.parametrize("kind", [None, "AVX512-BF16", "AMX"])
def test_doctor_names_the_products_in_bfloat16(command, monkeypatch, kind):
    monkeypatch.setattr(cpu, "kernels", lambda: cpu.Kernels("AVX512", "why"))
    monkeypatch.setattr(half_linear, "kind", lambda: kind)
    monkeypatch.setattr(doctor, "measure", lambda: (0.001, 0.004))
    _, out, _ = command("doctor")
    assert re.search(rf"products in bfloat16 +│ {kind or 'none'}\b", out), out


def test_doctor_names_a_compiler_that_does_not_work(command, monkeypatch):
    record = dict(built={}, compiler=None, error="no", openmp=False, source="")
    monkeypatch.setattr(cpu, "kernels", lambda: cpu.Kernels(None, "the build failed: no"))
    monkeypatch.setattr(doctor, "read_record", lambda folder: record)
    monkeypatch.setenv("CXX", "/nowhere/g++")
    code, out, _ = command("doctor")
    assert code == 0
    assert "Set CXX to a C++ compiler that works" in out


def test_doctor_tells_of_a_damaged_record(command, monkeypatch):
    def damaged(folder):
        raise ValueError("damaged")

    monkeypatch.setattr(cpu, "kernels", lambda: cpu.Kernels(None, "the record is damaged"))
    monkeypatch.setattr(doctor, "read_record", damaged)
    code, out, error = command("doctor")
    assert (code, error) == (0, "")
    assert f"Run: {cpu.REBUILD}" in out


def test_doctor_measures_on_this_machine(command):
    code, out, error = command("doctor")
    assert (code, error) == (0, "")
    assert "CPU kernels" in out


def test_an_unknown_switch_in_the_environment_is_refused(command, monkeypatch):
    monkeypatch.setenv("RNNOPT_KERNELS", "fast")
    assert_refused(command("list"), "RNNOPT_KERNELS", "'fast'")


# -- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["train", "diagnose", "sweep"])
@pytest.mark.parametrize(
    ("option", "value", "own"),
    [
        ("lr", 0.5, "lr=0.001"),
        ("clip", 1.0, "clip=2"),
        ("batch-size", 16, "batch_size=32"),
        ("schedule", "cosine", "schedule=linear"),  # the default counts where it is asked for
    ],
)
def test_a_setting_is_given_once(command, workplace, verb, option, value, own):
    asked = [verb, *TINY, f"--{option}", value, "--optimizer", f"adam:{own}"]
    told = f"{option} must be given once, got {value:g}" if option == "lr" else option
    assert_refused(command(*asked), told, f"that of the optimizer, 'adam:{own}'")
    assert list(workplace.iterdir()) == []


def test_a_setting_that_is_the_same_twice_is_no_contradiction(command):
    assert command("train", *TINY, "--lr", 0.5, "--optimizer", "adam:lr=0.5")[0] == 0


def test_a_comparison_is_not_mixed_with_another_by_accident(command, workplace):
    asked = [*TINY, "--seeds", 0, "--workers", 1, "--out", "c", "--optimizers"]
    assert command("compare", *asked, "sgd")[0] == 0
    before = (workplace / "c" / "report.md").read_text()
    assert_refused(command("compare", *asked, "adam"), "c already holds runs", "--resume")
    assert (workplace / "c" / "report.md").read_text() == before


@pytest.mark.parametrize(
    "asked",
    [["compare", "--seeds", 0], ["compare", "--seeds", 0, "--resume"], ["sweep", "--trials", 1]],
)
def test_no_comparison_and_no_sweep_begins_in_the_folder_of_a_run(command, workplace, asked):
    assert command("train", *TINY, "--out", "r")[0] == 0
    before = sorted(workplace.rglob("*"))
    assert_refused(command(*asked, *TINY, "--out", "r"), "r already holds a run: choose another")
    assert sorted(workplace.rglob("*")) == before


def test_in_a_comparison_an_optimizers_own_setting_counts(command, workplace):
    asked = ["--clip", 1, "--optimizers", "adam", "adam:clip=2", "--seeds", 0, "--workers", 1]
    assert command("compare", *TINY, *asked, "--out", "c")[0] == 0
    own = RunFolder.open(workplace / "c" / "adam_clip=2" / "seed-0").read_config()
    assert (own.clip, own.optimizer) == (1.0, "adam:clip=2")  # as given; the run resolves it


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--task", "digit-rows", ["unknown task 'digit-rows'", "Did you mean 'digits-rows'?"]),
        ("--task", "adding:lenght=9", ["'lenght'", "Did you mean 'length'?"]),
        ("--task", "adding:length", ["'adding:length'", "name:option=value"]),
        ("--task", "adding:length=0", ["length=0"]),
        ("--task", "adding:length=2.5", ["2.5"]),
        ("--task", "", ["unknown task ''"]),
        ("--model", "lsmt", ["unknown model 'lsmt'", "Did you mean 'lstm'?"]),
        ("--optimizer", "adams", ["unknown optimizer 'adams'", "Did you mean 'adam'?"]),
        ("--optimizer", "adam:bets=1", ["'bets'", "Did you mean 'betas'?"]),
        (
            "--optimizer",
            "adam:betas=1,eps=0.1",
            ["cannot take betas=1, it needs a pair such as betas=0.9..0.999."],
        ),
        ("--optimizer", "adam:weight_decay=big,eps=0.1", ["cannot take weight_decay=big, which"]),
        ("--optimizer", "adam:eps=-1", ["optimizer 'adam'", "-1"]),
        ("--optimizer", "adam:lr=fast", ["lr must be a number", "'fast'"]),
        ("--optimizer", "adam:lr=-1", ["lr must be a positive number", "-1"]),
        ("--optimizer", "adam:schedule=cosin", ["'cosin'", "Did you mean 'cosine'?"]),
        ("--optimizer", "adam:schedule=3", ["schedule", "3"]),
        ("--optimizer", "adam:foreach=true,fused=true", ["optimizer 'adam'", "fused"]),
        ("--optimizer", "sgd:nesterov=true", ["optimizer 'sgd'"]),
        ("--optimizer", "frank-wolfe:norm=0.5", ["0.5"]),
        ("--optimizer", "frank-wolfe:inner_steps=0", ["inner_steps=0"]),
        ("--optimizer", "frank-wolfe:inner_steps=2.5", ["inner_steps=2.5"]),
        ("--optimizer", "frank-wolfe:ball=global,norm=spectral", ["global", "spectral"]),
        ("--optimizer", "frank-wolfe:outer=sgd", ["'sgd'"]),
        ("--budget", "soon", ["'soon'", "30s"]),
        ("--budget", "0epochs", ["'0epochs'"]),
        ("--budget", "9" * 400 + "epochs", ["budget"]),
        ("--lr", "0", ["lr must be a positive number"]),
        ("--lr", "nan", ["lr must be a positive number"]),
        ("--clip", "-1", ["clip must be a positive number"]),
        ("--clip-value", "0", ["clip-value must be a positive number"]),
        ("--tbptt", "0", ["tbptt must be at least 1"]),
        ("--tbptt-backward", "3", ["--tbptt-backward needs --tbptt"]),
        ("--optimizer", "adam:tbptt=2.5", ["tbptt must be a whole number", "2.5"]),
        ("--optimizer", "adam:tbptt=0", ["tbptt must be at least 1"]),
        ("--optimizer", "adam:tbptt_backward=2", ["--tbptt-backward needs --tbptt"]),
        ("--optimizer", "adam:decay=slow", ["decay must be a number", "'slow'"]),
        ("--optimizer", "adam:schedule=plato", ["'plato'", "Did you mean 'plateau'?"]),
        ("--decay", "0", ["decay must be in (0, 1), got 0"]),
        ("--decay", "1", ["decay must be in (0, 1), got 1"]),
        ("--decay", "nan", ["decay must be in (0, 1)"]),
        ("--patience", "0", ["patience must be a positive number"]),
        ("--initialization", "indrnn", ["initialization='indrnn' needs cell='indrnn'"]),
        ("--hidden", "0", ["hidden must be at least 1"]),
        ("--layers", "0", ["layers must be at least 1"]),
        ("--dropout", "1", ["dropout must be in [0, 1)"]),
        ("--dropout", "nan", ["dropout must be in [0, 1)"]),
        ("--batch-size", "0", ["rnnopt: --batch-size must be at least 1"]),
        ("--evaluate-every", "0", ["evaluate-every must be at least 1"]),
        ("--threads", "0", ["threads must be at least 1"]),
        ("--seed", "-1", ["seed must be in"]),
        ("--device", "gpu", ["--device must be cpu, cuda,", "got 'gpu'."]),
        ("--device", "meta", ["--device 'meta' is not available: this machine"]),
    ],
)
def test_train_refuses_a_bad_value_in_one_sentence(command, workplace, option, value, words):
    pairs = dict(zip(TINY[::2], TINY[1::2], strict=True)) | {option: value}
    result = command("train", *(word for pair in pairs.items() for word in pair), "--out", "run")
    assert_refused(result, *words)
    assert list(workplace.iterdir()) == []


def test_options_that_only_say_how_a_step_is_computed_are_not_offered(command):
    error = command("train", *TINY, "--optimizer", "adam:nothing=1")[2]
    assert "lr, betas, eps, weight_decay, amsgrad, decoupled_weight_decay" in error
    for option in INTERNAL:
        assert option not in error


def test_a_pair_is_written_with_two_dots(command):
    assert command("train", *TINY, "--optimizer", "adam:betas=0.8..0.99")[0] == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--tbptt", "2", "--tbptt-backward", "0"], ["tbptt-backward must be at least 1, got 0"]),
        (
            ["--tbptt", "2", "--readout", "mean"],
            ["--tbptt needs --readout last or every, got mean"],
        ),
        (["--model", "indrnn-6", "--layers", "3"], ["'indrnn-6' has layers=6, got ", "3."]),
        (["--model", "indrnn-6", "--dropout", "0.5"], ["'indrnn-6' has dropout=0.1, got ", "0.5."]),
        # What other models have by default is no less a choice.
        (["--model", "indrnn-6", "--layers", "1"], ["'indrnn-6' has layers=6, got ", "1."]),
        (["--model", "indrnn-6", "--dropout", "0"], ["'indrnn-6' has dropout=0.1, got ", "0.0."]),
        (
            ["--model", "indrnn-6", "--initialization", "default"],
            ["'indrnn-6' has initialization=indrnn, got ", "default."],
        ),
        (["--optimizer", "indrnn-adam:weight_decay=-1"], ["weight_decay must be", "got -1"]),
    ],
)
def test_train_refuses_options_that_do_not_go_together(command, workplace, options, words):
    assert_refused(command("train", *TINY, "--out", "run", *options), *words)
    assert list(workplace.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["trian"],
        ["train", "--hiden", "3"],
        ["train", "--seed", "x"],
        ["train", "--readout", "no"],
        ["train", "--schedule", "plato"],
        ["list", "extra"],
        ["compare", "--seeds", "one"],
    ],
)
def test_what_cannot_be_parsed_has_exit_code_2_and_no_traceback(command, arguments):
    code, out, error = command(*arguments)
    assert (code, out) == (2, "")
    assert arguments[-1] in error or arguments[-2] in error
    assert "Traceback" not in error


def test_a_model_without_recurrent_matrices_refuses_to_initialise_them(command, workplace):
    options = ["--model", "indrnn", "--initialization", "identity"]
    result = command("train", *TINY, "--out", "run", *options)
    assert_refused(result, "model 'indrnn'", "identity")
    assert list(workplace.iterdir()) == []


def test_a_long_name_for_the_folder_is_refused(command):
    assert_refused(command("train", *TINY, "--out", "long" * 100), "cannot write")


def test_a_file_in_place_of_the_folder_is_refused(command, workplace):
    (workplace / "file").write_text("in the way")
    assert_refused(command("train", *TINY, "--out", "file"), "cannot write", "file")


def test_resume_needs_a_folder_with_a_run(command, workplace):
    assert_refused(command("train", "--resume"), "--resume needs", "--out")
    assert_refused(command("compare", "--resume"), "--resume needs", "--out")
    assert_refused(command("train", "--resume", "--out", "no"), "no", "config.json")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--optimizers", "adam", "adam"], ["optimizers must differ"]),
        (["--optimizers"], ["at least one of --optimizers"]),
        (["--seeds", "1", "1"], ["seeds must differ"]),
        (["--seeds"], ["at least one of --seeds"]),
        (["--seeds", "-1"], ["seed must be in"]),
        (["--workers", "-1"], ["workers must be at least 0"]),
        (["--optimizers", "adam", "sdg"], ["'sdg'", "Did you mean 'sgd'?"]),
        (["--optimizers", "frank-wolfe:norm=0"], ["norm"]),
    ],
)
def test_compare_refuses_bad_input_before_the_first_run(command, workplace, arguments, words):
    assert_refused(command("compare", *TINY, "--out", "c", *arguments), *words)
    assert list(workplace.iterdir()) == []


def test_report_needs_runs(command, workplace):
    assert_refused(command("report"), "at least one run")
    assert_refused(command("report", "nowhere"), "nowhere does not exist")
    assert_refused(command("report", "."), "no run was found")


def test_a_damaged_run_is_refused_by_name(command, workplace):
    assert command("train", *TINY, "--out", "run")[0] == 0
    (workplace / "run" / "config.json").write_text("{")
    assert_refused(command("report", "run"), "run/config.json")
    assert_refused(command("train", "--resume", "--out", "run"), "run/config.json")


# -- train ----------------------------------------------------------------------------------------


def test_train_keeps_a_run_folder_and_tells_the_result(command, workplace):
    code, out, error = command("train", *TINY, "--out", "run", "--optimizer", "adam")
    assert code == 0
    assert {path.name for path in (workplace / "run").iterdir()} == FILES
    result = json.loads((workplace / "run" / "result.json").read_text())
    assert f"test accuracy {result['test_metric']:.4f}" in out
    assert f"best validation accuracy {result['best']['validation_metric']:.4f}" in out
    assert f"({result['best']['gradient_evaluations']} of 12 gradients" in out
    assert "status out of budget" in out
    assert "run folder run\n" in out
    assert "12 gradients" in error  # the progress bar is no part of the result


def test_quiet_prints_the_last_lines_only(command):
    code, out, error = command("train", *TINY, "--out", "run", "--quiet")
    assert (code, error) == (0, "")
    assert out.splitlines()[-2:] == ["status out of budget", "run folder run"]


def test_without_a_folder_a_new_one_below_runs_is_made(command, workplace):
    for _ in range(2):
        assert command("train", *TINY, "--optimizer", "adam:lr=0.1", "--seed", 4)[0] == 0
    made = {path.name for path in (workplace / "runs").iterdir()}
    assert made == {"digits-rows-adam-4", "digits-rows-adam-4-2"}


def test_a_folder_that_holds_a_run_is_refused(command):
    assert command("train", *TINY, "--out", "run")[0] == 0
    assert_refused(command("train", *TINY, "--out", "run"), "already holds a run", "--resume")


@pytest.mark.parametrize("name", ["run [a]", "[red]run", "a[/b]", "ünï-日本"])
def test_the_folders_name_is_printed_as_it_is(command, name):
    code, out, _ = command("train", *TINY, "--out", name)
    assert code == 0
    assert f"run folder {name}\n" in out
    code, out, _ = command("report", name)
    assert code == 0
    assert f"wrote {name}/report.md\n" in out


def test_a_run_that_diverges_has_exit_code_1(command, workplace):
    # A squared error that grows by far more than 10^38 within ten steps: infinite in float32.
    code, out, _ = command(
        "train", "--task", "counting", "--model", "rnn-relu", "--out", "run",
        "--optimizer", "sgd:lr=1e9", "--budget", "50gradients",
    )  # fmt: skip
    assert code == 1
    assert "status diverged" in out
    assert json.loads((workplace / "run" / "result.json").read_text())["status"] == "diverged"


def test_a_finished_run_is_told_again_by_resume(command):
    _, first, _ = command("train", *TINY, "--out", "run", "--quiet")
    code, again, _ = command("train", "--out", "run", "--resume", "--quiet")
    assert code == 0
    assert again == first.replace(
        "budget\n", "budget, which it had before: nothing was left to do\n"
    )


@pytest.mark.parametrize(
    ("option", "value", "word"),
    [
        ("--lr", "0.5", "lr=0.5"),
        ("--seed", "3", "seed=3"),
        ("--optimizer", "adam", "adam"),
        ("--seed", "0", "seed=0"),
        ("--model", "rnn", "model=rnn"),
    ],  # which are the defaults
)
def test_resume_with_a_contradicting_option_is_refused(command, option, value, word):
    settings = [*TINY, "--seed", "7", "--model", "gru", "--out", "run"]
    assert command("train", *settings)[0] == 0
    result = command("train", "--out", "run", "--resume", option, value)
    assert_refused(result, "the run was begun with", word)


def test_resume_with_the_same_options_is_fine(command):
    settings = [*TINY, "--seed", "7", "--model", "gru", "--out", "run"]
    assert command("train", *settings)[0] == 0
    assert command("train", *settings, "--resume")[0] == 0


def test_a_download_is_shown_while_a_run_begins(command, monkeypatch):
    def downloading(text):
        download.listener("images.gz", 5, 10)
        download.listener("images.gz", 10, 10)
        return build_task(text)

    monkeypatch.setattr(building, "build_task", downloading)
    code, _, error = command("train", *TINY, "--out", "run")
    assert code == 0
    assert "images.gz" in error


# -- interrupting and going on --------------------------------------------------------------------

LONG = ["--task", "digits-rows", "--hidden", "8", "--budget", "1000gradients"]
LONG += ["--evaluate-every", "25", "--optimizer", "frank-wolfe:inner_steps=7,lr=0.01"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of the long run when nothing disturbs it."""
    path = tmp_path_factory.mktemp("whole") / "run"
    with pytest.raises(SystemExit) as ended:
        main(["train", *LONG, "--out", str(path), "--quiet"])
    assert ended.value.code == 0
    return path


def begin(*arguments):
    """The command in a process of its own."""
    return forks.begin("forks:rnnopt", *arguments)


def wait_for_lines(process, path, count):
    """Waits until a file of a process at work has so many lines."""
    for _ in range(6000):
        if path.exists() and path.read_bytes().count(b"\n") >= count:
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    raise AssertionError(f"{path} did not get {count} lines within a minute")


@pytest.mark.process
def test_a_killed_run_goes_on_bit_for_bit(command, workplace, whole):
    with begin("train", *LONG, "--out", "run") as process:
        wait_for_lines(process, workplace / "run" / "metrics.jsonl", 3)
        process.kill()
        process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert RunFolder.open(workplace / "run").read_result()["status"] == "running"
    assert 3 <= len(records_of(workplace / "run")) < len(records_of(whole))
    code, out, _ = command("train", "--out", "run", "--resume")
    assert code == 0
    assert "status out of budget" in out
    assert_same_run(workplace / "run", whole)
    assert {path.name for path in (workplace / "run").iterdir()} == FILES


@pytest.mark.process
def test_an_interrupted_run_says_so_and_goes_on_bit_for_bit(command, workplace, whole):
    with begin("train", *LONG, "--out", "run", "--quiet") as process:
        wait_for_lines(process, workplace / "run" / "metrics.jsonl", 3)
        process.send_signal(signal.SIGINT)
        out, error = process.communicate(timeout=60)
    assert process.returncode == 130
    *lines, advice = out.splitlines()
    assert lines == ["status interrupted", "run folder run"]
    assert advice == "interrupted; rnnopt train --out run --resume continues it."
    assert error == ""
    result = RunFolder.open(workplace / "run").read_result()
    assert result["status"] == "interrupted"
    assert 50 <= result["gradient_evaluations"] < 1000
    assert command(*advice.split()[2:-2], "--quiet")[0] == 0
    assert_same_run(workplace / "run", whole)


@pytest.mark.parametrize(
    ("processes", "log", "words"),
    [
        ("1", (), "rnnopt train --out 'my run' --resume"),
        ("1", ("tensorboard",), "rnnopt train --out 'my run' --resume --log tensorboard"),
        ("2", (), "the same torchrun with --out 'my run' --resume"),
    ],
)
def test_what_goes_on_with_an_interrupted_run_is_written_out(monkeypatch, processes, log, words):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    monkeypatch.setenv("WORLD_SIZE", processes)
    assert again(Path("my run"), log) == words


# -- compare and report ---------------------------------------------------------------------------

PAIR = ["adam:lr=0.01,clip=1", "frank-wolfe:inner_steps=2"]


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """The folder of a comparison of two optimizers with two seeds; no test changes it."""
    path = tmp_path_factory.mktemp("compared") / "c"
    settings = [*TINY, "--optimizers", *PAIR, "--seeds", "0", "3", "--workers", "2"]
    with pytest.raises(SystemExit) as ended:
        main(["compare", *settings, "--out", str(path)])
    assert ended.value.code == 0
    return path


def copy_of(folder, place):
    """A copy of a folder of runs."""
    for path in folder.rglob("*"):
        if path.is_file():
            copy = place / path.relative_to(folder)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
    return place


def test_compare_gives_the_numbers_of_single_runs(command, workplace, compared):
    runs = sorted(path.parent for path in compared.rglob("config.json"))
    assert len(runs) == 4
    found = {}
    for path in runs:
        config = RunFolder.open(path).read_config()
        found[config.optimizer, config.seed] = path
    assert set(found) == {(optimizer, seed) for optimizer in PAIR for seed in (0, 3)}
    for number, ((optimizer, seed), path) in enumerate(found.items()):
        out = f"single-{number}"
        settings = [*TINY, "--optimizer", optimizer, "--seed", seed, "--out", out]
        assert command("train", *settings)[0] == 0
        assert_same_run(path, workplace / out)


@pytest.mark.process
def test_worker_processes_train_the_same_runs(command, worker_processes, compared):
    asked = [*TINY, "--optimizers", PAIR[1], "--seeds", "0", "3", "--workers", "1", "--out", "c"]
    assert command("compare", *asked, "--quiet")[0] == 0
    runs = [path.parent for path in Path("c").rglob("config.json")]
    assert len(runs) == 2
    for path in runs:
        assert_same_run(path, compared / path.relative_to("c"))


def test_compare_writes_the_table_and_the_figure(compared):
    text = (compared / "report.md").read_text()
    for optimizer in PAIR:
        assert f"| {optimizer} | 2 |" in text
    assert "| 2 out of budget |" in text
    assert (compared / "report.png").read_bytes().startswith(b"\x89PNG")
    assert "Classification of the test data" in (compared / "report.html").read_text()


def test_compare_refuses_to_begin_again_where_runs_are(command, compared):
    result = command("compare", *TINY, "--optimizers", *PAIR, "--out", compared)
    assert_refused(result, "already holds runs", "--resume")


def test_compare_resumes_what_is_missing_or_unfinished(command, workplace, compared):
    # One run is gone, one was killed after its checkpoint at 6 gradients, two are finished.
    out = copy_of(compared, workplace / "c")
    gone, killed, *finished = sorted(path.parent for path in out.rglob("config.json"))
    for name in FILES:
        (gone / name).unlink()
    count = iter(range(100))
    config = RunFolder.open(killed).read_config()
    for name in FILES:
        (killed / name).unlink()
    runner.run(config, killed, stop_requested=lambda: next(count) == 7)
    times = {path: path.stat().st_mtime_ns for run in finished for path in run.iterdir()}
    settings = [*TINY, "--optimizers", *PAIR, "--seeds", "0", "3", "--workers", "1"]
    code, printed, _ = command("compare", *settings, "--out", out, "--resume")
    assert code == 0
    assert "2 out of budget" in printed
    for path in (gone, killed, *finished):
        assert_same_run(path, compared / path.relative_to(out))
    assert {path: path.stat().st_mtime_ns for path in times} == times


def test_compare_resumes_with_what_it_was_asked_for(command, workplace, compared):
    out = copy_of(compared, workplace / "c")
    shutil.rmtree(next(path.parent for path in out.rglob("config.json")))
    code, printed, _ = command("compare", "--out", out, "--resume", "--workers", "1")
    assert code == 0
    assert "2 out of budget" in printed
    for path in compared.rglob("config.json"):
        assert_same_run(out / path.parent.relative_to(compared), path.parent)
    code, printed, _ = command("compare", "--out", out, "--resume", "--seeds", "3", "--json")
    assert (code, [run["seed"] for run in json.loads(printed)["runs"]]) == (0, [3, 3])
    assert json.loads((out / "comparison.json").read_text())["seeds"] == [0, 3]  # all it ever had
    result = command("compare", "--out", out, "--resume", "--budget", "9gradients")
    assert_refused(result, "begun with --budget", "cannot resume with 9gradients")


def test_a_comparison_of_before_is_resumed_when_all_is_said(command, workplace, compared):
    out = copy_of(compared, workplace / "c")
    (out / "comparison.json").unlink()
    assert_refused(command("compare", "--out", out, "--resume"), "holds other runs than these")
    assert not (out / "comparison.json").exists()
    settings = [*TINY, "--optimizers", *PAIR, "--seeds", "0", "3", "--out", out, "--resume"]
    assert command("compare", *settings, "--quiet")[0] == 0
    assert command("compare", "--out", out, "--resume", "--quiet")[0] == 0


@pytest.mark.parametrize("kept", ["comparison.json", "tuning/adam/lr-0.1/config.json"])
def test_a_comparison_that_has_no_runs_yet_is_not_begun_again(command, workplace, kept):
    file = workplace / "c" / kept
    file.parent.mkdir(parents=True)
    file.write_text("{}")
    assert_refused(command("compare", "--out", "c"), "already holds runs", "--resume")


@pytest.mark.parametrize(
    "content", ['{"shared": 3}', '{"shared": {}, "optimizers": "adam"}', "[]", "{"]
)
def test_what_a_comparison_was_asked_for_is_checked(command, workplace, compared, content):
    out = copy_of(compared, workplace / "c")
    (out / "comparison.json").write_text(content)
    assert_refused(command("compare", "--out", out, "--resume"), "comparison.json")


def test_compare_does_not_resume_what_is_not_there(command, workplace):
    assert_refused(command("compare", "--out", "none", "--resume"), "no comparison to resume")
    assert not (workplace / "none").exists()


@pytest.mark.parametrize("policy", ["stop", "skip"])
def test_compare_says_which_runs_diverged(command, workplace, policy):
    settings = ["--task", "digits-rows", "--model", "rnn-relu", "--budget", "40gradients"]
    named = ["--optimizers", "sgd:lr=1e38", "adam", "--seeds", "0", "--on-nonfinite", policy]
    code, printed, error = command("compare", *settings, *named, "--out", "d", "--json")
    assert code == 1
    assert json.loads(printed)["diverged"] == [str(Path("d/sgd_lr=1e38/seed-0"))]
    met = " (21 steps were not finite)" if policy == "skip" else ""
    assert f"diverged: d/sgd_lr=1e38/seed-0{met}" in error


def test_compare_does_not_resume_with_other_settings(command, compared):
    settings = [*TINY, "--optimizers", *PAIR, "--seeds", "0", "3", "--out", compared, "--resume"]
    refused = command("compare", *settings, "--layers", "2")
    assert_refused(refused, "begun with --layers None", "cannot resume with 2")
    (compared / "comparison.json").unlink()  # as versions before left it
    assert_refused(command("compare", *settings, "--layers", "2"), "other settings (layers=None)")


def test_compare_tells_which_run_failed_and_reports_the_others(command, workplace):
    occupied = workplace / "c" / "adam"
    occupied.mkdir(parents=True)
    (occupied / "seed-0").write_text("in the way")
    settings = ["--task", "counting", "--budget", "3gradients"]
    settings += ["--optimizers", "adam", "sgd", "--seeds", "0", "--workers", "1"]
    code, out, error = command("compare", *settings, "--out", workplace / "c")
    assert code == 1
    assert "Traceback" not in error
    assert re.search(r"failed: .*c/adam/seed-0.*cannot write the run folder", error)
    assert "1 out of budget" in out
    assert "| sgd | 1 |" in (workplace / "c" / "report.md").read_text()


@pytest.mark.process
@pytest.mark.full
def test_a_terminated_comparison_saves_its_runs_and_reports(workplace):
    settings = ["--task", "counting", "--budget", "1h", "--evaluate-every", "10"]
    settings += ["--optimizers", "adam", "sgd", "--seeds", "0", "--workers", "1"]
    with begin("compare", *settings, "--out", "c") as process:
        wait_for_lines(process, workplace / "c" / "adam" / "seed-0" / "metrics.jsonl", 2)
        process.terminate()
        out, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "--out c --resume" in out
    assert "Traceback" not in error
    path = workplace / "c" / "adam" / "seed-0"
    saved = torch.load(path / "checkpoint.pt", weights_only=True)
    result = RunFolder.open(path).read_result()
    assert (result["status"], result["gradient_evaluations"]) == (
        "interrupted",
        saved["closure"]["calls"],
    )
    assert not (workplace / "c" / "sgd").exists()  # it waited for the worker and never began
    report = (workplace / "c" / "report.md").read_text()
    assert "| 1 interrupted |" in report
    assert "sgd" not in report


def test_report_reads_single_runs_and_folders_of_them(command, workplace, compared):
    runs = sorted(path.parent for path in compared.rglob("config.json"))
    code, out, error = command("report", *runs, "--out", "there")
    assert (code, error) == (0, "")
    assert (workplace / "there" / "report.md").read_text() == (compared / "report.md").read_text()
    assert (workplace / "there" / "report.png").exists()
    written = [f"wrote there/report.{ending}" for ending in ("md", "png", "html")]
    assert out.splitlines()[-3:] == written
    page = (workplace / "there" / "report.html").read_text()
    assert "Gradients through time" in page
    assert "Classification of the test data" in page
    for optimizer in PAIR:
        assert optimizer in out


def test_report_goes_beside_the_first_run_by_default(command, workplace, compared):
    copy = copy_of(compared, workplace / "c")
    (copy / "report.md").unlink()
    assert command("report", copy)[0] == 0
    assert (copy / "report.md").read_text() == (compared / "report.md").read_text()


def test_the_page_can_be_left_out_or_made_without_scores(command, workplace, compared):
    assert command("report", compared, "--out", "bare", "--no-html")[0] == 0
    assert sorted(p.name for p in (workplace / "bare").iterdir()) == ["report.md", "report.png"]
    assert command("report", compared, "--out", "quick", "--no-scores")[0] == 0
    page = (workplace / "quick" / "report.html").read_text()
    assert "Curves" in page
    assert "Gradients through time" not in page


def test_a_report_that_cannot_be_written_is_refused(command, workplace, compared):
    (workplace / "file").write_text("in the way")
    code, _, error = command("report", compared, "--out", "file")
    assert code == 2
    assert "cannot write the report to file" in error
    assert "Traceback" not in error


@pytest.mark.parametrize("columns", ["40", "80", "250"])
def test_tables_fit_any_terminal(command, compared, workplace, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    code, out, _ = command("report", compared, "--out", workplace / "r")
    assert code == 0
    table = [line for line in out.splitlines() if line[:1] in "┏┃┡│└"]
    assert table
    assert all(len(line) <= int(columns) for line in table)


def test_a_run_that_fails_is_told_in_one_sentence_and_keeps_its_traceback(
    command, workplace, monkeypatch
):
    # torch's Adam refuses `capturable` on the CPU, but only at its first step.
    failing = (*TINY, "--optimizer", "adam:capturable=true", "--out", "run")
    code, _, shown = command("train", *failing)
    assert code == 1
    assert "failed with AssertionError" in shown
    assert "RNNOPT_DEBUG=1" in shown
    assert "Traceback" not in shown
    result = json.loads((workplace / "run" / "result.json").read_text())
    assert result["status"] == "failed"
    assert result["error"].startswith("AssertionError")
    assert "Traceback" in (workplace / "run" / "error.txt").read_text()
    monkeypatch.setenv("RNNOPT_DEBUG", "1")
    assert "Traceback" in command("train", *failing[:-1], "again")[2]


def test_a_folder_that_another_process_works_on_is_refused(command, workplace):
    command("train", *TINY, "--out", "run")
    with RunFolder.open(workplace / "run").locked():
        code, _, shown = command("train", "--out", "run", "--resume")
    assert code == 2
    assert "in use by another process" in shown


@pytest.mark.process
@pytest.mark.full
def test_an_encoding_without_the_signs_shows_question_marks(workplace):
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "rnnopt", "list"]
    done = subprocess.run(command, capture_output=True, env=environment, check=False)
    assert done.returncode == 0
    assert b"adding" in done.stdout


@pytest.mark.process
def test_a_missing_extra_is_named(workplace):
    code = "import sys; sys.modules['cyclopts'] = None; from rnnopt.__main__ import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == 'rnnopt: the command line needs cyclopts: pip install "rnnopt[cli]"\n'


@pytest.mark.process
@pytest.mark.full
@pytest.mark.parametrize("line", ["--version", "train --help", "list", "list adam --json"])
def test_a_closed_output_is_no_error(line):
    command = ["sh", "-c", f"exec '{sys.executable}' -m rnnopt {line} >&-"]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.process
@pytest.mark.full
@pytest.mark.parametrize(
    "line", ["--version", "--help", "train --help", "list", "list adam --json"]
)
def test_a_reader_that_goes_away_ends_a_command_without_a_word(line):
    command = [sys.executable, "-m", "rnnopt", *line.split()]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
@pytest.mark.process
@pytest.mark.full
@pytest.mark.parametrize("line", ["--version", "train --help", "list", "list adam --json"])
def test_output_that_a_full_disk_refuses_is_one_sentence(line):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "rnnopt", *line.split()],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    sentence = "rnnopt: the output could not be written: No space left on device.\n"
    assert (done.returncode, done.stderr) == (2, sentence)
