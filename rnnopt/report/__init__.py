"""Tables, figures and pages from run folders, and from nothing else.

Nothing here trains or changes a run.
"""
