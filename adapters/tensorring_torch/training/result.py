"""What training on returns: the network, every epoch, and why it ended."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor, nn

from tensorring_torch.table import as_text
from tensorring_torch.training.recipe import Recipe

State = Mapping[str, Tensor]

ENDS = {
    "epochs": "All epochs were run.",
    "callback": "The callback ended the run: this is the state with the best validation loss.",
    "interrupted": "Interrupted by the user: this is the state with the best validation loss.",
    "diverged": "The loss was no longer finite: this is the state after the last epoch with a finite one. "
    "Lower lr, set clip, or start from a tensor that does not degenerate (tg.degeneracy).",
}


_TITLES = ("epoch", "loss", "validation loss", "accuracy")


class Epoch(NamedTuple):
    """One epoch: the mean loss of its steps (None before the first), then loss and accuracy on the validation data.

    The accuracy is the share of labels that are right; on data without labels, the share on which the model and the
    teacher choose the same class. Both validation numbers are NaN where nothing was held out.
    """

    number: int
    loss: float | None
    validation_loss: float
    validation_accuracy: float


@dataclass(frozen=True, eq=False)
class FineTuned:
    """What `fine_tune` returns; `str` of it is a table of all epochs.

    `model` is the network after the last epoch, or what `stop` says: "epochs", "callback", "interrupted", "diverged",
    of which `message` tells more. `best` is the state (`model.load_state_dict`) with the least validation loss among
    all epochs and the start, that of `best_epoch`; without validation data that of `model`. With `ema` in the recipe
    they are averaged weights, and so are the networks validated. `history` holds one `Epoch` each, the start first.
    """

    model: nn.Module
    best: State
    history: tuple[Epoch, ...]
    stop: str
    recipe: Recipe

    @property
    def message(self) -> str:
        """What `stop` means and what to do."""
        return ENDS[self.stop]

    @property
    def best_epoch(self) -> Epoch | None:
        """The one with the least validation loss, the last where there is none; None where no state was finite."""
        return best_of(self.history) if self.history else None

    def __str__(self) -> str:
        """A table: the start, then each epoch, and why it ended."""
        rows = [[*_cells(epoch), "best" if epoch is self.best_epoch else ""] for epoch in self.history]
        return as_text([(*_TITLES, ""), *rows], _TITLES, (self.message,))

    def __repr__(self) -> str:
        """The last epoch tells it all."""
        last = f", {self.history[-1]}" if self.history else ""
        return f"FineTuned({type(self.model).__name__}, stop={self.stop!r}{last})"


def best_of(history: Sequence[Epoch]) -> Epoch:
    """The first with the least finite validation loss; the last one where none is finite."""
    finite = [epoch for epoch in history if math.isfinite(epoch.validation_loss)]
    return min(finite, key=lambda epoch: epoch.validation_loss) if finite else history[-1]


def _cells(epoch: Epoch) -> tuple[str, ...]:
    held_out = "", ""
    if not math.isnan(epoch.validation_accuracy):
        held_out = f"{epoch.validation_loss:.4g}", f"{epoch.validation_accuracy:.4f}"
    return str(epoch.number), "" if epoch.loss is None else f"{epoch.loss:.4g}", *held_out
