"""How a verb ends: its exit code, and one sentence on what went wrong."""

import os
import traceback
from collections.abc import Callable

from rnnopt.cli.terminal import console, download_bar, print_error, print_json
from rnnopt.cli.unwritten import flush_output, give_up_output, is_unwritten
from rnnopt.config.errors import UserError
from rnnopt.layers.kernels import cpu
from rnnopt.training.data_parallel import RankError, rank, started


def ended(call: Callable[[], int], arguments: list[str]) -> int:
    """Does what a command line asks for; the exit code."""
    console.quiet = False
    try:
        code = _run(call, arguments)
        flush_output()
        return code
    except RankError as error:
        print_error(f"rnnopt: {error}")
        return 2
    except UserError as error:  # other processes have met it, too, or heard it from the first
        return 2 if rank() else _fail(arguments, str(error), 2)
    except FloatingPointError as error:  # as a UserError, but not the user's to mend beforehand
        sentence = f"failed with FloatingPointError: {error}"
        return 1 if rank() else _fail(arguments, sentence, 1)
    except KeyboardInterrupt:
        return _fail(arguments, "interrupted", 130)
    except Exception as error:
        if isinstance(error, OSError) and is_unwritten(error):
            return give_up_output(error)
        if os.environ.get("RNNOPT_DEBUG"):
            traceback.print_exc()
        sentence = f"failed with {type(error).__name__}: {error} (RNNOPT_DEBUG=1 shows where)"
        return _fail(arguments, sentence, 1)


def _run(call: Callable[[], int], arguments: list[str]) -> int:
    try:
        cpu.switched_off()
    except ValueError as error:  # of an environment variable, which others may not have
        kind = RankError if rank() else UserError
        raise kind(str(error)) from error
    if started() > 1 and arguments[0] != "train":
        raise UserError(f"{arguments[0]} works in one process: start it without torchrun.")
    with download_bar():
        return call()


def _fail(arguments: list[str], sentence: str, code: int) -> int:
    """Tells what went wrong, with --json also as one object on standard output; the exit code."""
    print_error(sentence if code == 130 else f"rnnopt: {sentence}")
    if "--json" in arguments:
        try:
            print_json({"status": "error", "error": sentence, "exit_code": code})
            flush_output()
        except OSError as error:
            return give_up_output(error)
    return code
