"""The loop of training on: steps, validation, and the states that are kept."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from tensorring_torch.calibration.parts import Values, distances, observed
from tensorring_torch.training.average import Average
from tensorring_torch.training.batches import inputs_and_labels
from tensorring_torch.training.optimizer import optimizer_of, set_pace
from tensorring_torch.training.recipe import Recipe
from tensorring_torch.training.result import Epoch, State, best_of
from tensorring_torch.training.resume import RunFile
from tensorring_torch.training.sensitivity import sensitivity_penalty

Augment = Callable[[Tensor], Tensor]
Penalty = Callable[[nn.Module], Tensor]
Callback = Callable[[int, float], Any]


class Run:
    """The states of one run: `last` after the last finite epoch, `best` that of the least validation loss.

    `student` is trained; `shown` is the network that counts: itself, or its average.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module | None,
        recipe: Recipe,
        augment: Augment | None,
        penalty: Penalty | None,
    ) -> None:
        self.student, self.teacher, self.recipe, self.augment, self.penalty = student, teacher, recipe, augment, penalty
        self.device = next((p.device for p in student.parameters()), torch.device("cpu"))
        self.average = Average(student, recipe.ema) if recipe.ema > 0 else None
        self.shown = student if self.average is None else self.average.model
        self.last = self.best = _state(student)
        self.history: list[Epoch] = []
        self.seen: list[Callable[[tuple[Any, ...]], Values]] | None = None
        self.optimizer = optimizer_of(recipe, student.parameters())

    def epochs(self, train: Any, held_out: Any, callback: Callback | None, file: RunFile | None) -> str:
        """Why the run ended."""
        with ExitStack() as hooks:
            if self.teacher is not None and self.recipe.match > 0:
                self.seen = [hooks.enter_context(observed(net)) for net in (self.student, self.teacher)]
            return self._epochs(train, held_out, callback, file)

    def _epochs(self, train: Any, held_out: Any, callback: Callback | None, file: RunFile | None) -> str:
        kept = None if file is None else file.read()
        if kept is not None:
            self.restore(kept)
        elif not self.note(None, held_out, file):
            return "diverged"
        steps = len(train)
        for epoch in range(len(self.history) - 1, self.recipe.epochs):
            self.training_mode()
            total = 0.0
            for k, batch in enumerate(train, start=epoch * steps):
                loss = self.step(batch, k, (k + 0.5) / (steps * self.recipe.epochs))
                if not math.isfinite(loss):
                    return "diverged"
                total += loss
                if callback is not None and callback(k + 1, loss):
                    return "callback"
            if not self.note(total / steps, held_out, file):
                return "diverged"
        return "epochs"

    def step(self, batch: Any, number: int, done: float) -> float:
        """One step, at a share `done` of all; the loss before it, and no step where that is not finite."""
        set_pace(self.optimizer, self.recipe, done)
        x, y = inputs_and_labels(batch, self.device)
        x = x if self.augment is None else self.augment(x)
        loss = self.loss(x, y) + self.penalties()
        value = float(loss.detach())
        if math.isfinite(value):
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            if self.recipe.clip is not None:
                nn.utils.clip_grad_norm_(self.student.parameters(), self.recipe.clip)
            self.optimizer.step()
            if self.average is not None:
                self.average.follow(number)
        return value

    def loss(self, x: Tensor, y: Tensor | None) -> Tensor:
        """That of a batch, of its labels, the teacher's logits and the outputs of the teacher's parts."""
        if self.seen is None:
            taught = self.taught(x)  # first: the student may write into x
            return self.recipe.loss(self.student(x), y, taught)
        given, teacher = self.seen[0]((x,)), self.seen[1]
        with torch.no_grad():
            wanted = teacher((x,))
        loss = self.recipe.loss(given[""], y, wanted[""] if self.recipe.distill > 0 else None)
        for distance in distances(given, wanted).values():
            loss = loss + self.recipe.match * distance
        return loss

    def penalties(self) -> Tensor | float:
        """What is added to the loss of the batch."""
        total: Tensor | float = 0.0
        if self.recipe.sensitivity > 0:
            total = self.recipe.sensitivity * sensitivity_penalty(self.student)
        if self.penalty is not None:
            added = self.penalty(self.student)
            if not isinstance(added, Tensor) or added.ndim:
                shape = f" of shape {tuple(added.shape)}" if isinstance(added, Tensor) else ""
                raise TypeError(
                    f"got a {type(added).__name__}{shape} from penalty; it returns a tensor without axes: sum it"
                )
            total = total + added
        return total

    @torch.no_grad()
    def taught(self, x: Tensor) -> Tensor | None:
        """What the teacher says, if there is one and it counts."""
        # It gets a copy: networks may write into what they are given.
        return self.teacher(x.clone()) if self.teacher is not None and self.recipe.distill > 0 else None

    def training_mode(self) -> None:
        """All layers learn, but for batch norms that are to keep their statistics."""
        for module in self.student.train().modules():
            if self.recipe.batch_norm == "keep" and isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()

    def note(self, loss: float | None, held_out: Any, file: RunFile | None) -> bool:
        """Adds to the history and keeps the state; False, and keeps nothing, where that state is not finite."""
        entry = Epoch(len(self.history), loss, *self.validate(held_out))
        state = _state(self.shown)
        if not all(value.isfinite().all() for value in state.values()):
            return False
        self.history.append(entry)
        self.last = state
        if best_of(self.history) is entry:
            self.best = state
        if file is not None:
            file.write(self.state())
        return True

    @torch.no_grad()
    def validate(self, held_out: Any) -> tuple[float, float]:
        """Mean loss, and the share of labels that are right or, without labels, of those the teacher would give."""
        self.shown.eval()
        loss, images, right, labels = 0.0, 0, 0, 0
        for batch in held_out:
            x, y = inputs_and_labels(batch, self.device)
            taught = self.taught(x)
            logits = self.shown(x)
            loss += len(x) * float(self.recipe.loss(logits, y, taught))
            images += len(x)
            truth = taught.argmax(1) if y is None and taught is not None else y
            assert truth is not None  # without both there is no loss
            hits = logits.argmax(1) == truth
            right += int(hits.sum())
            labels += hits.numel()
        return loss / (images or math.nan), right / (labels or math.nan)

    def state(self) -> dict[str, Any]:
        """All of it as tensors, numbers and texts, for `restore`."""
        cuda = torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None
        return {
            "student": self.last if self.shown is self.student else _state(self.student),
            "last": self.last,
            "best": self.best,
            "history": [tuple(epoch) for epoch in self.history],
            "optimizer": self.optimizer.state_dict(),
            "random": torch.get_rng_state(),
            "random_cuda": cuda,
        }

    def restore(self, kept: dict[str, Any]) -> None:
        """Goes back to where `state` was taken."""
        self.student.load_state_dict(kept["student"])
        self.shown.load_state_dict(kept["last"])
        self.last = _state(self.shown)
        self.best = {name: value.to(self.last[name].device) for name, value in kept["best"].items()}
        self.history = [Epoch(*numbers) for numbers in kept["history"]]
        self.optimizer.load_state_dict(kept["optimizer"])
        torch.set_rng_state(kept["random"])
        if self.device.type == "cuda" and kept["random_cuda"] is not None:
            torch.cuda.set_rng_state(kept["random_cuda"], self.device)


def _state(module: nn.Module) -> State:
    return {name: value.detach().clone() for name, value in module.state_dict().items()}
