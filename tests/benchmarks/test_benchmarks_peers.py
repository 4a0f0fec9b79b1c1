"""The comparison with other libraries, by libraries that are made up: it is fair, and nothing that fails is hidden."""

import sys
from pathlib import Path

import numpy as np
import pytest

import tensorring as tg
from benchmarks import floor, problems
from benchmarks.peers import serve
from benchmarks.peers.client import FailedError, Library
from benchmarks.peers.race import Entry, race, repeats_for
from benchmarks.peers.report import comparison

PEER = """
import os, sys, time
sys.path.insert(0, {folder!r})
from serve import Library, serve

def scaled(x, start, options):
    def run():
        print("what a library prints is no answer")
        with open({log!r}, "a") as log:
            log.write(options["name"] + " ")
        return x * options["factor"]
    return run, lambda result: ("cp", [result[0, :1] * 0 + 1, result[:, :1], result[:1, :].T / result[0, 0]], 7)

def broken(x, start, options):
    raise ValueError("this one cannot\\nfor many reasons")

def dying(x, start, options):
    print("last words", file=sys.stderr, flush=True)
    os._exit(3)

def sleeping(x, start, options):
    time.sleep(60)

serve(Library(["numpy"], {{"scaled": scaled, "broken": broken, "dying": dying, "sleeping": sleeping}}))
"""


@pytest.fixture
def peer(tmp_path, monkeypatch):
    """A library that scales, breaks, dies or sleeps; it writes down when it runs."""
    monkeypatch.setattr("benchmarks.peers.race.PAUSE", 0.0)
    script = tmp_path / "worker.py"
    script.write_text(PEER.format(folder=str(Path(serve.__file__).parent), log=str(tmp_path / "log")))
    made = []

    def start(patience: float = 60.0) -> Library:
        made.append(Library("peer", [sys.executable, str(script)], patience=patience))
        return made[-1]

    yield start
    for library in made:
        library.close()


@pytest.fixture
def tensor(tmp_path):
    """The path of a matrix of rank one."""
    return problems.kept(tmp_path, "x", np.outer([1.0, 2.0, 3.0], [1.0, 4.0]))[0]


def test_libraries_run_in_turn_and_are_judged_alike(peer, tensor, tmp_path) -> None:
    entries = [Entry(peer(), "scaled", {"name": name, "factor": factor}) for name, factor in (("a", 1.0), ("b", 0.5))]
    a, b = race(entries, tensor, None)
    turns = (tmp_path / "log").read_text().split()
    assert turns[:2] == ["a", "b"], "each warms up"
    assert turns[2:] == ["a", "b"] * len(a.seconds)
    assert len(a.seconds) == len(b.seconds) == repeats_for(a.seconds[0]) >= 5
    assert a.result["error"] == pytest.approx(0, abs=1e-15)
    assert b.result["error"] == pytest.approx(0.5)
    assert b.result["sweeps"] == 7


def test_what_fails_says_so_and_stops_nobody_else(peer, tensor) -> None:
    libraries = [peer(), peer(), peer(patience=1.0), Library("absent", ["/no/such/python"]), peer()]
    kinds = ["broken", "dying", "sleeping", "scaled", "unknown"]
    entries = [Entry(library, case, {"name": case}) for library, case in zip(libraries, kinds, strict=True)]
    good = Entry(peer(), "scaled", {"name": "good", "factor": 1.0})
    race([*entries, good], tensor, None)
    messages = [entry.failed for entry in entries]
    assert messages[0] == "ValueError: this one cannot"
    assert messages[1] == "ended with code 3: last words"
    assert messages[2] == "no answer within 1 s"
    assert messages[3].startswith("not installed: No such file")
    assert messages[4] == "NotImplementedError: not there yet: unknown"
    assert good.seconds
    assert not good.failed


def test_a_library_that_died_is_started_again(peer, tensor) -> None:
    library = peer()
    with pytest.raises(FailedError, match="code 3"):
        library.ask("load", job="0", case="dying", x=str(tensor), start=None, options={}, warm=True)
    assert library.ask("hello")["versions"] == {"numpy": np.__version__}


def test_few_runs_of_what_is_slow() -> None:
    assert [repeats_for(seconds) for seconds in (0.0, 0.3, 1.9, 2.1, 11.0)] == [15, 13, 5, 3, 1]


@pytest.mark.parametrize("form", ["cp", "tucker", "tr"])
def test_errors_come_from_the_residual_for_every_format(form) -> None:
    make = getattr(tg.random, form)
    t = make((4, 5, 6, 3), **({"rank": 3} if form == "cp" else {"ranks": 2}), rng=0)
    x, white = t.to_dense(), np.random.default_rng(1).standard_normal(t.shape)
    assert serve.relative_error(x, form, list(t.arrays)) < 1e-14
    y = x + 0.3 * white
    expected = np.linalg.norm(y - x) / np.linalg.norm(y)
    assert serve.relative_error(y, form, list(t.arrays)) == pytest.approx(expected, rel=1e-12)


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(ValueError, match="known are cp"):
        serve.halves("tree", [])


def test_extra_memory_is_what_a_call_touches_beyond_its_input() -> None:
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("peaks of memory are read from /proc")
    try:
        extra = serve.extra_memory(lambda: np.ones(2**23).sum())
    except OSError:
        pytest.skip("the peak cannot be reset here")
    assert 0.9 * 2**26 < extra < 1.5 * 2**26


def test_the_swamps_are_as_they_are_described() -> None:
    for x, rank, target in problems.swamps().values():
        assert 0 < target < 0.01
        assert all(np.linalg.matrix_rank(np.moveaxis(x, m, 0).reshape(x.shape[m], -1)) <= rank for m in range(3))
    columns = problems.collinear((7, 8), 4, 0.9, np.random.default_rng(0), 3)
    for factor in columns:
        gram = factor.T @ factor
        np.testing.assert_allclose(gram[:3, :3], 0.1 * np.eye(3) + 0.9, atol=1e-12)
        np.testing.assert_allclose(np.diag(gram), 1)


def test_the_floor_counts_passes_over_the_tensor(monkeypatch) -> None:
    monkeypatch.setattr(floor, "bandwidth", lambda threads: 1e9)
    monkeypatch.setattr(floor, "matmul", lambda x, columns: 0.25)
    x = np.zeros((20, 20, 20))
    assert floor.cp_floor(x, 2, 1) == floor.Floor(0.5, 0.375)
    assert floor.cp_floor(x, 8, 1).multi_sweep is None, "its partial results are too large"
    monkeypatch.setattr(floor, "bandwidth", lambda threads: x.nbytes / 2.0)
    assert floor.cp_floor(x, 2, 1).two_passes == 4.0


def test_modes_are_contracted_where_they_lie() -> None:
    x, k = np.random.default_rng(0).standard_normal((3, 4, 5)), np.ones((4, 2))
    expected = np.tensordot(x, k, axes=(1, 0))
    np.testing.assert_allclose(floor._columns(x, 1) @ k, expected)
    assert all(np.shares_memory(floor._columns(x, mode), x) for mode in range(3))


def test_tables_keep_what_failed(peer, tensor) -> None:
    ours = Entry(peer(), "scaled", {"name": "ours", "factor": 1.0}, label="ours")
    other = Entry(peer(), "broken", label="other")
    text = comparison([("a case", race([ours, other], tensor, None))])
    assert "- other, a case: ValueError: this one cannot" in text
    assert "| failed" in text
