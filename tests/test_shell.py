"""Manners in a shell: help, completion, misspellings, colours, and output for scripts."""

import ast
import inspect
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import fields
from itertools import pairwise

import pytest
import torch

import rnnopt
from rnnopt.cli.main import VERBS, parser, read
from rnnopt.cli.options import GROUPS
from rnnopt.cli.unread import ELSEWHERE, options_of
from rnnopt.config.run_config import MODELS, Budget, RunConfig
from rnnopt.runs.folder import RunFolder
from rnnopt.tasks import TASKS
from rnnopt.training.registry import OPTIMIZERS, build_optimizer

TINY = ["--task", "counting:length=3", "--hidden", "3", "--budget", "10gradients"]
COLOUR = re.compile(r"\x1b\[[0-9;]*(?<![0-9])(3[0-7]|4[0-7]|9[0-7])[;m]")


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    """Every test works in a folder of its own, on a wide terminal."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path


# -- help and misspellings -------------------------------------------------------------------------


def test_help_has_one_line_a_verb(command):
    code, out, _ = command("--help")
    assert code == 0
    lines = [line for line in out.splitlines() if re.match("│ [a-z]", line)]
    assert [line.split()[1] for line in lines] == list(VERBS)
    assert all(len(line.split()) > 5 for line in lines)
    assert len(out.splitlines()) < 24  # one screen


def test_help_fits_a_small_terminal(command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    lines = command("--help")[1].splitlines()
    assert max(map(len, lines)) <= 60
    text = " ".join(" ".join(lines).replace("│", " ").split())
    assert all(f"{name} {summary}" in text for name, (_, summary) in VERBS.items())


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_every_verb_says_something_of_every_option(command, monkeypatch, verb):
    monkeypatch.setenv("COLUMNS", "100")
    code, out, _ = command(verb, "--help")
    assert code == 0
    assert out.startswith(f"Usage: rnnopt {verb}")
    assert VERBS[verb][1] in out.splitlines()  # as `rnnopt --help` says it
    inside = "\n".join(re.findall(r"^│ (.*?) *│$", out, re.MULTILINE))
    for option in re.split(r"\n(?=(?:[*]  |   )?--?\w)", inside):
        words = re.sub(r"--[-\w]+|\[.*", "", option, flags=re.DOTALL)  # behind the names
        assert len(words.split()) >= 3, option
        assert re.search(r"(?<= )[A-Z][a-z]", option), option  # a sentence
    # Sentences flow: no line of the help ends before it is full.
    for line, following in pairwise(inside.splitlines()):
        if re.match(r" {10,}", line) and re.match(r" {10,}", following):
            assert len(line) + 1 + len(following.split()[0]) > 96, line


@pytest.mark.parametrize("verb", VERBS)
def test_help_fits_a_small_terminal_and_ends_with_commands_that_work(command, monkeypatch, verb):
    monkeypatch.setenv("COLUMNS", "80")
    out = command(verb, "--help")[1]
    assert max(map(len, out.splitlines())) <= 80
    assert "default: None" not in out
    assert "default: ]" not in out
    examples = out.partition("\nExamples:\n")[2].splitlines()
    assert 2 <= len(examples) <= 4
    for line in examples:
        _, *words = re.search(r"rnnopt [^>)]+", line)[0].split()
        assert words[0] == verb
        assert read(words)


def test_options_of_a_run_are_in_groups(command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    for verb in ("train", "compare", "sweep", "diagnose"):
        out = command(verb, "--help")[1]
        boxes = dict(re.findall(r"^╭─ (.*?) ─+╮\n((?:│.*│\n)+)", out, re.MULTILINE))
        boxes.pop("Options", None)  # of the verb
        assert ("Workers" in boxes) is (verb in ("compare", "sweep"))
        boxes.pop("Workers", None)
        assert list(boxes) == ["Data", "Model", "Optimizer", "Training loop", "Output"]
        for box, option in zip(
            boxes, ("--task", "--hidden", "--lr", "--budget", "--out"), strict=True
        ):
            assert f"│ {option} " in boxes[box]


def test_every_setting_of_a_run_is_in_one_group():
    groups = {title: names for title, names in GROUPS.items() if title not in ("Workers", "Output")}
    grouped = [name for names in groups.values() for name in names]
    assert sorted(grouped) == sorted(field.name for field in fields(RunConfig))


@pytest.mark.parametrize(
    ("arguments", "near"),
    [
        (["train", "--optimiser", "adam"], "--optimizer"),
        (["train", "--budgt", "3epochs"], "--budget"),
        (["compare", "--optimizer", "adam"], "--optimizers"),
        (["sweep", "--trial", "3"], "--trials"),
        (["diagnose", "--snapshot", "3"], "--snapshots"),
        (["train", "--epochs", "3"], "--budget 3epochs"),
        (["compare", "--max_steps=9"], "--budget 9gradients"),
        (["train", "--max-time", "00:12"], "--budget 30s"),
        (["train", "--beta1=0.8"], "--optimizer adam:betas=0.9..0.99"),
        (["compare", "--weight-decay", "0.1"], "--optimizers adamw:weight_decay=0.1"),
        (["train", "--early-stopping"], "--patience 5"),
        (["train", "--learningrate", "1"], "--lr"),
        (["train", "-lr", "0.1"], "--lr"),
        (["compare", "--random-state", "1"], "--seeds"),
        (["train", "--learning-rate=0.1"], "--lr"),
        (["train", "--dataset", "mnist"], "--task or --data"),
        (["sweep", "--n-jobs", "2"], "--workers"),
        (["train", "adding:length=9"], "--task adding:length=9"),
        (["train", "recordings.csv"], "--data recordings.csv"),
        (["predict", "runs/own", "recordings.csv"], "--data recordings.csv"),
        (["train", "frank-wolfe"], "--optimizer frank-wolfe"),
        (["train", "torch.optim:Adam"], "--optimizer torch.optim:Adam"),
        (["sweep", "torch.optim.Adam"], "--optimizer torch.optim.Adam"),
        (["benchmark", "my.py:Mine,lr=1"], "--optimizer my.py:Mine,lr=1"),
        (["train", "adam,lr=1"], "--optimizer adam,lr=1"),
        (["train", "lstm"], "--model lstm"),
        (["compare", "recordings.csv"], "'--data recordings.csv'"),
        (["compare", "adding"], "'--task adding'"),
        (["train", "--optimizer", "AdamW"], "'adamw'"),
        (["Fit"], "'train'"),
        (["fit"], "'train'"),
        (["tune", "--task", "adding"], "'sweep'"),
        (["help"], "'--help'"),
    ],
)
def test_a_misspelt_option_brings_the_nearest(command, workplace, arguments, near):
    code, out, error = command(*arguments)
    assert (code, out) == (2, "")
    assert len(error.splitlines()) == 1
    assert f"Did you mean {near}?" in error
    assert not list(workplace.iterdir())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "--seed", "abc"], ["--seed", "a whole number", "abc"]),
        (["train", "--hidden=x"], ["--hidden", "a whole number", "x"]),
        (["train", "--lr", "fast"], ["--lr", "a number", "fast"]),
        (["compare", "--seeds", "0", "b"], ["--seeds", "a whole number", "b"]),
        (["train", "--budget"], ["--budget", "needs a value"]),
        (
            ["train", "--schedule", "cosin"],
            [
                "--schedule",
                "cosin",
                "constant",
                "linear",
                "plateau-restart",
                "Did you mean",
                "cosine",
            ],
        ),
        (["train", "--layout", "tall"], ["--layout", "tall", "wide", "long"]),
        (["train", "more"], ["train does not know what to do with 'more'."]),
        (["predict"], ["predict", "RUN"]),
        (["predict", "runs/own"], ["predict", "--data"]),
        (["list", "adam", "sgd"], ["list does not know what to do with 'sgd'."]),
        (["inspect"], ["inspect", "FILE"]),
        (["--json"], ["--json", "a verb such as train comes first"]),
        (["--epochs", "3"], ["--epochs", "a verb such as train comes first"]),
        ([""], ["unknown verb ''"]),
        (["train", "--lr", "1", "--lr=2"], ["--lr", "multiple times"]),
        (["train", "--resume", "--no-resume"], ["--no-resume", "multiple times"]),
        (["train", "--seed", "1.5"], ["--seed", "a whole number", "1.5"]),
        (["train", "--lr", "1\n2\x1b[31m"], ["--lr", "a number", r"1\n2\x1b[31m"]),
    ],
)
def test_what_cannot_be_read_is_one_sentence(command, workplace, arguments, words):
    code, _, error = command(*arguments)
    assert (code, len(error.splitlines())) == (2, 1)
    assert error.startswith("rnnopt: ")
    assert error.endswith((".\n", "?\n"))
    for word in words:
        assert word in error
    assert not list(workplace.iterdir())


def test_the_options_named_for_those_of_other_programs_exist():
    offered = {one for verb in ("train", "compare") for one in options_of(parser([verb])[verb])}
    plain = {one[2:].replace("-", "") for one in offered}
    for ours, words in ELSEWHERE.items():
        assert {word for word in ours.split() if word.startswith("--")} <= offered
        assert plain & set(words) <= {"lr"}  # -lr
        option, _, value = ours.partition(" ")
        if option == "--optimizer" and value:
            build_optimizer(value, [("w", torch.zeros(1, 1))])
        elif option == "--budget":
            Budget.parse(value)


@pytest.mark.parametrize(
    "line",
    [
        "benchmark --epochs 3", "reproduce asnaq/figure-1 adding", "train --n-jobs 2",
        "train --repeats 3", "export runs/own --gpu", "train --loss mse",
        "predict --model runs/own", "train 0.5", "train config.yaml", "train lr",
    ],
)  # fmt: skip
def test_what_nothing_says_brings_no_advice(command, line):
    code, _, error = command(*line.split())
    assert code == 2
    assert "Did you mean" not in error


def test_a_word_too_long_for_a_path_is_refused_in_a_sentence(command):
    code, _, error = command("train", "a" * 300)
    assert (code, len(error.splitlines())) == (2, 1)


def test_a_run_as_a_bare_word_is_for_out(command, workplace):
    (workplace / "own").mkdir()
    (workplace / "own" / "config.json").write_text("{}")
    assert "Did you mean --out own?" in command("train", "--resume", "own")[2]


def test_help_before_a_verb_is_that_of_the_verb(command):
    for word in ("--help", "-h"):
        assert command(word, "train") == command("train", "--help")


def test_a_misspelt_verb_brings_the_nearest(command):
    code, out, error = command("trian", "--task", "adding")
    assert (code, out) == (2, "")
    assert "Did you mean 'train'?" in error
    assert len(error.splitlines()) == 1


# -- completion ------------------------------------------------------------------------------------


LINES = {  # what is written, and what completes it
    "rnnopt sw": ["sweep"],
    "rnnopt train --optim": ["--optimizer"],
    "rnnopt train --schedule cos": ["cosine"],
    "rnnopt train --layout ": ["wide", "long"],
    "rnnopt train --model ls": ["lstm"],
    "rnnopt compare --optimizers adam nad": ["nadam"],
    "rnnopt diagnose --task har": ["har2", "har6"],
    "rnnopt list fr": ["frank-wolfe"],
    "rnnopt list --json digits": ["digits-rows", "digits-pixels"],
    "rnnopt reproduce frank-wolfe/table-3": ["frank-wolfe/table-3"],
    "rnnopt reproduce --form quick li": ["list"],
    "rnnopt completion ": ["bash", "zsh"],
    "rnnopt compare --optimizers adam --see": ["--seeds"],
    "rnnopt report ru": ["runs"],
    "rnnopt train --resume --out ru": ["runs"],
}


IN_BASH = """
eval "$("$PYTHON" -m rnnopt completion bash)"
complete_line() {
    COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
    _rnnopt; echo "${COMPREPLY[@]}"
}
"""
# The completion of a zsh at work, which keeps what it would offer in a file.
IN_ZSH = """
"$PYTHON" -m rnnopt completion zsh > _cyclopts_rnnopt
fpath=($PWD $fpath)
autoload -Uz compinit && compinit -u -d dump
compadd() {
    [[ " ${@[1,(i)(-|--)]}" == *" -"[OAD]* ]] && { builtin compadd "$@"; return }
    local -a hits
    builtin compadd -O hits "$@"
    print -rn -- "$hits " >> found
}
offer() { _main_complete; print >> found }
zle -C offer list-choices offer
bindkey "^I" offer
zle-line-init() { print READY }
zle -N zle-line-init
"""


@pytest.mark.process
@pytest.mark.full
def test_bash_completes_verbs_options_names_and_files(workplace):
    (workplace / "runs").mkdir()
    script = [IN_BASH]
    for line in LINES:
        words = " ".join(f"'{word}'" for word in line.split(" "))
        script.append(f"complete_line {words}")
    done = subprocess.run(
        ["bash", "-c", "\n".join(script)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHON": sys.executable},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = [sorted(line.split()) for line in done.stdout.splitlines()]
    assert found == list(map(sorted, LINES.values()))


@pytest.mark.skipif(shutil.which("zsh") is None, reason="no zsh")
@pytest.mark.process
@pytest.mark.full
def test_zsh_completes_verbs_options_names_and_files(workplace):
    (workplace / "runs").mkdir()
    (workplace / "begin").write_text(IN_ZSH)
    parent, child = pty.openpty()
    environment = os.environ | {"PYTHON": sys.executable, "TERM": "dumb"}
    zsh = subprocess.Popen(["zsh", "-fi"], stdin=child, stdout=child, stderr=child, env=environment)
    os.close(child)
    os.write(parent, b". ./begin\n")
    shown = b""
    while b"READY\r\n" not in shown:
        shown += os.read(parent, 4096)
    for line in LINES:
        os.write(parent, f"{line}\t\x15".encode())  # Ctrl-U takes it away
    os.write(parent, b"exit\n")
    with suppress(OSError):  # the terminal closes with the process
        while os.read(parent, 4096):
            pass
    os.close(parent)
    zsh.wait()
    found = [sorted(set(line.split())) for line in (workplace / "found").read_text().splitlines()]
    assert found == list(map(sorted, LINES.values()))


@pytest.mark.parametrize("shell", ["tcsh", "fish"])
def test_completion_of_an_unknown_shell_is_refused(command, shell):
    code, out, error = command("completion", shell)
    assert (code, out) == (2, "")
    assert all(word in error for word in (shell, "bash", "zsh"))


# -- Ctrl-C at once -------------------------------------------------------------------------------


SLOW_TORCH = """
import os, signal, time
os.kill(os.getpid(), signal.SIGINT)
time.sleep(60)
"""


@pytest.mark.parametrize("begun_as", ["module", "script"])
@pytest.mark.process
def test_ctrl_c_while_torch_is_imported_is_quiet(workplace, begun_as):
    (workplace / "torch").mkdir()
    (workplace / "torch" / "__init__.py").write_text(SLOW_TORCH)
    started = "from rnnopt.__main__ import main; main()"  # what the installed script does
    how = ["-m", "rnnopt", "list"] if begun_as == "module" else ["-c", started, "list"]
    package = os.path.dirname(os.path.dirname(rnnopt.__file__))
    done = subprocess.run(
        [sys.executable, *how],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(workplace), package])},
        # Where the tests run in the background, a shell has them ignore it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")


@pytest.mark.process
@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_and_version_do_not_wait_for_torch(workplace, option):
    (workplace / "torch.py").write_text("raise AssertionError('imported')")
    package = os.path.dirname(os.path.dirname(rnnopt.__file__))
    path = os.pathsep.join([str(workplace), package])
    asked = [sys.executable, "-m", "rnnopt", option]
    done = subprocess.run(
        asked, capture_output=True, check=False, env=os.environ | {"PYTHONPATH": path}
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"rnnopt" in done.stdout


def test_public_names_are_imported_when_asked_for():
    source = ast.parse(inspect.getsource(rnnopt))
    (block,) = (one for one in source.body if isinstance(one, ast.If))
    declared = {alias.name: one.module for one in block.body for alias in one.names}
    promised = {name: f"rnnopt.{place}" for name, place in rnnopt.PLACES.items()}
    assert declared == promised | dict.fromkeys(rnnopt.ESTIMATORS, "rnnopt.estimator")
    assert all(getattr(rnnopt, name).__name__ == name for name in declared)
    assert set(declared) < set(dir(rnnopt))
    assert rnnopt.distributed.__name__ == "rnnopt.distributed"
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = rnnopt.nothing


# -- colours ---------------------------------------------------------------------------------------


def on_a_terminal(*arguments, **environment):
    """What the command prints on a terminal, and its exit code."""
    parent, child = pty.openpty()
    names = ("NO_COLOR", "FORCE_COLOR", "COLORTERM")
    clean = {k: v for k, v in os.environ.items() if k not in names}
    clean |= {"TERM": "xterm-256color"} | environment
    process = subprocess.Popen(
        [sys.executable, "-m", "rnnopt", *arguments],
        stdout=child,
        stderr=child,
        stdin=child,
        env=clean,
    )
    os.close(child)
    text = b""
    while True:
        try:
            part = os.read(parent, 4096)
        except OSError:  # the terminal closes with the process
            break
        if not part:
            break
        text += part
    os.close(parent)
    return process.wait(), text.decode()


@pytest.mark.process
@pytest.mark.full
def test_no_color_is_honoured(workplace):
    # One sentence of ours, and one of the parser of the options.
    for arguments in (["train", "--task", "nothing"], ["train", "--budgt", "3"]):
        code, plain = on_a_terminal(*arguments, NO_COLOR="1")
        assert code == 2
        assert not COLOUR.search(plain), plain
    assert COLOUR.search(on_a_terminal(*arguments)[1])


# -- for scripts -----------------------------------------------------------------------------------


def test_list_for_scripts(command):
    code, out, error = command("list", "--json")
    assert (code, error) == (0, "")
    found = json.loads(out)
    assert [list(found[kind]) for kind in ("tasks", "models", "optimizers")] == [
        list(TASKS), list(MODELS), list(OPTIMIZERS),
    ]  # fmt: skip
    code, out, error = command("list", "--quiet")
    assert (code, error) == (0, "")
    assert out.split() == [*TASKS, *MODELS, *OPTIMIZERS]


def test_doctor_for_scripts(command, monkeypatch):
    from rnnopt.runs import doctor

    found = [doctor.Finding("one", "good"), doctor.Finding("two", "bad", "Mend it.")]
    monkeypatch.setattr(doctor, "examine", lambda: found)
    code, out, error = command("doctor", "--json")
    assert (code, error) == (0, "")
    assert json.loads(out)["findings"][1] == dict(subject="two", answer="bad", advice="Mend it.")
    assert command("doctor", "--quiet") == (0, "Mend it.\n", "")


def test_train_for_scripts(command, workplace):
    code, out, error = command("train", *TINY, "--out", "run", "--json")
    assert (code, error) == (0, "")
    assert len(out.splitlines()) == 1
    found = json.loads(out)
    assert found.pop("folder") == "run"
    assert found == RunFolder.open(workplace / "run").read_result()
    # The next command is not silent any more.
    assert "status out of budget" in command("train", "--out", "run", "--resume", "--quiet")[1]


def test_compare_for_scripts(command, workplace):
    settings = [*TINY, "--optimizers", "adam", "sgd", "--seeds", "0", "--workers", "1"]
    code, out, error = command("compare", *settings, "--out", "c", "--json")
    assert (code, error) == (0, "")
    found = json.loads(out)
    assert (found["status"], found["folder"], found["failures"]) == ("over", "c", [])
    assert [run["optimizer"] for run in found["runs"]] == ["adam", "sgd"]
    for run in found["runs"]:
        result = RunFolder.open(workplace / run["folder"]).read_result()
        assert run["test_metric"] == result["test_metric"]


def test_json_has_null_for_what_is_no_number(command, workplace):
    # The first step throws the weights so far that the loss is no number.
    settings = [*TINY, "--optimizer", "sgd:lr=1e38", "--evaluate-every", "1"]
    code, out, _ = command("train", *settings, "--out", "run", "--json")
    assert code == 1
    assert "NaN" not in out
    assert "Infinity" not in out
    assert json.loads(out)["status"] == "diverged"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["--task", "nothing"], "unknown task 'nothing'"), (["--budgt", "3"], "--budgt")],
)
def test_errors_are_one_sentence_and_for_scripts_an_object(command, arguments, words):
    code, out, error = command("train", *arguments, "--json")
    assert code == 2
    assert words in error
    assert len(error.splitlines()) == 1
    told = json.loads(out)
    assert told == {"status": "error", "error": error.strip()[len("rnnopt: ") :], "exit_code": 2}
    assert command("train", *arguments, "--quiet") == (2, "", error)
