"""The options of a verb in groups: what to learn, the network, how it learns, the loop, the output.

tyro puts the fields of a nested dataclass into a box of their own in its help. A run's config is
flat, as it is saved; here each group of its fields becomes a dataclass for tyro to fill.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import field, fields, make_dataclass
from functools import partial
from typing import Annotated, Any, get_origin, get_type_hints

import tyro

from rnnopt.cli.parser.docstrings import arguments_of
from rnnopt.config.data_config import DataConfig

Verb = Callable[..., int]
GROUPS = {
    "data": ("task", *(one.name for one in fields(DataConfig))),
    "model": (
        "model", "hidden", "layers", "batch_norm", "dropout", "readout", "initialization",
    ),
    "optimizer": (
        "optimizer", "lr", "schedule", "decay", "patience", "clip", "clip_value", "tbptt",
        "tbptt_backward",
    ),
    "loop": (
        "budget", "batch_size", "seed", "evaluate_every", "watch_test", "stop_at_target",
        "on_nonfinite", "device", "threads",
    ),
    "output": ("out", "resume", "log", "quiet", "as_json"),
}  # fmt: skip


def in_groups(verb: Verb) -> Callable[..., Callable[[], int]]:
    """A function that takes what `verb` takes, and returns the call instead of making it.

    Where `verb` takes a config, the function takes groups in its place, which tyro shows as such.
    """
    signature = inspect.signature(verb)
    hints = get_type_hints(verb, include_extras=True)
    config = next((name for name in signature.parameters if _config_class(hints[name])), None)
    if config is None:
        return _taking(verb, list(signature.parameters.values()), lambda named: named)
    kind, default = _config_class(hints[config]), signature.parameters[config].default
    available = {
        one.name: (_type_of(kind, one.name), getattr(default, one.name, one.default))
        for one in fields(kind)
    }
    available |= {
        p.name: (hints[p.name], p.default)
        for p in signature.parameters.values()
        if p.name in GROUPS["output"]
    }
    texts = arguments_of(kind) | arguments_of(verb)
    groups = {name: _group(name, available, texts) for name in GROUPS}

    def flat(named: dict[str, Any]) -> dict[str, Any]:
        """What `verb` takes, of the values by group."""
        given = {k: v for name in groups for k, v in vars(named.pop(name)).items()}
        own = {one.name: given.pop(one.name) for one in fields(kind)}
        return {config: kind(**own), **named, **given}

    rest = [p for p in signature.parameters.values() if p.name not in (config, *GROUPS["output"])]
    return _taking(verb, rest + list(groups.values()), flat)


def _taking(
    verb: Verb,
    parameters: list[inspect.Parameter],
    flat: Callable[[dict[str, Any]], dict[str, Any]],
) -> Callable[..., Callable[[], int]]:
    """A function with these parameters that returns the call of `verb`."""

    def bind(**named: Any) -> Callable[[], int]:
        return partial(verb, **flat(named))

    hints, texts = get_type_hints(verb, include_extras=True), arguments_of(verb)
    alike = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in parameters]
    bind.__signature__ = inspect.Signature(alike)  # type: ignore[attr-defined]
    bind.__annotations__ = {
        p.name: _explained(hints[p.name], p.default, texts[p.name])
        if p.name in hints
        else p.annotation
        for p in parameters
    }
    bind.__doc__ = verb.__doc__
    return bind


def _explained(hint: Any, default: Any, text: str) -> Any:
    """The annotation with its text; "(default: None)" and "(default: )" are left out."""
    unset = default in (None, (), inspect.Parameter.empty)
    return Annotated[hint, tyro.conf.arg(help=text, help_behavior_hint="" if unset else None)]


def _config_class(hint: Any) -> Any:
    """The class of a config in the annotation of a parameter; None of any other."""
    kind = hint.__origin__ if get_origin(hint) is Annotated else hint
    return kind if isinstance(kind, type) and issubclass(kind, DataConfig) else None


def _type_of(kind: type, name: str) -> Any:
    return get_type_hints(kind, include_extras=True)[name]


def _group(
    name: str, available: Mapping[str, tuple[Any, Any]], texts: Mapping[str, str]
) -> inspect.Parameter:
    """The parameter that stands for a group of options: a dataclass with those available."""
    made = make_dataclass(
        f"{name.capitalize()}Options",
        [
            (one, _explained(*available[one], texts[one]), field(default=available[one][1]))
            for one in GROUPS[name]
            if one in available
        ],
    )
    made.__doc__ = ""
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        annotation=Annotated[made, tyro.conf.OmitArgPrefixes, tyro.conf.arg(help="")],
    )
