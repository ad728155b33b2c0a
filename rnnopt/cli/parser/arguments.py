"""From the words of a command line to what is to be called; what cannot be read is one sentence.

tyro reads them, and prints a box of help about what it cannot read. Here the box becomes a
`UserError`; of one in words that are not known here all words are kept.
"""

import io
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import redirect_stderr, redirect_stdout, suppress
from difflib import get_close_matches
from typing import cast

import tyro

from rnnopt.cli.parser.completions import mended
from rnnopt.cli.parser.help_text import Held, finished
from rnnopt.cli.parser.option_groups import Verb, in_groups
from rnnopt.config.errors import UserError

FRAME = "│╭╮╰╯|+"  # of tyro's boxes, with and without Unicode
RULE = re.compile(r"^ *[─-]{3,} *$", re.MULTILINE)  # between their parts
KINDS = {"INT": "a whole number", "FLOAT": "a number", "STR": "a word", "PATH": "a path"}


def names_of(arguments: Iterable[str]) -> list[str]:
    """The fields that the options among the words of a command set, each as often as it does."""
    options = (word[2:].partition("=")[0] for word in arguments if word[:2] == "--")
    return [option.removeprefix("no-").replace("-", "_") for option in options]


def read(arguments: list[str], verbs: Mapping[str, Verb]) -> Callable[[], int]:
    """What a command line asks for, ready to be called.

    Args:
        arguments: its words, a verb first.
        verbs: by name.

    Raises:
        UserError: they cannot be read.
        SystemExit: they ask for help or for a completion, which has been printed.
    """
    said, shown = io.StringIO(), Held(cast(io.TextIOBase, sys.stdout))
    try:
        with redirect_stderr(said), redirect_stdout(shown):
            call = _parse(arguments, verbs)
    except SystemExit as end:
        if end.code != 2:
            text = shown.getvalue()
            if arguments[0] in verbs and {"-h", "--help"} & set(arguments):
                text = finished(text, verbs[arguments[0]])
            else:
                text = mended(text)
            print(text.rstrip("\n"))
            raise
        raise UserError(_refusal(arguments, verbs, said.getvalue())) from None
    for name, times in Counter(names_of(arguments)).items():
        if times > 1:
            raise UserError(f"--{name.replace('_', '-')} must be given once, got it {times} times.")
    return call


def _parse(arguments: list[str], verbs: Mapping[str, Verb]) -> Callable[[], int]:
    """As `read`, but tyro says by itself what it cannot read."""
    return tyro.extras.subcommand_cli_from_dict(
        {name: in_groups(verb) for name, verb in verbs.items()},
        prog="rnnopt",
        description="Train recurrent networks where ordinary training struggles.",
        args=arguments,
        sort_subcommands=False,
        config=(tyro.conf.DisallowNone,),
    )


def _refusal(arguments: list[str], verbs: Mapping[str, Verb], box: str) -> str:
    """What is wrong with the words of a command, in a sentence.

    Args:
        arguments: the words.
        verbs: by name.
        box: what tyro said of them.
    """
    verb = next((word for word in arguments if word in verbs), "")
    unknown = _unknown_option(arguments, verb, verbs)
    if unknown is not None:
        return unknown
    lines = [re.sub(r"\x1b\[[\d;]*m", "", line).strip(FRAME) for line in box.splitlines()[1:]]
    said = re.split(RULE, "\n".join(lines).lstrip(" \n─-"))[0].splitlines()
    text = " ".join(" ".join(said).split())
    if found := re.match(r"Unrecognized \S+: (.*)", text):
        return f"{verb} does not know what to do with {found[1]!r}."
    if found := re.match(r"invalid choice '(.*)' for argument '(.*)'. Expected .*?\((.*)\)", text):
        choices = re.findall(r"'(.*?)'", found[3])
        if "None" in choices:  # tyro has these in any order
            choices = sorted(set(choices) - {"None"})
        near = get_close_matches(found[1], choices, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        return f"{found[2]} must be one of {', '.join(choices)}, got {found[1]!r}.{hint}"
    if found := re.match(r"Missing value for argument '(.*?)'", text):
        return f"{found[1]} needs a value, got none."
    if text.startswith("Missing from"):
        missing = [line.split()[0] for line in said[1:] if re.match(r" {5,6}\S", line)]
        return f"{verb} needs {' and '.join(missing)}: `rnnopt {verb} --help` says more."
    if found := re.match(r"Error parsing (--\S+):", text):
        return _wrong_value(found[1], arguments, "\n".join(lines)) or text
    return text


def _unknown_option(arguments: list[str], verb: str, verbs: Mapping[str, Verb]) -> str | None:
    """A sentence on the first option that the verb does not have; None where it has all."""
    known = _options(verb, verbs)
    for word in arguments:
        option = word.partition("=")[0].replace("_", "-")
        if word[:2] == "--" and option not in known:
            near = get_close_matches(option, known, n=1)
            hint = f" Did you mean {near[0]}?" if near else ""
            return f"{verb} has no option {option}: `rnnopt {verb} --help` names them.{hint}"
    return None


def _wrong_value(option: str, arguments: list[str], help_text: str) -> str | None:
    """A sentence on an option's value of the wrong kind; None where its kind is not known."""
    kind = re.search(rf"^ *{option} (.*?) *$", help_text, re.MULTILINE)
    place = next((i for i, word in enumerate(arguments) if word.startswith(option)), None)
    if kind is None or place is None:
        return None
    named = re.search("|".join(KINDS), kind[1])
    inside = arguments[place].partition("=")[2]
    values = [inside] if inside else []
    for word in [] if inside else arguments[place + 1 :]:
        if word.startswith("--"):
            break
        values.append(word)
    if named is None or not values:
        return None
    return f"{option} must be {KINDS[named[0]]}, got {' '.join(values)!r}."


def _options(name: str, verbs: Mapping[str, Verb]) -> list[str]:
    """The options of a verb as its help has them: at the left of its boxes."""
    shown = Held()
    with redirect_stdout(shown), suppress(SystemExit):
        _parse([name, "--help"], verbs)
    starts = re.findall(r"│ (--?[a-z][-\w]*(?:, --?[a-z][-\w]*)*)", shown.getvalue())
    return [option for start in starts for option in start.split(", ")]
