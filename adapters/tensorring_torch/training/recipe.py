"""How a network is trained on: the numbers of a run, its learning rates and its loss."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

RISE, FLOOR = 0.3, 1 / 25


@dataclass(frozen=True)
class Recipe:
    """How a network is trained on: stochastic gradients with Nesterov's momentum, one cycle of the learning rate.

    Parameters
    ----------
    epochs
        Passes over the training data.
    lr
        The highest learning rate, reached after 30 % of the steps from 1/25 of it; then it falls to 0 as a cosine.
    momentum
        Of Nesterov's kind, in [0, 1).
    weight_decay
        Of the kernels and matrices; biases and normalisation are left out.
    batch_size
        Images in a step, where the data come as tensors.
    distill
        The share of the loss, in [0, 1], that is agreement with the teacher, T²·KL(teacher ‖ model) of the logits at
        temperature T; the rest is cross-entropy with the labels. Without a teacher it is 0.
    temperature
        T.
    sensitivity
        The multiple of `sensitivity_penalty` that is added.
    clip
        The longest gradient allowed, its norm over all parameters; None: not clipped.
    batch_norm
        "train": batch norms see the statistics of each batch and follow them; "keep": they use those they have.

    Raises
    ------
    TypeError, ValueError
        For values out of range.

    References
    ----------
    One cycle: L. N. Smith, N. Topin 2019, arXiv 1708.07120. Distillation: G. Hinton, O. Vinyals, J. Dean 2015, arXiv
    1503.02531.

    Examples
    --------
    >>> import tensorring_torch as tgt
    >>> tgt.Recipe(epochs=5, lr=0.002).momentum
    0.9
    """

    epochs: int = 3
    lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 1e-4
    batch_size: int = 128
    distill: float = 0.5
    temperature: float = 4.0
    sensitivity: float = 0.0
    clip: float | None = None
    batch_norm: str = "train"

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise ValueError(f"got {name}={value!r}; it is an int of at least 1")
        rules = {
            "lr": self.lr > 0,
            "momentum": 0 <= self.momentum < 1,
            "weight_decay": self.weight_decay >= 0,
            "distill": 0 <= self.distill <= 1,
            "temperature": self.temperature > 0,
            "sensitivity": self.sensitivity >= 0,
            "clip": self.clip is None or self.clip > 0,
            "batch_norm": self.batch_norm in ("train", "keep"),
        }
        for name, kept in rules.items():
            if not kept:
                raise ValueError(f"got {name}={getattr(self, name)!r}, which is out of its range: see tgt.Recipe")

    def rate(self, done: float) -> float:
        """The learning rate once a share of all steps is done."""
        if done < RISE:
            return self.lr * (FLOOR + (1 - FLOOR) * _falling(1 - done / RISE))
        return self.lr * _falling((done - RISE) / (1 - RISE))

    def loss(self, logits: Tensor, y: Tensor, taught: Tensor | None) -> Tensor:
        """Cross-entropy with the labels and, where a teacher's logits are given, their share of agreement."""
        hard = functional.cross_entropy(logits, y)
        if taught is None:
            return hard
        ours, theirs = (functional.log_softmax(z / self.temperature, dim=1) for z in (logits, taught))
        apart = (theirs.exp() * (theirs - ours)).sum(1).mean()
        return (1 - self.distill) * hard + self.distill * self.temperature**2 * apart


def _falling(t: float) -> float:
    """From 1 at 0 to 0 at 1, as half a cosine."""
    return 0.5 * (1 + math.cos(math.pi * t))
