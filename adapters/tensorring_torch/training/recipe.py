"""How a network is trained on: the numbers of a run, its learning rates and its loss."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from typing import Any

from torch import Tensor
from torch.nn import functional

RISE, FLOOR = 0.3, 1 / 25


@dataclass(frozen=True)
class Recipe:
    """How a network is trained on: an optimizer, one cycle of its learning rate, and what the loss is made of.

    Parameters
    ----------
    epochs
        Passes over the training data.
    optimizer
        "sgd": stochastic gradients with Nesterov's momentum; "adam": Adam with decoupled weight decay (AdamW).
    lr
        The highest learning rate, reached after 30 % of the steps from 1/25 of it; then it falls to 0 as a cosine.
        Adam wants about a tenth of what stochastic gradients do.
    momentum
        In [0, 1); Adam's first β. A pair (low, high) is cycled against the rate: high at its ends, low at its top, as
        torch's OneCycleLR does by default with (0.85, 0.95), whatever momentum its optimizer was given.
    weight_decay
        Of the kernels and matrices, each factor of a compressed layer by itself; biases and normalisation are left out.
    batch_size
        Images in a step, where the data come as tensors.
    distill
        The share of the loss, in [0, 1], that is agreement with the teacher, T²·KL(teacher ‖ model) of the logits at
        temperature T; the rest is cross-entropy with the labels. Without a teacher it is 0. With 1 labels are not used.
    temperature
        T.
    match
        The multiple of Σ ‖ŷ − y‖²/‖y‖² that is added, ŷ ours and y the teacher's outputs, of the network and of its
        parts: its direct children, of those that merely hold modules in turn theirs. For few images the logits alone
        say too little. Without a teacher it is 0.
    sensitivity
        The multiple of `sensitivity_penalty` that is added.
    clip
        The longest gradient allowed, its norm over all parameters; None: not clipped. Weights that are products of
        small kernels have steep directions: without it a few steps can undo what a fit has found.
    batch_norm
        "train": batch norms see the statistics of each batch and follow them; "keep": they use those they have.
    ema
        In [0, 1): the decay of a moving average of the weights, which is then the network that is validated and
        returned. After step k it is min(ema, (1 + k)/(10 + k)). 0: no average.

    Raises
    ------
    TypeError, ValueError
        For values out of range.

    Notes
    -----
    Weight decay on factors is another penalty than on their product: over all W = W_N⋯W_1 the least (1/N) Σ_i ‖W_i‖²
    is Σ_r σ_r^{2/N}, a Schatten quasi-norm of W (its nuclear norm at N = 2), so that decay drives small singular values
    to 0: what is compressed becomes compressible further. Adam's decay, decoupled from the scales of its gradients,
    pulls the same way, but is not the gradient of that penalty.

    References
    ----------
    One cycle: L. N. Smith, N. Topin 2019, arXiv 1708.07120. Distillation: G. Hinton, O. Vinyals, J. Dean 2015, arXiv
    1503.02531. Outputs of parts: A. Romero and others 2015, arXiv 1412.6550. Decoupled decay: I. Loshchilov, F. Hutter
    2019, arXiv 1711.05101. Decay on factors: X. Zhang and others 2024, arXiv 2405.03089. Averaged weights: B. T.
    Polyak, A. B. Juditsky 1992, doi 10.1137/0330046.

    Examples
    --------
    >>> import tensorring_torch as tgt
    >>> tgt.Recipe(epochs=5, lr=0.002).momentum
    0.9
    """

    epochs: int = 3
    optimizer: str = "sgd"
    lr: float = 0.01
    momentum: float | tuple[float, float] = 0.9
    weight_decay: float = 1e-4
    batch_size: int = 128
    distill: float = 0.5
    temperature: float = 4.0
    match: float = 0.0
    sensitivity: float = 0.0
    clip: float | None = 1.0
    batch_norm: str = "train"
    ema: float = 0.0

    def __post_init__(self) -> None:
        for name, (holds, rule) in _RULES.items():
            value = getattr(self, name)
            if not holds(value):
                raise ValueError(f"got {name}={value!r}; it is {rule}")
            # Files of runs hold plain numbers, not NumPy's.
            if isinstance(value, tuple):
                object.__setattr__(self, name, tuple(map(float, value)))
            elif isinstance(value, Real) and not isinstance(value, int):
                object.__setattr__(self, name, float(value))

    def rate(self, done: float) -> float:
        """The learning rate once a share of all steps is done."""
        height = _height(done)
        return self.lr * (FLOOR + (1 - FLOOR) * height if done < RISE else height)

    def inertia(self, done: float) -> float:
        """The momentum at that time."""
        low, high = self.momentum if isinstance(self.momentum, tuple) else (self.momentum, self.momentum)
        return high - (high - low) * _height(done)

    def loss(self, logits: Tensor, y: Tensor | None, taught: Tensor | None) -> Tensor:
        """Cross-entropy with the labels and, where a teacher's logits are given, their share of agreement."""
        share = 0.0 if taught is None else self.distill
        if y is None and share < 1:
            raise ValueError("got data without labels; they are needed unless distill=1 and there is a teacher")
        hard = functional.cross_entropy(logits, y) if y is not None and share < 1 else logits.new_zeros(())
        if taught is None:
            return hard
        ours, theirs = (functional.log_softmax(z / self.temperature, dim=1) for z in (logits, taught))
        apart = (theirs.exp() * (theirs - ours)).sum(1).mean()
        return (1 - share) * hard + share * self.temperature**2 * apart


def _height(done: float) -> float:
    """From 0 up to 1 and down to 0 again, each as half a cosine."""
    t = 1 - done / RISE if done < RISE else (done - RISE) / (1 - RISE)
    return 0.5 * (1 + math.cos(math.pi * t))


def _is_momentum(value: Any) -> bool:
    ends = value if isinstance(value, tuple) else (value, value)
    return len(ends) == 2 and all(isinstance(end, Real) for end in ends) and 0 <= ends[0] <= ends[1] < 1


def _number(holds: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, Real) and holds(value)


_COUNT = (lambda value: type(value) is int and value > 0), "an int of at least 1"
_POSITIVE = _number(lambda value: 0 < value < math.inf), "a number above 0"
_MULTIPLE = _number(lambda value: 0 <= value < math.inf), "a number of at least 0"
_RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "epochs": _COUNT,
    "optimizer": (lambda value: value in ("sgd", "adam"), "'sgd' or 'adam'"),
    "lr": _POSITIVE,
    "momentum": (_is_momentum, "a number in [0, 1), or a tuple of two: the lowest, the highest"),
    "weight_decay": _MULTIPLE,
    "batch_size": _COUNT,
    "distill": (_number(lambda value: 0 <= value <= 1), "a share in [0, 1]"),
    "temperature": _POSITIVE,
    "match": _MULTIPLE,
    "sensitivity": _MULTIPLE,
    "clip": (lambda value: value is None or _POSITIVE[0](value), "a number above 0, or None"),
    "batch_norm": (lambda value: value in ("train", "keep"), "'train' or 'keep'"),
    "ema": (_number(lambda value: 0 <= value < 1), "a number in [0, 1)"),
}
