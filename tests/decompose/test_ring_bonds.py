"""What a bond of a ring is expected to cost when it is lowered."""

import math

import numpy as np
import pytest

import tensorring as tg
from tensorring.decompose.iterative._chain.ring_bonds import bonds


def test_what_a_bond_is_expected_to_cost_is_exact_for_trains() -> None:
    """In a train the rest of the chain is a Kronecker product, so that the error foretold is the one made."""
    train = tg.random.tt((5, 6, 7, 4), ranks=(4, 5, 3), dtype="complex128", rng=0)
    x = train.to_dense()
    found = bonds(train.cores)
    assert [bond.k for bond in found] == [1, 2, 3]
    for bond in found:
        for rank in range(1, len(bond.errors) - 1):
            lowered = tg.TTTensor(bond.lowered(train.cores, rank))
            made = np.linalg.norm(x - lowered.to_dense()) / np.linalg.norm(x)
            assert made == pytest.approx(bond.errors[rank], rel=1e-9)
            best = np.linalg.svd(x.reshape(math.prod(x.shape[: bond.k]), -1), compute_uv=False)
            assert made == pytest.approx(np.linalg.norm(best[rank:]) / np.linalg.norm(x), rel=1e-9)
