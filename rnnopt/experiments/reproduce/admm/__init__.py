"""Every table and figure of the ADMMiRNN paper.

Tang et al., "ADMMiRNN: Training RNN with Stable Convergence via An Efficient ADMM Approach", 2020.
Its printed losses and accuracies are those of the auxiliary output o, whose update uses the label:
see `tables`. Every figure here evaluates the network run forward.
"""
