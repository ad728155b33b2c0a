"""The training loop and what it needs: learners, closures, truncation, schedules, processes.

Nothing here opens run files or knows the command line.
"""
