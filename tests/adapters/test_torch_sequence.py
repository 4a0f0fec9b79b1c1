"""Curves of options, and the final fits in the order of the network."""

import copy
import itertools

import numpy as np
import pytest
import torch
from tensorring_torch.calibration.curves import options
from tensorring_torch.calibration.fits import Target, forms
from tensorring_torch.calibration.graph import surroundings, traced
from tensorring_torch.calibration.observe import observed
from tensorring_torch.calibration.reconstruct import reconstructed
from tensorring_torch.calibration.sequence import Choice, Sequence
from tensorring_torch.chain import Chain, Use
from tensorring_torch.geometry import Call, Geometry
from tensorring_torch.kinds import canonical_weight
from torch import nn

import tensorring as tg

torch.set_num_threads(1)

LAYERS = {
    "Conv1d": nn.Conv1d(6, 8, 5),
    "Conv2d": nn.Conv2d(6, 8, 3, padding=1),
    "grouped": nn.Conv2d(12, 8, 3, groups=2),
    "Conv3d": nn.Conv3d(4, 6, 3),
    "ConvTranspose2d": nn.ConvTranspose2d(8, 6, 3, groups=2),
    "1x1": nn.Conv2d(12, 10, 1),
    "Linear": nn.Linear(12, 10),
}


def metric(rng, size):
    root = rng.standard_normal((size, size))
    return root @ root.T / size


def groups_of(layer):
    kernel = canonical_weight(layer).detach().double().numpy()
    return np.split(kernel, getattr(layer, "groups", 1))


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
@pytest.mark.parametrize("name", ["cp", "cut", "tucker"])
def test_options_cost_what_chains_cost_and_score_what_they_err(layer, name):
    rng, parts = np.random.default_rng(0), groups_of(layer)
    geometry = Geometry.of(layer)
    use = Use(geometry, (Call(2, (7,) * len(geometry.kernel)),), "parameters")
    norms = [(metric(rng, part[0].size), metric(rng, len(part))) for part in parts]
    targets = [Target(part, *each) for part, each in zip(parts, norms, strict=True)]
    dense, *found = options(use, forms(name, parts[0].shape), targets, targets)
    assert (dense.form, dense.score, dense.parameters) == (None, 0.0, geometry.parameters)
    assert found
    for option in found:
        blank = option.blank(use)
        assert (blank.plan.parameters, blank.plan.multiply_adds(use.calls)) == (option.parameters, option.macs)
        assert sum(p.numel() for p in blank.layers(layer).parameters()) == option.parameters + (
            layer.out_channels if hasattr(layer, "out_channels") else layer.out_features
        )
        begun = Chain.of(option.begin, use)
        if option.begin[0].ranks == blank.tensors[0].ranks:  # fitted at these ranks
            assert (begun.plan.parameters, begun.plan.multiply_adds(use.calls)) == (option.parameters, option.macs)
            score = 0.0
            for tensor, part, (s, gamma) in zip(option.begin, parts, norms, strict=True):
                e = (part.reshape(len(part), -1)) - tensor.to_dense().reshape(len(part), -1)
                score += np.trace(gamma @ e @ s @ e.T)
            assert option.score == pytest.approx(score, rel=1e-6, abs=1e-12)
    for key in {option.form.key for option in found}:
        own = [option for option in found if option.form.key == key]
        fitted = [o for o in own if o.begin[0].ranks == o.blank(use).tensors[0].ranks]
        for more, fewer in itertools.pairwise(fitted):
            for o in own:
                if fewer.parameters <= o.parameters <= more.parameters:
                    low, high = sorted([more.score, fewer.score])
                    assert low * (1 - 1e-9) <= o.score <= high * (1 + 1e-9)


