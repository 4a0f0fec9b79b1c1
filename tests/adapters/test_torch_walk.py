"""Graphs of networks, and the walk through two of them in step."""

import copy
import operator

import pytest
import torch
from tensorring_torch.calibration.graph import Surrounding, boxed, surroundings, traced
from tensorring_torch.calibration.walk import Walk
from torch import fx, nn

torch.set_num_threads(1)


class Block(nn.Module):
    """A residual block whose sum is written in some way; the shortcut is the identity, a projection, or padded."""

    def __init__(self, add, shortcut="identity"):
        super().__init__()
        stride, out = (1, 4) if shortcut == "identity" else (2, 6)
        self.first, self.norm1 = nn.Conv2d(4, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out)
        self.second, self.norm2 = nn.Conv2d(out, out, 3, 1, 1, bias=False), nn.BatchNorm2d(out)
        self.add, self.kind = add, shortcut
        if shortcut == "projection":
            self.short = nn.Sequential(nn.Conv2d(4, 6, 1, 2, bias=False), nn.BatchNorm2d(6))

    def forward(self, x):
        out = self.norm2(self.second(torch.relu(self.norm1(self.first(x)))))
        if self.kind == "padded":
            x = nn.functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 1, 1))
        if self.kind == "projection":
            x = self.short(x)
        return torch.relu(self.add(out, x))


X = torch.randn(3, 4, 6, 6, generator=torch.Generator().manual_seed(0))
SUMS = {
    "+": operator.add,
    "+=": operator.iadd,
    "torch.add": torch.add,
    ".add": lambda a, b: a.add(b),
    ".add_": lambda a, b: a.add_(b),
    "swapped": lambda a, b: b + a,
}


def names(model):
    return [name for name, part in model.named_modules() if isinstance(part, (nn.Conv2d, nn.Linear))]


def around(model, x=X, second=None):
    graph = traced(model.eval(), names(model), (x,))
    return graph, surroundings(graph, names(model) if second is None else second)


@pytest.mark.parametrize("shortcut", ["identity", "padded"])
@pytest.mark.parametrize("add", SUMS.values(), ids=SUMS)
def test_sums_and_batch_norms_are_found(add, shortcut):
    _, found = around(Block(add, shortcut))
    assert found["first"] == Surrounding("norm1")
    assert found["second"].norm == "norm2"
    assert found["second"].sum is not None
    assert found["second"].other is not None
    assert found["second"].other.op == ("placeholder" if shortcut == "identity" else "call_function")


def test_of_a_projection_the_later_branch_repairs_the_sum():
    _, found = around(Block(operator.add, "projection"))
    assert found["second"] == Surrounding("norm2")  # the projection comes after it, and has parameters
    assert found["short.0"].norm == "short.1"
    assert found["short.0"].other is not None
    assert found["short.0"].other.target == "norm2"


class Uses(nn.Module):
    """One layer, and what is done with its output."""

    def __init__(self, course, layer=None):
        super().__init__()
        self.layer, self.norm, self.drop = layer or nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.Dropout()
        self.bare = nn.BatchNorm2d(4, track_running_stats=False)
        self.relu = nn.ReLU(inplace=True)
        self.course = course

    def forward(self, x):
        return self.course(self, x)


def other_users(net, x):
    z = net.layer(x)
    return net.norm(z) + z


def scaled_sum(net, x):
    return torch.add(net.norm(net.layer(x)), x, alpha=2)


def in_place_first(net, x):
    z = net.layer(x)
    return z + net.relu(x)


@pytest.mark.parametrize(
    ("course", "expected"),
    [
        (lambda net, x: net.norm(net.drop(net.layer(x))), "norm"),
        (lambda net, x: net.norm(torch.relu(net.layer(x))), None),
        (lambda net, x: net.bare(net.layer(x)), None),
        (lambda net, x: net.norm(net.layer(net.norm(x))), None),
        (lambda net, x: net.layer(x) + 1.0, None),
        (lambda net, x: net.layer(net.layer(x)) + x, None),
        (other_users, None),
        (scaled_sum, "norm"),
        (in_place_first, None),
    ],
)
def test_nothing_is_claimed_that_is_not_so(course, expected):
    _, found = around(Uses(course))
    surrounding = found.get("layer", Surrounding())
    assert surrounding.norm == expected
    assert surrounding.other is None


