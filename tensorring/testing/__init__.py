"""Hypothesis strategies for those who test with tensors, and the contract that every decomposition keeps.

The strategies need hypothesis (`pip install 'tensorring[testing]'`) and are imported when one is first asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tensorring.testing.checks import check_backend, check_decomposition, check_refusals, check_result

if TYPE_CHECKING:
    from tensorring.testing.strategies import (
        cp_tensors,
        cut_tensors,
        low_rank_tensors,
        tensors,
        tolerances,
        tr_tensors,
        tt_tensors,
        tucker_tensors,
    )

_STRATEGIES = [
    "cp_tensors", "cut_tensors", "low_rank_tensors", "tensors", "tolerances", "tr_tensors", "tt_tensors",
    "tucker_tensors",
]  # fmt: skip

__all__ = [
    "check_backend", "check_decomposition", "check_refusals", "check_result",
    "cp_tensors", "cut_tensors", "low_rank_tensors", "tensors", "tolerances", "tr_tensors", "tt_tensors",
    "tucker_tensors",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """The strategy of that name."""
    if name not in _STRATEGIES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from tensorring.testing import strategies

    return getattr(strategies, name)
