"""Every decomposition keeps every promise: a row in DECOMPOSITIONS is all that a new one has to add."""

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tensorring as tg
from tensorring.testing import check_decomposition, check_refusals, check_result, tensors, tolerances
from tensorring.testing.checks import SHAPES, check_backend
from tensorring.testing.samples import VALUES

MATRICES_AND_UP = tuple(shape for shape in SHAPES if len(shape) > 1)


@dataclass(frozen=True)
class Row:
    """One decomposition, and which of the common keywords it takes."""

    fn: Any
    ranks: bool = True
    keeps: bool = True  # any tolerance, by itself; methods at a fixed rank report whether they did
    spread: float = 0.0  # of rounding by sweeps, between scales and between libraries, in eps of double precision
    unique: bool = True  # else another library may end at another result, of the same size
    shapes: tuple[tuple[int, ...], ...] = SHAPES
    ndim: Any = field(default_factory=lambda: st.integers(1, 5))
    # Options for comparing libraries in single precision: from the tenth sweep on CPs are extrapolated, by steps and
    # at moments that rounding decides. A tensor changed in its last bit gives one 1e-7 apart before, and 1e-2 after.
    single: dict[str, Any] = field(default_factory=dict)


DECOMPOSITIONS = {
    "tt_svd": Row(tg.tt_svd),
    "tr_svd": Row(tg.tr_svd),
    "tr_reduced_storage": Row(tg.tr_reduced_storage, ranks=False),
    "tr_reduced_storage by cost": Row(
        partial(tg.tr_reduced_storage, cost=lambda shape, ranks: sum(r**2 for r in ranks)), ranks=False
    ),
    "tucker_hosvd": Row(tg.tucker_hosvd),
    "cut_svd": Row(partial(tg.cut_svd, modes=(0,)), shapes=MATRICES_AND_UP, ndim=st.integers(2, 5)),
    "cut_svd of the last": Row(
        lambda x, **options: tg.cut_svd(x, modes=getattr(x, "ndim", 2) - 1, **options),
        shapes=MATRICES_AND_UP,
        ndim=st.integers(2, 5),
    ),
    "compress": Row(tg.compress, ranks=False, spread=1e9, unique=False),  # of the CPs that a search finds
    "compress without cp": Row(partial(tg.compress, formats=("tt", "tucker", "tr")), ranks=False),
    "tr_reduced_storage refined": Row(partial(tg.tr_reduced_storage, refine=True), ranks=False, spread=1e6),
    "tucker_hooi": Row(partial(tg.tucker_hooi, max_sweeps=20, rng=0), spread=1e6),
    "tt_als": Row(partial(tg.tt_als, max_sweeps=20, rng=0), spread=1e7),
    "tr_als": Row(partial(tg.tr_als, max_sweeps=20, rng=0), spread=1e6),
    "tr_stable": Row(partial(tg.tr_stable, max_sweeps=20, rng=0), spread=1e9),
    "cp_als": Row(
        lambda x, ranks=3, max_sweeps=12, **options: tg.cp_als(x, rank=ranks, max_sweeps=max_sweeps, rng=0, **options),
        keeps=False,
        spread=1e9,
        single={"max_sweeps": 8},
    ),
    "cp_stable": Row(
        partial(tg.cp_stable, rng=0),
        ranks=False,
        spread=1e9,
        unique=False,  # rounding decides where a path of ridges ends
        shapes=((6, 5, 4), (11, 13), (2, 3, 40), (1, 6, 1, 5), (9,)),
        ndim=st.integers(1, 3),
    ),
    "cp_stable at a rank": Row(
        lambda x, ranks=3, **options: tg.cp_stable(x, rank=ranks, max_sweeps=12, rng=0, **options),
        keeps=False,
        spread=1e9,
        unique=False,
    ),
    "btd_als": Row(
        lambda x, ranks=2, **options: tg.btd_als(
            x, terms=min(ranks, 2) if isinstance(ranks, int) else 2, ranks=ranks, max_sweeps=12, rng=0, **options
        ),
        keeps=False,
        spread=1e9,
    ),
    "cp_lm": Row(
        lambda x, ranks=3, **options: tg.cp_lm(x, rank=ranks, max_sweeps=4, rng=0, **options), keeps=False, spread=1e6
    ),
}


@pytest.fixture(params=DECOMPOSITIONS)
def row(request):
    return DECOMPOSITIONS[request.param]


def test_keeps_every_promise_on_hard_tensors(row, dtype):
    check_decomposition(row.fn, tol=row.keeps, ranks=row.ranks, shapes=row.shapes, dtypes=[dtype])


@pytest.mark.parametrize("options", [{"tol": 0.05}, {"tol": 1e-7}, {"tol": 0.3}])
def test_other_libraries_give_what_numpy_gives(row, xp, dtype, options):
    if dtype in ("float32", "complex64"):
        options = {"tol": max(options["tol"], 1e-3), **row.single}
    if not row.keeps:
        options = {**options, "ranks": 3}
    for shape in row.shapes:
        if row.unique:
            check_backend(row.fn, xp.asarray, shape, dtype, options, spread=row.spread)
        else:
            check_as_good(row.fn, xp.asarray, shape, dtype, options)


def check_as_good(fn, to_backend, shape, dtype, options):
    """Another library keeps the promises, by a tensor of the same format and size."""
    x = VALUES["decaying"](shape, "complex" in dtype, np.random.default_rng(0)).astype(dtype)
    ours, theirs = fn(x, **options).tensor, fn(to_backend(x), **options)
    check_result(to_backend(x), theirs, tol=options["tol"], caps=options.get("ranks"))
    assert (type(theirs.tensor), theirs.tensor.parameter_count) == (type(ours), ours.parameter_count)


