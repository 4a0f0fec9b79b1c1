"""Markdown tables, printed and written to docs/benchmarks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

DOCS = Path(__file__).resolve().parent.parent / "docs" / "benchmarks"


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table with aligned columns."""
    cells = [[str(cell) for cell in row] for row in (head, *rows)]
    widths = [max(len(row[k]) for row in cells) for k in range(len(head))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in cells
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def percent(share: float, of: int) -> str:
    """A share of so many draws in percent, with the standard error that so few leave."""
    return f"{100 * share:.1f} ± {100 * math.sqrt(share * (1 - share) / of):.1f}"


def write(name: str, text: str) -> None:
    """Prints a page, and under a name keeps it under docs/benchmarks."""
    if name:
        DOCS.mkdir(parents=True, exist_ok=True)
        (DOCS / name).write_text(text.rstrip() + "\n", encoding="utf-8")
    print(text)
