"""Which layers matter: how far outputs move when one layer alone is exchanged."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

from tensorring_torch.calibration.data import batches_of, first_of, output_change
from tensorring_torch.replace import duplicate, put

_FEW = 256  # inputs


def influences(
    dense: nn.Module, small: nn.Module, names: Iterable[str], example_input: Any, calibration: Any
) -> dict[str, float]:
    """‖ŷ − y‖²/‖y‖² of the outputs of `dense` with one layer of `small` in it, for each name, on 256 inputs."""
    dense = duplicate(dense).eval()
    batches = first_of(batches_of(calibration, example_input, dense), _FEW)

    def with_one(name: str) -> nn.Module:
        return put(duplicate(dense), {name: duplicate(small.get_submodule(name))}).eval()

    return {name: output_change(dense, with_one(name), batches) for name in names}
