"""Block terms: the dense tensor by its definition, inner products, files, slices, and what is refused."""

import pickle
import string

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tensorring as tg
from tensorring import _array
from tensorring.contract.block_terms import each_mode_product


@st.composite
def block_terms(draw, shape=None, modes=None):
    """Any shape, any modes whole, any ranks, any dtype."""
    shape = shape or draw(st.lists(st.integers(1, 5), min_size=1, max_size=4).map(tuple))
    modes = modes or tuple(sorted(draw(st.sets(st.integers(0, len(shape) - 1), min_size=1))))
    ranks = [draw(st.integers(1, 3)) if k in modes else n for k, n in enumerate(shape)]
    terms, dtype = draw(st.integers(1, 3)), draw(st.sampled_from(_array.FLOATS))
    rng = np.random.default_rng(draw(st.integers(0, 999)))

    def array(*sizes):
        values = rng.standard_normal(sizes) + (1j * rng.standard_normal(sizes) if "complex" in dtype else 0.0)
        return values.astype(dtype)

    return tg.BlockTermTensor(array(terms, *ranks), [array(terms, shape[k], ranks[k]) for k in modes], modes)


def dense(t):
    """The definition, term by term, in double precision."""
    small, total = string.ascii_lowercase[: t.ndim], 0.0
    inner = "".join(m.upper() if k in t.modes else m for k, m in enumerate(small))
    script = ",".join([inner, *(small[k] + small[k].upper() for k in t.modes)]) + "->" + small
    for r in range(t.ranks[0]):
        total = total + np.einsum(script, *(array[r].astype("complex128") for array in t.arrays))
    return total


def bound(t):
    return np.prod([float(np.linalg.norm(array.astype("complex128"))) for array in t.arrays])


def rounding(*tensors):
    return 100 * max(_array.eps(t.dtype.name) for t in tensors) * np.prod([bound(t) for t in tensors])


@given(block_terms())
def test_the_dense_tensor_is_that_of_the_definition(t) -> None:
    x = t.to_dense()
    assert (x.shape, x.dtype) == (t.shape, t.dtype)
    np.testing.assert_allclose(x, dense(t), rtol=0, atol=rounding(t))
    assert t.parameter_count == sum(array.size for array in t.arrays)
    assert t.ranks == t.cores.shape
    assert repr(t).startswith(f"BlockTermTensor(shape={t.shape}, ranks={t.ranks}, parameters={t.parameter_count}, ")


@given(block_terms(), st.data())
def test_rows_are_those_of_the_dense_tensor(t, data) -> None:
    start = data.draw(st.integers(0, t.shape[0] - 1))
    stop = data.draw(st.integers(start + 1, t.shape[0]))
    np.testing.assert_allclose(t.rows(start, stop).to_dense(), dense(t)[start:stop], rtol=0, atol=rounding(t))


@given(st.data())
def test_inner_products_and_errors_in_the_format(data) -> None:
    a = data.draw(block_terms())
    b = data.draw(block_terms(shape=a.shape, modes=a.modes))
    assert abs(tg.inner(a, b) - np.vdot(dense(a), dense(b))) <= rounding(a, b)
    assert tg.norm(a) ** 2 == pytest.approx(np.linalg.norm(dense(a)) ** 2, abs=rounding(a, a))
    x = dense(b)
    expected = np.linalg.norm(x - dense(a)) / np.linalg.norm(x)
    assert tg.relative_error(x, a) == pytest.approx(expected, abs=(rounding(a) + rounding(b)) / np.linalg.norm(x))


def test_inner_products_of_any_scale() -> None:
    t = tg.random.btd((4, 5, 6), terms=2, ranks=2, rng=0)
    large = t.with_arrays([t.cores * 1e200, t.factors[0] * 1e90, *t.factors[1:]])
    assert tg.norm(large) == pytest.approx(tg.norm(t) * 1e290)


