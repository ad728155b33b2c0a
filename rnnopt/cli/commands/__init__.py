"""The verbs, one a file."""

from rnnopt.cli.commands.about import list_all as list_all
from rnnopt.cli.commands.about import look_around as look_around
from rnnopt.cli.commands.compare import compare as compare
from rnnopt.cli.commands.diagnose import diagnose as diagnose
from rnnopt.cli.commands.export import export_run as export_run
from rnnopt.cli.commands.inspect import inspect_data as inspect_data
from rnnopt.cli.commands.predict import predict_data as predict_data
from rnnopt.cli.commands.report import report_runs as report_runs
from rnnopt.cli.commands.reproduce import reproduce_published as reproduce_published
from rnnopt.cli.commands.train import train as train
