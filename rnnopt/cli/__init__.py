"""The command line: one verb a file in `commands/`, the option parser in `parser/`.

Only this room prints, draws progress bars and ends the process. Nothing imports it.
"""
