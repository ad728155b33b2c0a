"""Tunes a run on Optuna: trials in worker processes of one machine or of many.

spaces.py    the search space
study.py     the database that all workers share
worker.py    one trial after the other, each a run folder
results.py   best.json, the table, the figures
pruning.py   stops bad trials early
"""
