"""Verbs of the command line that stand by themselves."""
