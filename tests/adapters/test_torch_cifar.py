"""The parts of the CIFAR benchmark that its figures rest on."""

import pytest
import tensorring_torch as tgt
import torch
from torch import nn

import tensorring as tg

pytest.importorskip("tqdm")
from benchmarks import cifar_cp

torch.set_num_threads(1)


def network():
    torch.manual_seed(0)
    return nn.ModuleDict({"stem": nn.Conv2d(3, 8, 3), "layer1": nn.Conv2d(8, 8, 3), "layer2": nn.Conv2d(8, 12, 3)})


@pytest.mark.parametrize("allocate", cifar_cp.ALLOCATIONS)
@pytest.mark.parametrize("form", cifar_cp.FORMS)
def test_budgets_are_kept_and_the_stem_stays(allocate, form):
    dense, ratio = network(), 2.5
    budgets = cifar_cp.ALLOCATIONS[allocate](dense, ratio)
    assert sum(budgets.values()) <= (8 * 8 + 8 * 12) * 9 / ratio + 1e-6
    found = cifar_cp.fitted(dense, form, budgets)
    for name in ("layer1", "layer2"):
        weights = [layer.weight for layer in found.model[name] if isinstance(layer, nn.Conv2d)]
        assert sum(weight.numel() for weight in weights) <= budgets[name] + 1e-6
    assert torch.equal(found.model["stem"].weight, dense["stem"].weight)
    changed = [(tgt.dense_layer(found.model[name]).weight, dense[name].weight) for name in ("layer1", "layer2")]
    exact = [float(((new - old).norm() / old.norm()).detach()) for new, old in changed]
    assert found.errors == pytest.approx(exact, rel=1e-3)
    assert len(found.cells(dense)) == 5


def test_equal_norms_change_no_kernel():
    layers = tgt.build_layer(tg.random.cp((12, 8, 9), rank=4, rng=0), like=nn.Conv2d(8, 12, 3))
    before = tgt.dense_layer(layers).weight
    entry, middle, output = (layer.weight.detach() for layer in cifar_cp.equal_norms(layers))
    torch.testing.assert_close(tgt.dense_layer(layers).weight, before)
    norms = [entry.flatten(1).norm(dim=1), middle.flatten(1).norm(dim=1), output.flatten(1).norm(dim=0)]
    torch.testing.assert_close(norms[0], norms[1])
    torch.testing.assert_close(norms[0], norms[2])


def test_augmented_images_are_moved_and_mirrored():
    torch.manual_seed(0)
    x = torch.arange(1.0, 65.0).reshape(1, 1, 8, 8).expand(200, 2, 8, 8)
    y = cifar_cp.augmented(x)
    assert y.shape == x.shape
    padded = {flip: nn.functional.pad(x[0].flip(2) if flip else x[0], (4, 4, 4, 4)) for flip in (False, True)}
    windows = {
        (flip, r, c): image[:, r : r + 8, c : c + 8]
        for flip, image in padded.items()
        for r in range(9)
        for c in range(9)
    }
    seen = {next(key for key, window in windows.items() if torch.equal(window, image)) for image in y}
    assert len(seen) > 100
