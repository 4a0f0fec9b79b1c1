"""The architecture, read from the source: layers, imports, sizes, light start, examples that run."""

import ast
import doctest
import importlib
import inspect
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import tensorring as tg

ROOT = Path(__file__).resolve().parent.parent
EDGES = ("io", "plot", "progress", "testing", "interop", "cli")
LAYERS = [
    ("_array", "_kernels", "_threads"),
    ("linalg", "_knapsack"),
    ("contract",),
    ("tensors",),
    ("algebra", "random", "ranks", "diagnostics"),
    ("decompose",),
    ("rounding", "convert", "compress", "allocate", "_containers"),
    EDGES,
    ("__init__",),
]
LAYER = {area: number for number, areas in enumerate(LAYERS) for area in areas}
HEAVY = ("torch", "dask", "cupy", "numba", "matplotlib", "sklearn", "hypothesis", "array_api_strict", "tqdm")


def _sources(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


CORE, TORCH = _sources("tensorring"), _sources("adapters/tensorring_torch")


def _name(path: Path) -> str:
    """`tensorring.linalg.svd`; a package goes by its own name."""
    parts = path.relative_to(ROOT / "adapters" if "adapters" in path.parts else ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {_name(path): path for path in CORE + TORCH}


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _nodes(node: ast.AST) -> Iterator[ast.AST]:
    """Every node, but for what only a type checker sees."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        yield child
        yield from _nodes(child)


@cache
def _imports(path: Path) -> frozenset[str]:
    """The modules that a file imports, wherever in it; `from package import module` is the module."""
    found = set()
    for node in _nodes(_tree(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the layer"
            for alias in node.names:
                module = f"{node.module}.{alias.name}"
                found.add(module if module in NAMES else str(node.module))
    return frozenset(found)


def _area(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def _top(module: str) -> str:
    return module.split(".", maxsplit=1)[0]


@pytest.mark.parametrize("path", CORE, ids=_name)
def test_imports_point_down(path) -> None:
    area = _area(_name(path))
    assert area in LAYER, f"{area} has no layer: give it one here and in docs/design.md"
    for module in _imports(path):
        assert _top(module) not in ("tensorring_torch", "tensorring_dask"), "adapters stand above the core"
        if _top(module) == "tensorring" and _area(module) != area:
            assert LAYER[_area(module)] < LAYER[area], f"{_name(path)} imports {module}, which is no layer below"


def test_there_are_no_circles() -> None:
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join((*trail[trail.index(name) :], name))
        if name not in done:
            for module in _imports(NAMES[name]):
                # A contents page may be asked for by its own modules' neighbours, never by what it lists.
                if module in NAMES:
                    visit(module, (*trail, name))
            done.add(name)

    for name in NAMES:
        visit(name, ())


def test_the_circle_finder_sees_what_there_is() -> None:
    """The tests above read real imports."""
    assert "tensorring.linalg.rank" in _imports(NAMES["tensorring.linalg.basis"])
    assert "tensorring.random" in _imports(NAMES["tensorring"])
    assert sum(len(_imports(path)) for path in CORE) > 100


@pytest.mark.parametrize("path", CORE, ids=_name)
def test_special_imports_have_one_place(path) -> None:
    area, tops = _area(_name(path)), {_top(module) for module in _imports(path)}
    assert "array_api_compat" not in tops or area == "_array"
    assert not tops & {"numba", "llvmlite"} or area == "_kernels"
    assert "threadpoolctl" not in tops or area == "_threads"
    assert "matplotlib" not in tops or area == "plot"
    assert "hypothesis" not in tops or area == "testing"
    assert "safetensors" not in tops or area in ("io", "_containers")
    assert not tops & {"torch", "dask", "cupy", "jax", "sklearn", "pickle", "array_api_strict"}


@pytest.mark.parametrize("path", [path for path in CORE if _area(_name(path)) not in ("_array", "_kernels")], ids=_name)
def test_nothing_but_the_lowest_layer_tests_for_a_namespace(path) -> None:
    for node in _nodes(_tree(path)):
        if isinstance(node, ast.Attribute):
            assert not (node.attr.startswith("is_") and node.attr.endswith(("_namespace", "_array"))), node.attr
            assert node.attr != "__array_namespace__"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "isinstance":
            assert "ndarray" not in ast.unparse(node), f"line {node.lineno}: {ast.unparse(node)}"
        if isinstance(node, ast.Compare):
            text = ast.unparse(node)
            assert not ("__name__" in text and "xp" in text), text


@pytest.mark.parametrize("path", CORE, ids=_name)
def test_files_never_execute_code(path) -> None:
    for node in _nodes(_tree(path)):
        if isinstance(node, ast.Call):
            assert ast.unparse(node.func) not in ("eval", "exec", "np.load", "compile"), node.lineno
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            assert isinstance(node.value, ast.Constant)
            assert node.value.value is False


@pytest.mark.parametrize("path", CORE + TORCH, ids=_name)
def test_files_can_be_read_in_one_sitting(path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 300


@pytest.mark.parametrize("path", [path for path in CORE + TORCH if path.name != "__init__.py"], ids=_name)
def test_every_file_says_what_it_is_for(path) -> None:
    assert ast.get_docstring(_tree(path))


# The adapter measures, asks the core, and builds layers.


@pytest.mark.parametrize("path", TORCH, ids=_name)
def test_the_adapter_leaves_linear_algebra_to_the_core(path) -> None:
    for node in _nodes(_tree(path)):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func).rsplit(".", maxsplit=1)[-1]
            forbidden = ("svd", "svdvals", "svd_lowrank", "pca_lowrank", "eigh", "eig", "qr", "lstsq", "solve", "pinv")
            assert called not in forbidden, f"line {node.lineno} calls {called}"


@pytest.mark.parametrize("path", TORCH, ids=_name)
def test_the_adapter_uses_public_names_alone(path) -> None:
    public = {"tensorring", "tensorring.random", "tensorring.testing"}
    ours = {module for module in _imports(path) if _top(module) == "tensorring"}
    assert ours <= public
    for node in _nodes(_tree(path)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "tg":
            assert node.attr in tg.__all__, f"line {node.lineno}: tg.{node.attr} is not public"


@pytest.mark.parametrize("path", [path for path in TORCH if path.parent.name == "forms"], ids=_name)
def test_forms_know_geometry_and_modules_only(path) -> None:
    standard = set(sys.stdlib_module_names)
    others = {module for module in _imports(path) if _top(module) not in standard}
    allowed = {"torch", "numpy", "tensorring"}
    allowed |= {f"tensorring_torch.{name}" for name in ("geometry", "modules", "plan")}
    allowed |= {"tensorring_torch.forms"} if path.name == "__init__.py" else set()
    assert {module for module in others if _top(module) != "torch"} <= allowed


# What a user meets first.


def _loaded(statement: str) -> set[str]:
    code = f"{statement}\nimport sys\nprint(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT / "tests")
    return set(done.stdout.split())


def test_importing_is_light() -> None:
    loaded = _loaded("import tensorring, tensorring.io, tensorring.testing")
    assert "numpy" in loaded
    assert not loaded & set(HEAVY)


def test_a_first_decomposition_loads_nothing_heavy_either() -> None:
    loaded = _loaded("import tensorring as tg, numpy; tg.tt_svd(numpy.ones((2, 3, 4)), tol=0.1)")
    assert not loaded & set(HEAVY)


def test_strategies_are_loaded_when_asked_for() -> None:
    assert "hypothesis" in _loaded("from tensorring.testing import tensors")


def test_the_contents_page_lists_what_it_offers() -> None:
    assert len(set(tg.__all__)) == len(tg.__all__)
    offered = {name for name, value in vars(tg).items() if not name.startswith("_") and not inspect.ismodule(value)}
    assert offered <= set(tg.__all__)
    for name in tg.__all__:
        assert getattr(tg, name) is not None


def _public_objects() -> dict[str, object]:
    """Everything that a user may call, by the name that they call it."""
    from tensorring import linalg, testing

    found = {f"tg.{name}": getattr(tg, name) for name in tg.__all__}
    found |= {f"tg.random.{name}": getattr(tg.random, name) for name in ("cp", "tucker", "tt", "tr")}
    found |= {f"testing.{name}": getattr(testing, name) for name in testing.__all__}
    found |= {f"linalg.{name}": getattr(linalg, name) for name in ("error_floor", "truncated_svd")}
    return {name: value for name, value in found.items() if not inspect.ismodule(value)}


@pytest.mark.parametrize("name", _public_objects())
def test_every_public_name_has_a_docstring_with_an_example(name) -> None:
    doc = inspect.getdoc(_public_objects()[name]) or ""
    assert doc.splitlines()[0].endswith((".", ":"))
    assert ">>>" in doc, f"{name} has no example"


@pytest.mark.parametrize("name", [name for name in NAMES if _top(name) == "tensorring"])
def test_examples_run(name) -> None:
    module = importlib.import_module(name)
    failed, _ = doctest.testmod(module, optionflags=doctest.ELLIPSIS)
    assert failed == 0


@pytest.mark.parametrize("name", [name for name in NAMES if _top(name) == "tensorring_torch"])
def test_examples_of_the_adapter_run(name) -> None:
    pytest.importorskip("torch")
    failed, _ = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert failed == 0


def test_doctest_finds_the_examples_of_public_names() -> None:
    """A decorator that hides a docstring would hide its example from the test above."""
    finder = doctest.DocTestFinder(exclude_empty=True)
    found = set()
    for name in NAMES:
        if _top(name) == "tensorring":
            found |= {
                test.name.rsplit(".", 1)[-1] for test in finder.find(importlib.import_module(name)) if test.examples
            }
    assert {name.rsplit(".", 1)[-1] for name in _public_objects()} <= found


def test_typing_is_shipped() -> None:
    assert (ROOT / "tensorring" / "py.typed").exists()
