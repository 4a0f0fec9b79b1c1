"""What trains and rings share: order-3 cores whose bonds fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Self

from tensorring._array import Array
from tensorring.contract.chain import ring_to_dense
from tensorring.tensors.low_rank import LowRankTensor, check_ndim, checked_arrays


@dataclass(frozen=True, eq=False, repr=False)
class CoreTensor(LowRankTensor):
    """x[i_1 … i_d] = trace(G_1(i_1) ⋯ G_d(i_d)): a chain of order-3 cores, one for each mode, that closes onto itself.

    Parameters
    ----------
    cores
        d arrays (r_k, n_k, r_{k+1}) of one library.

    Raises
    ------
    ValueError
        If a core has not three axes, or neighbours disagree on a bond.
    """

    cores: tuple[Array, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "cores", checked_arrays(self.cores, "cores"))
        for k, core in enumerate(self.cores):
            check_ndim(core, 3, f"cores[{k}]", "(left rank, mode size, right rank)")
        for k, (core, following) in enumerate(pairwise(self.cores)):
            if core.shape[2] != following.shape[0]:
                raise ValueError(
                    f"cores[{k}] has right rank {core.shape[2]} but cores[{k + 1}] has left rank "
                    f"{following.shape[0]}; neighbours share a bond: make them equal"
                )

    @property
    def arrays(self) -> tuple[Array, ...]:
        """The cores."""
        return self.cores

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the dense tensor."""
        return tuple(core.shape[1] for core in self.cores)

    def to_dense(self) -> Array:
        """The dense tensor, by two half chains and one matrix product over the bonds between them."""
        return ring_to_dense(self.cores)

    def with_arrays(self, arrays: Sequence[Array]) -> Self:
        """The same format with other cores."""
        return type(self)(tuple(arrays))

    def rows(self, start: int, stop: int) -> Self:
        """The low-rank tensor of x[start:stop], sliced along the first mode."""
        return self.with_arrays([self.cores[0][:, start:stop, :], *self.cores[1:]])
