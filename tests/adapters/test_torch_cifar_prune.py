"""Pruned CIFAR ResNets: as small as asked and no smaller, made of the dense network's own filters, kept in files."""

import copy
from itertools import pairwise

import pytest
import tensorring_torch as tgt
import torch
from torch import nn

pytest.importorskip("torch_pruning")
from benchmarks.cifar_prune import blocks, narrowed, pruned
from benchmarks.networks import multiply_adds, parameters, predicted
from benchmarks.resnet import ResNet

torch.set_num_threads(1)
EXAMPLE = torch.zeros(1, 3, 16, 16)


def network(n: int = 1) -> nn.Module:
    """Random weights, and batch norms that do something."""
    torch.manual_seed(0)
    model = ResNet(n)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias)
            nn.init.normal_(layer.running_mean)
            nn.init.uniform_(layer.running_var, 0.5, 1.5)
    return model.eval()


def widths(model: nn.Module) -> list[int]:
    return [block.conv1.out_channels for _, block in blocks(model)]


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("fraction", [0.85, 0.5, 0.2])
def test_multiply_adds_are_at_most_and_nearly_as_asked(n, fraction):
    dense = network(n)
    before = {name: value.clone() for name, value in dense.state_dict().items()}
    model = pruned(dense, fraction, EXAMPLE)
    whole, got = multiply_adds(dense, EXAMPLE), multiply_adds(model, EXAMPLE)
    # A filter of the first stage, the dearest, is two kernels of 3 × 3 × 16 at each of 16 × 16 places.
    assert fraction * whole - 2 * 9 * 16 * 16 * 16 < got <= fraction * whole
    assert all(torch.equal(value, before[name]) for name, value in dense.state_dict().items())
    assert widths(dense) == [16] * n + [32] * n + [64] * n
    assert predicted(model, torch.randn(3, 3, 16, 16)).shape == (3, 10)
    again = pruned(dense.train(), fraction, EXAMPLE)
    assert dense.training
    assert not any(module.training for module in again.modules())
    assert all(torch.equal(value, before[name]) for name, value in dense.state_dict().items())
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())


def norms(block: nn.Module) -> torch.Tensor:
    """What the ranking is documented to be by, written anew: mean L1 norm of all that goes with a filter."""
    into, out = block.conv1.weight.abs().sum((1, 2, 3)), block.conv2.weight.abs().sum((0, 2, 3))
    return (into + block.bn1.weight.abs() + out).detach() / 3


def test_filters_of_least_norm_go_and_the_others_stay_as_they_were():
    dense = network(2)
    model = pruned(dense, 0.6, EXAMPLE)
    kept_norms, gone_norms = [], []
    for (_, old), (_, new) in zip(blocks(dense), blocks(model), strict=True):
        rows = {tuple(row.flatten().tolist()): k for k, row in enumerate(old.conv1.weight)}
        kept = [rows[tuple(row.flatten().tolist())] for row in new.conv1.weight]
        assert all(a < b for a, b in pairwise(kept))
        torch.testing.assert_close(new.conv2.weight, old.conv2.weight[:, kept], rtol=0, atol=0)
        for name, value in new.bn1.state_dict().items():
            theirs = getattr(old.bn1, name)
            assert torch.equal(value, theirs[kept] if theirs.ndim else theirs)
        assert new.conv2.out_channels == old.conv2.out_channels
        assert new.conv1.in_channels == old.conv1.in_channels
        gone = [k for k in range(len(rows)) if k not in kept]
        mine = norms(old)
        assert not gone or mine[gone].max() <= mine[kept].min(), "within a block the smallest go"
        kept_norms.append(mine[kept])
        gone_norms.append(mine[gone])
    assert sum(map(len, gone_norms)) > 20
    untouched = {"conv1.weight", "bn1.weight", "linear.weight", "linear.bias"}
    assert all(torch.equal(model.state_dict()[name], dense.state_dict()[name]) for name in untouched)


def test_taking_out_dead_filters_changes_nothing():
    dense = network()
    dead = 0
    with torch.no_grad():
        for _, block in blocks(dense):
            take = slice(0, len(block.bn1.weight) // 4)
            dead += take.stop
            for part in (block.conv1.weight[take], block.bn1.weight[take], block.bn1.bias[take]):
                part.zero_()
            block.conv2.weight[:, take] = 0
    lean = copy.deepcopy(dense)
    for width, (_, block) in zip((12, 24, 48), blocks(lean), strict=True):
        block.conv1 = nn.Conv2d(block.conv1.in_channels, width, 3, stride=block.stride, padding=1, bias=False)
        block.bn1, block.conv2 = nn.BatchNorm2d(width), nn.Conv2d(width, block.conv2.out_channels, 3, padding=1)
    model = pruned(dense, (multiply_adds(lean.eval(), EXAMPLE) + 1) / multiply_adds(dense, EXAMPLE), EXAMPLE)
    assert widths(model) == [12, 24, 48]
    assert sum(widths(dense)) - sum(widths(model)) == dead
    x = torch.randn(4, 3, 16, 16)
    torch.testing.assert_close(predicted(model, x), predicted(dense, x), rtol=1e-5, atol=1e-5)


def test_all_of_it_and_too_little():
    dense = network()
    assert parameters(pruned(dense, 1.0, EXAMPLE)) == parameters(dense)
    with pytest.raises(ValueError, match=r"got fraction=0\.001; .* left in each block 0\.\d+ of .* ask for more"):
        pruned(dense, 0.001, EXAMPLE)
    for wrong in (0.0, -1.0, 1.5, float("nan")):
        with pytest.raises(ValueError, match=r"got fraction=.*in \(0, 1\]"):
            pruned(dense, wrong, EXAMPLE)
    with pytest.raises(ValueError, match=r"got a Linear without blocks of benchmarks\.resnet"):
        pruned(nn.Linear(4, 4), 0.5, torch.zeros(1, 4))


def test_files_give_it_back(tmp_path):
    dense, path, x = network(), tmp_path / "network.safetensors", torch.randn(3, 3, 16, 16)
    model = pruned(dense, 0.4, EXAMPLE)
    tgt.save(path, model)
    again = tgt.load(path, narrowed(dense, path)).eval()
    assert widths(again) == widths(model)
    assert torch.equal(predicted(again, x), predicted(model, x))
    assert widths(dense) == [16, 32, 64]


def test_other_files_are_loaded_as_ever(tmp_path):
    dense, path, x = network(), tmp_path / "network.safetensors", torch.randn(3, 3, 16, 16)
    for model in (dense, tgt.compress(dense, EXAMPLE, tol=0.5, formats="cut").model):
        tgt.save(path, model)
        again = tgt.load(path, narrowed(dense, path)).eval()
        assert torch.equal(predicted(again, x), predicted(model, x))


def test_it_is_trained_on_like_ours():
    dense = network()
    model = pruned(dense, 0.5, EXAMPLE)
    x, y = torch.randn(32, 3, 16, 16), torch.arange(32) % 10
    tuned = tgt.fine_tune(model, dense, (x, y), epochs=2, batch_size=8, lr=1e-3, validation=0.25)
    assert tuned.stop == "epochs"
    assert widths(tuned.model) == widths(model)
    before, after = model.state_dict(), tuned.model.state_dict()
    assert not torch.equal(before["layer1.0.conv1.weight"], after["layer1.0.conv1.weight"])
    assert tgt.fold_norms(tuned.model, EXAMPLE)(x).shape == (32, 10)