def test_refuses_what_is_no_finite_tensor(row):
    check_refusals(row.fn, tol=0.1)


@given(data=st.data(), tol=tolerances())
def test_the_tolerance_is_kept_and_the_error_is_true(row, data, tol):
    x = data.draw(tensors(ndim=row.ndim))
    check_result(x, row.fn(x, tol=tol), tol=tol, caps=None if row.keeps else 3)


@given(data=st.data(), cap=st.integers(1, 6), tol=st.none() | tolerances())
def test_caps_are_kept_and_the_error_is_true(row, data, cap, tol):
    if not row.ranks:
        pytest.skip("takes no ranks")
    x = data.draw(tensors(ndim=row.ndim))
    result = row.fn(x, tol=tol, ranks=cap)
    check_result(x, result, tol=tol, caps=cap)
    if tol is None:
        assert result.converged == (result.stop in (tg.Stop.direct, tg.Stop.stall))


@given(data=st.data())
def test_a_scale_changes_nothing_but_the_scale(row, data):
    x = data.draw(tensors(ndim=row.ndim, scale=1.0, dtype="float64"))
    one, other = row.fn(x, tol=0.1), row.fn(x * 2.0**-500, tol=0.1)
    assert one.tensor.ranks == other.tensor.ranks
    # Direct methods see the same bits; sweeps share scales out by roots of them, and amplify that rounding.
    rounding = row.spread * np.finfo(np.float64).eps * np.linalg.norm(x)
    np.testing.assert_allclose(one.tensor.to_dense(), other.tensor.to_dense() * 2.0**500, rtol=0, atol=rounding)


@pytest.mark.parametrize(("given_dtype", "got"), [("int8", "float64"), ("bool", "float64"), ("float16", "float32")])
def test_integers_and_half_precision_are_promoted(row, given_dtype, got):
    x = np.random.default_rng(0).integers(0, 2, size=(4, 5, 6)).astype(given_dtype)
    result = row.fn(x, tol=0.2)
    assert result.tensor.dtype == got
    check_result(x.astype(got), result, tol=0.2, caps=None if row.keeps else 3)


@pytest.mark.parametrize(
    ("x", "error", "part"),
    [
        (np.array([["a", "b"]]), TypeError, "str"),
        (np.array([[object()]]), TypeError, "object"),
        ([[1.0, 2.0], [3.0]], TypeError, "differ in length"),
        (None, TypeError, "object"),
        (np.ma.masked_array(np.ones((2, 2)), mask=np.eye(2)), TypeError, "masked"),
        (tg.random.tt((3, 3), ranks=1, rng=0), TypeError, "to_dense"),
        (np.ones(()), ValueError, "()"),
        (np.ones((2, 0)), ValueError, "(2, 0)"),
    ],
)
def test_what_is_no_tensor_is_refused(row, x, error, part):
    with pytest.raises(error, match=None) as info:
        row.fn(x, tol=0.1)
    assert part in str(info.value)


@pytest.mark.parametrize("tol", [-0.1, 1, 1.5, float("nan"), float("inf")])
def test_a_tolerance_outside_its_range_is_refused(row, tol):
    with pytest.raises(ValueError, match=r"tol=.*\[0, 1\)"):
        row.fn(np.ones((2, 3)), tol=tol)


@pytest.mark.parametrize("tol", ["0.1", True, 1j, [0.1]])
def test_a_tolerance_that_is_no_number_is_refused(row, tol):
    with pytest.raises(TypeError, match="tol="):
        row.fn(np.ones((2, 3)), tol=tol)


def test_neither_tolerance_nor_ranks_is_refused(row):
    if not row.keeps:
        pytest.skip("needs a rank")
    with pytest.raises(ValueError, match=r"neither (tol nor ranks.*tol=.*ranks=|rank nor tol.*rank=.*tol=)"):
        row.fn(np.ones((2, 3)), tol=None)


@pytest.mark.parametrize(
    ("ranks", "error", "part"),
    [
        (0, ValueError, "at least 1"),
        (-2, ValueError, "at least 1"),
        (True, ValueError, "at least 1"),
        (2.5, TypeError, "2.5"),
        ("2", TypeError, "'2'"),
        ((1, 2, 3, 4, 5, 6), (ValueError, TypeError), "ranks"),
        (np.ones((2, 2)), TypeError, "ranks"),
    ],
)
def test_ranks_that_are_none_are_refused(row, ranks, error, part):
    if not row.ranks:
        pytest.skip("takes no ranks")
    with pytest.raises(error) as info:
        row.fn(np.ones((2, 3, 4)), ranks=ranks)
    assert part in str(info.value)


def test_results_survive_copying_and_pickling(row):
    import copy
    import pickle

    x = np.random.default_rng(0).standard_normal((4, 5, 6))
    result = row.fn(x, tol=0.3)
    for twin in (copy.deepcopy(result), pickle.loads(pickle.dumps(result))):
        assert (twin.error, twin.stop, twin.converged) == (result.error, result.stop, result.converged)
        assert twin.stop.help == result.stop.help
        np.testing.assert_array_equal(twin.tensor.to_dense(), result.tensor.to_dense())


def test_threads_do_not_disturb_each_other(row):
    from concurrent.futures import ThreadPoolExecutor

    tensors_ = [np.random.default_rng(k).standard_normal((6, 5, 4)) for k in range(16)]
    alone = [row.fn(x, tol=0.3).tensor.to_dense() for x in tensors_]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda x: row.fn(x, tol=0.3).tensor.to_dense(), tensors_))
    for a, b in zip(alone, together, strict=True):
        np.testing.assert_array_equal(a, b)
