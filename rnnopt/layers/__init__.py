"""Recurrent layers and models, which need only torch; `kernels/` makes them fast.

Nothing here depends on optimizers, tasks or training.
"""