@pytest.mark.parametrize("name", ["cp", "cut", "tucker"])
@pytest.mark.parametrize("spoiled", ["no variance", "one direction", "no gradient", "zero kernel", "tiny", "huge"])
def test_degenerate_norms_give_finite_fits(name, spoiled):
    rng = np.random.default_rng(1)
    kernel, s, gamma = rng.standard_normal((6, 4, 3, 3)), metric(rng, 36), metric(rng, 6)
    s = {"no variance": 0 * s, "one direction": np.ones((36, 36)), "tiny": 1e-30 * s, "huge": 1e30 * s}.get(spoiled, s)
    target = Target(kernel * (spoiled != "zero kernel"), s, gamma * (spoiled != "no gradient"))
    for form in forms(name, kernel.shape):
        tensor = form.fit(target, form.ranks(kernel.shape, 0.4), None, 20)
        assert np.isfinite(tensor.to_dense()).all()
        assert np.isfinite(target.error(tensor))


def test_unknown_formats_are_named():
    with pytest.raises(ValueError, match="'tr' with a budget; it is one of 'cp', 'cut', 'tucker'"):
        forms("tr", (4, 4, 3, 3))


class Net(nn.Module):
    """A stem, a residual block, and a head; biases and norms as asked."""

    def __init__(self, *, bias=False, norm="affine"):
        super().__init__()

        def normed(width):
            return nn.Identity() if norm is None else nn.BatchNorm2d(width, affine=norm == "affine")

        self.stem, self.norm0 = nn.Conv2d(3, 8, 3, padding=1, bias=bias), normed(8)
        self.first, self.norm1 = nn.Conv2d(8, 8, 3, padding=1, bias=bias), normed(8)
        self.second, self.norm2 = nn.Conv2d(8, 8, 3, padding=1, bias=bias), normed(8)
        self.relu = nn.ReLU(inplace=True)
        self.head = nn.Linear(8, 5, bias=bias)

    def forward(self, x):
        x = self.relu(self.norm0(self.stem(x)))
        h = self.relu(self.norm1(self.first(x)))
        x = self.relu(self.norm2(self.second(h)) + x)
        return self.head(x.mean((2, 3)))


NAMES = ["stem", "first", "second", "head"]


def made(seed=0, **options):
    torch.manual_seed(seed)
    model, x = Net(**options), torch.randn(64, 3, 7, 7) + torch.randn(64, 3, 1, 1)
    for _ in range(30):  # statistics of the norms
        model(x)
    with torch.no_grad():
        for part in model.modules():
            if isinstance(part, nn.BatchNorm2d) and part.affine:
                part.weight.uniform_(-1.5, 1.5)
                part.bias.normal_()
    return model.eval(), x


def choice(layer, share, name="cut"):
    geometry = Geometry.of(layer)
    form = forms(name, geometry.weight_shape)[0]
    use = Use(geometry, (Call(1, (7,) * len(geometry.kernel)),), "parameters")
    return Choice(use, None) if share is None else Choice(use, form, form.ranks(geometry.weight_shape, share))


def run(model, x, share, *, around=True, exchanged=NAMES, name="cut"):
    batches, ours = [(x[:40],), (x[40:],)], copy.deepcopy(model)
    graph = traced(model, NAMES, batches[0])
    choices = {n: choice(model.get_submodule(n), share if n in exchanged else None, name) for n in NAMES}
    found = surroundings(graph, NAMES) if around else {}
    fitted = dict(Sequence(graph, ours, batches, choices, observed(model, NAMES, batches), found).run())
    assert list(fitted) == NAMES
    return ours, fitted


def outputs(model, name, x):
    seen = []
    handle = model.get_submodule(name).register_forward_hook(lambda m, a, out: seen.append(out.clone()))
    with torch.no_grad():
        model(x)
    handle.remove()
    return seen[0]


@pytest.mark.parametrize("options", [{}, {"bias": True}, {"norm": "bare"}, {"norm": None}])
def test_nothing_changes_where_all_stay_dense(options):
    model, x = made(**options)
    ours, fitted = run(model, x, None)
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in ours.state_dict().items())
    assert all(each.chain is None and each.metric_error == each.error == 0 for each in fitted.values())


