"""Recurrent layers and models, which need torch alone; `kernels/` makes them fast.

Nothing here knows optimizers, tasks or training.
"""
