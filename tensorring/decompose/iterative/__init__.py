"""Iterative decompositions: one algorithm a file, all driven by the loop of `_sweeps`."""
