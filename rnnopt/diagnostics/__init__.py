"""Measurements of a training run: gradients through time, noise, curvature, what they mean.

Nothing here trains or writes files.
"""
