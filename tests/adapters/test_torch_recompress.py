"""Chains fitted again: smaller, in the same form, from what they are now."""

import numpy as np
import pytest
import tensorring_torch as tgt
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorring_torch.forms import cut
from tensorring_torch.layer import plan_of
from torch import nn

import tensorring as tg

torch.set_num_threads(1)

RANKS = {
    "cp": (12, 5), "cp4": (10, 4), "tucker": ((8, 7), (4, 3)), "cut": (8, 3), "tr": (3, 2), "tt": (6, 3),
    "btd": ((3, 3, 3), (2, 2, 2)), "tucker-cp": ((8, 7, 9), (4, 4, 4)),
}  # fmt: skip


def network(format="cp", groups=1, dtype=torch.float32):
    """Two chains, and layers that stay."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(4, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU(),
        nn.Conv2d(12, 12, 3, padding=1, groups=groups), nn.ReLU(), nn.Flatten(), nn.Linear(12 * 25, 6),
    ).to(dtype)  # fmt: skip
    model[3] = tgt.decompose_layer(model[3], format=format, ranks=RANKS[format][0], minimize="parameters")
    model[6] = tgt.decompose_layer(model[6], format="cut", ranks=5)
    return model


X = torch.rand(3, 4, 5, 5, generator=torch.Generator().manual_seed(0))


def weight(module):
    return tgt.dense_layer(module).weight.detach()


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("format", RANKS)
def test_a_chain_becomes_smaller_in_its_form_and_all_else_stays(format):
    model = network(format)
    before, plan = state(model), model[3].plan
    found = tgt.recompress(model, X, ranks={"3": RANKS[format][1]}, minimize="parameters")
    new = found.model[3]
    assert (new.plan.form, plan.form) == (plan.form, plan.form)
    assert new.plan.parameters < plan.parameters
    assert all(torch.equal(a, b) for a, b in zip(state(model).values(), before.values(), strict=True))
    for name, value in found.model.state_dict().items():
        if not name.startswith("3."):
            assert torch.equal(value, before[name])
            assert value.data_ptr() != model.state_dict()[name].data_ptr()
    row = found.report.layers[0]
    error = float((weight(new) - weight(model[3])).norm() / weight(model[3]).norm())
    assert row.error == pytest.approx(error, rel=1e-5)
    assert 0 < error < 1
    assert [each.reason for each in found.report.layers] == ["fitted again", "no ranks given"]
    for when, network_ in (("before", model), ("after", found.model)):
        assert getattr(found.report, when).parameters == sum(p.numel() for p in network_.parameters())
    again = tgt.recompress(found.model, X, ranks={"3": 1}, minimize="parameters")
    assert again.report.layers[0].form == plan.form
    assert found.model(X).shape == model(X).shape


@settings(max_examples=10)
@given(
    st.sampled_from(["cp", "cut", "tucker", "tr", "tt"]), st.sampled_from([1, 2]), st.sampled_from([0.2, 0.6]),
    st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
)  # fmt: skip
def test_a_tolerance_bounds_the_error_of_each_chain(format, groups, tol, dtype):
    model = network(format, groups, dtype)
    found = tgt.recompress(model, X.to(dtype), tol=tol, minimize="parameters")
    for row in found.report.layers:
        assert row.error <= tol + 10 * torch.finfo(dtype).eps
        assert row.after.parameters <= row.before.parameters
    assert {p.dtype for p in found.model.parameters()} == {dtype}


def test_multiply_adds_are_those_of_the_parts():
    model = network("tr")
    report = tgt.recompress(model, X, ranks={"3": 2}).report
    counted = 0
    handles = []

    def count(layer, _, out):
        nonlocal counted
        entries = layer.weight[0].numel()
        counted += out.numel() * entries

    for part in model.modules():
        if isinstance(part, (nn.Conv2d, nn.Linear)):
            handles.append(part.register_forward_hook(count))
    model.eval()(X)
    assert report.before.multiply_adds == counted
    saved = report.layers[0].before.multiply_adds - report.layers[0].after.multiply_adds
    assert report.before.multiply_adds - saved == report.after.multiply_adds


def test_a_cp_goes_on_from_its_terms_and_loses_little_to_a_fit_from_scratch():
    rng = np.random.default_rng(0)
    big, small = (tg.random.cp((16, 12, 9), rank=r, rng=rng) for r in (3, 5))
    tensor = tg.CPTensor(np.r_[big.weights, 1e-3 * small.weights], tuple(
        np.hstack(pair) for pair in zip(big.factors, small.factors, strict=True)
    ))  # fmt: skip
    conv = nn.Conv2d(12, 16, 3, dtype=torch.float64)
    model = nn.Sequential(tgt.build_layer(tensor, like=conv, minimize="parameters"))
    found = tgt.recompress(model, torch.rand(1, 12, 5, 5, dtype=torch.float64), ranks=3, minimize="parameters")
    scratch = tg.cp_stable(tensor.to_dense(), rank=3, rng=0)
    assert found.report.layers[0].error <= scratch.error * (1 + 1e-3)
    assert found.report.layers[0].ranks == (3,)


@pytest.mark.parametrize("groups", [1, 2])
def test_groups_stay_as_they_were(groups):
    torch.manual_seed(1)
    conv = nn.Conv2d(8, 8, 3, groups=2)
    parts = [
        tg.cp_als(part, rank=6, rng=0).tensor for part in np.split(conv.weight.detach().numpy().reshape(8, 4, 9), 2)
    ]
    tensor = parts if groups == 2 else tg.cp_als(conv.weight.detach().numpy().reshape(8, 4, 9), rank=8, rng=0).tensor
    model = nn.Sequential(tgt.build_layer(tensor, like=conv, minimize="parameters"))
    found = tgt.recompress(model, torch.rand(1, 8, 5, 5), ranks=3, minimize="parameters")
    assert found.model[0].plan.blocks == model[0].plan.blocks
    assert found.model[0].plan.ranks == (3,)


def test_weakening_is_musco_s_rule_for_tucker():
    """The core of a chain, taken from its middle kernel between the R factors of the outer ones."""
    rng = np.random.default_rng(2)
    signal = tg.random.tucker((12, 10, 3, 3), ranks=(3, 2, 3, 3), rng=rng).to_dense()
    noise = rng.standard_normal(signal.shape)
    x = signal / np.linalg.norm(signal) + 0.15 * noise / np.linalg.norm(noise)
    conv = nn.Conv2d(10, 12, 3, dtype=torch.float64)
    with torch.no_grad():
        conv.weight.copy_(torch.from_numpy(x))
    model = nn.Sequential(tgt.decompose_layer(conv, format="tucker", ranks=(9, 8), minimize="parameters"))
    entry, core, output = (layer.weight.detach().numpy() for layer in model[0])
    core = np.einsum(
        "ap,pqhw,bq->abhw", np.linalg.qr(output[:, :, 0, 0])[1], core, np.linalg.qr(entry[:, :, 0, 0].T)[1]
    )
    expected = []
    for mode, rank in enumerate((9, 8)):
        vbmf = tg.vbmf_rank(np.moveaxis(core, mode, 0).reshape(rank, -1))
        assert vbmf < rank
        expected.append(round(rank - 0.8 * (rank - vbmf)))
    found = tgt.recompress(model, torch.rand(1, 10, 5, 5, dtype=torch.float64), weaken=0.8, minimize="parameters")
    assert list(found.report.layers[0].ranks[:2]) == expected


@pytest.mark.parametrize("format", RANKS)
@pytest.mark.parametrize("weaken", [0.3, 1.0])
def test_weakening_never_goes_up_nor_below_one(format, weaken):
    model = network(format)
    for _ in range(3):
        found = tgt.recompress(model, X, weaken=weaken, minimize="parameters")
        for before, after in zip((model[3], model[6]), (found.model[3], found.model[6]), strict=True):
            assert after.plan.parameters <= before.plan.parameters
            assert min(after.plan.ranks) >= 1
        model = found.model
    assert model(X).isfinite().all()


def test_the_cut_stays_where_it_was():
    for modes in cut.modes(4):
        conv = nn.Conv2d(8, 8, 3)
        tensor = tg.cut_svd(conv.weight.detach().numpy(), modes=modes, ranks=6).tensor
        model = nn.Sequential(tgt.build_layer(tensor, like=conv))
        found = tgt.recompress(model, torch.rand(1, 8, 6, 6), ranks=2)
        assert found.report.layers[0].form == f"cut{modes}"
        best = tg.cut_svd(tgt.dense_layer(model[0]).weight.detach().double().numpy(), modes=modes, ranks=2)
        assert found.report.layers[0].error == pytest.approx(best.error, rel=1e-4)


def test_zeros_and_ranks_that_are_not_lower_and_tied_chains():
    model = network("tucker")
    with torch.no_grad():
        for parameter in model[3].parameters():
            parameter.zero_()
    assert tgt.recompress(model, X, weaken=0.8).model(X).isfinite().all()
    same = tgt.recompress(network(), X, ranks=100)
    assert {row.reason for row in same.report.layers} == {"what was asked for costs no less"}
    chain = tgt.decompose_layer(nn.Linear(8, 8), ranks=3)
    twice = nn.Sequential(chain, chain, tgt.decompose_layer(nn.Linear(8, 8), ranks=3))
    report = tgt.recompress(twice, torch.rand(2, 8), ranks=1).report
    assert [row.reason for row in report.layers] == ["tied: it stands at several places", "fitted again"]
    with torch.no_grad():
        model[3][0].weight[0, 0] = float("nan")
    with pytest.raises(ValueError, match="is nan; every entry must be finite") as caught:
        tgt.recompress(model, X, tol=0.3)
    assert "in layer '3'" in caught.value.__notes__


def test_what_a_chain_carries_is_kept():
    model = network().eval()
    for parameter in model[3].parameters():
        parameter.requires_grad_(False)
    model[6].train()
    new = tgt.recompress(model, X, ranks=2).model
    assert not any(p.requires_grad for p in new[3].parameters())
    assert all(p.requires_grad for p in new[6].parameters())
    assert [m.training for m in (new, new[3], new[3][0], new[6])] == [False, False, False, True]
    assert torch.equal(new[3][-1].bias, model[3][-1].bias)
    with torch.inference_mode():
        inside = tgt.recompress(network(), X, ranks=2).model
    inside(X).sum().backward()
    chain = tgt.recompress(nn.Sequential(tgt.decompose_layer(nn.Linear(9, 9), ranks=4))[0], torch.rand(1, 9), ranks=1)
    assert plan_of(chain.model).ranks == (1,)


def test_an_interrupt_leaves_the_rest_as_it_was():
    def stop(done, total, name):
        assert (done, total, name) == (1, 2, "3")
        raise KeyboardInterrupt

    found = tgt.recompress(network(), X, ranks=2, callback=stop)
    assert found.report.interrupted
    assert [row.reason for row in found.report.layers] == ["fitted again", "interrupted before its turn"]
    assert found.model[6].plan == network()[6].plan


def test_errors_say_what_was_got_and_the_way_out():
    model = network()
    good = {"ranks": 2}
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    for options, error, words in [
        ({}, ValueError, "got none of ranks, tol and weaken; give one"),
        ({"ranks": 2, "tol": 0.1}, ValueError, "got ranks and tol; give one"),
        ({"weaken": 1.5}, ValueError, r"got weaken=1.5; it is in \(0, 1\]"),
        ({"weaken": 0}, ValueError, "got weaken=0; it is in"),
        ({"weaken": True}, TypeError, "got weaken=True; it is a number"),
        ({"weaken": "much"}, TypeError, "got weaken='much'; it is a number"),
        ({"ranks": {"nine": 2}}, ValueError, "got ranks of 'nine'; the factored layers are '3', '6'"),
        (good | {"minimize": "all"}, ValueError, "got minimize='all'; known are"),
        (good | {"include": "nine"}, ValueError, "got include='nine', which matches no module"),
        (good | {"optimizer": 3}, TypeError, "got a int for the optimizer; it is a torch.optim.Optimizer"),
        (good | {"optimizer": torch.optim.LBFGS(model.parameters())}, TypeError, "got LBFGS, whose state is of all"),
        (good | {"optimizer": torch.optim.SGD([nn.Parameter(X)], lr=1)}, ValueError, "got an optimizer of none of"),
        ({"tol": 1.5}, ValueError, "tol"),
        ({"ranks": 0}, ValueError, "rank"),
    ]:
        with pytest.raises(error, match=words):
            tgt.recompress(model, X, **options)
    with pytest.raises(TypeError, match="got a str for the model"):
        tgt.recompress("model", X, **good)
    with pytest.raises(ValueError, match="got a Linear without factored layers; compress, decompose_layer or load"):
        tgt.recompress(nn.Linear(3, 3), torch.rand(1, 3), **good)
    with pytest.raises(ValueError, match="tol"):
        tgt.recompress(model, X, tol=1.5, optimizer=sgd)
    ours = {id(p) for p in model.parameters()}
    assert {id(p) for p in sgd.param_groups[0]["params"]} == ours, "an error leaves the optimizer as it was"
