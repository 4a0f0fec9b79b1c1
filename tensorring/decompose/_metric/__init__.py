"""Fits in the norm of a metric: a change of coordinates for single modes, variable projection for groups of modes."""
