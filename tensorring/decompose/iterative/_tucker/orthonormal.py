"""The one form in which Tucker tensors come back."""

from __future__ import annotations

from collections.abc import Sequence

from tensorring._array import namespace
from tensorring.contract.unfold import mode_product
from tensorring.decompose._arguments import identity
from tensorring.tensors import TuckerTensor


def orthonormal(t: TuckerTensor, modes: Sequence[int]) -> TuckerTensor:
    """The same tensor with orthonormal factors in these modes, and identities in the others."""
    core, factors = t.core, []
    for mode, u in enumerate(t.factors):
        q, triangle = namespace(u).linalg.qr(u, mode="reduced") if mode in modes else (identity(u.shape[0], like=u), u)
        core = mode_product(core, triangle, mode)
        factors.append(q)
    return TuckerTensor(core, tuple(factors))
