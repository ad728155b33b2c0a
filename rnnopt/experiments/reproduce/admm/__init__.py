"""Every table and figure of the ADMMiRNN paper.

Tang et al., "ADMMiRNN: Training RNN with Stable Convergence via An Efficient ADMM Approach", 2020.
What it prints as losses and accuracies was read off the auxiliary output o, which the update of o
has shown the label: see `tables`. Every figure here judges the network run forward.
"""
