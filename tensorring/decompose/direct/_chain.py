"""One cut after another along a chain: the work that trains and rings share.

A chain is a matrix (r, n_1 ⋯ n_m) with its mode sizes: r is the bond on its left, and the last size may hold a closing
bond (n_m·r_0 for a ring). A cut parts (r·n_1) from the rest by a truncated SVD. Every cut projects inside the range of
those before it, so squared errors add up exactly, and what one cut leaves of the budget goes to the next.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from tensorring._array import Array, copy, dtype_name, is_host, namespace, to_device
from tensorring.decompose._arguments import Caps, Problem, identity
from tensorring.linalg.basis import Basis, is_blurred, mode_basis
from tensorring.linalg.project import project
from tensorring.linalg.scale import root_of_sum
from tensorring.linalg.svd import by_short_side

# Shares of what is left that a cut may spend; None is an equal share for each cut left. White noise loses nearly all
# of its energy in the first cut, so that equal shares would keep the noise; smooth tensors want them.
FAMILY: tuple[float | None, ...] = (1.0, 0.9, 0.75, 0.5, None)
# A ring's first cut has many ranks to split anyway: the other two were worth 0.1 % of the storage of ResNet kernels and
# a third of the time.
RING_FAMILY = FAMILY[::2]


class Cut(NamedTuple):
    """The rank of one cut, and the absolute error that was allowed when it was chosen (it decides the route)."""

    rank: int
    allowed: float


Cuts = tuple[Cut, ...]
Hopeless = Callable[[Cuts, float, Sequence[int]], bool]


class Spend(NamedTuple):
    """The rules of spending: the squared error allowed in all, what every cut may make, the shares, ‖tensor‖."""

    total: float
    reserve: float
    shares: tuple[float | None, ...]
    norm: float

    @classmethod
    def of(cls, problem: Problem, cuts: int, family: tuple[float | None, ...] = FAMILY) -> Spend:
        """The rules for a problem that takes so many cuts; without a tolerance there is nothing to share."""
        shares = family if problem.tol is not None and cuts > 1 else family[:1]
        return cls(problem.allowed, problem.reserve(cuts), shares, problem.norm)

    def allow(self, share: float | None, spent: float, cuts_left: int) -> float:
        """The absolute error that the next cut may make."""
        left = max(0.0, self.total - spent)
        if cuts_left > 1:
            left = left / cuts_left if share is None else share * left
        return math.sqrt(max(left, self.reserve))

    def left(self, spent: float, cuts_left: int) -> float:
        """The squared error that so many cuts can make together at the very most."""
        return max(0.0, self.total - spent) + cuts_left * self.reserve


def explore(
    chain: Array,
    sizes: Sequence[int],
    spend: Spend,
    *,
    caps: Caps,
    hopeless: Hopeless,
    spent: float = 0.0,
    cuts: Cuts = (),
    first: Basis | None = None,
    look_ahead: bool = False,
) -> Iterator[tuple[Cuts, float]]:
    """The cuts, with the squared error made in all, that the shares lead to; those that agree so far share the work.

    Parameters
    ----------
    chain, sizes
        The chain, a matrix (r, Πsizes).
    spend, spent
        The rules, and the squared error already made.
    caps
        A cap for each cut, or None.
    hopeless
        Told the cuts so far, the squared error, and least ranks of the cuts to come, it says whether to give up.
    cuts
        Those made so far.
    first
        The basis of the first cut, where it is known.
    look_ahead
        Whether to ask for singular values first, of all cuts to come, and for vectors only where there is hope: for
        searches that give up on most of what they look at.
    """
    if len(sizes) == 1:
        yield cuts, spent
        return
    cuts_left = len(sizes) - 1
    allowed = {share: spend.allow(share, spent, cuts_left) for share in spend.shares}
    least = min(allowed.values())
    matrix, floors = cut_matrix(chain, sizes[0]), [1] * cuts_left
    ask = functools.partial(mode_basis, max_error=least, norm=spend.norm)
    if look_ahead and cuts_left > 1:
        left, give_up = spend.left(spent, cuts_left), functools.partial(hopeless, cuts, spent)
        floors, first = least_ranks(chain, sizes, left, ask, give_up)
        if first is None:
            return
    basis = first or ask(matrix, max_rank=caps[0], vectors=cuts_left > 1)
    groups: dict[int, list[float | None]] = {}
    for share, error in allowed.items():
        groups.setdefault(basis.rank(error, caps[0]), []).append(share)
    for rank, shares in sorted(groups.items()):
        reached, made = (*cuts, Cut(rank, least)), spent + basis.spends(rank)
        if hopeless(reached, made, floors[1:]):
            continue
        if cuts_left > 1 and basis.vectors is None:
            basis = ask(matrix, max_rank=caps[0])
        yield from explore(
            # Not bound to a name: it would live on while the next one is made.
            remainder(matrix, basis, rank) if cuts_left > 1 else chain,
            sizes[1:],
            spend._replace(shares=tuple(shares)),
            caps=caps[1:],
            hopeless=hopeless,
            spent=made,
            cuts=reached,
            look_ahead=look_ahead,
        )


def least_ranks(
    chain: Array,
    sizes: Sequence[int],
    left: float,
    basis_of: Callable[..., Basis],
    hopeless: Callable[[Sequence[int]], bool],
) -> tuple[list[int], Basis | None]:
    """For each cut of a chain the least rank that it can have within the squared error left; and the first's values.

    Each rank is what the cut would need if it were the only one (Eckart & Young). The smallest unfoldings come first;
    None instead of values says that what they tell is hopeless.
    """
    rows, entries, first = chain.shape[0], chain.shape[0] * math.prod(sizes), None
    unfoldings = []
    for k, n in enumerate(sizes[:-1]):
        rows *= n
        unfoldings.append((min(rows, entries // rows), k, rows))
    floors = [1] * len(unfoldings)
    for _, k, rows in sorted(unfoldings):
        values = basis_of(cut_matrix(chain, rows // chain.shape[0]), vectors=False)
        floors[k] = values.rank(math.sqrt(left + 2 * values.slack))
        if hopeless(floors):
            return floors, None
        first = values if k == 0 else first
    return floors, first


def cores_of(
    chain: Array,
    sizes: Sequence[int],
    cuts: Cuts,
    *,
    norm: float,
    verify: bool,
    owned: bool,
    first: Basis | None = None,
) -> tuple[list[Array], float]:
    """The cores (r, n, r') of a chain for given cuts, and the squared error that these make.

    With `verify` errors are measured from residuals where Gram matrices do not tell them well enough; with `owned` the
    chain's memory is used for what comes of it.
    """
    cores, error = [], 0.0
    for k, cut in enumerate(cuts):
        matrix, bond = cut_matrix(chain, sizes[k]), chain.shape[0]
        basis = first or mode_basis(matrix, max_error=cut.allowed, norm=norm, max_rank=cut.rank)
        last = k == len(cuts) - 1
        left, chain, made = split(matrix, basis, cut.rank, last=last, verify=verify, owned=owned)
        cores.append(namespace(left).reshape(left, (bond, sizes[k], cut.rank)))
        # A cut at full rank hands on the same memory.
        first, owned = None, owned or last or cut.rank < matrix.shape[1]
        error += made
    chain = chain if owned else copy(chain)
    cores.append(namespace(chain).reshape(chain, (chain.shape[0], sizes[-1], 1)))
    return [compact(core) for core in cores], error


def cut_matrix(chain: Array, size: int) -> Array:
    """The matrix (r·n_1, rest) of the next cut, its shorter side in the middle."""
    return by_short_side(namespace(chain).reshape(chain, (chain.shape[0] * size, -1)))


def remainder(matrix: Array, basis: Basis, rank: int) -> Array:
    """What is left to cut, (rank, rest): right up to a unitary of the bond, which no later cut sees."""
    if matrix.shape[0] > 1:
        return values_of(basis, rank, like=matrix) * basis.vectors[:, :rank].T
    if rank == matrix.shape[1]:
        return matrix[0, :, :]
    return project(matrix, basis.vectors[:, :rank])[0, :, :]


def split(
    matrix: Array, basis: Basis, rank: int, *, last: bool, verify: bool, owned: bool
) -> tuple[Array, Array, float]:
    """The cut itself, A ≈ left·right with orthonormal columns on the left, and the squared error made.

    A cut at full rank leaves the matrix as it is: the other factor is the identity, and nothing is multiplied. The last
    cut may leave the norm on either side: it takes the side that needs no division.
    """
    wide, p = matrix.shape[0] == 1, basis.vectors[:, :rank]
    if rank == matrix.shape[1] and (wide or last):
        one, whole = identity(rank, like=matrix), matrix[0, :, :] if wide else matrix[:, :, 0]
        whole = whole if owned else copy(whole) if last else whole
        return (one, whole, 0.0) if wide else (whole, one, 0.0)
    squares: list[Array] | None = [] if verify and basis.slack > 0 else None
    coefficients = project(matrix, p, overwrite=owned, squares=squares)
    error = basis.error(rank) ** 2 if squares is None else root_of_sum(squares) ** 2
    if wide:
        return p, coefficients[0, :, :], error
    if last:
        return coefficients[:, :, 0], p.T, error
    # Accounting needs orthonormal columns only where the remainder is large, and there the division is safe.
    values = values_of(basis, rank, like=matrix)
    divisors = namespace(values).where(values > 0, values, namespace(values).ones_like(values))
    return coefficients[:, :, 0] / divisors[:, 0], values * p.T, error


def values_of(basis: Basis, rank: int, *, like: Array) -> Array:
    """The singular values kept, as a column in the library and dtype of an array."""
    real = "float32" if dtype_name(like.dtype) in ("float32", "complex64") else "float64"
    values = basis.values[:rank].astype(real)
    return to_device(values.reshape(rank, 1), like=like)


def needs_verifying(spent: float, cuts: int, problem: Problem) -> bool:
    """True where Gram matrices would blur the error reported."""
    return is_blurred(math.sqrt(spent), problem.norm, dtype_name(problem.x.dtype), cuts)


def compact(core: Array) -> Array:
    """The core in memory of its own size: a view of something much larger is copied."""
    if not is_host(core):
        return core
    base = core.base
    if core.flags.c_contiguous and (base is None or getattr(base, "size", 0) <= 1.5 * core.size):
        return core
    return copy(core)
