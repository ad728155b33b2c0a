"""Names with options, as the command line takes them: "frank-wolfe:norm=inf,inner_steps=1"."""

import inspect
import re
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from rnnopt.config.errors import UserError, unknown_name
from rnnopt.config.options import call_flat, options_of, parameters_of

Value = bool | int | float | str | tuple[float, ...] | None
# Options about how a step is computed, or that would turn it round, or that no word stands for.
INTERNAL = ("capturable", "differentiable", "foreach", "fused", "maximize", "process_group")
IMPORT_PATH = re.compile(r"\w+:[A-Z_]\w*(\.\w+)*|\w+(\.\w+)+:\w+(\.\w+)*|[^:]+\.py:\w+(\.\w+)*")
DOTTED_CLASS = r"\w+(\.\w+)*\.[A-Z]\w*"
# A name of ours, package.module.Class or an import path, and options after it in any sign.
WITH_OPTIONS = re.compile(
    rf"(?P<name>[A-Za-z][\w-]*|{DOTTED_CLASS}|[\w./-]+:[A-Z_]\w*)"
    r"(?P<sign>[,:(])(?P<rest>.*)"
)
WRAP = "If it needs more than parameters and options, wrap it in a file of yours."
WORDS: dict[str, Value] = {"true": True, "false": False, "none": None}


def parse(specification: str) -> tuple[str, dict[str, Value]]:
    """("name", {option: value}) of "name:option=value,…" or "module:Class,option=value,…".

    Values are numbers, words, booleans or low..high, a pair of numbers, or more so.
    """
    name, _, rest = specification.partition(":")
    first, _, others = rest.partition(",")
    if is_import_path(f"{name}:{first}"):
        name, rest = f"{name.strip()}:{first.strip()}", others
    elif is_import_path(path := f"{name}:{rest.partition(':')[0]}"):
        options_given = rest.partition(":")[2].strip()
        to_write = f"{path},{options_given}" if options_given else path
        raise UserError(f"options of {path} follow a comma: write {to_write}, got {specification}.")
    if (written := _in_our_signs(specification)) is not None:
        sign = "comma" if is_import_path(written.partition(",")[0]) else "colon"
        raise UserError(f"options follow a {sign}: write {written}, got {specification}.")
    options: dict[str, Value] = {}
    for item in filter(None, (part.strip() for part in rest.split(","))):
        option, equals, value = item.partition("=")
        if not equals or not option.strip() or not value.strip():
            hint = ""
            if item.isidentifier() and _is_package(name):
                hint = f" (a class of the package {name} begins with a capital)"
            raise UserError(
                f"{specification!r} must read name:option=value,…, got {item!r} in it{hint}."
            )
        option = option.strip().replace("-", "_")
        if option in options:
            raise UserError(f"{option} must stand once in {specification!r}.")
        options[option] = value_of(value.strip())
    return name.strip(), options


def _in_our_signs(specification: str) -> str | None:
    """How "adam,lr=0.1", "Adam(lr=0.1)" or "torch.optim.Adam,lr=0.1" reads here, or None."""
    found = WITH_OPTIONS.fullmatch(specification.strip())
    if found is None:
        return None
    name, sign, rest = found["name"], found["sign"], found["rest"]
    if "." in name and ":" not in name:
        name = ":".join(name.rsplit(".", 1))
    elif sign == ":" or (":" in name and sign == ","):
        return None  # as it should be, or too wrong to tell
    elif ":" not in name:
        name = name.lower()
    options = [one.strip() for one in re.split("[,:]", rest.removesuffix(")")) if one.strip()]
    if not all(re.fullmatch(r"[\w-]+\s*=\s*[^=\s()]+", one) for one in options):
        return None
    comma = "," if ":" in name else ":"
    return f"{name}{comma}{','.join(options)}" if options else name


def _is_package(name: str) -> bool:
    """Whether a package of that name is installed."""
    try:
        return name.isidentifier() and find_spec(name) is not None
    except (ImportError, ValueError):  # as for __main__
        return False


