"""The command line: one verb a file in `commands/`, their options read by `options.py`.

Only this room prints, draws progress bars and ends the process. Nothing imports it.
"""
