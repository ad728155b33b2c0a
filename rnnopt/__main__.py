"""The command `rnnopt`, which needs the extra `cli`; also python -m rnnopt."""

import sys
from io import TextIOWrapper

from rnnopt.cli.interrupt import end_at_once


def main() -> None:
    """Runs the command line, or says how to install what it needs."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # an encoding that lacks ± and ∞ shows ? instead
            stream.reconfigure(errors="replace")
    try:
        with end_at_once():  # half of torch is imported, and nothing is begun
            from rnnopt.cli.main import read, run

            call = read(sys.argv[1:])
    except ModuleNotFoundError as error:
        print(
            f'rnnopt: the command line needs {error.name}: pip install "rnnopt[cli]"',
            file=sys.stderr,
        )
        sys.exit(2)
    run(call, sys.argv[1:])


if __name__ == "__main__":
    main()
