"""The five formats: what they hold, what they refuse, and the dense tensor that they stand for."""

import copy
import dataclasses
import math
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tensorring as tg
from tensorring import _array
from tensorring.testing import low_rank_tensors, tr_tensors


def dense(t: tg.LowRankTensor) -> np.ndarray:
    """The definition of each format, written as one einsum in double precision."""
    arrays = [array.astype("complex128") for array in t.arrays]
    modes = [chr(ord("a") + k) for k in range(t.ndim)]
    out = "".join(modes)
    match t.format:
        case "cp":
            terms = ["Z", *(f"{m}Z" for m in modes)]
        case "tucker":
            terms = ["".join(m.upper() for m in modes), *(m + m.upper() for m in modes)]
        case "tt":
            bonds = [chr(ord("A") + k) for k in range(t.ndim + 1)]
            terms = [bonds[k] + m + bonds[k + 1] for k, m in enumerate(modes)]
        case "tr":
            bonds = [chr(ord("A") + k) for k in range(t.ndim)]
            terms = [bonds[k] + m + bonds[(k + 1) % t.ndim] for k, m in enumerate(modes)]
        case "cut":
            left = "".join(modes[k] for k in t.modes)
            terms = [left + "Z", "Z" + "".join(m for m in modes if m not in left)]
    return np.einsum(",".join(terms) + "->" + out, *arrays)


def rounding(t: tg.LowRankTensor) -> float:
    """What rounding may add to an entry: eps times the products of absolute values, a few dozen operations long."""
    return (
        50
        * t.ndim
        * _array.eps(np.dtype(t.dtype).name)
        * math.prod(float(np.linalg.norm(array.astype("complex128"))) for array in t.arrays)
    )


@given(low_rank_tensors())
def test_the_dense_tensor_is_that_of_the_definition(t) -> None:
    x = t.to_dense()
    assert (x.shape, x.dtype, x.ndim) == (t.shape, t.dtype, t.ndim)
    np.testing.assert_allclose(x, dense(t), atol=rounding(t))


