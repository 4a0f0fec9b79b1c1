"""Checks that trains and rings share: order-3 cores whose bonds fit."""

from __future__ import annotations

import itertools

from tensorring._array import Array
from tensorring.tensors.low_rank import check_ndim


def check_cores(cores: tuple[Array, ...]) -> None:
    """ValueError unless every core is (r_k, n_k, r_{k+1}) and neighbours agree on the bond between them."""
    for k, core in enumerate(cores):
        check_ndim(core, 3, f"cores[{k}]", "(left rank, mode size, right rank)")
    for k, (core, following) in enumerate(itertools.pairwise(cores)):
        if core.shape[2] != following.shape[0]:
            raise ValueError(
                f"cores[{k}] has right rank {core.shape[2]} but cores[{k + 1}] has left rank {following.shape[0]}; "
                "neighbours share a bond: make them equal"
            )
