"""The files that --data and --test name: one, several with commas between them, or a pattern.

A config keeps them as one text, so that a pattern still is one when the run is repeated.
"""

import re
from collections.abc import Iterable
from glob import escape, glob
from pathlib import Path

from rnnopt.config.errors import UserError

# File names that say nothing of what is in them: the folder's name does.
BLANK_NAMES = ("train", "training", "data", "x", "")


def files_of(text: str) -> list[Path]:
    """The files and folders that a text names, those of a pattern in the order of their names.

    Raises:
        UserError: a pattern matches nothing, or a file is named twice.
    """
    found: list[Path] = []
    for one in names_in(text):
        matches = [one] if _exists(one) or not _is_pattern(one) else _matches(one)
        if not matches:
            raise UserError(f"no file matches {one}.")
        found += [Path(match) for match in matches]
    known: dict[Path, Path] = {}
    for path in found:
        other = known.setdefault(path.resolve(), path)
        if other is not path:
            how = "is named twice" if other == path else f"and {other}, named too, are one file"
            raise UserError(f"{path} {how} among the files: name it once.")
    return found


def names_in(text: str) -> list[str]:
    """The names and patterns in a text; a comma is part of a name where a file is called so."""
    if _exists(text) or "," not in text:
        return [text]
    parts, found = text.split(","), list[str]()
    while parts:
        tried = (",".join(parts[:end]) for end in range(1, len(parts) + 1))
        name = next((one for one in tried if _exists(one) or _matches(one)), None)
        if name is None:  # missing files, or one whose folder has a comma
            apart = all(Path(part).suffix for part in parts)
            return [*found, *parts] if apart else [*found, ",".join(parts)]
        found.append(name)
        parts = parts[name.count(",") + 1 :]
    return found


def joined(names: Iterable[str | Path]) -> str:
    """The text that names several files or patterns."""
    return ",".join(map(str, names))


def absolute(text: str) -> str:
    """The same files, to be found from anywhere."""
    return joined(Path(one).absolute() for one in names_in(text))


def inputs_in(text: str | None) -> list[str]:
    """What a text names and is there, so as not to write over it; [] of None."""
    if text is None:
        return []
    return [match for one in names_in(text) for match in ([one] if _exists(one) else _matches(one))]


def brief(text: str) -> str:
    """The text for a sentence, however many files it names."""
    first, *others = names_in(text)
    return text if len(others) < 3 else f"{first} and {len(others)} more"


def data_name(text: str) -> str:
    """What to call the data of a file: "CricketX" for CricketX_TRAIN.tsv, "day" for day*.csv."""
    first, *others = names_in(text)
    place = Path(first)
    stem = place.stem if _exists(first) else re.sub(r"\[[^]]*\]", "", place.stem)
    name = re.sub(r"(?i)[-_. ]*(train|training)$", "", stem)
    if name.lower() in BLANK_NAMES or set(name) <= set("*?"):
        name = place.parent.name or "data"
    name = re.sub(r"[^\w.-]+", "-", name).strip("-") or "data"
    return f"{name}-and-{len(others)}-more" if others else name


def _is_pattern(name: str) -> bool:
    return any(sign in name for sign in "*?[")


def _matches(pattern: str) -> list[str]:
    """What a pattern names, ** at any depth; [] of a name without signs."""
    if not _is_pattern(pattern):
        return []
    for end in reversed(range(len(pattern))):  # brackets in the names of folders are no signs
        folder = pattern[:end]
        if pattern[end] == "/" and _is_pattern(folder) and _exists(folder):
            return sorted(glob(escape(folder) + pattern[end:], recursive=True))
    return sorted(glob(pattern, recursive=True))


def _exists(name: str) -> bool:
    try:
        return Path(name).exists()
    except (OSError, ValueError):  # longer than any file's name
        return False
