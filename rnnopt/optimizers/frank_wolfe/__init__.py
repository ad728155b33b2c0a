"""The Frank-Wolfe RNN optimizer: `optimizer.py` is the algorithm, the rest its parts."""
