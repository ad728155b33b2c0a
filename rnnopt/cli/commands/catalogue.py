"""What a task, model or optimizer is, by name, from its own docstring, signature and settings."""

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from difflib import get_close_matches
from typing import Any

from rnnopt.cli.docstrings import arguments_of, summary_of, without_partial
from rnnopt.config.errors import UserError, option
from rnnopt.config.options import options_of, parameters_of
from rnnopt.config.run_config import MODELS, SharedConfig
from rnnopt.config.specs import INTERNAL, is_import_path, text_of, write
from rnnopt.layers.sequence_model import SequenceModel
from rnnopt.tasks import TASKS, Task, build_task
from rnnopt.tasks.download import offline
from rnnopt.tasks.sources import SOURCES
from rnnopt.training.registry import OPTIMIZERS, REMOVED, entry_of

# Settings of a run that make its network.
NETWORK = (
    "hidden", "layers", "bidirectional", "stem", "batch_norm", "dropout", "readout",
    "initialization",
)  # fmt: skip
DEFAULT = re.compile(r" *\(default: (\(.*?\)|.*?)\)")  # said by torch, and other than ours


@dataclass(frozen=True)
class Option:
    """An option as it is written, its default and what it does."""

    name: str
    default: Any
    text: str

    @property
    def sentence(self) -> str:
        """The first sentence of the text, without its dot."""
        return re.split(r"[.]\s+(?=[A-Z`\"])", self.text, maxsplit=1)[0].removesuffix(".")


@dataclass(frozen=True)
class Entry:
    """What there is to know of a name.

    Args:
        kind: "task", "model" or "optimizer".
        name: of it.
        summary: one line.
        about: a second one, or "".
        facts: what is settled, by name.
        options: what can be chosen.
        examples: commands that use it.
    """

    kind: str
    name: str
    summary: str
    about: str
    facts: dict[str, Any]
    options: list[Option]
    examples: list[str]


def summaries() -> dict[str, dict[str, str]]:
    """A line for each task, model and optimizer."""
    return {
        "tasks": {name: summary_of(build) for name, build in TASKS.items()},
        "models": {name: summary for name, (_, summary) in MODELS.items()},
        "optimizers": {n: f"{c.summary} (lr {c.lr:g})" for n, c in OPTIMIZERS.items()},
    }


def describe(name: str) -> Entry:
    """All that there is to know of a task, model or optimizer.

    Raises:
        UserError: nothing has that name.
    """
    for known, about in ((TASKS, _task), (MODELS, _model), (OPTIMIZERS, _optimizer)):
        if name in known:
            return about(name)
    if name in REMOVED:
        entry_of(name)
    if is_import_path(name):
        return _optimizer(name)
    bare = name.partition(":")[0]
    if bare in (*TASKS, *MODELS, *OPTIMIZERS):
        raise UserError(f"list takes a name without its options: {bare!r}, got {name!r}.")
    near = get_close_matches(name[:100], [*TASKS, *MODELS, *OPTIMIZERS], n=3)
    hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
    raise UserError(
        f"no task, model or optimizer is called {name!r}: `rnnopt list` names them.{hint}"
    )


def _task(name: str) -> Entry:
    build = TASKS[name]
    options = _options(build, 0, {b.__name__: b for b in TASKS.values()})
    summary, facts = summary_of(build), {}
    try:
        with offline():
            task = build_task(name)
    except UserError as error:
        facts["sizes"] = f"are known where the data are: {error}"
    else:
        summary, facts = task.summary, _sizes(task)
    facts["data"] = SOURCES[name]
    return Entry("task", name, summary, "", facts, options, _examples("task", name, options))


def _sizes(task: Task) -> dict[str, Any]:
    """What a built task says of itself."""
    anew = callable(task.train)
    return {
        "steps": task.steps,
        "features a step": task.input_size,
        "outputs": task.output_size,
        "loss": task.loss,
        "metric": task.metric,
        "target": task.target,
        "sequences an epoch" if anew else "training sequences": task.epoch_size,
        "validation sequences": len(task.validation),
        "test sequences": len(task.test),
        "hidden": task.hidden_size,
        "batch_size": task.batch_size,
    }


def _model(name: str) -> Entry:
    settings, summary = MODELS[name]
    texts = arguments_of(SharedConfig)
    defaults = {field.name: field.default for field in fields(SharedConfig)}
    free = [one for one in NETWORK if one not in settings]
    options = [Option(option(one), defaults[one], texts[one]) for one in free]
    taken = inspect.signature(SequenceModel).parameters
    facts = {one: value for one, value in settings.items() if one in taken}
    command = f"rnnopt train --task digits-rows --model {name} --budget 5epochs"
    return Entry("model", name, summary, "", facts, options, [command, f"{command} --hidden 32"])


def _optimizer(name: str) -> Entry:
    choice = entry_of(name)
    others = {f.__name__: f for f in (without_partial(c.build) for c in OPTIMIZERS.values())}
    options = _options(choice.build, choice.positional, others)
    ours = without_partial(choice.build).__module__.startswith("rnnopt.")
    about = summary_of(choice.build) if ours else ""  # torch's say no more
    examples = _examples("optimizer", name, options)
    return Entry("optimizer", name, choice.summary, about, {}, options, examples)


def _options(
    build: Callable[..., Any], positional: int, others: dict[str, Callable[..., Any]]
) -> list[Option]:
    """The options of a function that takes so many arguments before them."""
    texts, rest = arguments_of(build, others), options_of(build)
    if rest is not None:
        texts |= arguments_of(type(rest))
    return [
        Option(p.name, p.default, DEFAULT.sub("", texts.get(p.name, "")).replace("``", ""))
        for p in list(parameters_of(build).values())[positional:]
        if p.name not in INTERNAL
    ]


def _examples(kind: str, name: str, options: list[Option]) -> list[str]:
    """Commands that use it, the second with options as they are unless told otherwise."""
    command = f"rnnopt train --{kind} {{}} --budget 5epochs"
    shown = {o.name: o.default for o in options if o.default is not None}
    lines = [command.format(name)]
    if shown:
        first = dict(list(shown.items())[:2])
        lines.append(command.format(write(name, first)))
    return lines


def shown(value: Any) -> str:
    """A default as it can be written on the command line; "unset" where nothing stands for it."""
    return "unset" if value is None else text_of(value)
