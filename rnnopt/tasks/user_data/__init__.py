"""The user's own data: checks and prepares files and arrays and builds a `Task` from them.

`readers/` opens the files; nothing here trains.
"""
