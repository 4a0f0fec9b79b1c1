"""The error of a chain from the residual itself, in blocks along the first mode."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tensorring._array import Array, dtype_name, eps, namespace
from tensorring.contract.chain_tree import halves, open_chain
from tensorring.contract.residual import product_residual
from tensorring.decompose._arguments import Problem


def residual_norm(x: Array, cores: Sequence[Array]) -> float:
    """‖x − ring‖, right however small it is: one pass over x, and the open chains of both halves."""
    xp = namespace(x)
    cut = halves(x.shape)[0].hi
    left, right = open_chain(cores[:cut]), open_chain(cores[cut:])  # (r_0, r_c, A), (r_c, r_0, B)
    bonds, rows, columns = left.shape[0] * left.shape[1], left.shape[2], right.shape[2]
    tall = xp.reshape(xp.permute_dims(left, (2, 1, 0)), (rows, bonds))
    return product_residual(xp.reshape(x, (rows, columns)), tall, xp.reshape(right, (bonds, columns)))


def relative_residual(problem: Problem, cores: Sequence[Array], _: float = math.nan) -> float:
    """The relative error of a chain, from the residual, whatever sweeps told: their terms may cancel."""
    return residual_norm(problem.x, cores) / problem.norm


def error_from(x: Array, norm: float, fitted: float, cores: Sequence[Array], terms: float = 0.0) -> float:
    """The relative error of a chain that explains `fitted` of ‖x‖², a sum of terms up to `terms` in size.

    A difference of norms is noise below √eps, and below more where the terms cancel; from 30 times that down the
    residual itself is measured.
    """
    squared = 1.0 - fitted / norm**2
    if squared > eps(dtype_name(x.dtype)) * (900 + 30 * terms / norm**2):
        return math.sqrt(squared)
    return residual_norm(x, cores) / norm
