"""Training on after compression: a small loop, its recipe, and what it returns."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tensorring_torch.checks import check_model
from tensorring_torch.replace import duplicate
from tensorring_torch.training.batches import Batch, batches
from tensorring_torch.training.recipe import Recipe
from tensorring_torch.training.sensitivity import sensitivity_penalty

State = Mapping[str, Tensor]

ENDS = {
    "epochs": "All epochs were run.",
    "callback": "The callback ended the run: this is the state with the best validation loss.",
    "interrupted": "Interrupted by the user: this is the state with the best validation loss.",
    "diverged": "The loss was no longer finite: this is the state after the last epoch with a finite one. "
    "Lower lr, set clip, or start from a tensor that does not degenerate (tg.degeneracy).",
}


class Epoch(NamedTuple):
    """One epoch: the mean loss of its steps (None before the first), then loss and accuracy on the validation data."""

    number: int
    loss: float | None
    validation_loss: float
    validation_accuracy: float


@dataclass(frozen=True, eq=False)
class FineTuned:
    """What `fine_tune` returns.

    `model` is the network after the last epoch, or what `stop` says: "epochs", "callback", "interrupted", "diverged",
    of which `message` tells more. `best` is the state (`model.load_state_dict`) with the least validation loss among
    all epochs and the start; without validation data that of `model`. `history` holds one `Epoch` each, the start
    first.
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

    def __repr__(self) -> str:
        """The last epoch tells it all."""
        last = f", {self.history[-1]}" if self.history else ""
        return f"FineTuned({type(self.model).__name__}, stop={self.stop!r}{last})"


def fine_tune(
    model: nn.Module,
    teacher: nn.Module | None,
    loader: Iterable[Batch] | Batch,
    *,
    validation: float | Iterable[Batch] | Batch = 0.1,
    augment: Callable[[Tensor], Tensor] | None = None,
    seed: int = 0,
    callback: Callable[[int, float], Any] | None = None,
    **recipe: Any,
) -> FineTuned:
    """A copy of `model`, trained on for a few epochs by a `Recipe`: labels, agreement with the teacher, or both.

    Parameters
    ----------
    model
        A classifier (N, …) -> (N, classes, …), on any device; it is not changed.
    teacher
        The dense network that it should agree with, on the same device, or None.
    loader
        Tensors (x, y), or batches (x, y) from something with a length, such as a DataLoader. y as cross-entropy takes.
    validation
        A share of the tensors to hold out, or other data of either kind; 0: none. It only reports, and picks `best`.
    augment
        x -> x on each training batch, on the model's device.
    seed
        Of the split, the order, the augmentation and dropout: on one machine the same seed gives the same network.
    callback
        Called as callback(step, loss) after each step; a true value ends the run. `tg.progress()` draws a bar.
    **recipe
        The fields of `tgt.Recipe`: epochs, lr, momentum, weight_decay, batch_size, distill, temperature, sensitivity,
        clip, batch_norm.

    Returns
    -------
    FineTuned
        With `.model`, in the training modes of the one given, `.best`, `.history`, `.stop` and `.message`. An interrupt
        (Ctrl-C) returns the best so far.

    Raises
    ------
    TypeError, ValueError
        If an argument is not of its kind or out of range.

    Notes
    -----
    The global random state of torch is as it was before. Costs a forward and a backward pass an image, one more forward
    pass with a teacher, and memory for the states kept: two copies.

    Examples
    --------
    >>> import torch, tensorring_torch as tgt
    >>> dense = torch.nn.Sequential(torch.nn.Conv2d(1, 8, 3), torch.nn.Flatten(), torch.nn.Linear(72, 2))
    >>> small = tgt.compress(dense, torch.zeros(1, 1, 5, 5), tol=0.5).model
    >>> data = torch.rand(40, 1, 5, 5), torch.arange(40) % 2
    >>> tuned = tgt.fine_tune(small, dense, data, epochs=2, lr=0.01)
    >>> tuned.stop, len(tuned.history)
    ('epochs', 3)
    """
    chosen = Recipe(**recipe)
    check_model(model)
    train, held_out = batches(loader, validation, chosen.batch_size, seed)
    student = duplicate(model)
    modes = [module.training for module in student.modules()]
    devices = {p.device for p in student.parameters()} or {torch.device("cpu")}
    with torch.inference_mode(False), torch.random.fork_rng([d for d in devices if d.type == "cuda"]):
        torch.manual_seed(seed)
        run = _Run(
            student, None if teacher is None else duplicate(teacher).eval(), chosen, augment, next(iter(devices))
        )
        try:
            stop = run.epochs(train, held_out, callback)
        except KeyboardInterrupt:
            stop = "interrupted"
        finally:
            getattr(callback, "close", lambda: None)()
    student.load_state_dict(run.last if stop in ("epochs", "diverged") else run.best)
    for module, mode in zip(student.modules(), modes, strict=True):
        module.training = mode
    return FineTuned(student, run.best, tuple(run.history), stop, chosen)


