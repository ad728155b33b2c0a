"""The training loop and its parts: learners, closures, truncation, schedules, processes.

Nothing here opens run files or depends on the command line.
"""
