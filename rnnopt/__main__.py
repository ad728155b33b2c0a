"""python -m rnnopt is the command rnnopt."""

from rnnopt.command_line import main

if __name__ == "__main__":
    main()
