"""Random tensors: shapes, ranks, dtypes, seeds, and entries of unit variance."""

import numpy as np
import pytest

import tensorring as tg

MAKERS = [
    lambda shape, **options: tg.random.cp(shape, rank=3, **options),
    lambda shape, **options: tg.random.tucker(shape, ranks=3, **options),
    lambda shape, **options: tg.random.tt(shape, ranks=3, **options),
    lambda shape, **options: tg.random.tr(shape, ranks=3, **options),
]


@pytest.fixture(params=MAKERS, ids=["cp", "tucker", "tt", "tr"])
def make(request):
    return request.param


def test_dtypes_and_seeds(make, dtype) -> None:
    t, again, other = make((4, 5, 6), dtype=dtype, rng=1), make((4, 5, 6), dtype=dtype, rng=1), make((4, 5, 6), rng=2)
    assert t.dtype == dtype
    assert t.shape == (4, 5, 6)
    for one, two in zip(t.arrays, again.arrays, strict=True):
        np.testing.assert_array_equal(one, two)
    assert not np.allclose(t.to_dense(), other.to_dense())
    if "complex" in dtype:
        assert np.max(np.abs(t.to_dense().imag)) > 0.1


def test_the_same_seed_gives_the_same_tensor_in_every_library(make, xp, dtype) -> None:
    here = make((4, 5, 6), dtype=dtype, rng=1)
    there = make((4, 5, 6), dtype=dtype, rng=1, like=xp.asarray(np.zeros(1)))
    for one, two in zip(here.arrays, there.arrays, strict=True):
        np.testing.assert_array_equal(xp.to_numpy(two), one)


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_entries_have_unit_variance(make, dtype) -> None:
    """The mean of 400 tensors' squares: their spread is below 1 %, the bound is ten times that."""
    squares = [np.mean(np.abs(make((6, 5, 4), dtype=dtype, rng=seed).to_dense()) ** 2) for seed in range(400)]
    spread = np.std(squares) / np.sqrt(len(squares))
    assert abs(np.mean(squares) - 1) < 5 * spread
    assert spread < 0.1


def test_generators_move_on() -> None:
    rng = np.random.default_rng(0)
    one, two = tg.random.tt((3, 3), ranks=1, rng=rng), tg.random.tt((3, 3), ranks=1, rng=rng)
    assert not np.allclose(one.to_dense(), two.to_dense())


def test_one_rank_for_all_or_one_for_each() -> None:
    assert tg.random.tt((3, 4, 5), ranks=2, rng=0).ranks == (2, 2)
    assert tg.random.tt((3, 4, 5), ranks=(2, 3), rng=0).ranks == (2, 3)
    assert tg.random.tr((3, 4, 5), ranks=(2, 1, 3), rng=0).ranks == (2, 1, 3)
    assert tg.random.tt((3,), ranks=(), rng=0).ranks == ()


@pytest.mark.parametrize(
    ("ranks", "make"),
    [((2,), tg.random.tt), ((2, 0), tg.random.tt), ((2, 2), tg.random.tr), ((1, 1, 1, 1), tg.random.tucker)],
)
def test_ranks_that_do_not_fit_are_named(ranks, make) -> None:
    with pytest.raises(ValueError, match=r"ranks of at least 1"):
        make((3, 4, 5), ranks=ranks, rng=0)


@pytest.mark.parametrize("dtype", ["str", object, "datetime64"])
def test_dtypes_that_tensors_do_not_hold(make, dtype) -> None:
    with pytest.raises(TypeError, match="tensors hold"):
        make((3, 4, 5), dtype=dtype)
