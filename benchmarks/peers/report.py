"""Races as tables."""

from __future__ import annotations

import math
from collections.abc import Sequence

from benchmarks.peers.race import Entry
from benchmarks.tables import table


def seconds(value: float) -> str:
    """Three significant digits."""
    if math.isnan(value):
        return "–"
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def ratio(peer: Entry, ours: Entry) -> str:
    """How many times longer the peer takes."""
    return f"{peer.median / ours.median:.1f} ×" if peer.seconds and ours.seconds else "–"


def comparison(rows: Sequence[tuple[str, list[Entry]]]) -> str:
    """One line a case: seconds, ratios, errors. The entries of all rows are the same libraries, ours first."""
    names = [entry.name for entry in rows[0][1]]
    head = ["case", *(f"{name}, s" for name in names), *(f"{name} / ours" for name in names[1:]), "runs"]
    head += [f"error, {name}" for name in names]
    lines, notes = [], []
    for case, entries in rows:
        ours, *peers = entries
        line = [case, *(seconds(entry.median) if entry.seconds else "failed" for entry in entries)]
        line += [*(ratio(peer, ours) for peer in peers), ", ".join(str(len(entry.seconds)) for entry in entries)]
        line += [f"{entry.result['error']:.5f}" if entry.result else "–" for entry in entries]
        lines.append(line)
        notes += [f"- {entry.name}, {case}: {entry.failed}" for entry in entries if entry.failed]
    return "\n".join([table(head, lines), *(["", *notes] if notes else [])])
