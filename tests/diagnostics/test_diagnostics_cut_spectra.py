"""Spectra of cuts, against LAPACK's singular values of the unfoldings and the errors that cut_svd makes."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tensorring as tg
from tensorring._array import eps
from tensorring.linalg import error_floor
from tensorring.testing import tensors

SHAPES = [(5, 7), (1, 6), (4, 1, 3), (6, 5, 3, 3), (2, 3, 2, 3, 2)]


def unfolded(x, rows):
    columns = [k for k in range(x.ndim) if k not in rows]
    return np.transpose(x, (*rows, *columns)).reshape(math.prod(x.shape[k] for k in rows), -1)


@given(tensors(ndim=st.integers(2, 4)))
def test_each_cut_has_the_singular_values_of_its_unfolding(x) -> None:
    wide = x.astype("complex128" if np.iscomplexobj(x) else "float64")
    size, slack = np.linalg.norm(wide), 100 * eps(x.dtype.name)
    for rows, spectrum in tg.cut_spectra(x).items():
        matrix = unfolded(wide, rows)
        values = np.linalg.svd(matrix, compute_uv=False)
        assert spectrum.values.dtype == np.float64
        assert len(spectrum.values) == len(spectrum.errors) - 1 == min(matrix.shape)
        np.testing.assert_allclose(spectrum.values, values, atol=slack * size)
        assert np.all(np.diff(spectrum.values) <= 0)
        assert np.sum(spectrum.values**2) == pytest.approx(size**2, rel=slack)
        assert spectrum.errors[0] == (1.0 if size else 0.0)
        assert spectrum.errors[-1] == 0.0


@pytest.mark.parametrize("shape", SHAPES)
def test_errors_and_ranks_are_those_of_cut_svd(xp, dtype, gaussian, shape) -> None:
    x = xp.asarray(gaussian(shape, dtype))
    for rows, spectrum in tg.cut_spectra(x).items():
        floor = error_floor(dtype, len(shape))
        for rank in range(1, len(spectrum.values) + 1):
            made = tg.cut_svd(x, modes=rows, ranks=rank).error
            assert spectrum.errors[rank] == pytest.approx(made, abs=floor)
        for tol in (0.0, 0.1, 0.5, 0.9):
            assert (spectrum.rank(tol),) == tg.cut_svd(x, modes=rows, tol=tol).tensor.ranks


@pytest.mark.parametrize("shape", SHAPES)
def test_all_cuts_are_every_subset_up_to_its_complement(shape) -> None:
    modes = set(range(len(shape)))
    cuts = list(tg.cut_spectra(np.ones(shape)))
    sides = [frozenset({frozenset(rows), frozenset(modes - set(rows))}) for rows in cuts]
    every = itertools.chain(*(itertools.combinations(modes, k) for k in range(1, len(shape))))
    assert set(sides) == {frozenset({frozenset(rows), frozenset(modes - set(rows))}) for rows in every}
    assert len(sides) == len(set(sides)) == 2 ** (len(shape) - 1) - 1
    assert cuts == sorted(cuts, key=lambda rows: (len(rows), rows))


def test_cuts_that_are_asked_for_come_in_their_order_and_under_their_names(gaussian) -> None:
    x = gaussian((4, 3, 2, 5))
    every = tg.cut_spectra(x)
    some = tg.cut_spectra(x, cuts=[(3, 0), 2, (1, 2, 3), (2, 3)])
    assert list(some) == [(0, 3), (2,), (1, 2, 3), (2, 3)]
    for asked, known in (((0, 3), (0, 3)), ((2,), (2,)), ((1, 2, 3), (0,)), ((2, 3), (0, 1))):
        np.testing.assert_allclose(some[asked].values, every[known].values, rtol=1e-12)


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize("power", [-150, 150])
def test_extreme_scales(dtype, power, gaussian) -> None:
    x = gaussian((4, 3, 2), dtype)
    for rows, spectrum in tg.cut_spectra(x).items():
        far = tg.cut_spectra(x * 10.0**power)[rows]
        np.testing.assert_allclose(far.values, spectrum.values * 10.0**power, rtol=1e-12)
        np.testing.assert_allclose(far.errors, spectrum.errors, atol=1e-14)
        assert far.rank(0.3) == spectrum.rank(0.3)


def test_norms_beyond_the_range_of_a_double(gaussian) -> None:
    """Each entry can be held, the norm cannot: errors are right all the same."""
    top, x = np.finfo("float64").max, np.ones((4, 3))
    x[0, 0] = -1.0
    for factor in (0.99 * top, 5e-324):
        spectrum, plain = tg.cut_spectra(x * factor)[0,], tg.cut_spectra(x)[0,]
        assert not np.isnan(spectrum.values).any()
        np.testing.assert_allclose(spectrum.errors, plain.errors, atol=1e-14)
        assert "inf" in repr(spectrum) or factor < 1


@given(st.integers(1, 5), st.floats(0, 0.99))
def test_a_rank_that_is_known_is_the_numerical_rank(rank, tol) -> None:
    t = tg.random.cp((6, 5, 7), rank=rank, rng=rank)
    for x in (t, t.to_dense()):
        for spectrum in tg.cut_spectra(x).values():
            assert spectrum.rank(0.0) == min(rank, len(spectrum.values))
            assert spectrum.errors[spectrum.rank(tol)] <= tol + spectrum.floor


def test_zeros_and_ones_and_integers() -> None:
    for spectrum in tg.cut_spectra(np.zeros((3, 4, 2), dtype="float32")).values():
        assert not spectrum.values.any()
        assert not spectrum.errors.any()
        assert spectrum.rank(0.0) == 1
    x = np.ones((2, 3, 4), dtype=int)
    x.flags.writeable = False
    (spectrum,) = tg.cut_spectra(x, cuts=[1]).values()
    np.testing.assert_allclose(spectrum.values, [math.sqrt(24), 0, 0], atol=1e-14)
    assert tg.cut_spectra(x, cuts=[]) == {}
    assert repr(spectrum).startswith("CutSpectrum(3 values, 4.9 to ")


def test_order_in_memory_does_not_matter(gaussian) -> None:
    x = gaussian((8, 6, 10))
    for view in (np.asfortranarray(x), x[::-1], x[:, ::2], x.transpose(2, 0, 1)):
        for rows, spectrum in tg.cut_spectra(view).items():
            np.testing.assert_allclose(spectrum.values, tg.cut_spectra(view.copy())[rows].values, rtol=1e-12)


def test_refusals(gaussian) -> None:
    x = gaussian((3, 4, 2))
    with pytest.raises(TypeError, match=r"got list; .* array or of a low-rank tensor"):
        tg.cut_spectra([[1.0]])
    for shape in ((5,), (), (3, 0, 2)):
        with pytest.raises(ValueError, match=r"got a tensor of shape \(.*a mode on each side, none of length 0"):
            tg.cut_spectra(np.ones(shape))
    with pytest.raises(TypeError, match=r"got cuts=0; it is a list of cuts, each one mode or several: \[0\]"):
        tg.cut_spectra(x, cuts=0)
    with pytest.raises(ValueError, match=r"got cuts=\[\(0, 1, 2\)\] for a tensor of 3 modes; a cut leaves at least"):
        tg.cut_spectra(x, cuts=[(0, 1, 2)])
    for cuts in ([3], [(0, 0)], [()], [-1]):
        with pytest.raises(ValueError, match="for a tensor of 3 modes; give one mode or several different ones"):
            tg.cut_spectra(x, cuts=cuts)
    with pytest.raises(TypeError, match="modes are ints"):
        tg.cut_spectra(x, cuts=["O"])
    for tol in (1.0, -0.1, math.nan):
        with pytest.raises(ValueError, match=r"got tol=.*, in \[0, 1\): 0.05 asks for 5 %"):
            tg.cut_spectra(x)[0,].rank(tol)
    x[1, 2, 1] = math.inf
    with pytest.raises(ValueError, match=r"x\[1, 2, 1\] is inf"):
        tg.cut_spectra(x)