class _Run:
    """The states of one run: `last` after the last finite epoch, `best` that of the least validation loss."""

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module | None,
        recipe: Recipe,
        augment: Callable[[Tensor], Tensor] | None,
        device: torch.device,
    ) -> None:
        self.student, self.teacher, self.recipe, self.augment, self.device = student, teacher, recipe, augment, device
        self.last = self.best = _state(student)
        self.history: list[Epoch] = []
        parameters = [p for p in student.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": recipe.weight_decay},
            {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
        ]
        nesterov = recipe.momentum > 0
        self.optimizer = torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=nesterov)

    def epochs(self, train: Any, held_out: Any, callback: Callable[[int, float], Any] | None) -> str:
        """Why the run ended."""
        if not self.note(None, held_out):
            return "diverged"
        steps = len(train)
        for epoch in range(self.recipe.epochs):
            self.training_mode()
            total = 0.0
            for k, batch in enumerate(train):
                loss = self.step(batch, (epoch + (k + 0.5) / steps) / self.recipe.epochs)
                if not math.isfinite(loss):
                    return "diverged"
                total += loss
                if callback is not None and callback(epoch * steps + k + 1, loss):
                    return "callback"
            if not self.note(total / steps, held_out):
                return "diverged"
        return "epochs"

    def step(self, batch: Batch, done: float) -> float:
        """One step at a share `done` of all; the loss before it, and no step where that is not finite."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.rate(done)
        x, y = (part.to(self.device) for part in batch)
        x = x if self.augment is None else self.augment(x)
        loss = self.recipe.loss(self.student(x), y, self.taught(x))
        if self.recipe.sensitivity > 0:
            loss = loss + self.recipe.sensitivity * sensitivity_penalty(self.student)
        value = float(loss.detach())
        if math.isfinite(value):
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            if self.recipe.clip is not None:
                nn.utils.clip_grad_norm_(self.student.parameters(), self.recipe.clip)
            self.optimizer.step()
        return value

    @torch.no_grad()
    def taught(self, x: Tensor) -> Tensor | None:
        """What the teacher says, if there is one and it counts."""
        return self.teacher(x) if self.teacher is not None and self.recipe.distill > 0 else None

    def training_mode(self) -> None:
        """All layers learn, but for batch norms that are to keep their statistics."""
        for module in self.student.train().modules():
            if self.recipe.batch_norm == "keep" and isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()

    def note(self, loss: float | None, held_out: Any) -> bool:
        """Adds to the history and keeps the state; False, and keeps nothing, where that state is not finite."""
        entry = Epoch(len(self.history), loss, *self.validate(held_out))
        state = _state(self.student)
        if not all(value.isfinite().all() for value in state.values()):
            return False
        # Without validation data both numbers are NaN, and the last state counts as best.
        losses = [old.validation_loss for old in self.history if math.isfinite(old.validation_loss)]
        if math.isnan(entry.validation_accuracy) or entry.validation_loss < min(losses, default=math.inf):
            self.best = state
        self.history.append(entry)
        self.last = state
        return True

    @torch.no_grad()
    def validate(self, held_out: Any) -> tuple[float, float]:
        """Mean loss and accuracy."""
        self.student.eval()
        loss, right, count = 0.0, 0, 0
        for batch in held_out:
            x, y = (part.to(self.device) for part in batch)
            logits = self.student(x)
            loss += len(x) * float(self.recipe.loss(logits, y, self.taught(x)))
            right += int((logits.argmax(1) == y).sum())
            count += y.numel()
        images = count or math.nan
        return loss / images, right / images


def _state(module: nn.Module) -> State:
    return {name: value.detach().clone() for name, value in module.state_dict().items()}
