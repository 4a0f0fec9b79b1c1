"""Unlabelled data as batches of positional arguments, on the device of the network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

_BATCH = 128

Batch = tuple[Any, ...]


def batches_of(calibration: Any, example_input: Any, model: nn.Module) -> list[Batch]:
    """A tensor of inputs, split, or the batches of an iterable; of those of a loader the labels are left out.

    Raises
    ------
    TypeError
        If it is neither, or the network takes keyword arguments.
    ValueError
        If it is empty, holds NaN or inf, or a batch does not have the shape of the example input but for its length.
    """
    if isinstance(example_input, Mapping):
        raise TypeError("got keyword arguments as the example input; for calibration give positional ones, a tuple")
    example = tuple(example_input) if isinstance(example_input, (tuple, list)) else (example_input,)
    if isinstance(calibration, Tensor):
        calibration = calibration.split(_BATCH) if calibration.ndim else (calibration,)
    if not isinstance(calibration, Iterable):
        raise TypeError(f"got a {type(calibration).__name__} for calibration; it is a tensor or batches of inputs")
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    batches = [_checked(k, batch, example, device) for k, batch in enumerate(calibration)]
    if not batches:
        raise ValueError("got no batch for calibration; give some hundred inputs, a tensor or batches")
    return batches


def _checked(number: int, batch: Any, example: Batch, device: torch.device) -> Batch:
    given = tuple(batch) if isinstance(batch, (tuple, list)) else (batch,)
    if len(given) < len(example):
        raise ValueError(f"calibration batch {number} has {len(given)} inputs, the example {len(example)}")
    for value, like in zip(given, example, strict=False):
        if not isinstance(like, Tensor):
            continue
        if not isinstance(value, Tensor):
            raise TypeError(f"calibration batch {number} holds a {type(value).__name__} where a tensor is needed")
        if value.ndim != like.ndim or value.shape[1:] != like.shape[1:] or value.numel() == 0:
            got, needed = tuple(value.shape), ("n", *like.shape[1:])
            raise ValueError(f"calibration batch {number} has shape {got}; with the example input it is {needed}")
        if value.dtype != like.dtype:
            raise ValueError(f"calibration batch {number} is of {value.dtype}, the example input of {like.dtype}")
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise ValueError(f"calibration batch {number} holds NaN or inf; leave such inputs out")
    moved = (value.to(device) if isinstance(value, Tensor) else value for value in given)
    return tuple(moved)[: len(example)]


def fresh(batch: Batch) -> Batch:
    """A copy of the tensors: networks may write into what they are given."""
    return tuple(value.clone() if isinstance(value, Tensor) else value for value in batch)


def first_tensor(out: Any) -> Tensor:
    """The output of a network, or the first one of several.

    Raises
    ------
    TypeError
        If there is none.
    """
    if isinstance(out, Tensor):
        return out
    parts = out.values() if isinstance(out, Mapping) else out if isinstance(out, (tuple, list)) else ()
    for part in parts:
        if part is not None:
            return first_tensor(part)
    raise TypeError(f"got a network that returns a {type(out).__name__}; with calibration its output is a tensor first")


def first_of(batches: list[Batch], count: int) -> list[Batch]:
    """Batches with so many inputs in all, or a few more."""
    kept, total = [], 0
    for batch in batches:
        if total >= count:
            break
        kept.append(batch)
        total += next((len(value) for value in batch if isinstance(value, Tensor)), 1)
    return kept


@torch.no_grad()
def output_change(dense: nn.Module, ours: nn.Module, batches: list[Batch]) -> float:
    """‖ŷ − y‖²/‖y‖² of the outputs: how far a network is from the dense one."""
    change, whole = 0.0, 0.0
    for batch in batches:
        y, got = (first_tensor(model(*fresh(batch))) for model in (dense, ours))
        change += float((got - y).abs().double().square().sum())
        whole += float(y.abs().double().square().sum())
    return change / (whole or 1.0)