@given(low_rank_tensors())
def test_parameters_are_counted_from_the_arrays(t) -> None:
    assert t.parameter_count == sum(array.size for array in t.arrays)
    n, r = t.shape, t.ranks
    formulas = {
        "cp": lambda: r[0] * (1 + sum(n)),
        "tucker": lambda: math.prod(r) + sum(a * b for a, b in zip(n, r, strict=True)),
        "tt": lambda: sum(a * b * c for a, b, c in zip((1, *r), n, (*r, 1), strict=True)),
        "tr": lambda: sum(a * b * c for a, b, c in zip(r, n, (*r[1:], r[0]), strict=True)),
        "cut": lambda: r[0] * (math.prod(n[k] for k in t.modes) + math.prod(n) // math.prod(n[k] for k in t.modes)),
    }
    assert t.parameter_count == formulas[t.format]()


@given(low_rank_tensors())
def test_the_line_that_is_shown(t) -> None:
    name = np.dtype(t.dtype).name
    assert repr(t) == (
        f"{type(t).__name__}(shape={t.shape}, ranks={t.ranks}, parameters={t.parameter_count}, dtype={name})"
    )


@given(low_rank_tensors(), st.data())
def test_rows_are_those_of_the_dense_tensor(t, data) -> None:
    start = data.draw(st.integers(0, t.shape[0] - 1))
    stop = data.draw(st.integers(start + 1, t.shape[0]))
    part = t.rows(start, stop)
    assert type(part) is type(t)
    np.testing.assert_allclose(part.to_dense(), dense(t)[start:stop], atol=rounding(t))


@given(low_rank_tensors(), st.sampled_from(_array.FLOATS))
def test_astype_changes_the_dtype_and_nothing_else(t, name) -> None:
    if np.dtype(t.dtype).kind == "c" and "complex" not in name:
        with pytest.raises(TypeError, match="imaginary parts"):
            t.astype(name)
        return
    cast = t.astype(np.dtype(name))
    assert (type(cast), cast.dtype, cast.shape, cast.ranks) == (type(t), name, t.shape, t.ranks)
    coarser = max(_array.eps(name), _array.eps(np.dtype(t.dtype).name))
    np.testing.assert_allclose(
        cast.to_dense(), dense(t), atol=rounding(t) / _array.eps(np.dtype(t.dtype).name) * coarser
    )


@pytest.mark.parametrize("dtype", ["float32", np.float32, np.dtype("float32")])
def test_astype_takes_dtypes_in_every_spelling(dtype) -> None:
    assert tg.random.tt((2, 3), ranks=2, rng=0).astype(dtype).dtype == "float32"


def test_real_weights_stay_real() -> None:
    t = tg.random.cp((3, 4), rank=2, rng=0).astype("complex64")
    assert (t.weights.dtype, t.factors[0].dtype, t.dtype) == ("float32", "complex64", "complex64")


@given(tr_tensors(), st.integers(-7, 7))
def test_rotation_is_of_the_dense_tensor_too(t, k) -> None:
    axes = [(k + i) % t.ndim for i in range(t.ndim)]
    turned = t.rotate(k)
    np.testing.assert_allclose(turned.to_dense(), dense(t).transpose(axes), atol=rounding(t))
    assert turned.ranks == tuple(t.ranks[a] for a in axes)
    assert all(a is b for a, b in zip(turned.rotate(-k).cores, t.cores, strict=True))


@given(low_rank_tensors())
def test_every_library_gives_the_same_dense_tensor(t) -> None:
    xp = pytest.importorskip("array_api_strict")
    device = xp.Device("device1")
    other = t.with_arrays([xp.asarray(array, device=device) for array in t.arrays])
    x = other.to_dense()
    assert x.device == device
    assert (other.shape, other.ranks, other.parameter_count, repr(other)) == (
        t.shape, t.ranks, t.parameter_count, repr(t),
    )  # fmt: skip
    np.testing.assert_allclose(_array.to_host(x), t.to_dense(), atol=rounding(t))


FORMATS = [
    tg.random.cp((3, 4, 5), rank=2, rng=0),
    tg.random.tucker((3, 4, 5), ranks=2, rng=0),
    tg.random.tt((3, 4, 5), ranks=2, rng=0),
    tg.random.tr((3, 4, 5), ranks=2, rng=0),
    tg.CutTensor(np.ones((3, 5, 2)), np.ones((2, 4)), modes=(0, 2)),
]


@pytest.fixture(params=FORMATS, ids=lambda t: t.format)
def t(request) -> tg.LowRankTensor:
    return request.param


def test_parts_are_never_reassigned(t) -> None:
    for field in dataclasses.fields(t):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(t, field.name, getattr(t, field.name))


@pytest.mark.parametrize("again", [copy.deepcopy, lambda t: pickle.loads(pickle.dumps(t))], ids=["deepcopy", "pickle"])
def test_copies_are_equal_and_independent(t, again) -> None:
    other = again(t)
    assert type(other) is type(t)
    assert repr(other) == repr(t)
    for mine, theirs in zip(t.arrays, other.arrays, strict=True):
        np.testing.assert_array_equal(mine, theirs)
        assert not np.shares_memory(mine, theirs)


def test_equality_is_identity_and_hashing_works(t) -> None:
    assert t == t
    assert t != copy.deepcopy(t)
    assert len({t, t}) == 1


def test_threads_do_not_disturb_each_other() -> None:
    tensors = [t.astype(name) for t in FORMATS for name in _array.FLOATS] * 3
    expected = [(t.to_dense(), tg.norm(t), tg.inner(t, t)) for t in tensors]
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda t: (t.to_dense(), tg.norm(t), tg.inner(t, t)), tensors))
    for (x, size, product), (y, other_size, other_product) in zip(expected, results, strict=True):
        np.testing.assert_array_equal(x, y)
        assert (size, product) == (other_size, other_product)


def test_integers_and_lists_become_doubles() -> None:
    t = tg.CPTensor([2, 1], [[[1, 0], [0, 1]], np.ones((3, 2), dtype="int32")])
    assert t.dtype == "float64"
    np.testing.assert_array_equal(t.to_dense(), [[2, 2, 2], [1, 1, 1]])


def test_half_precision_becomes_single() -> None:
    assert tg.TTTensor([np.ones((1, 2, 1), dtype="float16")]).dtype == "float32"


def test_single_modes_and_sizes_of_one() -> None:
    assert tg.TTTensor([np.ones((1, 4, 1))]).ranks == ()
    assert tg.TRTensor([np.ones((3, 4, 3))]).to_dense().tolist() == [3.0] * 4
    assert tg.TuckerTensor(np.ones(2), [np.ones((4, 2))]).to_dense().tolist() == [2.0] * 4
    assert tg.CPTensor(np.ones(2), [np.ones((4, 2))]).to_dense().tolist() == [2.0] * 4
    assert tg.random.tr((1, 1, 1), ranks=1, rng=0).to_dense().shape == (1, 1, 1)


