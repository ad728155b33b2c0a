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
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from rnnopt.config.errors import UserError, unknown_name
from rnnopt.config.specs import is_import_path


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
            offered = [one for one in vars(found) if inspect.isclass(getattr(found, one, None))]
            raise unknown_name(f"class in {place}:", attribute, offered)
        found = getattr(found, part)
    try:
        parameters = inspect.signature(found).parameters
    except (TypeError, ValueError):
        raise UserError(f"{name} must be a class of optimizers, got {found!r}.") from None
    if "lr" not in list(parameters)[1:]:
        raise UserError(
            f"{name} must take the parameters first and an argument lr, as the classes of"
            f" torch.optim do, got ({', '.join(parameters)})."
        )
    return found


def source_of(name: str) -> dict[str, str]:
    """Where an optimizer comes from, to be kept with a run; {} for a name that is no import path.

    That is the file's sha256, or the package and its version.
    """
    if not is_import_path(name):
        return {}
    place = name.rpartition(":")[0]
    if place.endswith(".py"):
        try:
            return {"file": place, "sha256": hashlib.sha256(Path(place).read_bytes()).hexdigest()}
        except OSError as error:
            raise UserError(f"{place} cannot be read: {error.strerror}.") from error
    package = place.partition(".")[0]
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
    except Exception as error:  # whatever foreign code raises
        raise UserError(f"{place} cannot be imported: {_reason(error)}.") from error


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
    except Exception as error:
        del sys.modules[name]
        raise UserError(f"{path} cannot be imported: {_reason(error)}.") from error
    return module


def _reason(error: Exception) -> str:
    """The error on one line."""
    first = (str(error).splitlines() or [""])[0].rstrip(".")
    return f"{type(error).__name__}: {first}" if first else type(error).__name__
