"""ADMMiRNN: trains an unfolded recurrent network block by block, without back-propagation.

`trainer.py` is what users call, the rest its updates. Nothing here knows tasks, runs or files.
"""
