"""What a command says of a line that it cannot read, in one sentence."""

import os.path
import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from itertools import pairwise

from cyclopts import App, UnknownOptionError, UnusedCliTokensError

from rnnopt.config.errors import unknown_name
from rnnopt.config.specs import is_dotted_class, is_import_path

# What users of other programs write, and what says it here; without hyphens and underscores.
ELSEWHERE = {
    "--budget 20epochs": ("epochs", "epoch", "maxepochs", "numepochs", "nepochs"),
    "--budget 5000gradients": (
        "steps", "maxsteps", "numsteps", "iterations", "maxiterations", "maxiter", "niter",
    ),
    "--budget 30s": ("timelimit", "maxtime", "timeout"),
    "--lr": ("learningrate", "lr", "eta"),
    "--clip": (
        "gradclip", "gradientclip", "gradientclipval", "clipnorm", "clipgradnorm", "maxnorm",
        "maxgradnorm",
    ),
    "--optimizer adam:betas=0.9..0.99": ("betas", "beta1", "beta2"),
    "--optimizer adamw:weight_decay=0.01": ("weightdecay", "wd"),
    "--optimizer momentum:momentum=0.9": ("momentum",),
    "--optimizer": ("opt", "optim"),
    "--task or --data": ("dataset",),
    "--test-fraction": ("testsize", "testsplit"),
    "--validation": ("valsplit", "valfraction", "valsize", "validationsplit", "validationsize"),
    "--batch-size": ("batch", "bs", "minibatch", "minibatchsize"),
    "--model": ("cell", "celltype", "rnntype", "network", "architecture", "arch"),
    "--hidden": ("units", "hiddensize", "hiddendim", "hiddenunits", "width"),
    "--layers": ("numlayers", "nlayers", "depth"),
    "--device cuda": ("gpu", "gpus", "cuda", "accelerator"),
    "--device cpu": ("cpu", "nocuda", "nogpu"),
    "--workers": ("jobs", "njobs", "numworkers", "nworkers"),
    "--out": ("output", "outputdir", "outdir", "logdir", "savedir", "save"),
    "--patience 5": ("earlystopping", "earlystop"),
    "--schedule": ("lrschedule", "scheduler", "lrscheduler"),
    "--seed": ("randomstate", "randomseed"),
    "--seeds": ("repeats", "runs", "nseeds", "numseeds"),
}  # fmt: skip
VERBS_ELSEWHERE = {
    "train": ("fit", "run"),
    "sweep": ("tune", "search", "optimize"),
    "predict": ("evaluate", "test", "infer"),
    "report": ("plot", "show"),
    "export": ("convert", "save"),
    "--help": ("help",),
    "--version": ("version",),
}
HERE = {word: ours for ours, words in ELSEWHERE.items() for word in words}
VERB_HERE = {word: ours for ours, words in VERBS_ELSEWHERE.items() for word in words}
SEVERAL = {"--optimizer": "--optimizers", "--seed": "--seeds"}  # of verbs that take several
NUMBER = r"(?<=[ =])\d+(\.\d+)?(?=[a-z]*$)"  # of what says it here


def unknown_verb(word: str, known: Iterable[str]) -> str:
    """The sentence on a verb that there is not, with the one that does it."""
    return str(unknown_name("verb", word, known, VERB_HERE.get(word.lower())))


def unknown_option(error: UnknownOptionError, verb: App, line: Sequence[str]) -> str:
    """The sentence on an option that a verb does not have, with the one that says it.

    Args:
        error: of the parser.
        verb: whose option it is not.
        line: the words of the command.
    """
    word = (error.token.keyword or error.token.value).partition("=")[0]
    after = [one.partition("=")[2] for one in line if one.startswith(f"{word}=")]
    after += [value for one, value in pairwise(line) if one == word]
    known = options_of(verb)
    stem = re.sub("[-_]", "", word.lower())
    offer = ""
    if stem in HERE:
        ours = HERE[stem]
        if after and re.fullmatch(r"\d+(\.\d+)?", after[0]):
            ours = re.sub(NUMBER, after[0], ours)
        offer = _offered(ours, known)
    elif near := get_close_matches(word.lstrip("-"), [one[2:] for one in known], 1, 0.75):
        offer = f"--{near[0]}"
    return f"Unknown option: {word}.{_hint(offer)}"


def unused_words(error: UnusedCliTokensError, verb: App) -> str:
    """The sentence on words that no option takes, with the option that may take the first."""
    words = error.unused_tokens or [""]
    offer = _offered(f"{_option_for(words[0])} {words[0]}", options_of(verb))
    return f"{verb.name[0]} does not know what to do with {' '.join(words)!r}.{_hint(offer)}"


def _hint(offer: str) -> str:
    return f" Did you mean {offer}?" if offer else ""


def _offered(ours: str, known: set[str]) -> str:
    """What says it to a verb with these options; empty if nothing does."""
    option, space, rest = ours.partition(" ")
    option = option if option in known else SEVERAL.get(option, "")
    return option + space + rest if option in known else ""


def _option_for(word: str) -> str:
    """The option that a word looks like the value of; empty for none."""
    from rnnopt.config.run_config import MODELS
    from rnnopt.tasks import TASKS  # imports torch
    from rnnopt.tasks.user_data.readers import READERS
    from rnnopt.training.registry import OPTIMIZERS

    place = word.partition(",")[0]
    name = place.partition(":")[0]
    if name in TASKS:
        return "--task"
    if name in OPTIMIZERS or is_import_path(place) or is_dotted_class(place):
        return "--optimizer"
    if name in MODELS:
        return "--model"
    if os.path.isfile(os.path.join(word, "config.json")):
        return "--out"
    return "--data" if os.path.exists(word) or os.path.splitext(word)[1] in READERS else ""


def options_of(verb: App) -> set[str]:
    """The options of a verb, as they are written, without those that only switch another off."""
    names = {name for one in verb.assemble_argument_collection() for name in one.names}
    return {name for name in names if not name.startswith(("--no-", "--empty-"))}
