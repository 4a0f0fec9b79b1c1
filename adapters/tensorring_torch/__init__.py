"""tensorring_torch: layers of PyTorch networks as sequences of smaller plain layers, and whole networks compressed."""

from tensorring_torch.checkpoint import load, save
from tensorring_torch.layer import build_layer, decompose_layer, dense_layer
from tensorring_torch.model import compress
from tensorring_torch.modules import FoldBond, UnfoldBond
from tensorring_torch.report import Compressed, Cost, LayerReport, Report

__all__ = [
    # one layer
    "build_layer", "decompose_layer", "dense_layer", "FoldBond", "UnfoldBond",
    # a network
    "compress", "Compressed", "Cost", "LayerReport", "Report",
    # files
    "load", "save",
]  # fmt: skip
