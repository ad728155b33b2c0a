"""Measurements of a training run (gradients through time, noise, curvature) and their verdict.

Nothing here trains or writes files.
"""
