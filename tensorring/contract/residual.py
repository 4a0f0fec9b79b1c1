"""The residual of a product of two matrices, never formed whole."""

from __future__ import annotations

from tensorring._array import Array, is_host, namespace, slices
from tensorring._threads import each
from tensorring.linalg.scale import root_of_sum, squared_parts

# Rows and columns of a block: of a size at which it stays in the cache with its parts of the two factors.
_BLOCK, _BLOCK_ELSEWHERE = (64, 2048), (1024, 65536)


def product_residual(x: Array, left: Array, right: Array) -> float:
    """‖X − L·R‖, right however small it is: (m, n), (m, k), (k, n). One pass over X, on several threads where large."""
    xp = namespace(x)
    tall, wide = _BLOCK if is_host(x) else _BLOCK_ELSEWHERE
    blocks = [(rows, columns) for rows in slices(x.shape[0], tall) for columns in slices(x.shape[1], wide)]

    def squares(k: int) -> list[Array]:
        rows, columns = blocks[k]
        residual = left[rows, :] @ right[:, columns] - x[rows, columns]
        return squared_parts(xp.reshape(residual, (-1,)))

    parts = each(squares, len(blocks), x.shape[0] * x.shape[1] if is_host(x) else 0)
    return root_of_sum([square for part in parts for square in part])
