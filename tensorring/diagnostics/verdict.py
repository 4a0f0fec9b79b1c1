"""What the numbers of a degeneracy report mean, in words, and what to do."""

from __future__ import annotations

# CP of convolution kernels: fits at ratios of 4 to 11 could not be fine-tuned, the same fits corrected to 1.2 could.
_MILD, _SEVERE = 2.0, 4.0
# Above it a term is not determined to half of the digits of single precision.
_ILL_CONDITIONED = 1e6

_CURES = {
    "cp": "tg.stabilize(x, t) lowers it at the same error and tg.cp_stable fits without it; where both stop at their "
    "bound no best approximation of this rank exists: try rank + 1",
    "tr": "tg.stabilize(x, t) lowers it at the same error and tg.tr_stable fits without it",
}
_GAUGE = "the arrays cancel, not the tensor: tg.stabilize(x, t) or a new decomposition of t.to_dense() takes it away"


def verdict_of(
    kind: str, ratio: float, cosine: float | None, pair: tuple[int, int] | None, condition: float | None
) -> str:
    """One sentence, or two: healthy, mild or degenerate; which terms; what to do."""
    if ratio > _MILD:
        parts = _parts(kind, cosine, pair)
        cure = _CURES.get(kind, _GAUGE)
        if ratio > _SEVERE:
            return f"degenerate: {parts} cancel, at a norm ratio of {ratio:.3g}; {cure}"
        return f"mild: {parts} cancel a little, at a norm ratio of {ratio:.3g}; before fine-tuning, {cure}"
    if condition is not None and condition > _ILL_CONDITIONED:
        return (
            f"healthy but not unique: nothing cancels, but the tensor does not determine its terms (condition "
            f"{condition:.3g}); if they are to be interpreted, try a lower rank"
        )
    return "healthy: nothing cancels"


def _parts(kind: str, cosine: float | None, pair: tuple[int, int] | None) -> str:
    if pair is not None and cosine is not None and cosine < -0.9:
        return f"terms {pair[0]} and {pair[1]}"
    return {"cp": "several terms", "tr": "what the ring sums over"}.get(kind, "what the arrays sum over")
