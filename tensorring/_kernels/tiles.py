"""Register tiles: 5 × 4 vectors of 64 bytes that stay in registers while a product runs through memory once.

Numba vectorises loops, but does not keep a block of sums in registers, on which the speed of a matrix product with few
rows depends; so the two innermost loops are written out for LLVM. Pointers come as integers: one compilation for each
dtype, whether arrays are writeable or not. The first argument is a number of that dtype.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

ROWS, VECTORS, BYTES = 5, 4, 64


class _Block:
    """What the code of both tiles is made of, for one element type."""

    def __init__(self, builder: Any, element: Any) -> None:
        double = element == types.float64
        self.builder, self.element = builder, ir.DoubleType() if double else ir.FloatType()
        self.size = 8 if double else 4
        self.lanes = BYTES // self.size
        self.vector = ir.VectorType(self.element, self.lanes)
        name = f"llvm.fma.v{self.lanes}f{8 * self.size}"
        kind = ir.FunctionType(self.vector, [self.vector] * 3)
        self.fma = cgutils.get_or_insert_function(builder.module, kind, name)
        zero = ir.Constant(self.vector, None)
        self.sums = [[cgutils.alloca_once_value(builder, zero) for _ in range(VECTORS)] for _ in range(ROWS)]

    def pointer(self, address: Any) -> Any:
        return self.builder.inttoptr(address, self.element.as_pointer())

    def at(self, base: Any, *terms: tuple[Any, Any]) -> Any:
        """base + Σ a·b, in elements."""
        for a, b in terms:
            a = ir.Constant(ir.IntType(64), a) if isinstance(a, int) else a
            b = ir.Constant(ir.IntType(64), b) if isinstance(b, int) else b
            base = self.builder.gep(base, [self.builder.mul(a, b)])
        return base

    def load(self, pointer: Any) -> Any:
        return self.builder.load(self.builder.bitcast(pointer, self.vector.as_pointer()), align=self.size)

    def store(self, value: Any, pointer: Any) -> None:
        self.builder.store(value, self.builder.bitcast(pointer, self.vector.as_pointer()), align=self.size)

    def spread(self, pointer: Any) -> Any:
        """One number in all lanes."""
        anything, int32 = ir.Constant(self.vector, ir.Undefined), ir.IntType(32)
        one = self.builder.insert_element(anything, self.builder.load(pointer), ir.Constant(int32, 0))
        return self.builder.shuffle_vector(one, anything, ir.Constant(ir.VectorType(int32, self.lanes), None))

    def add(self, row: int, column: int, a: Any, b: Any) -> None:
        """sums[row][column] += a·b."""
        place = self.sums[row][column]
        self.builder.store(self.builder.call(self.fma, [a, b, self.builder.load(place)]), place)

    def total(self, row: int, column: int) -> Any:
        """The sum of a vector's lanes, pairwise."""
        value, lanes = self.builder.load(self.sums[row][column]), self.lanes
        while lanes > 1:
            lanes //= 2
            picks = ir.VectorType(ir.IntType(32), lanes)
            low = self.builder.shuffle_vector(value, value, ir.Constant(picks, list(range(lanes))))
            high = self.builder.shuffle_vector(value, value, ir.Constant(picks, list(range(lanes, 2 * lanes))))
            value = self.builder.fadd(low, high)
        return self.builder.extract_element(value, ir.Constant(ir.IntType(32), 0))


@intrinsic
def rows_tile(typingctx, like, v, v_row, x, x_row, p, p_row, length):  # type: ignore[no-untyped-def]
    """p[r, c] = Σ_a v[r, a]·x[a, c] for 5 rows and 4 vectors of columns: addresses, and strides in elements."""

    def codegen(context, builder, signature, values):  # type: ignore[no-untyped-def]
        block = _Block(builder, like)
        _, v, v_row, x, x_row, p, p_row, length = values
        v, x, p = (block.pointer(address) for address in (v, x, p))
        with cgutils.for_range(builder, length) as loop:
            columns = [block.load(block.at(x, (loop.index, x_row), (j, block.lanes))) for j in range(VECTORS)]
            for row in range(ROWS):
                number = block.spread(block.at(v, (row, v_row), (loop.index, 1)))
                for j in range(VECTORS):
                    block.add(row, j, number, columns[j])
        for row in range(ROWS):
            for j in range(VECTORS):
                block.store(builder.load(block.sums[row][j]), block.at(p, (row, p_row), (j, block.lanes)))
        return context.get_dummy_value()

    return types.void(like, *[types.intp] * 7), codegen


@intrinsic
def dots_tile(typingctx, like, k, k_row, x, x_row, p, p_row, vectors):  # type: ignore[no-untyped-def]
    """p[r, a] += Σ_c k[r, c]·x[a, c] for 5 × 4 pairs of rows, over so many vectors of columns."""

    def codegen(context, builder, signature, values):  # type: ignore[no-untyped-def]
        block = _Block(builder, like)
        _, k, k_row, x, x_row, p, p_row, vectors = values
        k, x, p = (block.pointer(address) for address in (k, x, p))
        with cgutils.for_range(builder, vectors) as loop:
            others = [block.load(block.at(x, (j, x_row), (loop.index, block.lanes))) for j in range(VECTORS)]
            for row in range(ROWS):
                own = block.load(block.at(k, (row, k_row), (loop.index, block.lanes)))
                for j in range(VECTORS):
                    block.add(row, j, own, others[j])
        for row in range(ROWS):
            for j in range(VECTORS):
                place = block.at(p, (row, p_row), (j, 1))
                builder.store(builder.fadd(builder.load(place), block.total(row, j)), place)
        return context.get_dummy_value()

    return types.void(like, *[types.intp] * 7), codegen