def test_inner_products_ask_for_the_same_modes() -> None:
    a = tg.BlockTermTensor(np.ones((1, 2, 3)), [np.ones((1, 4, 2))], modes=(0,))
    b = tg.BlockTermTensor(np.ones((1, 4, 2)), [np.ones((1, 3, 2))], modes=(1,))
    with pytest.raises(TypeError, match="to_dense"):
        tg.inner(a, b)


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
@given(t=block_terms())
def test_what_is_saved_is_loaded_bit_for_bit(tmp_path_factory, suffix, t) -> None:
    path = tmp_path_factory.getbasetemp() / f"block_terms{suffix}"
    tg.save(path, t)
    for twin in (tg.load(path), pickle.loads(pickle.dumps(t))):
        assert (type(twin), twin.modes) == (type(t), t.modes)
        for one, two in zip(t.arrays, twin.arrays, strict=True):
            np.testing.assert_array_equal(one, two, strict=True)


def test_every_library_gives_the_same_numbers(xp, dtype) -> None:
    t = tg.random.btd((4, 5, 6), terms=3, ranks=(2, 1, 3), dtype=dtype, rng=0)
    other = xp.tensor(t)
    np.testing.assert_allclose(xp.to_numpy(other.to_dense()), t.to_dense(), rtol=0, atol=rounding(t))
    assert tg.inner(other, other) == pytest.approx(tg.inner(t, t), rel=100 * _array.eps(dtype))


def test_one_term_is_tucker_and_ranks_of_one_are_cp() -> None:
    one = tg.random.btd((4, 5, 6), terms=1, ranks=(2, 3, 2), rng=0)
    tucker = tg.TuckerTensor(one.cores[0], [factor[0] for factor in one.factors])
    np.testing.assert_allclose(one.to_dense(), tucker.to_dense(), atol=1e-13)
    many = tg.random.btd((4, 5, 6), terms=4, ranks=1, rng=0)
    cp = tg.CPTensor(many.cores.reshape(-1), [factor[:, :, 0].T for factor in many.factors])
    np.testing.assert_allclose(many.to_dense(), cp.to_dense(), atol=1e-13)


def test_random_block_terms_have_entries_of_unit_variance() -> None:
    squares = [
        np.mean(np.abs(tg.random.btd((5, 4, 6), terms=3, ranks=2, dtype="complex128", rng=k).to_dense()) ** 2)
        for k in range(400)
    ]
    assert abs(np.mean(squares) - 1) < 5 * np.std(squares) / 20


def test_each_term_has_a_matrix_of_its_own() -> None:
    x, m = np.random.default_rng(0).standard_normal((3, 4, 5, 6)), np.ones((3, 2, 5)) * np.arange(3)[:, None, None]
    np.testing.assert_allclose(each_mode_product(x, m, 1), np.einsum("rabc,rdb->radc", x, m), atol=1e-13)


@pytest.mark.parametrize(
    ("cores", "factors", "modes", "part"),
    [
        ((2, 3, 4), [(2, 5, 3), (2, 6, 5)], (), "mode 1 has shape .2, 6, 5."),
        ((2, 3, 4), [(1, 5, 3), (2, 6, 4)], (), "needs 2 terms and rank 3"),
        ((2, 3, 4), [(5, 3), (6, 4)], (), "3 axes"),
        ((2, 3), [(2, 5, 3), (2, 6, 4)], (), "cores has shape .2, 3."),
        ((2, 3, 4), [(2, 5, 3)], (1,), "mode 1"),
        ((2, 3, 4), [(2, 5, 3), (2, 6, 4)], (1, 0), "ascending"),
        ((2, 3, 4), [(2, 5, 3), (2, 6, 4)], (0,), "one for each factor"),
        ((2, 3, 4), [(2, 6, 4)], (-1,), "ascending"),
        ((2, 3, 4), [(2, 6, 4)], (2,), "cores has shape"),
        ((2, 0, 4), [(2, 5, 0)], (), "none of length 0"),
    ],
)
def test_parts_that_do_not_fit_are_refused(cores, factors, modes, part) -> None:
    with pytest.raises(ValueError, match=part):
        tg.BlockTermTensor(np.ones(cores), [np.ones(shape) for shape in factors], modes)
