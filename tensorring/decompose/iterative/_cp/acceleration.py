"""Anderson acceleration of a fixed-point iteration such as alternating least squares."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tensorring._array import Array, dtype_name, is_complex, namespace, to_device, to_host

_WINDOW = 8
# Old directions are nearly parallel in a slow valley: the ridge bounds how far they may take a step.
_RIDGE = 1e-10


class Anderson:
    """z = g − ΔG·γ with γ minimising ‖f − ΔF·γ‖: where a linear iteration would end at once.

    g is the iterate after a sweep, f its change in that sweep, ΔG and ΔF their differences over the last eight sweeps.
    In a swamp, where sweeps creep along a valley, these see the few slow directions. γ is real.

    D. G. Anderson, "Iterative procedures for nonlinear integral equations", J. ACM 12 (1965), doi
    10.1145/321296.321305; for CP-ALS: D. Mitchell, N. Ye, H. De Sterck 2020, doi 10.1002/nla.2297.
    """

    def __init__(self) -> None:
        self._buffers: tuple[Array, Array] | None = None
        self.clear()

    def clear(self) -> None:
        """Forgets the sweeps so far."""
        self._last: tuple[Array, Array] | None = None
        self._count = 0
        self._gram = np.zeros((_WINDOW, _WINDOW))

    def propose(self, before: Sequence[Array], after: Sequence[Array]) -> list[Array] | None:
        """Where to sweep from next, given where the last sweep began and ended; None until there is a history."""
        g = _flat(after)
        f = g - _flat(before)
        last, self._last = self._last, (g, f)
        if last is None:
            return None
        steps, changes = self._remember(g - last[0], f - last[1])
        kept = steps.shape[0]
        gram = self._gram[:kept, :kept]
        scale = 1 / np.sqrt(np.maximum(gram.diagonal(), np.finfo(float).tiny))
        right = scale * _dots(changes, f)
        gamma = scale * np.linalg.solve(gram * scale[:, None] * scale + _RIDGE * np.eye(kept), right)
        return _parts(g - to_device(gamma.astype(dtype_name(g.dtype)), like=g) @ steps, after)

    def _remember(self, step: Array, change: Array) -> tuple[Array, Array]:
        """Writes the newest differences over the oldest; the differences there are."""
        xp = namespace(step)
        if self._buffers is None:
            shape = (_WINDOW, step.shape[0])
            self._buffers = tuple(xp.empty(shape, dtype=step.dtype, device=step.device) for _ in range(2))
        slot, self._count = self._count % _WINDOW, self._count + 1
        kept = min(self._count, _WINDOW)
        steps, changes = (buffer[:kept, :] for buffer in self._buffers)
        steps[slot, :] = step
        changes[slot, :] = change
        self._gram[slot, :kept] = self._gram[:kept, slot] = _dots(changes, change)
        return steps, changes


def _flat(arrays: Sequence[Array]) -> Array:
    xp = namespace(*arrays)
    return xp.concat([xp.reshape(array, (-1,)) for array in arrays])


def _parts(flat: Array, like: Sequence[Array]) -> list[Array]:
    xp, parts, start = namespace(flat), [], 0
    for array in like:
        stop = start + array.shape[0] * array.shape[1]
        parts.append(xp.reshape(flat[start:stop], array.shape))
        start = stop
    return parts


def _dots(rows: Array, f: Array) -> np.ndarray:
    """Re⟨row, f⟩ for all rows, on the host in double precision."""
    xp = namespace(f)
    if is_complex(f):
        return np.asarray(to_host(xp.real(rows) @ xp.real(f) + xp.imag(rows) @ xp.imag(f)), dtype=np.float64)
    return np.asarray(to_host(rows @ f), dtype=np.float64)
