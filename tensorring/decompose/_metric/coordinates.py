"""Single modes in a metric: x ×_n S^{1/2} is fitted plainly, and the fit taken back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tensorring._array import Array, as_dtype, dtype_name, is_complex
from tensorring.algebra.metric import Metric
from tensorring.algebra.mode_product import mode_product as low_rank_mode_product
from tensorring.contract.unfold import mode_product
from tensorring.linalg.square_root import SquareRoot, square_root
from tensorring.tensors import LowRankTensor


@dataclass(frozen=True)
class Coordinates:
    """x ↦ x ×_n S_n^{1/2} for the groups of one mode, in which the metric is the plain norm on these."""

    roots: Mapping[int, SquareRoot]

    @classmethod
    def of(cls, metric: Metric) -> Coordinates:
        """Those of the single modes of a metric."""
        return cls({modes[0]: square_root(matrix) for modes, matrix in metric.singles})

    def into(self, x: Array) -> Array:
        """The tensor in these coordinates, in its own dtype."""
        name = dtype_name(x.dtype)
        x = as_dtype(x, "complex128" if is_complex(x) else "float64")
        for mode, (root, _) in self.roots.items():
            x = mode_product(x, root, mode)
        return as_dtype(x, name)

    def low_rank_into(self, t: LowRankTensor) -> LowRankTensor:
        """The same of a low-rank tensor."""
        for mode, (root, _) in self.roots.items():
            t = low_rank_mode_product(t, root, mode)
        return t

    def back(self, t: LowRankTensor) -> LowRankTensor:
        """A fit in these coordinates as one of x: nothing of it lies where S sees nothing."""
        for mode, (_, inverse) in self.roots.items():
            t = low_rank_mode_product(t, inverse, mode)
        return t
