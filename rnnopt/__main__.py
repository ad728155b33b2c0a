"""The command `rnnopt`, which needs the extra `cli`; also python -m rnnopt."""

import sys


def main() -> None:
    """Runs the command line, or says how to install what it needs."""
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
