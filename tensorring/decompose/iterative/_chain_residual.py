"""The error of a chain from the residual itself, in blocks along the first mode."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tensorring._array import Array, block_length, dtype_name, eps, namespace, slices
from tensorring.contract.chain_tree import halves, open_chain
from tensorring.decompose._arguments import Problem
from tensorring.linalg.scale import root_of_sum, squared_parts


def residual_norm(x: Array, cores: Sequence[Array]) -> float:
    """‖x − ring‖, right however small it is: one pass over x, a block of the approximation at a time."""
    xp, shape = namespace(x), x.shape
    cut = halves(shape)[0].hi
    right = open_chain(cores[cut:])
    bonds, entries = right.shape[0] * right.shape[1], right.shape[2]
    right = xp.reshape(right, (bonds, entries))
    row = math.prod(shape[1:])
    squares: list[Array] = []
    for rows in slices(shape[0], block_length(x, row)):
        left = open_chain([cores[0][:, rows, :], *cores[1:cut]])
        left = xp.reshape(xp.permute_dims(left, (2, 1, 0)), (-1, bonds))
        block = xp.reshape(x[rows, ...], (-1, entries)) - left @ right
        squares += squared_parts(xp.reshape(block, (-1,)))
    return root_of_sum(squares)


def relative_residual(problem: Problem, cores: Sequence[Array]) -> float:
    """The relative error of a chain, from the residual."""
    return residual_norm(problem.x, cores) / problem.norm


def error_from(x: Array, norm: float, fitted: float, cores: Sequence[Array]) -> float:
    """The relative error of a chain that explains `fitted` of ‖x‖².

    A difference of norms is noise below √eps; from 30 times that down the residual itself is measured.
    """
    squared = 1.0 - fitted / norm**2
    if squared > 900 * eps(dtype_name(x.dtype)):
        return math.sqrt(squared)
    return residual_norm(x, cores) / norm
