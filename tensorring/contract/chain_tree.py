"""Dimension trees of chains: X against all cores of a train or a ring but one, in two passes over X a sweep.

Of the modes of X the leading ones form one half and the trailing ones the other. X times the chain of one half leaves a
small partial over the other half, whose cores are then updated one after another: each takes what it needs from the
partial and contracts itself away. Nothing is unfolded or copied: both halves are reshapes of X in C order, and the
small matrix stands on the left of every product. Bonds lead in all partials, (q, p, modes): p the bond on the left of
the modes still there, q the one on the right of the half.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from tensorring._array import Array, as_dtype, block_length, conj, is_complex, namespace, slices
from tensorring.contract.chain import chain_product
from tensorring.contract.first_level import buffer, contract_after, contract_before
from tensorring.contract.unfold import around

# A partial that lives from sweep to sweep costs memory, and is read for every update.
_PARTIAL_SHARE = 0.2


class Part(NamedTuple):
    """Some rows of a mode, and the partial (q, p, rows, entries of the modes after it) that belongs to them."""

    rows: slice
    partial: Array


class Half(NamedTuple):
    """The modes lo … hi − 1, at either end of a tensor."""

    lo: int
    hi: int


def halves(shape: Sequence[int]) -> tuple[Half, Half]:
    """The leading and the trailing half of two modes or more: those whose chains are smallest together."""
    order = len(shape)
    cut = min(range(1, order), key=lambda k: math.prod(shape[:k]) + math.prod(shape[k:]))
    return Half(0, cut), Half(cut, order)


def open_chain(cores: Sequence[Array]) -> Array:
    """P[a, b, i_1, i_2 …] = (G_1(i_1) ⋯ G_m(i_m))[a, b]: both bonds in front, (r_1, r_{m+1}, entries)."""
    xp = namespace(*cores)
    last = xp.permute_dims(cores[-1], (2, 0, 1))
    if len(cores) == 1:
        return xp.permute_dims(cores[0], (0, 2, 1))
    left = chain_product(cores[:-1])
    product = xp.expand_dims(left, axis=1) @ xp.expand_dims(last, axis=0)
    return xp.reshape(product, (left.shape[0], last.shape[0], -1))


def first_partial(x: Array, half: Half, others: Sequence[Array]) -> Iterator[Part]:
    """X against the chain of the cores outside a half, in blocks of rows of its first mode.

    One pass over X. Every block lies in the same memory as the one before: use it up first.
    """
    xp, shape = namespace(x), x.shape
    size, rest = shape[half.lo], math.prod(shape[half.lo + 1 : half.hi])
    chain = conj(open_chain(others))
    q, p, entries = chain.shape
    chain = xp.reshape(chain, (q * p, entries))
    leading = half.lo == 0
    matrix = xp.reshape(x, (size * rest, entries) if leading else (entries, size * rest))
    step = min(size, _rows_of_a_block(x, q * p * rest))
    out = buffer(x, q * p, step * rest)
    for rows in slices(size, step):
        span = slice(rows.start * rest, rows.stop * rest)
        if leading:
            partial = contract_after(chain, matrix[span, :], out)
        else:
            partial = contract_before(chain, matrix[None, :, span], out)
        yield Part(rows, xp.reshape(partial, (q, p, rows.stop - rows.start, rest)))


def _rows_of_a_block(x: Array, row_entries: int) -> int:
    """Blocks of some megabytes, and of a twentieth of a large x."""
    entries: int = math.prod(x.shape)
    return max(block_length(x, row_entries), entries // (20 * row_entries))


def three_cores(x: Array, cores: Sequence[Array]) -> ThreeCores | None:
    """The multi-sweep tree of a ring of three, where its partials are at most a fifth of x."""
    share = max(core.shape[0] * core.shape[2] / core.shape[1] for core in cores)
    return ThreeCores(x) if len(cores) == 3 and share <= _PARTIAL_SHARE else None


class ThreeCores:
    """What every core of a ring of three is updated from, at one pass over X for two updates, across sweeps.

    X against the core that was updated last is a partial (r·r', n, n') over the other two modes, from which both of
    their cores follow (the multi-sweep tree of Ma & Solomonik 2020, arXiv 2010.12056). For tensors where that is small.
    """

    def __init__(self, x: Array) -> None:
        self._x, self._mode = x, -1
        self._core: Array = None
        self._partial: Array = None
        self._buffer: Array = None

    def product(self, n: int, cores: Sequence[Array]) -> Array:
        """B[(p, s), i] = Σ of X·conj(the chain of the other two): for core n, (p, i, s)."""
        if self._mode in (-1, n) or cores[self._mode] is not self._core:
            self._contract((n - 1) % 3, cores[(n - 1) % 3])
        other, xp = 3 - n - self._mode, namespace(self._x)
        (a, _, b), size = cores[self._mode].shape, self._x.shape[n]
        # Core n and the other one share a bond c. The other one's second bond is a, on the left of the core contracted,
        # where it follows core n, and else b: that is summed along with its mode.
        follows = other == (n + 1) % 3
        rows = xp.permute_dims(conj(cores[other]), (2, 0, 1) if follows else (0, 2, 1))  # (a or b, c, other's mode)
        rows = rows[:, None, :, :] if follows else rows[None, :, :, :]
        if other < n:
            product = rows @ xp.reshape(self._partial, (a, b, -1, size))
        else:
            product = rows @ xp.matrix_transpose(xp.reshape(self._partial, (a, b, size, -1)))
        product = xp.sum(product, axis=0 if follows else 1)  # (b or a, c, i)
        product = product if follows else xp.permute_dims(product, (1, 0, 2))
        return xp.reshape(product, (-1, size))

    def _contract(self, mode: int, core: Array) -> None:
        xp, view = namespace(self._x), around(self._x, mode)
        rows = xp.reshape(xp.permute_dims(conj(core), (0, 2, 1)), (-1, core.shape[1]))
        if self._buffer is None or self._buffer.size < rows.shape[0] * math.prod(self._x.shape) // core.shape[1]:
            self._buffer = buffer(self._x, rows.shape[0], math.prod(self._x.shape) // min(self._x.shape))
        partial = (
            contract_after(rows, view[:, :, 0], self._buffer)
            if mode == 2
            else contract_before(rows, view, self._buffer)
        )
        self._mode, self._core, self._partial = mode, core, partial


def project_on_chain(partial: Array, chain: Array | None) -> Array:
    """B[(p, s), i] = Σ over q and the entries of partial[q, p, i, …]·conj(chain[s, q, …]): for core (p, i, s).

    `chain` is the open chain of the cores after it in the half; None where there is none, and then s is q.
    """
    xp = namespace(partial)
    q, p, size, _ = partial.shape
    if chain is None:
        return xp.reshape(xp.permute_dims(partial[:, :, :, 0], (1, 0, 2)), (p * q, size))
    chain = xp.permute_dims(chain, (1, 0, 2))  # q, s, entries
    rows = xp.matrix_transpose(xp.reshape(partial, (q, p * size, -1)))
    product = conj(chain) @ rows
    product = product[0, :, :] if q == 1 else xp.sum(product, axis=0)
    s = product.shape[0]
    return xp.reshape(xp.permute_dims(xp.reshape(product, (s, p, size)), (1, 0, 2)), (p * s, size))


def contract_core(partial: Array, core: Array) -> Array:
    """Σ over p and i of partial[q, p, i, …]·conj(core[p, i, s]): the partial of the modes after it, (q, s, …)."""
    xp = namespace(partial, core)
    q, p, size, rest = partial.shape
    matrix = conj(xp.reshape(core, (p * size, core.shape[2]))).T
    return matrix @ xp.reshape(partial, (q, p * size, rest))


def transfer(core: Array) -> Array:
    """Z[(p, p'), (s, s')] = Σ_i G[p, i, s]·conj(G[p', i, s']), in double precision."""
    xp = namespace(core)
    p, size, s = core.shape
    wide = as_dtype(core, "complex128" if is_complex(core) else "float64")
    rows = xp.reshape(xp.permute_dims(wide, (0, 2, 1)), (p * s, size))
    gram = xp.reshape(rows @ conj(rows).T, (p, s, p, s))
    return xp.reshape(xp.permute_dims(gram, (0, 2, 1, 3)), (p * p, s * s))


class Weighted(NamedTuple):
    """A product of transfer matrices, and its derivative when to each Z_m is added t·n_m·vec(I)·vec(I)ᵀ.

    In place of Z_m that opens the chain at core m and traces over both its ends: the derivative of the trace of all is
    Σ_m n_m·‖the others‖², the sensitivity, and that of the environment of a core its quadratic form in the core.
    """

    product: Array
    derivative: Array

    @property
    def shape(self) -> tuple[int, int]:
        """That of both."""
        rows, columns = self.product.shape
        return rows, columns

    def __matmul__(self, other: Weighted) -> Weighted:
        """The product rule."""
        derivative = self.product @ other.derivative + self.derivative @ other.product
        return Weighted(self.product @ other.product, derivative)


def weighted_transfer(core: Array) -> Weighted:
    """The transfer matrix of a core, and what takes its place where the chain is opened at it."""
    xp, z = namespace(core), transfer(core)
    p, size, s = core.shape
    left, right = (xp.reshape(xp.eye(bond, dtype=z.dtype, device=core.device), (-1,)) for bond in (p, s))
    return Weighted(z, size * left[:, None] * right)


class Transfers:
    """The environments of all cores of a ring in turn: products of the transfer matrices of the others.

    Asked for core 0, 1, 2, …, each told before the next is asked for. The ring is cut open at its smallest bond c, so
    that products are (r², r_c²); a core needs those from c up to it, which grow with the sweep, and those from it up to
    c, of which a table is made when the sweep passes core 0 and core c: at most three products a core.
    """

    def __init__(self, cores: Sequence[Array], of: Callable[[Array], Any] = transfer) -> None:
        self._of, self._z = of, [of(core) for core in cores]
        self._cut = min(range(len(cores)), key=lambda k: cores[k].shape[0])
        self._before: Any = None
        self._after: dict[int, Any] = {}

    def environment(self, n: int) -> Array:
        """P[b, b', a, a'] = Z_{n+1} ⋯ Z_{n−1}: a is the bond on the left of core n, b the one on its right."""
        return _by_bonds(self._others(n))

    def weighted_environment(self, n: int) -> tuple[Array, Array]:
        """The same of `Weighted`: P, and W with ⟨G, W·G⟩ = Σ over the others of n_m·‖the chain opened at m‖²."""
        others = self._others(n)
        return _by_bonds(others.product), _by_bonds(others.derivative)

    def _others(self, n: int) -> Any:
        order, cut = len(self._z), self._cut
        if n == 0:
            self._before = _product(self._z[cut:])
            self._table(range(cut), None)
        if n == cut:
            self._before = None
            self._table(range(cut, order), _product(self._z[:cut]))
        before, after = self._before, self._after[n]
        product = before if after is None else after if before is None else after @ before
        assert product is not None, "a ring of one core has no environment"
        return product

    def told(self, n: int, core: Array) -> None:
        """Core n is another one now."""
        self._z[n] = self._of(core)
        self._before = self._z[n] if self._before is None else self._before @ self._z[n]

    def _table(self, cores: range, product: Any) -> None:
        for n in reversed(cores):
            self._after[n] = product
            product = self._z[n] if product is None else self._z[n] @ product


def _product(matrices: Sequence[Any]) -> Any:
    product = None
    for matrix in matrices:
        product = matrix if product is None else product @ matrix
    return product


def _by_bonds(product: Array) -> Array:
    xp, (b, a) = namespace(product), (math.isqrt(bonds) for bonds in product.shape)
    return xp.reshape(product, (b, b, a, a))


def gram_of(environment: Array) -> Array:
    """Γ[(a, b), (a', b')] of the normal equations Γ·G = B of a core: a permutation of its environment."""
    xp = namespace(environment)
    b, _, a, _ = environment.shape
    return xp.reshape(xp.permute_dims(environment, (3, 1, 2, 0)), (a * b, a * b))
