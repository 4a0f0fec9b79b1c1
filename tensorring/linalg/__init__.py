"""Layer 1: one matrix at a time. Tolerances to ranks, singular vectors by three routes, scales."""

from tensorring.linalg.rank import error_floor, rank_for, tails
from tensorring.linalg.scale import Scale, measure
from tensorring.linalg.svd import TruncatedSVD, truncated_svd

__all__ = ["Scale", "TruncatedSVD", "error_floor", "measure", "rank_for", "tails", "truncated_svd"]
