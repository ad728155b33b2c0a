"""One run in its folder: files, checkpoints, resuming, loggers, predictions, export.

No other package opens run files. `training/` has the training itself.
"""
