"""Inner products, norms and errors in the format, against the dense tensors in double precision."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tensorring as tg
from tensorring import _array
from tensorring.testing import cp_tensors, low_rank_tensors, tensors, tr_tensors, tt_tensors, tucker_tensors

SHAPE = st.lists(st.integers(1, 5), min_size=1, max_size=4).map(tuple)
DTYPES = st.sampled_from(_array.FLOATS)


def _bound(t: tg.LowRankTensor) -> float:
    """The norm of the parts: what rounding in the format is measured by."""
    return math.prod(float(np.linalg.norm(array.astype("complex128"))) for array in t.arrays)


def _rounding(a: tg.LowRankTensor, b: tg.LowRankTensor) -> float:
    coarser = max(_array.eps(np.dtype(t.dtype).name) for t in (a, b))
    return 50 * a.ndim * coarser * _bound(a) * _bound(b)


def _double(t: tg.LowRankTensor) -> np.ndarray:
    return t.astype("complex128").to_dense()


@st.composite
def pairs(draw) -> tuple[tg.LowRankTensor, tg.LowRankTensor]:
    """Two tensors of one format and shape, of any two dtypes and any ranks."""
    make, shape = draw(st.sampled_from([cp_tensors, tucker_tensors, tt_tensors, tr_tensors])), draw(SHAPE)
    return draw(make(shape=shape, dtype=DTYPES)), draw(make(shape=shape, dtype=DTYPES))


@given(pairs())
def test_the_inner_product_is_that_of_the_dense_tensors(pair) -> None:
    a, b = pair
    value = tg.inner(a, b)
    expected = np.vdot(_double(a), _double(b))
    assert abs(value - expected) <= _rounding(a, b)
    assert isinstance(value, complex if any(np.dtype(t.dtype).kind == "c" for t in pair) else float)


@given(pairs())
def test_the_first_argument_is_conjugated(pair) -> None:
    a, b = pair
    assert abs(tg.inner(a, b) - np.conj(tg.inner(b, a))) <= 2 * _rounding(a, b)


@given(low_rank_tensors())
def test_the_norm_is_that_of_the_dense_tensor(t) -> None:
    size = tg.norm(t)
    # A square is right to rounding, so a norm that cancels keeps half the digits of its parts.
    assert size**2 == pytest.approx(np.linalg.norm(_double(t)) ** 2, abs=_rounding(t, t))
    assert size >= 0


@given(tensors())
def test_the_norm_of_an_array(x) -> None:
    peak = float(max(np.max(np.abs(x.real)), np.max(np.abs(x.imag)))) or 1.0
    expected = peak * np.linalg.norm((x / peak).astype("complex128"))
    assert tg.norm(x) == pytest.approx(expected, rel=20 * _array.eps(x.dtype.name))


@given(low_rank_tensors(), st.sampled_from([1e-12, 1e-6, 1e-3, 0.5]), st.integers(0, 99))
def test_the_error_is_that_of_the_residual_however_small(t, size, seed) -> None:
    """Complex data have complex noise, so that a conjugate that is missing shows."""
    draws, name = np.random.default_rng(seed), np.dtype(t.dtype).name
    x = t.to_dense()
    noise = draws.standard_normal(x.shape) + (1j * draws.standard_normal(x.shape) if "complex" in name else 0.0)
    x = (x + size * noise * np.max(np.abs(x))).astype(name)
    expected = np.linalg.norm(x.astype("complex128") - _double(t)) / np.linalg.norm(x.astype("complex128"))
    allowed = 50 * t.ndim * _array.eps(name) * _bound(t) / np.linalg.norm(x.astype("complex128"))
    assert tg.relative_error(x, t) == pytest.approx(expected, abs=allowed)


@given(low_rank_tensors(dtype="float64"), st.data())
def test_the_error_between_two_formats(t, data) -> None:
    other = data.draw(tt_tensors(shape=t.shape, dtype="float64"))
    x, y = t.to_dense(), other.to_dense()
    allowed = 50 * t.ndim * _array.eps("float64") * (_bound(t) + _bound(other)) / np.linalg.norm(x)
    assert tg.relative_error(t, other) == pytest.approx(np.linalg.norm(x - y) / np.linalg.norm(x), abs=allowed)


def test_every_library_gives_the_same_numbers(xp) -> None:
    cut = tg.CutTensor(np.arange(6.0).reshape(3, 2), np.ones((2, 4, 5)), modes=(0,))
    options = {"dtype": "complex64", "rng": 1}
    for t in (
        cut,
        tg.random.cp((3, 4, 5), rank=2, **options),
        tg.random.tucker((3, 4, 5), ranks=2, **options),
        tg.random.tt((3, 4, 5), ranks=2, **options),
        tg.random.tr((3, 4, 5), ranks=2, **options),
    ):
        other = xp.tensor(t)
        allowed = _rounding(t, t)
        assert abs(tg.inner(other, other) - tg.inner(t, t)) <= allowed
        assert tg.norm(other) == pytest.approx(tg.norm(t), rel=1e-5)
        noisy = (t.to_dense() * (1 + 0.1j) + 0.1j).astype("complex64")
        assert tg.relative_error(xp.asarray(noisy), other) == pytest.approx(tg.relative_error(noisy, t), rel=1e-5)
        assert tg.norm(xp.asarray(noisy)) == pytest.approx(tg.norm(noisy), rel=1e-5)


@pytest.mark.parametrize("blocks", [1e-6, 1e-4])
def test_the_error_is_the_same_in_blocks(monkeypatch, gaussian, blocks) -> None:
    from tensorring.algebra import error

    t = tg.random.tr((30, 4, 5), ranks=2, rng=0)
    x = t.to_dense() + 0.1 * gaussian((30, 4, 5))
    whole = tg.relative_error(x, t)
    monkeypatch.setattr(error, "block_length", lambda a, n: _array.block_length(a, n, megabytes=blocks))
    assert tg.relative_error(x, t) == pytest.approx(whole, rel=1e-14)
    assert tg.relative_error(t, t) == 0.0


@pytest.mark.parametrize("power", [150, -150])
def test_extreme_scales(power) -> None:
    """Each core beyond the range that can be squared; products of norms beyond that of a double are infinite."""
    factor = 10.0**power
    for t in (
        tg.random.tt((3, 4, 5), ranks=2, rng=0),
        tg.random.cp((3, 4, 5), rank=2, rng=0),
        tg.random.tucker((3, 4, 5), ranks=2, rng=0),
        tg.random.tr((3, 4, 5), ranks=2, rng=0),
    ):
        first, *rest = t.arrays
        big = t.with_arrays([first * factor, *rest])
        assert tg.norm(big) == pytest.approx(tg.norm(t) * factor, rel=1e-13)
        assert tg.relative_error(big.to_dense(), big) <= 1e-14
        both = t.with_arrays([first * factor, rest[0] * factor, *rest[1:]])
        # 1e±300 in norm, 1e±600 in square.
        assert tg.norm(both) == pytest.approx(tg.norm(t) * factor * factor, rel=1e-13)
        assert tg.inner(both, both) == (math.inf if power > 0 else 0.0)
        assert tg.inner(both, t.with_arrays([first / factor, rest[0] / factor, *rest[1:]])) == pytest.approx(
            tg.norm(t) ** 2, rel=1e-12
        )


def test_single_precision_neither_over_nor_underflows() -> None:
    t = tg.random.tt((3, 4, 5), ranks=2, dtype="complex64", rng=0)
    for factor in (np.float32(1e-30), np.float32(1e30)):
        first, *rest = t.arrays
        assert tg.norm(t.with_arrays([first * factor, *rest])) == pytest.approx(tg.norm(t) * float(factor), rel=1e-5)


def test_zeros() -> None:
    zero = tg.TTTensor([np.zeros((1, 3, 1))])
    some = tg.TTTensor([np.ones((1, 3, 1))])
    assert tg.norm(zero) == tg.inner(zero, some) == tg.relative_error(np.zeros(3), zero) == 0.0
    assert tg.norm(np.zeros((2, 2))) == 0.0
    assert tg.relative_error(np.zeros(3), some) == math.inf
    assert tg.relative_error(np.ones(3), zero) == 1.0


def test_bad_input_is_named() -> None:
    tt, tr = tg.random.tt((3, 4), ranks=2, rng=0), tg.random.tr((3, 4), ranks=2, rng=0)
    with pytest.raises(TypeError, match=r"TTTensor.*TRTensor.*one format"):
        tg.inner(tt, tr)
    with pytest.raises(TypeError, match="one format"):
        tg.inner(
            tg.CutTensor(np.ones((3, 2)), np.ones((2, 3)), modes=(0,)),
            tg.CutTensor(np.ones((3, 2)), np.ones((2, 3)), modes=(1,)),
        )
    with pytest.raises(TypeError, match="ndarray"):
        tg.inner(np.ones(3), tt)
    with pytest.raises(TypeError, match="list"):
        tg.norm([1.0])
    with pytest.raises(TypeError, match=r"dtype str|dtype <U1"):
        tg.norm(np.array(["a"]))
    with pytest.raises(ValueError, match=r"\(3, 4\) and \(4, 3\)"):
        tg.inner(tt, tg.random.tt((4, 3), ranks=2, rng=0))
    with pytest.raises(ValueError, match=r"\(4, 3\).*\(3, 4\)"):
        tg.relative_error(np.ones((4, 3)), tt)
    with pytest.raises(TypeError, match="approximation"):
        tg.relative_error(np.ones((3, 4)), np.ones((3, 4)))
    with pytest.raises(ValueError, match=r"t\[1\] is nan"):
        tg.norm(np.array([0.0, np.nan]))
    bad = np.ones((3, 4))
    bad[2, 1] = np.nan
    with pytest.raises(ValueError, match=r"x\[2, 1\] is nan"):
        tg.relative_error(bad, tt)
