"""All factors together, towards what the dense network gives: what fits layer by layer leave on the table."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack

import torch
from torch import Tensor, nn

from tensorring_torch.calibration.data import Batch, fresh
from tensorring_torch.calibration.parts import distances, observed
from tensorring_torch.layout import laid_out
from tensorring_torch.report import Progress

# Steps, inputs in each, and the highest rate of Adam: three times that undoes what the fits have found.
_STEPS, _BATCH, _RATE = 300, 64, 3e-3


def reconstructed(
    dense: nn.Module, ours: nn.Module, batches: Sequence[Batch], *, seed: int = 0, callback: Progress | None = None
) -> float:
    """min Σ ‖ŷ − y‖²/‖y‖² over the parameters of `ours`, in place, on unlabelled data.

    The y are the outputs of the network and of its parts (`parts.observed`): of a few hundred inputs the last outputs
    alone say too little. Both networks are in eval mode, and stay in it: statistics of batch norms are not touched.
    Tables with sparse gradients stay as they are.
    Returns the squared error of the last outputs, after the last steps, as a share of what it was at first. Where it is
    not lower, or the work is interrupted, `ours` is as it was, and the share 1.
    """
    sparse = {id(part.weight) for part in ours.modules() if isinstance(part, nn.Embedding) and part.sparse}
    parameters = [p for p in ours.parameters() if id(p) not in sparse]  # Adam takes no sparse gradients
    before = [(p.detach().clone(), p.requires_grad) for p in parameters]
    left = math.inf
    try:
        left = _trained(dense, ours, [p.requires_grad_() for p in parameters], batches, seed, callback)
    finally:
        for parameter, (value, trained) in zip(parameters, before, strict=True):
            parameter.grad = None
            parameter.requires_grad_(trained)
            if not left < 1:
                parameter.data.copy_(value)
    return min(left, 1.0)


def _trained(
    dense: nn.Module,
    ours: nn.Module,
    parameters: list[nn.Parameter],
    batches: Sequence[Batch],
    seed: int,
    callback: Progress | None,
) -> float:
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(parameters, lr=_RATE, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, _RATE, total_steps=_STEPS, pct_start=0.15, cycle_momentum=False
    )
    losses = []
    with ExitStack() as hooks:
        wanted, given = (hooks.enter_context(observed(model)) for model in (dense, ours))
        pieces = _pieces(_laid_out(dense, batches), generator)
        for _, batch in zip(range(_STEPS), pieces, strict=False):
            with torch.no_grad():
                y = wanted(batch)
            with torch.enable_grad():
                apart = distances(given(batch), y)
                loss = sum(apart.values(), torch.zeros(()).to(apart[""]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(float(apart[""].detach()))
            if callback is not None:
                callback(len(losses), _STEPS, "all factors together")
    tenth = max(1, len(losses) // 10)
    first, last = sum(losses[:tenth]), sum(losses[-tenth:])
    return last / first if first > 0 else math.inf


def _laid_out(dense: nn.Module, batches: Sequence[Batch]) -> Sequence[Batch]:
    """Images with the channels last, where convolutions are fastest; as they are if the network does not run so."""
    turned = [tuple(laid_out(v) if isinstance(v, Tensor) else v for v in batch) for batch in batches]
    try:
        with torch.no_grad():
            dense(*fresh(turned[0]))
    except RuntimeError:  # its forward takes a `view` of what such memory has no view of
        return batches
    return turned


def _pieces(batches: Sequence[Batch], generator: torch.Generator) -> Iterator[Batch]:
    """All inputs again and again, each time in another order."""
    while True:
        for k in torch.randperm(len(batches), generator=generator).tolist():
            lengths = {len(value) for value in batches[k] if isinstance(value, Tensor) and value.ndim}
            if len(lengths) != 1:  # inputs that do not go together row by row
                yield batches[k]
                continue
            for rows in torch.randperm(*lengths, generator=generator).split(_BATCH):
                yield tuple(v[rows] if isinstance(v, Tensor) and v.ndim else v for v in batches[k])
