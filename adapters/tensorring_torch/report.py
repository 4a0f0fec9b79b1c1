"""What was done to a network: frozen, and readable as text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import nn


class Cost(NamedTuple):
    """Parameters, and multiply-adds of one forward pass of the example input."""

    parameters: int
    multiply_adds: int


@dataclass(frozen=True)
class LayerReport:
    """One convolution: the form it has now ("dense" where it was kept, with the reason) and what that costs.

    `error` is ‖weight − new weight‖/‖weight‖, 0 where it was kept. `degeneracy` is tg.degeneracy(…).norm_ratio of the
    tensor that was built: near 1 or below where terms are in order, large where they cancel; None where none can.
    """

    name: str
    form: str
    ranks: tuple[int, ...]
    before: Cost
    after: Cost
    error: float = 0.0
    reason: str = ""
    degeneracy: float | None = None


@dataclass(frozen=True)
class Report:
    """All convolutions of a network, and the totals of the whole network.

    Parameters are those of all layers; multiply-adds those of nn.Conv2d and nn.Linear.
    """

    layers: tuple[LayerReport, ...]
    before: Cost
    after: Cost

    def __str__(self) -> str:
        """A table: one row a layer, then the totals."""
        head = ("layer", "form", "ranks", "error", "degeneracy", "parameters", "", "multiply-adds", "", "kept because")
        rows = [head, *(_row(layer) for layer in self.layers)]
        rows.append(("whole network", "", "", "", "", *_change(self.before, self.after), ""))
        widths = [max(len(row[k]) for row in rows) for k in range(len(head))]
        return "\n".join(_aligned(row, widths) for row in rows)


@dataclass(frozen=True)
class Compressed:
    """What `compress` returns: the new model and what was done."""

    model: nn.Module
    report: Report

    def __repr__(self) -> str:
        """The report's last line tells it all."""
        return f"Compressed({type(self.model).__name__}, {' '.join(str(self.report).splitlines()[-1].split())})"


def _row(layer: LayerReport) -> tuple[str, ...]:
    ranks = "×".join(map(str, layer.ranks))
    error = f"{layer.error:.3f}" if layer.form != "dense" else ""
    norms = f"{layer.degeneracy:.2f}" if layer.degeneracy is not None else ""
    return (layer.name or "(model)", layer.form, ranks, error, norms, *_change(layer.before, layer.after), layer.reason)


def _change(before: Cost, after: Cost) -> list[str]:
    """For each of the two counts 'before -> after' and the ratio."""
    cells = []
    for old, new in zip(before, after, strict=True):
        changed = old != new
        cells += [f"{old:,} -> {new:,}" if changed else f"{old:,}", f"{old / new:.2f} ×" if changed and new else ""]
    return cells


def _aligned(row: Sequence[str], widths: Sequence[int]) -> str:
    """Words to the left, numbers to the right."""
    numbers = range(3, 9)
    cells = (
        f"{cell:>{w}}" if k in numbers else f"{cell:<{w}}" for k, (cell, w) in enumerate(zip(row, widths, strict=True))
    )
    return "  ".join(cells).rstrip()
