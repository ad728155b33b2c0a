"""What a command says of a line that it cannot read, in one sentence."""

from collections.abc import Iterable
from pathlib import Path

from cyclopts import App, UnknownOptionError, UnusedCliTokensError

from rnnopt.config.errors import unknown_name

# What users of other programs write, and what says it here.
ELSEWHERE = {
    "--budget 20epochs": ("epochs", "epoch", "max-epochs", "num-epochs", "n-epochs"),
    "--budget 5000gradients": (
        "steps", "max-steps", "num-steps", "iterations", "max-iterations", "max-iter",
    ),
    "--budget 30s": ("time-limit", "max-time", "timeout"),
    "--lr": ("learning-rate",),
    "--clip": ("grad-clip", "gradient-clip", "gradient-clip-val", "max-norm", "max-grad-norm"),
    "--optimizer adam:betas=0.9..0.99": ("betas", "beta1", "beta2"),
    "--optimizer adamw:weight_decay=0.01": ("weight-decay", "wd"),
    "--optimizer momentum:momentum=0.9": ("momentum",),
    "--task or --data": ("dataset",),
    "--test-fraction": ("test-size", "test-split"),
    "--model": ("cell", "cell-type", "rnn-type", "network", "architecture"),
    "--layers": ("num-layers", "n-layers"),
    "--device cuda": ("gpu", "gpus", "cuda", "accelerator"),
    "--workers": ("jobs", "n-jobs", "num-workers"),
    "--out": ("output", "output-dir", "out-dir", "logdir", "log-dir", "save-dir", "save"),
    "--stop-at-target": ("early-stopping",),
    "--seeds": ("repeats", "runs", "n-seeds", "num-seeds"),
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


def unknown_verb(word: str, known: Iterable[str]) -> str:
    """The sentence on a verb that there is not, with the one that does it."""
    sentence = str(unknown_name("verb", word, known))
    if word in VERB_HERE:
        return f"{sentence.partition(' Did you mean')[0]} Did you mean {VERB_HERE[word]!r}?"
    return sentence


def unknown_option(error: UnknownOptionError, verb: App) -> str:
    """The sentence on an option that a verb does not have, with the one that says it."""
    word = (error.token.keyword or error.token.value).partition("=")[0]
    ours = HERE.get(word.lstrip("-").replace("_", "-").lower(), "")
    if ours.partition(" ")[0] not in options_of(verb):
        return " ".join(str(error).split())
    return f"Unknown option: {word}. Did you mean {ours}?"


def unused_words(error: UnusedCliTokensError, verb: App) -> str:
    """The sentence on words that no option takes, with the option that may take the first."""
    words = error.unused_tokens or [""]
    sentence = f"{verb.name[0]} does not know what to do with {' '.join(words)!r}"
    if (option := _option_for(words[0])) and option in options_of(verb):
        return f"{sentence}. Did you mean {option} {words[0]}?"
    return f"{sentence}."


def _option_for(word: str) -> str:
    """The option that a word looks like the value of; empty for none."""
    from rnnopt.tasks import TASKS  # imports torch
    from rnnopt.training.registry import OPTIMIZERS

    name = word.partition(":")[0]
    if name in TASKS:
        return "--task"
    if name in OPTIMIZERS:
        return "--optimizer"
    return "--data" if Path(word).suffix or Path(word).exists() else ""


def options_of(verb: App) -> set[str]:
    """The options of a verb, as they are written."""
    return {name for one in verb.assemble_argument_collection() for name in one.names}
