"""Search spaces of `rnnopt sweep`: one for each optimizer, and ranges from the command line.

They always include the learning rate, log-uniform from a thirtieth to thirty times the optimizer's
default. SPACES adds the one to three most important options, if there are any. A name is an option
of the optimizer, or a setting of the run from SETTINGS.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from rnnopt.config.errors import UserError, unknown_name
from rnnopt.config.run_config import RunConfig
from rnnopt.config.specs import INTERNAL, Value, parse, value_of, write
from rnnopt.training.registry import entry_of
from rnnopt.training.resolve import options_of_optimizer, resolve


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included; whole numbers if both ends are whole.

    Args:
        low, high: the ends.
        log: whether the distribution is log-uniform instead of uniform.
    """

    low: float
    high: float
    log: bool = False

    def __str__(self) -> str:
        return f"{self.low:g}..{self.high:g}" + (":log" if self.log else "")


@dataclass(frozen=True)
class Choices:
    """One of several values."""

    values: tuple[bool | int | float | str | None, ...]

    def __str__(self) -> str:
        return ",".join("none" if v is None else str(v).lower() for v in self.values)


Space = dict[str, Range | Choices]

SPAN = 30.0  # factor of the learning rate to either side of the default
CLIP = Choices((None, 0.1, 1.0, 10.0))  # without it Adam and its relatives fail on long sequences
DECAY = Choices((0.0, 1e-4, 1e-2))
MOMENTUM = Range(0.8, 0.98)
MEMORY = Range(5, 50, log=True)

SPACES: dict[str, Space] = {
    "frank-wolfe": {
        "momentum": MOMENTUM,
        "adapt": Choices((0.0, 0.03, 0.1)),
        "weight_decay": DECAY,
    },
    "asnaq": {"memory": MEMORY, "update_every": Range(2, 20, log=True)},
    "adaqn": {"memory": MEMORY, "update_every": Range(2, 20, log=True)},
    "bfgs": {"line_search": Choices(("strong-wolfe", "armijo"))},
    "lbfgs": {"memory": MEMORY, "line_search": Choices(("strong-wolfe", "armijo"))},
    "naq": {"momentum": Range(0.5, 0.95)},
    "lnaq": {"momentum": Range(0.5, 0.95), "memory": MEMORY},
    "admm": {"memory": Range(0.8, 0.99), "proximal_weight": Range(0.01, 1.0, log=True)},
    "sgd": {"clip": CLIP},
    "momentum": {"clip": CLIP, "momentum": MOMENTUM},
    "adagrad": {"clip": CLIP},
    "rmsprop": {"clip": CLIP, "alpha": Range(0.9, 0.999)},
    "adam": {"clip": CLIP},
    "indrnn-adam": {"weight_decay": Range(1e-6, 1e-2, log=True)},
    "adamw": {"clip": CLIP, "weight_decay": Range(1e-4, 0.3, log=True)},
    "nadam": {"clip": CLIP},
    "muon": {"momentum": MOMENTUM, "weight_decay": DECAY},
    "soap": {"precondition_frequency": Range(1, 20, log=True), "weight_decay": DECAY},
    "psgd-kron": {"momentum": MOMENTUM, "weight_decay": DECAY},
    "schedule-free": {"beta": Range(0.8, 0.98), "weight_decay": DECAY},
}
# Settings of a run that may be varied beside the optimizer's options.
SETTINGS = (
    "lr", "clip", "clip_value", "batch_size", "hidden", "layers", "bidirectional", "stem",
    "batch_norm", "dropout", "readout", "initialization", "schedule", "model", "decay", "patience",
    "tbptt", "tbptt_backward",
)  # fmt: skip


def space_of(config: RunConfig, ranges: list[str], given: Collection[str] = ()) -> Space:
    """The search space of a sweep of `config`.

    Args:
        config: settings with default values may vary, the others are fixed.
        ranges: "name=low..high", optionally followed by ":log", or "name=value,value,…"; they
            replace the optimizer's own ranges or are added to them.
        given: settings that the user passed, which are fixed even with default values.

    Raises:
        UserError: a range that cannot be read, or a name that is unknown or fixed.
    """
    name, options = parse(config.optimizer)
    lr = entry_of(name).lr
    resolved = resolve(config)
    default = RunConfig()
    changed = {s for s in SETTINGS if getattr(resolved, s) != getattr(default, s)}
    fixed = changed | set(options) | (set(given) & set(SETTINGS))
    space: Space = {
        "lr": Range(_short(lr / SPAN), _short(lr * SPAN), log=True),
        **SPACES.get(name, {}),
    }
    space = {option: values for option, values in space.items() if option not in fixed}
    known = [*SETTINGS, *(o for o in options_of_optimizer(name) if o not in INTERNAL)]
    asked: Space = {}
    for text in ranges:
        option, values = parse_range(text)
        if option not in known:
            raise unknown_name(f"name in --range {text!r}:", option, known)
        if option in fixed:
            raise UserError(f"{option} is fixed in the command and cannot have --range {text!r}.")
        if option in asked:
            raise UserError(f"{option} must have one --range, got two.")
        asked[option] = values
    space |= asked
    if not space:
        raise UserError("a sweep needs something to vary, but everything is fixed: give --range.")
    return space


def parse_range(text: str) -> tuple[str, Range | Choices]:
    """The name and values of a text such as lr=1e-4..1e-1:log or hidden=32,64,128."""
    problem = UserError(
        f"--range must read name=low..high, name=low..high:log or name=value,value,…, got {text!r}."
    )
    name, equals, rest = text.partition("=")
    name = name.strip().replace("-", "_")
    if not (equals and name and rest.strip()):
        raise problem
    if ".." not in rest:
        read = (value_of(part.strip()) for part in rest.split(",") if part.strip())
        values = tuple(value for value in read if not isinstance(value, tuple))
        if not values or len(set(map(repr, values))) < len(values):
            raise problem
        return name, Choices(values)
    span, colon, kind = rest.partition(":")
    low, _, high = (value_of(part.strip()) for part in span.partition(".."))
    for end in (low, high):
        if isinstance(end, bool) or not isinstance(end, int | float) or not math.isfinite(end):
            raise problem
    assert isinstance(low, int | float)
    assert isinstance(high, int | float)
    if colon and kind.strip() != "log":
        raise problem
    if not low < high:
        raise UserError(f"a range must begin below its end, low..high, got {text!r}.")
    if colon and low <= 0:
        raise UserError(f"a range on a log scale must begin above 0, got {text!r}.")
    return name, Range(low, high, bool(colon))


def configure(config: RunConfig, values: Mapping[str, Value]) -> RunConfig:
    """`config` with the values of a trial: settings of the run, and options of its optimizer."""
    resolved = resolve(config)
    name, options = parse(resolved.optimizer)
    settings = {setting: value for setting, value in values.items() if setting in SETTINGS}
    options |= {option: value for option, value in values.items() if option not in SETTINGS}
    return RunConfig.from_dict(resolved.to_dict() | settings | {"optimizer": write(name, options)})


def _short(number: float) -> float:
    """A number rounded to three digits."""
    return float(f"{number:.3g}")
