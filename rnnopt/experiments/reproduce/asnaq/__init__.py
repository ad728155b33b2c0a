"""Every figure and table of the aSNAQ paper, and a study of its parts.

Indrapriyadarsini, Mahboubi, Ninomiya and Asai, "An Adaptive Stochastic Nesterov Accelerated Quasi
Newton Method for Training RNNs", NOLTA 2019, https://arxiv.org/abs/1909.03620. Its figures are
curves of training loss and accuracy without numbers or seeds; it gives one learning rate, 0.01,
without saying whether the other methods have it too.
"""
