"""Many runs: comparisons, tuning, sweeps, reproduced papers, on one machine or several.

`runs/` executes each run, `report/` builds each table. Nothing here prints.
"""