@pytest.mark.parametrize("options", [{}, {"bias": True}, {"norm": "bare"}, {"norm": None}])
def test_at_full_rank_nothing_changes_either(options):
    model, x = made(**options)
    geometry = Geometry.of(model.first)
    full = Choice(choice(model.first, 0.5).use, forms("cut", geometry.weight_shape)[0], (8,))
    batches, ours = [(x,)], copy.deepcopy(model)
    graph = traced(model, NAMES, (x,))
    choices = {n: full if n == "first" else choice(model.get_submodule(n), None) for n in NAMES}
    steps = Sequence(graph, ours, batches, choices, observed(model, NAMES, batches), surroundings(graph, NAMES)).run()
    assert dict(steps)["first"].error < 1e-3
    with torch.no_grad():
        torch.testing.assert_close(ours(x), model(x), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("options", "where"),
    [({}, "norm"), ({"bias": True}, "bias"), ({"norm": "bare"}, "norm"), ({"norm": None}, "bias")],
)
def test_the_mean_output_of_every_layer_is_right(options, where):
    model, x = made(**options)
    ours, _ = run(model, x, 0.3)
    dense = model.state_dict()
    for name, norm in zip(NAMES[:2], ["norm0", "norm1"], strict=True):
        after = name if options.get("norm", "affine") is None else norm
        mean, wanted = (outputs(net, after, x).mean((0, 2, 3)) for net in (ours, model))
        torch.testing.assert_close(mean, wanted, rtol=1e-3, atol=2e-3)
        assert (ours.get_submodule(name)[-1].bias is not None) == (where == "bias")
        if where == "norm":
            assert not torch.equal(ours.state_dict()[f"{norm}.running_mean"], dense[f"{norm}.running_mean"])
            assert torch.equal(ours.state_dict()[f"{norm}.running_var"], dense[f"{norm}.running_var"])
    total, wanted = (outputs(net, "head", x).mean(0) for net in (ours, model))
    torch.testing.assert_close(total, wanted, rtol=1e-3, atol=1e-3)


def error_of_sum(ours, model, x):
    """Of what goes into the head, before the mean."""
    sums = []
    for net in (ours, model):
        kept = []
        handles = [net.head.register_forward_pre_hook(lambda m, a, kept=kept: kept.append(a[0].clone()))]
        with torch.no_grad():
            net(x)
        handles[0].remove()
        sums.append(kept[0])
    return float((sums[0] - sums[1]).norm())


@pytest.mark.parametrize("seed", range(3))
def test_repair_of_the_other_summand_lowers_the_error_of_the_sum(seed):
    model, x = made(seed, norm=None)
    with torch.no_grad():
        model.second.weight.mul_(3)
    errors = []
    for repaired in (True, False):
        ours, _ = run(model, x, 0.4, around=repaired, exchanged=["stem", "second"])
        errors.append(error_of_sum(ours, model, x))
    assert errors[0] < errors[1]


def test_channels_that_a_norm_switches_off_do_no_harm():
    model, x = made()
    with torch.no_grad():
        model.norm2.weight[:3] = torch.tensor([0.0, 1e-12, -1e-4])
    ours, fitted = run(model, x, 0.3)
    assert all(np.isfinite([each.metric_error, each.error]).all() for each in fitted.values())
    assert all(torch.isfinite(value).all() for value in ours.state_dict().values())
    assert max(each.metric_error for each in fitted.values()) <= 1 + 1e-6


@pytest.mark.parametrize("name", ["cp", "tucker"])
def test_batches_that_never_change_give_finite_fits(name):
    model, _ = made()
    ours, _ = run(model, torch.zeros(64, 3, 7, 7), 0.3, name=name)
    assert all(torch.isfinite(value).all() for value in ours.state_dict().values())


