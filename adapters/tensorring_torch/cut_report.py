"""What truncation does to a network, as it is told: cuts, ranks, scores; a table, plain numbers, a picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import tensorring as tg
from tensorring_torch.table import as_markdown, as_text

_WHOLE = "(model)"  # the name of a model that is a layer itself
# The modes of a canonical weight: outputs, inputs, and the axes of its kernel.
_AXES = {0: "", 1: "w", 2: "hw", 3: "dhw"}


class Truncation(NamedTuple):
    """A cut at the least rank that loses at most `asked` of its norm.

    `loss` = ‖weight − truncated‖/‖weight‖ is what that rank loses, so that √(1 − loss²) of the norm is left;
    `parameters` are those of the two factors, `score` that of the network with this weight alone truncated, or None.
    """

    asked: float
    rank: int
    loss: float
    parameters: int
    score: float | None = None


@dataclass(frozen=True, eq=False)
class CutReport:
    """One cut of the kernel of one layer.

    `shape` is that of the canonical weight, (O, I/groups, *kernel), `modes` one side of the cut in it, `spectrum` a
    `tg.CutSpectrum`, and `truncations` has one entry for each loss that was asked for, ascending.
    """

    layer: str
    shape: tuple[int, ...]
    modes: tuple[int, ...]
    spectrum: tg.CutSpectrum
    truncations: tuple[Truncation, ...]

    @property
    def name(self) -> str:
        """Both sides in letters: "O h | I w" separates height from width."""
        return cut_name(self.modes, len(self.shape))

    def to_dict(self) -> dict[str, Any]:
        """All of it as numbers, strings, lists and dicts."""
        return {
            "layer": self.layer,
            "shape": list(self.shape),
            "modes": list(self.modes),
            "cut": self.name,
            "values": self.spectrum.values.tolist(),
            "truncations": [each._asdict() for each in self.truncations],
        }


def cut_name(modes: tuple[int, ...], order: int) -> str:
    """The modes of a canonical weight on both sides of a cut, in letters."""
    letters = "OI" + _AXES[order - 2]
    sides = (modes, [k for k in range(order) if k not in modes])
    return " | ".join(" ".join(letters[k] for k in side) for side in sides)


@dataclass(frozen=True, eq=False)
class Compressibility:
    """All cuts of all layers, in the network's order, the score of the network as it is, and what must be said.

    `score` is None without `evaluate`. `interrupted` says that the work was ended early, by Ctrl-C.
    """

    cuts: tuple[CutReport, ...]
    score: float | None = None
    notes: tuple[str, ...] = ()
    interrupted: bool = False

    def __str__(self) -> str:
        """A table: one row a cut, with rank and score at each norm loss; then the notes."""
        rows = self._rows()
        return as_text(rows, rows[0][3:], self.notes)

    def to_markdown(self) -> str:
        """The table as GitHub's Markdown, and the notes as a list."""
        rows = self._rows()
        return as_markdown(rows, rows[0][3:], self.notes)

    def to_dict(self) -> dict[str, Any]:
        """All of it, spectra too, as what `json.dumps` takes."""
        return {
            "cuts": [cut.to_dict() for cut in self.cuts],
            "score": self.score,
            "notes": list(self.notes),
            "interrupted": self.interrupted,
        }

    def plot(self, ax: Any = None) -> Any:
        """Score against norm loss, or without scores the share of the rank: a line a cut, early layers dark.

        Needs matplotlib. Draws on `ax`, or on new axes, and returns them.
        """
        from matplotlib import pyplot as plt

        ax = plt.subplots()[1] if ax is None else ax
        layers = list(dict.fromkeys(cut.layer for cut in self.cuts))
        ends = {layers[0], layers[-1]} if layers else set()
        for cut in self.cuts:
            depth = layers.index(cut.layer) / max(1, len(layers) - 1)
            label = (cut.layer or _WHOLE) if cut.layer in ends else None
            ends.discard(cut.layer)  # one line of a layer stands for all in the legend
            ax.plot(*self._line(cut), color=plt.get_cmap("viridis")(depth), alpha=0.6, lw=1, label=label)
        if layers:
            ax.legend(frameon=False)
        ax.set(xlabel="norm loss", ylabel="share of the rank" if self.score is None else "score")
        return ax

    def _line(self, cut: CutReport) -> tuple[list[float], list[float]]:
        if self.score is None:
            count = len(cut.spectrum.values)
            return cut.spectrum.errors[1:].tolist(), [rank / count for rank in range(1, count + 1)]
        scored = [(each.loss, each.score) for each in cut.truncations if each.score is not None]
        losses, scores = zip((0.0, self.score), *scored, strict=True)
        return list(losses), list(scores)

    def _rows(self) -> list[list[str]]:
        """Titles, then cuts; the first three columns are words."""
        asked = [each.asked for each in self.cuts[0].truncations] if self.cuts else []
        score = [] if self.score is None else ["score"]
        titles = [title for loss in asked for title in (f"rank at {loss:g}", *score)]
        return [["layer", "shape", "cut", "rank", *titles], *map(_cells, self.cuts)]


def _cells(cut: CutReport) -> list[str]:
    """A row of the table."""
    found = [
        cell
        for each in cut.truncations
        for cell in (str(each.rank), *([] if each.score is None else [f"{each.score:.4g}"]))
    ]
    return [cut.layer or _WHOLE, "×".join(map(str, cut.shape)), cut.name, str(len(cut.spectrum.values)), *found]
