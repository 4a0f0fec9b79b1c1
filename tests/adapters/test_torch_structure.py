"""How the adapter is built: who imports whom, what it leaves to the core, and the counts that searches rely on."""

import ast
import itertools
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorring_torch as tgt
import torch
from hypothesis import given
from hypothesis import strategies as st
from tensorring_torch.forms import cp, cut, tr, tucker
from tensorring_torch.geometry import Call, Geometry
from tensorring_torch.modules import dense_weight, sequence
from tensorring_torch.plan import Link, Plan
from torch import nn

import tensorring as tg

FOLDER = pathlib.Path(tgt.__file__).parent
FILES = sorted(FOLDER.rglob("*.py"))
# Each layer imports from those before it.
LAYERS = [
    {"geometry", "training.carry_over", "replace", "score", "table"},
    {"attention", "plan", "kinds", "layout"},
    {"modules", "patches"},
    {"forms.btd", "forms.cp", "forms.cut", "forms.tr", "forms.tucker"},
    {"chain", "checks", "training.weakened"},
    {"tt_linear", "factored"},
    {"layer", "training.average", "training.batches", "training.recipe"},
    {"budget", "cut_report", "report", "training.optimizer", "training.result", "training.sensitivity"},
    {"trace", "latency", "training.step", "training.orthogonality"},
    {"training.comparison"},
    {"search", "select", "calibration.data", "calibration.fits", "calibration.moments"},
    {
        "tolerance",
        "calibration.curves",
        "calibration.graph",
        "calibration.observe",
        "calibration.parts",
        "calibration.walk",
    },
    {"norms", "training.factorize", "training.influence", "training.rank_search", "training.recompress"},
    {
        "checkpoint",
        "equivalent",
        "calibration.allocation",
        "calibration.measured",
        "calibration.reconstruct",
        "calibration.sequence",
    },
    {"training.resume"},
    {"training.run", "calibration.study"},
    {"budgeted", "training.expand"},
    {"compressibility", "model", "training.fine_tune", "training.fold"},
    {"training.schedule"},
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
    if name_of(file) in ("__init__", "calibration", "forms", "training"):
        return
    (level,) = (k for k, layer in enumerate(LAYERS) if name_of(file) in layer)
    assert own(file) <= set().union(*LAYERS[:level])
    if file.parent.name == "forms":
        roots = {name.split(".")[0] for name in imported(file)} - set(sys.stdlib_module_names)
        assert roots <= {"numpy", "torch", "tensorring", "tensorring_torch"}
        assert own(file) <= {"geometry", "modules", "plan"}


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
    size = shape[2:]
    assert tr.links(shape, ranks) == tuple(kernel.link for kernel in tr.kernels(ring, size))
    assert len(tucker.kernels(tg.random.tucker(shape, ranks=ranks, rng=0), size)) == 3
    cuts = [tg.cut_svd(ring.to_dense(), modes=modes, ranks=2).tensor for modes in cut.modes(4)]
    assert all(len(cut.kernels(tensor, size)) == 2 for tensor in cuts)
    out, into, rank = shape[0], shape[1], ranks[0]
    links = [kernel.link for kernel in cp.kernels(tg.random.cp(shape, rank=rank, rng=0), size)]
    columns, rows = Link(rank, rank, (size[0], 1), rank), Link(rank, rank, (1, size[1]), rank)
    assert links == [Link(rank, into, (1, 1)), columns, rows, Link(out, rank, (1, 1))]
    assert columns.then(rows) == Link(rank, rank, size, rank)


@pytest.mark.parametrize("minimize", ["macs", "parameters", "time"])
@given(st.tuples(*[st.integers(1, 20)] * 4), st.integers(0, 3), st.integers(1, 2))
def test_the_cost_of_a_ring_never_falls_where_a_rank_grows(minimize, ranks, which, groups):
    conv = nn.Conv2d(12, 8, 3, stride=2, padding=1, groups=groups)
    cost = tr.cost(Geometry.of(conv), (Call(1, (9, 12)),), minimize)
    shape = tuple(conv.weight.shape)
    grown = tuple(rank + (k == which) for k, rank in enumerate(ranks))
    assert cost(shape, ranks) <= cost(shape, grown)


@st.composite
def anything(draw):
    """Links that need not fit to each other, and some that nearly do: 2 channels to 6, all kinds of groups between."""
    if draw(st.booleans()):
        size = st.tuples(*[st.sampled_from([1, 2, 3])] * draw(st.sampled_from([2, 2, 2, 0, 1, 3])))
        return draw(st.lists(st.tuples(*[st.integers(1, 6)] * 2, size, st.integers(1, 3)), max_size=5))
    channels = [2, *draw(st.lists(st.sampled_from([2, 4, 6]), min_size=1, max_size=3)), draw(st.sampled_from([3, 6]))]
    sizes = [(3, 2)] + [(1, 1)] * (len(channels) - 2) if draw(st.booleans()) else [(1, 2), (3, 1), *[(1, 1)] * 4]
    sizes = draw(st.permutations(sizes[: len(channels) - 1]))
    groups = [*(draw(st.sampled_from([1, 2, 4, 6])) for _ in channels[2:]), 1]
    return [(b, a, size, g) for (a, b), size, g in zip(itertools.pairwise(channels), sizes, groups, strict=True)]


@given(anything(), st.integers(1, 3))
def test_links_from_anywhere_are_a_chain_or_an_error(links, blocks):
    """A plan that is accepted can be built, runs, and makes the kernel that it says; files rely on it."""
    groups = 2
    dense = nn.Conv2d(2 * groups, 6, (3, 2), stride=(2, 1), padding=1, groups=groups, bias=False)
    for ends in ([Link(4, 2, (3, 1))], []):
        try:
            plan = Plan(Geometry.of(dense), (*ends, *(Link(*link) for link in links)), blocks)
        except ValueError:
            continue
        assert plan.parameters == sum(stage.conv.parameters for stage in plan.stages)
        weights = [nn.Parameter(torch.randn(stage.conv.weight_shape)) for stage in plan.stages]
        x = torch.randn(2, 2 * groups, 7, 7)
        with torch.no_grad():
            dense.weight.copy_(dense_weight(plan, weights))
            torch.testing.assert_close(sequence(plan, weights, None)(x), dense(x), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("form", ["tr", "cp4", "tucker-cp"])
def test_every_way_to_merge_is_counted_right(form):
    conv = nn.Conv2d(6, 8, (3, 2), stride=2, padding=1, groups=2)
    core = tg.random.cp((4, 2, 6), rank=5, rng=0)
    tensor, blocks = {
        "tr": (tg.random.tr((8, 3, 3, 2), ranks=(2, 3, 4, 5), rng=0), 1),
        "cp4": (tg.random.cp((8, 3, 3, 2), rank=5, rng=0), 1),
        "tucker-cp": (tgt.TuckerCPTensor(core, np.ones((4, 4)), np.ones((3, 2))), 2),
    }[form]
    links = tuple(kernel.link for kernel in tgt.chain._kernels(tensor, (3, 2)))
    whole = Plan(Geometry.of(conv), links, blocks)
    calls = (Call(2, (9, 8)), Call(1, (5, 7)))
    for count in range(len(links)):
        for rest in itertools.combinations(range(1, len(links)), count):
            plan = whole.merged((0, *rest))
            total = 0
            for batch, size in calls:
                for stage in plan.stages:
                    total += batch * stage.riders * stage.conv.multiply_adds(size)
                    size = stage.conv.outputs(size)
            assert plan.multiply_adds(calls) == total
            assert plan.parameters == sum(stage.conv.parameters for stage in plan.stages)
            assert plan.cost(calls, "macs") >= whole.cheapest(calls, "macs")[0]
