"""Rows of cells as a table: of aligned text, and of Markdown."""

from __future__ import annotations

from collections.abc import Collection, Sequence

Rows = Sequence[Sequence[str]]


def as_text(rows: Rows, numbers: Collection[str], notes: Sequence[str]) -> str:
    """One line a row, the first of them titles, then the notes; columns whose title is among `numbers` end alike."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    right = [title in numbers for title in rows[0]]
    lines = [_aligned(row, widths, right) for row in rows]
    return "\n".join((*lines, *(f"note: {note}" for note in notes)))


def as_markdown(rows: Rows, numbers: Collection[str], notes: Sequence[str]) -> str:
    """The same as GitHub's Markdown, and the notes as a list."""
    head, *body = ([cell.replace("|", "\\|") for cell in row] for row in rows)
    ruler = ["--:" if title in numbers else "---" for title in head]
    lines = [f"| {' | '.join(row)} |" for row in (head, ruler, *body)]
    return "\n".join((*lines, *("" for _ in notes[:1]), *(f"- {note}" for note in notes)))


def _aligned(row: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> str:
    """Words to the left, numbers to the right."""
    cells = zip(row, widths, right, strict=True)
    return "  ".join(f"{cell:>{width}}" if number else f"{cell:<{width}}" for cell, width, number in cells).rstrip()
