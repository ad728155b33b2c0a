"""What a run is asked for: settings, their checks, optimizer specifications, user errors.

Nothing here builds or trains.
"""
