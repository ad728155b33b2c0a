"""The options of a verb, from the signature and the docstring of its function.

Configs among the parameters stand for their fields, each of which is an option. A parameter `given`
is none: it gets the names of the options that the command line has.
"""

import inspect
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from cyclopts import App, CoercionError, Group, Parameter, Token

from rnnopt.cli.docstrings import arguments_of, description_of, examples_of
from rnnopt.config.cluster_config import ClusterConfig
from rnnopt.config.data_config import DataConfig
from rnnopt.config.data_files import joined
from rnnopt.config.errors import UserError, option
from rnnopt.config.run_config import MODELS
from rnnopt.tasks import TASKS
from rnnopt.training.registry import OPTIMIZERS

Verb = Callable[..., int]
OF_OWN_DATA = [one.name for one in fields(DataConfig)]
GROUPS = {
    "Data": ("task", *OF_OWN_DATA),
    "Model": (
        "model", "hidden", "layers", "bidirectional", "stem", "batch_norm", "dropout", "readout",
        "initialization",
    ),
    "Optimizer": (
        "optimizer", "lr", "schedule", "decay", "patience", "clip", "clip_value", "tbptt",
        "tbptt_backward",
    ),
    "Training loop": (
        "budget", "batch_size", "seed", "metric", "class_weight", "warp", "refit",
        "calibrate", "evaluate_every", "watch_test", "stop_at_target", "on_nonfinite", "device",
        "threads",
    ),
    "Workers": tuple(one.name for one in fields(ClusterConfig)),
    "Output": ("out", "resume", "log", "quiet", "as_json"),
}  # fmt: skip
OF_OPTION = {
    name: Group(title, sort_key=number)
    for number, (title, names) in enumerate(GROUPS.items(), 1)
    for name in names
}
SEVERAL = {"data", "test"}  # options that take several files
# Names that a shell offers, which may go on with options of their own. Those of another parameter
# stand in its annotation, as a tuple.
KNOWN: dict[str, Collection[str]] = {
    "task": TASKS, "model": MODELS, "optimizer": OPTIMIZERS, "optimizers": OPTIMIZERS,
    "name": (*TASKS, *MODELS, *OPTIMIZERS),
}  # fmt: skip


def parser_of(verb: Verb, name: str) -> App:
    """What reads the options of a verb that the command line calls by a name."""
    examples = "".join(f"\n  {line}" for line in examples_of(verb))
    app = App(name=name, help=description_of(verb), help_epilogue=f"Examples:{examples}")
    app.default(_from_options(verb))
    return app


def _from_options(verb: Verb) -> Verb:
    """`verb` as a function of its options alone."""
    signature, texts = inspect.signature(verb), arguments_of(verb)
    hints = get_type_hints(verb, include_extras=True)
    configs: dict[str, Any] = {}  # as they are without any option
    for name, parameter in signature.parameters.items():
        if is_dataclass(hints[name]):
            default = parameter.default
            configs[name] = hints[name]() if default is inspect.Parameter.empty else default
    options = [p for p in signature.parameters.values() if p.name not in (*configs, "given")]
    for config in configs.values():
        kind, only = type(config), inspect.Parameter.KEYWORD_ONLY
        hints, texts = hints | get_type_hints(kind), arguments_of(kind) | texts
        hints |= {name: tuple[str, ...] | None for name in SEVERAL & hints.keys()}
        options += [
            inspect.Parameter(one.name, only, default=getattr(config, one.name))
            for one in fields(kind)
        ]
    places = list(OF_OPTION)
    options.sort(key=lambda p: (p.kind, places.index(p.name) if p.name in places else -1))
    options = [p.replace(annotation=_explained(p, hints[p.name], texts[p.name])) for p in options]

    def call(*args: Any, **kwargs: Any) -> int:
        named = taken.bind(*args, **kwargs).arguments
        given = set(named)
        if {"data", "task"} <= given:
            raise UserError("--data takes the place of --task: give one of them.")
        if named.get("resume") and "data" not in given:
            _refuse_data(named, configs.values())
        for name, config in configs.items():
            own = {one.name: named.pop(one.name) for one in fields(config) if one.name in given}
            own |= {one: joined(own[one]) for one in SEVERAL & own.keys()}  # a config has one text
            named[name] = replace(config, **own)
        if "given" in signature.parameters:
            named["given"] = given
        bound = inspect.BoundArguments(signature, OrderedDict(named))
        return verb(*bound.args, **bound.kwargs)

    taken = call.__signature__ = inspect.Signature(options)  # type: ignore[attr-defined]
    call.__annotations__ = {p.name: p.annotation for p in options}
    return call


def _refuse_data(named: dict[str, Any], configs: Collection[Any]) -> None:
    """Raises UserError for options of data that a continued run has not been asked for."""
    begun = {one.name: getattr(config, one.name) for config in configs for one in fields(config)}
    changed = [
        option(one if named[one] is not False else f"no_{one}")
        for one in (*OF_OWN_DATA, "calibrate")
        if one in named.keys() & begun.keys() and named[one] != begun[one]
    ]
    if changed:
        raise UserError(
            f"--resume goes on with the run as it was begun: leave out {', '.join(changed)}."
        )


def _explained(parameter: inspect.Parameter, hint: Any, text: str) -> Any:
    """The annotation of an option: its type, text, group and default, and known names."""
    name, default = parameter.name, parameter.default
    if isinstance(default, tuple):
        shown: str | bool = " ".join(map(str, default)) or False
    else:
        shown = default is not None and default is not False
    more = [Parameter(group=OF_OPTION[name])] if name in OF_OPTION else []
    if name in SEVERAL:
        more.append(Parameter(allow_repeating=True, metavar="FILE"))
    if {int, float} & {hint, *get_args(hint)}:
        more.append(Parameter(converter=_number))
    metadata = getattr(hint, "__metadata__", ())
    known = KNOWN.get(name) or next((one for one in metadata if isinstance(one, tuple)), ())
    if known:
        word = Literal[tuple(known)]  # type: ignore[valid-type]
        hint = tuple[word | str, ...] if get_origin(hint) is tuple else word | hint  # type: ignore
        more.append(Parameter(show_choices=False, metavar="NAME"))
    return Annotated[hint, Parameter(help=text, show_default=shown), *more]


def _number(kind: Any, tokens: Sequence[Token]) -> Any:
    """A number, or several; cyclopts would take 1.5 for 2 where whole numbers are wanted."""
    whole = int in (kind, *get_args(kind))
    numbers = []
    for token in tokens:
        try:
            numbers.append(int(token.value) if whole else float(token.value))
        except ValueError:
            wanted = "a whole number" if whole else "a number"
            sentence = f"{wanted} is needed, got {token.value!r}."
            raise CoercionError(sentence, token=token) from None
    return tuple(numbers) if get_origin(kind) is tuple else numbers[0]
