"""Many runs: comparisons, tuning, sweeps, reproduced papers, on one machine or several.

Each run is done by `runs/`, each table by `report/`. Nothing here prints.
"""
