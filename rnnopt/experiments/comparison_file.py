"""The settings of a comparison, stored in its folder for --resume."""

import shlex
from collections.abc import Collection
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from rnnopt.config.errors import UserError, writing
from rnnopt.config.errors import option as as_option
from rnnopt.config.run_config import SharedConfig
from rnnopt.config.specs import is_import_path, parse
from rnnopt.config.validation import converted
from rnnopt.experiments.comparison import FILE, ComparisonSpec, is_begun
from rnnopt.runs.files import read_json, write_json

# Settings that may change on resuming, with their types.
CHOICES: dict[str, Any] = {
    "optimizers": list[str], "seeds": list[int], "tune": int | None, "tune_budget": str | None,
}  # fmt: skip


def keep(asked: ComparisonSpec) -> None:
    """Writes the settings into the folder; optimizers and seeds of earlier commands stay."""
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
    """The settings passed, completed by those with which the folder was begun.

    Args:
        asked: settings of a command with --resume.
        given: names of the options that the user passed.

    Raises:
        UserError: there is nothing to resume, or it was begun with other settings.
    """
    path = asked.out / FILE
    if not path.exists():
        if not is_begun(asked.out):
            raise UserError(f"{asked.out} holds no comparison to resume: leave out --resume.")
        return asked  # begun by an older version, which did not write the file
    saved = _read(path)
    begun: SharedConfig = saved.pop("shared")
    for field in fields(SharedConfig):
        now, before = getattr(asked.shared, field.name), getattr(begun, field.name)
        if field.name in given and now != before:
            raise UserError(
                f"the comparison in {asked.out} was begun with {as_option(field.name)} {before}, it"
                f" cannot resume with {now}: choose another --out."
            )
    code = [one for one in saved["optimizers"] if is_import_path(parse(one)[0])]
    if code and not set(code) <= set(asked.optimizers):
        raise UserError(
            f"the comparison in {asked.out} executes code of its optimizers: to resume it, say that"
            f" you trust the code by --optimizers {shlex.join(saved['optimizers'])}."
        )
    unsaid = {name: value for name, value in saved.items() if name not in given}
    return replace(asked, shared=begun, **unsaid)


def _read(path: Path) -> dict[str, Any]:
    """The content of the file: "shared" and the choices."""
    saved = read_json(path)
    try:
        found = {name: converted(saved[name], kind, name) for name, kind in CHOICES.items()}
        found["shared"] = SharedConfig.from_dict(saved["shared"])
    except (KeyError, UserError) as error:
        raise UserError(f"{path} does not hold the settings of a comparison: {error}") from error
    return found
