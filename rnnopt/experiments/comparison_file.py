"""What a comparison was asked for, kept in its folder for --resume."""

from collections.abc import Collection
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from rnnopt.config.errors import UserError, writing
from rnnopt.config.errors import option as as_option
from rnnopt.config.run_config import SharedConfig
from rnnopt.config.validation import converted
from rnnopt.experiments.comparison import FILE, ComparisonSpec, is_begun
from rnnopt.runs.files import read_json, write_json

# What may be other than before, with its type.
CHOICES: dict[str, Any] = {
    "optimizers": list[str], "seeds": list[int], "tune": int | None, "tune_budget": str | None,
}  # fmt: skip


def keep(asked: ComparisonSpec) -> None:
    """Writes what was asked for into the folder; optimizers and seeds asked for before stay."""
    content = {"shared": asdict(asked.shared), **{name: getattr(asked, name) for name in CHOICES}}
    path = asked.out / FILE
    if path.exists():
        before = _read(path)
        for name in ("optimizers", "seeds"):
            content[name] = list(dict.fromkeys([*before[name], *content[name]]))
    with writing(path):
        asked.out.mkdir(parents=True, exist_ok=True)
        write_json(path, content)


def as_begun(asked: ComparisonSpec, given: Collection[str]) -> ComparisonSpec:
    """What is asked for, and where nothing was said what the folder was begun with.

    Args:
        asked: of a command with --resume.
        given: names of the options that were said.

    Raises:
        UserError: there is nothing to resume, or with other settings.
    """
    path = asked.out / FILE
    if not path.exists():
        if not is_begun(asked.out):
            raise UserError(f"{asked.out} holds no comparison to go on with: leave out --resume.")
        return asked  # begun by a version that did not write it
    saved = _read(path)
    begun: SharedConfig = saved.pop("shared")
    for field in fields(SharedConfig):
        now, before = getattr(asked.shared, field.name), getattr(begun, field.name)
        if field.name in given and now != before:
            raise UserError(
                f"the comparison in {asked.out} was begun with {as_option(field.name)} {before}, it"
                f" cannot go on with {now}: choose another --out."
            )
    unsaid = {name: value for name, value in saved.items() if name not in given}
    return replace(asked, shared=begun, **unsaid)


def _read(path: Path) -> dict[str, Any]:
    """What the file says: "shared" and the choices."""
    saved = read_json(path)
    try:
        found = {name: converted(saved[name], kind, name) for name, kind in CHOICES.items()}
        found["shared"] = SharedConfig.from_dict(saved["shared"])
    except (KeyError, UserError) as error:
        raise UserError(f"{path} is not what a comparison was asked for: {error}") from error
    return found
