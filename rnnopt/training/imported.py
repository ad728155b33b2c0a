"""Optimizers of other packages, and of a user's own file, by import path.

"pytorch_optimizer:Lion", "package.module:Class" and "my_optimizer.py:Class" name something that is
called with the parameters and lr, as every class of torch.optim, and returns an optimizer. What a
name imports is executed: it is for code that the user trusts.
"""

import hashlib
import importlib
import importlib.metadata
import importlib.util
import inspect
import shlex
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any

from rnnopt.config.errors import UserError, unknown_name
from rnnopt.config.specs import WRAP, is_import_path, parse

FOREIGN = (Exception, SystemExit)  # whatever foreign code raises; a script may end itself


def load(name: str) -> Callable[..., Any]:
    """What an import path names.

    Args:
        name: "module:Class" or "file.py:Class".

    Raises:
        UserError: it cannot be imported, has no such attribute, or takes no lr.
    """
    place, _, attribute = name.rpartition(":")
    module = _module_of_file(Path(place)) if place.endswith(".py") else _module(place)
    found: Any = module
    for part in attribute.split("."):
        if not hasattr(found, part):
            offered = [one for one in dir(found) if inspect.isclass(getattr(found, one, None))]
            offered = [one for one in offered if one[:1] != "_"]
            if not offered:
                raise UserError(f"{place} must have the class {attribute!r}, it has none.")
            raise unknown_name(f"class in {place}:", attribute, offered)
        found = getattr(found, part)
    try:
        parameters = inspect.signature(found).parameters
    except (TypeError, ValueError):
        raise UserError(f"{name} must be a class of optimizers, got {found!r}.") from None
    if "lr" not in list(parameters)[1:]:
        wrap = "" if place.endswith(".py") else ": wrap it in a file of yours"
        raise UserError(
            f"{name} must take the parameters first and an argument lr, as the classes of"
            f" torch.optim do, got ({', '.join(parameters)}){wrap}."
        )
    return found


@contextmanager
def failing(what: str, advice: str = "") -> Iterator[None]:
    """Makes a UserError, with the place, of what foreign code raises: `what` failed."""
    try:
        yield
    except UserError:
        raise
    except FOREIGN as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        raise UserError(
            f"{what} failed: {reason(error)} ({place.filename}, line {place.lineno}).{advice}"
        ) from error


def build(name: str, make: Callable[[], Any], given: Iterable[str]) -> Any:
    """The optimizer that `make` makes, once it is checked to be one.

    Args:
        name: import path, which `load` has imported.
        make: calls what it names.
        given: names of the options that `make` passes.

    Raises:
        UserError: it needs other arguments, fails, or is no optimizer.
    """
    needed = [
        one.name
        for one in list(inspect.signature(load(name)).parameters.values())[1:]
        if one.default is one.empty and one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)
    ]
    if missing := [one for one in needed if one not in given]:
        raise UserError(
            f"{name} needs {', '.join(missing)}: give options after a comma, as in"
            f" {name},{missing[0]}=1, and wrap a class that needs other objects in a file of yours."
        )
    with failing(f"building {name}", "" if ".py:" in name else f" {WRAP}"):
        built = make()
    groups = getattr(built, "param_groups", None)
    methods = ("step", "state_dict", "load_state_dict")
    if not groups or not all(callable(getattr(built, one, None)) for one in methods):
        raise UserError(
            f"{name} must make an optimizer, with param_groups, step, state_dict and"
            f" load_state_dict as those of torch.optim, got {type(built).__name__}."
        )
    if not all("lr" in group for group in groups):
        raise UserError(f"{name} must have lr in each of its param_groups, which schedules set.")
    return built


def check_trusted(saved: str, asked: str, what: str, option: str = "--optimizer") -> None:
    """Raises UserError if a file names code of an optimizer that the user did not name as well.

    Args:
        saved: specification in the file.
        asked: that of the user.
        what: what the file is of, such as "the run in runs/a".
        option: the option by which the user names it.
    """
    name = parse(saved)[0]
    if is_import_path(name) and parse(asked)[0] != name:
        raise UserError(
            f"{what} executes code of its optimizer: to go on, say that you trust the code by"
            f" {option} {shlex.quote(saved)}."
        )


def source_of(specification: str) -> dict[str, str]:
    """Where an optimizer comes from, to be kept with a run; {} where its name is no import path.

    That is the file's sha256, or the package and its version.
    """
    name = specification.partition(",")[0].strip()
    if not is_import_path(name):
        return {}
    place = name.rpartition(":")[0]
    if place.endswith(".py"):
        try:
            return {"file": place, "sha256": hashlib.sha256(Path(place).read_bytes()).hexdigest()}
        except OSError as error:
            raise UserError(f"{place} cannot be read: {error.strerror}.") from error
    package = place.partition(".")[0]
    with suppress(importlib.metadata.PackageNotFoundError):  # most are called as what they hold
        return {"package": package, "version": importlib.metadata.version(package)}
    for distribution in importlib.metadata.packages_distributions().get(package, []):
        return {"package": distribution, "version": importlib.metadata.version(distribution)}
    return {"package": package}


def _module(place: str) -> ModuleType:
    try:
        return importlib.import_module(place)
    except ModuleNotFoundError as error:
        file = Path(f"{place}.py")
        advice = f": write {file}:Class for the file here" if file.is_file() else ""
        who = "" if error.name == place else f", which {place} needs"
        raise UserError(f"no module {error.name!r} is installed{who}{advice}.") from error
    except FOREIGN as error:
        raise UserError(f"{place} cannot be imported: {reason(error)}.") from error


def _module_of_file(path: Path) -> ModuleType:
    """The module in a file, imported once by its content."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error
    name = f"_rnnopt_{path.stem}_{hashlib.sha256(content).hexdigest()[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None  # it ends in .py
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        sys.modules.pop(name, None)
        if not isinstance(error, FOREIGN):  # Ctrl-C
            raise
        raise UserError(f"{path} cannot be imported: {reason(error)}.") from error
    return module


def reason(error: BaseException) -> str:
    """The error on one line."""
    first = (str(error).splitlines() or [""])[0].rstrip(".")
    return f"{type(error).__name__}: {first}" if first else type(error).__name__
