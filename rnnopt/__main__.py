"""The command `rnnopt`, which needs the extra `cli`; also python -m rnnopt."""

import os
import sys


def main() -> None:
    """Runs the command line, or says how to install what it needs."""
    if os.environ.get("NO_COLOR"):  # rich honours it by itself; tyro asks at import, and for this
        os.environ.setdefault("PYTHON_TYRO_ANSI_CODES", "False")
    try:
        from rnnopt import command_line
    except ModuleNotFoundError as error:
        print(
            f'rnnopt: the command line needs {error.name}: pip install "rnnopt[cli]"',
            file=sys.stderr,
        )
        sys.exit(2)
    command_line.main()


if __name__ == "__main__":
    main()
