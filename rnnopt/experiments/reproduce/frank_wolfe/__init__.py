"""Every table and figure of the Frank-Wolfe RNN paper.

Yue, Li, Saligrama and Zhang, "RNN Training along Locally Optimal Trajectories via Frank-Wolfe
Algorithm", ICPR 2020, https://arxiv.org/abs/2010.05397. The paper names no learning rate, batch
size, schedule, clipping threshold or initialisation for any single figure or row, and no seeds.
"""
