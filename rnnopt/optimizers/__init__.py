"""Optimizers, which need torch alone, and the registry of their names.

Nothing here knows tasks, runs or files.
"""
