"""How the adapter is built: who imports whom, what it leaves to the core, and the counts that searches rely on."""

import ast
import itertools
import pathlib
import subprocess
import sys

import pytest
import tensorring_torch as tgt
import torch
from hypothesis import given
from hypothesis import strategies as st
from tensorring_torch.forms import cut, tr, tucker
from tensorring_torch.geometry import Call, Geometry, Link, Plan
from tensorring_torch.modules import dense_weight, sequence
from torch import nn

import tensorring as tg

FOLDER = pathlib.Path(tgt.__file__).parent
FILES = sorted(FOLDER.rglob("*.py"))
# Each layer imports from those before it.
LAYERS = [
    {"geometry"},
    {"modules"},
    {"forms.cut", "forms.tr", "forms.tucker"},
    {"chain", "checks"},
    {"layer"},
    {"replace", "report"},
    {"trace"},
    {"checkpoint"},
    {"model"},
]


def name_of(file):
    return ".".join(file.relative_to(FOLDER).with_suffix("").parts).removesuffix(".__init__")


def imported(file):
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own(file):
    names = {name.removeprefix("tensorring_torch.") for name in imported(file) if name.startswith("tensorring_torch.")}
    return names & set().union(*LAYERS)


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_each_file(file):
    assert len(file.read_text().splitlines()) <= 300
    names = {node.attr for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Attribute)}
    assert not names & {"svd", "svdvals", "svd_lowrank", "eigh", "eigvalsh", "qr", "lstsq", "solve", "pinv"}
    assert not any(name.startswith("tensorring.") for name in imported(file)), "the public names alone"
    if name_of(file) in ("__init__", "forms"):
        return
    (level,) = (k for k, layer in enumerate(LAYERS) if name_of(file) in layer)
    assert own(file) <= set().union(*LAYERS[:level])
    if file.parent.name == "forms":
        roots = {name.split(".")[0] for name in imported(file)} - set(sys.stdlib_module_names)
        assert roots <= {"numpy", "torch", "tensorring", "tensorring_torch"}
        assert own(file) <= {"geometry", "modules"}


def test_functions_are_short_and_typed():
    for file, node in ((f, n) for f in FILES for n in ast.walk(ast.parse(f.read_text()))):
        if isinstance(node, ast.FunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            assert not body or node.end_lineno - body[0].lineno < 40, f"{file.name}: {node.name}"
            assert node.returns is not None, f"{file.name}: {node.name}"


def test_tensorring_alone_does_not_load_torch():
    code = "import sys, tensorring; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@given(st.tuples(*[st.integers(1, 6)] * 4), st.tuples(*[st.integers(1, 5)] * 4))
def test_links_are_the_shapes_of_the_kernels(shape, ranks):
    ring = tg.random.tr(shape, ranks=ranks, rng=0)
    assert tr.links(shape, ranks) == tuple(Link(*kernel.shape) for kernel in tr.kernels(ring))
    assert len(tucker.kernels(tg.random.tucker(shape, ranks=ranks, rng=0))) == 3
    assert all(len(cut.kernels(tg.cut_svd(ring.to_dense(), modes=modes, ranks=2).tensor)) == 2 for modes in cut.MODES)


@pytest.mark.parametrize("minimize", ["macs", "parameters", "time"])
@given(st.tuples(*[st.integers(1, 20)] * 4), st.integers(0, 3), st.integers(1, 2))
def test_the_cost_of_a_ring_never_falls_where_a_rank_grows(minimize, ranks, which, groups):
    conv = nn.Conv2d(12, 8, 3, stride=2, padding=1, groups=groups)
    cost = tr.cost(Geometry.of(conv), (Call(1, (9, 12)),), minimize)
    shape = tuple(conv.weight.shape)
    grown = tuple(rank + (k == which) for k, rank in enumerate(ranks))
    assert cost(shape, ranks) <= cost(shape, grown)


@given(st.lists(st.tuples(*[st.integers(1, 6)] * 2, *[st.sampled_from([1, 2, 3])] * 2), max_size=5), st.integers(1, 3))
def test_links_from_anywhere_are_a_chain_or_an_error(links, blocks):
    """A plan that is accepted can be built, runs, and makes the kernel that it says; files rely on it."""
    groups = 2
    dense = nn.Conv2d(2 * groups, 6, (3, 2), stride=(2, 1), padding=1, groups=groups, bias=False)
    for ends in ([Link(4, 2, 3, 1)], []):
        try:
            plan = Plan(Geometry.of(dense), (*ends, *(Link(*link) for link in links)), blocks)
        except ValueError:
            continue
        weights = [nn.Parameter(torch.randn(stage.conv.weight_shape)) for stage in plan.stages]
        x = torch.randn(2, 2 * groups, 7, 7)
        with torch.no_grad():
            dense.weight.copy_(dense_weight(plan, weights))
            torch.testing.assert_close(sequence(plan, weights, None)(x), dense(x), rtol=1e-4, atol=1e-3)


def test_every_way_to_merge_is_counted_right():
    conv = nn.Conv2d(6, 8, (3, 2), stride=2, padding=1, groups=2)
    ring = tg.random.tr(tuple(conv.weight.shape), ranks=(2, 3, 4, 5), rng=0)
    whole = Plan(Geometry.of(conv), tr.links(ring.shape, ring.ranks))
    calls = (Call(2, (9, 8)), Call(1, (5, 7)))
    for count in range(4):
        for rest in itertools.combinations(range(1, 4), count):
            plan = whole.merged((0, *rest))
            total = 0
            for batch, size in calls:
                for stage in plan.stages:
                    total += batch * stage.riders * stage.conv.multiply_adds(size)
                    size = stage.conv.outputs(size)
            assert plan.multiply_adds(calls) == total
            assert plan.parameters == sum(stage.conv.parameters for stage in plan.stages)
            assert plan.cost(calls, "macs") >= whole.cheapest(calls, "macs")[0]
