"""The command `rnnopt`, which needs the extra `cli`; also python -m rnnopt."""

import os
import signal
import sys
from typing import Any


def main() -> None:
    """Runs the command line, or says how to install what it needs."""
    if os.environ.get("NO_COLOR"):  # rich honours it by itself; tyro asks at import, and for this
        os.environ.setdefault("PYTHON_TYRO_ANSI_CODES", "False")
    as_usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if as_usual:  # else somebody wants Ctrl-C to do nothing
        signal.signal(signal.SIGINT, _end)
    try:
        from rnnopt.cli import main as command_line
    except ModuleNotFoundError as error:
        print(
            f'rnnopt: the command line needs {error.name}: pip install "rnnopt[cli]"',
            file=sys.stderr,
        )
        sys.exit(2)
    if as_usual:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    command_line.main()


def _end(*_: Any) -> None:
    """Ends the process at once: half of torch is imported, and nothing is begun."""
    os.write(2, b"interrupted\n")
    os._exit(130)


if __name__ == "__main__":
    main()
