"""Quasi-Newton optimizers: aSNAQ, adaQN, NAQ, LNAQ, BFGS, L-BFGS, and what they share."""
