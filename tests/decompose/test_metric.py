"""metric={modes: S} in every format: errors against dense sums, changes of variables, optimal cuts, stationarity."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tensorring as tg
from tensorring._array import eps, to_host
from tensorring.decompose._arguments import prepare
from tensorring.decompose._metric.formats import CP
from tensorring.decompose._metric.in_metric import Variant, in_metric
from tensorring.linalg import error_floor

SHAPE = (7, 5, 3, 4)
FORMATS = {
    "cp_als": partial(tg.cp_als, rank=6, rng=0),
    "cp_stable": partial(tg.cp_stable, rank=6, rng=0),
    "tucker": partial(tg.tucker_hooi, ranks=(3, 3, 2, 2)),
    "tucker-2": partial(tg.tucker_hooi, ranks=(3, 3), modes=(0, 1)),
    "tt_als": partial(tg.tt_als, ranks=(3, 4, 3)),
    "tr_als": partial(tg.tr_als, ranks=(2, 3, 2, 2), rng=0),
    "separable": partial(tg.cut_svd, modes=(0, 3), ranks=5),
    "cut": partial(tg.cut_svd, modes=(0,), ranks=3),
}
GROUPS = [(1, 2, 3), (0, 1), (1, 3)]
WIDE = ["float64", "complex128"]


@pytest.fixture(params=FORMATS)
def method(request):
    return FORMATS[request.param]


def moments(n, dtype="float64", *, rank=None, seed=0):
    """A second moment of n numbers of different sizes, all of them correlated."""
    rng = np.random.default_rng(seed)
    z = rng.standard_normal((rank or 2 * n, n)) * np.linspace(0.3, 3, n)
    if "complex" in dtype:
        z = z + 1j * rng.standard_normal(z.shape)
    return (np.conj(z).T @ z / len(z)).astype(dtype)


def sizes(modes, shape=SHAPE):
    return int(np.prod([shape[k] for k in modes]))


def dense_norm(x, metric):
    """‖x‖_S from one matrix on all modes, written as sums over indices."""
    letters, y = "abcdef"[: x.ndim], x.astype("complex128")
    for modes, s in metric.items():
        own = [letters[k] for k in modes]
        s = s.reshape([x.shape[k] for k in modes] * 2)
        out = [c.upper() if c in own else c for c in letters]
        y = np.einsum(f"{''.join(c.upper() for c in own)}{''.join(own)},{letters}->{''.join(out)}", s, y)
    return max(0.0, np.vdot(x, y).real) ** 0.5


def dense_error(x, t, metric):
    return dense_norm(x - to_host(t.to_dense()).astype("complex128"), metric) / dense_norm(x, metric)


def root(s):
    values, vectors = np.linalg.eigh(s)
    return (vectors * np.sqrt(np.maximum(values, 0))) @ np.conj(vectors).T


@pytest.mark.parametrize("modes", GROUPS, ids=str)
def test_the_error_is_true_and_no_worse_than_the_plain_fits(method, modes, dtype, gaussian):
    x, metric = gaussian(SHAPE, dtype), {modes: moments(sizes(modes), dtype)}
    result, plain = method(x, metric=metric), method(x)
    error = dense_error(x, result.tensor, metric)
    assert result.error == pytest.approx(error, rel=100 * eps(dtype))
    assert error < dense_error(x, plain.tensor, metric)
    assert result.tensor.ranks == plain.tensor.ranks
    assert result.tensor.dtype == np.dtype(dtype)
    rising = np.diff(result.errors[:-1]).max(initial=0)
    assert rising <= (0 if method is not FORMATS["cp_stable"] else 1e-2)
    assert result.stop in (tg.Stop.stall, tg.Stop.max_sweeps, tg.Stop.direct)


@pytest.mark.parametrize("modes", GROUPS, ids=str)
@pytest.mark.parametrize("dtype", WIDE)
def test_no_small_change_of_any_array_is_better(method, modes, dtype, gaussian, rng):
    """The squared error is stationary (for cp_stable with its price): the residual is at right angles to every move."""
    metric = {modes: moments(sizes(modes), dtype)}
    x, noise = method(gaussian(SHAPE, dtype)).tensor.to_dense(), gaussian(SHAPE, dtype)
    x = x + 0.1 * np.linalg.norm(x) / np.linalg.norm(noise) * noise
    t = method(x, metric=metric, **({} if method.func is tg.cut_svd else {"max_sweeps": 2000, "stall": 1e-13})).tensor

    def value(t, price):
        terms = np.prod([np.linalg.norm(u, axis=0) for u in t.factors], axis=0) * t.weights if price else 0.0
        return dense_error(x, t, metric) ** 2 + price * np.linalg.norm(terms) ** 2 / np.linalg.norm(x) ** 2

    moves = []
    for k in (k for k, array in enumerate(t.arrays) if not (isinstance(t, tg.TuckerTensor) and k and _is_one(array))):
        for _ in range(3):
            change = rng.standard_normal(t.arrays[k].shape) * np.abs(t.arrays[k]).mean() * 1e-4
            if "complex" in dtype and np.iscomplexobj(t.arrays[k]):
                change = change * np.exp(2j * np.pi * rng.random())
            moves.append([_with(t, k, t.arrays[k] + sign * change) for sign in (1, -1)])

    def cosine(up, down, price):
        moved = dense_norm(up.to_dense() - down.to_dense(), metric) / dense_norm(x, metric)
        return abs(value(up, price) - value(down, price)) / (2 * moved * value(t, price) ** 0.5)

    prices = (1e-3, 1e-4, 1e-5) if method is FORMATS["cp_stable"] else (0.0,)
    # The ridge inside the fit leaves some of it.
    assert min(max(cosine(*move, price) for move in moves) for price in prices) < 1e-3


def _with(t, k, array):
    return t.with_arrays([array if j == k else old for j, old in enumerate(t.arrays)])


def _is_one(u):
    return u.shape[0] == u.shape[1] and np.array_equal(u, np.eye(len(u)))


def test_the_identity_is_the_plain_norm(method, gaussian):
    """Where the plain fit has ended a fit in a metric that is none ends too."""
    x = gaussian(SHAPE)
    plain = method(x)
    init = {} if method.func is tg.cut_svd else {"init": plain.tensor}
    result = method(x, metric={(1, 2): np.eye(15)}, **init)
    assert tg.relative_error(x, result.tensor) == pytest.approx(result.error, rel=1e-12)
    assert result.error == pytest.approx(plain.error, rel=2e-2)
    assert result.error <= plain.error * (1.01 if method is FORMATS["cp_stable"] else 1 + 1e-9)


@pytest.mark.parametrize("dtype", WIDE)
def test_single_modes_are_a_change_of_variables(method, dtype, gaussian):
    x, s, gamma = gaussian(SHAPE, dtype), moments(5, dtype), moments(7, dtype, seed=1)
    y = np.einsum("ab,cd,bdef->acef", root(gamma), root(s), x)
    # Sweep for sweep the same; by hundreds of sweeps CPs may end in two valleys.
    few = {} if method.func is tg.cut_svd else {"max_sweeps": 15}
    result, plain = method(x, metric={1: s, (0,): gamma}, **few), method(y, **few)
    assert result.error == pytest.approx(plain.error, rel=1e-9)
    assert result.error == pytest.approx(dense_error(x, result.tensor, {(1,): s, (0,): gamma}), rel=1e-9)
    assert tg.relative_error(x, result.tensor, metric={1: s, 0: gamma}) == pytest.approx(result.error, rel=1e-12)


@pytest.mark.parametrize("dtype", WIDE)
def test_an_output_metric_beside_one_of_the_inputs(method, dtype, gaussian):
    x, metric = gaussian(SHAPE, dtype), {(0,): moments(7, dtype), (1, 2, 3): moments(60, dtype)}
    result = method(x, metric=metric)
    assert result.error == pytest.approx(dense_error(x, result.tensor, metric), rel=1e-9)
    for other in ({}, {"metric": {(1, 2, 3): metric[1, 2, 3]}}):
        assert result.error < dense_error(x, method(x, **other).tensor, metric)


def test_several_groups_of_several_modes(method, gaussian):
    x = gaussian((4, 3, 5, 2, 3))
    if method.func in (tg.tucker_hooi, tg.tt_als, tg.tr_als):
        method = partial(method.func, ranks=2)
    metric = {(1, 3): moments(6), (2, 4): moments(15, seed=1)}
    result = method(x, metric=metric)
    assert result.error == pytest.approx(dense_error(x, result.tensor, metric), rel=1e-9)
    assert result.error < dense_error(x, method(x).tensor, metric)


@pytest.mark.parametrize("scale", [1e-150, 1e-30, 1e150])
def test_scales_change_nothing(method, scale, gaussian):
    x, s = gaussian(SHAPE), moments(60)
    one = method(x, metric={(1, 2, 3): s})
    for other, metric in ((x, s * scale), (x * scale, s), (x * scale, s * scale)):
        result = method(other, metric={(1, 2, 3): metric})
        assert result.error == pytest.approx(one.error, rel=1e-3)
        assert all(np.isfinite(array).all() for array in result.tensor.arrays)


@pytest.mark.parametrize("dtype", WIDE)
def test_metrics_that_do_not_see_everything(method, dtype, gaussian):
    """Rank 20 of 60; and a single mode of which half is not seen: nothing of the fit lies there."""
    x, metric = gaussian(SHAPE, dtype), {(1, 2, 3): moments(60, dtype, rank=20)}
    result = method(x, metric=metric)
    assert result.error == pytest.approx(dense_error(x, result.tensor, metric), rel=1e-6)
    assert result.error < dense_error(x, method(x).tensor, metric)
    if method.func is tg.cut_svd:
        return  # what is not seen on one side of a cut comes out plain: the next test
    s = moments(5, dtype, rank=2)
    result = method(x, metric={1: s})
    assert result.error == pytest.approx(dense_error(x, result.tensor, {(1,): s}), abs=1e-7)
    blind = np.linalg.svd(s)[2][2:].conj()
    unseen = np.tensordot(blind.conj(), result.tensor.to_dense(), axes=([1], [1]))
    assert np.linalg.norm(unseen) < 1e-6 * np.linalg.norm(x)


@pytest.mark.parametrize("dtype", WIDE)
@pytest.mark.parametrize("modes", [(0,), (1, 2)])
def test_a_cut_in_a_metric_on_one_side_projects_what_is_not_seen(modes, dtype, gaussian):
    x, s = gaussian((6, 4, 5), dtype), moments(20, dtype, rank=7)
    t = tg.cut_svd(x, modes=modes, ranks=3, metric={(1, 2): s}).tensor
    dense = t.to_dense().reshape(6, 20)
    left = np.linalg.svd(dense)[0][:, :3]
    np.testing.assert_allclose(dense, left @ left.conj().T @ x.reshape(6, 20), atol=1e-12)
    assert tg.cut_svd(x, modes=modes, tol=0.0, metric={(1, 2): s}).tensor.ranks == (6,)
    assert tg.cut_svd(x, modes=modes, tol=1e-6, metric={(1, 2): moments(20, dtype, rank=4)}).tensor.ranks == (4,)


def test_a_tensor_that_is_not_seen(method, gaussian):
    x, s = gaussian(SHAPE), np.zeros((15, 15))
    s[0, 0], x[:, 0, 0] = 1, 0
    result = method(x, metric={(1, 2): s})
    assert result.error == 0
    assert np.all(result.tensor.to_dense() == 0)
    assert method(0 * x, metric={(1, 2): s}).error == 0


def test_other_libraries_give_what_numpy_gives(method, xp, dtype, gaussian):
    x, s = gaussian(SHAPE, dtype), moments(60, dtype)
    # From the tenth sweep on CPs are extrapolated, which takes the roundings of single precision to 1e-3 and beyond.
    sweeps = 8 if dtype in ("float32", "complex64") else 15
    few = {} if method.func is tg.cut_svd else {"max_sweeps": sweeps}
    one, other = (
        method(x, metric={(1, 2, 3): s}, **few),
        method(xp.asarray(x), metric={(1, 2, 3): xp.asarray(s)}, **few),
    )
    for array in other.tensor.arrays:
        xp.to_numpy(array)
    assert other.error == pytest.approx(one.error, rel=1e-4)


def test_inputs_are_not_written_to(method, gaussian):
    x, s = gaussian(SHAPE), moments(15)
    before, matrix = x.copy(), s.copy()
    x.flags.writeable = s.flags.writeable = False
    method(x, metric={(1, 2): s})
    np.testing.assert_array_equal(x, before)
    np.testing.assert_array_equal(s, matrix)


@pytest.mark.parametrize("dtype", WIDE)
@pytest.mark.parametrize("modes", [(0,), (0, 1)])
def test_the_cut_is_the_best_there_is(modes, dtype, gaussian, rng):
    """Its error is the generalised Eckart–Young value, and no change of its factors is better, however large."""
    x, r = gaussian((6, 4, 5), dtype), 3
    others = tuple(k for k in range(3) if k not in modes)
    n, m = sizes(modes, x.shape), sizes(others, x.shape)
    metric = {modes: moments(n, dtype), others: moments(m, dtype, seed=1)}
    result = tg.cut_svd(x, modes=modes, ranks=r, metric=metric)
    weighted = root(metric[modes]) @ x.reshape(n, m) @ root(metric[others]).T
    values = np.linalg.svd(weighted, compute_uv=False)
    assert result.error == pytest.approx(np.linalg.norm(values[r:]) / np.linalg.norm(values), rel=1e-9)
    for change in (1e-3, 1e-2, 0.1, 1.0):
        moved = [a + change * np.abs(a).mean() * rng.standard_normal(a.shape) for a in result.tensor.arrays]
        assert dense_error(x, result.tensor.with_arrays(moved), metric) > result.error
    for tol in (0.0, 1e-3, 0.3, 0.6):
        kept = tg.cut_svd(x, modes=modes, tol=tol, metric=metric)
        floor = error_floor(dtype, 3)
        assert kept.converged == (kept.error <= tol + floor)
        assert kept.error <= tol + 100 * floor
        bond = kept.tensor.ranks[0]
        assert bond == 1 or np.linalg.norm(values[bond - 1 :]) > tol * np.linalg.norm(values)


def test_tolerances_with_single_modes_search_and_with_groups_stop(gaussian):
    x, s = gaussian(SHAPE), moments(5)
    for fn in (tg.tucker_hooi, tg.tt_als, tg.tr_als, partial(tg.cut_svd, modes=(0,)), partial(tg.cp_stable, rng=0)):
        result = fn(x, tol=0.5, metric={1: s})
        assert result.converged
        assert dense_error(x, result.tensor, {(1,): s}) <= 0.5 + 1e-12
    s = moments(60)
    for name in ("cp_als", "cp_stable", "tucker", "tt_als", "tr_als"):
        full = FORMATS[name](x, metric={(1, 2, 3): s})
        tol = min(1.1 * full.error, 0.99)
        result = FORMATS[name](x, metric={(1, 2, 3): s}, tol=tol)
        assert (result.stop, result.converged) == (tg.Stop.tol, True)
        assert result.error <= tol
        assert len(result.errors) <= len(full.errors)


def test_exact_tensors_are_found_again(rng):
    """Noise that S hardly sees is left out: the fit in S is nearer to what was there than to the data."""
    truth = tg.random.cp((12, 8, 9), rank=4, rng=0).to_dense()
    s = np.eye(72)
    s[:36, :36] *= 1e-6
    x = truth.reshape(12, 72).copy()
    x[:, :36] += rng.standard_normal((12, 36)) * x.std()
    result = tg.cp_als(
        x.reshape(truth.shape), rank=4, metric={(1, 2): s}, stall=1e-12, max_sweeps=3000, n_starts=4, rng=0
    )
    assert result.error < 0.05


def test_the_price_keeps_terms_small_where_plain_sweeps_let_them_grow():
    """A tensor on the border of rank 2, in a metric; and max_norm is kept, whatever it is."""
    x = np.zeros((3, 2, 2))
    x[0, 0, 1] = x[0, 1, 0] = x[1, 0, 0] = 1
    metric = {(1, 2): np.diag([1.0, 2.0, 2.0, 1.0]) + 0.1}
    plain = tg.cp_als(x, rank=2, metric=metric, init="random", rng=0)
    stable = tg.cp_stable(x, rank=2, metric=metric, init="random", rng=0)
    assert tg.degeneracy(plain.tensor).norm_ratio > 3 * tg.degeneracy(stable.tensor).norm_ratio
    for bound in (1.0, 1.2, 2.0, 10.0):
        t = tg.cp_stable(x, rank=2, metric=metric, max_norm=bound, max_sweeps=40).tensor
        terms = np.prod([np.linalg.norm(u, axis=0) for u in t.factors], axis=0)
        assert np.linalg.norm(terms) <= bound * np.linalg.norm(x) * (1 + 1e-9)


def test_the_price_does_not_keep_small_errors_from_being_reached():
    x = tg.random.cp((12, 8, 9), rank=4, rng=0).to_dense()
    metric = {(1, 2): moments(72)}
    for tol in (0.02, 1e-3):
        assert tg.cp_stable(x, rank=4, metric=metric, tol=tol).stop is tg.Stop.tol


ITERATIVE = [name for name in FORMATS if FORMATS[name].func is not tg.cut_svd]


@pytest.mark.parametrize("name", ITERATIVE)
def test_the_keywords_of_every_iterative_method(name, gaussian):
    x, metric, method = gaussian(SHAPE), {(1, 2, 3): moments(60)}, FORMATS[name]
    first = method(x, metric=metric, max_sweeps=8)
    assert first.stop is tg.Stop.max_sweeps
    assert len(first.errors) == 8
    again = method(x, metric=metric, init=first.tensor, max_sweeps=20)
    assert again.error <= first.error * (1 + 1e-3)
    seen = []
    ended = method(x, metric=metric, callback=lambda sweep, error: seen.append(error) or sweep == 3)
    assert ended.stop is tg.Stop.budget
    assert len(seen) == len(ended.errors) == 3
    several = method(x, metric=metric, n_starts=3, rng=1, max_sweeps=50) if name != "cp_stable" else None
    single = method(x, metric=metric, n_starts=1, rng=1, max_sweeps=50)
    assert several is None or several.error <= single.error * (1 + 1e-6)
    one, two = (method(x, metric=metric, init="random", rng=3, max_sweeps=5) for _ in range(2))
    assert one.error == two.error


@pytest.mark.parametrize("name", ITERATIVE)
def test_an_interrupt_keeps_the_best_so_far(name, gaussian):
    def watch(sweep, error):
        if sweep == 4:
            raise KeyboardInterrupt

    x, metric = gaussian(SHAPE), {(1, 2, 3): moments(60)}
    result = FORMATS[name](x, metric=metric, callback=watch)
    assert result.stop is tg.Stop.interrupted
    assert result.error == pytest.approx(dense_error(x, result.tensor, metric), rel=1e-9)


def test_an_interrupt_of_the_plain_sweeps_is_kept(gaussian):
    x = gaussian(SHAPE)
    stopped = replace(tg.cp_als(x, rank=3, max_sweeps=5), stop=tg.Stop.interrupted)
    variant = Variant(FORMATS["cp_als"], lambda *_, **__: stopped, CP, lambda t: t)
    result = in_metric(prepare(x, tol=None), {(1, 2): moments(15)}, variant, "hosvd", 1, 0, 0.0, 100, None)
    assert result.stop is tg.Stop.interrupted
    assert result.error <= dense_error(x, stopped.tensor, {(1, 2): moments(15)})


def test_moments_in_single_precision_may_be_slightly_indefinite(method, gaussian):
    x, z = gaussian(SHAPE, "float32"), gaussian((20, 60), "float32") * np.logspace(0, 2, 60, dtype="float32")
    s = z.T @ z / 20
    assert np.linalg.eigvalsh(s.astype("float64"))[0] < 0
    result = method(x, metric={(1, 2, 3): s})
    assert result.error == pytest.approx(dense_error(x, result.tensor, {(1, 2, 3): s}), rel=1e-3, abs=1e-3)
    assert result.error < 1


@given(data=st.data())
def test_any_shape_any_group_any_dtype(data):
    shape = tuple(data.draw(st.lists(st.integers(1, 5), min_size=3, max_size=4)))
    dtype = data.draw(st.sampled_from(["float32", "float64", "complex64", "complex128"]))
    modes = data.draw(st.sets(st.integers(0, len(shape) - 1), min_size=2, max_size=len(shape) - 1))
    modes = tuple(sorted(modes))
    name = data.draw(st.sampled_from(sorted(FORMATS)))
    fn, rank = FORMATS[name].func, data.draw(st.integers(1, 4))
    options = {"rank": rank} if "cp" in name else {"ranks": rank}
    options |= {"modes": (0, len(shape) - 1)} if name == "separable" else {"modes": (0,)} if name == "cut" else {}
    options |= {} if fn is tg.cut_svd else {"max_sweeps": 10, "rng": 0}
    draw = np.random.default_rng(data.draw(st.integers(0, 99)))
    x = draw.standard_normal(shape) + (1j * draw.standard_normal(shape) if "complex" in dtype else 0)
    n = sizes(modes, shape)
    metric = {modes: moments(n, dtype, rank=data.draw(st.sampled_from([None, 1, n])), seed=n)}
    x = x.astype(dtype)
    result = fn(x, metric=metric, **options)
    assert all(np.isfinite(array).all() for array in result.tensor.arrays)
    plain = fn(x, **options)
    error = dense_error(x, result.tensor, metric)
    assert result.error == pytest.approx(error, rel=1e-3, abs=50 * eps(dtype) ** 0.5)
    if name != "cp_stable":
        assert error <= dense_error(x, plain.tensor, metric) * (1 + 1e-3) + 50 * eps(dtype) ** 0.5


class TestBadMetrics:
    X = np.random.default_rng(0).standard_normal(SHAPE)

    @pytest.mark.parametrize(
        ("metric", "kind", "words"),
        [
            ([np.eye(5)], TypeError, "maps groups of modes"),
            ({(1, 2): np.eye(14)}, ValueError, r"\(15, 15\)"),
            ({(1, 2): [[1.0]]}, TypeError, "library"),
            ({(1, 7): np.eye(15)}, ValueError, "modes"),
            ({(1, 1): np.eye(25)}, ValueError, "modes"),
            ({"a": np.eye(5)}, TypeError, "modes"),
            ({(1, 2): np.eye(15), (2, 3): np.eye(12)}, ValueError, "share a mode"),
            ({(1, 2): np.eye(15) + np.triu(np.ones((15, 15)))}, ValueError, "not symmetric"),
            ({(1, 2): np.diag([*np.ones(14), -0.1])}, ValueError, "below zero"),
            ({(1, 2): np.diag([*np.ones(14), np.nan])}, ValueError, r"14, 14\] is nan"),
            ({(1, 2): np.zeros((15, 15))}, ValueError, "zeros"),
            ({(1, 2): np.eye(15) * (1 + 0j)}, ValueError, "complex"),
        ],
        ids=range(12),
    )
    def test_errors_say_what_was_got(self, method, metric, kind, words):
        with pytest.raises(kind, match=words):
            method(self.X, metric=metric)
        with pytest.raises(kind, match=words):
            tg.relative_error(self.X, tg.tt_svd(self.X, ranks=1).tensor, metric=metric)

    def test_one_mode_must_stand_alone(self):
        s = np.eye(420)
        for name in ITERATIVE:
            with pytest.raises(ValueError, match="leave none out"):
                FORMATS[name](self.X, metric={(0, 1, 2, 3): s})
        with pytest.raises(ValueError, match="leave none out"):
            tg.cut_svd(self.X, modes=0, ranks=2, metric={(0, 1): np.eye(35), (2, 3): np.eye(12)})

    def test_ranks_are_not_searched_in_a_group(self):
        metric = {(1, 2, 3): np.eye(60)}
        for fn in (tg.tucker_hooi, tg.tt_als, tg.tr_als, tg.cp_stable, partial(tg.cut_svd, modes=(0, 1))):
            with pytest.raises(ValueError, match="rank"):
                fn(self.X, tol=0.5, metric=metric)
