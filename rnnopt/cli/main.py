"""The command `rnnopt`: its verbs, and how they end. Each verb has a file in commands/.

Exit codes: 0 done, 1 a run failed or diverged, 2 bad input (one sentence, no traceback),
130 interrupted.
"""

import os
import sys
from collections.abc import Callable
from importlib.metadata import version as installed_version
from io import TextIOWrapper
from textwrap import TextWrapper, fill
from typing import Annotated, Literal

import tyro

from rnnopt.cli.commands import (
    compare,
    diagnose,
    export_run,
    inspect_data,
    list_all,
    look_around,
    predict_data,
    report_runs,
    reproduce_published,
    train,
)
from rnnopt.cli.commands.sweep import sweep
from rnnopt.cli.parser.arguments import names_of, read
from rnnopt.cli.parser.docstrings import summary_of
from rnnopt.cli.terminal import complain, console, download_bar, for_script, given, say
from rnnopt.config.errors import UserError, unknown_name
from rnnopt.layers.kernels import cpu
from rnnopt.training.data_parallel import RankError, rank, started


def completion(shell: Annotated[Literal["bash", "zsh"], tyro.conf.Positional]) -> int:
    """Print what makes a shell complete verbs and options.

    For bash, the first of the examples belongs into ~/.bashrc; for zsh, the second is done once,
    with ~/.zfunc in fpath before compinit.

    Args:
        shell: bash or zsh.

    Examples:
        eval "$(rnnopt completion bash)"
        rnnopt completion zsh > ~/.zfunc/_rnnopt
    """
    read(["--tyro-print-completion", shell], VERBS)
    return 0


VERBS: dict[str, Callable[..., int]] = {
    "list": list_all,
    "train": train,
    "compare": compare,
    "report": report_runs,
    "reproduce": reproduce_published,
    "diagnose": diagnose,
    "sweep": sweep,
    "doctor": look_around,
    "inspect": inspect_data,
    "predict": predict_data,
    "export": export_run,
    "completion": completion,
}


MORE = "`rnnopt VERB --help` says more of a verb, `rnnopt --version` which rnnopt it is."


def main(arguments: list[str] | None = None) -> None:
    """The command `rnnopt`; ends the process with the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # an encoding that lacks ± and ∞ shows ? instead
            stream.reconfigure(errors="replace")
    if arguments == ["--version"]:
        print(f"rnnopt {installed_version('rnnopt')}")
        sys.exit(0)
    console.quiet = False
    if arguments in ([], ["--help"], ["-h"]):
        _print_help()
        sys.exit(0)
    given.clear()
    given.update(names_of(arguments))
    try:
        code = _run(arguments)
    except RankError as error:
        complain(f"rnnopt: {error}")
        code = 2
    except UserError as error:  # other processes have met it, too, or heard it from the first
        code = 2 if rank() else _fail(arguments, str(error), 2)
    except FloatingPointError as error:  # as a UserError, but not the user's to mend beforehand
        sentence = f"failed with FloatingPointError: {error}"
        code = 1 if rank() else _fail(arguments, sentence, 1)
    except KeyboardInterrupt:
        code = _fail(arguments, "interrupted", 130)
    except BrokenPipeError:  # the reader of our output went away, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 141
    except Exception as error:
        code = _fail(arguments, f"failed with {type(error).__name__}: {error}", 1)
    sys.exit(code)


def _run(arguments: list[str]) -> int:
    """Does what the command line says; the exit code."""
    if {"data", "task"} <= given:
        raise UserError("--data takes the place of --task: give one of them.")
    try:
        cpu.switched_off()
    except ValueError as error:  # of an environment variable, which others may not have
        kind = RankError if rank() else UserError
        raise kind(str(error)) from error
    if arguments[0] not in (*VERBS, "--help", "-h"):
        if arguments[0][:1] == "-":
            raise UserError(f"a verb comes first, rnnopt VERB [OPTIONS], got {arguments[0]!r}.")
        raise unknown_name("verb", arguments[0], VERBS)
    if started() > 1 and arguments[0] != "train":
        raise UserError(f"{arguments[0]} works in one process: start it without torchrun.")
    call = read(arguments, VERBS)
    with download_bar():
        return call()


def _fail(arguments: list[str], sentence: str, code: int) -> int:
    """Tells what went wrong, with --json also as one object on standard output; the exit code."""
    complain(sentence if code == 130 else f"rnnopt: {sentence}")
    if "--json" in arguments:
        for_script({"status": "error", "error": sentence, "exit_code": code})
    return code


def _print_help() -> None:
    """One line a verb; tyro would print the whole of what each does."""
    say("usage: rnnopt VERB [OPTIONS]\n")
    say("Train recurrent networks where ordinary training struggles.\n")
    width = max(map(len, VERBS))
    wrapped = TextWrapper(console.width, subsequent_indent=" " * (width + 6))
    for name, verb in VERBS.items():
        say(wrapped.fill(f"  • {name:{width}}  {summary_of(verb)}"))
    say("")
    say(fill(MORE, console.width))
