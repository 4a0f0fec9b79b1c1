"""What was done to a network: frozen, readable as text, and plain numbers for programs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from torch import nn

from tensorring_torch.table import as_markdown, as_text

# (done, total, what was done)
Progress = Callable[[int, int, str], None]


class Cost(NamedTuple):
    """Parameters; multiply-adds and seconds of one forward pass of the example input.

    Multiply-adds are those of convolutions and linear layers, with a budget of attention's projections too; none are
    counted for recurrent layers, nor for what attention does between its projections.
    Seconds are None where nothing was measured.
    """

    parameters: int
    multiply_adds: int
    seconds: float | None = None


@dataclass(frozen=True)
class LayerReport:
    """One layer: the form it has now ("dense" where it was kept), what that costs, and why.

    `error` is ‖weight − new weight‖/‖weight‖, 0 where it was kept; `metric_error` the same in the norm that the layer
    was fitted in, None without data. `degeneracy` is tg.degeneracy(…).norm_ratio of the tensor that was built: near 1
    or below where terms are in order, large where they cancel; None where none can.
    """

    name: str
    form: str
    ranks: tuple[int, ...]
    before: Cost
    after: Cost
    error: float = 0.0
    metric_error: float | None = None
    degeneracy: float | None = None
    reason: str = ""

    def to_dict(self) -> dict[str, Any]:
        """All of it as numbers, strings and lists."""
        costs = {"before": self.before._asdict(), "after": self.after._asdict()}
        return asdict(self) | {"ranks": list(self.ranks)} | costs


@dataclass(frozen=True)
class Report:
    """All layers that might be decomposed, the totals of the whole network, and what must be said of it.

    Parameters are those of all layers, also of those that are not listed. `interrupted` says that the work was ended
    early, by Ctrl-C; `notes` how far it had come.

    Examples
    --------
    >>> import torch, tensorring_torch as tgt
    >>> report = tgt.compress(torch.nn.Linear(64, 64), torch.zeros(1, 64), tol=0.9).report
    >>> report.to_dict()["before"]
    {'parameters': 4160, 'multiply_adds': 4096, 'seconds': None}
    """

    layers: tuple[LayerReport, ...]
    before: Cost
    after: Cost
    notes: tuple[str, ...] = ()
    interrupted: bool = False

    def __str__(self) -> str:
        """A table: one row a layer, then the totals, then the notes."""
        return as_text(self._rows(), _NUMBERS, self.notes)

    def to_dict(self) -> dict[str, Any]:
        """All of it as numbers, strings, lists and dicts: what `json.dumps` takes."""
        return {
            "layers": [layer.to_dict() for layer in self.layers],
            "before": self.before._asdict(),
            "after": self.after._asdict(),
            "notes": list(self.notes),
            "interrupted": self.interrupted,
        }

    def to_markdown(self) -> str:
        """The table as GitHub's Markdown, and the notes as a list."""
        return as_markdown(self._rows(), _NUMBERS, self.notes)

    def _rows(self) -> list[list[str]]:
        """Titles, layers, totals; without the columns in which nothing stands."""
        rows = [_cells(layer) for layer in self.layers]
        rows.append(["whole network", "", "", "", "", "", *_changes(self.before, self.after), ""])
        filled = [any(column) for column in zip(*rows, strict=True)]
        return [[cell for cell, kept in zip(row, filled, strict=True) if kept] for row in (_TITLES, *rows)]


@dataclass(frozen=True)
class Compressed:
    """What `compress` returns: the new model and what was done."""

    model: nn.Module
    report: Report

    def __repr__(self) -> str:
        """The totals tell it all."""
        named = zip(_COSTS, _changes(self.report.before, self.report.after)[::2], strict=True)
        totals = (f"{name} {change}" for name, change in named if change)
        return f"Compressed({type(self.model).__name__}: {', '.join(totals)})"


_COSTS: dict[str, Callable[[float], str]] = {
    "parameters": "{:,}".format,
    "multiply-adds": "{:,}".format,
    "milliseconds": lambda seconds: f"{1e3 * seconds:,.3f}",
}
_TITLES = ["layer", "form", "ranks", "error", "in metric", "degeneracy"]
_TITLES += [title for name in _COSTS for title in (name, "×")] + ["because"]
_NUMBERS = {"error", "in metric", "degeneracy", "×", *_COSTS}


def _cells(layer: LayerReport) -> list[str]:
    """A row of the table."""
    return [
        layer.name or "(model)",
        layer.form,
        "×".join(map(str, layer.ranks)),
        f"{layer.error:.3f}" if layer.form != "dense" else "",
        f"{layer.metric_error:.3f}" if layer.metric_error is not None else "",
        f"{layer.degeneracy:.2f}" if layer.degeneracy is not None else "",
        *_changes(layer.before, layer.after),
        layer.reason,
    ]


def _changes(before: Cost, after: Cost) -> list[str]:
    """For each cost 'before -> after' and the ratio."""
    changes = zip(before, after, _COSTS.values(), strict=True)
    return [cell for old, new, show in changes for cell in _change(old, new, show)]


def _change(old: float | None, new: float | None, show: Callable[[float], str]) -> tuple[str, str]:
    if old is None:
        return "", ""
    if new is None or new == old:
        return show(old), ""
    return f"{show(old)} -> {show(new)}", f"{old / new:.2f}" if old and new else ""