def test_batch_norms_of_sequences_are_not_those_of_the_outputs():
    model = nn.Sequential(nn.Linear(5, 5), nn.BatchNorm1d(5))
    graph = traced(model.eval(), ["0"], (torch.randn(2, 5, 5),))
    assert surroundings(graph, ["0"])["0"].norm == "1"
    assert surroundings(graph, []) == {}


class Constant(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.scale = nn.Linear(4, 4), nn.Parameter(torch.tensor(2.0))

    def forward(self, x, y=None, *, z=0.5):
        h = torch.cat([self.layer(x), x], dim=1)[:, 2:6]
        h = h * torch.tensor([1.0, 2.0, 3.0, 4.0]) * self.scale
        h = h if y is None else h + y
        return nn.functional.gelu(h, approximate="tanh").add_(z)


def in_place(net, x):
    h = net.relu(net.layer(x))
    h += x
    h = net.relu(h)
    return torch.cat([h, net.norm(h)], dim=1)


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x, y):
        return torch.where(y > 0, self.layer(x), y)


@pytest.mark.parametrize(
    ("model", "batches"),
    [
        (Block(operator.iadd), [(X,), (2 * X[:2],)]),
        (Block(operator.add, "projection"), [(X,)]),
        (Uses(in_place), [(X,), (-X,)]),
        (Constant(), [(X[:, 0, 0, :4],)]),
        (Two(), [(X[:, 0, 0, :4], X[:, 1, 0, :4]), (X[:1, 0, 0, :4], X[:1, 1, 0, :4])]),
    ],
    ids=["block", "projection", "in place", "constant", "two inputs"],
)
def test_the_values_are_those_of_plain_forwards(model, batches):
    """Compared with torch's own interpreter, node by node, and nothing given is written to."""
    torch.manual_seed(0)
    model.eval()
    ours = copy.deepcopy(model)
    with torch.no_grad():
        for p in ours.parameters():
            p.add_(0.1 * torch.randn_like(p))
    given = copy.deepcopy(batches)
    graph = traced(model, ["layer"] if hasattr(model, "layer") else ["first"], batches[0])
    walk = Walk(graph, ours, batches)
    last, outputs = 0, None
    for _ in walk.nodes():
        last = max(last, len(walk._values))
        outputs = walk
    (out,) = [node for node in graph.graph.nodes if node.op == "output"]
    assert list(outputs._values) == [out.args[0]], "all else is forgotten"
    assert last <= 4
    with torch.no_grad():
        for k, batch in enumerate(batches):
            for value, net in zip(walk.value(out.args[0]), (model, ours), strict=True):
                torch.testing.assert_close(value[k], net(*copy.deepcopy(batch)), rtol=1e-6, atol=1e-6)
    for a, b in zip(batches, given, strict=True):
        assert all(torch.equal(p, q) for p, q in zip(a, b, strict=True))


def test_each_node_as_torch_interprets_it():
    model = Block(operator.add, "padded").eval()
    graph = traced(model, ["first"], (X,))
    seen = {}

    class Notes(fx.Interpreter):
        def run_node(self, n):
            seen[n.name] = super().run_node(n)
            return seen[n.name]

    Notes(graph).run(X)
    walk = Walk(graph, copy.deepcopy(model), [(X,)])
    for node in walk.nodes():
        for needed in node.all_input_nodes:
            for value in walk.value(needed):
                torch.testing.assert_close(value[0], seen[needed.name])


class Branching(nn.Module):
    """Its course depends on the data, and it writes into its input."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        x += 1
        return self.layer(x) if x.sum() > 0 else x


class Batchwise(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        return self.layer(x) if isinstance(x, torch.Tensor) else self.layer(x) * 2


def test_what_cannot_be_traced_goes_into_a_box():
    model, x = Branching().eval(), torch.randn(3, 4)
    assert traced(model, ["layer"], (x,)) is None
    assert traced(Batchwise().eval(), ["layer"], (x,)) is None, "traced, but something else"
    assert traced(nn.Linear(4, 4).eval(), [""], (x,)) is None, "no module is called"
    given = x.clone()
    graph, ours = boxed(model, 1), nn.ModuleDict({"network": copy.deepcopy(model)})
    walk = Walk(graph, ours, [(x,)])
    (node,) = walk.nodes()
    assert torch.equal(x, given)
    with torch.no_grad():
        expected = model(x.clone())
    walk = Walk(graph, ours, [(x,)])
    for found in walk.nodes():
        assert found.target == node.target
        for _ in range(2):  # each run sees the same
            assert torch.equal(walk.run(found, "dense", 0), expected)
