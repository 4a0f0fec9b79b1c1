"""The score of a network by a measure of the user's own."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import nn

Evaluate = Callable[[nn.Module], Any]


def score_of(evaluate: Evaluate, network: nn.Module, named: str) -> float:
    """What `evaluate` says of a network; what goes wrong there names it.

    Raises
    ------
    TypeError, ValueError
        If it returns no number, or NaN. What it raises itself gets a note.
    """
    try:
        value = evaluate(network)
    except Exception as error:
        error.add_note(f"in evaluate, called with {named}")
        raise
    try:
        score = float(value)
    except (TypeError, ValueError, RuntimeError):
        kind = type(value).__name__
        raise TypeError(f"got a {kind} from evaluate for {named}; it returns a number, higher is better") from None
    if math.isnan(score):
        raise ValueError(f"got nan from evaluate for {named}; it returns a number, higher is better")
    return score
