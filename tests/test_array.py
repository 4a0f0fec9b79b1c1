"""Layer 0: dtype rules, host transfer, and what the standard lacks."""

import numpy as np
import pytest

from tensorring import _array
from tensorring.testing.samples import LAYOUTS


@pytest.mark.parametrize(
    ("given", "computed"),
    [(name, name) for name in _array.FLOATS]
    + [("float16", "float32"), ("bool", "float64"), ("int8", "float64"), ("uint64", "float64")],
)
def test_dtypes_are_kept_or_promoted(given: str, computed: str) -> None:
    assert _array.compute_dtype_name(np.dtype(given)) == computed
    assert _array.as_dtype(np.zeros(3, given), computed).dtype == computed


@pytest.mark.parametrize("x", [np.array(["a"]), np.array([None]), np.array(["2026-11-21"], dtype="datetime64[D]")])
def test_what_is_no_number_is_a_type_error_that_names_the_dtypes(x: np.ndarray) -> None:
    with pytest.raises(TypeError, match=r"float32, float64, complex64, complex128.*convert"):
        _array.compute_dtype_name(x.dtype)


def test_torch_names_of_dtypes_are_read() -> None:
    class Half:
        def __str__(self) -> str:
            return "torch.bfloat16"

    assert _array.compute_dtype_name(Half()) == "float32"


def test_as_dtype_copies_only_where_it_must() -> None:
    x = np.zeros(3)
    assert _array.as_dtype(x, "float64") is x


@pytest.mark.parametrize("name", _array.FLOATS)
def test_arrays_go_to_the_device_and_back(xp, gaussian, name) -> None:
    host = gaussian((3, 4), name)
    x = _array.to_device(host, like=xp.asarray(np.zeros(1)))
    assert _array.device_of(x) == _array.device_of(xp.asarray(host))
    assert _array.is_array(x)
    assert _array.is_complex(x) == ("complex" in name)
    np.testing.assert_array_equal(xp.to_numpy(x), host, strict=True)


def test_what_is_no_array_is_none() -> None:
    assert not _array.is_array([1.0, 2.0])
    assert not _array.is_array(None)


def test_conjugates_and_adjoints(xp, gaussian) -> None:
    real, complex_ = xp.asarray(gaussian((3, 4))), gaussian((3, 4), "complex128")
    assert _array.conj(real) is real
    np.testing.assert_array_equal(xp.to_numpy(_array.conj(xp.asarray(complex_))), complex_.conj())
    np.testing.assert_array_equal(xp.to_numpy(_array.adjoint(xp.asarray(complex_))), complex_.conj().T)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_contiguous_and_copy_give_c_order(layout, gaussian) -> None:
    x = LAYOUTS[layout](gaussian((3, 4)))
    for y in (_array.contiguous(x), _array.copy(x)):
        assert y.flags.c_contiguous
        np.testing.assert_array_equal(y, x)
    assert not np.shares_memory(_array.copy(x), x)
    assert _array.copy(x).flags.writeable
    if layout in ("C", "readonly"):
        assert _array.contiguous(x) is x


def test_blocks_are_a_few_megabytes_and_never_empty() -> None:
    x = np.zeros(1, dtype="complex128")
    assert _array.block_length(x, 1, megabytes=1) == 2**16
    assert _array.block_length(x, 10**12) == 1
    assert _array.block_length(x, 0) > 1


@pytest.mark.parametrize("shape", [(7, 3), (3, 7), (4, 4), (1, 5), (5, 1)])
def test_the_triangle_has_the_gram_matrix_of_the_whole(xp, dtype, gaussian, shape) -> None:
    a = gaussian(shape, dtype)
    r = xp.to_numpy(_array.triangle(xp.asarray(a)))
    assert r.shape == (min(shape), shape[1])
    np.testing.assert_allclose(np.tril(r, -1), 0)
    gram = a.conj().T @ a
    np.testing.assert_allclose(r.conj().T @ r, gram, atol=50 * _array.eps(dtype) * np.linalg.norm(gram))


def test_the_svd_is_one(xp, dtype, gaussian) -> None:
    a = gaussian((5, 8), dtype)
    u, s, vh = (xp.to_numpy(part) for part in _array.svd(xp.asarray(a)))
    np.testing.assert_allclose((u * s) @ vh, a, atol=50 * _array.eps(dtype) * np.linalg.norm(a))


def test_qr_iteration_stands_in_where_divide_and_conquer_fails(monkeypatch, dtype, gaussian) -> None:
    calls = []

    def fail(*_: object, **__: object) -> None:
        calls.append(1)
        raise np.linalg.LinAlgError("SVD did not converge")

    a = gaussian((6, 4), dtype)
    expected = np.linalg.svd(a, compute_uv=False)
    monkeypatch.setattr(np.linalg, "svd", fail)
    u, s, vh = _array.svd(a)
    assert calls
    assert s.dtype == expected.dtype
    np.testing.assert_allclose(s, expected, atol=20 * _array.eps(dtype) * expected[0])
    np.testing.assert_allclose((u * s) @ vh, a, atol=50 * _array.eps(dtype) * expected[0])
