"""Fleets: `rnnopt compare` and `rnnopt reproduce` by workers on many machines.

claims.py   who does which run, in a database that all share
texts.py    the small files of a run, by which other machines know what it came to
crew.py     does jobs: those that nobody else does
"""