ONES = np.ones


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tg.CPTensor(ONES(2), [ONES((4, 3))]), r"factors\[0\] has 3 columns.*2 weights.*make them equal"),
        (lambda: tg.CPTensor(ONES((2, 2)), [ONES((4, 2))]), r"weights has shape \(2, 2\).*1 axes, \(rank,\)"),
        (lambda: tg.CPTensor(ONES(2), [ONES(4)]), r"factors\[0\] has shape \(4,\).*2 axes"),
        (lambda: tg.CPTensor(ONES(2), []), r"no factors.*at least one mode"),
        (lambda: tg.CPTensor(ONES(0), [ONES((4, 0))]), r"weights has shape \(0,\).*none of length 0"),
        (lambda: tg.TuckerTensor(ONES((2, 3)), [ONES((4, 2))]), r"core has shape \(2, 3\).*1 axes"),
        (lambda: tg.TuckerTensor(ONES(2), [ONES((4, 3))]), r"factors\[0\] has 3 columns.*size 2 in mode 0"),
        (lambda: tg.TuckerTensor(ONES(2), [ONES((4, 2, 1))]), r"factors\[0\] has shape \(4, 2, 1\)"),
        (lambda: tg.TTTensor([ONES((1, 4))]), r"cores\[0\] has shape \(1, 4\).*left rank, mode size, right rank"),
        (lambda: tg.TTTensor([ONES((1, 4, 2)), ONES((3, 4, 1))]), r"cores\[0\] has right rank 2.*cores\[1\].*rank 3"),
        (lambda: tg.TTTensor([ONES((2, 4, 2))]), r"outer bonds \(2, 2\).*TRTensor"),
        (lambda: tg.TTTensor([ONES((1, 0, 1))]), r"cores\[0\] has shape \(1, 0, 1\).*none of length 0"),
        (lambda: tg.TTTensor([]), r"no cores"),
        (lambda: tg.TRTensor([ONES((2, 4, 3))]), r"left rank 2.*right rank 3.*closes"),
        (lambda: tg.TRTensor([ONES((2, 4, 3)), ONES((2, 4, 2))]), r"cores\[0\] has right rank 3"),
        (lambda: tg.CutTensor(ONES((4, 2)), ONES((3, 5)), modes=(0,)), r"left ends with bond 2.*begins with 3"),
        (lambda: tg.CutTensor(ONES((4, 2)), ONES((2, 5)), modes=(2,)), r"modes=\(2,\).*2 modes"),
        (lambda: tg.CutTensor(ONES((4, 3, 2)), ONES((2, 5)), modes=(1, 0)), r"modes=\(1, 0\).*ascending"),
        (lambda: tg.CutTensor(ONES((4, 2)), ONES((2, 5)), modes=(0, 1)), r"one for each axis of left"),
        (lambda: tg.CutTensor(ONES(2), ONES((2, 5)), modes=()), r"left has shape \(2,\).*bond and a mode"),
        (lambda: tg.CutTensor(ONES((0, 2)), ONES((2, 5)), modes=(0,)), r"left has shape \(0, 2\)"),
    ],
)
def test_parts_that_do_not_fit_are_named(make, message) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tg.TTTensor(ONES((1, 4, 1))), r"cores as one array.*put it in a list"),
        (lambda: tg.TTTensor([np.full((1, 4, 1), "a")]), r"cores\[0\]: got an array of dtype"),
        (lambda: tg.CPTensor(np.array([None]), [ONES((4, 1))]), r"weights: got an array of dtype object"),
        (lambda: tg.CutTensor(ONES((4, 2)), ONES((2, 5)), modes=(0.0,)), r"float"),
        (lambda: FORMATS[0].astype("utf8"), r"utf8"),
    ],
)
def test_parts_that_are_no_numbers_are_type_errors(make, message) -> None:
    with pytest.raises(TypeError, match=message):
        make()


def test_two_libraries_in_one_tensor_are_a_type_error() -> None:
    xp = pytest.importorskip("array_api_strict")
    strict = xp.asarray(ONES((2, 5, 1)))
    with pytest.raises(TypeError, match=r"(?i)multiple namespaces"):
        tg.TTTensor([ONES((1, 4, 2)), strict])
    with pytest.raises(TypeError, match=r"(?i)multiple namespaces"):
        tg.CPTensor(ONES(1), [xp.asarray(ONES((4, 1)))])
    with pytest.raises(TypeError, match=r"(?i)multiple namespaces"):
        tg.TuckerTensor(ONES(1), [xp.asarray(ONES((4, 1)))])
