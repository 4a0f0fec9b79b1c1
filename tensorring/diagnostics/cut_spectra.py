"""The spectra of a tensor's cuts: what a truncation along any of its modes would cost."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from tensorring._array import Array, as_dtype, compute_dtype_name, is_array, namespace
from tensorring.linalg.basis import mode_basis
from tensorring.linalg.rank import Values, error_floor, first_within, tails
from tensorring.linalg.scale import Scale, measure, scaled
from tensorring.linalg.svd import by_short_side
from tensorring.tensors import LowRankTensor
from tensorring.tensors.low_rank import checked_modes


@dataclass(frozen=True, eq=False, repr=False)
class CutSpectrum:
    """errors[r] = ‖values[r:]‖/‖values‖: what a cut truncated to rank r loses of the norm.

    Parameters
    ----------
    values
        The singular values of the unfolding, descending, in double precision on the host.
    errors
        The relative error of every rank, from 0 up; zeros for a zero tensor.
    floor
        The relative error that rounding alone may add (`linalg.error_floor`).

    Examples
    --------
    >>> import numpy as np
    >>> import tensorring as tg
    >>> tg.cut_spectra(np.diag([4.0, 3.0, 0.0]))[0,]
    CutSpectrum(3 values, 4 to 0, numerical rank 2)
    """

    values: Values
    errors: Values
    floor: float

    def rank(self, tol: float) -> int:
        """The least rank, at least 1, whose relative error is at most `tol` in [0, 1); 0 asks for the numerical rank.

        It is the one of `cut_svd(x, modes=…, tol=tol)`. ValueError for a `tol` out of range.
        """
        if not 0 <= tol < 1:
            raise ValueError(f"got tol={tol}; tol is the relative error allowed, in [0, 1): 0.05 asks for 5 %")
        # As decompositions do: ties at the tolerance pass, and what is zero to rounding goes in any case.
        return first_within(self.errors, max(tol + self.floor / 4, self.floor / 2))

    def __repr__(self) -> str:
        """How many, from where to where, and how many of them count."""
        ends = f"{self.values[0]:.3g} to {self.values[-1]:.3g}"
        return f"CutSpectrum({len(self.values)} values, {ends}, numerical rank {self.rank(0.0)})"


def cut_spectra(x: Any, *, cuts: Iterable[int | Iterable[int]] | None = None) -> dict[tuple[int, ...], CutSpectrum]:
    """{modes: σ_1 ≥ σ_2 ≥ …} with Σσ² = ‖x‖²: the singular values of every unfolding, and the rank for any tolerance.

    Parameters
    ----------
    x
        An array of d ≥ 2 modes, never written to, or a low-rank tensor, which is made dense.
    cuts
        Some of them: for each the modes on one side, as `cut_svd` takes them. By default all 2^(d−1) − 1: each subset
        of modes or its complement, whichever is smaller. A kernel (O, I, h, w) has seven: four single modes, and the
        pairs (0, 1), (0, 2) and (0, 3).

    Returns
    -------
    dict
        Modes, ascending, to a `CutSpectrum` with `.values`, `.errors` and `.rank(tol)`.

    Raises
    ------
    TypeError, ValueError
        For what is no array of finite numbers, has fewer than two modes, or for cuts that it does not have.

    Notes
    -----
    Values are right to eps·‖x‖ of the dtype computed in: smaller ones are noise. Those beyond the range of a double
    come out infinite, or zero; errors and ranks are right at any scale. Cost: one factorisation of each unfolding,
    without long vectors, and one copy of x at a time.

    References
    ----------
    C. Eckart, G. Young 1936, doi 10.1007/BF02288367: no tensor of that rank is nearer. S. Singh, S. S. Jahromi, R. Orús
    2024, arXiv 2403.14379: the cuts of convolution kernels.

    Examples
    --------
    >>> import numpy as np
    >>> import tensorring as tg
    >>> kernel = np.random.default_rng(0).standard_normal((8, 6, 3, 3))
    >>> spectra = tg.cut_spectra(kernel)
    >>> list(spectra)
    [(0,), (1,), (2,), (3,), (0, 1), (0, 2), (0, 3)]
    >>> {modes: spectrum.rank(0.5) for modes, spectrum in spectra.items()}
    {(0,): 5, (1,): 4, (2,): 3, (3,): 3, (0, 1): 6, (0, 2): 7, (0, 3): 7}
    """
    if not (is_array(x) or isinstance(x, LowRankTensor)):
        raise TypeError(f"got {type(x).__name__}; spectra are those of an array or of a low-rank tensor")
    x = x.to_dense() if isinstance(x, LowRankTensor) else as_dtype(x, compute_dtype_name(x.dtype))
    if x.ndim < 2 or 0 in x.shape:
        raise ValueError(f"got a tensor of shape {tuple(x.shape)}; a cut needs a mode on each side, none of length 0")
    chosen = list(_all_cuts(x.ndim)) if cuts is None else _checked_cuts(cuts, x.ndim)
    scale = measure(x)
    x = scaled(x, -scale.exponent)
    return {rows: _spectrum(x, rows, scale) for rows in chosen}


def _all_cuts(order: int) -> Iterator[tuple[int, ...]]:
    """Smaller sides first; of two equal sides the one with mode 0."""
    for count in range(1, order // 2 + 1):
        for rows in itertools.combinations(range(order), count):
            if 2 * count < order or rows[0] == 0:
                yield rows


def _checked_cuts(cuts: Any, order: int) -> list[tuple[int, ...]]:
    if not isinstance(cuts, Iterable):
        raise TypeError(f"got cuts={cuts!r}; it is a list of cuts, each one mode or several: [{cuts!r}]")
    chosen = [checked_modes(modes, order) for modes in cuts]
    if any(len(rows) == order for rows in chosen):
        raise ValueError(
            f"got cuts={cuts!r} for a tensor of {order} modes; a cut leaves at least one on the other side"
        )
    return chosen


def _spectrum(x: Array, rows: tuple[int, ...], scale: Scale) -> CutSpectrum:
    """Of a tensor that was divided by 2**exponent; errors are told before the scale is put back."""
    xp = namespace(x)
    columns = (k for k in range(x.ndim) if k not in rows)
    unfolding = xp.reshape(xp.permute_dims(x, (*rows, *columns)), (math.prod(x.shape[k] for k in rows), -1))
    floor = error_floor(x.dtype, x.ndim)
    matrix = by_short_side(unfolding)
    values = mode_basis(matrix, max_error=floor / 2 * scale.norm, norm=scale.norm, vectors=False).values
    errors = tails(values)
    with np.errstate(over="ignore", under="ignore"):
        return CutSpectrum(np.ldexp(values, scale.exponent), errors / (errors[0] or 1.0), floor)