def test_data_count():
    """The output of later layers undoes errors of earlier ones, and both beat weights alone."""
    model, x = made(bias=True, norm=None)
    ours, _ = run(model, x[:48], 0.4, name="cp")
    plain = copy.deepcopy(model)
    for name in NAMES:
        layer = plain.get_submodule(name)
        each = choice(layer, 0.4, "cp")
        fit = each.form.fit(Target(canonical_weight(layer).detach().double().numpy()), each.ranks, None, 100)
        layer.weight.data.copy_(torch.from_numpy(np.reshape(fit.to_dense(), layer.weight.shape)))
    with torch.no_grad():
        errors = [float((net(x[48:]) - model(x[48:])).norm()) for net in (ours, plain)]
    assert errors[0] < 0.7 * errors[1]


def test_layers_called_at_two_nodes_are_fitted_to_all_their_calls():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.last = nn.Linear(6, 6), nn.Linear(6, 2)

        def forward(self, x):
            return self.last(self.layer(torch.relu(self.layer(x))))

    torch.manual_seed(0)
    model, x = Twice().eval(), torch.randn(50, 6)
    ours, names = copy.deepcopy(model), ["layer", "last"]
    graph, seen = traced(model, names, (x,)), observed(model, names, [(x,)])
    choices = {name: choice(model.get_submodule(name), 0.7) for name in names}
    fitted = dict(Sequence(graph, ours, [(x,)], choices, seen, surroundings(graph, names)).run())
    assert list(fitted) == names
    assert len(ours.layer) == 2
    first = seen["layer"].moments[0]
    weight = ours.layer[1].weight.detach().double() @ ours.layer[0].weight.detach().double()
    torch.testing.assert_close(ours.layer[1].bias.detach().double(), first.output - weight @ first.patch)


def apart(model, ours, x):
    """The squared errors of the children's outputs, relative, summed; the last of them is the network's."""
    kept = []
    for each in (model, ours):
        outputs, handles = [], []
        for child in each.children():
            handles.append(child.register_forward_hook(lambda module, args, out, to=outputs: to.append(out.clone())))
        each(x)
        kept.append(outputs)
        for handle in handles:
            handle.remove()
    return sum(float((a - b).square().sum() / a.square().sum()) for a, b in zip(*kept, strict=True))


def test_factors_together_come_nearer_or_stay():
    model, x = made(bias=True, norm=None)
    ours, _ = run(model, x, 0.3)
    ours.stem.requires_grad_(False)
    trained = [p.requires_grad for p in ours.parameters()]
    distances = []
    with torch.no_grad():
        distances.append(apart(model, ours, x))
        steps = []
        left = reconstructed(model, ours, [(x[:32],), (x[32:],)], callback=lambda *step: steps.append(step))
        distances.append(apart(model, ours, x))
    assert left < 1
    assert steps == [(k, len(steps), "all factors together") for k in range(1, len(steps) + 1)]
    assert distances[1] < 0.9 * distances[0]
    assert [p.requires_grad for p in ours.parameters()] == trained
    assert all(p.grad is None for p in ours.parameters())
    same = copy.deepcopy(model)
    assert reconstructed(model, same, [(x,)]) == 1
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in same.state_dict().items())


def test_an_interrupt_among_the_steps_leaves_what_was_there():
    model, x = made(bias=True, norm=None)
    ours, _ = run(model, x, 0.3)
    state, calls = copy.deepcopy(ours.state_dict()), itertools.count()

    def interrupt(*_):
        if next(calls) == 7:
            raise KeyboardInterrupt

    handle = ours.head.register_forward_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        reconstructed(model, ours, [(x,)])
    handle.remove()
    assert all(torch.equal(value, state[key]) for key, value in ours.state_dict().items())


def test_an_interrupt_in_a_fit_is_not_swallowed(monkeypatch):
    found = tg.cp_stable(np.random.default_rng(0).standard_normal((4, 4, 3)), rank=2, rng=0)
    monkeypatch.setattr(
        tg, "cp_stable", lambda *a, **k: type(found)(found.tensor, found.error, False, tg.Stop.interrupted, ())
    )
    with pytest.raises(KeyboardInterrupt):
        forms("cp", (4, 4, 3))[0].fit(Target(np.ones((4, 4, 3))), (2,), None, 10)
