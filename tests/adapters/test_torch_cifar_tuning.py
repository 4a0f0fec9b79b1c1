"""The parts of the page of CP networks that its figures rest on."""

import pytest
import tensorring_torch as tgt
import torch
from torch import nn

import tensorring as tg

pytest.importorskip("tqdm")
from benchmarks import cifar_tuning

torch.set_num_threads(1)


def network():
    torch.manual_seed(0)
    return nn.ModuleDict({"stem": nn.Conv2d(3, 8, 3), "layer1": nn.Conv2d(8, 8, 3), "layer2": nn.Conv2d(8, 12, 3)})


@pytest.mark.parametrize("allocate", cifar_tuning.ALLOCATIONS)
@pytest.mark.parametrize("form", cifar_tuning.FORMS)
def test_budgets_are_kept_and_the_stem_stays(allocate, form):
    dense, ratio = network(), 2.5
    budgets = cifar_tuning.ALLOCATIONS[allocate](dense, ratio)
    assert sum(budgets.values()) <= (8 * 8 + 8 * 12) * 9 / ratio + 1e-6
    found = cifar_tuning.fitted(dense, form, budgets)
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
    entry, middle, output = (layer.weight.detach() for layer in cifar_tuning.equal_norms(layers))
    torch.testing.assert_close(tgt.dense_layer(layers).weight, before)
    norms = [entry.flatten(1).norm(dim=1), middle.flatten(1).norm(dim=1), output.flatten(1).norm(dim=0)]
    torch.testing.assert_close(norms[0], norms[1])
    torch.testing.assert_close(norms[0], norms[2])
