"""Training without back-propagation: ADMM on the unfolded network."""
