"""One step of a schedule: a network to train on, and a place for what came of it."""

from __future__ import annotations

from torch import nn

from tensorring_torch.layer import plan_of
from tensorring_torch.report import Compressed


class Step:
    """One step of a `Schedule`: train `.model` on, assign what came of it, and the next step goes on from there.

    `names` are the layers that were compressed in this step, the `number`-th of `total`; `report` tells of them. What
    is assigned is the same network, trained on. Where nothing is assigned, the network goes on as it was compressed.

    Examples
    --------
    >>> import torch, tensorring_torch as tgt
    >>> model = torch.nn.Sequential(torch.nn.Linear(16, 24), torch.nn.Linear(24, 12))
    >>> next(iter(tgt.Schedule(model, torch.rand(1, 16), ranks={"0": 4}, layers_at_once=1)))
    Step(1 of 1: 0)
    """

    def __init__(self, compressed: Compressed, names: tuple[str, ...], number: int, total: int) -> None:
        self._model, self.report, self.names, self.number, self.total = (
            compressed.model, compressed.report, names, number, total,
        )  # fmt: skip

    @property
    def model(self) -> nn.Module:
        """The network after this step."""
        return self._model

    @model.setter
    def model(self, model: nn.Module) -> None:
        if not isinstance(model, nn.Module):
            way = "; assign its .model" if hasattr(model, "model") else ""
            raise TypeError(f"got a {type(model).__name__} for the model of a step; it is an nn.Module{way}")
        theirs = dict(model.named_modules())
        for name, module in self._model.named_modules():
            plan = plan_of(module)
            if plan is not None and plan_of(theirs.get(name)) != plan:
                raise ValueError(f"got a model without the factored layer {name!r}; assign the step's own, trained on")
        self._model = model

    def __repr__(self) -> str:
        """Which layers, and when."""
        return f"Step({self.number} of {self.total}: {', '.join(self.names) or 'nothing'})"
