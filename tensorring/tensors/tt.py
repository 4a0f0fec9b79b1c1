"""The tensor train."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tensorring.tensors.cores import CoreTensor


@dataclass(frozen=True, eq=False, repr=False)
class TTTensor(CoreTensor):
    """x[i_1 … i_d] = G_1(i_1) ⋯ G_d(i_d): a tensor train (Oseledets 2011, doi 10.1137/090752286).

    Parameters
    ----------
    cores
        d arrays (r_{k-1}, n_k, r_k) of one library, with r_0 = r_d = 1. `ranks` are the d − 1 bonds between them.

    Raises
    ------
    ValueError
        If a core has not three axes, neighbours disagree on a bond, or an outer bond is not 1.

    Examples
    --------
    >>> import numpy as np
    >>> import tensorring as tg
    >>> t = tg.TTTensor([np.ones((1, 4, 2)), np.ones((2, 5, 1))])
    >>> t
    TTTensor(shape=(4, 5), ranks=(2,), parameters=18, dtype=float64)
    >>> float(t.to_dense()[0, 0])
    2.0
    """

    format: ClassVar[str] = "tt"

    def __post_init__(self) -> None:
        super().__post_init__()
        outer = (self.cores[0].shape[0], self.cores[-1].shape[2])
        if outer != (1, 1):
            raise ValueError(
                f"got outer bonds {outer}; a train begins and ends with bond 1: TRTensor is the format that closes "
                "onto itself"
            )

    @property
    def ranks(self) -> tuple[int, ...]:
        """The d − 1 bonds: `ranks[k]` lies between core k and core k + 1."""
        return tuple(core.shape[2] for core in self.cores[:-1])
