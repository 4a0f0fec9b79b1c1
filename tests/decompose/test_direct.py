"""What the direct methods promise beyond the contract: which ranks they find, and that nothing is left on the table."""

import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tensorring as tg
from tensorring.testing import check_result, tensors
from tensorring.testing.samples import VALUES


def published_tr(x, tol):
    """The published reduced-storage search, written down plainly: shifts, divisors, p²/(d−1) of the shrinking norm."""
    d, best = x.ndim, math.inf

    def cut(matrix):
        _, s, vh = np.linalg.svd(matrix, full_matrices=False)
        tail = np.append(np.cumsum(s[::-1] ** 2)[::-1], 0.0)
        rank = max(1, int(np.argmax(tail <= tol**2 / (d - 1) * tail[0])))
        return rank, s[:rank, None] * vh[:rank]

    for shift in range(d):
        y = np.transpose(x, [(shift + k) % d for k in range(d)])
        sizes = y.shape
        rank, rest = cut(y.reshape(sizes[0], -1))
        for r0 in (r for r in range(1, rank + 1) if rank % r == 0):
            bonds = [r0, rank // r0]
            chain = np.moveaxis(rest.reshape(r0, rank // r0, -1), 0, -1).reshape(rank // r0, -1)
            for size in sizes[1:-1]:
                r, chain = cut(chain.reshape(bonds[-1] * size, -1))
                bonds.append(r)
            storage = sum(a * n * b for a, n, b in zip(bonds, sizes, [*bonds[1:], r0], strict=True))
            best = min(best, storage)
    return best


@given(
    x=tensors(ndim=st.integers(3, 4), dtype="float64", scale=1.0, values=st.sampled_from(["gaussian", "decaying"])),
    tol=st.sampled_from([0.1, 0.3, 0.5, 0.8]),
)
def test_reduced_storage_never_stores_more_than_the_published_method(x, tol):
    assert tg.tr_reduced_storage(x, tol=tol).tensor.parameter_count <= published_tr(x, tol)


@given(x=tensors(ndim=st.integers(2, 4)), tol=st.sampled_from([0.0, 0.1, 0.4, 0.7]))
def test_a_larger_search_never_stores_more(x, tol):
    train, ring, reduced = tg.tt_svd(x, tol=tol), tg.tr_svd(x, tol=tol), tg.tr_reduced_storage(x, tol=tol)
    assert reduced.tensor.parameter_count <= train.tensor.parameter_count
    assert ring.tensor.parameter_count <= train.tensor.parameter_count
    smallest = tg.compress(x, tol=tol).tensor.parameter_count
    assert smallest <= min(reduced.tensor.parameter_count, tg.tucker_hosvd(x, tol=tol).tensor.parameter_count)


def test_noise_is_left_out_by_the_first_cut():
    low_rank = tg.random.tucker((60, 60, 60), ranks=6, rng=0).to_dense()
    noise = np.random.default_rng(1).standard_normal(low_rank.shape)
    x = low_rank + 0.1 * np.linalg.norm(low_rank) / np.linalg.norm(noise) * noise
    assert tg.tt_svd(x, tol=0.1).tensor.ranks == (6, 6)
    assert tg.tucker_hosvd(x, tol=0.1).tensor.ranks == (6, 6, 6)


def test_i_plus_j_plus_k_has_train_ranks_two():
    x = np.add.outer(np.add.outer(np.arange(3.0), np.arange(4.0)), np.arange(2.0))
    assert tg.tt_svd(x, tol=1e-12).tensor.ranks == (2, 2)


def test_the_hosvd_of_1_to_27():
    x = np.arange(1.0, 28.0).reshape(3, 3, 3, order="F")
    result = tg.tucker_hosvd(x, tol=1e-4)
    assert result.tensor.ranks == (2, 2, 2)
    assert result.error <= 1e-4


@pytest.mark.parametrize("dtype", ["float32", "complex128"])
def test_numerical_ranks_at_tolerance_zero(dtype):
    x = tg.random.tt((7, 8, 9, 6), ranks=(3, 4, 2), dtype=dtype, rng=3).to_dense()
    assert tg.tt_svd(x, tol=0).tensor.ranks == (3, 4, 2)
    y = tg.random.tucker((7, 8, 9), ranks=(2, 3, 4), dtype=dtype, rng=3).to_dense()
    assert tg.tucker_hosvd(y, tol=0).tensor.ranks == (2, 3, 4)


def test_one_cut_is_the_best_there_is(rng):
    x = rng.standard_normal((5, 6, 4, 3))
    matrix = np.transpose(x, (0, 3, 1, 2)).reshape(15, 24)
    values = np.linalg.svd(matrix, compute_uv=False)
    result = tg.cut_svd(x, modes=(3, 0), ranks=7)
    assert result.tensor.modes == (0, 3)
    np.testing.assert_allclose(result.error, np.linalg.norm(values[7:]) / np.linalg.norm(values), rtol=1e-12)


def test_a_train_that_starts_elsewhere_is_a_ring_with_a_bond_of_one():
    x = tg.random.tt((9, 10, 8, 7), ranks=(3, 2, 4), rng=0).to_dense().transpose(2, 3, 0, 1)
    ring = tg.tr_reduced_storage(x, tol=1e-10).tensor
    assert ring.ranks == (2, 4, 1, 3)
    assert ring.parameter_count == 9 * 3 + 3 * 10 * 2 + 2 * 8 * 4 + 4 * 7


def test_the_exponential_of_algorithms_section_8():
    """exp(cos(x1 x5 + x2 + x3 + x4)) on a grid: trains that start at mode 2 or 5 are an order smaller."""
    g = [np.linspace(0, 1, 10).reshape([-1 if k == m else 1 for k in range(5)]) for m in range(5)]
    x = np.exp(np.cos(g[0] * g[4] + g[1] + g[2] + g[3]))
    natural, best = tg.tt_svd(x, tol=1e-12), tg.tr_reduced_storage(x, tol=1e-12)
    assert natural.tensor.parameter_count > 10 * best.tensor.parameter_count
    assert best.tensor.parameter_count <= 3_820


def test_cost_decides_what_is_made_small(rng):
    x = rng.standard_normal((8, 7, 6))
    by_storage = tg.tr_reduced_storage(x, tol=0.4)
    by_first = tg.tr_reduced_storage(x, tol=0.4, cost=lambda shape, ranks: ranks[0])
    assert by_first.tensor.ranks[0] == 1
    assert by_first.tensor.parameter_count >= by_storage.tensor.parameter_count
    assert min(c.ranks[0] for c in by_first.candidates) == 1
    with pytest.raises(TypeError, match="cost="):
        tg.tr_reduced_storage(x, tol=0.4, cost="storage")


def test_candidates_tell_what_was_tried(rng):
    x = rng.standard_normal((6, 6, 6))
    result = tg.compress(x, tol=0.5)
    # A CP is listed where it is the smallest, as it is here.
    assert [c.format for c in result.candidates] == ["tt", "tucker", "tr", "cp"]
    assert result.tensor.parameter_count == min(c.parameter_count for c in result.candidates)
    ring = tg.tr_svd(x, tol=0.5)
    assert ring.tensor.ranks in [c.ranks for c in ring.candidates]
    chosen = next(c for c in ring.candidates if c.ranks == ring.tensor.ranks)
    np.testing.assert_allclose(chosen.error, ring.error, rtol=1e-12)


def test_ranks_alone_choose_the_split_of_least_error(rng):
    x = rng.standard_normal((4, 6, 5))
    errors = {c.ranks: c.error for c in tg.tr_svd(x, ranks=(3, 3, 4)).candidates}
    result = tg.tr_svd(x, ranks=(3, 3, 4))
    assert all(rank <= cap for rank, cap in zip(result.tensor.ranks, (3, 3, 4), strict=True))
    np.testing.assert_allclose(result.error, min(errors.values()), rtol=1e-10)


def test_none_in_ranks_is_no_cap(rng):
    x = rng.standard_normal((4, 5, 6))
    assert tg.tt_svd(x, ranks=(2, None)).tensor.ranks == (2, 6)
    assert tg.tucker_hosvd(x, ranks=(None, 2, None)).tensor.ranks == (4, 2, 6)
    with pytest.raises(ValueError, match="cap at least one"):
        tg.tt_svd(x, ranks=(None, None))


def test_infeasible_caps_are_lowered_visibly(rng):
    x = rng.standard_normal((2, 3, 2))
    assert tg.tt_svd(x, ranks=100).tensor.ranks == (2, 2)
    assert tg.tucker_hosvd(x, ranks=100).tensor.ranks == (2, 3, 2)


@pytest.mark.parametrize("modes", [(), (0, 1, 2), (3,), (-1,), (0, 0)])
def test_modes_outside_the_tensor_are_refused(modes):
    with pytest.raises(ValueError, match="modes="):
        tg.cut_svd(np.ones((2, 3, 4)), modes=modes, ranks=1)
    with pytest.raises(TypeError, match="modes are ints"):
        tg.cut_svd(np.ones((2, 3, 4)), modes="0", ranks=1)


def test_unknown_formats_are_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"'cpd'.*'tt', 'tucker', 'tr'"):
        tg.compress(np.ones((2, 2)), tol=0.1, formats=["cpd"])
    with pytest.raises(ValueError, match="formats="):
        tg.compress(np.ones((2, 2)), tol=0.1, formats=[])
    assert tg.compress(np.ones((2, 2)), tol=0.1, formats="tr").tensor.format == "tr"


def test_interrupted_compress_returns_the_best_so_far(monkeypatch, rng):
    def interrupted(x, tol, stored):
        raise KeyboardInterrupt

    monkeypatch.setitem(tg.compress.__globals__["_METHODS"], "tucker", interrupted)
    result = tg.compress(rng.standard_normal((4, 4, 4)), tol=0.1)
    assert result.tensor.format == "tt"
    assert result.stop is tg.Stop.interrupted
    monkeypatch.setitem(tg.compress.__globals__["_METHODS"], "tt", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tg.compress(rng.standard_normal((4, 4, 4)), tol=0.1)


@pytest.mark.parametrize("method", [tg.tt_svd, tg.tucker_hosvd])
@pytest.mark.parametrize("tol", [0.1, 1e-12])
def test_memory_stays_within_the_size_of_the_input(method, tol, rng):
    low_rank = tg.random.tucker((200, 200, 200), ranks=20, rng=0).to_dense()
    x = low_rank + 0.1 * np.linalg.norm(low_rank) / 200**1.5 * rng.standard_normal(low_rank.shape)
    method(x[:20, :20, :20].copy(), tol=tol)
    tracemalloc.start()
    result = method(x, tol=tol)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert result.converged
    assert peak <= 1.2 * x.nbytes


def test_partial_tucker_truncates_only_its_modes(rng):
    x = rng.standard_normal((8, 7, 3, 3))
    result = tg.tucker_hosvd(x, tol=0.5, modes=(1, 0))
    assert result.tensor.ranks[2:] == (3, 3)
    assert result.error <= 0.5
    np.testing.assert_array_equal(result.tensor.factors[3], np.eye(3))
    np.testing.assert_allclose(tg.relative_error(x, result.tensor), result.error, rtol=1e-10)
    assert tg.tucker_hosvd(x, ranks=(2, 3), modes=(0, 2)).tensor.ranks == (2, 7, 3, 3)
    with pytest.raises(ValueError, match="modes="):
        tg.tucker_hosvd(x, tol=0.5, modes=(0, 4))


@pytest.mark.parametrize("kind", ["gaussian", "low_rank", "decaying"])
@pytest.mark.parametrize("shape", [(16, 8, 3, 3), (12, 11, 10), (8, 7, 6, 5), (5, 4, 4, 3, 3)])
def test_rings_are_never_larger_than_the_train(shape, kind):
    x = VALUES[kind](shape, False, np.random.default_rng(7))
    for tol in (0.05, 0.1, 0.3, 0.5, 0.7, 0.9):
        train = tg.tt_svd(x, tol=tol).tensor.parameter_count
        assert tg.tr_svd(x, tol=tol).tensor.parameter_count <= train
        assert tg.tr_reduced_storage(x, tol=tol).tensor.parameter_count <= train


@pytest.mark.parametrize(
    ("tol", "dtype"), [(4.5e-7, "float64"), (7e-7, "float64"), (1e-6, "float64"), (0.0104, "float32")]
)
@pytest.mark.parametrize("method", [tg.tt_svd, tg.tucker_hosvd, tg.tr_reduced_storage])
def test_flat_tails_just_above_what_gram_matrices_resolve(method, tol, dtype, rng):
    """Rounding errors of hundreds of small eigenvalues add up; the bound holds all the same."""
    n = 240
    values = np.full(n, 1.8 * tol / np.sqrt(n))
    values[0] = 1.0
    q1, q2 = (np.linalg.qr(rng.standard_normal((n, n))).Q for _ in range(2))
    x = ((q1 * values) @ q2.T).astype(dtype)
    for shape in ((n, n), (12, n // 12, n)):
        result = method(x.reshape(shape), tol=tol)
        assert result.converged, result.error
        check_result(x.reshape(shape), result, tol=tol)


def test_a_norm_beyond_the_dtype_is_refused():
    with pytest.raises(ValueError, match="power of two"):
        tg.tt_svd(np.full((3, 4, 5), np.finfo(np.float32).max), tol=0.1)


def test_numpy_integers_are_ranks(rng):
    x = rng.standard_normal((4, 5, 6))
    assert tg.tt_svd(x, ranks=np.int64(2)).tensor.ranks == tg.tt_svd(x, ranks=np.array([2, 2])).tensor.ranks == (2, 2)
    with pytest.raises(TypeError, match=r"tensor.to_dense\(\)"):
        tg.tt_svd(tg.tt_svd(x, ranks=2), ranks=2)
    with pytest.raises(TypeError, match="formats=3"):
        tg.compress(x, tol=0.1, formats=3)
