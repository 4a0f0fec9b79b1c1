"""The tensor ring."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tensorring.tensors.cores import CoreTensor


@dataclass(frozen=True, eq=False, repr=False)
class TRTensor(CoreTensor):
    """x[i_1 … i_d] = trace(G_1(i_1) ⋯ G_d(i_d)): a tensor ring (Zhao et al. 2016, arXiv 1606.05535).

    Parameters
    ----------
    cores
        d arrays (r_k, n_k, r_{k+1}) of one library; the last core closes onto the first. `ranks[k]` is the left
        rank of core k: d entries.

    Raises
    ------
    ValueError
        If a core has not three axes, or neighbours disagree on a bond.

    Examples
    --------
    >>> import numpy as np
    >>> import tensorring as tg
    >>> t = tg.TRTensor([np.ones((3, 4, 2)), np.ones((2, 5, 3))])
    >>> t
    TRTensor(shape=(4, 5), ranks=(3, 2), parameters=54, dtype=float64)
    >>> float(t.to_dense()[0, 0])
    6.0
    """

    format: ClassVar[str] = "tr"

    def __post_init__(self) -> None:
        super().__post_init__()
        first, last = self.cores[0].shape[0], self.cores[-1].shape[2]
        if first != last:
            raise ValueError(
                f"cores[0] has left rank {first} but the last core has right rank {last}; a ring closes: "
                "make them equal"
            )

    @property
    def ranks(self) -> tuple[int, ...]:
        """The d bonds: `ranks[k]` is the left rank of core k."""
        return tuple(core.shape[0] for core in self.cores)

    def rotate(self, k: int) -> TRTensor:
        """The ring whose mode 0 is this one's mode k: cores in another order, not a number computed.

        Examples
        --------
        >>> import tensorring as tg
        >>> t = tg.random.tr((4, 5, 6), ranks=2, rng=0)
        >>> t.rotate(1).shape
        (5, 6, 4)
        """
        k %= self.ndim
        return TRTensor(self.cores[k:] + self.cores[:k])
