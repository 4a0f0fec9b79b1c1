"""The page on degeneracy: its tensors are what they claim, its numbers are right, and what misses a goal is shown."""

import math

import numpy as np
import pytest

import tensorring as tg
from benchmarks import degeneracy, known, run
from benchmarks.degeneracy import Fitted, Pair


def made(error=1.0, size=1.0, seconds=2.0, ratio=4, name="layer1.weight") -> Pair:
    """A kernel: the plain fit has error 0.5, terms of 8 and took a second."""
    return Pair(
        "resnet20", name, ratio, 3, Fitted(0.5, 8.0, 1.0), Fitted(0.5 * error, size, seconds), Fitted(0.5, 8.0, 1.0)
    )


@pytest.fixture
def networks(tmp_path):
    """Files of two networks of two small kernels each, one convolution that is none of a block, and a bias."""
    rng = np.random.default_rng(0)
    shapes = {
        "conv1.weight": (4, 3, 3, 3),
        "layer1.0.conv1.weight": (6, 5, 3, 3),
        "layer2.0.conv2.weight": (8, 6, 3, 3),
    }
    for network in degeneracy.NETWORKS:
        arrays = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
        np.savez(tmp_path / f"cifar10_{network}.npz", **arrays, **{"layer1.0.bn1.bias": np.zeros(6)})
    return tmp_path


@pytest.mark.parametrize("shape", [(2, 2, 2), (2, 3, 4), (3, 1, 2)])
def test_the_product_tensor_multiplies(shape) -> None:
    m, n, p = shape
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((m, n)), rng.standard_normal((n, p))
    product = np.tensordot(np.tensordot(known.product_tensor(m, n, p), a.ravel(), (0, 0)), b.ravel(), (0, 0))
    np.testing.assert_allclose(product.reshape(p, m).T, a @ b, atol=1e-14)


@pytest.mark.parametrize("t", [0.5, 0.1, 0.01])
def test_the_law_of_w_is_that_of_the_family_it_names(t) -> None:
    # α·((a + t·b)^⊗3 − (a − t·b)^⊗3) with 2·α·t = 1
    u = np.array([[1.0, 1.0], [t, -t]])
    fit = tg.CPTensor([1 / (2 * t), -1 / (2 * t)], [u, u, u])
    w = known.w_tensor()
    error = np.linalg.norm(fit.to_dense() - w) / np.linalg.norm(w)
    assert error == pytest.approx(t**2 / math.sqrt(3), rel=1e-10)
    assert (known.norm_ratio(fit, w) * np.linalg.norm(w)) ** 2 == pytest.approx(known.w_law(error), rel=1e-10)


def test_norm_ratio_sees_weights_signs_and_factors() -> None:
    x = tg.random.cp((3, 4, 5), rank=2, rng=0).to_dense()
    t = tg.CPTensor([3.0, -4.0], [np.eye(3, 2) * 2, np.eye(4, 2), np.eye(5, 2) / 2])
    assert known.norm_ratio(t, x) == pytest.approx(5 / np.linalg.norm(x))
    assert known.norm_ratio(tg.balance(t), x) == pytest.approx(5 / np.linalg.norm(x))


def test_cubes_without_a_best_fit_grow_by_plain_sweeps() -> None:
    (x,) = known.without_best_fit(1)
    sizes = known.growth(x, 2, (100, 1_000, 4_000))
    assert sizes[0] < sizes[1] < sizes[2]
    assert sizes[2] > 1.7 * sizes[1], "like the root of the number of sweeps"


def test_a_row_adds_up() -> None:
    group = [made(1.0, 1.0), made(1.02, 2.0, 4.0), made(0.98, 2.7, 3.0)]
    text = degeneracy.summary(group)
    assert text[:6] == ("resnet20", 4, 3, "1.0000", "1.0200", 1)
    assert text[6:10] == ("8.00", "8.00", "2.00", "2.70")
    assert text[10:13] == ("33%", "67%", "100%")
    assert text[13:16] == ("3.0", "9.0", "3.00")
    assert text[16:] == ("1.0000", "1.0200", "8.00", "3.0")


def verdicts(group) -> list[bool]:
    """Met or not: all, most, time."""
    return ["met" in seen for *_, seen in degeneracy.goals(group)]


def test_goals_are_met_only_where_they_are() -> None:
    assert verdicts([made()] * 5) == [True, True, True]
    assert verdicts([made()] * 4 + [made(size=2.4)]) == [True, True, True], "80 % within 1.5 are enough"
    assert verdicts([made()] * 3 + [made(size=2.4)] * 2) == [True, False, True]
    assert verdicts([made()] * 4 + [made(size=2.6)]) == [False, True, True]
    assert verdicts([made()] * 4 + [made(error=1.011)]) == [False, True, True], "a small norm at a larger error is none"
    assert verdicts([made(seconds=3.1)]) == [True, True, False]
    assert verdicts([made(ratio=2, size=2.9)]) == [True, True], "at a half: 3 on all, and the time"


def test_ranks_keep_the_ratio() -> None:
    assert degeneracy.rank_at((64, 64, 9), 4) == 67
    assert degeneracy.rank_at((1, 1, 1), 6) == 1


def test_kernels_come_from_files_and_misses_are_listed(networks, monkeypatch) -> None:
    monkeypatch.setattr(degeneracy, "SWEEPS", 30)
    monkeypatch.setattr(degeneracy, "ALL", dict.fromkeys(degeneracy.RATIOS, 0.0))  # which nothing can keep
    text = degeneracy.run("kernels", networks)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.split("\n\n")[0].splitlines()[2:]]
    assert [row[:3] for row in rows] == [[n, str(r), "2"] for n in degeneracy.NETWORKS for r in degeneracy.RATIOS]
    assert "above the goal for all: 12." in text
    assert text.count("layer1.0.conv1.weight") == text.count("layer2.0.conv2.weight") == 6
    assert "conv1.weight | " not in text.replace("layer1.0.conv1.weight", "")
    few = degeneracy.run("kernels", networks, 1)
    assert [line.split("|")[3].strip() for line in few.split("\n\n")[0].splitlines()[2:]] == ["1"] * 6


def test_without_data_the_page_says_so() -> None:
    assert degeneracy.run("kernels", None).startswith("Not run")


def test_a_sweep_costs_something() -> None:
    rows = degeneracy.sweeps(count=2, rounds=1).splitlines()[2:]
    assert len(rows) == 4
    for row in rows:
        plain, corrected, ratio = (float(cell) for cell in row.split("|")[2:5])
        assert plain > 0
        assert ratio == pytest.approx(corrected / plain, rel=0.05)


def test_the_page_is_one_of_them(monkeypatch, tmp_path) -> None:
    called = []
    monkeypatch.setattr("benchmarks.run.degeneracy.main", called.append)
    monkeypatch.setattr("sys.argv", ["run", "--only", "degeneracy", "--data", str(tmp_path)])
    run.main()
    assert called == [tmp_path]
