"""Structured pruning of CIFAR ResNets: filters of least L1 norm are taken out, by torch-pruning and its own recipe.

What that package documents for CIFAR ResNets (its "Group-L1"): all filters ranked together, by the L1 norms of all that
goes with a filter (its weights, the scale of its batch norm, what reads its output), relative to the mean of their
layer; taken out in small steps, ranked anew after each, until multiply-adds are few enough. No data is looked at.

Only filters inside the blocks are taken out (the first convolution of each), as in the paper on filter norms: the
package's graph takes a shortcut that pads with zeros for one that keeps channels as they are, and breaks on it.

References
----------
H. Li, A. Kadav, I. Durdanovic, H. Samet, H. P. Graf 2017, arXiv 1608.08710 (norms of filters). G. Fang, X. Ma, M. Song,
M. B. Mi, X. Wang 2023, arXiv 2301.12900 (groups of layers; torch-pruning).
"""

from __future__ import annotations

import copy
import os

from safetensors import safe_open
from torch import Tensor, nn

from benchmarks.networks import multiply_adds
from benchmarks.resnet import Block


def pruned(dense: nn.Module, fraction: float, example: Tensor) -> nn.Module:
    """A narrower copy, in eval mode, with at most this fraction of the multiply-adds; with one filter more it has more.

    Parameters
    ----------
    dense
        A network with blocks of `benchmarks.resnet`; it is not changed.
    fraction
        In (0, 1]. A filter of a ResNet-20 is 0.1 to 0.7 % of its multiply-adds, of a ResNet-56 at most 0.24 %.
    example
        One image, (1, 3, height, width).

    Raises
    ------
    ValueError
        If the fraction is out of range or cannot be reached, or the network has no such blocks.

    Notes
    -----
    The same network, fraction and torch-pruning give the same copy. On one core about a second for a ResNet-20, and 25
    seconds for a ResNet-56. `tgt.save` keeps it; `tgt.load` gives it back onto `narrowed(dense, path)`.
    """
    import torch_pruning as tp

    if not 0 < fraction <= 1:
        raise ValueError(f"got fraction={fraction!r}; it is a share of the dense network's multiply-adds, in (0, 1]")
    model = copy.deepcopy(dense).eval()
    left = whole = multiply_adds(model, example)
    inside = [block.conv1 for _, block in blocks(model)]
    if not inside:
        raise ValueError(
            f"got a {type(model).__name__} without blocks of benchmarks.resnet; only inside of those filters are pruned"
        )
    filters = sum(conv.out_channels for conv in inside)
    pruner = tp.pruner.BasePruner(
        model,
        example,
        importance=tp.importance.MagnitudeImportance(p=1),
        global_pruning=True,
        pruning_ratio=1.0,
        iterative_steps=filters,
        ignored_layers=[
            layer
            for layer in model.modules()
            if isinstance(layer, (nn.Conv2d, nn.Linear)) and not any(layer is conv for conv in inside)
        ],
    )
    for _ in range(filters):
        if left <= fraction * whole:
            break
        pruner.step()
        left = multiply_adds(model, example)
    if left > fraction * whole:
        raise ValueError(
            f"got fraction={fraction!r}; with a filter or two left in each block {left / whole:.3f} of the "
            "multiply-adds remain, so ask for more"
        )
    return model


def narrowed(dense: nn.Module, path: str | os.PathLike[str]) -> nn.Module:
    """A copy with blocks as narrow inside as in a file of `tgt.save`, for `tgt.load` to load onto.

    Blocks that are not in the file as they are in the network, since their layers were decomposed, stay as wide.
    """
    import torch_pruning as tp

    model = copy.deepcopy(dense)
    with safe_open(path, framework="pt") as file:
        held = set(file.keys())
        for name, block in blocks(model):
            kernel = f"{name}.conv1.weight"
            width = file.get_slice(kernel).get_shape()[0] if kernel in held else block.conv1.out_channels
            gone = list(range(width, block.conv1.out_channels))
            if gone:
                tp.prune_conv_out_channels(block.conv1, gone)
                tp.prune_batchnorm_out_channels(block.bn1, gone)
                tp.prune_conv_in_channels(block.conv2, gone)
    return model


def blocks(model: nn.Module) -> list[tuple[str, Block]]:
    """The residual blocks, by name."""
    return [(name, module) for name, module in model.named_modules() if isinstance(module, Block)]
