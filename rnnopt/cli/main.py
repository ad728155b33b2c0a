"""The command `rnnopt`: its verbs, and how they end. Each verb has a file in commands/.

Exit codes: 0 done, 1 a run failed or diverged, 2 bad input or output that cannot be written (one
sentence, no traceback), 130 interrupted, 141 nobody reads the output any more.
"""

import sys
from collections.abc import Callable, Collection
from functools import partial
from importlib import import_module
from types import MethodType

from cyclopts import (
    App,
    CycloptsError,
    Group,
    MissingArgumentError,
    Parameter,
    UnknownOptionError,
    UnusedCliTokensError,
)

from rnnopt.cli.unread import unknown_option, unknown_verb, unused_words
from rnnopt.cli.unwritten import NO_READER, give_up_output
from rnnopt.config.errors import UserError
from rnnopt.config.version import VERSION

# A verb's function in commands/, which is imported when it is asked for, and what help says of it.
VERBS = {
    "list": ("about:list_all", "List tasks, models and optimizers, or describe one."),
    "train": ("train:train", "Train one network and keep the run in a folder."),
    "compare": ("compare:compare", "Compare optimizers on one network, over several seeds."),
    "report": ("report:report_runs", "Make table, figure and page of runs."),
    "reproduce": ("reproduce:reproduce_published", "Repeat a published table or figure."),
    "benchmark": (
        "benchmark:benchmark",
        "Measure an optimizer on the benchmark, or print the leaderboard.",
    ),
    "diagnose": ("diagnose:diagnose", "Train one network and say what its gradients do."),
    "sweep": ("sweep:sweep", "Search for the best options of an optimizer."),
    "doctor": ("about:look_around", "Say which code runs the layers here, and how to speed it up."),
    "inspect": ("inspect:inspect_data", "Describe and draw a file of data."),
    "predict": ("predict:predict_data", "Predict new series with a trained network."),
    "export": ("export:export_run", "Write a trained network as a file for other programs."),
    "completion": ("completion:completion", "Print the completion script of a shell."),
}
ALONE = ("--help", "-h", "--version")  # what needs no verb
USAGE = "rnnopt VERB [OPTIONS]"
MORE = "`rnnopt VERB --help` names the options of a verb, with examples."


def parser(wanted: Collection[str]) -> App:
    """The command line, with the options of the verbs that are wanted alone."""
    app = App(
        name="rnnopt",
        help="Train recurrent networks where ordinary training struggles.",
        help_epilogue=MORE,
        help_format="plaintext",
        usage=f"Usage: {USAGE}",
        version=f"rnnopt {VERSION}",
        group_commands=Group.create_default_commands("Verbs"),
        group_parameters=Group.create_default_parameters("Options"),
        default_parameter=Parameter(
            allow_repeating=False,
            consume_multiple=True,  # --seeds 0 1 2
            json_dict=False,
            json_list=False,
            negative_iterable=(),
        ),
    )
    for number, (name, (place, summary)) in enumerate(VERBS.items()):
        verb = _parser_of(name, place) if name in wanted else App(name=name, help=summary)
        verb.sort_key = number
        app.command(verb)
    return app


def _parser_of(name: str, place: str) -> App:
    from rnnopt.cli.options import parser_of  # imports torch, as most verbs do

    module, _, function = place.partition(":")
    return parser_of(getattr(import_module(f"rnnopt.cli.commands.{module}"), function), name)


def read(arguments: list[str]) -> Callable[[], int]:
    """What a command line asks for, ready to be called; raises UserError if called in vain.

    Raises:
        SystemExit: it asks for help or the version, which has been printed.
    """
    verb = next((word for word in arguments if word[:1] != "-"), "")
    if arguments[:1] in (["--help"], ["-h"]) and verb:
        arguments = [*arguments[1:], "--help"]
    if arguments and arguments[0] != verb and (verb or arguments[0] not in ALONE):
        return partial(_refuse, f"a verb such as train comes first, got {arguments[0]!r}: {USAGE}.")
    if arguments[:1] == [verb] and verb not in VERBS:
        return partial(_refuse, unknown_verb(verb, VERBS))
    app = parser({verb} & VERBS.keys())
    try:
        call, bound, _ = app.parse_args(arguments, exit_on_error=False, print_error=False)
    except UnusedCliTokensError as error:
        return partial(_refuse, unused_words(error, app[verb]))
    except UnknownOptionError as error:
        return partial(_refuse, unknown_option(error, app[verb] if verb else app, arguments))
    except MissingArgumentError as error:
        missing = error.argument.name if error.argument else "more"
        sentence = f"{verb} needs {missing}: `rnnopt {verb} --help` says more."
        if any(word.partition("=")[0] == missing for word in arguments):
            sentence = f"{missing} needs a value, got none."
        return partial(_refuse, sentence)
    except CycloptsError as error:
        return partial(_refuse, " ".join(str(error).split()))
    if isinstance(call, MethodType):  # of the parser: help or the version
        try:
            call(*bound.args, **bound.kwargs)
        except OSError as error:
            sys.exit(give_up_output(error))
        except SystemExit:  # rich's end, where the reader of help went away
            sys.exit(NO_READER)
        sys.exit(0)
    return partial(call, *bound.args, **bound.kwargs)


def _refuse(sentence: str) -> int:
    raise UserError(sentence)


def run(call: Callable[[], int], arguments: list[str]) -> None:
    """Does what a command line asks for; ends the process with the exit code."""
    from rnnopt.cli.ending import ended  # imports torch

    sys.exit(ended(call, arguments))


def main(arguments: list[str] | None = None) -> None:
    """The command `rnnopt`; ends the process with the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    run(read(arguments), arguments)
