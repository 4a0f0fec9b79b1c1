"""An optimizer goes on where layers are fitted again: what was not touched learns as if nothing had happened."""

import copy

import pytest
import tensorring_torch as tgt
import torch
from torch import nn

torch.set_num_threads(1)


def network():
    """Two chains, and layers that stay."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(4, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU(),
        nn.Conv2d(12, 12, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(12 * 25, 6),
    )  # fmt: skip
    model[3] = tgt.decompose_layer(model[3], format="cp", ranks=12, minimize="parameters")
    model[6] = tgt.decompose_layer(model[6], format="cut", ranks=5)
    return model


X = torch.rand(3, 4, 5, 5, generator=torch.Generator().manual_seed(0))

OPTIMIZERS = {
    "sgd": lambda groups: torch.optim.SGD(groups, lr=0.05, momentum=0.9, nesterov=True),
    "adam": lambda groups: torch.optim.Adam(groups, lr=0.01),
    "adamw": lambda groups: torch.optim.AdamW(groups, lr=0.01, weight_decay=0.1, foreach=True),
}


def trained(model, make):
    ends = [p for p in model.parameters() if p.ndim < 2]
    optimizer = make([{"params": [p for p in model.parameters() if p.ndim > 1]}, {"params": ends, "lr": 0.02}])
    for _ in range(3):
        optimizer.zero_grad()
        model(X).square().mean().backward()
        optimizer.step()
    return optimizer


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_a_step_of_an_untouched_layer_is_bit_identical(kind):
    """The same gradients, once with a recompression before and once without."""
    model = network()
    optimizer = trained(model, OPTIMIZERS[kind])
    reference = copy.deepcopy((model, optimizer))  # together, so that the one is of the other
    assert all(any(p is q for q in reference[0].parameters()) for p in reference[1].state)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    groups = optimizer.param_groups
    new = tgt.recompress(model, X, ranks={"3": 3}, minimize="parameters", optimizer=optimizer).model
    assert optimizer.param_groups is groups
    assert scheduler.optimizer is optimizer
    held = {id(p) for group in groups for p in group["params"]}
    assert held == {id(p) for p in new.parameters()}
    assert set(map(id, optimizer.state)) <= held
    names = [name for name, _ in new.named_parameters() if not name.startswith("3.")]
    generator = torch.Generator().manual_seed(1)
    gradients = {name: torch.randn(new.get_parameter(name).shape, generator=generator) for name in names}
    for network_, steps in ((new, optimizer), reference):
        steps.zero_grad()
        for name in names:
            network_.get_parameter(name).grad = gradients[name].clone()
        steps.step()
    for name in names:
        assert torch.equal(new.get_parameter(name), reference[0].get_parameter(name)), name


def test_new_kernels_begin_without_a_state_in_the_group_of_the_old_and_biases_keep_theirs():
    model = network()
    optimizer = trained(model, OPTIMIZERS["adam"])
    bias = optimizer.state[model[3][-1].bias]["exp_avg"].clone()
    new = tgt.recompress(model, X, ranks={"3": 3}, minimize="parameters", optimizer=optimizer).model
    kernels = [p for name, p in new[3].named_parameters() if not name.endswith("bias")]
    assert not any(p in optimizer.state for p in kernels)
    assert all(any(p is q for q in optimizer.param_groups[0]["params"]) for p in kernels)
    assert torch.equal(optimizer.state[new[3][-1].bias]["exp_avg"], bias)
    for _ in range(2):
        optimizer.zero_grad()
        new(X).square().mean().backward()
        optimizer.step()
    assert all(p in optimizer.state for p in kernels)
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))


def test_what_is_not_the_model_s_stays_in_the_optimizer():
    model, extra = network(), nn.Parameter(torch.ones(3))
    frozen = next(p for name, p in model[3].named_parameters() if not name.endswith("bias"))
    optimizer = torch.optim.SGD([extra, *(p for p in model.parameters() if p is not frozen)], lr=0.1)
    new = tgt.recompress(model, X, ranks={"3": 3}, minimize="parameters", optimizer=optimizer).model
    assert optimizer.param_groups[0]["params"][0] is extra
    assert {id(p) for p in optimizer.param_groups[0]["params"][1:]} == {id(p) for p in new.parameters()}
