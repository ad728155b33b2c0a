"""The verbs for a user's own data; with command_line.py the only code that prints."""

from collections.abc import Callable

from rnnopt.commands.export import export_run
from rnnopt.commands.inspect import inspect_data
from rnnopt.commands.predict import predict_data
from rnnopt.commands.printing import announce as announce

DATA_VERBS: dict[str, Callable[..., int]] = {
    "inspect": inspect_data,
    "predict": predict_data,
    "export": export_run,
}
