"""Seeds of a run's random streams, where they are not the run's seed itself.

With seed s, torch's global generator (weights, dropout) and the training minibatches start from s,
each in a generator of its own. The other streams must differ from these:
"""

DIAGNOSIS = 2**40  # s + this: minibatches that `rnnopt diagnose` measures gradients on
REPORT = 2**41  # s + this: minibatches of the page's gradients through time
IMPORTANCE = 2**42  # s + this: series that the page takes, and whose values they get
MONITOR = 7919  # this: the sequences of AdaQN's loss test, the same in all runs
# The runs that choose a learning rate have it; no reported run may.
TUNING = 1000
