"""stabilize: the error is kept, the measure falls, in every format; and what it refuses."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_cp_lm import noisy

import tensorring as tg
from tensorring._array import eps
from tensorring.linalg import error_floor
from tensorring.testing import tensors

WIDE = ("float64", "complex128")
MEASURES = ("sensitivity", "norm")
FORMATS = ("cp", "tucker", "tt", "tr")
SHAPES = [(7, 6), (6, 5, 4), (2, 3, 4, 3), (1, 6, 1, 5), (2, 3, 2, 3, 2)]


def rough(x, name, ranks=3, sweeps=5):
    """Approximations far from the least measure at their error."""
    options = {"max_sweeps": sweeps, "stall": 0, "init": "random", "rng": 0}
    if name == "cp":
        return tg.cp_als(x, rank=ranks, **options).tensor
    if name == "tucker":
        t = tg.tucker_hooi(x, ranks=ranks, max_sweeps=1).tensor
        scaled = [(1 + k) * u for k, u in enumerate(t.factors)]
        return t.with_arrays([t.core / math.factorial(t.ndim), *scaled])
    return (tg.tt_als if name == "tt" else tg.tr_als)(x, ranks=ranks, **options).tensor


def size(t, measure):
    """The measure in the best scaling, by its definition."""
    t = t.astype("complex128" if "complex" in str(t.dtype) else "float64")
    if isinstance(t, tg.CPTensor):
        norms = np.prod([np.linalg.norm(u, axis=0) for u in t.factors], axis=0) * t.weights
        d = t.ndim
        return (norms**2).sum() if measure == "norm" else (norms ** (2 * (d - 1) / d)).sum()
    if isinstance(t, tg.TuckerTensor):
        if measure == "norm":  # at columns of norm 1
            norms = np.ix_(*(np.linalg.norm(u, axis=0) for u in t.factors))
            return np.linalg.norm(math.prod(norms) * t.core) ** 2
        return tg.sensitivity(tg.balance(t))
    if measure == "norm":
        return t.ndim * math.prod(np.linalg.norm(core) for core in t.cores) ** (2 / t.ndim)
    return tg.sensitivity(tg.balance(t))


def made(x, t):
    wide = "complex128" if np.iscomplexobj(x) else "float64"
    return float(np.linalg.norm(x.astype(wide) - t.astype(wide).to_dense()) / np.linalg.norm(x.astype(wide)))


def slack(dtype, order, bound):
    """The error allowed: 1e-10 of the bound, or a quarter of the error floor."""
    return bound * (1 + 1e-10) + error_floor(dtype, order) / 4 + 4 * eps(dtype)


# What it promises.


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", FORMATS)
def test_the_error_is_kept_and_the_measure_falls(name, shape, measure, dtype):
    x = noisy(shape, 3, dtype).astype(dtype)
    t = rough(x, name)
    error, before = made(x, t), size(t, measure)
    for tol in (None, error * (1 + 1e-7), 1.02 * error, 2 * error):
        bound = error if tol is None else tol
        if not bound < 1:
            continue
        result = tg.stabilize(x, t, tol=tol, measure=measure, max_sweeps=30)
        assert type(result.tensor) is type(t)
        assert (result.tensor.ranks, result.tensor.dtype, result.tensor.shape) == (t.ranks, dtype, shape)
        assert result.error == pytest.approx(made(x, result.tensor), abs=10 * eps(dtype))
        assert result.error <= slack(dtype, len(shape), bound)
        assert size(result.tensor, measure) <= before * (1 + 1e-10 + 20 * eps(dtype))
        assert result.converged
        assert result.stop in (tg.Stop.tol, tg.Stop.max_sweeps)
        assert result.errors[-1] == result.error
        if tol == 2 * error > 1e-6:
            assert size(result.tensor, measure) < before


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("name", FORMATS)
def test_done_twice_it_changes_nothing_more(name, measure):
    x = noisy((6, 5, 4), 3, "complex128")
    t = rough(x, name)
    tol = 1.1 * made(x, t)
    once = tg.stabilize(x, t, tol=tol, measure=measure, stall=1e-9, max_sweeps=3000)
    twice = tg.stabilize(x, once.tensor, tol=tol, measure=measure, stall=1e-9, max_sweeps=3000)
    assert size(twice.tensor, measure) == pytest.approx(size(once.tensor, measure), rel=1e-6)
    assert len(twice.errors) <= 5
    assert twice.error == pytest.approx(tol, rel=1e-7)
    assert once.error == pytest.approx(tol, rel=1e-7)


@pytest.mark.parametrize("name", FORMATS)
def test_results_come_in_the_best_scaling(name):
    x = noisy((6, 5, 4), 3, "float64")
    result = tg.stabilize(x, rough(x, name), tol=0.5)
    assert tg.sensitivity(result.tensor) == pytest.approx(tg.sensitivity(tg.balance(result.tensor)), rel=1e-6)
    if name == "cp":
        assert np.all(np.asarray(result.tensor.weights) == 1)
        for u, n in zip(result.tensor.factors, x.shape, strict=True):
            ratio = np.linalg.norm(u, axis=0) ** 2 / n
            np.testing.assert_allclose(ratio, np.linalg.norm(result.tensor.factors[0], axis=0) ** 2 / 6, rtol=1e-12)


@pytest.mark.parametrize("factor", [1e-12, 1e6])
@pytest.mark.parametrize("name", ["cp", "tucker", "tr"])
def test_how_the_scale_was_shared_out_does_not_matter(name, factor):
    x = noisy((6, 5, 4), 3, "float64")
    t = rough(x, name)
    arrays = list(t.arrays)
    arrays[-1], arrays[-2] = arrays[-1] * factor, arrays[-2] / factor
    one, other = (tg.stabilize(x, some, tol=0.5) for some in (t, t.with_arrays(arrays)))
    assert one.error == pytest.approx(other.error, rel=1e-8)
    expected = tg.sensitivity(one.tensor)
    # Factors of a Tucker tensor stay as they are: only their balance differs.
    assert tg.sensitivity(other.tensor) == pytest.approx(expected, rel=1e-3 if name == "tr" else 1e-6)


def border():
    """W = aab + aba + baa: rank 3, and a limit of tensors of rank 2."""
    x = np.zeros((2, 2, 2))
    x[0, 0, 1] = x[0, 1, 0] = x[1, 0, 0] = 1
    return x


@pytest.mark.parametrize("e", [0.03, 0.01, 0.003])
@pytest.mark.parametrize("dtype", WIDE)
def test_the_border_tensor_has_the_least_norm_of_theory(e, dtype):
    """‖W − x̂‖·Σλ² = (1 + √3·e)³/(2√3) for the error e = ‖W − x̂‖/‖W‖."""
    x = border().astype(dtype)
    plain = tg.cp_als(x, rank=2, init="random", rng=0, stall=0, max_sweeps=4000).tensor
    assert made(x, plain) < e
    result = tg.stabilize(x, plain, tol=e, measure="norm", stall=1e-9, max_sweeps=20000)
    assert result.error == pytest.approx(e, rel=1e-6)
    law = (1 + math.sqrt(3) * e) ** 3 / (2 * math.sqrt(3))
    assert e * math.sqrt(3) * size(result.tensor, "norm") / math.sqrt(3) == pytest.approx(law, rel=0.01)


def test_terms_that_cancel_shrink_at_the_same_error():
    x = np.random.default_rng(7).standard_normal((4, 4, 4))
    plain = tg.cp_als(x, rank=5, init="random", rng=2, stall=0, max_sweeps=2000)
    before = tg.degeneracy(plain.tensor).norm_ratio
    assert before > 3
    result = tg.stabilize(x, plain.tensor, tol=1.01 * plain.error, measure="norm")
    assert tg.degeneracy(result.tensor).norm_ratio < 0.7 * before
    assert result.error <= 1.01 * plain.error * (1 + 1e-10)


# Inputs.


@given(x=tensors(ndim=st.integers(1, 4)), name=st.sampled_from(FORMATS), measure=st.sampled_from(MEASURES))
def test_any_tensor_and_any_format(x, name, measure):
    options = {"max_sweeps": 3} if name != "tucker" else {"max_sweeps": 1}
    ranks = {"rank" if name == "cp" else "ranks": 2}
    fit = {"cp": tg.cp_als, "tucker": tg.tucker_hooi, "tt": tg.tt_als, "tr": tg.tr_als}[name]
    t = fit(x, **ranks, **options).tensor
    before = x.copy()
    arrays = [np.array(a) for a in t.arrays]
    result = tg.stabilize(x, t, measure=measure, max_sweeps=6)
    error = tg.relative_error(x, t)
    assert all(np.all(np.isfinite(a)) for a in result.tensor.arrays)
    assert result.error <= slack(str(t.dtype), x.ndim, error)
    assert result.tensor.ranks == t.ranks
    assert np.array_equal(x, before)
    for a, b in zip(t.arrays, arrays, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("scale", [2.0**-500, 2.0**-290, 2.0**290, 2.0**500])
def test_scales_change_nothing(scale, name):
    x = noisy((6, 5, 4), 3, "float64")
    t = rough(x, name)
    tol = 1.1 * made(x, t)
    arrays = list(t.arrays)
    arrays[t.carrier] = arrays[t.carrier] * scale
    one, other = tg.stabilize(x, t, tol=tol), tg.stabilize(x * scale, t.with_arrays(arrays), tol=tol)
    assert other.error == pytest.approx(one.error, rel=1e-8)
    np.testing.assert_allclose(other.tensor.to_dense() / scale, one.tensor.to_dense(), atol=1e-8 * np.abs(x).max())


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("scale", [1e-85, 1e85])
def test_many_modes_at_extreme_scales(scale, name):
    x = noisy((2, 3, 2, 3, 2, 2), 2, "complex128")
    t = rough(x, name, ranks=2)
    arrays = list(t.arrays)
    arrays[t.carrier] = arrays[t.carrier] * scale
    result = tg.stabilize(x * scale, t.with_arrays(arrays), tol=0.9, max_sweeps=5)
    assert result.error <= 0.9 * (1 + 1e-9)
    assert all(np.all(np.isfinite(a)) for a in result.tensor.arrays)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("given_dtype", ["int8", "float16", "bool"])
def test_integers_and_half_precision_are_promoted(name, given_dtype):
    x = np.random.default_rng(0).integers(0, 2, size=(4, 5, 6)).astype(given_dtype)
    got = "float32" if given_dtype == "float16" else "float64"
    t = rough(x.astype(got), name)
    result = tg.stabilize(x, t)
    assert result.tensor.dtype == got


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("order", ["F", "reversed", "readonly"])
def test_memory_orders_and_read_only_inputs(name, order):
    x = noisy((6, 5, 4), 3, "float64")
    t = rough(x, name)
    expected = tg.stabilize(x, t, tol=0.5, max_sweeps=5).tensor.to_dense()
    view = {"F": np.asfortranarray(x), "reversed": x[::-1].copy()[::-1], "readonly": x.copy()}[order]
    view.flags.writeable = False
    for a in t.arrays:
        a.flags.writeable = False
    np.testing.assert_allclose(tg.stabilize(view, t, tol=0.5, max_sweeps=5).tensor.to_dense(), expected, atol=1e-9)


@pytest.mark.parametrize("name", FORMATS)
def test_an_approximation_in_another_precision_comes_in_that_of_x(name):
    x = noisy((6, 5, 4), 3, "float64")
    for dtype, given_dtype in (("float32", "float64"), ("float64", "float32"), ("complex128", "float64")):
        t = rough(x, name).astype(given_dtype)
        result = tg.stabilize(x.astype(dtype), t, tol=0.5)
        assert result.tensor.dtype == dtype
        assert result.error <= slack(dtype, 3, 0.5)


@pytest.mark.parametrize("name", FORMATS)
def test_exact_fits_stay_exact(name, dtype):
    t = {
        "cp": tg.random.cp((4, 5, 6), rank=2, dtype=dtype, rng=0),
        "tucker": tg.random.tucker((4, 5, 6), ranks=2, dtype=dtype, rng=0),
        "tt": tg.random.tt((4, 5, 6), ranks=2, dtype=dtype, rng=0),
        "tr": tg.random.tr((4, 5, 6), ranks=2, dtype=dtype, rng=0),
    }[name]
    x = t.to_dense()
    result = tg.stabilize(x, t)
    assert result.error <= error_floor(dtype, 3)
    assert tg.sensitivity(result.tensor) <= tg.sensitivity(tg.balance(t)) * (1 + 100 * eps(dtype))


@pytest.mark.parametrize("name", FORMATS)
def test_of_zero_there_is_zero(name):
    x = np.zeros((4, 5, 6))
    t = rough(noisy((4, 5, 6), 2, "float64"), name)
    zero = t.with_arrays([0 * a for a in t.arrays])
    result = tg.stabilize(x, zero)
    assert result.error == 0.0
    assert not result.tensor.to_dense().any()
    # Of a tensor that is not zero, nothing is an approximation with the error 1.
    result = tg.stabilize(np.ones((4, 5, 6)), zero)
    assert result.error == pytest.approx(1.0)
    assert not result.tensor.to_dense().any()
    # What approximates nothing is left as it is.
    result = tg.stabilize(x, t)
    assert math.isinf(result.error)
    assert not result.converged


def test_an_error_above_one_leads_to_nothing():
    x = noisy((4, 5, 6), 2, "float64")
    t = tg.random.cp((4, 5, 6), rank=2, rng=5)
    t = tg.CPTensor(3 * np.linalg.norm(x) / np.linalg.norm(t.to_dense()) * t.weights, t.factors)
    result = tg.stabilize(x, t)
    assert made(x, t) > 2
    assert result.error <= made(x, t)
    assert all(np.all(np.isfinite(a)) for a in result.tensor.arrays)


@pytest.mark.parametrize("measure", MEASURES)
def test_terms_of_any_size_and_terms_that_are_not_there(measure):
    x = noisy((4, 5, 6), 2, "complex128")
    t = tg.cp_als(x, rank=2, rng=0).tensor
    base = made(x, t)
    for size_, twin in ((0.0, False), (1e-200, False), (1e-9, True), (0.0, True)):
        extra = [u[:, :1] for u in t.factors] if twin else tg.random.cp(x.shape, rank=1, dtype=x.dtype, rng=1).factors
        weights = np.concatenate([t.weights, [size_]])
        more = tg.CPTensor(weights, [np.hstack([u, v]) for u, v in zip(t.factors, extra, strict=True)])
        result = tg.stabilize(x, more, tol=1.5 * base, measure=measure, max_sweeps=50)
        assert result.error <= 1.5 * base * (1 + 1e-10)
        assert result.tensor.rank == 3
        assert size(result.tensor, measure) < size(more, measure)


@pytest.mark.parametrize("name", FORMATS)
def test_one_mode(name):
    x = np.arange(1.0, 6.0)
    t = {
        "cp": tg.CPTensor([1.0, 2.0], [np.ones((5, 2))]),
        "tucker": tg.TuckerTensor(np.ones(1), [np.ones((5, 1))]),
        "tt": tg.TTTensor([np.ones((1, 5, 1))]),
        "tr": tg.TRTensor([np.ones((2, 5, 2))]),
    }[name]
    result = tg.stabilize(x, t)
    assert result.error <= tg.relative_error(x, t) + 1e-14
    assert result.tensor.ranks == t.ranks


@pytest.mark.parametrize("name", FORMATS)
def test_libraries_agree(name, xp, dtype):
    x = noisy((6, 5, 4), 3, dtype).astype(dtype)
    t = rough(x, name)
    for measure in MEASURES:
        ours = tg.stabilize(x, t, tol=0.5, measure=measure, max_sweeps=5)
        theirs = tg.stabilize(xp.asarray(x), xp.tensor(t), tol=0.5, measure=measure, max_sweeps=5)
        assert theirs.error == pytest.approx(ours.error, rel=1e-4 if eps(dtype) > 1e-10 else 1e-8)
        dense = xp.to_numpy(theirs.tensor.to_dense())
        tolerance = (1e-2 if eps(dtype) > 1e-10 else 1e-6) * np.abs(x).max()
        np.testing.assert_allclose(dense, ours.tensor.to_dense(), atol=tolerance)


# Watching, ending, interrupting.


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("at", [1, 2, 5])
def test_whatever_ends_it_what_is_there_is_within_the_bound(name, at):
    x = noisy((6, 5, 4), 3, "complex128")
    t = rough(x, name)
    tol = 1.3 * made(x, t)
    before = size(t, "sensitivity")

    def interrupt(sweep, _):
        if sweep == at:
            raise KeyboardInterrupt

    whole = tg.stabilize(x, t, tol=tol, stall=0)
    for callback, stop in ((lambda sweep, _: sweep >= at, tg.Stop.budget), (interrupt, tg.Stop.interrupted)):
        result = tg.stabilize(x, t, tol=tol, stall=0, callback=callback)
        assert result.error <= tol * (1 + 1e-10)
        assert result.error == pytest.approx(made(x, result.tensor), abs=1e-14)
        assert size(result.tensor, "sensitivity") <= before * (1 + 1e-10)
        if at < len(whole.errors):
            assert result.stop is stop
    limited = tg.stabilize(x, t, tol=tol, stall=0, max_sweeps=at)
    assert len(limited.errors) <= at + 1
    assert limited.error <= tol * (1 + 1e-10)
    if at < len(whole.errors) - 1:
        assert limited.stop is tg.Stop.max_sweeps


def test_sweeps_are_counted_and_told():
    x = noisy((6, 5, 4), 3, "float64")
    told = []
    result = tg.stabilize(x, rough(x, "cp"), tol=0.5, callback=lambda sweep, error: told.append((sweep, error)))
    assert [sweep for sweep, _ in told] == list(range(1, len(result.errors)))
    assert all(error <= 0.5 * (1 + 1e-6) for _, error in told)
    tg.stabilize(x, rough(x, "cp"), tol=0.5, callback=tg.progress("correction"))


def test_other_exceptions_of_a_callback_reach_the_caller():
    x = noisy((6, 5, 4), 3, "float64")

    def fails(sweep, error):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        tg.stabilize(x, rough(x, "cp"), tol=0.5, callback=fails)


# What it refuses.


CP = tg.random.cp((4, 5, 6), rank=2, rng=0)


@pytest.mark.parametrize(
    ("t", "options", "error", "parts"),
    [
        (CP, {"measure": "size"}, ValueError, ["'size'", "'sensitivity'", "'norm'"]),
        (CP, {"tol": 0.01}, ValueError, ["tol=0.01", "of error 0.09", "tg.cp_stable"]),
        (CP, {"tol": 1.0}, ValueError, ["tol=1.0", "[0, 1)"]),
        (CP, {"tol": "a"}, TypeError, ["tol='a'"]),
        (CP, {"stall": -1}, ValueError, ["stall=-1"]),
        (CP, {"max_sweeps": 0}, ValueError, ["max_sweeps=0"]),
        (CP, {"max_sweeps": 1.5}, TypeError, ["max_sweeps=1.5"]),
        (CP, {"callback": 3}, TypeError, ["callback=3"]),
        (np.ones((4, 5, 6)), {}, TypeError, ["ndarray", "CPTensor", "TRTensor"]),
        (None, {}, TypeError, ["NoneType", "CPTensor"]),
        (tg.random.cp((4, 5, 7), rank=2, rng=0), {}, ValueError, ["(4, 5, 7)", "(4, 5, 6)"]),
        (tg.random.cp((4, 5), rank=2, rng=0), {}, ValueError, ["(4, 5)", "(4, 5, 6)"]),
        (tg.random.cp((4, 5, 6), rank=2, dtype="complex128", rng=0), {}, ValueError, ["complex", "float64"]),
        (tg.CPTensor([np.inf, 1.0], CP.factors), {}, ValueError, ["NaN or inf"]),
        (tg.CPTensor([np.nan, 1.0], CP.factors), {}, ValueError, ["NaN or inf"]),
    ],
)
def test_what_makes_no_sense_is_refused(t, options, error, parts):
    with pytest.raises(error) as info:
        tg.stabilize(noisy((4, 5, 6), 2, "float64"), t, **options)
    for part in parts:
        assert part in str(info.value)


def test_results_of_decompositions_are_refused_with_the_way_out():
    x = noisy((4, 5, 6), 2, "float64")
    with pytest.raises(TypeError, match="use its tensor"):
        tg.stabilize(x, tg.cp_als(x, rank=2))


def test_cuts_and_block_terms_are_refused():
    x = noisy((4, 5, 6), 2, "float64")
    for t in (tg.cut_svd(x, modes=0, ranks=2).tensor, tg.btd_als(x, terms=2, ranks=1, max_sweeps=2, rng=0).tensor):
        with pytest.raises(TypeError, match=f"{type(t).__name__}.*CPTensor"):
            tg.stabilize(x, t)


def test_another_library_is_refused():
    strict = pytest.importorskip("array_api_strict")
    x = noisy((4, 5, 6), 2, "float64")
    with pytest.raises(TypeError, match="another library"):
        tg.stabilize(strict.asarray(x), CP)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_tensors_that_are_not_finite_are_refused(value):
    x = noisy((4, 5, 6), 2, "float64")
    x[1, 2, 3] = value
    with pytest.raises(ValueError, match=r"\[1, 2, 3\]"):
        tg.stabilize(x, CP)
