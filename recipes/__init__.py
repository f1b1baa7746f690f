"""Experiments of the paper as they are run: train, evaluate, fill a table. Run from a checkout; not in the wheel."""
