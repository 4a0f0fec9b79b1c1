"""Decompositions that stay well conditioned: corrected at an error bound, with terms that do not cancel."""
