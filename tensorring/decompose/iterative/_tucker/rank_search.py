"""The multilinear ranks of least storage under a tolerance: propose and verify.

x is projected onto a frame: orthonormal bases of somewhat more vectors than the accepted ranks. In its core everything
is small, and a Tucker tensor of the core is one of x whose squared error is larger by what the frame lost, exactly. The
core is turned until it is all-orthogonal around the accepted ranks; then cumulative sums of its squares tell the
energies of all its leading boxes. The box of least storage that is at most a little above the bound is proposed, swept
until it is below, and accepted if the residual on x says so. How much a little may be is found by bisection.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tensorring._array import Array, adjoint, as_dtype, dtype_name, is_complex, to_device, to_host
from tensorring.contract.unfold import around, mode_product
from tensorring.decompose._arguments import Caps, Problem
from tensorring.decompose.iterative._tucker.engine import Sweeper, exact_error, feasible, residual
from tensorring.linalg.basis import mode_basis
from tensorring.tensors import Candidate, TuckerTensor

Ranks = tuple[int, ...]
Host = np.ndarray[Any, Any]
Step = tuple[TuckerTensor, float]

# Boxes up to this far above the squared bound are worth sweeps; how far is found to the second number.
_REACH, _RESOLUTION = 0.25, 2.5e-4
# Most proposals are decided, by extrapolation, after three or four sweeps.
_PATIENCE, _ROUNDS = 25, 4
# So near the bound, sweeps on x may still find what lies outside the frame.
_NEAR, _SWEEPS_ON_X = 0.01, 3
# The frame has half as many vectors again as the ranks accepted, less where its core would be large.
_MARGINS, _COMFORTABLE, _LARGEST, _TIGHT = (1.5, 1.2, 1.05), 2**21, 2**24, 0.8
# Differences of squares in double precision tell ranks down to here.
_LEAST_TOL = 1e-6


@dataclass(frozen=True, eq=False)
class Frame:
    """x projected onto the orthonormal factors·turns: its core, on the host and in double precision.

    `lost` is the squared error of that projection, `room` the squared error allowed in the core.
    """

    core: Host
    factors: tuple[Array, ...]
    turns: tuple[Host, ...]
    lost: float

    def turned(self, bases: Sequence[Host] | None = None) -> Frame:
        """The frame with the singular vectors of each unfolding as axes: of the core, or of it within `bases`."""
        core, turns = self.core, list(self.turns)
        for mode in range(self.core.ndim):
            part = self.core if bases is None else _projected(self.core, bases, skip=mode)
            turn = mode_basis(around(part, mode), max_error=0.0, norm=1.0, route="gram").vectors
            core, turns[mode] = mode_product(core, adjoint(turn), mode), turns[mode] @ turn
        return Frame(core, self.factors, tuple(turns), self.lost)

    def lifted(self, tensor: TuckerTensor) -> TuckerTensor:
        """A Tucker tensor of the core as one of x; a mode at full rank gets the identity as factor."""
        like, core = self.factors[0], tensor.core
        name, factors = dtype_name(like.dtype), []
        for mode, (outer, turn, inner) in enumerate(zip(self.factors, self.turns, tensor.factors, strict=True)):
            if inner.shape[1] < outer.shape[0]:
                factors.append(outer @ to_device(as_dtype(turn @ inner, name), like=like))
            else:
                core = mode_product(core, turn @ inner, mode)
                factors.append(outer)
        return TuckerTensor(to_device(as_dtype(core, name), like=like), tuple(factors))

    def seen(self, tensor: TuckerTensor) -> list[Host]:
        """The factors of a tensor of x in the axes of the frame, (R, r), orthonormal."""
        seen = [to_host(adjoint(u) @ v) for u, v in zip(self.factors, tensor.factors, strict=True)]
        return [np.linalg.qr(turn.conj().T @ v).Q for turn, v in zip(self.turns, seen, strict=True)]


class RankSearch:
    """Looks for fewer numbers than `tensor` has; `tried` lists the ranks proposed.

    Parameters
    ----------
    problem
        The tensor, and the tolerance.
    tensor, error
        One that keeps it.
    modes, caps
        Those whose ranks may change, and how large they may become.
    """

    def __init__(
        self, problem: Problem, tensor: TuckerTensor, error: float, *, modes: Sequence[int], caps: Caps
    ) -> None:
        self.problem, self.modes, self.caps = problem, tuple(modes), caps
        self.tensor, self.error = tensor, error
        self.tried: list[Candidate] = []
        self._rejected: set[Ranks] = set()

    def sweeps(self) -> Iterator[Step]:
        """What is accepted, and its error, after every sweep of every proposal. Storage never rises."""
        frame = self._frame()
        if frame is None:
            return
        frame = frame.turned()
        for _ in range(_ROUNDS):
            before = self.tensor.parameter_count
            yield from self._bisect(frame)
            frame = frame.turned(frame.seen(self.tensor))
            yield from self._descend(frame)
            if self.tensor.parameter_count == before:
                return
            frame = (self._frame() or frame) if self._is_tight(frame) else frame
            frame = frame.turned(frame.seen(self.tensor))

    def _is_tight(self, frame: Frame) -> bool:
        """Ranks have grown so near to the frame that a wider one may hold something better."""
        sizes = zip(self.tensor.ranks, frame.core.shape, self.problem.shape, strict=True)
        return any(rank < room < n and _TIGHT * room < rank for rank, room, n in sizes)

    def _frame(self) -> Frame | None:
        shape, ranks = self.problem.shape, self.tensor.ranks
        if (self.problem.tol or 0.0) < _LEAST_TOL or not self.modes:
            return None
        for margin in _MARGINS:
            wanted = [max(math.ceil(margin * r), r + 2) if k in self.modes else r for k, r in enumerate(ranks)]
            larger = feasible(wanted, shape, self.modes)
            if math.prod(larger) <= _COMFORTABLE:
                break
        if math.prod(larger) > _LARGEST:
            return None
        sweeper = Sweeper(self.problem, larger)
        tensor = sweeper.from_hosvd()
        lost = residual(self.problem, tensor) if sweeper.modes else 0.0
        core = to_host(as_dtype(tensor.core, "complex128" if is_complex(tensor.core) else "float64"))
        turns = tuple(np.eye(n) for n in core.shape)
        return Frame(core, tensor.factors, turns, (lost * self.problem.norm) ** 2)

    def _bisect(self, frame: Frame) -> Iterator[Step]:
        """Proposes the smallest box within a reach above the bound; the reach by bisection."""
        tails, counts = _scores(frame, self.problem.shape)
        low, high = 0.0, 2 * _REACH
        reach = 0.0
        while high - low > _RESOLUTION:
            ranks = self._smallest_within(tails, counts, self.problem.allowed * (1 + reach))
            if ranks is None or (yield from self._attempt(frame, ranks)):
                low = reach
            else:
                high = reach
            reach = (low + high) / 2
            if high == 0.0:
                return

    def _descend(self, frame: Frame) -> Iterator[Step]:
        """Lowers one rank by one wherever that succeeds."""
        tails, _ = _scores(frame, self.problem.shape)
        stepped = True
        while stepped:
            ranks, stepped = self.tensor.ranks, False
            steps = [(*ranks[:k], ranks[k] - 1, *ranks[k + 1 :]) for k in self.modes if ranks[k] > 1]
            steps = [step for step in steps if all(r <= n for r, n in zip(step, tails.shape, strict=True))]
            for step in sorted(steps, key=lambda r: tails[tuple(k - 1 for k in r)]):
                if self._is_open(step) and (yield from self._attempt(frame, step)):
                    stepped = True
                    break

    def _smallest_within(self, tails: Host, counts: Host, allowed: float) -> Ranks | None:
        """The box of fewest numbers whose tail is within what is allowed, and that no failure rules out."""
        good = (tails <= allowed) & (counts < self.tensor.parameter_count)
        for ranks in self._rejected:
            good[tuple(slice(r) for r in ranks)] = False
        for k, n in enumerate(self.problem.shape):
            cap = n if k not in self.modes else self.caps[k]
            behind = (slice(None),) * k
            if k not in self.modes:
                good[(*behind, slice(n - 1))] = False
            elif cap is not None:
                good[(*behind, slice(cap, None))] = False
        if not good.any():
            return None
        least = np.unravel_index(np.argmin(np.where(good, counts, np.inf)), counts.shape)
        ranks = feasible([int(k) + 1 for k in least], self.problem.shape, self.modes)
        return ranks if self._is_open(ranks) else None

    def _is_open(self, ranks: Ranks) -> bool:
        """No failure rules the ranks out: what a larger box could not reach, none inside it can."""
        return not any(all(a <= b for a, b in zip(ranks, other, strict=True)) for other in self._rejected)

    def _attempt(self, frame: Frame, ranks: Ranks) -> Generator[Step, None, bool]:
        """Sweeps at ranks until the bound is kept, and then accepts; or until it is clear that it will not be."""
        norm = float(np.linalg.norm(frame.core))
        sweeper = Sweeper(Problem(frame.core, norm, 0, None), ranks)
        tensor = sweeper.from_factors(
            [np.eye(n, r, dtype=frame.core.dtype) for n, r in zip(frame.core.shape, ranks, strict=True)]
        )
        squares = [frame.lost + (exact_error(sweeper.problem, tensor) * norm) ** 2]
        sweeps = sweeper.sweeps(tensor)
        while squares[-1] > self.problem.allowed and _is_promising(squares, self.problem.allowed):
            tensor, error = next(sweeps)
            squares.append(frame.lost + (error * norm) ** 2)
            yield self.tensor, self.error
        lifted, error = frame.lifted(tensor), math.inf
        if squares[-1] <= self.problem.allowed:
            error = exact_error(self.problem, lifted)
        elif frame.lost > 0 and squares[-1] <= (1 + _NEAR) * self.problem.allowed:
            lifted, error = yield from self._on_x(lifted)
        kept = self.problem.keeps(error)
        reached = self.problem.relative(squares[-1]) if math.isinf(error) else error
        self.tried.append(Candidate("tucker", ranks, lifted.parameter_count, reached))
        if kept:
            self.tensor, self.error = lifted, error
            yield self.tensor, self.error
        else:
            self._rejected.add(ranks)
        return kept

    def _on_x(self, tensor: TuckerTensor) -> Generator[Step, None, Step]:
        """A few sweeps on x itself, which see what lies outside the frame."""
        sweeps, error = Sweeper(self.problem, tensor.ranks).sweeps(tensor), math.inf
        for _ in range(_SWEEPS_ON_X):
            tensor, error = next(sweeps)
            if (error * self.problem.norm) ** 2 <= self.problem.allowed:
                return tensor, exact_error(self.problem, tensor)
            yield self.tensor, self.error
        return tensor, error


def _is_promising(squares: list[float], allowed: float) -> bool:
    """Whether the squared errors, extrapolated with generosity, fall to what is allowed."""
    if len(squares) < 3:
        return True
    last, step = squares[-2] - squares[-1], squares[-3] - squares[-2]
    if last <= 0 or len(squares) > _PATIENCE:
        return False
    ratio = min(last / step, 0.95) if step > 0 else 0.95
    return squares[-1] - 2 * last * ratio / (1 - ratio) <= allowed


def _projected(core: Host, bases: Sequence[Host], *, skip: int) -> Host:
    for mode, basis in enumerate(bases):
        core = core if mode == skip else mode_product(core, adjoint(basis), mode)
    return core


def _scores(frame: Frame, shape: Sequence[int]) -> tuple[Host, Host]:
    """For each leading box of the core: the squared error outside it, and the numbers that it takes to store it."""
    energies = np.abs(frame.core) ** 2
    counts, factors = np.ones(()), np.zeros(())
    for mode, (n, rank) in enumerate(zip(shape, frame.core.shape, strict=True)):
        np.cumsum(energies, axis=mode, out=energies)
        ranks = np.arange(1.0, rank + 1)
        counts, factors = np.multiply.outer(counts, ranks), np.add.outer(factors, n * ranks)
    return frame.lost + (energies.reshape(-1)[-1] - energies), counts + factors
