"""The kernels of trained networks, where their weights are at hand."""

from pathlib import Path

import numpy as np
import pytest

import tensorring as tg

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"


def kernels(network):
    path = DATA / f"cifar10_{network}.npz"
    if not path.exists():
        pytest.skip(f"no pretrained weights at {path.parent}")
    with np.load(path) as weights:
        return [weights[name] for name in weights.files if name.startswith("layer") and weights[name].ndim == 4]


@pytest.mark.parametrize(
    ("network", "tol", "most"),
    [("resnet20", 0.5, 110_000), ("resnet20", 0.3, 191_000), ("resnet56", 0.5, 337_000), ("resnet56", 0.3, 579_000)],
)
def test_block_kernels_store_less_than_published(network, tol, most):
    results = [(kernel, tg.tr_reduced_storage(kernel, tol=tol)) for kernel in kernels(network)]
    assert all(result.converged for _, result in results)
    assert sum(min(result.tensor.parameter_count, kernel.size) for kernel, result in results) <= most


@pytest.mark.parametrize("tol", [0.3, 0.5])
def test_no_layer_stores_more_than_published(tol):
    from test_direct import published_tr

    for kernel in kernels("resnet20"):
        ours = tg.tr_reduced_storage(kernel, tol=tol).tensor.parameter_count
        assert ours <= published_tr(kernel.astype(np.float64), tol)
