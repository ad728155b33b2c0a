"""Classifiers of other libraries, in interpreters of their own."""
