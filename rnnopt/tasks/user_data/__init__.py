"""A user's own data: files and arrays into a `Task`, checked and prepared.

`readers/` open files; nothing here trains.
"""
