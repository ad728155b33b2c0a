"""One run in its folder: files, checkpoints, resuming, loggers, predictions, export.

No other room opens run files. How training works belongs to `training/`.
"""