def is_dotted_class(name: str) -> bool:
    """Whether a name is "package.module.Class", which is an import path with a dot too many."""
    return re.fullmatch(DOTTED_CLASS, name.strip()) is not None


def is_import_path(name: str) -> bool:
    """Whether a name is "module:Class", "package.module:function" or "file.py:Class".

    A plain name without a dot, such as adam, may be followed by options: there it takes a capital.
    """
    return IMPORT_PATH.fullmatch(name.strip()) is not None


def write(name: str, options: dict[str, Value]) -> str:
    """The specification that `parse` reads so."""
    texts = [f"{option}={text_of(value)}" for option, value in options.items()]
    comma = "," if is_import_path(name) else ":"
    return f"{name}{comma}{','.join(texts)}" if texts else name


def text_of(value: Value) -> str:
    """The text that `value_of` reads so."""
    return "..".join(map(repr, value)) if isinstance(value, tuple) else str(value)


def option_names(function: Callable[..., Any], positional: int) -> list[str]:
    """Names of what a text may set of `function`, which takes so many positional arguments."""
    return list(parameters_of(function))[positional:]


def call_with(
    kind: str, name: str, function: Callable[..., Any], options: dict[str, Value], *args: Any
) -> Any:
    """function(*args, **options), with a clear error for an option that it does not have."""
    known = option_names(function, len(args))
    rest = options_of(function)
    for option in options:
        if option not in known and not (rest and option in rest.removed):
            if not known:
                raise UserError(f"{kind} {name!r} has no options, got {option!r}.")
            offered = [one for one in known if one not in INTERNAL]
            raise unknown_name(f"option of {kind} {name!r}:", option, offered)
    try:
        return call_flat(function, *args, **options)
    except UserError:
        raise
    except (ValueError, RuntimeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        if is_import_path(name) and ".py:" not in name and isinstance(error, RuntimeError):
            if "__contains__" in reason:  # it looks for options of groups, and finds tensors
                reason = "it needs groups of parameters that have options of their own"
            reason = f"{reason.rstrip('.')}. {WRAP}"
        raise UserError(f"{kind} {name!r}: {reason}") from error
    except (TypeError, ArithmeticError, AttributeError, LookupError, MemoryError) as error:
        if not options:  # then it is no option's fault
            raise
        why = f" ({type(error).__name__}: {error})" if is_import_path(name) else ""
        taken = _taken(function, options)
        raise UserError(f"{kind} {name!r}: it cannot take {taken}{why}.") from error


def _taken(function: Callable[..., Any], options: dict[str, Value]) -> str:
    """The options that `function` could not take, as far as their defaults' kinds tell, and why."""
    defaults = {name: p.default for name, p in parameters_of(function).items()}
    for option, value in options.items():
        if isinstance(defaults[option], tuple) and not isinstance(value, tuple):
            example = write("", {option: defaults[option]})[1:]
            what = "a pair" if len(defaults[option]) == 2 else "numbers"
            return f"{write('', {option: value})[1:]}, it needs {what} such as {example}"
    wrong = {
        option: value
        for option, value in options.items()
        if _kind(defaults[option]) not in (None, _kind(value))
    }
    why = ", which is of the wrong kind or size"
    if len(wrong or options) > 1:
        why = ", one of these is of the wrong kind or size"
    return write("", wrong or options)[1:] + why


def _kind(value: Any) -> type | None:
    """The type of a value, that of whole numbers counting as that of numbers; None if unknown."""
    if value is None or value is inspect.Parameter.empty:
        return None
    return float if type(value) is int else type(value)


def value_of(text: str) -> Value:
    """The number, word or boolean that a text stands for."""
    if text.lower() in WORDS:
        return WORDS[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    if ".." in text:
        try:
            return tuple(float(part) for part in text.split(".."))
        except ValueError:
            return text
    return text
