"""Options of a verb from the signature and docstring of its function."""
