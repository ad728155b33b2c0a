"""Optimizers, which need torch alone.

Nothing here knows tasks, runs or files. Their names stand in `training/registry.py`.
"""
