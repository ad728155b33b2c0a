"""Next-character prediction: after every character of a text, which one follows?

Inputs are the characters of a window, one-hot over those of the whole text in sorted order; the
target of each step is the next character. Loss and metric are the cross-entropy, a mean over steps
and sequences, in nats per character. Each window begins in the zero state.

The first 90 % of the text are for training, the next 5 % for validation, the last 5 % for the test.
A training window begins anywhere; validation and test texts are cut into consecutive windows. Two
in-sample references for the metric: a model that knows only the frequency of each character scores
the unigram entropy, one that also knows the current character scores the bigram entropy.

"Metamorphosis" is the text of ADMMiRNN (https://github.com/TonyTangYu/ADMMiRNN), whose windows have
25 steps; tiny Shakespeare is that of char-rnn (https://github.com/karpathy/char-rnn). Neither is
downloaded.
"""

import hashlib
import math
import os
from collections import Counter
from collections.abc import Iterable
from functools import partial
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from rnnopt.config.errors import UserError
from rnnopt.tasks.examples import Batch, Examples
from rnnopt.tasks.task import Task

# Description of each text, and SHA-256 of its file.
TEXTS = {
    "metamorphosis": (
        "Kafka's Metamorphosis",
        "eb7a3736f6083bc46afd71365e9556a1a2ae713dc94ffd0a7958429ff3abb475",
    ),
    "tinyshakespeare": (
        "Shakespeare's plays",
        "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
    ),
}
EVALUATED = 20_000  # largest number of characters of validation and of test data


def unigram_entropy(text: str) -> float:
    """Entropy of a character of `text`, in nats.

    Example:
        >>> unigram_entropy("abab") == math.log(2)
        True
    """
    return _entropy(text)


def bigram_entropy(text: str) -> float:
    """Entropy of a character of `text` given the previous one, in nats.

    It is the entropy of pairs minus the entropy of their first characters.

    Example:
        >>> bigram_entropy("abab")
        0.0
    """
    return max(0.0, _entropy(pairwise(text)) - _entropy(text[:-1]))


def _entropy(things: Iterable[object]) -> float:
    """Entropy of the frequencies of `things`, in nats; 0 if there are none."""
    counts = Counter(things).values()
    total = sum(counts)
    return math.fsum(n / total * math.log(total / n) for n in counts)


def encode(text: str) -> Tensor:
    """Index of each character in the sorted characters of `text`: (time,)."""
    places = {character: i for i, character in enumerate(sorted(set(text)))}
    return torch.tensor([places[character] for character in text])


def draw(count: int, generator: torch.Generator, codes: Tensor, symbols: int, length: int) -> Batch:
    """`count` windows of `codes` (time,) that begin anywhere.

    Inputs are (length, batch, symbols), targets (batch, length).
    """
    first = torch.randint(len(codes) - length, (count,), generator=generator)
    windows = codes[first[:, None] + torch.arange(length + 1)]
    return Batch(torch.eye(symbols)[windows[:, :-1].T], windows[:, 1:])


def consecutive(codes: Tensor, symbols: int, length: int) -> Examples:
    """Consecutive windows from the beginning of `codes`, of at most EVALUATED characters.

    Inputs are (count, length, symbols), targets (count, length).
    """
    used = min(len(codes) - 1, EVALUATED) // length * length
    inputs = torch.eye(symbols)[codes[:used]]
    return Examples(inputs.view(-1, length, symbols), codes[1 : used + 1].view(-1, length))


def next_character(name: str, about: str, text: str, length: int) -> Task:
    """The next-character task of a text of at least 40 characters.

    Args:
        name, about: name on the command line, and description of the text.
        text: the whole text.
        length: steps of a window, ≥ 1; a window must fit into a twentieth of the text.
    """
    if len(text) < 40:
        raise UserError(f"{name} needs a text of at least 40 characters, got {len(text)}.")
    codes, symbols = encode(text), len(set(text))
    train, validation, test = codes.tensor_split([len(text) * 9 // 10, len(text) * 19 // 20])
    longest = min(
        len(validation) - 1, EVALUATED
    )  # fits into the test data, with one more character
    if type(length) is not int or not 1 <= length <= longest:
        raise UserError(
            f"{name} needs an integer length from 1 to {longest}, got length={length!r}."
        )
    unigram, bigram = unigram_entropy(text), bigram_entropy(text)
    return Task(
        name=name,
        summary=f"next of {symbols} characters in {about}, {length} steps (entropy per character"
        f" {unigram:.3f} nats, given the one before {bigram:.3f})",
        input_size=symbols,
        output_size=symbols,
        loss="cross-entropy",
        target=2.3,
        train=partial(draw, codes=train, symbols=symbols, length=length),
        validation=consecutive(validation, symbols, length),
        test=consecutive(test, symbols, length),
        epoch_size=len(train) // length,
        hidden_size=128,
        batch_size=64,
        in_nats=True,
    )


def read_text(name: str) -> str:
    """Reads a text by name from the folder that RNNOPT_DATA names."""
    chosen = os.environ.get("RNNOPT_DATA")
    path = Path(chosen or "", "text", f"{name}.txt")
    if not chosen or not path.is_file():
        place = path if chosen else f"{path} in a folder that RNNOPT_DATA names"
        raise UserError(f"{name} needs its text, which is not downloaded: put it at {place}.")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}.") from error
    got, sha256 = hashlib.sha256(content).hexdigest(), TEXTS[name][1]
    if got != sha256:
        raise UserError(f"{path} must have sha256 {sha256}, got {got}.")
    return content.decode()


def metamorphosis(length: int = 25) -> Task:
    """Next character of Kafka's Metamorphosis, in windows of `length` steps.

    Args:
        length: steps of each window.
    """
    return next_character(
        "metamorphosis", TEXTS["metamorphosis"][0], read_text("metamorphosis"), length
    )


def tinyshakespeare(length: int = 25) -> Task:
    """Next character of Shakespeare's plays, in windows of `length` steps.

    Args:
        length: as in `metamorphosis`.
    """
    return next_character(
        "tinyshakespeare", TEXTS["tinyshakespeare"][0], read_text("tinyshakespeare"), length
    )
