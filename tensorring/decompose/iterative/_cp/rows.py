"""The least-squares problem of one factor with no digit lost: its matrix and its right-hand side themselves."""

from __future__ import annotations

from collections.abc import Sequence

from tensorring._array import Array, adjoint, namespace
from tensorring.contract.tree import khatri_rao_rows
from tensorring.contract.unfold import mode_product


def reduced_rows(x: Array, factors: Sequence[Array], mode: int) -> tuple[Array, Array, float]:
    """K (m, R), X (m, n) and ‖what no V fits‖², so that the residual of V (R, n) is ‖X − K·V‖² and that.

    K is the Khatri–Rao product of the other factors (R, n_k). Tall ones stand in it by the R of their QR, and x by its
    projection Qᴴx, the rest of which is measured as it is dropped.
    """
    xp, lost, rows = namespace(x), 0.0, []
    for m, v in enumerate(factors):
        if m == mode:
            continue
        if v.shape[1] > v.shape[0]:
            q, triangle = xp.linalg.qr(v.T, mode="reduced")
            projected = mode_product(x, adjoint(q), m)
            lost += float(xp.linalg.vector_norm(x - mode_product(projected, q, m))) ** 2
            x, v = projected, triangle.T
        rows.append(v)
    order = (*(m for m in range(x.ndim) if m != mode), mode)
    return khatri_rao_rows(rows).T, xp.reshape(xp.permute_dims(x, order), (-1, x.shape[mode])), lost
