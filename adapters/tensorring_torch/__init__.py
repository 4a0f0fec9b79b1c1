"""tensorring_torch: layers of PyTorch networks as sequences of smaller plain layers, and whole networks compressed."""

from tensorring_torch.layer import build_layer, decompose_layer, dense_layer
from tensorring_torch.modules import FoldBond, UnfoldBond

__all__ = [
    "build_layer", "decompose_layer", "dense_layer",
    "FoldBond", "UnfoldBond",
]  # fmt: skip
